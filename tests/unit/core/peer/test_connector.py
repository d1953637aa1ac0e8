"""Connections: opened, probed, lost together, and replaced."""

import itertools
import math

import pytest
from cores import EXPIRY, INTERVAL, MDP01, MDP02, ClientBench, ManualClient, ManualWorker, client_core, connect

from gmdp.core.numbers import MAX_FRAMES, MAX_FRAMES_READ
from gmdp.core.outcomes import Outcome
from gmdp.core.peer.calls import Call, CallState
from gmdp.core.peer.connector import REFUSALS, TRANSITIONS, Close, Connection, Open, Phase, Send
from gmdp.core.peer.reasons import CloseReason
from gmdp.protocol.extension import Feature, Offer, offer_body

FINAL = [b"MDPC02", b"\x03", b"it", b"end"]


def test_while_no_broker_answers_one_connection_at_a_time_is_tried():
    bench = ClientBench(most=10)
    for _ in range(10):
        bench.call(timeout=100.0)
    bench.act()
    assert len(bench.opened) == 1
    now = 0.0
    for attempt in range(2, 6):
        bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, now, 1.0)
        bench.act()
        now = bench.core.deadline()
        bench.core.tick(now, 1.0)
        bench.act()
        assert len(bench.opened) == attempt
    assert now == 1 + 2 + 4 + 8
    bench.connected(bench.opened[-1], now)
    bench.act()
    assert len(bench.opened) == 5 + 9


def test_a_connection_that_never_comes_is_given_up_and_the_next_endpoint_tried():
    bench = ClientBench(endpoints=("tcp://a:1", "tcp://b:1"))
    call = bench.call(timeout=100.0)
    bench.act()
    assert bench.core.deadline() == bench.core.connect_timeout
    bench.core.tick(bench.core.connect_timeout, 0.5)
    bench.act()
    assert [connection.endpoint for connection in bench.opened] == ["tcp://a:1", "tcp://b:1"]
    assert call.tries == 1


def test_one_lost_connection_retires_the_idle_ones_of_its_time():
    """They went to one broker: the next call goes to the endpoint of the next connection."""
    bench = ClientBench(endpoints=("tcp://a:1", "tcp://b:1"))
    first, connection = bench.connected_call()
    second = bench.call()
    bench.act()
    bench.connected(bench.opened[1], 0.1)
    bench.feed(bench.opened[1], FINAL, 0.2)
    assert [event.call for event in bench.act()] == [second]
    bench.core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 0.3, 0.5)
    (ended,) = bench.act()
    assert (ended.call, ended.outcome) == (first, Outcome.BROKER_LOST)
    assert set(bench.closed) == {connection, bench.opened[1]}
    bench.call(now=0.3)
    bench.act()
    assert bench.opened[-1].endpoint == "tcp://b:1"


def test_a_connection_that_stands_when_its_broker_was_given_up_is_closed():
    """Two connections are being made to a silent broker, which is left for another; then the second one stands."""
    client = ManualClient(MDP02, connections=4, endpoints=("tcp://one", "tcp://two"))
    first = client.submit(b"echo", b"1", timeout=3.0)
    (opened,) = client.take()
    client.core.on_connected(opened.connection, client.now)
    client.advance(1.0)  # the probe is not answered, which costs the connection
    second = client.submit(b"echo", b"2", timeout=30.0)
    again, another = [action.connection for action in client.take() if isinstance(action, Open)]
    client.core.on_connected(again, client.now)
    client.advance(2.0)  # nor is the call
    assert first.state is CallState.DONE
    client.core.on_connected(another, client.now)
    offer = offer_body(Offer(10, 10, 100, 1000, 2.5))
    client.core.feed(another, MDP02.client_final(b"mmi.gmdp", *offer), client.now, 0.5)
    assert another.phase is Phase.CLOSED
    assert client.core.deadline() > client.now
    ((connection, frames),) = client.connect()
    assert (connection.endpoint, frames) == ("tcp://two", MDP02.client_request(b"echo", b"2"))
    assert second.state is CallState.SENT


