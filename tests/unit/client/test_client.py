"""Clients with real sockets: calls, streams, many at once, threads, errors."""

import logging
import threading
from time import monotonic

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Pool
from waiting import wait_until

from gmdp import (
    AsyncClient,
    Broker,
    BrokerShuttingDown,
    Client,
    ClosedError,
    ConfigurationError,
    HubNotRunning,
    MDPError,
    RequestTimeout,
    State,
    StreamOverflow,
    Worker,
)
from gmdp.client.answers import Answer
from gmdp.client.futures import FutureAnswer
from gmdp.core.peer.calls import Part

VERSIONS = ["0.1", "0.2"]


class Broken(FutureAnswer):
    """One that gmdp cannot give to its caller."""

    __slots__ = ()

    def add_part(self, part, now):
        """A defect."""
        raise RuntimeError("a defect")


def echo(request):
    return request.body


@pytest.fixture
def echoing(broker):
    with Worker(broker.endpoint, "echo", echo, concurrency=8):
        yield broker


@pytest.fixture
def held(broker):
    """A service whose requests wait until the event is set."""
    hold = Event()
    with Worker(broker.endpoint, "held", lambda request: hold.wait() and request.body):
        yield hold
        hold.set()


# One call


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("service", ["echo", b"echo"])
@pytest.mark.parametrize("body", [b"x", b"", [b"a", b"b"], (b"a",), [b""], [b"\x00" * 1000] * 50, bytes(1 << 20)])
def test_request_returns_the_reply(echoing, version, service, body):
    with Client(echoing.endpoint, version=version) as client:
        assert client.request(service, body) == ([body] if isinstance(body, bytes) else list(body))


def test_no_frames_become_one_empty_frame(echoing):
    with Client(echoing.endpoint) as client:
        assert client.request("echo", []) == [b""]


@pytest.mark.parametrize("version", VERSIONS)
def test_stream_of_a_plain_reply_is_one_part(echoing, version):
    with Client(echoing.endpoint, version=version) as client:
        assert list(client.stream("echo", [b"a", b"b"])) == [[b"a", b"b"]]
        assert list(client.stream("echo", b"")) == [[b""]]


def test_it_starts_by_itself_and_stays_closed_until_started(echoing):
    client = Client(echoing.endpoint)
    assert (client.state, client.started, client.closed) == (State.NEW, False, True)
    assert client.request("echo", b"1") == [b"1"]
    assert (client.state, client.started, client.closed) == (State.RUNNING, True, False)
    client.close()
    assert (client.state, client.started, client.closed) == (State.CLOSED, False, True)
    with pytest.raises(ClosedError, match="start"):
        client.request("echo", b"2")
    client.start()
    assert client.request("echo", b"3") == [b"3"]
    client.stop(timeout=3)
    assert client.closed


# Failing


@pytest.mark.parametrize("version", VERSIONS)
def test_C3_a_late_reply_is_never_given_to_a_later_call(broker, held, version):
    with AsyncClient(broker.endpoint, version=version) as client:
        with pytest.raises(RequestTimeout) as caught:
            client.request("held", b"first", timeout=0.02)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, MDPError)
        assert "no reply" in str(caught.value)
        second = client.submit("held", b"second")
        held.set()
        assert second.get() == [b"second"]
        wait_until(lambda: broker.statistics().replies == 2)
        assert client.request("held", b"third") == [b"third"]
        assert client.statistics().malformed == 0
        assert client.statistics().timeouts == 1


def test_no_broker_is_a_timeout_that_says_so(unused_endpoint):
    with Client(unused_endpoint, timeout=0.05) as client, pytest.raises(RequestTimeout) as caught:
        client.request("echo", b"")
    assert f"{unused_endpoint}: connection refused" in str(caught.value)


def test_a_call_waits_for_a_broker_that_comes_later(unused_endpoint):
    with AsyncClient(unused_endpoint) as client:
        future = client.submit("echo", b"x")
        wait_until(lambda: client.statistics().sockets == 0)
        with Broker(unused_endpoint), Worker(unused_endpoint, "echo", echo):
            assert future.get() == [b"x"]


