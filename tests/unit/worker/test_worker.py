"""Workers with real sockets: handlers, heartbeats, draining, reconnecting."""

import logging
from time import monotonic

import gevent
import peers
import pytest
import zmq
import zmq.green
from gevent.event import Event
from gevent.pool import Pool
from waiting import wait_until

from gmdp import (
    AsyncClient,
    Broker,
    BrokerShuttingDown,
    Client,
    ConfigurationError,
    HandlerFailed,
    RequestTimeout,
    State,
    Worker,
)
from gmdp.core.peer.sessions import WorkerConnection
from gmdp.io.link import Link
from gmdp.io.owner import Owner


def echo(request):
    return request.body


@pytest.fixture
def client(broker):
    with AsyncClient(broker.endpoint) as client:
        yield client


# What a handler returns


@pytest.mark.parametrize("version", ["0.1", "0.2"])
@pytest.mark.parametrize(
    ("returned", "reply"),
    [
        (b"one", [b"one"]),
        (bytearray(b"one"), [b"one"]),
        ([b"a", b"b"], [b"a", b"b"]),
        ((b"a", b""), [b"a", b""]),
        ([], [b""]),
        (b"", [b""]),
    ],
)
def test_handler_returns_bytes_or_frames(broker, client, version, returned, reply):
    with Worker(broker.endpoint, "it", lambda request: returned, version=version) as worker:
        assert client.request("it", b"x") == reply
        assert worker.statistics().errors == 0


def parts(request):
    yield b"first"
    yield [b"second", b"half"]
    return b"last"


def bare_parts(request):
    yield b"first"
    yield b"second"


@pytest.mark.parametrize(
    ("handler", "streamed", "joined"),
    [
        (parts, [[b"first"], [b"second", b"half"], [b"last"]], [b"first", b"second", b"half", b"last"]),
        (bare_parts, [[b"first"], [b"second"]], [b"first", b"second"]),
        (lambda request: iter([b"x", b"y"]), [[b"x"], [b"y"]], [b"x", b"y"]),
        (lambda request: iter([]), [[b""]], [b""]),
    ],
)
def test_handler_returns_an_iterator(broker, client, handler, streamed, joined):
    """Each item is a PARTIAL, the return value the FINAL; joined for 0.1."""
    with Worker(broker.endpoint, "new", handler), Worker(broker.endpoint, "old", handler, version="0.1"):
        assert list(client.stream("new", b"")) == streamed
        assert client.request("new", b"") == joined
        assert list(client.stream("old", b"")) == [joined]


def test_a_part_goes_out_before_the_next_is_made(broker, client):
    proceed = Event()

    def handler(request):
        yield b"first"
        proceed.wait()
        yield b"second"

    with Worker(broker.endpoint, "parts", handler):
        stream = client.stream("parts", b"")
        assert next(stream) == [b"first"]
        proceed.set()
        assert list(stream) == [[b"second"]]


def test_a_long_stream_arrives_whole_and_in_order(broker, client):
    count = 20_000

    def handler(request):
        for number in range(count):
            yield b"%d" % number

    with Worker(broker.endpoint, "numbers", handler):
        for number, part in enumerate(client.stream("numbers", b"")):
            assert part == [b"%d" % number]
        assert number == count - 1


def broken(request):
    raise ValueError("a secret")


def nonsense(request):
    return 42


def text(request):
    return "text"


def broken_parts(request):
    yield b"fine"
    raise ValueError("a secret")


def killed(request):
    raise gevent.GreenletExit


def leaving(request):
    raise SystemExit(3)


