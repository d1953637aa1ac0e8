"""What a call may ask of a gmdp broker, and what it is told: real sockets, real handlers."""

import json
import logging
import threading

import gevent
import peers
import pytest
from gevent.event import Event
from gevent.pool import Group
from waiting import wait_until

from gmdp import (
    AsyncClient,
    Broker,
    BrokerLost,
    BrokerShuttingDown,
    CallCancelled,
    CallError,
    Client,
    ClosedError,
    ConfigurationError,
    ForwardDeadLetters,
    Future,
    LogDeadLetters,
    MDPError,
    NoWorker,
    Overloaded,
    RequestCancelled,
    RequestExpired,
    RequestRejected,
    RequestTimeout,
    StateError,
    Worker,
    WorkerLost,
)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def echo(request):
    return request.body


class Held:
    """A handler that waits until it is let go."""

    def __init__(self):
        self.go_on = Event()
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        self.go_on.wait()
        return request.body


@pytest.fixture
def held(broker):
    handler = Held()
    worker = Worker(broker.endpoint, "held", handler)
    worker.start()
    yield handler
    handler.go_on.set()
    worker.stop()


@pytest.fixture
def client(broker):
    with AsyncClient(broker.endpoint) as client:
        yield client


# Many at once


def test_C4_ten_thousand_calls_at_once_over_one_socket(broker, client):
    with Worker(broker.endpoint, "echo", echo, concurrency=100) as worker:
        futures = [client.submit("echo", b"%d" % number) for number in range(10_000)]
        wait_until(lambda: client.statistics().in_flight == 10_000 or futures[-1].ready())
        assert [future.get() for future in futures] == [[b"%d" % number] for number in range(10_000)]
        now = client.statistics()
        assert (now.sockets, now.replies, now.late_replies, now.malformed) == (1, 10_000, 0, 0)
        assert worker.statistics().sockets == 1
    assert broker.statistics().requests == 10_000


