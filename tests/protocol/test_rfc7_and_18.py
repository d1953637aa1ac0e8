"""The sentences that RFC 7 (MDP/0.1) and RFC 18 (MDP/0.2) have in common, one test each, for both versions."""

import errno

import pytest
import zmq
import zmq.green
from cores import EXPIRY, INTERVAL, MDP01, MDP02, START, ManualBroker, ManualClient, ManualWorker, answers, refuses

from gmdp import BindError, Broker
from gmdp.core.outcomes import Outcome
from gmdp.core.peer import connector as connections
from gmdp.core.peer.calls import CallState, Part
from gmdp.core.peer.sessions import Failure
from gmdp.io.dealers import open_dealer

pytestmark = pytest.mark.parametrize("mdp", [MDP01, MDP02], ids=["0.1", "0.2"])


# Overall Topology


def test_clients_and_workers_of_both_versions_share_one_broker_socket(mdp):
    """RFC 7 and 18, Overall Topology: "However MDP is also designed to work over a single broker socket."
    RFC 7 and 18, ROUTER Addressing: "MAY use a single socket for both sub-protocols"
    """
    broker = ManualBroker()
    broker.ready(MDP01, b"worker-1", service=b"one")
    broker.ready(MDP02, b"worker-2", service=b"two")
    for peer, service, its in ((b"worker-1", b"one", MDP01), (b"worker-2", b"two", MDP02)):
        broker.ask(mdp, b"client", b"question", service=service)
        address, body = broker.assignment(its, peer)
        assert body == [b"question"]
        broker.feed(peer, its.final(address, b"answer"))
        assert broker.take(b"client") == [mdp.client_final(service, b"answer")]


def test_a_worker_gets_at_most_one_request_at_a_time(mdp):
    """RFC 7 and 18, Overall Topology: "Workers will handle at most one request a time" """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    for body in (b"first", b"second"):
        broker.ask(mdp, b"client", body)
    address, body = broker.assignment(mdp, b"worker")
    assert body == [b"first"]
    broker.feed(b"worker", mdp.final(address, b"done"))
    assert broker.assignment(mdp, b"worker")[1] == [b"second"]


def test_a_worker_takes_no_second_request_before_its_reply(mdp):
    """RFC 7 and 18, Overall Topology: "Workers will handle at most one request a time" """
    session = ManualWorker(mdp)
    session.register()
    session.work(b"first")
    session.feed(mdp.request(b"client", b"second"))
    sent, closed = session.take()
    assert sent.frames == mdp.disconnect
    assert isinstance(closed, connections.Close)


def test_a_worker_issues_exactly_one_reply_for_each_request(mdp):
    """RFC 7 and 18, Overall Topology: "will issue exactly one reply for each successful request" """
    session = ManualWorker(mdp)
    session.register()
    work = session.work(b"question")
    assert session.final(work, b"answer") is True
    assert session.final(work, b"again") is False
    assert session.sent() == [mdp.final(b"client", b"answer")]


def test_a_worker_issues_no_second_reply_while_it_works_on_the_next_request(mdp):
    """RFC 7 and 18, Overall Topology: "will issue exactly one reply for each successful request" """
    session = ManualWorker(mdp)
    session.register()
    earlier = session.work(b"first", address=b"client-1")
    session.final(earlier, b"answer")
    session.take()
    present = session.work(b"second", address=b"client-2")
    assert session.partial(earlier, b"late") is False
    assert session.final(earlier, b"late") is False
    assert session.sent() == []
    assert session.final(present, b"answer") is True
    assert session.sent() == [mdp.final(b"client-2", b"answer")]


def test_each_service_has_a_queue_of_its_own(mdp):
    """RFC 7 and 18, Overall Topology: "The Majordomo broker handles a set of shared request queues, one per
    service."
    """
    broker = ManualBroker()
    for service in (b"one", b"two"):
        for number in (b"1", b"2"):
            broker.ask(mdp, b"client", service + number, service=service)
    broker.ready(mdp, b"worker", service=b"two")
    address, body = broker.assignment(mdp, b"worker")
    assert body == [b"two1"]
    broker.feed(b"worker", mdp.final(address, b"done"))
    address, body = broker.assignment(mdp, b"worker")
    assert body == [b"two2"]
    broker.feed(b"worker", mdp.final(address, b"done"))
    assert broker.take(b"worker") == []


