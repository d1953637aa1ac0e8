"""Foreign peers: bare sockets, proxies, and the classes of the package majortomo."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import gevent
import pytest
import zmq
from peers import ANYWHERE, DEADLINE, Echo, Peer, Proxy, Script, dealer, req
from waiting import wait_until

from gmdp import Broker, Client, RequestTimeout, Worker
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.worker import WorkerCore


@pytest.fixture
def broker() -> Iterator[Broker]:
    # No heartbeat of the broker's own gets in between.
    with Broker(ANYWHERE, heartbeat_interval=60) as broker:
        yield broker


def registered(broker: Broker, count: int) -> None:
    wait_until(lambda: broker.statistics().workers == count)


# Bare workers that echo; the client address is the frame before the empty one.


def echo_rfc7(request: list[bytes]) -> list[list[bytes]]:
    assert request[:3] == [b"", b"MDPW01", b"\x02"]
    assert request[4] == b""
    return [[b"", b"MDPW01", b"\x03", *request[3:]]]


def echo_rfc18(request: list[bytes]) -> list[list[bytes]]:
    assert request[:2] == [b"MDPW02", b"\x02"]
    assert request[3] == b""
    return [[b"MDPW02", b"\x04", *request[2:]]]


def echo_majortomo(request: list[bytes]) -> list[list[bytes]]:
    assert request[:3] == [b"", b"MDPW02", b"\x02"]
    assert request[4] == b""
    return [[b"", b"MDPW02", b"\x04", *request[3:]]]


def rfc7_worker(endpoint: str, service: bytes) -> Echo:
    return Echo(dealer(endpoint), [b"", b"MDPW01", b"\x01", service], echo_rfc7)


def rfc18_worker(endpoint: str, service: bytes) -> Echo:
    return Echo(dealer(endpoint), [b"MDPW02", b"\x01", service], echo_rfc18)


def majortomo_worker(endpoint: str, service: bytes) -> Echo:
    return Echo(dealer(endpoint), [b"", b"MDPW02", b"\x01", service], echo_majortomo)


# REQ and DEALER clients


def test_req_client_01(broker: Broker) -> None:
    with rfc7_worker(broker.endpoint, b"echo"), req(broker.endpoint) as client:
        for body in (b"one", b"", b"three"):
            client.send(b"MDPC01", b"echo", body, b"end")
            assert client.recv() == [b"MDPC01", b"echo", body, b"end"]


def test_req_client_of_the_majortomo_dialect(broker: Broker) -> None:
    with rfc18_worker(broker.endpoint, b"echo"), req(broker.endpoint) as client:
        for body in (b"one", b"", b"three"):
            client.send(b"MDPC02", b"\x02", b"echo", body, b"end")
            assert client.recv() == [b"MDPC02", b"\x04", body, b"end"]


def test_req_client_asks_the_management_interface(broker: Broker) -> None:
    with req(broker.endpoint) as client:
        client.send(b"MDPC01", b"mmi.service", b"echo")
        assert client.recv() == [b"MDPC01", b"mmi.service", b"404"]
        client.send(b"MDPC01", b"mmi.nonsense", b"")
        assert client.recv() == [b"MDPC01", b"mmi.nonsense", b"501"]


@pytest.mark.parametrize(
    "stack",
    [
        [b"hop"],
        [b"\x00\x01\x02\x03\x04", b"hop"],
        [b"MDPC01", b"MDPW01"],
        [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"],
    ],
    ids=["one", "two", "headers", "eight"],
)
def test_a_return_address_comes_back_verbatim(broker: Broker, stack: list[bytes]) -> None:
    with rfc7_worker(broker.endpoint, b"echo"), dealer(broker.endpoint) as client:
        client.send(*stack, b"", b"MDPC01", b"echo", b"hello")
        assert client.recv() == [*stack, b"", b"MDPC01", b"echo", b"hello"]
        client.send(*stack, b"", b"MDPC02", b"\x02", b"echo", b"hello")
        assert client.recv() == [*stack, b"", b"MDPC02", b"\x04", b"hello"]
        client.send(*stack, b"", b"MDPC01", b"mmi.nonsense", b"hello")
        assert client.recv() == [*stack, b"", b"MDPC01", b"mmi.nonsense", b"501"]


def test_a_return_address_of_nine_frames_is_malformed(broker: Broker) -> None:
    with dealer(broker.endpoint) as client:
        client.send(*[b"hop"] * 9, b"", b"MDPC01", b"mmi.nonsense", b"hello")
        assert client.pending() == []
    assert broker.statistics().drops == {"malformed": 1}


def test_replies_go_back_by_the_address_they_were_asked_from(broker: Broker) -> None:
    """Two callers share one connection; the second caller's reply is made first."""
    with dealer(broker.endpoint) as first, dealer(broker.endpoint) as second, dealer(broker.endpoint) as both:
        first.send(b"MDPW02", b"\x01", b"echo")
        registered(broker, 1)
        second.send(b"MDPW02", b"\x01", b"echo")
        registered(broker, 2)
        both.send(b"ann", b"", b"MDPC01", b"echo", b"from ann")
        both.send(b"bob", b"", b"MDPC01", b"echo", b"from bob")
        from_ann, from_bob = first.recv(), second.recv()
        assert (from_ann[4:], from_bob[4:]) == ([b"from ann"], [b"from bob"])
        second.send(b"MDPW02", b"\x04", from_bob[2], b"", b"to bob")
        assert both.recv() == [b"bob", b"", b"MDPC01", b"echo", b"to bob"]
        first.send(b"MDPW02", b"\x04", from_ann[2], b"", b"to ann")
        assert both.recv() == [b"ann", b"", b"MDPC01", b"echo", b"to ann"]


