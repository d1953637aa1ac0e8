"""From a session's work to a running handler: killed, refused, several at once; and for how long."""

import threading
from types import SimpleNamespace

import gevent
import peers
import pytest
import strangers
from gevent.event import Event
from gevent.pool import Pool
from waiting import wait_until

from gmdp import Broker, BrokerShuttingDown, Client, HandlerFailed, RequestCancelled, RequestTimeout, Worker
from gmdp.core.peer.reasons import GoneReason
from gmdp.core.peer.sessions import CallerGone, Work
from gmdp.worker.dispatch import Dispatcher
from gmdp.worker.handlers import make_spawner


def echo(request):
    return request.body


def call_at_once(function, *args):
    return function(*args)


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


def test_W6_a_starter_that_is_killed_is_replaced(broker, client):
    with Worker(broker.endpoint, "it", echo, spawn=2) as worker:
        assert client.request("it", b"1") == [b"1"]
        worker._engine._dispatchers[0].starter.kill()
        assert client.request("it", b"2") == [b"2"]


def test_a_starter_that_its_worker_has_stopped_is_not_replaced(broker):
    """Not even if a defect has left its session open."""
    with Worker(broker.endpoint, "it", echo, spawn=2) as worker:
        dispatcher = worker._engine._dispatchers[0]
        starter = dispatcher.starter
        dispatcher.kill(None)
        starter.join()
        gevent.sleep(0)
        assert dispatcher.starter is starter


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


@pytest.mark.parametrize("spawn", [None, 2, call_at_once], ids=["greenlet", "pool", "at once"])
def test_close_from_ones_own_handler_does_not_kill_it(broker, client, spawn):
    after = []

    def handler(request):
        worker.close()
        wait_until(lambda: worker.closed)
        gevent.sleep(0)
        after.append(worker.state)
        return b""

    worker = Worker(broker.endpoint, "it", handler, spawn=spawn)
    worker.start()
    starter = worker._engine._dispatchers[0].starter
    future = client.submit("it", b"", timeout=60)
    wait_until(lambda: worker.closed)
    wait_until(lambda: after)
    wait_until(lambda: starter is None or starter.dead)
    with Worker(broker.endpoint, "it", lambda request: b"second"):
        assert future.get() == [b"second"]


# Deadlines


class HeldHandler:
    """A handler whose requests wait until they are released."""

    def __init__(self):
        self.requests = []
        self._released = Event()

    def __call__(self, request):
        self.requests.append(request)
        self._released.wait()
        return request.body

    def release(self):
        """Answer every request, those to come as well."""
        self._released.set()


@pytest.fixture
def held(broker):
    """The handler of the service "held", which has one worker."""
    handler = HeldHandler()
    worker = Worker(broker.endpoint, "held", handler)
    worker.start()
    yield handler
    handler.release()
    worker.stop()


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


def watched_handler():
    """A handler that waits, and a list of what happened to it."""
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
def test_enforce_deadline_stops_a_handler_whose_caller_does_not_wait_any_more(broker, client, spawn, how):
    handler, seen = watched_handler()
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


@pytest.mark.parametrize("kind", ["greenlets", "threads"])
def test_enforce_deadline_stops_work_that_waits_for_its_place_in_a_pool(broker, client, thread_pool, kind):
    hold, begun = threading.Event() if kind == "threads" else Event(), []

    def handler(request):
        begun.append(request.body)
        hold.wait(60)
        return request.body

    pool = thread_pool(1) if kind == "threads" else Pool(1)
    with Worker(broker.endpoint, "it", handler, spawn=pool, concurrency=2, enforce_deadline=True) as worker:
        first = client.submit("it", b"1", timeout=60)
        wait_until(lambda: begun)
        second = client.submit("it", b"2", timeout=60)
        wait_until(lambda: all(dispatcher.request for dispatcher in worker._engine._dispatchers))
        second.cancel()
        wait_until(lambda: 0 in [dispatcher.request.remaining() for dispatcher in worker._engine._dispatchers])
        hold.set()
        assert first.get() == [b"1"]
        # Both sessions serve again, and what was cancelled counts as a failure.
        futures = [client.submit("it", b"3", timeout=60) for _ in range(4)]
        assert [future.get() for future in futures] == [[b"3"]] * 4
        assert begun == [[b"1"]] + [[b"3"]] * 4
        assert worker.statistics().errors == 1