def test_a_queue_has_many_writers_and_many_readers(mdp):
    """RFC 7 and 18, Overall Topology: "Each queue has multiple writers (clients) and multiple readers (workers)." """
    broker = ManualBroker()
    names = [b"%d" % number for number in range(5)]
    for name in names:
        broker.ask(mdp, b"client-" + name, b"from " + name)
    for name in names:
        broker.ready(mdp, b"worker-" + name)
    for name in names:
        address, body = broker.assignment(mdp, b"worker-" + name)
        broker.feed(b"worker-" + name, mdp.final(address, b"done", *body))
    for name in names:
        assert broker.take(b"client-" + name) == [mdp.client_final(b"echo", b"done", b"from " + name)]


def test_clients_are_served_on_a_fair_basis(mdp):
    """RFC 7 and 18, Overall Topology: "The broker SHOULD serve clients on a fair basis" """
    broker = ManualBroker()
    for number in range(4):
        broker.ask(mdp, b"greedy", b"greedy %d" % number)
    broker.ask(mdp, b"modest", b"modest")
    broker.ready(mdp, b"worker")
    served = []
    for _ in range(5):
        address, (body,) = broker.assignment(mdp, b"worker")
        served.append(body)
        broker.feed(b"worker", mdp.final(address, b"done"))
    assert served == [b"greedy 0", b"modest", b"greedy 1", b"greedy 2", b"greedy 3"]


def test_requests_go_to_the_least_recently_used_worker(mdp):
    """RFC 7 and 18, Overall Topology: "MAY deliver requests to workers on any basis, including round robin and
    least-recently used"
    RFC 7 and 18, Goals: "Allow the broker to implement a "least recently used" pattern for task distribution"
    """
    broker = ManualBroker()
    broker.ready(mdp, b"a", b"b", b"c")
    addresses = {}
    for peer in (b"a", b"b", b"c"):
        broker.ask(mdp, b"client", peer)
        addresses[peer], body = broker.assignment(mdp, peer)
        assert body == [peer]
    for peer in (b"b", b"c", b"a"):
        broker.feed(peer, mdp.final(addresses[peer], b"done"))
    for peer in (b"b", b"c", b"a"):
        broker.ask(mdp, b"client", peer)
        assert broker.assignment(mdp, peer)[1] == [peer]


@pytest.mark.parametrize("loss", ["silence", "disconnect", "further ready"])
def test_requests_of_lost_workers_are_sent_to_other_workers(mdp, loss):
    """RFC 7 and 18, Goals: "Allow the broker to recover from dead or disconnected workers by resending requests to
    other workers."
    """
    broker = ManualBroker(busy_timeout=EXPIRY)
    broker.ready(mdp, b"lost")
    broker.ask(mdp, b"client", b"question")
    broker.assignment(mdp, b"lost")
    broker.advance(EXPIRY - 0.1)
    broker.ready(mdp, b"other")
    assert broker.take(b"other") == []
    if loss == "silence":
        broker.advance(0.1)
    else:
        broker.feed(b"lost", mdp.disconnect if loss == "disconnect" else mdp.ready(b"echo"))
    address, body = broker.assignment(mdp, b"other")
    assert body == [b"question"]
    broker.feed(b"other", mdp.final(address, b"answer"))
    assert broker.answers(mdp, b"client") == [[b"answer"]]


# ROUTER Addressing


@pytest.fixture
def asked(monkeypatch):
    """The kinds of the sockets that are asked for; there are none to be had."""
    kinds = []

    def refuse(context, kind):
        kinds.append(kind)
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr("gmdp.io.contexts._make_socket", refuse)
    return kinds


def test_the_broker_uses_one_router_socket(mdp, asked):
    """RFC 7 and 18, ROUTER Addressing: "The broker MUST use a ROUTER socket to accept requests from clients, and
    connections from workers."
    """
    with pytest.raises(BindError):
        Broker("inproc://nobody").start()
    assert asked == [zmq.ROUTER]