# Proxies


def test_req_clients_behind_a_proxy(broker: Broker) -> None:
    with (
        rfc7_worker(broker.endpoint, b"echo"),
        Proxy(broker.endpoint) as proxy,
        req(proxy.endpoint) as ann,
        req(proxy.endpoint, b"\x80bob") as bob,
    ):
        for number in range(5):
            ann.send(b"MDPC01", b"echo", b"ann %d" % number)
            bob.send(b"MDPC01", b"echo", b"bob %d" % number)
            assert bob.recv() == [b"MDPC01", b"echo", b"bob %d" % number]
            assert ann.recv() == [b"MDPC01", b"echo", b"ann %d" % number]


def silence(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings that nothing was ever heard."""
    return [text for text in caplog.messages if "nothing was ever heard" in text]


def test_F4_our_client_of_01_behind_a_proxy_and_one_of_02_hears_what_to_try(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A message of MDP/0.2 has no empty frame, so the broker cannot tell where the proxy's address ends."""
    monkeypatch.setattr(ClientCore, "probe_timeout", 0.05)
    with rfc7_worker(broker.endpoint, b"echo"), Proxy(broker.endpoint) as proxy:
        with Client(proxy.endpoint, version="0.1", timeout=DEADLINE) as client:
            for body in (b"one", b"two"):
                assert client.request("echo", body) == [body]
        with Client(proxy.endpoint, timeout=0.2) as client:
            for _ in range(3):
                with pytest.raises(RequestTimeout) as caught:
                    client.request("echo", b"")
                assert f"no broker answered at {proxy.endpoint}: nothing was ever heard" in str(caught.value)
                assert "version='0.1'" in str(caught.value)
        assert len(silence(caplog)) == 1


def test_F4_a_worker_at_a_router_that_never_speaks_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(WorkerCore, "probe_timeout", 0.05)
    with Peer(zmq.ROUTER, ANYWHERE, bind=True) as silent:
        options = {"heartbeat_interval": 0.05, "reconnect_interval": 0.02}
        with Worker(silent.endpoint, "echo", lambda request: b"", **options) as worker:
            wait_until(lambda: worker.statistics().reconnects >= 3)
        (text,) = silence(caplog)
        assert f"nothing was ever heard from {silent.endpoint}" in text
        assert "version='0.1'" in text


def test_a_req_client_behind_two_proxies(broker: Broker) -> None:
    with (
        rfc18_worker(broker.endpoint, b"echo"),
        Proxy(broker.endpoint) as near,
        Proxy(near.endpoint) as far,
        req(far.endpoint) as client,
    ):
        client.send(b"MDPC01", b"echo", b"hello", b"")
        assert client.recv() == [b"MDPC01", b"echo", b"hello", b""]
        client.send(b"MDPC01", b"mmi.service", b"echo")
        assert client.recv() == [b"MDPC01", b"mmi.service", b"200"]


def test_workers_behind_a_proxy(broker: Broker) -> None:
    """Workers behind one connection differ by their return addresses, and each is a worker of its own."""
    with (
        Proxy(broker.endpoint) as proxy,
        dealer(proxy.endpoint) as first,
        dealer(proxy.endpoint) as second,
        dealer(broker.endpoint) as client,
    ):
        first.send(b"", b"MDPW01", b"\x01", b"echo")
        registered(broker, 1)
        second.send(b"", b"MDPW02", b"\x01", b"echo")
        registered(broker, 2)
        client.send(b"MDPC02", b"\x01", b"echo", b"one")
        client.send(b"MDPC02", b"\x01", b"echo", b"two")
        one, two = first.recv(), second.recv()
        assert one == [b"", b"MDPW01", b"\x02", one[3], b"", b"one"]
        assert two == [b"", b"MDPW02", b"\x02", two[3], b"", b"two"]
        second.send(b"", b"MDPW02", b"\x03", two[3], b"", b"zw")
        second.send(b"", b"MDPW02", b"\x04", two[3], b"", b"ei")
        assert client.recv() == [b"MDPC02", b"\x02", b"echo", b"zw"]
        assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"ei"]
        first.send(b"", b"MDPW01", b"\x03", one[3], b"", b"eins")
        assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"eins"]
        # One leaves, the other stays; heartbeats find their way.
        first.send(b"", b"MDPW01", b"\x05")
        registered(broker, 1)
        second.send(b"", b"MDPW02", b"\x05")
        second.send(b"", b"MDPW02", b"\x05")
        assert second.recv() == [b"", b"MDPW02", b"\x05"]
        broker.stop()
        assert second.recv() == [b"", b"MDPW02", b"\x06"]