def test_F8_a_probe_that_was_not_answered_costs_its_connection():
    """A broker of RFC 18 without MMI may keep the probe as the one request of its client."""
    client = ManualClient(MDP02)
    call = client.submit(b"echo", b"1", timeout=10.0)
    (opened,) = client.take()
    client.core.on_connected(opened.connection, client.now)
    client.advance(client.core.probe_timeout)
    closed, again = client.take()
    assert closed == Close(opened.connection, CloseReason.PROBE_UNANSWERED)
    client.core.on_connected(again.connection, client.now)
    (sent,) = client.take()  # without another probe
    assert sent == Send(again.connection, MDP02.client_request(b"echo", b"1"))
    client.core.feed(opened.connection, MDP02.client_final(b"mmi.gmdp", b"501"), client.now, 0.5)
    client.feed(again.connection, MDP02.client_final(b"echo", b"answer"))
    (part,) = client.events()
    assert (part.call, part.body) == (call, [b"answer"])
    # Further calls use that connection, and further connections are not probed either.
    client.submit(b"echo", b"2")
    client.submit(b"echo", b"3")
    sent, third = client.take()
    assert sent.connection is again.connection
    client.core.on_connected(third.connection, client.now)
    assert client.take() == [Send(third.connection, MDP02.client_request(b"echo", b"3"))]


@pytest.mark.parametrize(("mdp", "other"), [(MDP01, "0.2"), (MDP02, "0.1")])
def test_F9_the_error_of_a_call_says_that_nothing_was_ever_heard(mdp, other):
    client = ManualClient(mdp)
    client.submit(b"echo", b"1", timeout=3.0)
    (opened,) = client.take()
    client.core.on_connected(opened.connection, client.now)
    client.advance(1.0)
    (connection,) = [action.connection for action in client.take() if isinstance(action, Open)]
    client.core.on_connected(connection, client.now)
    client.advance(2.0)
    (ended,) = client.events()
    assert ended.outcome is Outcome.TIMEOUT
    assert ended.detail.startswith("no broker answered at tcp://one: nothing was ever heard; ")
    assert f"version='{other}'" in ended.detail
    assert client.core.silent == ""
    # F4: after two such rounds it is worth a warning, until the broker speaks.
    client.submit(b"echo", b"2", timeout=3.0)
    ((connection, _),) = client.connect()
    client.advance(3.0)
    assert client.events()[-1].detail == ended.detail
    assert client.core.silent.startswith("nothing was ever heard from tcp://one: ")
    client.submit(b"echo", b"3", timeout=3.0)
    ((connection, _),) = client.connect()
    client.feed(connection, mdp.client_final(b"echo", b"answer"))
    assert client.core.silent == ""
    client.submit(b"echo", b"4", timeout=3.0)
    client.take()
    client.advance(3.0)
    # A broker that has spoken is a broker.
    assert client.events()[-1].detail == "no reply, though the broker at tcp://one has answered before"


@pytest.mark.parametrize("mdp", [MDP01, MDP02])
def test_F4_a_worker_at_a_broker_that_never_speaks_says_so_after_two_rounds(mdp):
    worker = ManualWorker(mdp)
    assert worker.core.silent == ""
    for rounds in range(1, 4):
        worker.core.on_connected(worker.connection, worker.now)
        worker.advance(worker.core.probe_timeout)
        worker.core.on_connected(worker.connection, worker.now)
        worker.advance(0)
        assert worker.session.registered
        worker.advance(EXPIRY + INTERVAL)  # a new connection is opened meanwhile
        assert not worker.session.registered
        assert bool(worker.core.silent) is (rounds >= 2), rounds
    assert worker.core.silent.startswith("nothing was ever heard from tcp://one: ")
    worker.connected()  # and the probe is answered
    assert worker.core.silent == ""


def _ask(client, uid, timeout=60.0, **more):
    return client.request("s", [uid, b"body"], timeout=timeout, **more)