@pytest.mark.parametrize("retries", [0, 1])
def test_B1_a_lost_broker_is_noticed_or_the_call_is_tried_again(unused_endpoint, retries):
    hold = Event()
    broker = Broker(unused_endpoint)
    broker.start()
    client = AsyncClient(unused_endpoint, retries=retries)
    worker = Worker(unused_endpoint, "held", lambda r: hold.wait() and r.body, reconnect_interval=0.01)
    with worker, client:
        future = client.submit("held", b"x", timeout=600)
        wait_until(lambda: broker.statistics().assigned)
        broker.close()
        if retries:
            broker.start()
            hold.set()
            assert future.get() == [b"x"]
            assert client.statistics().retries == 1
        else:
            with pytest.raises(BrokerShuttingDown):
                future.get()
            hold.set()  # stop() would wait for the handler, for as long as it may
    broker.close()


def test_the_last_reply_of_a_stopping_broker_arrives():
    """What was sent before a connection closes is read before it counts as lost."""
    for _ in range(50):
        hold = Event()
        broker = Broker("tcp://127.0.0.1:*")
        broker.start()
        worker = Worker(broker.endpoint, "held", lambda r, hold=hold: hold.wait() and r.body)
        with worker, AsyncClient(broker.endpoint) as client:
            future = client.submit("held", b"x")
            wait_until(lambda broker=broker: broker.statistics().assigned)
            stopper = gevent.spawn(broker.stop)
            wait_until(lambda broker=broker: broker.state is State.DRAINING)
            hold.set()
            assert future.get() == [b"x"]
            stopper.join()


def test_C9_retries_share_the_time_and_join_the_request_that_waits(broker):
    """Each try gets timeout/(n+1)."""
    with Client(broker.endpoint, retries=3) as client:
        began = monotonic()
        with pytest.raises(RequestTimeout) as caught:
            client.request("nobody", b"", timeout=0.2)
        assert monotonic() - began >= 0.2
        assert caught.value.attempt == 4
        assert client.statistics().retries == 3
    assert (broker.statistics().requests, broker.statistics().joins) == (1, 3)


def test_C5_a_killed_caller_is_forgotten(broker, held):
    with Client(broker.endpoint) as client:
        caller = gevent.spawn(client.request, "held", b"x")
        wait_until(lambda: client.statistics().in_flight == 1)
        caller.kill()
        wait_until(lambda: client.statistics().in_flight == 0)
        assert client.statistics().cancelled == 1
        held.set()
        assert client.request("held", b"y") == [b"y"]


def test_C5_the_callers_own_timeout_arrives_untouched(broker, held):
    with Client(broker.endpoint) as client:
        own = gevent.Timeout(0.02)
        with pytest.raises(gevent.Timeout) as caught, own:
            client.request("held", b"x")
        assert caught.value is own
        wait_until(lambda: client.statistics().cancelled == 1)


def test_our_timeout_is_no_gevent_timeout(broker):
    with Client(broker.endpoint) as client, pytest.raises(RequestTimeout) as caught:
        client.request("nobody", b"", timeout=0.01)
    assert not isinstance(caught.value, gevent.Timeout)


@pytest.mark.parametrize("how", ["close", "stop"])
def test_C6_closing_ends_every_waiting_call_at_once(broker, held, how):
    client = AsyncClient(broker.endpoint, max_in_flight=2)
    futures = [client.submit("held", b"x") for _ in range(5)]
    stream = client.stream("held", b"y")
    wait_until(lambda: client.statistics().in_flight == 2)
    assert client.statistics().waiting == 4
    getattr(client, how)()
    for future in futures:
        with pytest.raises(ClosedError):
            future.get(block=False)
    with pytest.raises(ClosedError):
        next(stream)
    assert client.statistics().errors == 6


# Streams


