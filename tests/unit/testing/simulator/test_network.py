"""Wires: order, bounds, and the ways in which they break."""

import math
from types import SimpleNamespace

import pytest

from gmdp.protocol.dialects import RFC7, RFC18
from gmdp.protocol.extension import PROBE_SERVICE
from gmdp.testing.simulator.network import Network
from gmdp.testing.simulator.schedule import Schedule


class End:
    """A broker or a client that notes what it is told, at once."""

    def __init__(self, dialect=RFC18, strict=False):
        self.name = "end"
        self.dialect = dialect
        self.strict = strict
        self.dead = False
        self.frozen = False
        self.zmtp_heartbeat = (1.0, 6.0)
        self.bandwidth = math.inf
        self.up = True
        self.generation = 1
        self.peers = {}
        self.log = []

    def post(self, function, *args):
        function(*args)

    def on_connected(self, wire):
        self.log.append("connected")

    def on_disconnected(self, wire):
        self.log.append("lost")

    def on_message(self, *args):
        self.log.append(args[-1])


@pytest.fixture
def schedule():
    return Schedule()


@pytest.fixture
def network(schedule):
    network = Network(schedule)
    network.brokers["one"] = End()
    return network


@pytest.fixture
def broker(network):
    return network.brokers["one"]


@pytest.fixture
def node():
    return End()


@pytest.fixture
def wire(network, node, schedule):
    wire = network.connect(node, SimpleNamespace(endpoint="one"))
    schedule.run(1)
    return wire


def test_a_wire_connects_and_carries_messages_in_order(schedule, wire, node, broker):
    assert broker.peers == {wire.routing_id: wire}
    for number in range(20):
        wire.send([b"%d" % number])
        assert wire.deliver([b"%d" % number], hwm=100) is None
    schedule.run(1)
    assert broker.log == [[wire.routing_id, b"%d" % number] for number in range(20)]
    assert node.log == ["connected", *([b"%d" % number] for number in range(20))]
    assert repr(wire) == "end/1"


def test_no_routing_id_is_used_twice(network):
    assert network.routing_id() != network.routing_id()


@pytest.mark.parametrize("endpoint", ["one", "nowhere"])
def test_a_wire_to_a_broker_that_is_down_or_unknown_is_lost(network, node, broker, schedule, endpoint):
    broker.up = False
    wire = network.connect(node, SimpleNamespace(endpoint=endpoint))
    schedule.run(1)
    assert node.log == ["lost"]
    assert not wire.open
    wire.send([b"too late"])
    schedule.run(1)
    assert broker.log == []


def test_a_peer_that_does_not_read_has_room_for_as_many_messages_as_hwm_says(schedule, wire, node):
    node.post = lambda function, *args: unread.append((function, args))
    unread = []
    assert [wire.deliver([b"x"], hwm=2) for _ in range(3)] == [None, None, "full"]
    schedule.run(1)
    function, args = unread[0]
    function(*args)
    assert wire.deliver([b"x"], hwm=2) is None


def test_a_closed_wire_carries_what_was_sent_and_nothing_more(schedule, wire, node, broker):
    wire.send([b"sent"])
    wire.deliver([b"on its way"], hwm=10)
    wire.close()
    schedule.run(1)
    assert broker.log == [[wire.routing_id, b"sent"]]
    assert node.log == ["connected"]
    assert broker.peers == {}
    assert wire.deliver([b"x"], hwm=10) == "gone"


def test_a_cut_wire_carries_some_of_the_messages_under_way_and_both_ends_notice(network, node, broker, schedule):
    arrived = set()
    for _ in range(30):
        broker.log.clear()
        wire = network.connect(node, SimpleNamespace(endpoint="one"))
        schedule.run(1)
        for number in range(5):
            wire.send([b"%d" % number])
        wire.cut()
        wire.cut()
        schedule.run(1)
        assert broker.log == [[wire.routing_id, b"%d" % number] for number in range(len(broker.log))]
        arrived.add(len(broker.log))
        assert (wire.open, wire.attached, node.log[-1]) == (False, False, "lost")
    assert len(arrived) > 1
    assert network.wires == [wire]


def test_a_silent_cut_is_noticed_only_after_a_while(schedule, wire, node, broker):
    wire.cut_silently(noticed_after=10)
    wire.cut_silently(noticed_after=1)
    wire.send([b"lost"])
    assert wire.deliver([b"lost"], hwm=10) is None
    schedule.run(9)
    assert (wire.open, wire.attached, broker.log, node.log) == (True, True, [], ["connected"])
    schedule.run(2)
    assert (wire.open, wire.attached, node.log) == (False, False, ["connected", "lost"])