def asked(client, count, **more):
    return [_ask(client, b"uid%d" % number, **more) for number in range(count)]


def test_connections_that_are_lost_together_are_one_loss():
    """B1: the next endpoint is tried, not the one after it, after one delay, and without a further call."""
    core = client_core(["one", "two", "three"])
    calls = [Call(b"s", [b"body"], timeout=60.0, retries=1) for _ in range(3)]
    for call in calls:
        core.submit(call, 0.0)
    connections = []
    while opened := [action.connection for action in core.actions if isinstance(action, Open)]:
        core.actions.clear()
        connections += opened
        for connection in opened:
            connect(core, connection, 0.0)
    assert [connection.endpoint for connection in connections] == ["one"] * 3
    core.actions.clear()
    for connection in connections:
        core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 1.0, 0.5)
    assert core.endpoint == "two"
    for endpoint in ("two", "three"):
        (opened,) = [action.connection for action in core.actions if isinstance(action, Open)]
        assert opened.endpoint == endpoint
        core.actions.clear()
        core.on_disconnected(opened, CloseReason.CONNECTION_REFUSED, 1.0, 0.5)
    # Each was tried once: now there is a delay, which ends by itself.
    assert core.actions == [Close(opened, CloseReason.CONNECTION_REFUSED)]
    assert 1.0 < core.deadline() <= 1.5
    core.actions.clear()
    core.tick(core.deadline(), 0.5)
    assert [(type(action), action.connection.endpoint) for action in core.actions] == [(Open, "one")]


def test_a_connection_that_is_never_made_is_given_up():
    """C3: the broker is silent, not absent.  The next endpoint is tried, and the call goes on."""
    core = client_core(["one", "two"])
    core.submit(Call(b"s", [b"body"], timeout=60.0), 0.0)
    (first,) = core.actions
    assert core.deadline() == core.connect_timeout
    core.actions.clear()
    core.tick(core.connect_timeout, 0.5)
    assert core.actions[0] == Close(first.connection, CloseReason.NO_CONNECTION_IN_TIME)
    assert (type(core.actions[1]), core.actions[1].connection.endpoint) == (Open, "two")
    # Too late: it is closed.
    core.actions.clear()
    core.on_connected(first.connection, core.connect_timeout)
    assert core.actions == []
    assert core.counters.disconnects == 0


def test_F7_the_probe_is_sent_ahead_and_its_answer_may_be_the_first_sign_of_the_handshake():
    core = client_core(["one"])
    core.submit(Call(b"s", [b"body"], timeout=60.0), 0.0)
    (connection,) = [action.connection for action in core.actions]
    core.actions.clear()
    assert core.on_transport_connected(connection, 0.0)
    assert [type(action) for action in core.actions] == [Send]
    assert (connection.phase, core.deadline()) == (Phase.CONNECTING, core.connect_timeout)
    core.actions.clear()
    core.feed(connection, MDP02.client_final(b"mmi.gmdp", b"501"), 1.0, 0.5)
    assert connection.phase is Phase.STRICT
    core.on_connected(connection, 1.0)
    assert connection.phase is Phase.STRICT
    assert [action.frames for action in core.actions] == [MDP02.client_request(b"s", b"body")]


@pytest.mark.parametrize("reported", [True, False])
def test_F7_further_connections_to_a_broker_stand_as_its_first_did(reported):
    core = client_core(["one"])
    for _ in range(2):
        core.submit(Call(b"s", [b"body"], timeout=60.0), 0.0)
    (first,) = [action.connection for action in core.actions]
    core.on_transport_connected(first, 0.0)
    core.on_connected(first, 0.0, handshake_reported=reported)
    core.feed(first, MDP02.client_final(b"mmi.gmdp", b"501"), 0.0, 0.5)
    second = [action.connection for action in core.actions if isinstance(action, Open)][-1]
    assert not core.on_transport_connected(second, 0.0)
    assert second.phase is (Phase.CONNECTING if reported else Phase.STRICT)
    # After a loss nothing is known of the next broker.
    for connection in (first, second):
        core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 1.0, 0.5)
    core.submit(Call(b"s", [b"body"], timeout=60.0), 2.0)
    third = [action.connection for action in core.actions if isinstance(action, Open)][-1]
    assert third is not second
    assert core.on_transport_connected(third, 2.0)
    assert third.phase is Phase.CONNECTING