def test_C4_a_thousand_greenlets_and_eight_threads_share_one_socket(broker, client):
    replies = {}

    def ask(name):
        for number in range(10):
            body = b"%s/%d" % (name, number)
            assert client.request("echo", body) == [body]
        replies[name] = True

    with Worker(broker.endpoint, "echo", echo, concurrency=50):
        threads = [threading.Thread(target=ask, args=(b"thread %d" % number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        greenlets = Group()
        for number in range(1000):
            greenlets.spawn(ask, b"greenlet %d" % number)
        greenlets.join(raise_error=True)
        wait_until(lambda: not any(thread.is_alive() for thread in threads))
    assert len(replies) == 1008
    assert client.statistics().sockets == 1


def test_B3_a_client_that_pauses_with_ten_thousand_calls_out_gets_every_reply(broker):
    """In a process of its own, which does not run its hub for two seconds."""
    code = (
        "import sys, time, gevent, gmdp\n"
        "with gmdp.AsyncClient(sys.argv[1]) as client:\n"
        "    assert client.request('echo', b'') == [b'']\n"
        "    futures = [client.submit('echo', b'%d' % n) for n in range(10_000)]\n"
        "    while client.statistics().in_flight + client.statistics().replies < 10_001 or not futures[99].ready():\n"
        "        gevent.sleep(0)\n"
        "    time.sleep(2)\n"
        "    assert [f.get() for f in futures] == [[b'%d' % n] for n in range(10_000)]\n"
        "    print('all')\n"
    )
    with Worker(broker.endpoint, "echo", echo, concurrency=100), peers.Script(code, broker.endpoint) as script:
        assert script.line(timeout=60) == "all"
    assert broker.statistics().drops == {}


# Fail fast


def test_C1_a_call_may_fail_at_once_where_no_worker_is_registered(broker, client):
    with pytest.raises(NoWorker, match="no worker is registered") as caught:
        client.request("nobody", b"", when_no_worker="fail")
    assert caught.value.service == b"nobody"
    assert isinstance(caught.value, RequestRejected)
    with AsyncClient(broker.endpoint, when_no_worker="fail") as hasty:
        for ask in (hasty.request, lambda *more: hasty.submit(*more).get(), lambda *more: next(hasty.stream(*more))):
            with pytest.raises(NoWorker):
                ask("nobody", b"")
        with pytest.raises(RequestTimeout):
            hasty.request("nobody", b"", when_no_worker="wait", timeout=0.05)
        with pytest.raises(NoWorker):
            list(hasty.map("nobody", [b"1", b"2"]))
        with Worker(broker.endpoint, "somebody", echo) as worker:
            wait_until(lambda: worker.statistics().registered)
            assert hasty.request("somebody", b"x") == [b"x"]


def test_C1_a_call_that_waits_is_told_that_it_waited_too_long():
    with Broker("tcp://127.0.0.1:*", request_ttl=0.05) as broker, Client(broker.endpoint) as client:
        with pytest.raises(RequestExpired) as caught:
            client.request("nobody", b"", timeout=60)
        assert 0.05 <= caught.value.elapsed < 60


# Bounds and losses


def test_B6_a_call_that_finds_a_full_queue_is_told_so():
    with Broker("tcp://127.0.0.1:*", max_queue=3) as broker, AsyncClient(broker.endpoint) as client:
        futures = [client.submit("nobody", b"") for _ in range(5)]
        wait_until(lambda: sum(future.ready() for future in futures) == 2)
        assert [type(future.exception) for future in futures if future.ready()] == [Overloaded] * 2
        assert not futures[0].ready()


def test_W5_a_call_whose_workers_were_lost_is_told_so(unused_endpoint):
    with Broker(unused_endpoint, attempts=2) as broker, AsyncClient(unused_endpoint) as client:
        future = client.submit("it", b"")
        for _ in range(2):
            with peers.dealer(broker.endpoint) as worker:
                worker.send(b"MDPW02", b"\x01", b"it")
                worker.recv()
                worker.send(b"MDPW02", b"\x06")
                wait_until(lambda: broker.statistics().workers == 0)
        with pytest.raises(WorkerLost) as caught:
            future.get()
        assert (caught.value.attempt, caught.value.deliveries) == (1, 2)


def test_B2_a_call_to_a_broker_that_stops_goes_to_the_next_or_is_told_so(unused_endpoint):
    hold = Event()
    first = Broker(unused_endpoint)
    first.start()
    with Broker("tcp://127.0.0.1:*") as second:
        endpoints = [first.endpoint, second.endpoint]
        with (
            Worker(first.endpoint, "it", lambda request: hold.wait() and b"first"),
            Worker(second.endpoint, "it", lambda request: b"second"),
            AsyncClient(endpoints, timeout=60) as client,
            AsyncClient(first.endpoint) as other,
        ):
            running, queued = client.submit("it", b""), other.submit("it", b"")
            wait_until(lambda: first.statistics().requests == 2)
            stopper = gevent.spawn(first.stop)
            wait_until(lambda: first.statistics().drops or not first.started)
            late, retried = other.submit("it", b""), client.submit("it", b"", retries=1)
            with pytest.raises(BrokerShuttingDown):
                late.get()
            # It went to the other broker while the first call still runs at the first.
            assert retried.get() == [b"second"]
            hold.set()
            assert running.get() == [b"first"]
            assert queued.get() == [b"first"]
            stopper.join()
            wait_until(lambda: client.statistics().sockets == 1)


# Deadlines


def test_a_handler_sees_how_long_its_caller_still_waits(broker, client):
    seen = []

    def handler(request):
        seen.append(request.remaining())
        return b""

    with Worker(broker.endpoint, "it", handler), Worker(broker.endpoint, "it", handler, version="0.1"):
        for _ in range(2):
            client.request("it", b"", timeout=5.0)
        list(client.stream("it", b"", timeout=5.0))
        list(client.stream("it", b"", timeout=5.0, deadline=7.0))
        peers.ask(broker.endpoint, b"it", b"")
    assert all(4 < remaining <= 5 for remaining in seen[:2])
    assert seen[2] is None
    assert 6 < seen[3] <= 7
    assert seen[4] is None


def test_a_handler_sees_that_its_caller_has_gone(broker, held, client):
    future = client.submit("held", b"x")
    wait_until(lambda: held.requests)
    (request,) = held.requests
    assert request.remaining() > 0
    future.cancel()
    wait_until(lambda: request.remaining() == 0)
    assert request.remaining() == 0.0


def stopped_handler(spawn):
    """A handler, and what happened to it."""
    seen = []

    def handler(request):
        try:
            seen.append("began")
            gevent.sleep(60)
        except BaseException as error:
            seen.append(error)
            raise

    return handler, seen


@pytest.mark.parametrize("spawn", [None, "raw", 5], ids=["greenlet", "raw", "pool"])
@pytest.mark.parametrize("how", ["cancelled", "time up", "killed"])
def test_a_handler_may_be_stopped_when_nobody_waits_any_more(broker, client, spawn, how):
    handler, seen = stopped_handler(spawn)
    worker = Worker(broker.endpoint, "it", handler, spawn=spawn, enforce_deadline=True)
    with worker:
        if how == "killed":
            caller = gevent.spawn(client.request, "it", b"")
        else:
            future = client.submit("it", b"", timeout=0.3 if how == "time up" else 60)
        wait_until(lambda: seen)
        if how == "killed":
            caller.kill()
        elif how == "cancelled":
            assert future.cancel()
        else:
            with pytest.raises(RequestTimeout):
                future.get()
        wait_until(lambda: len(seen) == 2)
        assert isinstance(seen[1], RequestCancelled)
        # Where the caller's time is up, that and the news that it has gone come together.
        assert "has gone" in str(seen[1]) or (how == "time up" and "time is up" in str(seen[1]))
        wait_until(lambda: not worker.statistics().busy)
        assert worker.statistics().errors == 1
        assert worker.statistics().callers_gone >= 1
        # The worker is free for the next.
        seen.clear()
        client.submit("it", b"", timeout=0.2)
        wait_until(lambda: seen)


def test_a_handler_is_left_alone_unless_that_was_asked_for(broker, held, client):
    future = client.submit("held", b"x", timeout=0.1)
    with pytest.raises(RequestTimeout):
        future.get()
    wait_until(lambda: held.requests[0].remaining() == 0)
    held.go_on.set()
    wait_until(lambda: broker.statistics().replies == 1)
    assert broker.statistics().handler_failures == 0
    assert set(broker.statistics().drops) <= {"abandoned", "late"}


def test_a_thread_cannot_be_stopped_and_may_ask(broker, client, thread_pool):
    seen = []

    def handler(request):
        import time

        while request.remaining():
            time.sleep(0.001)
        seen.append(request.remaining())
        return b"stopped by itself"

    with Worker(broker.endpoint, "it", handler, spawn=thread_pool(1), enforce_deadline=True) as worker:
        future = client.submit("it", b"", timeout=60)
        wait_until(lambda: worker.statistics().busy)
        future.cancel()
        wait_until(lambda: seen == [0.0])
        wait_until(lambda: worker.statistics().replies == 1)
        assert worker.statistics().errors == 0


# Cancelling


def test_a_cancelled_call_leaves_the_queue(broker, held, client):
    running, queued = client.submit("held", b"1"), client.submit("held", b"2")
    wait_until(lambda: broker.statistics().queued == 1)
    assert isinstance(queued, Future)
    assert not queued.cancelled()
    assert queued.cancel()
    assert queued.cancelled()
    with pytest.raises(CallCancelled) as caught:
        queued.get()
    assert caught.value.service == b"held"
    assert isinstance(caught.value, CallError)
    wait_until(lambda: broker.statistics().ended == {"cancelled": 1})
    assert not queued.cancel()
    held.go_on.set()
    assert running.get() == [b"1"]
    assert not running.cancel()
    assert not running.cancelled()
    assert [request.body for request in held.requests] == [[b"1"]]
    assert client.statistics().cancelled == 1


def test_a_call_that_was_not_even_sent_can_be_cancelled(unused_endpoint):
    with AsyncClient(unused_endpoint) as client:
        future = client.submit("it", b"")
        assert future.cancel()
        with pytest.raises(CallCancelled):
            future.get()
        wait_until(lambda: client.statistics().waiting == 0)


@pytest.mark.parametrize("how", ["killed", "own timeout", "stream closed", "map closed", "client closed"])
def test_C5_whoever_goes_away_cancels_what_he_asked_for(broker, held, client, how):
    blocking = client.submit("held", b"blocks the worker")
    wait_until(lambda: held.requests)
    with AsyncClient(broker.endpoint) as mine:
        if how == "killed":
            caller = gevent.spawn(mine.request, "held", b"x")
        elif how == "own timeout":
            caller = gevent.spawn(gevent.with_timeout, 0.3, mine.request, "held", b"x", timeout_value=None)
        elif how == "stream closed":
            stream = mine.stream("held", b"x")
        else:
            mapped = mine.map("held", [b"x"] * 10, in_flight=1)
            caller = gevent.spawn(next, mapped)
        wait_until(lambda: broker.statistics().queued == 1)
        if how == "stream closed":
            stream.close()
        elif how == "client closed":
            mine.close()
            with pytest.raises(ClosedError):
                caller.get()
        elif how != "own timeout":
            caller.kill()
        wait_until(lambda: broker.statistics().ended == {"cancelled": 1})
        assert broker.statistics().queued == 0
    held.go_on.set()
    assert blocking.get() == [b"blocks the worker"]
    assert len(held.requests) == 1


# Priorities, trace context


def test_more_urgent_calls_overtake(broker, held, client):
    client.submit("held", b"blocks the worker")
    wait_until(lambda: held.requests)
    futures = [client.submit("held", b"%d" % priority, priority=priority) for priority in (0, 1, 2, 3)]
    wait_until(lambda: broker.statistics().queued == 4)
    held.go_on.set()
    gevent.joinall(futures)
    assert [request.body[0] for request in held.requests[1:]] == [b"3", b"2", b"1", b"0"]


def test_the_trace_context_reaches_the_handler(broker, client):
    handler = lambda request: json.dumps(dict(request.metadata)).encode()  # noqa: E731
    with Worker(broker.endpoint, "it", handler):
        assert json.loads(client.request("it", b"", traceparent=TRACEPARENT)[0]) == {"traceparent": TRACEPARENT}
        assert json.loads(client.request("it", b"")[0]) == {}


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"when_no_worker": "panic"}, 'when_no_worker must be "wait" or "fail"'),
        ({"when_no_worker": True}, 'when_no_worker must be "wait" or "fail"'),
        ({"priority": 4}, "priority must be a whole number of at most 3"),
        ({"priority": -1}, "priority must be a whole number of at least 0"),
        ({"priority": "high"}, "priority must be a whole number"),
        ({"traceparent": "nonsense"}, "traceparent must look like"),
        ({"traceparent": TRACEPARENT.encode()}, "traceparent must look like"),
    ],
)
def test_a_wrong_argument_is_told_at_once(client, options, message):
    for ask in (client.request, client.submit, client.stream):
        with pytest.raises(ConfigurationError, match=message):
            ask("it", b"", **options)
    with pytest.raises(ConfigurationError, match=message):
        next(client.map("it", [b""], **options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Client("tcp://127.0.0.1:1", when_no_worker="no"), "when_no_worker must be"),
        (lambda: Client("tcp://127.0.0.1:1", require_extensions=1), "require_extensions must be True or False"),
        (lambda: Worker("tcp://127.0.0.1:1", "s", echo, enforce_deadline="yes"), "enforce_deadline must be True or"),
        (lambda: Worker("tcp://127.0.0.1:1", "s", echo, reveal_errors=0), "reveal_errors must be True or False"),
        (lambda: Broker(dead_letter=3), "dead_letter must be callable or the name of a service"),
        (lambda: Broker(dead_letter=""), "1 to 255 bytes"),
        (lambda: Broker(max_in_flight=0), "max_in_flight must be a whole number of at least 1"),
    ],
)
def test_a_wrong_option_is_told_at_once(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


# Dead letters


@pytest.fixture
def deadly():
    """A function: makes a broker with this hook lose the workers of one request for "it"."""
    brokers = []

    def lose(hook, times=1):
        broker = Broker("tcp://127.0.0.1:*", attempts=1, dead_letter=hook)
        broker.start()
        brokers.append(broker)
        for number in range(times):
            with peers.dealer(broker.endpoint) as worker, peers.dealer(broker.endpoint) as client:
                worker.send(b"MDPW02", b"\x01", b"it")
                client.send(b"MDPC02", b"\x01", b"it", b"body", b"%d" % number)
                worker.recv()
                worker.send(b"MDPW02", b"\x06")
                wait_until(lambda number=number: broker.statistics().dead_letters == number + 1 or broker.closed)
        return broker

    yield lose
    for broker in brokers:
        broker.close()


def test_W5_dead_letters_are_logged_without_their_bodies(deadly, caplog):
    deadly(None)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "given up (attempts): a request for b'it' after 1 attempt and 0.0 seconds"
    ]


