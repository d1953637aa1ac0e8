"""A broker's engine with real sockets: lost peers, peers that do not read, large messages."""

import math
import signal
import subprocess
import sys
from time import monotonic

import gevent
import peers
import pytest
import strangers
import zmq
import zmq.green
from gevent.event import Event
from waiting import wait_until

from gmdp import AsyncClient, AuthenticationFailed, Broker, Client, HandlerFailed, MessageTooLarge, NotAllowed, Worker
from gmdp.core.broker.services import BURST
from gmdp.core.liveness import Pulse


def echo(request):
    return request.body


# Workers that are lost
WORKER_PROCESS = """
import sys, gmdp
def handler(request):
    if request.body == [b"die" ] and request.attempt == 1:
        print("has it", flush=True)
        sys.stdin.read()  # blocks the hub: only a signal ends this
    return b"%d" % request.attempt
gmdp.Worker(sys.argv[1], "it", handler, heartbeat_interval=float(sys.argv[2])).serve_forever()
"""


@pytest.fixture
def worker_process():
    """A function that starts a worker in a process of its own."""
    processes = []

    def start(endpoint, interval):
        command = [sys.executable, "-c", WORKER_PROCESS, endpoint, str(interval)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def read_line(process):
    return gevent.get_hub().threadpool.apply(process.stdout.readline)


def test_W1_a_killed_workers_request_is_delivered_to_another(worker_process):
    """The broker notices within one interval that its peer is unreachable."""
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.1) as broker, AsyncClient(broker.endpoint) as client:
        process = worker_process(broker.endpoint, 0.1)
        future = client.submit("it", b"die", timeout=60)
        assert read_line(process) == b"has it\n"
        process.send_signal(signal.SIGKILL)
        with Worker(broker.endpoint, "it", lambda request: b"%d" % request.attempt):
            assert future.get() == [b"2"]
        now = broker.statistics()
        assert now.redeliveries == 1
        assert now.lost_workers["unreachable"] == 1
        assert (now.requests, now.replies) == (1, 1)


def test_L1_the_end_of_a_connection_makes_the_broker_ask_for_mute_workers(monkeypatch):
    """The worker's process has ended: the broker does not wait for its next HEARTBEAT to say so."""
    monkeypatch.setattr(Pulse, "next_heartbeat", lambda pulse, interval: math.inf)
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.1) as broker, AsyncClient(broker.endpoint) as client:
        with peers.dealer(broker.endpoint) as worker:
            worker.send(b"MDPW02", b"\x01", b"it")
            client.submit("it", b"x", timeout=60)
            wait_until(lambda: broker._core.awaits_mute)
        wait_until(lambda: broker.statistics().lost_workers == {"unreachable": 1}, timeout=10)
        assert broker.statistics().queued == 1


def test_W1_a_worker_that_has_ended_is_found_though_the_socket_is_never_read_empty(monkeypatch):
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.1) as broker, AsyncClient(broker.endpoint) as client:
        with peers.dealer(broker.endpoint) as worker:
            worker.send(b"MDPW02", b"\x01", b"it")
            client.submit("it", b"x", timeout=60)
            wait_until(lambda: broker._core.awaits_mute)
            monkeypatch.setattr(broker._engine, "on_caught_up", lambda now: None)
        wait_until(lambda: broker.statistics().lost_workers == {"unreachable": 1}, timeout=10)
        assert broker.statistics().queued == 1


def test_W2_a_frozen_workers_request_is_delivered_again_and_its_late_reply_dropped(worker_process):
    """The ZeroMQ thread of a frozen worker does not answer heartbeats, either."""
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.1) as broker, AsyncClient(broker.endpoint) as client:
        process = worker_process(broker.endpoint, 0.1)
        future = client.submit("it", b"die", timeout=60)
        assert read_line(process) == b"has it\n"
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: sum(broker.statistics().lost_workers.values()) == 1)
        with Worker(broker.endpoint, "it", lambda request: b"%d" % request.attempt):
            assert future.get() == [b"2"]
        process.send_signal(signal.SIGCONT)
        process.stdin.close()  # lets the handler end
        # It finds its connection gone, registers again and works.
        wait_until(lambda: broker.statistics().registrations == 3)
        assert client.request("it", b"x") == [b"1"]
        now = broker.statistics()
        assert (now.requests, now.replies, now.redeliveries) == (2, 2, 1)


