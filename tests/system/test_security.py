"""A secured broker on real sockets: who gets in, what users may do, and what is recorded (rows S1 to S8)."""

import hashlib
import itertools
import json
import os
import socket as sockets
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager

import gevent
import gevent.socket
import peers
import pytest
import security_costs
import zmq
import zmq.green
from secured import INTERVAL, BarePeer, Keys, listening
from waiting import wait_until

import gmdp
from gmdp import (
    AsyncClient,
    AuthenticationFailed,
    Broker,
    Client,
    ConfigurationError,
    MessageTooLarge,
    NotAllowed,
    Overloaded,
    Worker,
)
from gmdp.security.gate import Gate
from gmdp.security.lists import set_password


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path)


def echo(request):
    return request.body


@contextmanager
def started(broker):
    """`broker`, started, and its audit records."""
    records = []
    broker.audit = records.append
    with broker:
        yield broker, records


class HandshakeMonitor:
    """Watches how the handshake of a bare socket ends."""

    #: Endpoints of monitors: one that was used before may not be free yet.
    numbers = itertools.count()

    WORDS = {
        zmq.EVENT_HANDSHAKE_SUCCEEDED: "in",
        zmq.EVENT_HANDSHAKE_FAILED_AUTH: "refused",
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "mismatch",
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "hung up",
    }

    def __init__(self, peer):
        name = f"inproc://handshakes-{next(self.numbers)}"
        peer.socket.monitor(name, sum(self.WORDS))
        self._monitor = peers.Peer(zmq.PAIR, name)

    def result(self):
        """How the next handshake ended, in a word."""
        event = int.from_bytes(self._monitor.recv()[0][:2], "little")
        return self.WORDS[event]

    def close(self):
        self._monitor.close()


class Stranger(peers.Peer):
    """A DEALER with any options, whose handshake is watched."""

    def __init__(self, endpoint, **options):
        self._options = options
        super().__init__(zmq.DEALER, endpoint)

    def prepare(self, socket):
        for name, value in self._options.items():
            socket.set(getattr(zmq, name), value)
        self.monitor = HandshakeMonitor(self)

    def close(self):
        self.socket.disable_monitor()
        self.monitor.close()
        super().close()


def curve(pair, server):
    return {"CURVE_PUBLICKEY": pair[0], "CURVE_SECRETKEY": pair[1], "CURVE_SERVERKEY": server}


# Getting in (S1)


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:*", "ipc"])
@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_broker_worker_and_client_over_curve(keys, tmp_path, where, version):
    keys.make("worker", "client")
    where = f"ipc://{tmp_path}/broker" if where == "ipc" else where
    with keys.broker(where) as broker:
        assert broker.secured
        with Worker(broker.endpoint, "echo", echo, 4, version=version, **keys.of("worker")) as worker:
            with AsyncClient(broker.endpoint, timeout=20, version=version, **keys.of("client")) as client:
                assert list(client.map("echo", [b"%d" % n for n in range(50)])) == [[b"%d" % n] for n in range(50)]
                assert (client.extensions, worker.extensions) == (True, True)
        assert broker.statistics().handshakes == 2
        wait_until(lambda: broker.statistics().connections == 0)


def test_S1_a_peer_without_an_allowed_key_is_refused_and_no_frame_arrives(keys):
    """An unknown key, no key, a password, another server key: the handshake refuses each."""
    keys.make("client")
    keys.make("eve", allow=False)
    server, client, eve = (keys.pair(name) for name in ("broker", "client", "eve"))
    strangers = {
        "unknown key": (curve(eve, server[0]), {"refused"}),
        "no key": ({}, {"mismatch", "hung up"}),
        "a password": ({"PLAIN_USERNAME": b"client", "PLAIN_PASSWORD": b"x"}, {"mismatch", "hung up"}),
        "another server key": (curve(client, eve[0]), {"hung up", "mismatch"}),
    }
    with started(keys.broker()) as (broker, records):
        before = broker.statistics()
        for options, expected in strangers.values():
            with Stranger(broker.endpoint, **options) as stranger:
                stranger.send(b"MDPC02", b"\x01", b"mmi.broker", b"")
                stranger.send(b"MDPW02", b"\x01", b"echo")
                assert stranger.monitor.result() in expected
        with Stranger(broker.endpoint, **curve(client, server[0])) as right:
            assert right.monitor.result() == "in"
            assert [message[3] for message in _asked(right)] == [b"200"]
        wait_until(lambda: sum(broker.statistics().refused_connections.values()) >= 4)
        now = broker.statistics()
    assert (now.management - before.management, now.registrations, dict(now.drops)) == (1, 0, {})
    # Either end may be the first to see that the mechanisms do not fit.
    assert {"key"} < set(now.refused_connections) <= {"key", "protocol", "handshake"}
    assert now.handshakes == 1
    (unknown,) = [record for record in records if record.reason == "key"]
    assert (unknown.kind, unknown.user, unknown.address) == ("connection_refused", eve[0].decode(), "127.0.0.1")


def _asked(peer):
    """The answer to ``mmi.broker``."""
    peer.send(b"MDPC02", b"\x01", b"mmi.broker", b"")
    return [peer.recv()]


@pytest.mark.parametrize("kind", ["unknown key", "no key", "a password", "another server key"])
def test_S1_a_client_that_is_not_allowed_gets_an_error_at_once(keys, kind):
    """A typed error before the call's time is up, in each call."""
    keys.make("client")
    keys.make("eve", allow=False)
    options = {
        "unknown key": keys.of("eve"),
        "no key": {},
        "a password": {"username": "client", "password": "secret"},
        "another server key": keys.of("client", server="eve"),
    }[kind]
    with keys.broker() as broker, Client(broker.endpoint, timeout=60, **options) as client:
        for _ in range(2):
            with pytest.raises(AuthenticationFailed) as failed:
                client.request("echo", b"x")
            assert failed.value.elapsed < 30
        assert broker.statistics().requests == 0