def test_clients_and_workers_connect_with_a_dealer_socket(mdp, asked):
    """RFC 7, MDP/Client: "Clients MAY use a DEALER (XREQ) socket when implementing an asynchronous pattern."
    RFC 18, MDP/Client: "Clients MUST use a DEALER socket."
    RFC 7 and 18, Opening and Closing a Connection: "One worker MUST connect to exactly one broker using a single
    ØMQ DEALER"
    """
    with pytest.raises(zmq.ZMQError):
        open_dealer(None, None, "inproc://nobody", None, (INTERVAL, 3 * INTERVAL), None)
    assert asked == [zmq.DEALER]


def test_the_clients_address_comes_first_in_what_is_sent_to_it(mdp):
    """RFC 7 and 18, Request and Reply Processing: "The address of each directly connected client is prepended by the
    ROUTER socket to all request messages coming from clients."
    RFC 7 and 18, Request and Reply Processing: "That ROUTER socket also expects a client address to be prepended to
    each reply message sent to a client."
    """
    broker = ManualBroker()
    broker.ready(mdp, b"worker-1", b"worker-2")
    broker.ask(mdp, b"\x00client-1", b"question 1")
    broker.ask(mdp, b"\x00client-2", b"question 2")
    first, body = broker.assignment(mdp, b"worker-1")
    assert body == [b"question 1"]
    second, body = broker.assignment(mdp, b"worker-2")
    assert body == [b"question 2"]
    broker.feed(b"worker-2", mdp.final(second, b"answer 2"))
    broker.feed(b"worker-1", mdp.final(first, b"answer 1"))
    assert [(peer, frames) for _, peer, frames in broker.log[-2:]] == [
        (b"\x00client-2", mdp.client_final(b"echo", b"answer 2")),
        (b"\x00client-1", mdp.client_final(b"echo", b"answer 1")),
    ]


# MDP/Client


def test_the_broker_says_nothing_to_a_client_unasked(mdp):
    """RFC 7 and 18, MDP/Client: "MDP/Client is a strictly synchronous dialog initiated by the client" """
    broker = ManualBroker()
    broker.ask(mdp, b"client", b"question")
    broker.advance(INTERVAL * 2)
    assert broker.take(b"client") == []
    broker.ready(mdp, b"worker")
    address, _ = broker.assignment(mdp, b"worker")
    broker.feed(b"worker", mdp.final(address, b"answer"))
    assert broker.answers(mdp, b"client") == [[b"answer"]]
    broker.feed(b"worker", mdp.disconnect)
    broker.advance(1000)
    broker.core.finish(broker.now)
    broker.collect()
    assert broker.take(b"client") == []


def test_a_clients_connection_carries_one_call_at_a_time(mdp):
    """RFC 7 and 18, MDP/Client: "MDP/Client is a strictly synchronous dialog initiated by the client" """
    caller = ManualClient(mdp, connections=1)
    _, connection, _ = caller.call(b"echo", b"first")
    caller.submit(b"echo", b"second")
    assert caller.take() == []
    caller.feed(connection, mdp.client_final(b"echo", b"answer"))
    assert caller.take() == [connections.Send(connection, mdp.client_request(b"echo", b"second"))]


def test_a_second_reply_finds_no_call(mdp):
    """RFC 7 and 18, MDP/Client: "MDP/Client is a strictly synchronous dialog initiated by the client" """
    caller = ManualClient(mdp)
    call, connection, _ = caller.call(b"echo", b"question")
    caller.feed(connection, mdp.client_final(b"echo", b"answer"))
    caller.feed(connection, mdp.client_final(b"echo", b"answer"))
    assert caller.events() == [Part(call, [b"answer"], True)]
    assert caller.core.counters.malformed == 1


def test_a_silent_broker_does_not_block_a_client(mdp):
    """RFC 7 and 18, MDP/Client: "To use polling instead of blocking receives on the request socket." """
    caller = ManualClient(mdp)
    call, _, _ = caller.call(b"echo", b"question", timeout=10.0)
    assert caller.core.deadline() == START + 10.0
    caller.advance(9.9)
    assert call.state is CallState.SENT
    caller.advance(0.1)
    assert call.state is CallState.DONE