def test_the_timeout_of_a_stream_is_per_part_and_the_deadline_in_all(broker):
    proceed = Event()

    def handler(request):
        yield b"1"
        proceed.wait()

    with Worker(broker.endpoint, "parts", handler, concurrency=2), Client(broker.endpoint) as client:
        for limits in ({"timeout": 1.0}, {"timeout": 600, "deadline": 1.0}):
            stream = client.stream("parts", b"", **limits)
            assert next(stream) == [b"1"]
            with pytest.raises(RequestTimeout):
                next(stream)
        proceed.set()


@pytest.mark.parametrize("how", ["close", "forget"])
def test_a_stream_that_is_given_up_ends_its_call(broker, how):
    endless = gevent.sleep

    def handler(request):
        while True:
            yield b"."
            endless(0)

    with Worker(broker.endpoint, "endless", handler) as worker, Client(broker.endpoint) as client:
        stream = client.stream("endless", b"")
        assert next(stream) == [b"."]
        if how == "close":
            stream.close()
        else:
            del stream
        wait_until(lambda: client.statistics().cancelled == 1)
        assert client.statistics().in_flight == 0
        worker.stop(timeout=0)


def test_a_stream_nobody_reads_is_bounded(broker):
    def handler(request):
        while True:
            yield b"."

    class Impatient(Client):
        stream_buffer = 100

    with Worker(broker.endpoint, "endless", handler) as worker, Impatient(broker.endpoint) as client:
        stream = client.stream("endless", b"")
        wait_until(lambda: client.statistics().errors == 1)
        with pytest.raises(StreamOverflow):
            list(stream)
        worker.stop(timeout=0)


def parts_of(size, count, gone=None):
    def handler(request):
        try:
            for _ in range(count):
                yield b"x" * size
        finally:
            if gone is not None:
                gone.set()

    return handler


def test_a_stream_nobody_reads_is_bounded_in_bytes(broker):
    class Small(Client):
        stream_bytes = 1_000_000

    def endless(request):
        while True:
            yield b"x" * 100_000
            gevent.sleep(0.01)

    with Worker(broker.endpoint, "endless", endless) as worker, Small(broker.endpoint, timeout=60) as client:
        stream = client.stream("endless", b"")
        wait_until(lambda: client.statistics().errors == 1)
        with pytest.raises(StreamOverflow):
            list(stream)
        worker.stop(timeout=0)


def test_who_reads_may_have_any_number_of_bytes(broker):
    """However many come before its turn."""

    class Small(Client):
        stream_bytes = 1_000

    with Worker(broker.endpoint, "large", parts_of(100_000, 100)), Small(broker.endpoint, timeout=30) as client:
        assert [len(part) for [part] in client.stream("large", b"")] == [100_000] * 100


def test_who_has_caught_up_may_fall_behind_again():
    """By the bytes that are unread, not by those that came."""
    answer = Answer(10_000, 1_000)
    part = Part(None, [b"x" * 600], final=False)
    for now in range(100):
        assert answer.add_part(part, float(now))
        assert answer.add_part(part, now + 0.5)  # 200 too many
        assert [next(answer), next(answer)] == [[b"x" * 600]] * 2
    assert answer.add_part(part, 100.0)
    assert answer.add_part(part, 101.0)
    assert answer.add_part(part, 102.0)
    assert not answer.add_part(part, 102.1)


def test_a_stream_that_is_given_up_holds_nothing(broker):
    """And takes nothing any more: else what was sent would stay until the garbage of objects is looked for."""
    gone = Event()
    with Worker(broker.endpoint, "large", parts_of(1000, 500, gone)), Client(broker.endpoint, timeout=30) as client:
        stream = client.stream("large", b"")
        assert next(stream)
        answer = stream._answer
        wait_until(lambda: answer._parts)
        stream.close()
        assert answer.add_part(Part(answer.call, [b"on its way"], final=False), 0.0)
        gone.wait()
        wait_until(lambda: client.statistics().in_flight == 0)
        assert not answer._parts