def test_every_phase_is_in_the_table():
    assert set(TRANSITIONS) == set(Phase)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Phase, Phase)))
def test_a_connection_makes_the_changes_of_the_table_only(old, new):
    connection = Connection("tcp://one", 0)
    connection.phase = old
    if new in TRANSITIONS[old]:
        connection.become(new)
        assert connection.phase is new
    else:
        with pytest.raises(ValueError, match=f"{old.value} to {new.value}"):
            connection.become(new)
        assert connection.phase is old


def test_decisions_are_taken_once():
    bench = ClientBench()
    call = bench.call(timeout=1.0)
    (opened,), events = bench.core.take()
    assert (type(opened), events) == (Open, [])
    bench.core.tick(1.0, 0.5)
    actions, (ended,) = bench.core.take()
    assert (actions, ended.call, ended.outcome) == ([], call, Outcome.TIMEOUT)
    assert bench.core.take() == ([], [])


@pytest.mark.parametrize("reason", sorted(REFUSALS, key=str))
def test_a_broker_that_refuses_denies_at_once_where_it_is_the_only_one(reason):
    bench = ClientBench()
    bench.call(timeout=math.inf)
    bench.act()
    bench.core.on_disconnected(bench.opened[0], reason, 0.0, 0.5)
    (ended,) = bench.act()
    assert (bench.core.denied, ended.outcome) == (reason, Outcome.DENIED)
    assert reason.value in ended.detail
    assert bench.core.unreachable == ""


def test_a_broker_that_hangs_up_denies_the_third_time():
    bench = ClientBench()
    bench.call(timeout=math.inf)
    bench.act()
    now = 0.0
    for _ in range(2):
        bench.core.on_disconnected(bench.opened[-1], CloseReason.HUNG_UP, now, 0.5)
        assert bench.core.denied is None
        bench.act()
        now = bench.core.deadline()
        bench.core.tick(now, 0.5)
        bench.act()
    bench.core.on_disconnected(bench.opened[-1], CloseReason.HUNG_UP, now, 0.5)
    assert bench.core.denied is CloseReason.HUNG_UP
    (ended,) = bench.act()
    assert ended.outcome is Outcome.DENIED


def test_all_brokers_are_tried_before_none_can_be_reached():
    bench = ClientBench(endpoints=("tcp://a:1", "tcp://b:1"))
    call = bench.call(timeout=math.inf)
    bench.act()
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 0.0, 0.5)
    assert bench.core.unreachable == ""
    bench.act()
    bench.core.on_disconnected(bench.opened[-1], CloseReason.NO_SOCKET, 0.0, 0.5, "Too many open files")
    assert bench.core.unreachable == "tcp://b:1: no socket could be opened: Too many open files"
    assert bench.core.denied is None
    bench.act()
    bench.core.tick(bench.core.deadline(), 0.5)
    bench.act()
    bench.connected(bench.opened[-1], 1.0)
    assert bench.core.unreachable == ""
    bench.act()
    assert call.state is CallState.SENT


