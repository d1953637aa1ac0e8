"""The management interface."""

import json
from unittest import mock

import pytest
from brokers import GmdpBroker
from cores import INTERVAL, MDP01, MDP02, ManualBroker

from gmdp.core.broker import reports
from gmdp.core.broker.fairqueue import FairQueue
from gmdp.core.broker.records import OLDEST_FRESH, Service
from gmdp.core.broker.reports import FRESH
from gmdp.protocol.extension import Status


def test_the_reports_of_the_management_interface():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1", b"W2")
    broker.ready(MDP01, b"W3", service=b"\xff\x00")
    broker.ask(MDP02, b"client", b"x")
    broker.advance(1.0)

    def report(service, *body):
        broker.ask(MDP01, b"asker", *body, service=service)
        ((code, text),) = broker.answers(MDP01, b"asker", service=service)
        assert code == b"200"
        return json.loads(text)

    services = report(b"mmi.services", b"")
    assert services["total"] == 2
    assert {row["name"]: (row["workers"], row["idle"], row["busy"]) for row in services["services"]} == {
        "echo": (2, 1, 1),
        "\\xff\x00": (1, 1, 0),
    }
    assert [row["name"] for row in report(b"mmi.services", b"echo")["services"]] == ["echo"]
    assert report(b"mmi.services", b"nobody") == {"total": 0, "services": []}
    workers = report(b"mmi.workers", b"echo")
    assert (workers["total"], sorted(row["state"] for row in workers["workers"])) == (2, ["busy", "idle"])
    assert report(b"mmi.workers", b"")["total"] == 3
    assert report(b"mmi.workers", b"nobody") == {"total": 0, "workers": []}
    assert report(b"mmi.statistics", b"")["assigned"] == 1
    about = report(b"mmi.broker", b"")
    assert (about["name"], about["state"], about["uptime"]) == ("gmdp", "running", 1.0)


def test_a_worker_is_idle_busy_or_mute_for_some_time():
    broker = ManualBroker(liveness=10)
    broker.ready(MDP02, b"W1")
    broker.advance(0.5)

    def report():
        broker.ask(MDP01, b"asker", b"echo", service=b"mmi.workers")
        ((_, text),) = broker.answers(MDP01, b"asker", service=b"mmi.workers")
        (row,) = json.loads(text)["workers"]
        return row["state"], row["state_seconds"]

    assert report() == ("idle", 0.5)
    broker.ask(MDP02, b"client", b"x")
    address, _ = broker.assignment(MDP02, b"W1")
    broker.advance(0.25)
    assert report() == ("busy", 0.25)
    broker.feed(b"W1", MDP02.final(address, b"y"))
    broker.advance(0.5)
    assert report() == ("idle", 0.5)
    broker.advance(2 * INTERVAL - 0.25)
    assert report() == ("mute", 0.25)
    broker.feed(b"W1", MDP02.heartbeat)
    broker.advance(0.5)
    assert report() == ("idle", 0.5)


def test_reports_are_bounded(monkeypatch):
    monkeypatch.setattr("gmdp.core.broker.reports.MAX_ROWS", 3)
    broker = ManualBroker()
    for number in range(10):
        broker.ready(MDP02, b"W%d" % number, service=b"%d" % number)
    for name, rows in ((b"mmi.services", "services"), (b"mmi.workers", "workers")):
        broker.ask(MDP02, b"asker", b"", service=name)
        ((_, text),) = broker.answers(MDP02, b"asker", service=name)
        assert json.loads(text)["total"] == 10
        assert len(json.loads(text)[rows]) == 3


def test_reports_cost_little_however_often_they_are_asked_for(monkeypatch):
    """Statistics do not look at services; a long list is made once in a while."""
    broker = ManualBroker()
    for number in range(500):
        broker.ready(MDP02, b"w%d" % number, service=b"service %d" % number)
    made = []
    original = Service.statistics

    def counting(service, now):
        made.append(service)
        return original(service, now)

    monkeypatch.setattr(Service, "statistics", counting)
    for _ in range(10):
        broker.ask(MDP02, b"c", b"", service=b"mmi.statistics")
        broker.ask(MDP02, b"c", b"", service=b"mmi.services")
    assert len(made) <= 500
    first = {message[4] for message in broker.take(b"c") if message[2] == b"mmi.services"}
    broker.advance(0.1)
    broker.ready(MDP02, b"more", service=b"another")
    broker.ask(MDP02, b"c", b"", service=b"mmi.services")
    (second,) = broker.take(b"c")
    assert len(first) == 1
    assert second[4] not in first


