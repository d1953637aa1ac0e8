"""A client with real sockets: calls and what ends them, threads, many calls at once."""

import gc
import json
import logging
import sys
import threading
from time import monotonic

import gevent
import peers
import pytest
from gevent.event import Event
from gevent.pool import Pool
from waiting import wait_until

import gmdp.client.threaded
import gmdp.io.slots
from gmdp import (
    AsyncClient,
    Broker,
    BrokerShuttingDown,
    Client,
    ClosedError,
    ConfigurationError,
    HubNotRunning,
    MDPError,
    NoWorker,
    Overloaded,
    RequestExpired,
    RequestRejected,
    RequestTimeout,
    State,
    StateError,
    Worker,
    WorkerLost,
)
from gmdp.client.engine import ClientEngine
from gmdp.core.outcomes import notice_time

VERSIONS = ["0.1", "0.2"]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def echo(request):
    return request.body


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


def test_a_client_starts_by_itself_and_stays_closed_until_started(echoing):
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


def test_a_client_shows_whether_the_broker_speaks_the_extension(broker, client):
    assert client.extensions is None
    assert " unprobed " in repr(client)
    with Worker(broker.endpoint, "echo", echo) as worker:
        client.request("echo", b"")
        assert client.extensions is worker.extensions is True
        assert " extended " in repr(client)
        assert " extended " in repr(worker)


def test_a_strict_broker_is_logged_once(caplog):
    caplog.set_level(logging.INFO, "gmdp")
    with peers.router() as bare, AsyncClient(bare.endpoint) as client:
        for _ in range(3):
            future = client.submit("echo", b"x")
            sender = bare.recv()[0]
            bare.send(sender, b"MDPC02", b"\x03", b"echo", b"y")
            assert future.get() == [b"y"]
    records = [record for record in caplog.records if "without gmdp's extension" in record.getMessage()]
    assert len(records) == 1


def test_the_trace_context_reaches_the_handler(broker, client):
    handler = lambda request: json.dumps(dict(request.metadata)).encode()  # noqa: E731
    with Worker(broker.endpoint, "it", handler):
        assert json.loads(client.request("it", b"", traceparent=TRACEPARENT)[0]) == {"traceparent": TRACEPARENT}
        assert json.loads(client.request("it", b"")[0]) == {}


def test_more_urgent_calls_overtake(broker, held, client):
    client.submit("held", b"blocks the worker")
    wait_until(lambda: held.requests)
    futures = [client.submit("held", b"%d" % priority, priority=priority) for priority in (0, 1, 2, 3)]
    wait_until(lambda: broker.statistics().queued == 4)
    held.release()
    gevent.joinall(futures)
    assert [request.body[0] for request in held.requests[1:]] == [b"3", b"2", b"1", b"0"]


# Time


@pytest.mark.parametrize("version", VERSIONS)
def test_C3_a_late_reply_is_never_given_to_a_later_call(broker, held, version):
    with AsyncClient(broker.endpoint, version=version) as client:
        # Connected, and the worker is there: the first call reaches it in time.
        wait_until(lambda: client.request("mmi.service", b"held") == [b"200"])
        with pytest.raises(RequestTimeout) as caught:
            client.request("held", b"first", timeout=0.02)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, MDPError)
        assert "no reply" in str(caught.value)
        second = client.submit("held", b"second")
        held.release()
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


def test_C9_retries_share_the_time_and_join_the_request_that_waits(broker):
    """Each try gets timeout/(n+1)."""
    with Client(broker.endpoint, retries=3) as client:
        began = monotonic()
        with pytest.raises(RequestTimeout) as caught:
            client.request("nobody", b"", timeout=0.4)
        assert monotonic() - began >= 0.4 - notice_time(0.4)
        assert caught.value.attempt == 4
        assert client.statistics().retries == 3
    assert (broker.statistics().requests, broker.statistics().joins) == (1, 3)


def test_our_timeout_is_no_gevent_timeout(broker):
    with Client(broker.endpoint) as client, pytest.raises(RequestTimeout) as caught:
        client.request("nobody", b"", timeout=0.01)
    assert not isinstance(caught.value, gevent.Timeout)


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


# What ends a call without its reply


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
    """Messages that were sent before a connection closes are read before the connection counts as lost."""
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