def test_a_client_resends_on_a_new_socket_after_a_timeout(mdp):
    """RFC 7 and 18, MDP/Client: "If there is no reply within some timeout, to close the request socket and open a new
    socket, and resend the request on that new socket."
    """
    caller = ManualClient(mdp)
    _, silent, frames = caller.call(b"echo", b"question", timeout=10.0, retries=1)
    caller.advance(4.9)
    assert caller.take() == []
    caller.advance(0.1)
    closed, opened = caller.take()
    assert closed.connection is silent
    assert isinstance(opened, connections.Open)
    caller.connected(opened.connection)
    assert caller.take() == [connections.Send(opened.connection, frames)]
    caller.feed(silent, mdp.client_final(b"echo", b"late"))
    assert caller.events() == []
    caller.feed(opened.connection, mdp.client_final(b"echo", b"answer"))
    (part,) = caller.events()
    assert part.body == [b"answer"]


def test_a_client_signals_failure_after_its_retries(mdp):
    """RFC 7 and 18, MDP/Client: "If there is no reply after several retries, to signal the transaction as failed." """
    caller = ManualClient(mdp)
    call = caller.submit(b"echo", b"question", timeout=9.0, retries=2)
    requests = 0
    for _ in range(3):
        assert caller.events() == []
        requests += len(caller.connect())
        caller.advance(3.0)
    assert requests == 3
    (ended,) = caller.events()
    assert (ended.call, ended.outcome) == (call, Outcome.TIMEOUT)
    caller.advance(1000)
    assert not [action for action in caller.take() if isinstance(action, connections.Send)]


def test_a_request_reaches_workers_of_that_very_service_name_only(mdp):
    """RFC 7 and 18, MDP/Client: "The service name is a 0MQ string that matches the service name specified by a worker
    in its READY command"
    """
    broker = ManualBroker()
    near_misses = [b"Echo", b"ech", b"echo ", b"echo\x00", b"cho", b"*"]
    for name in near_misses:
        broker.ready(mdp, b"worker of " + name, service=name)
    broker.ask(mdp, b"client", b"question")
    assert [broker.take(b"worker of " + name) for name in near_misses] == [[]] * len(near_misses)
    broker.ready(mdp, b"worker")
    assert broker.assignment(mdp, b"worker")[1] == [b"question"]


def test_requests_for_a_service_without_a_worker_are_queued(mdp):
    """RFC 7 and 18, MDP/Client: "The broker SHOULD queue client requests for which no service has been registered" """
    broker = ManualBroker(request_ttl=30.0)
    for body in (b"first", b"second"):
        broker.ask(mdp, b"client", body)
    broker.advance(29.9)
    broker.ready(mdp, b"worker")
    for expected in (b"first", b"second"):
        address, (body,) = broker.assignment(mdp, b"worker")
        assert body == expected
        broker.feed(b"worker", mdp.final(address, body))
    assert broker.answers(mdp, b"client") == [[b"first"], [b"second"]]


@pytest.mark.parametrize(
    ("options", "ttl"),
    [({}, 30.0), ({"request_ttl": 4.0}, 4.0), ({"services": {"e*": {"request_ttl": 4.0}}}, 4.0)],
    ids=["default", "configured", "per service"],
)
def test_requests_for_a_service_without_a_worker_expire(mdp, options, ttl):
    """RFC 7 and 18, MDP/Client: "SHOULD expire these requests after a reasonable and configurable time if no service
    has been registered."
    """
    broker = ManualBroker(**options)
    broker.ask(mdp, b"client", b"question")
    broker.advance(ttl - 0.1)
    assert broker.core.queued == 1
    broker.advance(0.1)
    assert broker.core.queued == 0
    assert broker.core.counters.ended == {"expired": 1}
    broker.ready(mdp, b"worker")
    assert broker.take(b"worker") == []


# Request and Reply Processing