def test_B11_after_a_blocked_hub_no_worker_is_expired(worker_process):
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.2) as broker:
        for _ in range(3):
            worker_process(broker.endpoint, 0.2)
        wait_until(lambda: broker.statistics().workers == 3)
        for _ in range(3):
            until = monotonic() + 1.2  # twice the expiry
            while monotonic() < until:
                pass
            gevent.sleep(0)
            assert broker.statistics().workers == 3
        assert broker.statistics().lost_workers == {}


def test_B8_the_wall_clock_changes_nothing(monkeypatch):
    import time

    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.1) as broker, Client(broker.endpoint) as client:
        with Worker(broker.endpoint, "echo", echo, heartbeat_interval=0.1):
            real = time.time
            for jump in (3600, -3600):
                monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
                until = monotonic() + 0.6
                wait_until(lambda until=until: monotonic() > until)
                assert client.request("echo", b"x", timeout=30) == [b"x"]
        assert broker.statistics().lost_workers.keys() <= {"disconnect"}
        assert broker.statistics().expiries == 0


def test_C2_a_client_gone_before_the_reply_frees_the_worker(broker):
    hold = Event()
    with Worker(broker.endpoint, "held", lambda r: hold.wait() and r.body):
        # ZeroMQ's threads close a connection when they come to it: once more, if that was late.
        for tried in range(1, 50):
            hold.clear()
            with peers.dealer(broker.endpoint) as gone:
                gone.send(b"MDPC02", b"\x01", b"held", b"1")
                wait_until(lambda: broker.statistics().assigned)
            gevent.sleep(0.001 * tried)
            hold.set()
            wait_until(lambda tried=tried: broker.statistics().replies == tried)
            if broker.statistics().drops:
                break
        assert broker.statistics().drops == {"client_gone": 1}
        with Client(broker.endpoint) as client:
            assert client.request("held", b"2") == [b"2"]


def test_C7_two_peers_with_one_routing_id(broker):
    """The second peer gets no service, the first notices nothing."""
    context = zmq.green.Context.instance()
    peers = []
    for _ in range(2):
        peer = context.socket(zmq.DEALER)
        peer.set(zmq.LINGER, 0)
        peer.set(zmq.IDENTITY, b"twin")
        peer.connect(broker.endpoint)
        peers.append(peer)
        peer.send_multipart([b"MDPC02", b"\x01", b"mmi.nothing", b""])
        if len(peers) == 1:
            assert peer.recv_multipart() == [b"MDPC02", b"\x03", b"mmi.nothing", b"501"]
    first, second = peers
    first.send_multipart([b"MDPC02", b"\x01", b"mmi.nothing", b""])
    assert first.recv_multipart()[-1] == b"501"
    assert not second.poll(50)
    assert broker.statistics().management == 2
    for peer in peers:
        peer.close()


def test_B7_a_frame_above_the_limit_costs_its_sender_the_connection_only():
    context = zmq.green.Context.instance()
    options = {"max_frame_size": 1000}
    with Broker("tcp://127.0.0.1:*", **options) as broker, Worker(broker.endpoint, "echo", echo):
        rude = context.socket(zmq.DEALER)
        rude.set(zmq.LINGER, 0)
        rude.connect(broker.endpoint)
        with Client(broker.endpoint) as client:
            assert client.request("echo", b"x" * 1000) == [b"x" * 1000]
            monitor = rude.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            rude.send_multipart([b"MDPC02", b"\x01", b"echo", b"x" * 2001])
            monitor.recv_multipart()
            rude.disable_monitor()
            assert client.request("echo", b"y") == [b"y"]
            assert client.statistics().disconnects == 0
        assert broker.statistics().requests == 2
        rude.close()
        monitor.close()