def test_L8_a_call_to_a_broker_that_stops_goes_to_the_next_or_waits_for_its_return(unused_endpoint):
    """Without retries: no worker has had these requests."""
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
            running = client.submit("it", b"")
            wait_until(lambda: first.statistics().assigned == 1)
            queued, elsewhere = other.submit("it", b""), client.submit("it", b"")
            wait_until(lambda: first.statistics().queued == 2)
            stopper = gevent.spawn(first.stop, 60)
            # It went to the other broker while the first call still runs at the first.
            assert elsewhere.get() == [b"second"]
            late, retried = other.submit("it", b""), client.submit("it", b"")
            assert retried.get() == [b"second"]
            hold.set()
            assert running.get() == [b"first"]
            stopper.join()
            assert not queued.ready()
            assert not late.ready()
            first.start()
            assert queued.get() == [b"first"]
            assert late.get() == [b"first"]
            wait_until(lambda: client.statistics().sockets == 1)
            first.close()


def test_L8_a_call_that_is_to_fail_does_not_wait_for_a_broker_that_stops(held, broker):
    """A lone broker, which drains for a call that runs."""
    with AsyncClient(broker.endpoint) as first, AsyncClient(broker.endpoint, when_no_worker="fail") as client:
        running = first.submit("held", b"running")
        wait_until(lambda: broker.statistics().assigned == 1)
        queued = client.submit("held", b"queued")
        wait_until(lambda: broker.statistics().queued == 1)
        stopper = gevent.spawn(broker.stop, 60)
        for future in (queued, client.submit("held", b"late")):
            with pytest.raises(BrokerShuttingDown, match="every broker has announced its stop"):
                future.get()
        held.release()
        assert running.get() == [b"running"]
        stopper.join()


def test_L8_calls_that_are_to_fail_do_so_until_the_broker_is_back(broker):
    """Also where the broker has been gone for long."""
    with Client(broker.endpoint, when_no_worker="fail") as client:
        client.reconnect_interval = 0.01
        with pytest.raises(NoWorker):
            client.request("echo", b"")
        broker.stop()
        end = monotonic() + 0.3
        while monotonic() < end:
            with pytest.raises(BrokerShuttingDown, match="every broker has announced its stop"):
                client.request("echo", b"")
            gevent.sleep(0.01)
        broker.start()
        wait_until(lambda: is_reached(client))


def is_reached(client):
    """True if a broker decides about the call: it has no worker."""
    with pytest.raises((NoWorker, BrokerShuttingDown)) as caught:
        client.request("echo", b"")
    return caught.type is NoWorker


def test_C1_a_call_may_fail_at_once_where_no_worker_is_registered(broker, client):
    with pytest.raises(NoWorker, match="no worker is registered") as caught:
        client.request("nobody", b"", when_no_worker="fail")
    assert caught.value.service == b"nobody"
    assert isinstance(caught.value, RequestRejected)
    with AsyncClient(broker.endpoint, when_no_worker="fail") as fast:
        for ask in (fast.request, lambda *more: fast.submit(*more).get(), lambda *more: next(fast.stream(*more))):
            with pytest.raises(NoWorker):
                ask("nobody", b"")
        with pytest.raises(RequestTimeout):
            fast.request("nobody", b"", when_no_worker="wait", timeout=0.05)
        with pytest.raises(NoWorker):
            list(fast.map("nobody", [b"1", b"2"]))
        with Worker(broker.endpoint, "somebody", echo) as worker:
            wait_until(lambda: worker.statistics().registered)
            assert fast.request("somebody", b"x") == [b"x"]


def test_C1_a_call_that_waits_too_long_in_the_queue_expires():
    with Broker("tcp://127.0.0.1:*", request_ttl=0.05) as broker, Client(broker.endpoint) as client:
        with pytest.raises(RequestExpired) as caught:
            client.request("nobody", b"")
        assert 0.05 <= caught.value.elapsed < 30