def test_a_worker_behind_a_proxy_cannot_answer_for_its_neighbour(broker: Broker) -> None:
    """W12 with one connection: the assignment is the worker's, not the connection's."""
    with (
        Proxy(broker.endpoint) as proxy,
        dealer(proxy.endpoint) as honest,
        dealer(proxy.endpoint) as other,
        dealer(broker.endpoint) as client,
    ):
        honest.send(b"", b"MDPW01", b"\x01", b"echo")
        registered(broker, 1)
        other.send(b"", b"MDPW01", b"\x01", b"other")
        registered(broker, 2)
        client.send(b"", b"MDPC01", b"echo", b"hello")
        token = honest.recv()[3]
        other.send(b"", b"MDPW01", b"\x03", token, b"", b"forged")
        assert other.recv() == [b"", b"MDPW01", b"\x05"]
        assert client.pending() == []
        honest.send(b"", b"MDPW01", b"\x03", token, b"", b"right")
        assert client.recv() == [b"", b"MDPC01", b"echo", b"right"]


def test_clients_and_workers_behind_one_proxy(broker: Broker) -> None:
    with Proxy(broker.endpoint) as proxy, rfc7_worker(proxy.endpoint, b"echo"), req(proxy.endpoint) as client:
        client.send(b"MDPC01", b"echo", b"hello")
        assert client.recv() == [b"MDPC01", b"echo", b"hello"]


def test_our_worker_and_client_01_behind_a_proxy(broker: Broker) -> None:
    with (
        Proxy(broker.endpoint) as proxy,
        Worker(proxy.endpoint, "echo", lambda request: request.body, version="0.1"),
        Client(proxy.endpoint, version="0.1", timeout=DEADLINE) as client,
    ):
        assert client.request("echo", [b"hello", b""]) == [b"hello", b""]
        assert client.request("mmi.service", b"echo") == [b"200"]


# All at once