@pytest.mark.parametrize("handler", [broken, nonsense, text, killed, leaving, lambda request: iter([3])])
@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_W6_a_handler_fails_and_the_worker_lives_on(broker, client, handler, version):
    """A gmdp client gets a typed error, a strict one the configured reply; neither learns why."""
    fail = Event()
    fail.set()
    with Worker(broker.endpoint, "it", lambda r: handler(r) if fail.is_set() else r.body, version=version) as worker:
        with pytest.raises(HandlerFailed) as caught:
            client.request("it", b"x")
        assert (caught.value.type_name, caught.value.detail) == ("", "")
        assert (caught.value.service, caught.value.attempt, caught.value.deliveries) == (b"it", 1, 1)
        assert peers.ask(broker.endpoint, b"it", b"x") == [[b"500"]]
        assert worker.statistics().errors == 2
        fail.clear()
        assert client.request("it", b"x") == [b"x"]
        assert broker.statistics().handler_failures == 2


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_W6_a_worker_may_reveal_why_a_handler_failed_to_gmdp_clients(broker, client, version):
    with Worker(broker.endpoint, "it", broken, version=version, reveal_errors=True):
        with pytest.raises(HandlerFailed, match="ValueError: a secret") as caught:
            client.request("it", b"x")
        assert (caught.value.type_name, caught.value.detail) == ("ValueError", "a secret")
        assert peers.ask(broker.endpoint, b"it", b"x") == [[b"500"]]


def test_W6_a_handler_killed_from_outside(broker, client):
    pool = Pool(3)
    hold = Event()
    with Worker(broker.endpoint, "it", lambda request: hold.wait() and b"done", spawn=pool):
        future = client.submit("it", b"")
        wait_until(lambda: len(pool))
        pool.kill()
        with pytest.raises(HandlerFailed):
            future.get()
        hold.set()
        assert client.request("it", b"") == [b"done"]


def test_W6_a_handler_killed_before_it_began(broker, client):
    spawned = []

    def spawn(function, *args):
        spawned.append(gevent.spawn(function, *args))
        if len(spawned) == 1:
            spawned[0].kill(block=False)
        return spawned[-1]

    with Worker(broker.endpoint, "it", echo, spawn=spawn):
        with pytest.raises(HandlerFailed):
            client.request("it", b"1")
        assert client.request("it", b"2") == [b"2"]


def test_W6_spawn_itself_fails(broker, client):
    fail = [True]

    def spawn(function, *args):
        if fail.pop():
            raise RuntimeError("no more greenlets")
        return gevent.spawn(function, *args)

    with Worker(broker.endpoint, "it", echo, spawn=spawn):
        fail[:] = [False, True]
        with pytest.raises(HandlerFailed):
            client.request("it", b"1")
        assert client.request("it", b"2") == [b"2"]


def test_W6_the_dispatcher_is_killed_by_a_stranger(broker, client):
    with Worker(broker.endpoint, "it", echo, spawn=2) as worker:
        assert client.request("it", b"1") == [b"1"]
        worker._engine._dispatchers[0].starter.kill()
        assert client.request("it", b"2") == [b"2"]


def test_error_reply_is_an_option_and_nothing_internal_leaks(broker, client):
    with Worker(broker.endpoint, "it", broken, error_reply=[b"oops", b"7"]):
        assert peers.ask(broker.endpoint, b"it", b"") == [[b"oops", b"7"]]


def test_a_stream_that_breaks_ends_with_the_error(broker, client):
    with Worker(broker.endpoint, "it", broken_parts):
        stream = client.stream("it", b"")
        assert next(stream) == [b"fine"]
        with pytest.raises(HandlerFailed):
            next(stream)
        assert peers.ask(broker.endpoint, b"it", b"") == [[b"fine"], [b"500"]]


# What a handler gets


def test_the_request_tells_what_is_known(broker, client):
    seen = []

    def handler(request):
        seen.append(request)
        return b""

    before = monotonic()
    with Worker(broker.endpoint, "it", handler):
        client.request("it", [b"a", b"b"])
    (request,) = seen
    assert (request.service, request.body, request.attempt) == (b"it", [b"a", b"b"], 1)
    assert 0 < request.remaining() <= client.timeout
    assert dict(request.metadata) == {}
    assert before <= request.received <= monotonic()
    assert 0 <= request.age <= monotonic() - before
    assert repr(request) == "<Request b'it' attempt=1 frames=2 bytes=2>"


# How handlers run