def test_L1_a_silent_cut_is_noticed_by_zmtp_heartbeats(schedule, wire, node):
    wire.cut_silently()
    schedule.run(6)
    assert (wire.open, wire.attached) == (True, True)
    schedule.run(1)
    assert (wire.open, wire.attached, node.log) == (False, False, ["connected", "lost"])


@pytest.mark.parametrize("frozen_for", [5.9, 8.0])
@pytest.mark.parametrize("which", ["broker", "node"])
def test_L1_the_other_end_notices_that_a_process_is_frozen(schedule, wire, node, broker, which, frozen_for):
    process, hold, until = {"broker": broker, "node": node}[which], object(), schedule.now + frozen_for
    process.is_frozen_by = lambda one: one is hold and schedule.now < until
    wire.freeze(process, hold)
    schedule.run(6)
    assert wire.attached
    schedule.run(2)
    assert wire.attached is (frozen_for < 6)


def test_L1_a_frozen_broker_answers_no_handshake(schedule, network, node, broker):
    broker.frozen = True
    network.connect(node, SimpleNamespace(endpoint="one"))
    schedule.run(100)
    assert (node.log, broker.peers) == ([], {})


def test_L6_a_wire_with_a_bandwidth_carries_messages_as_fast_as_that(schedule, network, node, broker):
    network.bandwidth = 1000.0
    wire = network.connect(node, SimpleNamespace(endpoint="one"))
    schedule.run(1)
    wire.send([b"x" * 3000])
    schedule.run(2.9)
    assert broker.log == []
    schedule.run(0.2)
    assert broker.log == [[wire.routing_id, b"x" * 3000]]


def test_a_wire_is_as_slow_as_its_node(network, node, broker):
    network.bandwidth, node.bandwidth = 1000.0, 10.0
    assert network.connect(node, SimpleNamespace(endpoint="one")).bandwidth == 10.0
    network.bandwidth = 1.0
    assert network.connect(node, SimpleNamespace(endpoint="one")).bandwidth == 1.0


def test_L6_a_frame_that_takes_too_long_ends_its_wire(schedule, network, node, broker):
    network.bandwidth = 1000.0
    wire = network.connect(node, SimpleNamespace(endpoint="one"))
    schedule.run(1)
    wire.send([b"x" * 8000])
    schedule.run(20)
    assert (wire.open, broker.log, node.log) == (False, [], ["connected", "lost"])
    # The same in smaller frames arrives.
    wire = network.connect(node, SimpleNamespace(endpoint="one"))
    schedule.run(1)
    wire.send([b"x" * 4000, b"x" * 4000])
    schedule.run(20)
    assert (wire.open, len(broker.log)) == (True, 1)


def test_a_stall_holds_messages_up(schedule, wire, broker):
    wire.stall(5)
    wire.send([b"x"])
    schedule.run(4.9)
    assert broker.log == []
    schedule.run(1)
    assert broker.log == [[wire.routing_id, b"x"]]


def test_messages_of_an_earlier_start_of_the_broker_do_not_arrive(schedule, wire, broker):
    wire.send([b"x"])
    broker.generation += 1
    schedule.run(1)
    assert broker.log == []


@pytest.mark.parametrize("dialect", [RFC7, RFC18])
def test_the_last_messages_may_arrive_twice_but_no_part_of_an_answer(network, broker, schedule, dialect):
    node = End(dialect)
    wire = network.connect(node, SimpleNamespace(endpoint="one"))
    schedule.run(1)
    part = [b"MDPW02", b"\x03", b"address", b"", b"body"]
    for frames in ([b"first"], [b"second"], part):
        wire.send(frames)
    schedule.run(1)
    del broker.log[:]
    wire.repeat(2)
    schedule.run(1)
    expected = [[b"first"], [b"second"]] if dialect.streams else [[b"second"], part]
    assert sorted(broker.log) == sorted([wire.routing_id, *frames] for frames in expected)
    broker.up = False
    wire.repeat(2)
    schedule.run(1)
    assert len(broker.log) == 2


@pytest.mark.parametrize("strict", [True, "silent"])
def test_to_a_strict_node_no_broker_seems_to_know_the_extension(network, broker, schedule, strict):
    node = End(strict=strict)
    wire = network.connect(node, SimpleNamespace(endpoint="one"))
    schedule.run(1)
    wire.send([b"MDPC02", b"\x01", PROBE_SERVICE, b""])
    schedule.run(1)
    assert broker.log == []
    answers = node.log[1:]
    assert answers == ([] if strict == "silent" else [RFC18.reply(PROBE_SERVICE, [b"501"])])


def test_messages_are_traced(schedule, wire):
    lines = []
    schedule.trace = lines.append
    wire.send([b"in"])
    wire.deliver([b"out"], hwm=10)
    schedule.run(1)
    assert ["end/1 ->" in line for line in lines].count(True) == 1
    assert any("-> end/1" in line for line in lines)