class BareClient:
    """A client on a bare socket: the frames before the service, and those of its replies."""

    def __init__(self, peer: Peer, request: list[bytes], reply: list[bytes], reply_names_service: bool = True) -> None:
        self.peer = peer
        self._request = request
        self._reply = reply
        self._names_service = reply_names_service

    def ask(self, service: bytes, body: list[bytes]) -> None:
        self.peer.send(*self._request, service, *body)
        named = [service] if self._names_service else []
        assert self.peer.recv() == [*self._reply, *named, *body]


def test_c10_peers_of_every_dialect_at_once(broker: Broker) -> None:
    """C10: each client is answered in its own dialect, whichever worker serves it."""
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(broker.endpoint))
        for service, worker in (
            (b"rfc7", rfc7_worker),
            (b"rfc18", rfc18_worker),
            (b"majortomo", majortomo_worker),
            # A service whose workers speak all of them.
            (b"mixed", rfc7_worker),
            (b"mixed", rfc18_worker),
            (b"mixed", majortomo_worker),
        ):
            stack.enter_context(worker(broker.endpoint, service))
        stack.enter_context(rfc7_worker(proxy.endpoint, b"proxied"))
        stack.enter_context(majortomo_worker(proxy.endpoint, b"proxied"))
        for version in ("0.1", "0.2"):
            stack.enter_context(Worker(broker.endpoint, "ours", lambda request: request.body, version=version))
        registered(broker, 10)

        clients = [
            BareClient(dealer(broker.endpoint), [b"", b"MDPC01"], [b"", b"MDPC01"]),
            BareClient(dealer(broker.endpoint), [b"MDPC02", b"\x01"], [b"MDPC02", b"\x03"]),
            BareClient(dealer(broker.endpoint), [b"", b"MDPC02", b"\x02"], [b"", b"MDPC02", b"\x04"], False),
            BareClient(req(broker.endpoint), [b"MDPC01"], [b"MDPC01"]),
            BareClient(req(proxy.endpoint), [b"MDPC01"], [b"MDPC01"]),
            BareClient(req(proxy.endpoint), [b"MDPC02", b"\x02"], [b"MDPC02", b"\x04"], False),
            BareClient(dealer(broker.endpoint), [b"a", b"stack", b"", b"MDPC01"], [b"a", b"stack", b"", b"MDPC01"]),
        ]
        for bare in clients:
            stack.enter_context(bare.peer)
        ours = [
            stack.enter_context(Client(broker.endpoint, version=version, timeout=DEADLINE))
            for version in ("0.1", "0.2")
        ]
        services = [b"rfc7", b"rfc18", b"majortomo", b"mixed", b"proxied", b"ours"]

        def bodies(who: int) -> Iterator[tuple[bytes, list[bytes]]]:
            for number in range(10):
                for service in services:
                    yield service, [b"client %d" % who, b"", b"%s %d" % (service, number)]

        def drive_bare(who: int, bare: BareClient) -> None:
            for service, body in bodies(who):
                bare.ask(service, body)

        def drive_ours(who: int, client: Client) -> None:
            for service, body in bodies(who):
                assert client.request(service, body) == body

        callers = [gevent.spawn(drive_bare, who, bare) for who, bare in enumerate(clients)]
        callers += [gevent.spawn(drive_ours, who, client) for who, client in enumerate(ours, 100)]
        for caller in callers:
            caller.get(timeout=DEADLINE)

        asked = 10 * len(services) * len(callers)
        statistics = broker.statistics()
        assert statistics.requests == statistics.replies == asked
        assert (statistics.drops, statistics.lost_workers, statistics.ended) == ({}, {}, {})


# Workers that reply to what they were not asked


FORGERIES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "routing id": lambda own, others: b"client-id",
    "nothing": lambda own, others: b"",
    "token of another worker": lambda own, others: others,
    "another number": lambda own, others: own[:20] + bytes([own[20] ^ 1]) + own[21:],
    "another nonce": lambda own, others: own[:12] + bytes([own[12] ^ 1]) + own[13:],
    "cut short": lambda own, others: own[:20],
}


