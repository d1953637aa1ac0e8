"""From a session's work to a running handler: killed, refused, several at once."""

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Pool
from waiting import wait_until

from gmdp import HandlerFailed, Worker


def echo(request):
    return request.body


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
