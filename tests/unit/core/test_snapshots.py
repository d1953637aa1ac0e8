"""Counters and gauges: each is declared once, and every snapshot knows its declarations."""

import copy
import inspect
import pickle
from dataclasses import dataclass, field, fields

import pytest

from gmdp.core.broker.statistics import BrokerCounters, BrokerStatistics, ServiceStatistics
from gmdp.core.peer.statistics import ClientCounters, ClientStatistics, WorkerCounters, WorkerStatistics
from gmdp.core.snapshots import FrozenDict, copy_counts, counter, gauge, measures, snapshot_of


@pytest.mark.parametrize(
    ("counters", "snapshot"),
    [
        (BrokerCounters, BrokerStatistics),
        (WorkerCounters, WorkerStatistics),
        (ClientCounters, ClientStatistics),
    ],
)
def test_every_number_has_a_help_text_and_a_unit(counters, snapshot):
    assert list(snapshot.measures) == [one.name for one in fields(snapshot)]
    assert measures(counters).keys() == {one.name for one in fields(counters)}
    for name, measure in snapshot.measures.items():
        assert measure.text.endswith("."), name
        assert measure.kind == ("counter" if name in measures(counters) else "gauge"), name
        assert measure.unit or name == "services"
        assert bool(measure.label) is isinstance(getattr(counters(), name, None), dict) or name == "services"


def test_a_service_is_declared_too():
    assert measures(ServiceStatistics).keys() == {one.name for one in fields(ServiceStatistics)}


@dataclass(slots=True)
class Counters:
    calls: int = field(default=0, metadata=counter("Calls.", "calls"))
    ended: dict = field(default_factory=dict, metadata=counter("Calls ended.", "calls", "reason"))


def test_a_snapshot_takes_the_declarations_over():
    @snapshot_of(Counters)
    @dataclass(frozen=True)
    class Snapshot:
        """Sizes and calls."""

        size: int = field(metadata=gauge("Size.", "bytes"))
        calls: int
        ended: dict

    assert [(name, one.kind, one.unit, one.label) for name, one in Snapshot.measures.items()] == [
        ("size", "gauge", "bytes", ""),
        ("calls", "counter", "calls", ""),
        ("ended", "counter", "calls", "reason"),
    ]
    assert (
        inspect.getdoc(Snapshot)
        == "Sizes and calls.\n\nAttributes:\n    size: Size.\n    calls: Calls.\n    ended: Calls ended."
    )


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"calls": int}, "missing .'ended'"),
        ({"calls": int, "ended": dict, "size": int}, "undeclared .'size'"),
        ({"calls": int, "ended": (dict, field(metadata=counter("Again.", "calls")))}, "declared twice .'ended'"),
    ],
)
def test_a_snapshot_that_does_not_match_its_counters_is_refused(members, named):
    types = {name: one[0] if isinstance(one, tuple) else one for name, one in members.items()}
    values = {name: one[1] for name, one in members.items() if isinstance(one, tuple)}
    snapshot = dataclass(frozen=True)(type("Snapshot", (), {"__annotations__": types, **values}))
    with pytest.raises(TypeError, match=named):
        snapshot_of(Counters)(snapshot)


def test_counts_are_copied():
    counters = Counters(3, {"gone": 1})
    copied = copy_counts(counters)
    counters.ended["gone"] = 2
    assert copied == {"calls": 3, "ended": {"gone": 1}}


def test_the_brokers_numbers_as_plain_types():
    counted = {
        name: FrozenDict(value) if isinstance(value, dict) else value
        for name, value in copy_counts(BrokerCounters(requests=2, ended={"expired": 1})).items()
    }
    gauges = {name: 0 for name in BrokerStatistics.measures if name not in counted}
    statistics = BrokerStatistics(**gauges, **counted)
    plain = statistics.as_dict()
    assert list(plain) == [name for name in BrokerStatistics.measures if name != "services"]
    assert type(plain["ended"]) is dict
    assert (plain["requests"], plain["ended"], statistics.expiries) == (2, {"expired": 1}, 1)


def test_G14_a_frozen_dict_is_read_copied_and_pickled():
    frozen = FrozenDict(a=1)
    for copied in (copy.copy(frozen), copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert copied == frozen == {"a": 1}
        assert type(copied) is FrozenDict
    assert frozen | {"b": 2} == {"a": 1, "b": 2}
    assert {frozen: 1}[FrozenDict(a=1)] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.__setitem__("b", 2),
        lambda table: table.__delitem__("a"),
        lambda table: table.__ior__({"b": 2}),
        lambda table: table.update(b=2),
        lambda table: table.setdefault("b", 2),
        lambda table: table.pop("a"),
        lambda table: table.popitem(),
        lambda table: table.clear(),
    ],
)
def test_a_frozen_dict_cannot_be_changed(change):
    frozen = FrozenDict(a=1)
    with pytest.raises(TypeError, match="cannot be changed"):
        change(frozen)
    assert frozen == {"a": 1}