@pytest.mark.parametrize(
    ("own_version", "offered", "expected"),
    [
        (2, (2, Feature.CREDITS | Feature.BEGUN), (2, Feature.CREDITS)),
        (2, (1, 0), (1, 0)),
        (2, (7, Feature.CREDITS), (2, Feature.CREDITS)),
        (1, (2, Feature.CREDITS), (1, 0)),
    ],
)
def test_a_connection_speaks_the_lower_version_and_has_the_features_of_both(own_version, offered, expected):
    core = client_core(["one"])
    core.extension_version = own_version
    core.features = Feature.CREDITS | Feature.LEAVING
    core.submit(Call(b"s", [b"body"], timeout=60.0), 0.0)
    (opened,) = core.take()[0]
    core.on_connected(opened.connection, 0.0)
    (probe,) = core.take()[0]
    names = b'{"extension":2,"features":["credits","leaving"]}'
    assert probe.frames == MDP02.client_request(b"mmi.gmdp", names if own_version == 2 else b"")
    offer = Offer(10, 10, 100, 1000, 2.5, *offered)
    core.feed(opened.connection, MDP02.client_final(b"mmi.gmdp", *offer_body(offer)), 0.0, 0.5)
    assert (opened.connection.version, opened.connection.features) == expected
    (request,) = core.take()[0]
    assert request.frames[0][:5] == b"\x89MDC" + bytes([expected[0]])


def opened_by_name(endpoints=("tcp://name:1",), timeout=100.0):
    """A bench whose first connection waits for its name."""
    bench = ClientBench(endpoints=endpoints)
    call = bench.call(timeout=timeout)
    bench.act()
    (connection,) = bench.opened
    bench.core.on_lookup(connection, 0.0)
    return bench, call, connection


def looked_up(bench, connection, *addresses, now=0.0, detail="name: gone"):
    bench.core.on_looked_up(connection, [f"tcp://{address}:1" for address in addresses], detail, now, 1.0)
    return bench.act()


def test_G11_a_connection_is_opened_once_its_name_was_looked_up():
    bench, _, connection = opened_by_name()
    assert connection.address == ""
    looked_up(bench, connection, "a", "b", now=4.0)
    assert bench.opened == [connection, connection]
    assert connection.place == "tcp://name:1 (tcp://a:1)"
    assert bench.core.deadline() == 4.0 + bench.core.connect_timeout
    bench.core.on_disconnected(connection, CloseReason.CONNECTION_REFUSED, 4.0, 1.0)
    bench.core.tick(4.0, 1.0)
    bench.act()
    assert bench.opened[-1] is not connection
    assert bench.core.unreachable == ""  # one of two
    bench.core.on_lookup(bench.opened[-1], 4.0)
    looked_up(bench, bench.opened[-1], "a", "b", now=4.0)
    assert bench.opened[-1].address == "tcp://b:1"
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 4.0, 1.0)
    assert bench.core.unreachable == "tcp://name:1 (tcp://b:1): connection refused"
    assert bench.core.deadline() == 5.0


def addresses_fail(bench, *reasons, now=0.0):
    """The name's two addresses fail in turn; returns how calls have ended."""
    events = []
    for reason in reasons:
        if not bench.opened[-1].address:
            bench.core.on_lookup(bench.opened[-1], now)
            events += looked_up(bench, bench.opened[-1], "a", "b", now=now)
        bench.core.on_disconnected(bench.opened[-1], reason, now, 1.0)
        events += bench.act()
    return events


REFUSED, HUNG_UP, NOT_ALLOWED = CloseReason.CONNECTION_REFUSED, CloseReason.HUNG_UP, CloseReason.NOT_ALLOWED


@pytest.mark.parametrize(("first", "last", "place"), [(NOT_ALLOWED, REFUSED, "a"), (REFUSED, NOT_ALLOWED, "b")])
def test_G11_a_broker_that_refuses_denies_though_its_name_has_another_address(first, last, place):
    """Nobody listens at the other one, be it tried before or after."""
    bench, call, _ = opened_by_name()
    assert addresses_fail(bench, first) == []
    assert bench.core.denied is None
    (ended,) = addresses_fail(bench, last)
    assert (ended.call, ended.outcome) == (call, Outcome.DENIED)
    assert ended.detail == bench.core.denial == f"tcp://name:1 (tcp://{place}:1): {NOT_ALLOWED.value}"
    assert bench.core.denied is NOT_ALLOWED
    assert bench.core.unreachable == ""
    # The next round changes nothing before it is over.
    bench.call(now=9.0)
    bench.act()
    assert addresses_fail(bench, REFUSED, now=9.0) == []
    assert bench.core.denied is NOT_ALLOWED
    assert addresses_fail(bench, REFUSED, now=9.0) == []
    assert bench.core.denied is None
    assert bench.core.unreachable == f"tcp://name:1 (tcp://b:1): {REFUSED.value}"