def test_W5_a_hook_gets_each_dead_letter(deadly):
    letters = []
    broker = deadly(lambda letter, broker: letters.append((letter, broker)), times=2)
    assert [(letter.service, letter.body, letter.reason) for letter, _ in letters] == [
        (b"it", [b"body", b"0"], "attempts"),
        (b"it", [b"body", b"1"], "attempts"),
    ]
    assert {id(given) for _, given in letters} == {id(broker)}


def test_W5_dead_letters_may_go_to_a_service(deadly):
    broker = deadly("morgue", times=2)
    assert isinstance(broker.dead_letter, ForwardDeadLetters)
    seen = []
    with Worker(broker.endpoint, "morgue", lambda request: seen.append(request.body) or b""):
        wait_until(lambda: len(seen) == 2)
    facts = json.loads(seen[0][0])
    assert facts.pop("age") >= 0
    assert facts == {"service": "it", "attempts": 1, "reason": "attempts", "user": ""}
    assert [body[1:] for body in seen] == [[b"body", b"0"], [b"body", b"1"]]


def test_W5_the_letters_of_the_letters_service_are_only_logged(deadly, caplog):
    broker = deadly("it", times=2)
    assert broker.statistics().queued == 0
    assert len([record for record in caplog.records if "given up" in record.getMessage()]) == 2


