"""The futures of calls: they can be cancelled, and callbacks are called in the caller's context."""

import contextvars

import gevent
import gevent.event
import pytest
from waiting import wait_until

from gmdp import AsyncClient, CallCancelled, CallError, ClosedError, Future, Worker
from gmdp.client.futures import FutureAnswer
from gmdp.core.peer.calls import Call, Part

mine = contextvars.ContextVar("mine", default="nothing")


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
    held.release()
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


def test_C5_cancelled_calls_leave_nothing_behind(broker, held, client):
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
    held.release()
    assert blocking.get() == [b"blocks the worker"]
    assert not broker._core._accounts.calls
    assert not broker._core._accounts.clients
    assert broker.statistics().queued_bytes == 0


# Callbacks


def test_callbacks_run_in_the_context_of_the_greenlet_that_submitted(broker, client):
    seen = []
    with Worker(broker.endpoint, "echo", lambda request: request.body):
        for name in ("first", "second"):

            def submit(name=name):
                mine.set(name)
                future = client.submit("echo", b"")
                future.rawlink(lambda future: seen.append((mine.get(), future.value)))
                mine.set("later")

            gevent.spawn(submit).join()
        wait_until(lambda: len(seen) == 2)
    assert sorted(seen) == [("first", [b""]), ("second", [b""])]
    assert mine.get() == "nothing"


def test_a_callback_that_is_unlinked_is_not_called(broker, client):
    seen = []
    future = client.submit("nobody", b"")
    for callback in (seen.append, seen.remove):
        future.rawlink(callback)
    future.unlink(seen.remove)
    assert gevent.wait([future], timeout=0.01) == []  # which links and unlinks something of gevent's
    future.cancel()
    wait_until(lambda: seen)
    assert seen == [future]


def test_callbacks_are_linked_and_unlinked_as_those_of_gevent_s_own(broker, client):
    """Also a callback that was linked twice, has no hash, or equals another one."""

    class Equal(list):
        def __call__(self, future):
            called.append(self)

    called = []
    first, second = Equal(), Equal()
    future = client.submit("nobody", b"")
    plain = gevent.event.AsyncResult()
    for one in (future, plain):
        for callback in (first, second, first):
            one.rawlink(callback)
        one.unlink(first)
    future.cancel()
    plain.set()
    wait_until(lambda: len(called) == 4)
    gevent.sleep(0)
    assert len(called) == 4
    assert sum(callback is second for callback in called) >= 2


def test_the_caller_s_context_ends_with_its_call(broker, client):
    """A value that a callback sets is seen by no other callback."""
    seen = []

    def callback(future):
        seen.append(mine.get())
        mine.set("set by a callback")

    with Worker(broker.endpoint, "echo", lambda request: request.body):
        future = client.submit("echo", b"")
        future.rawlink(callback)
        future.rawlink(lambda future: seen.append(mine.get()))
        wait_until(lambda: len(seen) == 2)
    assert seen == ["nothing", "nothing"]


# Parts


def test_a_future_joins_the_parts_of_its_answer():
    answer = FutureAnswer()
    call = Call(b"it", [b""], timeout=1.0)
    assert answer.add_part(Part(call, [b"1"], final=False), 0.0)
    assert answer.add_part(Part(call, [b"2", b"3"], final=False), 0.0)
    assert not answer.future.ready()
    # An empty FINAL only ends the answer.
    assert answer.add_part(Part(None, [b""], final=True), 0.0)
    assert answer.future.get() == [b"1", b"2", b"3"]
    # Nothing changes an answer that has ended.
    assert answer.add_part(Part(None, [b"4"], final=True), 0.0)
    answer.fail(ClosedError("late"))
    assert answer.future.get() == [b"1", b"2", b"3"]


def test_an_empty_final_alone_is_the_answer():
    answer = FutureAnswer()
    answer.add_part(Part(None, [b""], final=True), 0.0)
    assert answer.future.get() == [b""]


def test_a_future_raises_the_error_of_its_call():
    answer = FutureAnswer()
    answer.fail(ClosedError("closed"))
    with pytest.raises(ClosedError):
        answer.future.get()
    assert not answer.future.cancel()