@pytest.mark.parametrize("forgery", list(FORGERIES))
@pytest.mark.parametrize("command", [b"\x03", b"\x04"], ids=["partial", "final"])
def test_w12_a_reply_with_an_address_that_was_not_given(broker: Broker, forgery: str, command: bytes) -> None:
    """W12: the reply is counted, its worker disconnected, the request redelivered; no client sees the reply."""
    with (
        dealer(broker.endpoint) as forger,
        dealer(broker.endpoint) as honest,
        dealer(broker.endpoint, b"client-id") as client,
        dealer(broker.endpoint) as bystander,
    ):
        forger.send(b"MDPW02", b"\x01", b"echo")
        honest.send(b"MDPW02", b"\x01", b"other")
        registered(broker, 2)
        client.send(b"MDPC02", b"\x01", b"echo", b"secret")
        bystander.send(b"MDPC02", b"\x01", b"other", b"hello")
        own, others = forger.recv()[2], honest.recv()[2]

        forger.send(b"MDPW02", command, FORGERIES[forgery](own, others), b"", b"forged")
        assert forger.recv() == [b"MDPW02", b"\x06"]
        # Not with the right address either, now; and it is told once.
        forger.send(b"MDPW02", command, own, b"", b"too late")
        assert forger.pending() == []
        assert client.pending() == []
        assert bystander.pending() == []
        assert broker.statistics().drops == {"stray_reply": 1, "unregistered": 1}

        honest.send(b"MDPW02", b"\x04", others, b"", b"right")
        assert bystander.recv() == [b"MDPC02", b"\x03", b"other", b"right"]
        with rfc18_worker(broker.endpoint, b"echo"):
            assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"secret"]
        assert client.pending() == []


def test_w12_an_idle_worker_cannot_use_an_old_address(broker: Broker) -> None:
    """W12, W13: a reply given twice, the second time into the next call of the same client."""
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"echo")
        client.send(b"MDPC02", b"\x01", b"echo", b"one")
        old = worker.recv()[2]
        worker.send(b"MDPW02", b"\x04", old, b"", b"one")
        assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"one"]
        client.send(b"MDPC02", b"\x01", b"echo", b"two")
        assert worker.recv()[4:] == [b"two"]
        worker.send(b"MDPW02", b"\x04", old, b"", b"one")
        assert worker.recv() == [b"MDPW02", b"\x06"]
        assert client.pending() == []
        with rfc18_worker(broker.endpoint, b"echo"):
            assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"two"]


# Workers that fall silent while they work


def test_a_worker_that_is_silent_at_work_outlives_the_expiry() -> None:
    with (
        Broker(ANYWHERE, heartbeat_interval=0.1, liveness=3) as broker,
        dealer(broker.endpoint) as busy,
        dealer(broker.endpoint) as client,
    ):
        busy.send(b"", b"MDPW01", b"\x01", b"echo")
        client.send(b"", b"MDPC01", b"echo", b"hello")
        token = busy.recv()[3]
        with dealer(broker.endpoint) as idle:
            # Registered after the other was heard for the last time, and lost before it.
            idle.send(b"", b"MDPW01", b"\x01", b"echo")
            wait_until(lambda: broker.statistics().lost_workers == {"expired": 1})
        busy.send(b"", b"MDPW01", b"\x03", token, b"", b"bye")
        assert client.recv() == [b"", b"MDPC01", b"echo", b"bye"]
        assert broker.statistics().lost_workers == {"expired": 1}


# The majortomo package


#: Echoes; after "parts", each frame is a PARTIAL; after "leave", it disconnects.
MAJORTOMO_WORKER = """
import sys
from majortomo import Worker
from majortomo.error import Disconnected

with Worker(sys.argv[1], sys.argv[2]) as worker:
    print("connected", flush=True)
    try:
        while True:
            client, body = worker.wait_for_request()
            if body[0] == b"parts":
                worker.send_reply_from_iterable(client, ([frame] for frame in body[1:]), [b"end"])
            elif body[0] == b"no frames":
                worker.send_reply_final(client, [])
            elif body[0] == b"leave":
                worker.send_reply_final(client, [b"bye"])
                break
            else:
                worker.send_reply_final(client, body)
    except Disconnected:
        print("told to disconnect", flush=True)
print("left", flush=True)
"""