def test_W5_a_letter_that_finds_no_room_is_logged(deadly, caplog, monkeypatch):
    monkeypatch.setattr(Broker, "enqueue", lambda *_: False)
    deadly(ForwardDeadLetters("morgue"))
    assert "found no room with b'morgue'" in caplog.text


def test_a_hook_that_fails_harms_nobody(deadly, caplog):
    def hook(letter, broker):
        raise ValueError("the hook's own fault")

    broker = deadly(hook, times=2)
    assert "the dead-letter hook failed for a request of b'it'" in caplog.text
    assert broker.started


def test_a_hook_may_stop_the_broker(deadly):
    broker = deadly(lambda letter, broker: broker.stop())
    wait_until(lambda: broker.closed)
    assert broker.statistics().dead_letters == 1


def test_enqueue_is_work_without_a_caller(broker):
    seen = []
    with Worker(broker.endpoint, "it", lambda request: seen.append(request.body) or b""):
        assert broker.enqueue("it", [b"a", b"b"])
        wait_until(lambda: seen == [[b"a", b"b"]])
        wait_until(lambda: broker.statistics().replies == 1)
    assert broker.statistics().drops == {}
    with pytest.raises(TypeError):
        broker.enqueue("it", "text")
    assert not Broker().enqueue("it", b"")