@pytest.mark.parametrize("stack", [[], [b"hop"], [b"hop", b"another", b"third"]], ids=["direct", "1 hop", "3 hops"])
def test_a_request_to_a_worker_contains_precisely_one_client_address(mdp, stack):
    """RFC 7, Request and Reply Processing: "The REQUEST and the REPLY commands MUST contain precisely one client
    address frame. This frame MUST be followed by an empty (zero sized) frame."
    RFC 18, Request and Reply Processing: "The REQUEST, PARTIAL and FINAL commands SHALL contain precisely one client
    address frame. This frame MUST be followed by an empty (zero sized) frame."
    """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    # A return address, as a device between a REQ client and the broker leaves it.
    broker.feed(b"client", [*stack, *MDP01.client_request(b"echo", b"question", b"", b"more")])
    (frames,) = broker.take(b"worker")
    address = frames[mdp.address_at]
    assert address
    assert frames == mdp.request(address, b"question", b"", b"more")
    broker.feed(b"worker", mdp.final(address, b"answer"))
    assert broker.take(b"client") == [[*stack, *MDP01.client_final(b"echo", b"answer")]]


def two_addresses(frames, at):
    return [*frames[:at], b"another address", *frames[at:]]


def no_delimiter(frames, at):
    return [*frames[: at + 1], *frames[at + 2 :]]


def full_delimiter(frames, at):
    return [*frames[: at + 1], b"\x00", *frames[at + 2 :]]


def nothing_after_the_address(frames, at):
    return frames[: at + 1]


envelopes = pytest.mark.parametrize(
    "spoil", [two_addresses, no_delimiter, full_delimiter, nothing_after_the_address], ids=lambda one: one.__name__
)


@pytest.mark.parametrize("spoil", [two_addresses, nothing_after_the_address], ids=lambda one: one.__name__)
def test_a_reply_with_another_envelope_is_invalid(mdp, spoil):
    """RFC 7, Request and Reply Processing: "The REQUEST and the REPLY commands MUST contain precisely one client
    address frame. This frame MUST be followed by an empty (zero sized) frame."
    RFC 18, Request and Reply Processing: "The REQUEST, PARTIAL and FINAL commands SHALL contain precisely one client
    address frame. This frame MUST be followed by an empty (zero sized) frame."
    """
    for which in range(len(answers(mdp, b""))):
        broker = ManualBroker()
        broker.ready(mdp, b"worker")
        broker.ask(mdp, b"client", b"question")
        address, _ = broker.assignment(mdp, b"worker")
        broker.feed(b"worker", spoil(answers(mdp, address)[which], mdp.address_at))
        assert broker.core.counters.drops == {"malformed": 1}
        assert broker.take(b"client") == []
        assert broker.take(b"worker") == [mdp.disconnect]


@envelopes
def test_a_worker_takes_no_request_with_another_envelope(mdp, spoil):
    """RFC 7, Request and Reply Processing: "The REQUEST and the REPLY commands MUST contain precisely one client
    address frame. This frame MUST be followed by an empty (zero sized) frame."
    RFC 18, Request and Reply Processing: "The REQUEST, PARTIAL and FINAL commands SHALL contain precisely one client
    address frame. This frame MUST be followed by an empty (zero sized) frame."
    """
    assert refuses(mdp, spoil(mdp.request(b"client", b"question"), mdp.address_at))


@pytest.mark.parametrize("address", [b"\x00\x80\x00\x00\x29", b"client", b"a" * 255, b""])
@pytest.mark.parametrize("failed", [False, True], ids=["answered", "failed"])
def test_a_worker_replies_to_the_address_it_was_given(mdp, address, failed):
    """RFC 7, Request and Reply Processing: "The REQUEST and the REPLY commands MUST contain precisely one client
    address frame. This frame MUST be followed by an empty (zero sized) frame."
    RFC 18, Request and Reply Processing: "The REQUEST, PARTIAL and FINAL commands SHALL contain precisely one client
    address frame. This frame MUST be followed by an empty (zero sized) frame."
    """
    session = ManualWorker(mdp)
    session.register()
    work = session.work(b"question", address=address)
    session.final(work, b"", b"answer", b"", failure=Failure("ValueError", "wrong") if failed else None)
    body = [b"500"] if failed else [b"", b"answer", b""]
    assert session.sent() == [mdp.final(address, *body)]