#: Reads [service, frame, ...] in JSON, line by line; prints the parts of each reply.
MAJORTOMO_CLIENT = """
import json
import sys
from majortomo import Client

with Client(sys.argv[1]) as client:
    for line in sys.stdin:
        service, *body = [frame.encode() for frame in json.loads(line)]
        client.send(service, *body)
        parts = client.recv_all(timeout=20)
        print(json.dumps([[frame.decode() for frame in part] for part in parts]), flush=True)
"""


def answer(request: object) -> object:
    """The handler of the majortomo worker above, for a gmdp worker."""
    first, *rest = request.body
    if first == b"parts":
        return iter_parts(rest)
    return [] if first == b"no frames" else request.body


def iter_parts(frames: list[bytes]) -> Iterator[bytes]:
    yield from frames
    return [b"end"]


class MajortomoClient:
    """The client of majortomo, in a process of its own."""

    #: One that streams sees the parts, else there is one of all frames.
    streams = True

    def __init__(self, endpoint: str) -> None:
        self._script = Script(MAJORTOMO_CLIENT, endpoint)

    def ask(self, service: str, *body: str) -> list[list[str]]:
        self._script.tell(json.dumps([service, *body]))
        return json.loads(self._script.line())

    def close(self) -> None:
        self._script.close()


class OurClient:
    """A gmdp client with the same methods."""

    def __init__(self, endpoint: str, version: str) -> None:
        self._client = Client(endpoint, version=version, timeout=DEADLINE)
        self.streams = version == "0.2"

    def ask(self, service: str, *body: str) -> list[list[str]]:
        stream = self._client.stream(service, [frame.encode() for frame in body])
        return [[frame.decode() for frame in part] for part in stream]

    def close(self) -> None:
        self._client.close()


CLIENTS = {
    "majortomo": MajortomoClient,
    "ours 0.1": lambda endpoint: OurClient(endpoint, "0.1"),
    "ours 0.2": lambda endpoint: OurClient(endpoint, "0.2"),
}
WORKERS = {
    "majortomo": lambda endpoint: Script(MAJORTOMO_WORKER, endpoint, "echo"),
    "ours 0.1": lambda endpoint: Worker(endpoint, "echo", answer, version="0.1"),
    "ours 0.2": lambda endpoint: Worker(endpoint, "echo", answer, version="0.2"),
}


@pytest.mark.parametrize("client_kind", list(CLIENTS))
@pytest.mark.parametrize("worker_kind", list(WORKERS))
def test_majortomo_and_ours_in_all_combinations(broker: Broker, client_kind: str, worker_kind: str) -> None:
    with WORKERS[worker_kind](broker.endpoint):
        client = CLIENTS[client_kind](broker.endpoint)
        try:
            assert client.ask("echo", "hello", "", "again") == [["hello", "", "again"]]
            assert client.ask("echo", "no frames") == [[""]]
            parts = client.ask("echo", "parts", "one", "", "three")
            if client.streams:
                assert parts == [["one"], [""], ["three"], ["end"]]
            else:
                assert parts == [["one", "", "three", "end"]]
            assert client.ask("mmi.service", "echo") == [["200"]]
            assert client.ask("mmi.service", "other") == [["404"]]
            assert client.ask("mmi.nonsense", "") == [["501"]]
        finally:
            client.close()
    statistics = broker.statistics()
    assert statistics.requests == statistics.replies == 3
    assert statistics.drops == {}


def test_a_majortomo_client_without_a_body(broker: Broker) -> None:
    with WORKERS["majortomo"](broker.endpoint):
        client = MajortomoClient(broker.endpoint)
        try:
            assert client.ask("echo") == [[""]]
            assert client.ask("mmi.nonsense") == [["501"]]
        finally:
            client.close()


def test_a_majortomo_worker_gets_a_disconnect_when_the_broker_stops() -> None:
    with Broker(ANYWHERE) as broker, WORKERS["majortomo"](broker.endpoint) as worker:
        assert worker.line() == "connected"
        registered(broker, 1)
        broker.stop()
        assert worker.line() == "told to disconnect"
        assert worker.line() == "left"