def test_a_defect_while_answers_are_given_ends_all_calls(broker, monkeypatch):
    """Nobody waits for ever, also not those whose answers were next."""
    release = Event()

    def handler(request):
        release.wait()
        return b""

    with Worker(broker.endpoint, "held", handler, concurrency=5), AsyncClient(broker.endpoint) as client:
        futures = [client.submit("held", b"") for _ in range(5)]
        silent = client.submit("nobody", b"")
        wait_until(lambda: broker.statistics().assigned == 5)
        monkeypatch.setattr(futures[0]._answer, "__class__", Broken)
        monkeypatch.setattr(logging.getLogger("gmdp.owner"), "disabled", True)  # else conftest fails the test
        release.set()
        ended = [future.exception or future.get() for future in gevent.wait([*futures, silent], timeout=20)]
        assert len(ended) == 6
        assert any(isinstance(end, ClosedError) and "a defect" in str(end) for end in ended)
        wait_until(lambda: client.closed)


# Many at once


@pytest.mark.parametrize("version", VERSIONS)
def test_C4_a_thousand_greenlets_share_one_client(echoing, version):
    with Client(echoing.endpoint, version=version, timeout=120) as client:
        pool = Pool()
        bodies = [b"%d" % number for number in range(1000)]
        replies = pool.map(lambda body: client.request("echo", body), bodies)
        assert replies == [[body] for body in bodies]
        assert client.statistics().sockets <= client.max_sockets


@pytest.mark.parametrize("version", VERSIONS)
def test_C4_eight_plain_threads_share_one_client(echoing, version):
    with Client(echoing.endpoint, version=version, timeout=120) as client:
        wrong, ended = [], []

        def work(name):
            for number in range(50):
                body = b"%d-%d" % (name, number)
                if client.request("echo", body) != [body] or list(client.stream("echo", body)) != [[body]]:
                    wrong.append(body)
            ended.append(name)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(ended) == 8)
        for thread in threads:
            thread.join()
        assert wrong == []


def test_P3_a_thread_whose_clients_hub_does_not_run_is_told_so(broker):
    client = Client(broker.endpoint, timeout=0.05)
    client.start()
    errors = []

    def work():
        try:
            client.request("echo", b"")
        except RequestTimeout as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()  # this thread's hub does not run meanwhile
    [error] = errors
    assert isinstance(error, HubNotRunning)
    assert "did not run" in str(error)
    assert "threaded=True" in str(error)
    client.close()


def test_submit_many_at_once(echoing):
    with AsyncClient(echoing.endpoint) as client:
        futures = [client.submit("echo", b"%d" % number) for number in range(500)]
        assert [future.get() for future in futures] == [[b"%d" % number] for number in range(500)]
        now = client.statistics()
        assert (now.requests, now.replies, now.in_flight, now.waiting) == (500, 500, 0, 0)


def test_max_in_flight_bounds_the_calls_at_the_broker(broker, held):
    with AsyncClient(broker.endpoint, max_in_flight=3) as client:
        futures = [client.submit("held", b"x") for _ in range(10)]
        wait_until(lambda: broker.statistics().requests == 3)
        assert (client.statistics().in_flight, client.statistics().waiting) == (3, 7)
        held.set()
        assert [future.get() for future in futures] == [[b"x"]] * 10


def test_map_in_order_takes_bodies_one_by_one(echoing):
    taken = []

    def bodies():
        for number in range(200):
            taken.append(number)
            yield b"%d" % number

    with AsyncClient(echoing.endpoint) as client:
        replies = client.map("echo", bodies(), in_flight=7)
        assert taken == []
        for number, reply in enumerate(replies):
            assert reply == [b"%d" % number]
            assert len(taken) <= number + 8
        assert number == 199


