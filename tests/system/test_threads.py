"""Threads that come and go, hubs that are gone, and greenlets of gmdp that other code kills."""

import functools
import subprocess
import sys
import threading

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Pool
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, ClosedError, HandlerFailed, MDPError, RequestTimeout, Worker


def in_thread(function):
    """The result or the error of `function` in a thread of its own; this hub runs meanwhile."""
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


@pytest.mark.parametrize("destroyed", [False, True])
def test_P3_a_call_fails_when_the_hub_of_the_client_s_thread_is_gone(broker, destroyed):
    """Also where the next thread gets the number of the thread that ended."""

    def make():
        client = Client(broker.endpoint, timeout=0.05)
        client.start()
        if destroyed:
            gevent.get_hub().destroy(destroy_loop=True)
        return client

    client = in_thread(make)
    for _ in range(3):
        assert isinstance(in_thread(lambda: client.request("echo", b"")), RequestTimeout)


def test_a_call_fails_when_the_hub_is_gone_before_the_client_s_start(broker):
    def make():
        client = Client(broker.endpoint, timeout=0.05)
        gevent.get_hub().destroy(destroy_loop=True)
        return client

    client = in_thread(make)
    assert isinstance(in_thread(lambda: client.request("echo", b"")), MDPError)


def test_stop_from_a_thread_does_not_wait_for_a_broker_that_was_started_again(monkeypatch):
    broker = Broker("tcp://127.0.0.1:*")
    broker.start()
    set_when_gone = broker._owner.set_when_gone

    def set_later(*arguments):
        # A stop from another thread posts two functions; the broker is started between them.
        wait_until(lambda: broker.closed)
        broker.start()
        set_when_gone(*arguments)

    # The second function may be called in the thread that posts it, if the owner has ended by then.
    spawn = functools.partial(gevent.get_hub().loop.run_callback_threadsafe, gevent.spawn, set_later)
    monkeypatch.setattr(broker._owner, "set_when_gone", spawn)
    assert in_thread(broker.stop) is None
    assert broker.started
    monkeypatch.undo()
    broker.close()


def test_stop_with_an_endless_timeout_from_a_thread():
    broker = Broker("tcp://127.0.0.1:*")
    broker.start()
    assert in_thread(lambda: broker.stop(timeout=float("inf"))) is None
    assert broker.closed


def test_each_caller_of_a_closed_client_has_an_error_of_its_own(broker):
    client = AsyncClient(broker.endpoint)
    futures = [client.submit("nobody", b"") for _ in range(5)]
    wait_until(lambda: client.statistics().in_flight == 5)
    client.close()
    errors = [future.exception for future in futures]
    assert all(isinstance(error, ClosedError) for error in errors)
    assert len({id(error) for error in errors}) == 5


def test_W6_a_dispatcher_that_is_killed_answers_the_request_it_has(broker):
    """The dispatcher waits for a place in a full pool when it is killed."""
    hold, pool = Event(), Pool(1)
    handler = lambda request: hold.wait() and request.body  # noqa: E731
    worker = Worker(broker.endpoint, "it", handler, concurrency=2, spawn=pool)
    with worker, AsyncClient(broker.endpoint) as client:
        futures = [client.submit("it", b"%d" % number) for number in range(2)]
        dispatchers = worker._engine._dispatchers
        wait_until(lambda: all(dispatcher.running is not None for dispatcher in dispatchers))
        (waiting,) = [dispatcher for dispatcher in dispatchers if dispatcher.task is None]
        waiting.starter.kill()
        wait_until(lambda: any(future.ready() for future in futures))
        assert [type(future.exception) for future in futures if future.ready()] == [HandlerFailed]
        hold.set()
        gevent.joinall(futures)
        assert {future.value[0] for future in futures if future.successful()} < {b"0", b"1"}
        assert client.request("it", b"again") == [b"again"]


def test_a_task_that_has_ended_before_spawn_returns_counts_once(broker):
    def spawn(function, *args):
        greenlet = gevent.spawn(function, *args)
        greenlet.join()
        gevent.sleep(0)
        return greenlet

    with Worker(broker.endpoint, "it", lambda r: r.body, spawn=spawn) as worker, Client(broker.endpoint) as client:
        for number in range(5):
            assert client.request("it", b"%d" % number) == [b"%d" % number]
        now = worker.statistics()
        assert (now.requests, now.replies, now.errors, now.late_replies) == (5, 5, 0, 0)


def test_an_interrupt_in_a_handler_ends_the_program():
    script = """
import os, signal, gmdp
def handler(request):
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        pass
with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.Worker(broker.endpoint, "it", handler):
    client = gmdp.AsyncClient(broker.endpoint)
    future = client.submit("it", b"")
    try:
        broker.serve_forever()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    prelude = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    done = subprocess.run([sys.executable, "-c", prelude + script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted\n", done.stderr