def test_S1_a_client_with_a_key_does_not_talk_to_a_broker_without(keys):
    """No other broker can make it speak in clear."""
    keys.make("client")
    with Broker("tcp://127.0.0.1:*") as broker, Client(broker.endpoint, timeout=60, **keys.of("client")) as client:
        with pytest.raises(AuthenticationFailed):
            client.request("mmi.broker", b"")
        assert broker.statistics().management == 0


def test_S1_a_worker_that_is_not_allowed_warns_and_keeps_trying(keys):
    """It warns once; when its key is allowed, it registers by itself."""
    keys.make("worker", allow=False)
    with keys.broker() as broker, listening("gmdp.worker") as log:
        with Worker(broker.endpoint, "echo", echo, reconnect_interval=0.02, **keys.of("worker")) as worker:
            wait_until(lambda: worker.statistics().denied > 3)
            warnings = [record for record in log.records if record.levelname == "WARNING"]
            assert len(warnings) == 1
            assert "is not allowed" in warnings[0].getMessage()
            keys.allow("worker")
            wait_until(lambda: broker.statistics().workers == 1)


def test_S1_of_several_brokers_a_client_takes_the_one_that_allows_it(keys):
    keys.make("client")
    with keys.broker(curve_clients=lambda key: None) as refusing, keys.broker() as allowing:
        endpoints = [refusing.endpoint, allowing.endpoint]
        with Client(endpoints, timeout=20, **keys.of("client")) as client:
            assert client.request("mmi.broker", b"")[0] == b"200"
            assert client.endpoint == allowing.endpoint


def test_a_client_that_is_allowed_later_recovers(keys):
    keys.make("client", allow=False)
    with keys.broker() as broker, Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
        with pytest.raises(AuthenticationFailed):
            client.request("mmi.broker", b"")
        keys.allow("client")

        def answered():
            try:
                return client.request("mmi.broker", b"")[0] == b"200"
            except AuthenticationFailed:
                return False

        wait_until(answered)


# Foreign peers with keys, both ways


def test_bare_curve_peers_work_with_a_secured_broker(keys):
    """A REQ of MDP/0.1, a DEALER of MDP/0.2, and a bare worker, each with a key."""
    keys.make("old", "new", "bare")
    with keys.broker() as broker, keys.dealer(broker.endpoint, "bare") as bare:
        with peers.Echo(bare, [b"MDPW02", b"\x01", b"echo"], lambda m: [[b"MDPW02", b"\x04", m[2], b"", *m[4:]]]):
            with keys.dealer(broker.endpoint, "old", kind=zmq.REQ) as old:
                old.send(b"MDPC01", b"echo", b"one")
                assert old.recv() == [b"MDPC01", b"echo", b"one"]
            with keys.dealer(broker.endpoint, "new") as new:
                new.send(b"MDPC02", b"\x01", b"echo", b"two")
                assert new.recv() == [b"MDPC02", b"\x03", b"echo", b"two"]


class BareServer(peers.StrictBroker):
    """A ROUTER with a server key and no authentication, in place of a broker."""

    def __init__(self, pair):
        self._pair = pair
        super().__init__(zmq.ROUTER, peers.ANYWHERE, bind=True)

    def prepare(self, socket):
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, self._pair[1])


def test_gmdp_peers_work_with_a_bare_curve_broker(keys):
    keys.make("worker", "client")
    with BareServer(keys.pair("broker")) as broker:
        with Worker(broker.endpoint, "echo", echo, **keys.of("worker")):
            worker, *ready = broker.recv()
            assert ready == [b"MDPW02", b"\x01", b"echo"]
            with AsyncClient(broker.endpoint, timeout=20, **keys.of("client")) as client:
                future = client.submit("echo", b"hello")
                asking, *request = broker.recv()
                assert request == [b"MDPC02", b"\x01", b"echo", b"hello"]
                broker.send(worker, b"MDPW02", b"\x02", b"address", b"", b"hello")
                while (message := broker.recv())[2] != b"\x04":
                    assert message[2] == b"\x05"
                broker.send(asking, b"MDPC02", b"\x03", b"echo", *message[5:])
                assert future.get() == [b"hello"]


# Any key, callables, no list (S2)


def test_S2_a_broker_without_a_list_is_refused(keys):
    with pytest.raises(ConfigurationError, match="curve_clients"):
        Broker(curve_key=keys.folder / "broker.key_secret")


def test_S2_any_key_is_allowed_only_by_name(keys):
    """A client without a key of its own makes a new one; its user is that key."""
    users = []

    def policy(user, action, service):
        users.append(user)
        return True

    with keys.broker(curve_clients="*", access=policy) as broker:
        with Client(broker.endpoint, timeout=20, server_key=keys.folder / "broker.key") as client:
            client.request("mmi.broker", b"")
    assert [len(user) for user in users] == [40]


def test_a_callable_may_wait_and_names_the_user(keys):
    keys.make("client", "other", "unknown", allow=False)
    asked, users = [], []

    def check(key):
        asked.append(key)
        gevent.sleep(0.01)
        return {keys.pair("client")[0].decode(): "alice", keys.pair("other")[0].decode(): True}.get(key)

    with keys.broker(curve_clients=check, access=lambda user, *_: bool(users.append(user) or True)) as broker:
        for name in ("client", "other"):
            with Client(broker.endpoint, timeout=20, **keys.of(name)) as client:
                client.request("mmi.broker", b"")
        with Client(broker.endpoint, timeout=20, **keys.of("unknown")) as client:
            with pytest.raises(AuthenticationFailed):
                client.request("mmi.broker", b"")
    assert users == ["alice", keys.pair("other")[0].decode()]
    assert len(asked) == 3


# What users may do (S3)

RULES = [
    {"user": "worker", "serve": "echo"},
    {"user": "client", "call": "echo", "inspect": "mmi.service"},
]


