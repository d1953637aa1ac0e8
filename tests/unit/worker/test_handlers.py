"""What handlers return, how they fail, and what runs them."""

import functools
import logging
from time import monotonic
from unittest import mock

import gevent
import peers
import pytest
import strangers
from gevent.event import Event
from gevent.pool import Pool
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, ConfigurationError, HandlerFailed, StreamStalled, Worker


def echo(request):
    return request.body


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
    """Each item is a PARTIAL, the return value is the FINAL; a client of MDP/0.1 gets them joined."""
    with (
        Worker(broker.endpoint, "new", handler),
        Worker(broker.endpoint, "old", handler, version="0.1"),
        Client(broker.endpoint, version="0.1", timeout=20) as old_client,
    ):
        for service in ("new", "old"):
            assert list(client.stream(service, b"")) == streamed
            assert client.request(service, b"") == joined
            assert list(old_client.stream(service, b"")) == [joined]


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


@pytest.mark.parametrize("handler", [broken, nonsense, text, killed, lambda request: iter([3])])
@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_W6_a_handler_fails_and_the_worker_lives_on(broker, client, handler, version):
    """A gmdp client gets a typed error, a strict client the configured reply.  Neither learns the reason."""
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
    """A handler in a ThreadPool may hold its thread far longer than the expiry."""
    gate = gevent.monkey.get_original("threading", "Lock")()
    gate.acquire()

    def compute(request):
        gate.acquire()
        return b"done"

    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.1, busy_timeout=0.5) as broker:
        worker = Worker(broker.endpoint, "it", compute, spawn=thread_pool(1), heartbeat_interval=0.1)
        with worker, AsyncClient(broker.endpoint) as client:
            future = client.submit("it", b"")
            wait_until(lambda: worker.statistics().busy)
            began = monotonic()
            wait_until(lambda: monotonic() - began > 1.0)  # three times the expiry, twice busy_timeout
            gate.release()
            assert future.get() == [b"done"]
            assert worker.statistics().reconnects == 0
            assert broker.statistics().redeliveries == 0


# What a handler's errors say of themselves, and interrupts


@pytest.mark.parametrize("spawn", [None, "raw", "thread"])
@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G1_an_error_that_cannot_be_shown_is_a_failure_like_any_other(broker, client, thread_pool, spawn, name):
    def handler(request):
        if request.body == [b"bad"]:
            strangers.throw(name)
        return b"fine"

    spawn = thread_pool(1) if spawn == "thread" else spawn
    with Worker(broker.endpoint, "it", handler, spawn=spawn, reveal_errors=True) as worker:
        with pytest.raises(HandlerFailed) as caught:
            client.request("it", b"bad")
        assert 0 < len(caught.value.type_name) < 100
        assert len(caught.value.detail) <= 4_000
        assert client.request("it", b"") == [b"fine"]
        assert (worker.statistics().errors, worker.started) == (1, True)


@pytest.mark.parametrize("interrupt", strangers.INTERRUPTS)
@pytest.mark.parametrize("spawn", [None, "raw", 1])
def test_G4_an_interrupt_that_hits_a_handler_reaches_the_program(broker, client, spawn, interrupt):
    """The request has failed, and the worker goes on if the program does."""

    def handler(request):
        if request.body == [b"bad"]:
            raise interrupt
        return b"fine"

    with Worker(broker.endpoint, "it", handler, spawn=spawn):
        future = client.submit("it", b"bad")
        with pytest.raises(interrupt):
            gevent.sleep(60)
        with pytest.raises(HandlerFailed):
            future.get(timeout=30)
        assert client.request("it", b"") == [b"fine"]


def test_G3_a_log_handler_that_waits_does_not_keep_a_session(broker, client):
    go = Event()

    class Waiting(logging.Handler):
        def emit(self, record):
            go.wait()

    waiting = Waiting()
    logging.getLogger("gmdp.worker").addHandler(waiting)
    try:
        with Worker(broker.endpoint, "it", broken, spawn=1):
            for _ in range(3):
                with pytest.raises(HandlerFailed):
                    client.request("it", b"")
            go.set()
    finally:
        logging.getLogger("gmdp.worker").removeHandler(waiting)


# What can be a handler


def nothing():
    return b""


async def promise(request):
    return b""


async def promises(request):
    yield b""


def two(request, other):
    return b""


class Answering:
    """An object that answers requests."""

    def __init__(self, prefix=b""):
        self.prefix = prefix

    def __call__(self, request):
        return [self.prefix, *request.body]

    def answer(self, request):
        return request.body

    def silent(self):
        return b""


class Promising:
    """An object whose answers are coroutines."""

    async def __call__(self, request):
        return b""