def test_L4_a_caller_that_states_its_time_waits_so_long():
    options = {"services": {"bound": {"request_ttl": 0.05}}, "request_ttl": 0.05}
    with Broker("tcp://127.0.0.1:*", **options) as broker, AsyncClient(broker.endpoint, timeout=60.0) as client:
        future = client.submit("late", b"x")
        with pytest.raises(RequestExpired):
            client.request("bound", b"")
        with Worker(broker.endpoint, "late", echo):
            assert future.get() == [b"x"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_L4_a_call_that_times_out_in_the_queue_says_so(kind):
    """The commonest mistake: the name of the service is misspelt."""
    with Broker("tcp://127.0.0.1:*") as broker, kind(broker.endpoint) as client:
        words = "timeout: service 'porg', .*: it was queued all that time, and no worker was registered$"
        with pytest.raises(RequestTimeout, match=words):
            client.request("porg", b"x", timeout=3.0)


def test_B6_a_call_that_finds_a_full_queue_ends_as_overloaded():
    with Broker("tcp://127.0.0.1:*", max_queue=3) as broker, AsyncClient(broker.endpoint) as client:
        futures = [client.submit("nobody", b"") for _ in range(5)]
        wait_until(lambda: sum(future.ready() for future in futures) == 2)
        assert [type(future.exception) for future in futures if future.ready()] == [Overloaded] * 2
        assert not futures[0].ready()


def test_W5_a_call_whose_workers_were_lost_says_how_often(unused_endpoint):
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


# Many at once, and threads


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


def test_P3_a_call_from_a_thread_fails_where_the_client_s_hub_does_not_run(broker):
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


def test_max_in_flight_bounds_the_calls_at_the_broker(broker, held):
    with AsyncClient(broker.endpoint, max_in_flight=3) as client:
        futures = [client.submit("held", b"x") for _ in range(10)]
        wait_until(lambda: broker.statistics().requests == 3)
        assert (client.statistics().in_flight, client.statistics().waiting) == (3, 7)
        held.release()
        assert [future.get() for future in futures] == [[b"x"]] * 10


# Wrong arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("endpoint", "http://x"),
        ("endpoint", "tcp://127.0.0.1"),
        ("endpoint", "tcp://127.0.0.1:70000"),
        ("endpoint", "tcp://*:5555"),
        ("endpoint", "ipc://" + "x" * 200),
        ("endpoint", "inproc://"),
        ("timeout", 0),
        ("timeout", "5"),
        ("timeout", float("inf")),
        ("retries", -1),
        ("max_in_flight", 0),
        ("version", 2),
        ("when_no_worker", "no"),
        ("require_extensions", 1),
        ("threaded", 1),
    ],
)
def test_a_wrong_option_is_refused_by_the_constructor(name, value):
    with pytest.raises(ConfigurationError) as refused:
        Client(**{"endpoint": "tcp://127.0.0.1:5555", name: value})
    assert name in str(refused.value)
    assert repr(value) in str(refused.value)


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
def test_a_call_with_a_wrong_argument_is_refused_and_not_counted(echoing, service, body, error):
    with AsyncClient(echoing.endpoint) as client:
        for call in (client.request, client.submit, client.stream):
            with pytest.raises(error):
                call(service, body)
        assert client.statistics().requests == 0


def test_a_call_with_a_wrong_bound_is_refused(echoing):
    with AsyncClient(echoing.endpoint) as client:
        for wrong in ({"timeout": -1}, {"timeout": 0}, {"retries": 1.5}):
            with pytest.raises(ConfigurationError):
                client.request("echo", b"", **wrong)
        with pytest.raises(ConfigurationError, match="deadline"):
            client.stream("echo", b"", deadline=0)
        with pytest.raises(ConfigurationError, match="in_flight"):
            client.map("echo", [b""], in_flight=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("when_no_worker", "panic"),
        ("when_no_worker", True),
        ("priority", 4),
        ("priority", -1),
        ("priority", "high"),
        ("traceparent", "nonsense"),
        ("traceparent", TRACEPARENT.encode()),
    ],
)
def test_a_call_with_a_wrong_option_is_refused(client, name, value):
    for ask in (client.request, client.submit, client.stream, client.map):
        with pytest.raises(ConfigurationError, match=name):
            ask("it", b"", **{name: value})


# From other threads, before the start


def in_thread(function):
    """Return the result or the error of `function` in a new thread, while this hub runs."""
    results = []

    def work():
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: not thread.is_alive())
    thread.join()
    return results[0]


def test_a_call_from_another_thread_starts_the_client_in_its_own(echoing):
    client = Client(echoing.endpoint, timeout=20)
    assert in_thread(lambda: client.request("echo", b"x")) == [b"x"]
    assert client._owner.hub is gevent.get_hub()
    client.close()


def test_an_error_at_that_start_goes_to_the_call(unused_endpoint, monkeypatch):
    client = Client(unused_endpoint, timeout=20)

    def fail():
        raise StateError("it does not start")

    monkeypatch.setattr(client, "_open", fail)
    error = in_thread(lambda: client.request("echo", b"x"))
    assert isinstance(error, StateError)
    assert "does not start" in str(error)
    assert client.closed


def test_P3_the_first_call_from_a_thread_fails_where_the_client_s_hub_does_not_run(unused_endpoint):
    client, errors = Client(unused_endpoint), []

    def work():
        try:
            client.request("echo", b"x", timeout=0.05)
        except HubNotRunning as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()  # this hub does not run meanwhile
    [text] = errors
    assert "threaded=True" in text
    gevent.sleep(0)  # now the client starts
    client.close()