def test_S3_a_user_without_the_right_is_told_and_recorded(keys):
    """A worker gets DISCONNECT, a client NotAllowed; each record has the user, the address and the service."""
    keys.make("worker", "client")
    with started(keys.broker(access=RULES)) as (broker, records):
        with keys.dealer(broker.endpoint, "client") as intruder:
            intruder.send(b"MDPW02", b"\x01", b"echo")
            assert intruder.recv() == [b"MDPW02", b"\x06"]
        with Worker(broker.endpoint, "echo", echo, **keys.of("worker")):
            with Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
                assert client.request("echo", b"x") == [b"x"]
                for service in ("other", "mmi.workers"):
                    with pytest.raises(NotAllowed):
                        client.request(service, b"x")
        assert broker.statistics().drops == {"not_allowed": 3}
    facts = [(record.kind, record.user, record.address, record.service, record.reason) for record in records]
    assert facts == [
        ("registration_refused", "client", "127.0.0.1", b"echo", "not_allowed"),
        ("call_refused", "client", "127.0.0.1", b"other", "not_allowed"),
        ("call_refused", "client", "127.0.0.1", b"mmi.workers", "not_allowed"),
    ]


def test_each_refusal_is_one_structured_log_record_at_a_bounded_rate(keys):
    keys.make("client")
    with keys.broker(access=RULES) as broker, listening("gmdp.audit") as log:
        with AsyncClient(broker.endpoint, timeout=20, **keys.of("client")) as client:
            futures = [client.submit("other", b"x") for _ in range(500)]
            for future in futures:
                with pytest.raises(NotAllowed):
                    future.get()
        assert broker.statistics().drops == {"not_allowed": 500}
    first = log.records[0]
    assert first.audit == {
        "kind": "call_refused",
        "user": "client",
        "address": "127.0.0.1",
        "service": "other",
        "reason": "not_allowed",
        "suppressed": 0,
    }
    assert first.levelname == "WARNING"
    assert json.dumps(first.audit)
    assert len(log.records) < 200  # ten a second, and the test takes no minute


def _coroutine(value):
    async def policy(*_):
        return value

    return policy


@pytest.mark.parametrize(
    "policy",
    [lambda *_: 1 / 0, lambda *_: "deny", lambda *_: 1, lambda *_: None, _coroutine(True), type("Policy", (), {})],
    ids=["raises", "text", "number", "nothing", "coroutine", "class"],
)
def test_a_policy_without_a_bool_denies_and_the_broker_lives(keys, policy):
    """It is logged, but not for each request.  The audit hook may fail, too."""
    keys.make("client")

    def broken(record):
        raise RuntimeError("no disk")

    with keys.broker(access=policy, audit=broken) as broker, listening("gmdp") as log:
        with Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
            for _ in range(20):
                with pytest.raises(NotAllowed):
                    client.request("echo", b"x")
        assert broker.started
    messages = [record.getMessage() for record in log.records]
    assert "the audit hook failed" in messages
    assert 1 <= sum("the access policy failed" in message for message in messages) < 10