# What else a user sees


def test_whether_the_broker_speaks_the_extension_shows(broker, client):
    assert client.extensions is None
    assert " unprobed " in repr(client)
    with Worker(broker.endpoint, "echo", echo) as worker:
        client.request("echo", b"")
        assert client.extensions is worker.extensions is True
        assert " extended " in repr(client)
        assert " extended " in repr(worker)


def test_a_strict_broker_is_told_of_once(caplog):
    caplog.set_level(logging.INFO, "gmdp")
    with peers.router() as bare, AsyncClient(bare.endpoint) as client:
        for _ in range(3):
            future = client.submit("echo", b"x")
            sender = bare.recv()[0]
            bare.send(sender, b"MDPC02", b"\x03", b"echo", b"y")
            assert future.get() == [b"y"]
    told = [record for record in caplog.records if "without gmdp's extension" in record.getMessage()]
    assert len(told) == 1


def test_every_failure_of_a_call_has_one_root():
    for error in (NoWorker, RequestExpired, Overloaded, WorkerLost, CallCancelled, BrokerLost, BrokerShuttingDown):
        assert issubclass(error, MDPError)
    assert not issubclass(RequestCancelled, CallError)
    assert not issubclass(StateError, CallError)
    assert isinstance(LogDeadLetters(), LogDeadLetters)


def test_C5_calls_given_up_leave_nothing_behind(broker, held, client):
    blocking = client.submit("held", b"blocks the worker")
    wait_until(lambda: held.requests)
    for _ in range(20):
        futures = [client.submit("held", b"x") for _ in range(100)]
        wait_until(lambda: broker.statistics().queued == 100)
        for future in futures:
            future.cancel()
        wait_until(lambda: broker.statistics().queued == 0)
    assert broker.statistics().ended == {"cancelled": 2000}
    assert client.statistics().in_flight == 1
    held.go_on.set()
    assert blocking.get() == [b"blocks the worker"]
    assert not broker._core._accounts.calls
    assert not broker._core._accounts.clients
    assert broker.statistics().queued_bytes == 0