@pytest.mark.parametrize(
    "spawn",
    [None, "default", "raw", 2, Pool(2), gevent.spawn, lambda f, *args: f(*args)],
    ids=["None", "default", "raw", "2", "Pool", "gevent.spawn", "lambda"],
)
def test_spawn_is_what_gevents_servers_take(broker, client, spawn):
    with Worker(broker.endpoint, "it", echo, concurrency=2, spawn=spawn):
        assert sorted(client.map("it", [b"%d" % n for n in range(20)])) == sorted([[b"%d" % n] for n in range(20)])


def test_W7_a_computing_handler_off_the_hub_keeps_its_heartbeats(thread_pool):
    """In a ThreadPool a handler may hold its thread far longer than the expiry."""
    gate = gevent.monkey.get_original("threading", "Lock")()
    gate.acquire()

    def compute(request):
        gate.acquire()
        return b"done"

    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.02, busy_timeout=0.5) as broker:
        worker = Worker(broker.endpoint, "it", compute, spawn=thread_pool(1), heartbeat_interval=0.02)
        with worker, AsyncClient(broker.endpoint) as client:
            future = client.submit("it", b"")
            wait_until(lambda: worker.statistics().busy)
            began = monotonic()
            wait_until(lambda: monotonic() - began > 1.0)  # fifteen times the expiry, twice busy_timeout
            gate.release()
            assert future.get() == [b"done"]
            assert worker.statistics().reconnects == 0
            assert broker.statistics().redeliveries == 0


def block(seconds):
    until = monotonic() + seconds
    while monotonic() < until:
        pass


TOLD = {
    "handler": "while a handler of b'sluggish' ran; one that computes belongs into a ThreadPool",
    "another": "and with it the worker of b'sluggish'",
}


@pytest.mark.parametrize("who", TOLD)
def test_W7_a_hub_that_was_blocked_for_longer_than_an_interval_is_told_with_the_service(
    broker, client, caplog, monkeypatch, who
):
    """Long before the broker thinks that the worker is lost: after an interval, not an expiry."""
    monkeypatch.setattr(Owner, "safety_interval", 0.01)

    def handler(request):
        block(0.4)
        return b""

    with Worker(broker.endpoint, "sluggish", handler, heartbeat_interval=0.2) as worker:
        wait_until(lambda: worker.state is State.RUNNING)
        with caplog.at_level(logging.WARNING, "gmdp.worker"):
            if who == "handler":
                client.request("sluggish", b"")
            else:
                block(0.4)
            wait_until(lambda: TOLD[who] in caplog.text)
    assert "the hub did not run for 0." in caplog.text
    assert (TOLD["handler"] in caplog.text) is (who == "handler")


def test_concurrency_is_the_number_of_requests_at_once(broker, client):
    running, most = [], []
    release = Event()

    def handler(request):
        running.append(request)
        most.append(len(running))
        release.wait()
        running.remove(request)
        return b""

    with Worker(broker.endpoint, "it", handler, concurrency=3) as worker:
        futures = [client.submit("it", b"") for _ in range(7)]
        wait_until(lambda: broker.statistics().assigned == 3 and broker.statistics().queued == 4)
        wait_until(lambda: len(running) == 3)
        assert worker.statistics().busy == 3
        release.set()
        assert [future.get() for future in futures] == [[b""]] * 7
    assert max(most) == 3


def test_heartbeats_do_not_wait_for_a_handler():
    hold = Event()
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.02, busy_timeout=0.3) as broker:
        worker = Worker(broker.endpoint, "it", lambda r: hold.wait() and b"done", heartbeat_interval=0.02)
        with worker, AsyncClient(broker.endpoint) as client:
            future = client.submit("it", b"")
            wait_until(lambda: broker.statistics().assigned)
            began = monotonic()
            wait_until(lambda: monotonic() - began > 0.6)
            hold.set()
            assert future.get() == [b"done"]
            assert broker.statistics().lost_workers == {}


# Stopping