def test_enforce_deadline_stops_work_that_its_starter_has_not_seen():
    """A request and its cancel may come in one burst."""
    handled, ended = [], []
    worker = SimpleNamespace(handler=handled.append, enforce_deadline=True)
    owner = SimpleNamespace(abandoned=False, post=lambda function, *args: function(*args))
    receiver = SimpleNamespace(on_handler_ended=lambda *args: ended.append(args[3]))
    dispatcher = Dispatcher(None, b"it", worker, make_spawner(1), owner, receiver)
    gevent.sleep(0)
    work = Work(None, b"", [b""], None)
    dispatcher.dispatch(work)
    dispatcher.cancel(CallerGone(work, GoneReason.TIME_UP), kill=True)
    wait_until(lambda: ended)
    assert [failure.type_name for failure in ended] == ["RequestCancelled"]
    assert not handled
    dispatcher.kill(None)
    dispatcher.starter.join()


def test_a_handler_is_not_stopped_without_enforce_deadline(broker, held, client):
    future = client.submit("held", b"x", timeout=0.1)
    with pytest.raises(RequestTimeout):
        future.get()
    wait_until(lambda: held.requests[0].remaining() == 0)
    held.release()
    wait_until(lambda: broker.statistics().replies == 1)
    assert broker.statistics().handler_failures == 0
    assert set(broker.statistics().drops) <= {"abandoned", "late"}


def test_enforce_deadline_may_be_set_while_the_worker_runs(broker, client):
    handler, seen = watched_handler()
    with Worker(broker.endpoint, "it", handler) as worker:
        future = client.submit("it", b"")
        wait_until(lambda: seen)
        worker.enforce_deadline = True
        assert future.cancel()
        wait_until(lambda: len(seen) == 2)
        assert isinstance(seen[1], RequestCancelled)


def test_a_handler_in_a_thread_is_not_stopped_and_may_ask_for_the_remaining_time(broker, client, thread_pool):
    begun, seen = [], []

    def handler(request):
        import time

        begun.append(True)
        while request.remaining():
            time.sleep(0.001)
        seen.append(request.remaining())
        return b"stopped by itself"

    with Worker(broker.endpoint, "it", handler, spawn=thread_pool(1), enforce_deadline=True) as worker:
        future = client.submit("it", b"", timeout=60)
        wait_until(lambda: begun)
        future.cancel()
        wait_until(lambda: seen == [0.0])
        wait_until(lambda: worker.statistics().replies == 1)
        assert worker.statistics().errors == 0


def test_G18_close_ends_raw_handlers_as_it_ends_others(broker, client):
    ended = []
    begun = Event()

    def handler(request):
        begun.set()
        try:
            gevent.sleep(60)
        except BaseException as error:
            ended.append(type(error))
            raise

    for spawn in (None, "raw"):
        begun.clear()
        worker = Worker(broker.endpoint, "it", handler, spawn=spawn)
        with worker:
            client.submit("it", b"")
            begun.wait(30)
            worker.close()
            wait_until(lambda: ended)
        assert ended.pop() is gevent.GreenletExit


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G2_what_spawn_returns_may_fail_in_each_of_its_methods(broker, client, name):
    class Broken:
        def rawlink(self, callback):
            strangers.throw(name)

        def kill(self, *args, **keywords):
            strangers.throw(name)

    def spawn(function, *args):
        gevent.spawn(function, *args)
        return Broken()

    hold = Event()
    with Worker(broker.endpoint, "it", lambda request: hold.wait() and b"done", spawn=spawn) as worker:
        future = client.submit("it", b"")
        wait_until(lambda: worker.statistics().busy)
        worker.close()
        assert worker.closed
        hold.set()
        future.cancel()