def test_a_client_whose_thread_has_ended_cannot_be_started_by_another(broker):
    """Nothing is left that could serve its calls; closing it has nothing to do."""
    clients = []

    def make():
        gevent.sleep(0)
        clients.append(Client(broker.endpoint, timeout=600))
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (client,) = clients
    with pytest.raises(StateError, match="the thread that made the client has ended, or its hub was destroyed"):
        client.request("echo", b"")
    client.close()
    with pytest.raises(ClosedError):
        client.request("echo", b"")


# What it shows


def test_a_client_shows_its_state_and_counts(unused_endpoint):
    with AsyncClient(unused_endpoint, max_in_flight=5) as client:
        assert (client.endpoint, client.endpoints) == (unused_endpoint, (unused_endpoint,))
        client.submit("nobody", b"")
        wait_until(lambda: client.statistics().waiting == 1)
        shown = repr(client)
        assert shown.startswith(f"<AsyncClient running {unused_endpoint} unprobed in_flight=0 waiting=1 sockets=")
    assert " closed " in repr(client)
    assert client.statistics().requests == client.statistics().errors == 1


@pytest.mark.parametrize("threaded", [False, True])
def test_a_client_may_be_closed_twice_and_before_its_start(echoing, threaded):
    client = Client(echoing.endpoint, timeout=20, threaded=threaded)
    client.close()
    assert client.state is State.CLOSED
    client.start()
    assert client.request("echo", b"x") == [b"x"]
    for _ in range(2):
        client.close()
    assert client.state is State.CLOSED


@pytest.mark.parametrize(("name", "value"), [("timeout", 2.5), ("retries", 3), ("when_no_worker", "fail")])
def test_a_client_s_default_can_be_read_and_set(name, value):
    client = Client("tcp://127.0.0.1:5555", **{name: value})
    assert getattr(client, name) == value
    other = Client("tcp://127.0.0.1:5555")
    setattr(other, name, value)
    assert getattr(other, name) == value
    assert other._defaults == client._defaults
    with pytest.raises(ConfigurationError, match=name):
        setattr(other, name, -1)
    assert getattr(other, name) == value


@pytest.fixture
def forgotten(monkeypatch):
    """The warnings of clients that were garbage-collected while they were open."""
    warned = []
    monkeypatch.setattr(Client.__del__, "__defaults__", (lambda *args, **_: warned.append(args),))
    return warned


@pytest.mark.parametrize("threaded", [False, True])
def test_G9_a_forgotten_client_gives_a_warning_and_closes(broker, forgotten, threaded):
    """The test's own census finds its socket, its greenlet or its thread if it does not close."""
    client = Client(broker.endpoint, timeout=20, threaded=threaded)
    assert client.request("mmi.service", b"x") == [b"404"]
    owner = client._owner
    del client
    gc.collect()
    assert forgotten == [(f"unclosed Client of {broker.endpoint}", ResourceWarning)]
    wait_until(lambda: owner._ended)


def test_G9_a_forgotten_client_closes_though_its_warning_is_an_error(broker, monkeypatch):
    def fail(*args, **keywords):
        raise ResourceWarning("an error")

    errors = []
    monkeypatch.setattr(Client.__del__, "__defaults__", (fail,))
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    client = Client(broker.endpoint, timeout=20)
    client.start()
    owner = client._owner
    del client
    gc.collect()
    assert [error.exc_type for error in errors] == [ResourceWarning]
    wait_until(lambda: owner._ended)


def test_G9_clients_that_are_closed_or_never_opened_give_no_warning(broker, forgotten):
    client = Client(broker.endpoint, timeout=20)
    client.request("mmi.service", b"x")
    client.close()
    never = Client(broker.endpoint)
    del client, never
    gc.collect()
    assert forgotten == []


def test_G9_the_calls_of_a_forgotten_client_end_before_it_closes(broker, forgotten, monkeypatch):
    monkeypatch.setattr(ClientEngine, "idle_interval", 0.01)
    answer = Event()
    with Worker(broker.endpoint, "it", lambda request: answer.wait() and request.body):
        client = AsyncClient(broker.endpoint, timeout=20)
        future = client.submit("it", b"x")
        owner = client._owner
        del client
        gc.collect()
        assert len(forgotten) == 1
        wait_until(lambda: broker.statistics().assigned == 1)
        assert not owner._ended
        answer.set()
        assert future.get(timeout=20) == [b"x"]
        wait_until(lambda: owner._ended)


# Calls where nobody may wait