@pytest.mark.parametrize(
    ("handler", "fact"),
    [
        (promise, "promise is: handlers run in greenlets"),
        (promises, "must not be async"),
        (Promising(), "Promising is: handlers run in greenlets"),
        (functools.partial(promise), "must not be async"),
        (functools.partial(functools.partial(two, other=1), b"x"), "must take one argument"),
        (mock.AsyncMock(), "must not be async"),
        (Answering, r"not the class Answering; Answering\(...\) makes one"),
        (nothing, r"must take one argument, the request, and no other; nothing takes \(\)"),
        (two, r"two takes \(request, other\)"),
        (Answering().silent, r"Answering.silent takes \(\)"),
        (0, "must be callable, not 0"),
        ("echo", "must be callable, not 'echo'"),
    ],
)
def test_G15_what_cannot_answer_a_request_is_refused_when_the_worker_is_made(handler, fact):
    with pytest.raises(ConfigurationError, match=fact):
        Worker("tcp://127.0.0.1:9999", "it", handler)


@pytest.mark.parametrize(
    "handler",
    [
        echo,
        lambda request, cache={}: b"",
        lambda *arguments: b"",
        Answering(),
        Answering().answer,
        functools.partial(two, other=1),
        mock.Mock(),
        dict.fromkeys,
        len,
    ],
)
def test_G15_what_takes_a_request_is_accepted(handler):
    assert Worker("tcp://127.0.0.1:9999", "it", handler).handler == handler


# Streams and their readers


def test_X9_a_stalled_stream_ends_on_both_sides_and_frees_its_session(endless, spawn, caplog):
    caplog.set_level("INFO", "gmdp.worker")
    with Broker("tcp://127.0.0.1:*", stream_stall_timeout=0.2) as broker:
        worker = Worker(broker.endpoint, "it", endless, spawn=spawn)
        with worker, Client(broker.endpoint, timeout=60) as client:
            stream = client.stream("it", b"")
            wait_until(lambda: endless.ended == [StreamStalled])
            assert [len(next(stream)[0]) for _ in range(endless.ahead)] == [endless.size] * endless.ahead
            with pytest.raises(StreamStalled, match=r"granted nothing for stream_stall_timeout=0\.2"):
                next(stream)
            assert list(stream) == []
            wait_until(lambda: broker.statistics().assigned == 0)
            assert broker.statistics().stalled_streams == 1
            assert worker.statistics().callers_gone == 1
    (record,) = [record for record in caplog.records if "StreamStalled" in record.getMessage()]
    assert record.levelname == "INFO"


def test_a_handler_may_end_its_stalled_stream_in_its_own_way(broker):
    """Later parts and the answer are dropped."""
    seen = []

    def stubborn(request):
        for _ in range(2):
            try:
                while True:
                    yield b"x" * 30_000
            except StreamStalled as error:
                seen.append(error.service)
        return b"end"

    def orderly(request):
        try:
            while True:
                yield b"x" * 30_000
        except StreamStalled:
            return b"end"

    def iterator(request):
        return iter(lambda: b"x" * 30_000, b"")

    for handler in (stubborn, orderly, iterator):
        with Broker("tcp://127.0.0.1:*", stream_stall_timeout=0.2) as broker:
            with Worker(broker.endpoint, "it", handler) as worker, Client(broker.endpoint, timeout=60) as client:
                stream = client.stream("it", b"")
                wait_until(lambda broker=broker: broker.statistics().stalled_streams == 1)
                wait_until(lambda worker=worker: worker.statistics().busy == 0)
                assert worker.statistics().errors == (handler is iterator)  # which cannot be told
                stream.close()
    assert seen == [b"it"]


def test_X9_two_streams_read_one_after_the_other_do_not_dead_lock(broker, spawn):
    """Whichever is read first, the other waits with what its reader has granted, and is whole then."""

    def handler(request):
        for _ in range(40):
            yield b"x" * 50_000

    class Small(Client):
        stream_bytes = 100_000
        stream_window = 500_000

    worker = Worker(broker.endpoint, "it", handler, spawn=spawn, concurrency=3)
    with worker, Small(broker.endpoint, timeout=60) as client:
        streams = [client.stream("it", b"") for _ in range(3)]
        for stream in streams:
            next(stream)
        for stream in reversed(streams):
            assert sum(1 for _ in stream) == 39


def test_an_answer_that_nobody_reads_part_by_part_needs_no_reader(broker, spawn):
    """Replies that are joined: of `request`, of futures, and of a client of MDP/0.1."""

    def handler(request):
        for _ in range(100):
            yield b"x" * 30_000

    with Worker(broker.endpoint, "it", handler, spawn=spawn):
        for version in ("0.2", "0.1"):
            with Client(broker.endpoint, version=version, timeout=60) as client:
                assert client.request("it", b"")[:100] == [b"x" * 30_000] * 100