def test_a_policy_that_failed_once_is_asked_again(keys):
    keys.make("client")
    answers = [ValueError("no database"), True]

    def policy(*_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with keys.broker(access=policy) as broker, Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
        with pytest.raises(NotAllowed):
            client.request("mmi.broker", b"")
        assert client.request("mmi.broker", b"")[0] == b"200"


def test_rules_hold_without_keys_too():
    """Where no user is authenticated, the rules for everybody hold."""
    with Broker("tcp://127.0.0.1:*", access=[{"user": "*", "call": "echo"}, {"user": "", "serve": "echo"}]) as broker:
        with Worker(broker.endpoint, "echo", echo), Client(broker.endpoint, timeout=20) as client:
            assert client.request("echo", b"x") == [b"x"]
            with pytest.raises(NotAllowed):
                client.request("mmi.workers", b"")


def test_reconsider_ends_calls_and_workers_that_are_not_allowed_any_more(keys):
    keys.make("worker", "client")
    allowed = {"worker", "client"}
    with keys.broker(access=lambda user, *_: user in allowed) as broker:
        with Worker(broker.endpoint, "echo", lambda r: gevent.sleep(600), **keys.of("worker")) as worker:
            with AsyncClient(broker.endpoint, timeout=60, **keys.of("client")) as client:
                future = client.submit("echo", b"x")
                wait_until(lambda: broker.statistics().assigned == 1)
                allowed.clear()
                broker.reconsider()
                with pytest.raises(NotAllowed):
                    future.get()
                wait_until(lambda: broker.statistics().lost_workers == {"not_allowed": 1})
                worker.close()


# The authentication fails (S4)


def test_S4_no_connection_is_allowed_before_the_gate_replies(keys):
    """The socket is bound, but the ZAP request waits for its reply."""
    keys.make("client")
    gate = Gate(
        curve_key=keys.folder / "broker.key_secret",
        curve_clients=keys.allowed,
        plain_users=None,
        allow=None,
        deny=None,
        max_connections=10,
        check_timeout=1.0,
    )
    context = zmq.green.Context()
    router = context.socket(zmq.ROUTER)
    handler = gate.secure(router, context)
    try:
        router.bind("tcp://127.0.0.1:*")
        endpoint = router.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        with keys.dealer(endpoint, "client") as client:
            client.send(b"hello")
            request = handler.recv_multipart()
            assert request[4:6] == [b"gmdp", b"127.0.0.1"]
            assert not router.poll(50)
            handler.close(0)  # no reply will come any more
            with keys.dealer(endpoint, "client") as second:
                second.send(b"hello")
                assert not router.poll(300)
    finally:
        handler.close(0)
        router.close(0)
        context.term()


@pytest.mark.parametrize("how", ["raises", "hangs", "nonsense"])
def test_S4_a_check_that_fails_refuses_and_the_broker_lives(keys, how):
    keys.make("client")

    def check(key):
        if how == "raises":
            raise RuntimeError("no database")
        if how == "hangs":
            gevent.sleep(600)
        return 5

    broker = keys.broker(curve_clients=check, handshake_timeout=0.2)
    with started(broker) as (broker, records), listening("gmdp.security") as log:
        with keys.dealer(broker.endpoint, "client") as client:
            client.send(b"MDPC02", b"\x01", b"mmi.broker", b"")
            wait_until(lambda: broker.statistics().refused_connections.get("check_failed"))
        assert broker.statistics().management == 0
        assert broker.started
    assert [record.reason for record in records] == ["check_failed"]
    assert len(log.records) == (how != "hangs")


def test_S4_many_checks_at_once_are_bounded_and_all_end(keys):
    keys.make("client")
    running, most = [], []

    def check(key):
        running.append(key)
        most.append(len(running))
        gevent.sleep(0.005)
        running.pop()
        return "client"

    with keys.broker(curve_clients=check) as broker, ExitStack() as stack:
        clients = [stack.enter_context(keys.dealer(broker.endpoint, "client")) for _ in range(40)]
        for client in clients:
            client.send(b"MDPC02", b"\x01", b"mmi.broker", b"")
        assert {client.recv()[3] for client in clients} == {b"200"}
    assert max(most) <= Gate.max_calls


def test_S4_when_the_owner_dies_no_connection_is_allowed(keys):
    """The broker is closed, and can be started again."""
    keys.make("client")
    with keys.broker() as broker, keys.dealer(broker.endpoint, "client") as client:
        assert _asked(client)[0][3] == b"200"
        endpoint = broker.endpoint
        broker._owner.greenlet.kill()
        wait_until(lambda: broker.closed)
        assert broker.state is gmdp.State.CLOSED
        with Client(endpoint, timeout=0.2, **keys.of("client")) as late, pytest.raises(gmdp.MDPError):
            late.request("mmi.broker", b"")
        broker.start()
        with Client(broker.endpoint, timeout=20, **keys.of("client")) as again:
            assert again.request("mmi.broker", b"")[0] == b"200"


# Half-open handshakes (S5)


def half_open(endpoint, sent):
    """A connection that sends these bytes and no more."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    connection = gevent.socket.create_connection((host, int(port)))
    connection.sendall(sent)
    return connection


#: The greeting of ZMTP 3.1 with mechanism CURVE, as a client sends it.
GREETING = b"\xff" + bytes(7) + b"\x01\x7f" + b"\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)


@pytest.mark.parametrize("sent", [b"", b"\xff", GREETING, b"GET / HTTP/1.1\r\n\r\n" * 8, bytes(1000)])
def test_S5_a_connection_without_a_complete_handshake_is_dropped(keys, sent):
    """At the time limit at the latest.  Honest peers are served meanwhile."""
    keys.make("client", "worker")
    with keys.broker(handshake_timeout=0.3) as broker:
        with Worker(broker.endpoint, "echo", echo, **keys.of("worker")):
            with Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
                connections = [half_open(broker.endpoint, sent) for _ in range(50)]
                assert client.request("echo", b"x") == [b"x"]
                wait_until(lambda: broker.statistics().connections_accepted == 52)
                wait_until(lambda: broker.statistics().connections == 2)
                assert client.request("echo", b"x") == [b"x"]
                for connection in connections:
                    connection.settimeout(20)
                    try:
                        while connection.recv(1000):
                            pass
                    except ConnectionResetError:
                        pass
                    connection.close()
        assert broker.statistics().handshakes == 2


@pytest.mark.slow
@pytest.mark.deadline(300)
def test_S5_a_thousand_half_open_handshakes_at_most_double_the_latency_of_honest_calls():
    """Some are no ZMTP at all.  Dropped connections come again."""
    without, attacked = security_costs.half_open()
    assert attacked <= 2 * without


def test_S5_connections_above_the_bound_are_refused_for_now(keys):
    """They get in when there is room again; until then, their calls wait."""
    keys.make("client")
    broker = keys.broker(max_connections=2, handshake_timeout=1.2)
    with started(broker) as (broker, records), ExitStack() as stack:
        first, second = (stack.enter_context(keys.dealer(broker.endpoint, "client")) for _ in range(2))
        assert _asked(first)[0][3] == _asked(second)[0][3] == b"200"
        third = stack.enter_context(AsyncClient(broker.endpoint, timeout=60, **keys.of("client")))
        waiting = third.submit("mmi.broker", b"")
        wait_until(lambda: broker.statistics().refused_connections.get("connections_full", 0) >= 2)
        assert not waiting.ready()
        first.close()
        assert waiting.get()[0] == b"200"
    assert {record.reason for record in records} >= {"connections_full"}


def test_S5_strangers_take_no_place_of_others(keys):
    """Connections without a complete handshake do not count."""
    keys.make("client")
    with keys.broker(max_connections=5, handshake_timeout=600) as broker:
        strangers = [half_open(broker.endpoint, b"") for _ in range(50)]
        wait_until(lambda: broker.statistics().connections == 50)
        with Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
            assert client.request("mmi.broker", b"")[0] == b"200"
        assert broker.statistics().refused_connections == {}
        for stranger in strangers:
            stranger.close()


# Lists that change (S6)


def test_S6_keys_come_and_go_without_a_restart(keys):
    """A new key gets in.  A removed key does not, and its calls and workers end within an interval."""
    keys.make("worker", "client")
    keys.make("newcomer", allow=False)
    with started(keys.broker()) as (broker, records), ExitStack() as stack:
        worker = stack.enter_context(Worker(broker.endpoint, "echo", lambda r: gevent.sleep(600), **keys.of("worker")))
        client = stack.enter_context(AsyncClient(broker.endpoint, timeout=60, **keys.of("client")))
        future = client.submit("echo", b"x")
        wait_until(lambda: broker.statistics().assigned == 1)
        with Client(broker.endpoint, timeout=20, **keys.of("newcomer")) as newcomer:
            with pytest.raises(AuthenticationFailed):
                newcomer.request("mmi.broker", b"")
        keys.allow("newcomer")
        wait_until(lambda: any(record.kind == "list_reloaded" for record in records))
        with Client(broker.endpoint, timeout=20, **keys.of("newcomer")) as newcomer:
            assert newcomer.request("mmi.broker", b"")[0] == b"200"
        assert not future.ready()
        keys.revoke("client")
        with pytest.raises(NotAllowed):
            future.get()
        # libzmq cannot close the connection, but nothing is allowed on it.
        with pytest.raises(NotAllowed):
            client.request("mmi.broker", b"")
        with Client(broker.endpoint, timeout=20, **keys.of("client")) as again:
            with pytest.raises(AuthenticationFailed):
                again.request("mmi.broker", b"")
        keys.revoke("worker")
        wait_until(lambda: broker.statistics().lost_workers == {"revoked": 1})
        wait_until(lambda: worker.state is gmdp.State.CONNECTING)
        worker.close()
    assert ("call_refused", "revoked") in {(record.kind, record.reason) for record in records}


def test_S6_a_new_key_under_an_old_name_revokes_the_old_key(keys):
    keys.make("worker")
    with keys.broker() as broker, keys.dealer(broker.endpoint, "worker") as stolen:
        stolen.send(b"MDPW02", b"\x01", b"echo")
        wait_until(lambda: broker.statistics().workers == 1)
        for suffix in ("key", "key_secret"):
            (keys.folder / f"worker.{suffix}").unlink()
        keys.make("worker")
        wait_until(lambda: broker.statistics().lost_workers == {"revoked": 1})
        with Worker(broker.endpoint, "echo", echo, **keys.of("worker")):
            wait_until(lambda: broker.statistics().workers == 1)
            stolen.send(b"MDPW02", b"\x01", b"echo")
            while stolen.recv() != [b"MDPW02", b"\x06"]:
                pass
            assert broker.statistics().workers == 1


def test_S6_a_missing_folder_allows_nobody_until_it_is_back(keys):
    keys.make("client")
    with started(keys.broker()) as (broker, records), listening("gmdp.security") as log:
        with Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
            assert client.request("mmi.broker", b"")[0] == b"200"
            away = keys.allowed.rename(keys.folder / "away")
            wait_until(lambda: len(records) == 1)
            with pytest.raises(NotAllowed):
                client.request("mmi.broker", b"")
            away.rename(keys.allowed)
            wait_until(lambda: [record.kind for record in records].count("list_reloaded") == 2)
            assert client.request("mmi.broker", b"")[0] == b"200"
    assert [record.levelname for record in log.records] == ["WARNING"]


# Passwords and addresses


def test_users_and_passwords(tmp_path):
    """Hashed in the file.  A wrong password is refused; a changed one revokes the old one."""
    file = tmp_path / "users"
    set_password(file, "alice", "sesame")
    set_password(file, "bob", "other")
    assert "sesame" not in file.read_text()
    seen = []
    broker = Broker(
        f"ipc://{tmp_path}/broker",
        plain_users=file,
        heartbeat_interval=INTERVAL,
        access=lambda user, *_: bool(seen.append(user) or True),
    )
    with started(broker) as (broker, records), ExitStack() as stack:
        alice, bob, eve, nobody = (
            stack.enter_context(Client(broker.endpoint, timeout=20, username=name, password=word))
            for name, word in (("alice", "sesame"), ("bob", "other"), ("alice", "guess"), ("carol", "sesame"))
        )
        assert alice.request("mmi.broker", b"")[0] == b"200"
        assert bob.request("mmi.broker", b"")[0] == b"200"
        for refused in (eve, nobody):
            with pytest.raises(AuthenticationFailed):
                refused.request("mmi.broker", b"")
        assert [(record.user, record.reason) for record in records] == [("alice", "password"), ("carol", "password")]
        assert records[0].address.endswith(f":{os.getpid()}")
        set_password(file, "alice", "changed")

        def is_revoked():
            try:
                return alice.request("mmi.broker", b"") is None
            except NotAllowed:
                return True

        wait_until(is_revoked)
        assert bob.request("mmi.broker", b"")[0] == b"200"
        fresh = stack.enter_context(Client(broker.endpoint, timeout=20, username="alice", password="changed"))
        assert fresh.request("mmi.broker", b"")[0] == b"200"
    assert set(seen) == {"alice", "bob"}


def test_a_callable_checks_names_and_passwords(tmp_path):
    with Broker("tcp://127.0.0.1:*", plain_users=lambda name, word: name == word[::-1]) as broker:
        with Client(broker.endpoint, timeout=20, username="abc", password="cba") as client:
            assert client.request("mmi.broker", b"")[0] == b"200"
        with Client(broker.endpoint, timeout=20, username="abc", password="abc") as client:
            with pytest.raises(AuthenticationFailed):
                client.request("mmi.broker", b"")


@pytest.mark.parametrize(
    ("options", "tcp", "ipc"),
    [
        ({"allow": ["127.0.0.0/8"]}, True, False),
        ({"allow": ["127.0.0.1", "ipc"]}, True, True),
        ({"allow": "192.0.2.1"}, False, False),
        ({"deny": ["ipc"]}, True, False),
        ({"deny": "127.0.0.1"}, False, True),
        ({"allow": ["127.0.0.0/8", "ipc"], "deny": ["127.0.0.1"]}, False, True),
    ],
)
def test_addresses_are_allowed_and_denied(tmp_path, options, tcp, ipc):
    """Without keys and passwords."""
    with Broker(["tcp://127.0.0.1:*", f"ipc://{tmp_path}/broker"], **options) as broker:
        for endpoint, allowed in zip(broker.endpoints, (tcp, ipc), strict=True):
            with Client(endpoint, timeout=20) as client:
                if allowed:
                    assert client.request("mmi.broker", b"")[0] == b"200"
                else:
                    with pytest.raises(AuthenticationFailed):
                        client.request("mmi.broker", b"")
        refused = broker.statistics().refused_connections
        assert set(refused) == (set() if tcp and ipc else {"address"})


def test_a_right_password_is_hashed_once(tmp_path, monkeypatch):
    """It is hashed again when the list changes; a wrong one is hashed each time."""
    hashed = []
    original = hashlib.scrypt
    file = tmp_path / "users"
    set_password(file, "alice", "sesame")
    monkeypatch.setattr(hashlib, "scrypt", lambda *a, **k: hashed.append(1) or original(*a, **k))
    with Broker(f"ipc://{tmp_path}/broker", plain_users=file, heartbeat_interval=INTERVAL) as broker:

        def connect(password="sesame"):
            with Client(broker.endpoint, timeout=20, username="alice", password=password) as client:
                client.request("mmi.broker", b"")

        for _ in range(5):
            connect()
        assert len(hashed) == 1
        for _ in range(2):
            with pytest.raises(AuthenticationFailed):
                connect("guess")
        assert len(hashed) == 3
        reloaded = []
        broker._engine._auditor._hook = reloaded.append
        set_password(file, "bob", "other")
        wait_until(lambda: reloaded)
        before = len(hashed)
        connect()
        assert len(hashed) == before + 1


def test_a_broker_that_was_stopped_during_checks_checks_again_when_it_starts(keys):
    keys.make("client")
    patience = [600]

    def check(key):
        gevent.sleep(patience[0])
        return True

    broker = keys.broker(curve_clients=check, handshake_timeout=600)
    with broker, ExitStack() as stack:
        for _ in range(Gate.max_calls + 5):
            stack.enter_context(keys.dealer(broker.endpoint, "client")).send(b"x")
        wait_until(lambda: len(broker._gate._checks._running) == Gate.max_calls)
    patience[0] = 0
    with broker, Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
        assert client.request("mmi.broker", b"")[0] == b"200"


def test_stopping_does_not_wait_for_the_applications_threads(keys):
    """All threads of the hub are busy, and stay so."""
    keys.make("client")
    pool = gevent.get_hub().threadpool
    blocked = [threading.Event() for _ in range(pool.maxsize)]
    for event in blocked:
        pool.spawn(event.wait)
    try:
        with keys.broker() as broker, Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
            assert client.request("mmi.broker", b"")[0] == b"200"
            keys.revoke("client")
            wait_until(lambda: not broker._gate._users)
        assert broker.closed
    finally:
        for event in blocked:
            event.set()


def test_brokers_and_the_applications_own_zap_handler_do_not_collide(keys):
    """Each secured broker has a context of its own.  The handler in the application's context gets no request."""
    keys.make("client")
    own_handler = zmq.green.Context.instance().socket(zmq.REP)
    own_handler.bind("inproc://zeromq.zap.01")
    try:
        with keys.broker() as allowing, keys.broker(curve_clients=lambda key: None) as refusing, Broker() as plain:
            with Client(allowing.endpoint, timeout=20, **keys.of("client")) as client:
                assert client.request("mmi.broker", b"")[0] == b"200"
            with Client(refusing.endpoint, timeout=20, **keys.of("client")) as client:
                with pytest.raises(AuthenticationFailed):
                    client.request("mmi.broker", b"")
            with Client(plain.endpoint, timeout=20) as client:
                assert client.request("mmi.broker", b"")[0] == b"200"
        assert not own_handler.poll(0)
    finally:
        own_handler.close(0)


def test_P7_starting_and_stopping_a_secured_broker_leaves_nothing(keys, tmp_path, request):
    keys.make("client")
    file = tmp_path / "users"
    set_password(file, "alice", "sesame")
    with Broker(f"ipc://{tmp_path}/b", plain_users=file) as broker:  # makes what the whole process shares
        with Client(broker.endpoint, timeout=20, username="alice", password="sesame") as client:
            client.request("mmi.broker", b"")
    nothing_left = request.getfixturevalue("nothing_left")
    before = len(os.listdir("/proc/self/task"))
    for _ in range(20):
        with keys.broker() as broker, Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
            client.request("mmi.broker", b"")
    busy = keys.broker("tcp://127.0.0.1:*")
    with busy:
        for _ in range(5):
            second = keys.broker(busy.endpoint)
            with pytest.raises(gmdp.BindError):
                second.start()
    nothing_left()
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= before)