@pytest.mark.parametrize("method", ["request", "stream"])
@pytest.mark.parametrize("where", ["hub", "hook"])
def test_G3_a_call_of_code_that_must_not_wait_is_not_sent(broker, where, method):
    errors, handled = [], []

    def call():
        try:
            list(getattr(client, method)("it", b"refused"))
        except StateError as error:
            errors.append(error)

    worker = Worker(broker.endpoint, "it", lambda request: handled.append(request.body) or b"")
    with worker, Client(broker.endpoint, timeout=20) as client:
        client.request("it", b"sent")
        {"hub": gevent.get_hub().loop.run_callback, "hook": broker._owner.post}[where](call)
        wait_until(lambda: errors)
        client.request("it", b"sent later")
    assert handled == [[b"sent"], [b"sent later"]]


# A program whose hub runs during calls only


class BrokerThread:
    """A broker in a thread and hub of its own, for a thread whose hub does not run."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(20)

    def _run(self):
        with Broker(self.endpoint) as broker:
            self.endpoint = broker.endpoint
            self._ready.set()
            wait_until(self._stop.is_set)
            broker.close()
        gevent.get_hub().destroy(destroy_loop=True)

    def close(self):
        self._stop.set()
        self._thread.join(20)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_G7_a_broker_that_was_restarted_between_two_calls_is_connected_anew(version):
    """The hub of this thread runs during the calls alone: the loss of the connection is read first."""
    broker = BrokerThread("tcp://127.0.0.1:*")
    try:
        with Client(broker.endpoint, version=version, timeout=20) as client:
            for _ in range(4):
                assert client.request("mmi.nothing", b"") == [b"501"]
                broker.close()
                broker = BrokerThread(broker.endpoint)
            assert client.statistics().retries == 0
            assert client.statistics().disconnects in (3, 4)  # the last loss may have been read already
    finally:
        broker.close()


# Closed while it starts


def test_a_client_closed_while_it_starts_is_closed(echoing, monkeypatch):
    """A call from another thread has started the client's own thread, which has not yet run."""
    go = gmdp.io.slots.allocate_lock()
    go.acquire()

    def start_later(function, args):
        start_thread(lambda: go.acquire() and function(*args), ())

    start_thread = gmdp.client.threaded.start_thread
    monkeypatch.setattr("gmdp.client.threaded.start_thread", start_later)
    client = Client(echoing.endpoint, timeout=20, threaded=True)
    thread = threading.Thread(target=client.start)
    thread.start()
    wait_until(lambda: client._thread._starters)
    gevent.spawn(go.release)  # once this greenlet waits
    client.close()
    gevent.sleep(0)
    thread.join()
    assert client.closed
    assert not client._thread.alive


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("here", [True, False], ids=["this thread", "another thread"])
def test_G16_a_client_closed_before_its_first_call_stays_closed(echoing, threaded, here):
    client = Client(echoing.endpoint, timeout=20, threaded=threaded)
    if here:
        client.close()
        assert client.state is State.CLOSED
    else:
        thread = threading.Thread(target=client.close)
        thread.start()
        wait_until(lambda: not thread.is_alive())
        wait_until(lambda: client.state is State.CLOSED)
    with pytest.raises(ClosedError, match=r"start\(\) opens it again"):
        client.request("echo", b"")
    assert client.closed
    client.start()
    assert client.request("echo", b"again") == [b"again"]
    client.close()


@pytest.mark.parametrize("threaded", [False, True])
def test_G16_a_call_that_races_with_close_does_not_open_the_client(echoing, threaded):
    """The client is seen without an owner, but not yet as closed: its last act is under way."""
    client = Client(echoing.endpoint, timeout=20, threaded=threaded)
    client.start()
    errors = []

    def call_now(change):
        if change.new is State.CLOSED:
            client._machine.state = State.DRAINING  # as another thread sees it a moment earlier
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            client._machine.state = State.CLOSED

    def call():
        try:
            client.request("echo", b"", timeout=1)
        except Exception as error:
            errors.append(type(error))

    client._machine._watch = call_now
    client.close()
    assert errors == [ClosedError]
    assert client.closed
    assert client._owner is None


def test_G16_a_client_that_is_closed_while_a_call_starts_it_is_closed(echoing, monkeypatch):
    opened = Client._open

    def close_first(client):
        client._may_start = False  # what close does first, in another thread
        return opened(client)

    client = Client(echoing.endpoint, timeout=20)
    monkeypatch.setattr(Client, "_open", close_first)
    with pytest.raises(ClosedError):
        client.request("echo", b"")
    assert client.closed