def test_a_majortomo_worker_leaves(broker: Broker) -> None:
    with WORKERS["majortomo"](broker.endpoint) as worker, Client(broker.endpoint, timeout=DEADLINE) as client:
        assert client.request("echo", b"leave") == [b"bye"]
        assert worker.line() == "connected"
        assert worker.line() == "left"
        wait_until(lambda: broker.statistics().lost_workers == {"disconnect": 1})
        assert client.request("mmi.service", b"echo") == [b"404"]


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_F1_a_client_that_sends_all_its_requests_at_once_gets_all_its_answers(count: int) -> None:
    """The guide's asynchronous client does so; it knows no bound, and cannot be told one."""
    with Broker(ANYWHERE, max_in_flight=count // 10, request_ttl=600) as broker, dealer(broker.endpoint) as client:
        client.send_all([b"", b"MDPC01", b"echo", b"%d" % number] for number in range(count))
        wait_until(lambda: broker.statistics().requests == count)
        assert broker.statistics().queued_bytes >= 1_000 * count
        with Worker(broker.endpoint, "echo", answer, concurrency=32):
            answers = [client.recv() for _ in range(count)]
        assert {body for *_, body in answers} == {b"%d" % number for number in range(count)}
        now = broker.statistics()
        assert (now.drops, now.ended, now.queued_bytes) == ({}, {}, 0)


@pytest.mark.parametrize("proxies", [0, 1])
def test_F3_req_client_of_rfc_18(broker: Broker, proxies: int) -> None:
    """The RFC's own codes behind the delimiter that a REQ socket sends."""
    with ExitStack() as stack:
        endpoint = broker.endpoint
        for _ in range(proxies):
            endpoint = stack.enter_context(Proxy(endpoint)).endpoint
        stack.enter_context(rfc18_worker(broker.endpoint, b"echo"))
        registered(broker, 1)
        client = stack.enter_context(req(endpoint))
        for number in range(3):
            client.send(b"MDPC02", b"\x01", b"echo", b"%d" % number, b"more")
            assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"%d" % number, b"more"]
    assert broker.statistics().drops == {}


def test_F10_a_worker_whose_replies_lack_the_empty_frame(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """The guide's PHP worker: its wrap() puts the address before the body, and nothing between."""

    def echo_php(request: list[bytes]) -> list[list[bytes]]:
        assert request[4] == b""
        return [[b"", b"MDPW01", b"\x03", request[3], *request[5:]]]

    with Echo(dealer(broker.endpoint), [b"", b"MDPW01", b"\x01", b"echo"], echo_php), Client(broker.endpoint) as client:
        for number in range(5):
            assert client.request("echo", [b"%d" % number, b"more"]) == [b"%d" % number, b"more"]
    now = broker.statistics()
    assert (now.drops, now.ended, now.replies) == ({}, {}, 5)
    wait_until(lambda: "a reply was taken although it breaks the protocol" in caplog.text)
    assert caplog.text.count("the empty frame between the client address and the body of REPLY is missing") == 1
    assert "127.0.0.1" in caplog.text


def test_F2_messages_dropped_from_strangers_are_told_once_with_what_would_be_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Broker(ANYWHERE, max_frames=20) as broker, dealer(broker.endpoint) as stranger:
        for _ in range(50):
            stranger.send(b"MDPC01", b"echo", b"x")
            stranger.send(b"MDPC02", b"\x01", b"echo", *[b"x"] * 40)
        stranger.pending()
        assert broker.statistics().drops == {"malformed": 50, "too_many_frames": 50}
        wait_until(lambda: caplog.text.count("dropped") == 2)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert messages == [
        "127.0.0.1: a message was dropped: the empty frame before 'MDPC01' is missing (RFC 7; a DEALER socket has to "
        "send it) (3 frames: 'MDPC01' 'echo' 'x')",
        "127.0.0.1: a message of more than max_frames=20 frames was dropped "
        "(it begins: 'MDPC02' '\\x01' 'echo' 'x' 'x' 'x' 'x' 'x' …)",
    ]