def test_B9_a_secured_broker_without_descriptors_raises_and_starts_once_there_are_some(keys):
    """In a process of its own.  A running broker can be stopped without descriptors."""
    script = """
import os, resource, sys, gmdp
broker = gmdp.Broker("tcp://127.0.0.1:*", curve_key=sys.argv[1], curve_clients="*")
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
def exhaust(left):
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(left):
        os.close(taken.pop())
    return taken
with gmdp.Broker("tcp://127.0.0.1:*"):
    pass  # the hub has what it needs
for left in range(40):
    taken = exhaust(left)
    try:
        broker.start()
        broker.stop()
    except gmdp.BindError as error:
        print(left, broker.closed, error.errno in (23, 24))
    for descriptor in taken:
        os.close(descriptor)
for _ in range(2):
    broker.start()
    taken = exhaust(0)
    broker.stop()
    for descriptor in taken:
        os.close(descriptor)
print("done", broker.closed)
"""
    command = [sys.executable, "-c", script, str(keys.folder / "broker.key_secret")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    *refusals, last = done.stdout.splitlines()
    # stderr has pyzmq's complaints of green sockets that could not be made.
    assert (last, done.returncode) == ("done True", 0), done.stderr
    assert len(refusals) >= 10
    assert all(line.endswith("True True") for line in refusals)


# Secrets (S7)


def test_S7_no_secret_is_shown_anywhere(keys, tmp_path):
    """In no log from DEBUG on, no repr, error, statistics or audit record."""
    keys.make("worker", "client")
    keys.make("eve", allow=False)
    file = tmp_path / "users"
    set_password(file, "alice", "open-sesame")
    secrets = [keys.pair(name)[1].decode() for name in ("broker", "worker", "client", "eve")]
    secrets += ["open-sesame", "wrong-guess"]
    shown = []
    with listening("") as log, ExitStack() as stack:
        curve_broker, audits = stack.enter_context(started(keys.broker(access=RULES)))
        plain_broker, more = stack.enter_context(started(Broker(f"ipc://{tmp_path}/b", plain_users=file)))
        worker = stack.enter_context(Worker(curve_broker.endpoint, "echo", echo, **keys.of("worker")))
        for endpoint, options in (
            (curve_broker.endpoint, keys.of("client")),
            (curve_broker.endpoint, keys.of("eve")),
            (curve_broker.endpoint, {"username": "alice", "password": "open-sesame"}),
            (plain_broker.endpoint, {"username": "alice", "password": "open-sesame"}),
            (plain_broker.endpoint, {"username": "alice", "password": "wrong-guess"}),
            (plain_broker.endpoint, keys.of("client")),
        ):
            client = stack.enter_context(Client(endpoint, timeout=20, **options))
            for service in ("echo", "mmi.statistics", "mmi.workers"):
                try:
                    shown.append(client.request(service, b"x", timeout=5, when_no_worker="fail"))
                except gmdp.MDPError as error:
                    shown.append((repr(error), str(error), error.__dict__))
            shown += [client, client.statistics()]
        shown += [worker, worker.statistics(), curve_broker, plain_broker, curve_broker.statistics()]
        shown += [curve_broker._gate, plain_broker._gate, plain_broker.statistics(), audits, more]
    text = log.text() + repr(shown)
    assert keys.pair("eve")[0].decode() in text  # a public key is no secret
    for secret in secrets:
        assert secret not in text


# Routing ids and rights (S8, W12)


def test_S8_a_peer_that_takes_a_routing_id_has_none_of_its_rights(keys):
    """A worker's connection is closed.  Another user connects under its routing id and sends its reply."""
    keys.make("worker", "client", "thief", "second")
    rules = [{"user": "worker", "serve": "*"}, {"user": "second", "serve": "*"}, {"user": "client", "call": "*"}]
    with started(keys.broker(access=rules, heartbeat_interval=60)) as (broker, _), ExitStack() as stack:
        client = stack.enter_context(AsyncClient(broker.endpoint, timeout=60, **keys.of("client")))
        worker = stack.enter_context(keys.dealer(broker.endpoint, "worker", routing_id=b"the-worker"))
        worker.send(b"MDPW02", b"\x01", b"echo")
        future = client.submit("echo", b"x")
        token = worker.recv()[2]
        worker.close()
        # Long before the worker expires: its connection is closed.
        wait_until(lambda: broker.statistics().lost_workers == {"unreachable": 1})
        thief = stack.enter_context(keys.dealer(broker.endpoint, "thief", routing_id=b"the-worker"))
        wait_until(lambda: broker.statistics().handshakes == 3)
        later = client.submit("echo", b"secret")
        wait_until(lambda: broker.statistics().queued == 2)
        thief.send(b"MDPW02", b"\x04", token, b"", b"forged")
        assert thief.recv() == [b"MDPW02", b"\x06"]
        assert not future.ready()
        with Worker(broker.endpoint, "echo", echo, **keys.of("second")):
            assert (future.get(), later.get()) == ([b"x"], [b"secret"])


def test_S8_the_last_reply_of_a_closed_connection_counts(keys):
    """A worker sends a reply and DISCONNECT, and closes at once."""
    keys.make("worker", "client")
    with keys.broker(heartbeat_interval=60) as broker, AsyncClient(broker.endpoint, **keys.of("client")) as client:
        for _ in range(20):
            worker = keys.dealer(broker.endpoint, "worker")
            worker.socket.set(zmq.LINGER, 20_000)
            worker.send(b"MDPW02", b"\x01", b"echo")
            future = client.submit("echo", b"x")
            token = worker.recv()[2]
            worker.send(b"MDPW02", b"\x04", token, b"", b"last words")
            worker.send(b"MDPW02", b"\x06")
            worker.socket.close()
            assert future.get() == [b"last words"]
        assert broker.statistics().redeliveries == 0


def test_W12_an_authenticated_worker_cannot_forge_a_reply_of_another(keys):
    """It knows the form of tokens and has had one.  A guess costs the worker its registration."""
    keys.make("worker", "client", "villain")
    with keys.broker() as broker, AsyncClient(broker.endpoint, timeout=60, **keys.of("client")) as client:
        with keys.dealer(broker.endpoint, "worker") as worker, keys.dealer(broker.endpoint, "villain") as villain:
            villain.send(b"MDPW02", b"\x01", b"other")
            own = client.submit("other", b"x")
            token = villain.recv()[2]
            worker.send(b"MDPW02", b"\x01", b"echo")
            future = client.submit("echo", b"x")
            right = worker.recv()[2]
            # The tokens differ in the number of the assignment only.
            forged = bytearray(token)
            at = next(at for at, (a, b) in enumerate(zip(token, right, strict=True)) if a != b)
            forged[at:] = right[at:]
            assert bytes(forged) == right
            villain.send(b"MDPW02", b"\x04", bytes(forged), b"", b"forged")
            wait_until(lambda: broker.statistics().drops == {"stray_reply": 1})
            assert villain.recv() == [b"MDPW02", b"\x06"]
            assert not future.ready()
            worker.send(b"MDPW02", b"\x04", right, b"", b"honest")
            assert future.get() == [b"honest"]
            own.cancel()


def test_two_peers_of_one_key_are_one_user_to_the_queue(keys):
    """Fairness is between users: two connections of one user have one lane."""
    keys.make("greedy", "modest", "worker")
    with keys.broker() as broker, ExitStack() as stack:
        first, second = (stack.enter_context(keys.dealer(broker.endpoint, "greedy")) for _ in range(2))
        modest = stack.enter_context(keys.dealer(broker.endpoint, "modest"))
        for number in range(10):
            for peer in (first, second):
                peer.send(b"MDPC02", b"\x01", b"echo", b"greedy %d" % number)
        wait_until(lambda: broker.statistics().queued == 20)
        modest.send(b"MDPC02", b"\x01", b"echo", b"modest")
        wait_until(lambda: broker.statistics().queued == 21)
        seen = []
        with Worker(broker.endpoint, "echo", lambda r: seen.append(r.body[0]) or b"", **keys.of("worker")):
            modest.recv()
        assert seen.index(b"modest") <= 1


# Hostile bytes and floods at a live socket (B4 to B7)


def test_B4_hostile_messages_of_an_authenticated_peer(keys):
    """Random, truncated, empty and many frames are dropped and counted, and no other peer notices."""
    keys.make("worker", "client", "eve")
    junk = [
        [b""],
        [b"", b""],
        [b"\0" * 1000],
        [b"MDPC02"],
        [b"MDPC02", b"\x01"],
        [b"MDPC02", b"\x01", b""],
        [b"MDPC02", b"\x09", b"echo", b"x"],
        [b"", b"MDPC01"],
        [b"MDPW02", b"\x04", b"token", b"", b"x"],
        [b"MDPW02", b"\xff"],
        [b"MDPC02", b"\x01", b"\xff\xfe\x00", b"x"],
        [b"x"] * 5000,
        [b"\x89MDC\x01" + bytes(32), b"", b"MDPC02", b"\x01", b"echo", b"x"],
        *([os.urandom(n % 40) for n in range(m)] for m in range(1, 20)),
    ]
    with keys.broker() as broker, keys.dealer(broker.endpoint, "eve") as eve:
        with Worker(broker.endpoint, "echo", echo, **keys.of("worker")):
            with Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
                eve.send_all(junk)
                assert eve.pending() is not None  # the broker has read all of it
                assert client.request("echo", b"x") == [b"x"]
        drops = broker.statistics().drops
        assert drops["malformed"] > 20
        assert drops["too_many_frames"] == 1


def services(count):
    return ([b"MDPC02", b"\x01", b"service %d" % number, b"x"] for number in range(count))


@pytest.mark.parametrize("count", [5_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.deadline(900)])])
def test_B5_distinct_service_names_are_capped_and_collected(keys, count):
    """One user cannot fill the table, idle services are forgotten, and memory does not grow."""
    keys.make("eve", "client")
    limits = {"max_services": 200, "max_user_services": 100, "request_ttl": 0.5, "max_user_rate": 1e6}
    with keys.broker(**limits) as broker, keys.dealer(broker.endpoint, "eve") as eve:
        eve.send_all(services(500))
        eve.pending()
        memory = resident()
        eve.send_all(services(count))
        eve.pending()
        assert len(broker.statistics().services) <= 100
        with AsyncClient(broker.endpoint, timeout=20, **keys.of("client")) as client:
            future = client.submit("mine", b"x")
            wait_until(lambda: b"mine" in broker.statistics().services)
            future.cancel()
        wait_until(lambda: not broker.statistics().services)
        now = broker.statistics()
        refused = now.drops["user_services_full"]
        assert refused > 0
        assert now.requests + refused == 500 + count + 1  # how many expire meanwhile depends on the machine
        assert resident() - memory < 20 * 1024 * 1024