def test_G11_a_broker_that_hangs_up_denies_the_third_time_though_its_name_has_another_address():
    bench, _, _ = opened_by_name(timeout=math.inf)
    now = 0.0
    for _ in range(2):
        assert addresses_fail(bench, HUNG_UP, REFUSED, now=now) == []
        assert bench.core.denied is None
        now = bench.core.deadline()
        bench.core.tick(now, 1.0)
        bench.act()
    (ended,) = addresses_fail(bench, HUNG_UP, REFUSED, now=now)
    assert (bench.core.denied, ended.outcome) == (HUNG_UP, Outcome.DENIED)


def test_G11_a_broker_that_refuses_denies_nothing_while_the_name_s_other_broker_lets_in():
    bench, call, _ = opened_by_name()
    for now in (0.0, 50.0):
        assert addresses_fail(bench, NOT_ALLOWED, now=now) == []
        bench.core.on_lookup(bench.opened[-1], now)
        looked_up(bench, bench.opened[-1], "a", "b", now=now)
        bench.connected(bench.opened[-1], now)
        bench.act()
        assert bench.core.denied is None
        assert call.state is CallState.SENT
        bench.core.cancel(call, Outcome.CANCELLED, now + 1.0)
        bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_CLOSED, now + 1.0, 1.0)
        bench.act()
        call = bench.call(now=50.0)
        bench.act()
    # What the first one did is forgotten with the second one's welcome.
    assert addresses_fail(bench, REFUSED, REFUSED, now=60.0) == []
    assert bench.core.denied is None


def test_connections_lost_after_their_epoch_s_end_count_for_no_other_broker():
    """Of two brokers, one refuses two connections at once."""
    bench = ClientBench(endpoints=("tcp://a:1", "tcp://b:1"))
    bench.connected_call(timeout=math.inf)
    calls = [bench.call(timeout=math.inf) for _ in range(2)]
    bench.act()
    pending = [connection for connection in bench.opened if connection.phase is Phase.CONNECTING]
    assert len(pending) == 2
    for connection in pending:
        bench.core.on_disconnected(connection, NOT_ALLOWED, 1.0, 1.0)
    assert bench.core.denied is None
    assert [call.state for call in calls] == 2 * [CallState.WAITING]


@pytest.mark.parametrize("extended", [False, True])
def test_a_message_of_more_frames_than_a_client_reads_costs_the_connection(extended):
    """Its socket has not kept all of them."""
    bench = ClientBench()
    call, connection = bench.extended_call() if extended else bench.connected_call()
    bench.feed(connection, [*FINAL[:3], *(MAX_FRAMES_READ - 2) * [b""]], 1.0)
    assert [(event.call, event.outcome, event.detail) for event in bench.act()] == [
        (call, Outcome.BROKER_LOST, "tcp://a:1: the broker sent a message of more than 100,016 frames")
    ]
    assert (bench.closed, bench.core.counters.malformed) == ([connection], 1)
    bench.feed(connection, (MAX_FRAMES_READ + 1) * [b""], 1.0)
    assert bench.core.counters.malformed == 1  # a closed connection takes none


def test_a_message_of_as_many_frames_as_a_client_reads_is_whole():
    bench = ClientBench()
    _, connection = bench.connected_call()
    bench.feed(connection, [*FINAL[:3], *(MAX_FRAMES_READ - 3) * [b""]], 1.0)
    (part,) = bench.act()
    assert len(part.body) == MAX_FRAMES_READ - 3