def test_map_as_completed(broker):
    holds = {b"slow": Event(), b"fast": Event()}
    holds[b"fast"].set()

    def handler(request):
        holds[request.body[0]].wait()
        return request.body

    with Worker(broker.endpoint, "it", handler, concurrency=2), AsyncClient(broker.endpoint) as client:
        replies = client.map("it", [b"slow", b"fast", b"fast"], ordered=False)
        assert next(replies) == [b"fast"]
        assert next(replies) == [b"fast"]
        holds[b"slow"].set()
        assert list(replies) == [[b"slow"]]


@pytest.mark.parametrize("ordered", [True, False])
def test_map_raises_what_a_call_raises_and_gives_up_the_rest(broker, held, ordered):
    with AsyncClient(broker.endpoint) as client:
        with pytest.raises(RequestTimeout):
            list(client.map("held", [b"x"] * 9, in_flight=4, ordered=ordered, timeout=0.05))
        wait_until(lambda: client.statistics().in_flight + client.statistics().waiting == 0)
        now = client.statistics()
        assert now.timeouts + now.cancelled == now.requests == 4


def test_closing_map_gives_up_the_calls_still_open(broker, held):
    with AsyncClient(broker.endpoint) as client:
        replies = client.map("held", [b"x"] * 9, in_flight=4)
        reader = gevent.spawn(next, replies)
        wait_until(lambda: client.statistics().in_flight == 4)
        reader.kill()
        replies.close()
        wait_until(lambda: client.statistics().cancelled == 4)
        assert client.statistics().in_flight == 0


# Wrong arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"endpoint": "http://x"}, "must begin with"),
        ({"endpoint": "tcp://127.0.0.1"}, "tcp://HOST:PORT"),
        ({"endpoint": "tcp://127.0.0.1:70000"}, "at most 65535"),
        ({"endpoint": "tcp://*:5555"}, "not connect"),
        ({"endpoint": "ipc://" + "x" * 200}, "at most 107 bytes"),
        ({"endpoint": "inproc://"}, "must follow"),
        ({"timeout": 0}, "greater than 0"),
        ({"timeout": "5"}, "must be a number"),
        ({"timeout": float("inf")}, "must be a number"),
        ({"retries": -1}, "at least 0"),
        ({"max_in_flight": 0}, "at least 1"),
        ({"version": 2}, "version must be"),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Client(**{"endpoint": "tcp://127.0.0.1:5555", **arguments})


@pytest.mark.parametrize(
    ("service", "body", "error"),
    [
        ("", b"", ConfigurationError),
        (b"x" * 256, b"", ConfigurationError),
        (3, b"", TypeError),
        ("echo", "text", TypeError),
        ("echo", ["text"], TypeError),
        ("echo", None, TypeError),
        ("echo", iter([b"x"]), TypeError),
    ],
)
def test_wrong_calls_are_told_at_once_and_count_as_nothing(echoing, service, body, error):
    with AsyncClient(echoing.endpoint) as client:
        for call in (client.request, client.submit, client.stream):
            with pytest.raises(error):
                call(service, body)
        assert client.statistics().requests == 0


def test_wrong_limits_of_a_call_are_told_at_once(echoing):
    with AsyncClient(echoing.endpoint) as client:
        for wrong in ({"timeout": -1}, {"timeout": 0}, {"retries": 1.5}):
            with pytest.raises(ConfigurationError):
                client.request("echo", b"", **wrong)
        with pytest.raises(ConfigurationError, match="deadline"):
            client.stream("echo", b"", deadline=0)
        with pytest.raises(ConfigurationError, match="in_flight"):
            client.map("echo", [b""], in_flight=0)


def test_the_timeout_of_a_request_is_a_total_though_parts_come(broker):
    def handler(request):
        while True:
            yield b"."
            gevent.sleep(0)

    with Worker(broker.endpoint, "endless", handler) as worker, AsyncClient(broker.endpoint) as client:
        for call in (
            lambda: client.request("endless", b"", timeout=0.2),
            client.submit("endless", b"", timeout=0.2).get,
        ):
            with pytest.raises(RequestTimeout):
                call()
        worker.stop(timeout=0)