def resident():
    """Bytes of resident memory of this process."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_B6_a_flood_without_a_worker_stays_within_its_bounds(keys):
    """In number and in bytes.  Requests above the bounds are refused, and another user finds room."""
    keys.make("eve", "client")
    limits = {"max_queue": 1_000, "max_queue_bytes": 1_000_000, "max_user_bytes": 200_000, "max_user_rate": 1e6}
    with keys.broker(**limits) as broker, keys.dealer(broker.endpoint, "eve") as eve:
        eve.send_all([b"MDPC02", b"\x01", b"echo", b"x" * 1000] for _ in range(3_000))
        eve.pending()
        now = broker.statistics()
        assert now.queued_bytes <= 200_000
        assert now.drops["bytes_full"] >= 2_800
        eve.send_all([b"MDPC02", b"\x01", b"more", b"x"] for _ in range(3_000))
        eve.pending()
        with AsyncClient(broker.endpoint, timeout=60, **keys.of("client")) as client:
            future = client.submit("echo", b"x" * 1000)
            wait_until(lambda: broker.statistics().queued_bytes > now.queued_bytes)
            assert not future.ready()
            assert broker.statistics().queued <= 2_200
            future.cancel()


def test_the_rate_of_a_user_is_limited_and_recorded(keys):
    keys.make("client")
    with started(keys.broker(max_user_rate=20)) as (broker, records):
        with AsyncClient(broker.endpoint, timeout=60, **keys.of("client")) as client:
            futures = [client.submit("mmi.broker", b"") for _ in range(60)]
            gevent.wait(futures)
            refused = [future for future in futures if isinstance(future.exception, Overloaded)]
            assert 20 <= len(refused) <= 40
        assert broker.statistics().drops == {"rate_full": len(refused)}
    assert records[0].reason == "rate_full"


def test_B7_a_frame_above_the_limit_costs_only_its_sender_the_connection(keys):
    """A gmdp client refuses to send it."""
    keys.make("worker", "client", "eve")
    with keys.broker(max_frame_size=10_000) as broker, keys.dealer(broker.endpoint, "eve") as eve:
        with Worker(broker.endpoint, "echo", echo, **keys.of("worker")):
            with Client(broker.endpoint, timeout=20, **keys.of("client")) as client:
                assert client.request("echo", b"x" * 9_000) == [b"x" * 9_000]
                wait_until(lambda: broker.statistics().connections == 3)
                eve.socket.set(zmq.RECONNECT_IVL, 60_000)
                eve.send(b"MDPC02", b"\x01", b"echo", b"x" * 20_001)
                wait_until(lambda: broker.statistics().connections == 2)
                with pytest.raises(MessageTooLarge):
                    client.request("echo", b"x" * 10_001)
                assert client.request("echo", b"x") == [b"x"]
                assert client.statistics().disconnects == 0
        assert broker.statistics().requests == 2


def test_bytes_that_are_no_zmtp_do_not_hurt_an_unsecured_broker_either():
    """In many lengths; also connections that are reset at once."""
    with Broker("tcp://127.0.0.1:*", handshake_timeout=0.3) as broker:
        for size in (0, 1, 9, 10, 63, 64, 65, 1000):
            half_open(broker.endpoint, os.urandom(size)).close()
            connection = half_open(broker.endpoint, b"\xff" + bytes(size))
            connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        with Client(broker.endpoint, timeout=20) as client:
            assert client.request("mmi.broker", b"")[0] == b"200"
        wait_until(lambda: broker.statistics().connections == 0)
        assert broker.statistics().handshakes == 1


def test_bare_peers_of_the_tests_have_keys(keys):
    """No test above is refused for want of a key."""
    keys.make("client")
    with keys.broker() as broker:
        with BarePeer(zmq.DEALER, broker.endpoint, keys.pair("client"), keys.pair("broker")[0]) as peer:
            assert _asked(peer)[0][3] == b"200"