def test_a_message_of_more_frames_than_a_worker_reads_costs_the_connection():
    worker = ManualWorker(MDP02)
    worker.register()
    worker.feed(MDP02.request(b"client", *MAX_FRAMES_READ * [b""]))
    (lost,) = worker.take()
    assert (type(lost), lost.reason, worker.counters.malformed) == (Close, CloseReason.TOO_MANY_FRAMES, 1)


def test_a_broker_that_takes_more_frames_than_its_peers_read_gets_no_such_message():
    """A broker of gmdp 0.1.0 allows any number."""
    core = client_core(["one"])
    call = Call(b"s", MAX_FRAMES * [b""], timeout=10.0)
    core.submit(call, 0.0)
    (opened,) = core.actions
    connect(core, opened.connection, 0.0, Offer(100, 100, 2 * MAX_FRAMES, 10_000, 1.0))
    (ended,) = core.events
    assert ended.outcome is Outcome.TOO_LARGE
    assert f"{MAX_FRAMES} frames" in ended.detail


def test_G11_further_connections_to_a_broker_need_no_look_up():
    bench, _, connection = opened_by_name()
    looked_up(bench, connection, "a", "b")
    bench.call()
    bench.connected(connection, 0.1)
    bench.act()
    (another,) = set(bench.opened) - {connection}
    assert another.address == "tcp://a:1"


def test_G11_an_unknown_name_is_told_and_followed_by_the_next_endpoint():
    bench, _, connection = opened_by_name(("tcp://name:1", "tcp://b:1"))
    looked_up(bench, connection)
    assert bench.closed == [connection]
    bench.core.tick(0.0, 1.0)
    bench.act()
    assert bench.opened[-1].endpoint == "tcp://b:1"
    bench.core.on_disconnected(bench.opened[-1], CloseReason.CONNECTION_REFUSED, 0.0, 1.0)
    bench.core.tick(1.0, 1.0)
    bench.act()
    bench.core.on_lookup(bench.opened[-1], 1.0)
    looked_up(bench, bench.opened[-1], now=1.0)
    assert bench.core.unreachable == "tcp://name:1: the host name could not be resolved: name: gone"


def test_G11_a_name_without_an_answer_holds_up_its_endpoint_only_for_so_long():
    bench, _, connection = opened_by_name(("tcp://name:1", "tcp://b:1"))
    bench.core.tick(bench.core.connect_timeout, 0.5)
    bench.act()
    assert bench.closed == [connection]
    assert bench.opened[-1].endpoint == "tcp://b:1"
    assert bench.core._trouble == "no connection in time: its host name is still being looked up"


def test_G11_an_answer_that_comes_late_is_used_the_next_time():
    bench, _, connection = opened_by_name()
    bench.core.tick(5.0, 1.0)
    bench.act()
    looked_up(bench, connection, "a", now=5.5)
    assert len(bench.opened) == 1
    bench.core.tick(6.0, 1.0)
    bench.act()
    again = bench.opened[-1]
    bench.core.on_lookup(again, 6.0)
    assert bench.core.deadline() == 6.0 + bench.core.lookup_patience
    bench.core.tick(7.0, 1.0)
    bench.act()
    assert (again.address, bench.opened[-1]) == ("tcp://a:1", again)


def test_G11_known_addresses_do_while_the_name_server_is_silent_or_fails():
    bench, _, connection = opened_by_name()
    looked_up(bench, connection, "a", "b")
    bench.connected(connection, 0.1)
    bench.act()
    bench.core.on_disconnected(connection, CloseReason.CONNECTION_CLOSED, 10.0, 1.0)
    bench.call(now=10.0)
    bench.act()
    again = bench.opened[-1]
    assert again is not connection
    bench.core.on_lookup(again, 10.0)
    looked_up(bench, again, now=10.5)  # the name server fails
    assert again.address == "tcp://b:1"
    looked_up(bench, again, "c", now=10.6)  # a second answer changes nothing
    assert again.address == "tcp://b:1"
