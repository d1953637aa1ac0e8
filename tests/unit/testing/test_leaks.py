"""The search for leaks: what counts as one, and what does not."""

import gc
import os
import re
import select
import socket
import threading
import time
import weakref

import gevent
import gevent.socket
import pytest
from gevent.threadpool import ThreadPool
from waiting import wait_until

import gmdp
from gmdp.io import forks
from gmdp.testing import leaks
from gmdp.testing.leaks import Census, Leaked, no_leaks


def test_no_leaks_raises_for_a_leak():
    with pytest.raises(Leaked) as raised, no_leaks(patience=0.05):
        left = gevent.spawn(gevent.sleep, 1000)
    (leak,) = raised.value.leaks
    assert leak.kind == "greenlets"
    assert re.search(r"spawned at .*test_leaks\.py:\d+ in test_no_leaks_raises", leak.what)
    assert isinstance(raised.value, AssertionError)
    left.kill()


def test_no_leaks_ignores_allowed_kinds_and_blocks_that_raise():
    kept = []

    def fail():
        kept.append(gevent.spawn(gevent.sleep, 1000))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), no_leaks(patience=0.05):
        fail()
    with no_leaks(allowed=["greenlets"], patience=0.05), no_leaks(allowed="greenlets", patience=0.05):
        kept.append(gevent.spawn(gevent.sleep, 1000))
    with pytest.raises(gmdp.ConfigurationError, match="'sockets' is no kind of leak"), no_leaks(allowed=["sockets"]):
        pass
    gevent.killall(kept)


def test_things_that_only_the_garbage_collector_frees_are_no_leaks():
    gc.collect()
    with no_leaks():
        cycle = [os.fdopen(os.open(os.devnull, os.O_RDONLY))]
        cycle.append(cycle)
        watched = weakref.ref(cycle[0])
        del cycle
        assert watched() is not None
    assert watched() is None


def test_a_new_descriptor_with_an_old_number_is_a_leak():
    old = os.open(os.devnull, os.O_RDONLY)
    census = Census()
    os.close(old)
    new = os.open("/dev/zero", os.O_RDONLY)
    assert new == old
    assert [leak.what for leak in census.leaks(["descriptors"])] == [f"{new} -> /dev/zero"]
    os.close(new)


def test_busy_threads_of_the_hubs_own_pool_are_leaks_and_idle_ones_are_not():
    pool, begun, go_on = gevent.get_hub().threadpool, threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(60)

    with no_leaks():
        pool.spawn(int).get()
    census = Census()
    task = pool.spawn(work)
    wait_until(begun.is_set)
    (leak,) = census.leaks()
    assert leak.kind == "threads"
    assert "in wait" in leak.what
    go_on.set()
    task.get()
    census.check()


def test_a_killed_pool_is_no_leak():
    with no_leaks():
        pool = ThreadPool(2)
        pool.spawn(int).get()
        pool.kill()


def test_earlier_requests_are_no_leaks():
    with gmdp.Broker("inproc://before") as broker, gmdp.AsyncClient(broker.endpoint) as client:
        client.submit("nobody", b"")
        wait_until(lambda: broker.statistics().queued == 1)
        with no_leaks():
            pass
        census = Census()
        client.submit("nobody", b"")
        wait_until(lambda: broker.statistics().queued == 2)
        with pytest.raises(Leaked, match=r"service 'nobody': 2 queued(.|\n)*calls in flight: 2"):
            census.check(patience=0.05)


def test_a_call_made_just_before_is_no_leak(unused_endpoint):
    with gmdp.AsyncClient(unused_endpoint) as client:
        client.submit("nobody", b"")
        with no_leaks(patience=0.05):
            pass


def test_sockets_of_python_are_leaks_though_others_may_be_zeromqs(unused_endpoint):
    with gmdp.Client(unused_endpoint):
        for make in (socket.socket, gevent.socket.socket):
            census = Census()
            theirs, ours = os.eventfd(0), make()
            assert [leak.what.split()[0] for leak in census.leaks()] == [str(ours.fileno())]
            os.close(theirs)
            ours.close()
    census = Census()
    others = os.eventfd(0)
    assert [leak.what for leak in census.leaks()] == [f"{others} -> anon_inode:[eventfd]"]
    os.close(others)


def test_a_hub_that_does_not_run_is_asked_once(monkeypatch):
    def run():
        made.append(gmdp.AsyncClient("tcp://127.0.0.1:1"))
        made[-1].start()
        made[-1].submit("nobody", b"")
        until.wait(60)

    monkeypatch.setattr(leaks, "ANSWER_TIMEOUT", 0.3)
    made, until = [], threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: made and made[0].started)
    begun = time.monotonic()
    census = Census()
    for _ in range(10):
        assert census.leaks(["requests"]) == []
    until.set()
    thread.join()
    for _ in range(10):
        assert Census().leaks(["requests"]) == []
    assert time.monotonic() < begun + 2
    assert not made[0].closed


def test_calls_of_a_threaded_client_are_leaks(unused_endpoint):
    with gmdp.Client(unused_endpoint, threaded=True) as client:
        census = Census()
        stream = client.stream("nobody", b"")
        (leak,) = census.leaks(["requests"])
        assert leak.what.startswith("calls not yet sent: 1\n")
        assert Census().leaks(["requests"]) == []
        stream.close()


def test_another_thread_may_make_a_client_during_the_census(monkeypatch):
    class Changing(list):
        changes = 2

        def __iter__(self):
            if self.changes:
                self.changes -= 1
                raise RuntimeError("Set changed size during iteration")
            return super().__iter__()

    changing = Changing(forks.instances())
    monkeypatch.setattr(forks, "_instances", changing)
    assert Census().leaks(["requests"]) == []
    assert changing.changes == 0


def test_greenlets_of_other_threads_are_leaks_without_a_place():
    def run():
        there = gevent.spawn(gevent.sleep, 60)
        until.wait(60)
        there.kill()
        gevent.get_hub().destroy(destroy_loop=True)

    until = threading.Event()
    census = Census()
    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: census.leaks(["greenlets"]))
    assert "in another thread" in census.leaks(["greenlets"])[0].what
    until.set()
    thread.join()
    census.check()


def _replaced_by_two(descriptor):
    made = [select.epoll(), select.epoll()]
    descriptor.close()
    return made


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="epoll is Linux's")
def test_a_loop_may_replace_its_epoll_descriptor():
    """libev makes a new one after a spurious report; one more than before is a leak all the same."""
    old = select.epoll()
    with no_leaks(patience=0.05):
        new = select.epoll()
        old.close()
    with pytest.raises(Leaked, match="eventpoll"), no_leaks(patience=0.05):
        kept = _replaced_by_two(new)
    for descriptor in kept:
        descriptor.close()