@pytest.mark.parametrize("name", [name for name in strangers.ERRORS if name != "exit"])
def test_G2_whatever_spawn_raises_is_a_failure_of_the_handler(broker, client, name):
    def spawn(function, *args):
        if args[1].body == [b"bad"]:
            strangers.throw(name)
        return gevent.spawn(function, *args)

    with Worker(broker.endpoint, "it", echo, spawn=spawn):
        with pytest.raises(HandlerFailed):
            client.request("it", b"bad")
        assert client.request("it", b"fine") == [b"fine"]


# Handlers that wait in their ``yield`` until their reader reads


def test_X9_a_handler_waits_in_its_yield_and_goes_on_as_its_reader_reads(broker, endless, spawn):
    with Worker(broker.endpoint, "it", endless, spawn=spawn), Client(broker.endpoint) as client:
        stream = client.stream("it", b"")
        endless.wait_until_it_waits(client)
        assert (threading.get_ident() in endless.threads) is (spawn is None)
        for _ in range(200):
            assert len(next(stream)[0]) == endless.size
        assert endless.sent <= 200 + client.stream_window // endless.size + 2
        stream.close()
        wait_until(lambda: endless.ended == [GeneratorExit])


@pytest.mark.parametrize("enforce", [False, True])
def test_X9_a_cancel_wakes_a_handler_that_waits_in_its_yield(broker, endless, spawn, enforce):
    worker = Worker(broker.endpoint, "it", endless, spawn=spawn, enforce_deadline=enforce)
    with worker, Client(broker.endpoint, timeout=60) as client:
        stream = client.stream("it", b"")
        endless.wait_until_it_waits(client)
        stream.close()
        wait_until(lambda: endless.ended)
        assert endless.sent == endless.ahead
        wait_until(lambda: worker.statistics().busy == 0)
        # The session is free.
        again = client.stream("it", b"")
        assert next(again)
        again.close()


def test_X9_a_client_that_dies_frees_the_handler(broker, endless, spawn):
    with Worker(broker.endpoint, "it", endless, spawn=spawn), Client(broker.endpoint) as client:
        stream = client.stream("it", b"")
        endless.wait_until_it_waits(client)
        client.close()  # as the end of its process: the broker hears that the connection is gone
        wait_until(lambda: endless.ended == [GeneratorExit])
        del stream


def test_X9_a_broker_that_goes_frees_the_handler(endless, spawn):
    with Broker("tcp://127.0.0.1:*") as broker:
        worker = Worker(broker.endpoint, "it", endless, spawn=spawn)
        with worker, Client(broker.endpoint, timeout=60) as client:
            stream = client.stream("it", b"")
            endless.wait_until_it_waits(client)
            broker.close()
            wait_until(lambda: endless.ended == [GeneratorExit])
            with pytest.raises(BrokerShuttingDown):
                list(stream)
            broker.start()
            again = client.stream("it", b"")
            assert next(again)
            again.close()


def test_X9_a_worker_that_closes_frees_the_handler(broker, endless, spawn):
    with Client(broker.endpoint, timeout=60) as client:
        worker = Worker(broker.endpoint, "it", endless, spawn=spawn)
        worker.start()
        stream = client.stream("it", b"")
        endless.wait_until_it_waits(client)
        worker.close()
        wait_until(lambda: endless.ended)
        stream.close()


def test_a_handler_in_its_own_wait_is_cancelled_as_before(broker):
    """With `enforce_deadline`, where it waits next; not only in its `yield`."""
    seen, entered = [], Event()

    def handler(request):
        yield b"first"
        try:
            entered.set()
            gevent.sleep(60)
        except RequestCancelled as error:
            seen.append(error)
            raise

    worker = Worker(broker.endpoint, "it", handler, enforce_deadline=True)
    with worker, Client(broker.endpoint, timeout=60) as client:
        stream = client.stream("it", b"")
        next(stream)
        entered.wait()
        stream.close()
        wait_until(lambda: len(seen) == 1)