def test_W15_stop_finishes_the_running_request(broker, client):
    hold = Event()
    worker = Worker(broker.endpoint, "it", lambda request: hold.wait() and b"done")
    worker.start()
    future = client.submit("it", b"")
    wait_until(lambda: worker.statistics().busy)
    stopper = gevent.spawn(worker.stop)
    wait_until(lambda: worker.state is State.DRAINING)
    assert not worker.started
    assert not worker.closed
    hold.set()
    stopper.get()
    assert worker.closed
    assert future.get() == [b"done"]
    wait_until(lambda: broker.statistics().lost_workers == {"disconnect": 1})


def test_W15_past_the_timeout_the_request_is_delivered_again(broker, client):
    hold, attempts, ended = Event(), [], []

    def stuck(request):
        attempts.append(request.attempt)
        try:
            hold.wait()
        finally:
            ended.append(1)

    worker = Worker(broker.endpoint, "it", stuck)
    worker.start()
    future = client.submit("it", b"x")
    wait_until(lambda: attempts == [1])
    worker.stop(timeout=0.01)
    assert worker.closed
    wait_until(lambda: ended)  # the handler was killed
    with Worker(broker.endpoint, "it", lambda request: b"%d" % request.attempt):
        assert future.get() == [b"2"]
    assert broker.statistics().redeliveries == 1


@pytest.mark.parametrize("spawn", [None, "thread"])
def test_stop_from_ones_own_handler_returns_at_once(broker, client, thread_pool, spawn):
    def handler(request):
        worker.stop()
        return b"state %s" % worker.state.value.encode()

    pool = thread_pool(1) if spawn else None
    worker = Worker(broker.endpoint, "it", handler, spawn=pool)
    worker.start()
    assert client.request("it", b"") == [b"state draining"]
    wait_until(lambda: worker.closed)


def test_close_from_ones_own_handler_does_not_kill_it(broker, client):
    after = []

    def handler(request):
        worker.close()
        gevent.sleep(0)
        after.append(worker.state)
        gevent.sleep(0)
        return b""

    worker = Worker(broker.endpoint, "it", handler)
    worker.start()
    future = client.submit("it", b"", timeout=60)
    wait_until(lambda: worker.closed)
    wait_until(lambda: after)
    with Worker(broker.endpoint, "it", lambda request: b"second"):
        assert future.get() == [b"second"]


# Connecting


def test_a_worker_started_before_its_broker_registers_when_there_is_one(unused_endpoint):
    with Worker(unused_endpoint, "it", echo, reconnect_interval=0.01) as worker:
        changes = worker.subscribe()
        assert worker.state is State.CONNECTING
        with Broker(unused_endpoint), Client(unused_endpoint) as client:
            assert client.request("it", b"x") == [b"x"]
            assert changes.get().new is State.RUNNING


@pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc"])
def test_B1_a_worker_recovers_when_its_broker_is_started_again(unused_endpoint, tmp_path, transport):
    endpoint = {"tcp": unused_endpoint, "ipc": f"ipc://{tmp_path}/b", "inproc": f"inproc://{tmp_path}"}[transport]
    broker = Broker(endpoint, heartbeat_interval=0.1)
    broker.start()
    with Worker(endpoint, "it", echo, concurrency=2, reconnect_interval=0.01, heartbeat_interval=0.1) as worker:
        wait_until(lambda: worker.statistics().registered == 2)
        for _ in range(3):
            broker.close()
            wait_until(lambda: worker.state is State.CONNECTING)
            broker.start()
            wait_until(lambda: worker.statistics().registered == 2)
            with Client(endpoint) as client:
                assert client.request("it", b"x") == [b"x"]
        assert worker.statistics().reconnects == 3
    broker.close()


def test_several_endpoints_the_first_that_answers_then_the_next(unused_endpoint):
    first = Broker(unused_endpoint)
    first.start()
    with Broker("tcp://127.0.0.1:*") as second:
        endpoints = [first.endpoint, second.endpoint]
        with Worker(endpoints, "it", echo, reconnect_interval=0.01), Client(endpoints) as client:
            assert client.request("it", b"1") == [b"1"]
            assert first.statistics().replies == 1
            first.close()
            assert client.request("it", b"2", retries=1, timeout=60) == [b"2"]
            assert second.statistics().replies == 1


