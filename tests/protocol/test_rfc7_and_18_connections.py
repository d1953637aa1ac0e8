"""What RFC 7 (MDP/0.1) and RFC 18 (MDP/0.2) say alike of a worker's connection; see test_rfc7_and_18.py."""

import pytest
from cores import EXPIRY, INTERVAL, MDP01, MDP02, ManualBroker, ManualClient, ManualWorker, answers, refuses

from gmdp.core.peer import connector as connections
from gmdp.core.peer import worker
from gmdp.core.peer.calls import CallState
from gmdp.core.peer.reasons import CloseReason

pytestmark = pytest.mark.parametrize("mdp", [MDP01, MDP02], ids=["0.1", "0.2"])


def test_the_worker_opens_and_closes_the_connection(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "The worker is responsible for opening and closing a logical
    connection."
    """
    session = ManualWorker(mdp)
    session.advance(0)
    session.connected()
    assert session.session.registered
    session.close()
    opened, ready, disconnect, closed = session.take()
    assert opened.connection.endpoint == "tcp://one"
    assert ready.frames == mdp.ready(b"echo")
    assert disconnect.frames == mdp.disconnect
    assert isinstance(closed, connections.Close)


def test_a_worker_is_connected_to_one_broker_at_a_time(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "One worker MUST connect to exactly one broker using a single
    ØMQ DEALER"
    """
    session = ManualWorker(mdp, endpoints=("tcp://one", "tcp://two", "tcp://three"))
    losses = [
        lambda: session.feed(mdp.disconnect),
        lambda: session.advance(EXPIRY),
        lambda: session.disconnected(CloseReason.CONNECTION_CLOSED),
    ]
    for lose in losses * 3:
        while not session.connecting:
            session.advance(0.1)
        session.connected()
        lose()
        assert not session.session.registered
        session.disconnected(CloseReason.CONNECTION_CLOSED)
    session.close()
    open_sockets = 0
    opened = set()
    for _, action in session.log:
        if isinstance(action, connections.Open):
            open_sockets += 1
            opened.add(action.connection.endpoint)
        elif isinstance(action, connections.Close):
            open_sockets -= 1
        assert open_sockets in (0, 1)
    assert opened == {"tcp://one", "tcp://two", "tcp://three"}


def headers(mdp):
    """The first frames of everything a worker and a client send."""
    number = mdp.dialect.version.replace(".", "").encode()
    empty = [b""] if number == b"01" else []
    return [*empty, b"MDPW" + number], [*empty, b"MDPC" + number]


def test_every_command_of_the_broker_includes_the_protocol_header(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "every MDP command includes the protocol header" """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    broker.advance(INTERVAL)
    broker.ask(mdp, b"client", b"question")
    address = broker.log[-1][2][mdp.address_at]
    broker.feed(b"worker", mdp.final(address, b"answer"))
    broker.core.finish(broker.now)
    broker.collect()
    for_worker, for_client = headers(mdp)
    assert [(peer, frames[: len(for_worker)]) for _, peer, frames in broker.log] == [
        (b"worker", for_worker),  # HEARTBEAT
        (b"worker", for_worker),  # REQUEST
        (b"client", for_client),
        (b"worker", for_worker),  # DISCONNECT
    ]


def test_every_command_of_a_worker_or_client_includes_the_protocol_header(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "every MDP command includes the protocol header" """
    from_worker, from_client = headers(mdp)
    session = ManualWorker(mdp)
    session.register()
    session.advance(INTERVAL)
    session.feed(mdp.request(b"client", b"question"))
    session.final(session.log[-1][1], b"answer")
    session.close()
    sent = [action.frames for action in session.take() if isinstance(action, connections.Send)]
    assert [frames[: len(from_worker)] for frames in sent] == [from_worker] * 3
    _, _, frames = ManualClient(mdp).call(b"echo", b"question")
    assert frames[: len(from_client)] == from_client


WRONG_HEADERS = [b"MDPW03", b"MDPC03", b"MDPW0", b"mdpw01", b"", b"MDPW01\x00", b"GET / HTTP/1.1"]


@pytest.mark.parametrize("header", WRONG_HEADERS)
def test_the_broker_drops_what_has_no_valid_header(mdp, header):
    """RFC 7 and 18, Opening and Closing a Connection: "to allow proper validation of all messages that a peer
    receives"
    """
    broker = ManualBroker()
    for frames in (mdp.ready(b"echo"), mdp.client_request(b"echo", b"question")):
        frames[frames.index(b"") + 1 if b"" in frames else 0] = header
        broker.feed(b"peer", frames)
    assert broker.core.counters.drops == {"malformed": 2}
    assert broker.core.statistics(broker.now).requests == broker.core.statistics(broker.now).registrations == 0
    assert broker.log == []


@pytest.mark.parametrize("header", [*WRONG_HEADERS, b"MDPC01", b"MDPC02", None])
def test_a_worker_drops_what_has_no_valid_header(mdp, header):
    """RFC 7 and 18, Opening and Closing a Connection: "to allow proper validation of all messages that a peer
    receives"
    RFC 18, Goals: "MDP/0.2 is not compatible with MDP/0.1."
    """
    other = MDP02 if mdp is MDP01 else MDP01
    for command in ("request", "heartbeat", "disconnect"):
        mine = mdp.request(b"client", b"question") if command == "request" else list(getattr(mdp, command))
        mine[0 if mdp is MDP02 else 1] = header
        theirs = other.request(b"client", b"question") if command == "request" else getattr(other, command)
        assert refuses(mdp, theirs if header is None else mine)


@pytest.mark.parametrize("header", [*WRONG_HEADERS, b"MDPW01", b"MDPW02", None])
def test_a_client_drops_what_has_no_valid_header(mdp, header):
    """RFC 7 and 18, Opening and Closing a Connection: "to allow proper validation of all messages that a peer
    receives"
    RFC 18, Goals: "MDP/0.2 is not compatible with MDP/0.1."
    """
    other = MDP02 if mdp is MDP01 else MDP01
    caller = ManualClient(mdp)
    call, connection, _ = caller.call(b"echo", b"question")
    frames = mdp.client_final(b"echo", b"answer")
    frames[0 if mdp is MDP02 else 1] = header
    caller.feed(connection, other.client_final(b"echo", b"answer") if header is None else frames)
    assert caller.events() == []
    assert caller.core.counters.malformed == 1
    assert call.state is CallState.SENT


def test_ready_is_the_first_command_on_a_new_socket_once_it_is_connected(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "The worker opens the connection to the broker by creating a new
    socket, connecting it, and then sending a READY command to register a service."
    """
    session = ManualWorker(mdp)
    session.advance(0)
    (opened,) = session.take()
    assert opened.connection.endpoint == "tcp://one"
    session.advance(1.0)
    assert session.take() == []
    session.connected()
    assert session.sent() == [mdp.ready(b"echo")]


def test_one_worker_handles_precisely_one_service(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "One worker handles precisely one service" """
    broker = ManualBroker()
    broker.ready(mdp, b"worker", service=b"one")
    broker.ready(mdp, b"worker", service=b"two")
    broker.take(b"worker")
    for service in (b"one", b"two"):
        broker.ask(mdp, b"client", b"question", service=service)
    assert broker.take(b"worker") == []
    assert broker.workers == {}


def test_many_workers_may_handle_the_same_service(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "many workers MAY handle the same service" """
    broker = ManualBroker()
    peers = [b"worker-%d" % number for number in range(10)]
    broker.ready(mdp, *peers)
    for peer in peers:
        broker.ask(mdp, b"client", peer)
    assert [broker.assignment(mdp, peer)[1] for peer in peers] == [[peer] for peer in peers]


def test_a_worker_sends_no_further_ready(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "The worker MUST NOT send a further READY." """
    session = ManualWorker(mdp)
    session.advance(0)
    for _ in range(20):
        session.connected()
        session.feed(mdp.heartbeat)
        if session.session.state is worker.SessionState.IDLE:
            session.feed(mdp.request(b"client", b"question"))
            session.final(session.log[-1][1], b"answer")
        session.advance(INTERVAL)
    sent = [action.frames for action in session.take() if isinstance(action, connections.Send)]
    assert sent[0] == mdp.ready(b"echo")
    assert len(sent) > 20
    assert mdp.ready(b"echo") not in sent[1:]


def test_the_broker_gives_up_a_worker_that_sends_a_further_ready(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "The worker MUST NOT send a further READY."
    RFC 7 and 18, Opening and Closing a Connection: "The broker MUST respond to any valid but unexpected command by
    sending DISCONNECT and then no further commands to that worker."
    """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    broker.ready(mdp, b"worker")
    assert broker.take(b"worker") == [mdp.disconnect]
    assert broker.core.counters.lost_workers == {"second_ready": 1}


def test_there_is_no_response_to_a_ready(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "There is no response to a READY." """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    assert len(broker.workers) == 1
    broker.advance(INTERVAL - 0.1)
    assert broker.log == []


@pytest.mark.parametrize("end", ["disconnect", "broker failure"])
def test_a_worker_assumes_that_its_registration_succeeded(mdp, end):
    """RFC 7 and 18, Opening and Closing a Connection: "The worker SHOULD assume the registration succeeded until or
    unless it receives a DISCONNECT, or it detects a broker failure through heartbeating."
    """
    session = ManualWorker(mdp)
    session.advance(0)
    assert not session.session.registered
    session.connected()
    assert session.session.registered
    session.advance(EXPIRY - 0.1)
    assert session.session.registered
    if end == "disconnect":
        session.feed(mdp.disconnect)
    else:
        session.advance(0.1)
    assert not session.session.registered


@pytest.mark.parametrize("when", ["before ready", "idle", "busy"])
def test_a_worker_may_disconnect_at_any_time_and_hears_no_more(mdp, when):
    """RFC 7 and 18, Opening and Closing a Connection: "The worker MAY send DISCONNECT at any time, including before
    READY."
    RFC 7 and 18, Opening and Closing a Connection: "When the broker receives DISCONNECT from a worker it MUST send no
    further commands to that worker."
    """
    broker = ManualBroker()
    if when != "before ready":
        broker.ready(mdp, b"worker")
    if when == "busy":
        broker.ask(mdp, b"client", b"question")
        broker.assignment(mdp, b"worker")
    broker.feed(b"worker", mdp.disconnect)
    broker.ask(mdp, b"client", b"another question")
    broker.feed(b"worker", mdp.heartbeat)
    broker.feed(b"worker", mdp.disconnect)
    broker.advance(100)
    broker.core.finish(broker.now)
    broker.collect()
    assert broker.take(b"worker") == []
    assert broker.workers == {}


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_worker_that_closes_sends_disconnect(mdp, state):
    """RFC 7 and 18, Opening and Closing a Connection: "The worker MAY send DISCONNECT at any time" """
    session = ManualWorker(mdp)
    session.register()
    work = session.work(b"question") if state == "busy" else None
    session.close()
    sent, closed = session.take()
    assert sent.frames == mdp.disconnect
    assert isinstance(closed, connections.Close)
    if work is not None:
        assert session.final(work, b"answer") is False
    session.advance(100)
    assert session.take() == []


@pytest.mark.parametrize("who", ["worker", "broker"])
def test_no_command_goes_to_a_worker_that_talks_on_after_disconnect(mdp, who):
    """RFC 7 and 18, Opening and Closing a Connection: "When the broker receives DISCONNECT from a worker it MUST send
    no further commands to that worker."
    RFC 7 and 18, Opening and Closing a Connection: "The broker MUST respond to any valid but unexpected command by
    sending DISCONNECT and then no further commands to that worker."
    """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    broker.feed(b"worker", mdp.disconnect if who == "worker" else mdp.ready(b"echo"))
    assert broker.take(b"worker") == ([] if who == "worker" else [mdp.disconnect])
    for _ in range(20):
        broker.advance(INTERVAL)
        broker.feed(b"worker", mdp.heartbeat)
        assert broker.take(b"worker") == []


def test_the_broker_may_disconnect_any_peer_it_took_for_a_worker(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "The broker MAY send DISCONNECT at any time, by definition after
    it has received at least one command from the worker."
    """
    broker = ManualBroker()
    broker.ready(mdp, b"busy", b"idle")
    broker.ask(mdp, b"client", b"question")
    broker.assignment(mdp, b"busy")
    broker.core.finish(broker.now)
    broker.collect()
    assert [broker.take(peer) for peer in (b"idle", b"busy", b"client")] == [[mdp.disconnect], [mdp.disconnect], []]


def test_the_broker_disconnects_a_worker_that_begins_without_ready(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "The broker MUST respond to any valid but unexpected command by
    sending DISCONNECT and then no further commands to that worker."
    RFC 7 and 18, Heartbeating: "HEARTBEAT commands are valid at any time, after a READY command."
    """
    commands = [mdp.heartbeat, *answers(mdp, b"client")]
    for first in commands:
        broker = ManualBroker()
        broker.feed(b"worker", first)
        assert broker.take(b"worker") == [mdp.disconnect]
        for frames in commands:
            broker.feed(b"worker", frames)
        broker.advance(INTERVAL)
        assert broker.take(b"worker") == []


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_broker_disconnects_a_worker_that_answers_what_it_was_not_asked(mdp, state):
    """RFC 7 and 18, Opening and Closing a Connection: "The broker MUST respond to any valid but unexpected command by
    sending DISCONNECT and then no further commands to that worker."
    """
    for which in range(len(answers(mdp, b""))):
        broker = ManualBroker()
        broker.ready(mdp, b"worker", b"other")
        broker.ask(mdp, b"client-1", b"question")
        address, _ = broker.assignment(mdp, b"worker")
        if state == "idle":
            broker.feed(b"worker", mdp.final(address, b"answer"))
            assert broker.answers(mdp, b"client-1") == [[b"answer"]]
        else:
            broker.ask(mdp, b"client-2", b"question")
            address, _ = broker.assignment(mdp, b"other")
        broker.feed(b"worker", answers(mdp, address)[which])
        assert broker.take(b"worker") == [mdp.disconnect]
        broker.feed(b"worker", mdp.heartbeat)
        broker.ask(mdp, b"client-3", b"question")
        broker.advance(INTERVAL)
        assert broker.take(b"worker") == []
        assert not [peer for peer in (b"client-1", b"client-2", b"client-3") if broker.take(peer)]


INVALID = {
    "no command": lambda head, _: head,
    "unknown command": lambda head, _: [*head, b"\x09"],
    "command of two bytes": lambda head, mdp: [*head, mdp.heartbeat[-1] * 2],
    "ready without service": lambda head, _: [*head, b"\x01"],
    "ready with an empty service": lambda head, _: [*head, b"\x01", b""],
    "ready with a frame too many": lambda _, mdp: [*mdp.ready(b"echo"), b""],
    "heartbeat with a frame too many": lambda _, mdp: [*mdp.heartbeat, b""],
    "disconnect with a frame too many": lambda _, mdp: [*mdp.disconnect, b""],
    "a request from a worker": lambda _, mdp: mdp.request(b"client", b"question"),
    "a reply without a body": lambda _, mdp: mdp.final(b"client"),
    "a reply without delimiter": lambda _, mdp: [*mdp.final(b"client")[:-1], b"x", b"answer"],
    "no header": lambda _, mdp: [b"", b"\x01", b"echo"],
    "one frame": lambda _, mdp: [b"nothing"],
}


@pytest.mark.parametrize("kind", list(INVALID))
def test_the_broker_drops_invalid_messages_and_treats_the_peer_as_invalid(mdp, kind):
    """RFC 7 and 18, Opening and Closing a Connection: "The broker SHOULD respond to invalid messages by dropping them
    and treating that peer as invalid."
    """
    frames = INVALID[kind](mdp.heartbeat[:-1], mdp)
    broker = ManualBroker()
    broker.feed(b"stranger", frames)
    assert broker.core.counters.drops == {"malformed": 1}
    assert broker.log == []
    broker.ready(mdp, b"worker")
    broker.ask(mdp, b"client", b"question")
    broker.assignment(mdp, b"worker")
    broker.feed(b"worker", frames)
    assert broker.core.counters.drops == {"malformed": 2}
    assert broker.workers == {}
    assert broker.take(b"worker") == [mdp.disconnect]
    broker.advance(INTERVAL)
    assert broker.take(b"worker") == []
    assert broker.take(b"client") == []


def test_a_worker_that_gets_disconnect_closes_its_socket_and_reconnects_on_a_new_one(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "When the worker receives DISCONNECT it must send no further
    commands to the broker; it MUST close its socket, and reconnect to the broker on a new socket."
    RFC 7 and 18, Opening and Closing a Connection: "This mechanism allows workers to re-register after a broker failure
    and recovery."
    """
    session = ManualWorker(mdp)
    session.register()
    session.feed(mdp.disconnect)
    (closed,) = session.take()
    assert isinstance(closed, connections.Close)
    session.advance(INTERVAL)
    (opened,) = session.take()
    assert opened.connection.endpoint == "tcp://one"
    session.connected()
    assert session.sent() == [mdp.ready(b"echo")]


def test_a_busy_worker_that_gets_disconnect_sends_nothing_more_on_that_connection(mdp):
    """RFC 7 and 18, Opening and Closing a Connection: "When the worker receives DISCONNECT it must send no further
    commands to the broker; it MUST close its socket, and reconnect to the broker on a new socket."
    """
    session = ManualWorker(mdp)
    session.register()
    work = session.work(b"question")
    session.feed(mdp.disconnect)
    (closed,) = session.take()
    assert isinstance(closed, connections.Close)
    session.advance(100)
    assert session.partial(work, b"part") is False
    assert session.final(work, b"answer") is False
    session.advance(INTERVAL)
    (opened,) = session.take()
    assert opened.connection.endpoint == "tcp://one"
    session.connected()
    assert session.sent() == [mdp.ready(b"echo")]
    assert session.final(work, b"answer") is False
    assert session.take() == []