@pytest.mark.parametrize("size", [1001, 2000, 9000])
@pytest.mark.parametrize("kind", ["inproc", "tcp"])
def test_B7_F2_a_frame_above_the_limit_is_counted_and_told(tmp_path, caplog, kind, size):
    """Above twice the limit, ZeroMQ cuts a tcp connection before anything can be read."""
    endpoint = f"inproc://{tmp_path}" if kind == "inproc" else "tcp://127.0.0.1:*"
    size = min(size, 2000) if kind == "tcp" else size
    with Broker(endpoint, max_frame_size=1000) as broker:
        with peers.dealer(broker.endpoint) as rude:
            rude.send(b"MDPC02", b"\x01", b"echo", b"x" * size, b"more")
            wait_until(lambda: broker.statistics().drops == {"frame_too_large": 1})
            assert rude.pending() == []
            wait_until(lambda: "max_frame_size=1000" in caplog.text)
            assert f"a message with a frame of {size} bytes was dropped" in caplog.text


@pytest.mark.parametrize("body", [b"x" * 1001, [b"x"] * 20], ids=["bytes", "frames"])
def test_B7_a_gmdp_sender_hears_that_it_is_too_large_before_it_sends(body):
    with Broker("tcp://127.0.0.1:*", max_frame_size=1000, max_frames=20) as broker:
        with Worker(broker.endpoint, "echo", echo), Client(broker.endpoint) as client:
            assert client.request("echo", b"x" * 1000) == [b"x" * 1000]
            with pytest.raises(MessageTooLarge, match="1000 bytes a frame and 20 frames"):
                client.request("echo", body)
            assert broker.statistics().drops == {}
            assert client.statistics().disconnects == 0


def test_B7_an_answer_that_is_too_large_is_a_failure_of_the_handler():
    """The worker keeps its connection, with all its sessions."""

    def handler(request):
        if request.body == [b"parts"]:
            yield b"fine"
            yield b"x" * 1001
        return b"x" * int(request.body[0])

    with Broker("tcp://127.0.0.1:*", max_frame_size=1000) as broker:
        worker = Worker(broker.endpoint, "it", handler, reveal_errors=True)
        with worker, Client(broker.endpoint) as client:
            for body in (b"1001", b"parts"):
                with pytest.raises(HandlerFailed, match="MessageTooLarge"):
                    client.request("it", body)
                assert client.request("it", b"1000") == [b"x" * 1000]
            assert worker.statistics().reconnects == 0


def deaf_peer(endpoint, requests):
    """A DEALER that reads nothing, and has sent this many requests of 100,000 bytes."""
    deaf = zmq.green.Context.instance().socket(zmq.DEALER)
    for option, value in ((zmq.LINGER, 0), (zmq.RCVHWM, 1), (zmq.SNDHWM, 0), (zmq.RCVBUF, 4096)):
        deaf.set(option, value)
    deaf.connect(endpoint)
    for _ in range(requests):
        deaf.send_multipart([b"MDPC02", b"\x01", b"echo", b"x" * 100_000])
    return deaf


def test_B3_a_peer_that_never_reads_harms_no_other_and_is_bounded():
    """The peer's backlog holds no more bytes than are still free."""
    bound = 8_000_000
    with Broker("tcp://127.0.0.1:*", hwm=10, max_queue_bytes=bound) as broker, Worker(broker.endpoint, "echo", echo):
        deaf = deaf_peer(broker.endpoint, 10)
        with Client(broker.endpoint) as client:
            while not broker.statistics().drops:
                deaf.send_multipart([b"MDPC02", b"\x01", b"echo", b"x" * 100_000])
                assert client.request("echo", b"x") == [b"x"]
            wait_until(lambda: not broker.statistics().assigned + broker.statistics().queued)
            now = broker.statistics()
            assert set(now.drops) <= {"client_full", "bytes_full"}
            assert bound / 2 - 200_000 < now.queued_bytes <= bound / 2 + 1000
            assert now.slow_clients == 1
            for number in range(100):
                assert client.request("echo", b"%d" % number) == [b"%d" % number]
        deaf.close()
        wait_until(lambda: broker.statistics().queued_bytes == 0)
        assert broker.statistics().backlogs == 0