def test_a_handler_whose_broker_was_lost_runs_on_alone(unused_endpoint):
    """The session registers again only when its handler has ended: never two at once."""
    running, most, hold = [], [], Event()

    def handler(request):
        running.append(request)
        most.append(len(running))
        if request.body == [b"hold"]:
            hold.wait()
        running.remove(request)
        return b"done"

    broker = Broker(unused_endpoint)
    broker.start()
    with Worker(unused_endpoint, "it", handler, reconnect_interval=0.01) as worker:
        with AsyncClient(unused_endpoint) as client:
            future = client.submit("it", b"hold")
            wait_until(lambda: running)
            broker.close()
            with pytest.raises(BrokerShuttingDown):
                future.get()
            broker.start()
            second = client.submit("it", b"go")
            wait_until(lambda: broker.statistics().queued == 1)
            assert worker.statistics().registered == 0
            hold.set()
            assert second.get() == [b"done"]
        assert worker.statistics().late_replies == 1
    assert max(most) == 1
    broker.close()


def test_no_descriptors_left_is_one_more_lost_connection(broker, monkeypatch):
    """B9 on the worker's side: it tries again."""
    from gmdp.io import connector as module

    real, failures = module.open_dealer, [1, 2, 3]

    def open_dealer(*args):
        if failures:
            failures.pop()
            raise zmq.ZMQError(24)
        return real(*args)

    monkeypatch.setattr(module, "open_dealer", open_dealer)
    with Worker(broker.endpoint, "it", echo, reconnect_interval=0.001), Client(broker.endpoint) as client:
        assert client.request("it", b"x") == [b"x"]
    assert failures == []


# Wrong arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "nowhere"}, "must begin with tcp://"),
        ({"endpoint": "tcp://127.0.0.1:*"}, "not connect to it"),
        ({"endpoint": []}, "at least one endpoint"),
        ({"endpoint": 5}, "must be a str"),
        ({"service": ""}, "1 to 255 bytes"),
        ({"service": b"x" * 256}, "1 to 255 bytes"),
        ({"handler": 3}, "must be callable"),
        ({"concurrency": 0}, "at least 1"),
        ({"concurrency": 1.5}, "whole number"),
        ({"version": "0.3"}, '"0.1" or "0.2"'),
        ({"liveness": 2}, "at least 3"),
        ({"heartbeat_interval": 0}, "greater than 0"),
        ({"heartbeat_interval": float("nan")}, "greater than 0"),
        ({"reconnect_interval": -1}, "greater than 0"),
        ({"spawn": 0}, "spawn must be"),
        ({"spawn": "fork"}, "spawn must be"),
        ({"context": 3}, "zmq.green.Context"),
    ],
)
def test_wrong_arguments_are_told_at_once(change, message):
    arguments = {"endpoint": "tcp://127.0.0.1:5555", "service": "it", "handler": echo, **change}
    with pytest.raises(ConfigurationError, match=message):
        Worker(**arguments)


def test_a_request_for_a_service_without_workers_waits_and_times_out(client):
    with pytest.raises(RequestTimeout) as caught:
        client.request("nobody", b"", timeout=0.01)
    assert caught.value.service == b"nobody"
    assert caught.value.attempt == 1
    assert caught.value.elapsed >= 0.01


def test_draining_sends_the_end_of_an_answer_that_found_no_room(broker, client, monkeypatch):
    """What the socket had no room for goes out before it is closed."""
    full, refused = [], []
    real = Link.send

    def send(link, frames):
        if full and isinstance(link.connection, WorkerConnection):
            refused.append(frames)
            return "full"
        return real(link, frames)

    monkeypatch.setattr(Link, "send", send)

    def handler(request):
        yield b"1"
        full.append(True)
        yield b"2"
        return b"the end"

    worker = Worker(broker.endpoint, "it", handler)
    worker.start()
    future = client.submit("it", b"")
    wait_until(lambda: refused and worker.statistics().replies == 1)
    stopper = gevent.spawn(worker.stop)
    wait_until(lambda: worker.state is State.DRAINING)
    gevent.sleep(0)
    assert not worker.closed
    full.clear()
    assert future.get(timeout=60) == [b"1", b"2", b"the end"]
    stopper.get(timeout=60)
    wait_until(lambda: broker.statistics().lost_workers == {"disconnect": 1})