def test_X7_reports_do_not_look_at_every_client_that_waits():
    broker = ManualBroker()
    for number in range(500):
        broker.ask(MDP02, b"c%d" % number, b"x")
    looked = []
    queue = broker.core.services[b"echo"].queue
    heads = FairQueue.heads

    def counted(self):
        looked.append(self)
        return heads(self)

    with mock.patch.object(FairQueue, "heads", counted):
        broker.advance(1.0)
        for _ in range(20):
            for name in (b"", b"echo"):
                broker.ask(MDP02, b"asker", name, service=b"mmi.services")
        answers = broker.answers(MDP02, b"asker", service=b"mmi.services")
        assert len(answers) == 40
        assert {json.loads(report)["services"][0]["oldest"] for _, report in answers} == {1.0}
        assert looked == [queue]
        broker.advance(OLDEST_FRESH)
        broker.ask(MDP02, b"asker", b"echo", service=b"mmi.services")
        ((_, report),) = broker.answers(MDP02, b"asker", service=b"mmi.services")
    assert json.loads(report)["services"][0]["oldest"] == pytest.approx(1.0 + OLDEST_FRESH)
    assert len(looked) == 2


def test_X7_an_asker_pays_for_the_rows_it_asks_for():
    broker = ManualBroker()
    for number in range(500):
        broker.ready(MDP02, b"w%d" % number, service=b"service %d" % number)
    for _ in range(30):
        broker.ask(MDP02, b"greedy", b"", service=b"mmi.services")
    codes = [code for code, *_ in broker.answers(MDP02, b"greedy", service=b"mmi.services")]
    # The first is made anew; the others are the same text again, which costs next to nothing.
    assert codes == [b"200"] * 30
    for _ in range(30):
        broker.advance(FRESH / 10)
        broker.core._intake._reports._recent.clear()
        broker.ask(MDP02, b"greedy", b"", service=b"mmi.services")
    codes = [code for code, *_ in broker.answers(MDP02, b"greedy", service=b"mmi.services")]
    assert (codes[0], codes[-1]) == (b"200", b"503")
    # Other askers do not pay, management of the RFC is free, and a second later all is well.
    broker.ask(MDP02, b"other", b"", service=b"mmi.services")
    assert broker.answers(MDP02, b"other", service=b"mmi.services")[0][0] == b"200"
    broker.ask(MDP02, b"greedy", b"service 7", service=b"mmi.service")
    assert broker.answers(MDP02, b"greedy", service=b"mmi.service") == [[b"200"]]
    broker.advance(1.0)
    broker.ask(MDP02, b"greedy", b"", service=b"mmi.services")
    assert broker.answers(MDP02, b"greedy", service=b"mmi.services")[0][0] == b"200"


def test_X7_an_asker_pays_for_the_clients_that_are_looked_at():
    broker = ManualBroker()
    for number in range(1_000):
        broker.ask(MDP02, b"c%d" % number, b"x")
    codes = []
    for _ in range(200):
        broker.advance(0.001)
        broker.ask(MDP02, b"asker", b"echo", service=b"mmi.services")
        codes += [code for code, *_ in broker.answers(MDP02, b"asker", service=b"mmi.services")]
    # Each costs 1 row, 100 for the clients and 10 besides; 1.2 seconds have 12,000 rows.
    assert 105 <= codes.count(b"200") <= 112


@pytest.mark.parametrize("every", [0.001, 0.0317])
def test_X7_an_asker_gets_so_many_rows_a_second_however_it_asks(every):
    """Also where the question empties the bucket, and the rows come when it is empty."""
    broker = GmdpBroker(liveness=1_000)
    broker.register(b"W", *range(1, 301))
    broker.take(b"W")
    seconds = 3
    start, rows = broker.now, 0
    for number in range(int(seconds / every)):
        broker.now = start + number * every
        broker.ask(MDP02, b"greedy", b"echo", service=b"mmi.workers")
        for code, *report in broker.answers(MDP02, b"greedy", service=b"mmi.workers"):
            rows += len(json.loads(report[0])["workers"]) if code == b"200" else 0
    # One second's worth at once, and the last report may be more than what is left.
    most = (seconds + 1) * reports.REPORT_RATE + 300
    assert 0.6 * most < rows <= most


def test_X7_a_gmdp_client_hears_that_it_asks_too_much(monkeypatch):
    monkeypatch.setattr(reports, "REPORT_RATE", 2.0 * reports.REPORT_COST)
    broker = GmdpBroker()
    for number in range(4):
        broker.call(b"client", number, b"", service=b"mmi.broker")
    assert [status for _, status, _, _ in broker.answered(b"client")] == [
        Status.OK,
        Status.OK,
        Status.OVERLOADED,
        Status.OVERLOADED,
    ]
    assert broker.core.counters.drops == {"reports_full": 2}