def test_B3_a_peer_that_pauses_gets_everything_when_it_reads_again():
    with Broker("tcp://127.0.0.1:*", hwm=10) as broker, Worker(broker.endpoint, "echo", echo):
        deaf = deaf_peer(broker.endpoint, 200)
        wait_until(lambda: broker.statistics().replies == 200)
        assert broker.statistics().backlogs == 1
        for _ in range(200):
            assert deaf.recv_multipart() == [b"MDPC02", b"\x03", b"echo", b"x" * 100_000]
        deaf.close()
        assert broker.statistics().drops == {}
        wait_until(lambda: broker.statistics().queued_bytes == 0)


def test_B4_a_message_of_100_000_frames_is_dropped_and_counted(broker):
    context = zmq.green.Context.instance()
    rude = context.socket(zmq.DEALER)
    rude.set(zmq.LINGER, 0)
    rude.connect(broker.endpoint)
    rude.send_multipart([b"MDPC02", b"\x01", b"echo", *[b""] * 100_000])
    wait_until(lambda: broker.statistics().drops == {"too_many_frames": 1})
    rude.send_multipart([b"MDPC02", b"\x01", b"mmi.nothing", b""])
    assert rude.recv_multipart()[-1] == b"501"
    rude.close()


def test_B9_no_descriptors_left_and_some_again():
    """In a process of its own, which runs out of descriptors alone."""
    script = """
import os, resource, sys, gevent, gmdp
with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.Worker(broker.endpoint, "echo", lambda r: r.body):
    with gmdp.Client(broker.endpoint) as client:
        assert client.request("echo", b"1") == [b"1"]
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        with gmdp.Client(broker.endpoint, timeout=0.3) as other:
            try:
                print("unexpected", other.request("echo", b"2"))
            except gmdp.RequestTimeout as error:
                print("open files" in str(error))
        assert client.request("echo", b"3") == [b"3"]
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with gmdp.Client(broker.endpoint) as other:
            print(other.request("echo", b"4"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("True\n[b'4']\n", 0), done.stderr


def test_a_silent_worker_is_expired_though_timers_are_a_little_late():
    """With a real clock every pass is a little late.  The broker does not take that for a blocked hub."""
    context = zmq.green.Context.instance()
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.05) as broker:
        silent = context.socket(zmq.DEALER)
        silent.set(zmq.LINGER, 0)
        silent.connect(broker.endpoint)
        silent.send_multipart([b"MDPW02", b"\x01", b"echo"])
        wait_until(lambda: broker.statistics().lost_workers == {"expired": 1}, timeout=10)
        silent.close()


def test_B3_a_peer_that_does_not_read_costs_an_idle_broker_nothing():
    """A peer without room does not make the owner look again and again."""
    with Broker("tcp://127.0.0.1:*", hwm=1) as broker, Worker(broker.endpoint, "echo", echo):
        deaf = deaf_peer(broker.endpoint, 200)
        wait_until(lambda: broker.statistics().replies == 200)
        assert broker.statistics().backlogs == 1
        passes = []
        engine = broker._engine
        on_wake = engine.on_wake
        engine.on_wake = lambda now: (passes.append(now), on_wake(now))
        until = monotonic() + 0.5
        wait_until(lambda: monotonic() > until)
        assert len(passes) < 50
        deaf.close()


# Secured brokers


@pytest.fixture
def secured():
    """A broker that asks for passwords, and its audit records.

    A user may call the services whose names begin with the name of that user.
    """
    records = []

    def check(name, password):
        return password == "right"

    def policy(user, action, service):
        return action == "serve" or service.startswith(user.encode())

    broker = Broker("tcp://127.0.0.1:*", plain_users=check, access=policy, audit=records.append)
    with broker, Worker(broker.endpoint, "ann.echo", echo, username="worker", password="right"):
        yield broker, records


def test_a_secured_broker_serves_its_users_and_records_what_it_refuses(secured):
    broker, records = secured
    with Client(broker.endpoint, timeout=20, username="ann", password="right") as client:
        assert client.request("ann.echo", b"x") == [b"x"]
    with Client(broker.endpoint, timeout=20, username="bob", password="right") as client, pytest.raises(NotAllowed):
        client.request("ann.echo", b"x")
    (record,) = records
    assert (record.kind, record.user, record.address) == ("call_refused", "bob", "127.0.0.1")
    assert (record.service, record.reason) == (b"ann.echo", "not_allowed")


def test_a_secured_broker_records_a_wrong_password(secured):
    broker, records = secured
    with Client(broker.endpoint, timeout=20, username="ann", password="wrong") as client:
        with pytest.raises(AuthenticationFailed):
            client.request("ann.echo", b"x")
    assert {(record.kind, record.user, record.reason) for record in records} == {
        ("connection_refused", "ann", "password")
    }
    assert broker.statistics().refused_connections["password"] >= 1


def test_a_secured_broker_has_a_context_of_its_own_that_ends_with_it(secured):
    broker, _ = secured
    context = broker._engine._own_context
    assert context is not zmq.green.Context.instance()
    broker.stop()
    assert context.closed
    broker.start()
    assert broker._engine._own_context is not context


class AnnsPeer(peers.Peer):
    """A client without words for its end: its connection is closed, and nothing else is said."""

    def prepare(self, socket):
        socket.plain_username, socket.plain_password = b"ann", b"right"


@pytest.mark.parametrize("flooded", [False, True])
def test_a_closed_connection_s_peer_is_gone_where_messages_tell_their_connection(flooded, monkeypatch):
    """At once; where the socket is never read empty, after an expiry."""
    credentials = {"username": "ann", "password": "right"}
    broker = Broker("tcp://127.0.0.1:*", plain_users=lambda name, password: True, heartbeat_interval=0.2)
    hold = Event()
    with broker, Worker(broker.endpoint, "held", lambda request: hold.wait() and b"", **credentials):
        wait_until(lambda: broker.statistics().workers == 1)
        with AnnsPeer(zmq.DEALER, broker.endpoint) as client:
            for body in (b"runs", b"waits"):
                client.send(b"", b"MDPC02", b"\x01", b"held", body)
            wait_until(lambda: broker.statistics().queued == 1)
            if flooded:
                monkeypatch.setattr(broker._engine, "on_caught_up", lambda now: None)
            closed_at = monotonic()
        wait_until(lambda: broker.statistics().queued == 0)
        assert not flooded or monotonic() - closed_at >= 0.6
        assert broker.statistics().ended == {"client_gone": 1}
        hold.set()


@pytest.mark.parametrize("end", ["expiry", "close"])
def test_G19_others_have_their_turn_while_many_requests_end(end):
    """Between any two bursts; before, there was one turn or two."""
    broker = Broker("tcp://127.0.0.1:*", request_ttl=0.05 if end == "expiry" else 30.0)
    broker.start()
    try:
        count = 20 * BURST
        for _ in range(count):
            broker.enqueue("nobody", b"x")
        turns, ended = [], Event()

        def live():
            while not ended.is_set():
                turns.append(broker._core.queued)
                gevent.sleep(0)

        living = gevent.spawn(live)
        if end == "close":
            broker.close()
        else:
            wait_until(lambda: broker.statistics().queued == 0)
        ended.set()
        living.join()
        between = {queued for queued in turns if 0 < queued < count}
        assert len(between) >= count // BURST // 2
    finally:
        broker.close()


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G2_a_tracer_provider_that_fails_does_not_end_the_broker(broker, monkeypatch, name):
    pytest.importorskip("opentelemetry.trace")
    for module in ("gmdp.client.client", "gmdp.worker.handlers"):  # they may run in another process
        monkeypatch.setattr(f"{module}.tracer", lambda: None)
    asked = []
    monkeypatch.setattr("gmdp.tracing._tracer", None)
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: asked.append(1) or strangers.throw(name))
    broker._core.trace()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with AsyncClient(broker.endpoint, timeout=20) as client:
        future = client.submit("later", b"", traceparent=trace)
        wait_until(lambda: broker.statistics().queued)
        with Worker(broker.endpoint, "later", lambda request: b"done"):
            assert future.get(timeout=30) == [b"done"]
    assert asked