# A broker that is not there, or does not want it


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_broker_that_cannot_be_reached_is_told_once_for_as_long_as_that_lasts(caplog, unused_endpoint):
    with Worker(unused_endpoint, "alone", echo, reconnect_interval=0.01, heartbeat_interval=0.1) as worker:
        for _ in range(2):
            wait_until(lambda: warnings(caplog))
            for _ in range(3):
                epoch = worker._core._epoch
                wait_until(lambda epoch=epoch: worker._core._epoch > epoch)
            [told] = warnings(caplog)
            assert "worker b'alone': no broker can be reached" in told
            assert unused_endpoint in told
            assert "connection refused" in told
            with Broker(unused_endpoint):
                wait_until(lambda: worker.state is State.RUNNING)
                caplog.clear()


def test_an_endpoint_of_several_that_cannot_be_reached_is_no_trouble(broker, caplog, unused_endpoint):
    with Worker([unused_endpoint, broker.endpoint], "moved", echo) as worker:
        wait_until(lambda: worker.state is State.RUNNING)
    assert warnings(caplog) == []


def test_a_worker_that_the_broker_does_not_take_says_so_once(caplog):
    with Broker("tcp://127.0.0.1:*", max_workers=1) as broker, Worker(broker.endpoint, "first", echo):
        wait_until(lambda: broker.statistics().workers == 1)
        with Worker(broker.endpoint, "second", echo, concurrency=2, reconnect_interval=0.01) as second:
            wait_until(lambda: second._engine._rejections > 5)
            [told] = [warning for warning in warnings(caplog) if "does not keep" in warning]
            assert broker.endpoint in told
            assert "b'second'" in told


@pytest.mark.parametrize("service", ["mmi.service", b"mmi.x"])
def test_a_service_of_the_broker_s_own_is_refused(service):
    with pytest.raises(ConfigurationError, match="begins with mmi"):
        Worker("tcp://127.0.0.1:1", service, echo)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_is_too_large_is_told_and_counted(caplog, streamed):
    def handler(request):
        return iter([b"x" * 5000, b"end"]) if streamed else b"x" * 5000

    with Broker("tcp://127.0.0.1:*", max_frame_size=4000) as broker, Client(broker.endpoint) as client:
        with Worker(broker.endpoint, "large", handler) as worker:
            with pytest.raises(HandlerFailed):
                client.request("large", b"")
            assert worker.statistics().errors == 1
    [told] = warnings(caplog)
    assert "an answer of the handler of b'large' is larger than the broker takes" in told


def test_a_handler_whose_broker_has_gone_is_let_finish(unused_endpoint):
    """The stop has its time for it, as for others; and no more."""
    running, go_on, ended = Event(), Event(), []

    def handler(request):
        running.set()
        go_on.wait()
        ended.append(request.body)
        return b""

    with Broker(unused_endpoint) as broker, AsyncClient(unused_endpoint) as client:
        workers = [Worker(unused_endpoint, "held", handler, heartbeat_interval=0.1) for _ in range(2)]
        for worker in workers:
            worker.start()
        wait_until(lambda: broker.statistics().workers == 2)
        for body in (b"1", b"2"):
            running.clear()
            client.submit("held", body)
            running.wait()
        broker.close()
        first, second = workers
        wait_until(lambda: first.state is second.state is State.CONNECTING)
        second.stop(timeout=0.05)
        assert ended == []
        stopping = gevent.spawn(first.stop)
        wait_until(lambda: first.state is State.DRAINING)
        gevent.sleep(0)
        assert not stopping.ready()
        go_on.set()
        stopping.get()
    assert len(ended) == 1
