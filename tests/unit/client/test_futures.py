"""The futures of calls: cancelled, waited for in any thread; callbacks are called in the caller's context."""

import contextvars
import threading
from collections import deque
from types import SimpleNamespace

import gevent
import gevent.event
import pytest
from gevent.queue import Queue
from waiting import wait_until

from gmdp import AsyncClient, CallCancelled, CallError, ClosedError, Future, NoWorker, StateError, Worker
from gmdp.client.futures import EndedQueue, FutureAnswer
from gmdp.core.peer.calls import Call, Part
from gmdp.io.slots import get_hub_if_exists

mine = contextvars.ContextVar("mine", default="nothing")


# Waiting


WAITS = {
    "get": lambda client, future, stream: future.get(),
    "get for a time": lambda client, future, stream: future.get(timeout=5),
    "wait": lambda client, future, stream: future.wait(),
    "map": lambda client, future, stream: list(client.map("held", [b""])),
    "map as they arrive": lambda client, future, stream: list(client.map("held", [b""], ordered=False)),
    "stream": lambda client, future, stream: next(stream),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("where", ["hub", "hook"])
def test_G3_code_that_must_not_wait_gets_an_error_where_it_would(broker, held, client, where, wait):
    errors = []
    future, stream = client.submit("held", b""), client.stream("held", b"")

    def call():
        try:
            WAITS[wait](client, future, stream)
        except StateError as error:
            errors.append(error)

    post = {"hub": gevent.get_hub().loop.run_callback, "hook": broker._owner.post}[where]
    post(call)
    wait_until(lambda: errors)
    held.release()
    assert future.get(timeout=20) == [b""]
    values = []
    post(lambda: values.append((future.get(), future.wait(), future.get(block=False))))
    wait_until(lambda: values)
    assert values == [([b""],) * 3]


def test_a_thread_that_polls_a_future_leaves_nothing_with_it(held, client):
    future, polls = client.submit("held", b""), []

    def poll():
        for _ in range(20):
            with pytest.raises(gevent.Timeout):
                future.get(timeout=0.0001)
            future.wait(timeout=0)
            polls.append(len(future._slots))

    thread = threading.Thread(target=poll)
    thread.start()
    wait_until(lambda: len(polls) == 20)
    thread.join()
    assert set(polls) == {0}
    held.release()
    assert future.get(timeout=20) == [b""]


def test_the_slot_of_a_wait_that_ends_just_now_may_have_gone(held, client):
    class Slots(deque):
        def __bool__(self):
            return True  # a thread takes its slot away between a look and its use

    future = client.submit("held", b"")
    future._slots = Slots()
    held.release()
    assert future.get(timeout=20) == [b""]
    assert client.request("held", b"2") == [b"2"]


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


class Overtaken(FutureAnswer):
    """An answer that comes, in the client's thread, while another thread begins to cancel the call."""

    __slots__ = ()

    def close(self):
        """Let the owner be first."""
        self.add_part(Part(None, [b"first"], final=True), 0.0)
        super().close()


def test_a_call_ends_once_though_its_answer_and_a_cancel_meet():
    answer = Overtaken()
    answer.call = Call(b"it", [b""], timeout=1.0)
    assert not answer.future.cancel()
    assert not answer.future.cancelled()
    assert answer.future.get() == [b"first"]


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


def test_parts_count_as_read_when_they_are_joined():
    """The handler may go on once its credit is used up, though nobody reads."""
    granted = []
    answer = FutureAnswer()
    answer.canceller = SimpleNamespace(grant=granted.append)
    call = Call(b"it", [b""], timeout=1.0)
    call.grant_at = 5
    for received, grants in ((4, []), (5, [call])):
        call.received = received
        answer.add_part(Part(call, [b"x"], final=False), 0.0)
        assert granted == grants
        assert call.consumed == received


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


# Threads


def in_threads(count, function):
    """Call `function(number)` in `count` threads without a hub; returns what it returned, or raised."""
    results = [None] * count

    def run(number):
        try:
            results[number] = function(number)
        except BaseException as error:
            results[number] = error
        if get_hub_if_exists() is not None:
            results[number] = "it has made a hub"

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    wait_until(lambda: not any(thread.is_alive() for thread in threads))
    return results


@pytest.mark.parametrize("threaded", [False, True])
def test_G8_G17_futures_are_for_any_thread(echoing, threaded):
    """With `threaded=True` no hub but the client's own has to run."""
    bodies = [b"%d" % number for number in range(100)]

    def use(number):
        futures = [client.submit("echo", body) for body in bodies]
        assert [future.get() for future in futures] == [[body] for body in bodies]
        assert sorted(client.map("echo", bodies, ordered=False, in_flight=7)) == sorted([body] for body in bodies)
        assert list(client.map("echo", bodies)) == [[body] for body in bodies]
        waits = client.submit("nobody", b"")
        with pytest.raises(gevent.Timeout):
            waits.get(timeout=0.01)
        assert waits.wait(timeout=0.01) is None
        assert waits.cancel()
        assert not waits.cancel()
        assert waits.cancelled()
        with pytest.raises(CallCancelled):
            waits.get()
        with pytest.raises(NoWorker):
            client.submit("nobody", b"", when_no_worker="fail").result()
        return "well"

    with AsyncClient(echoing.endpoint, timeout=20, threaded=threaded) as client:
        assert in_threads(3, use) == ["well"] * 3
        assert use(0) == "well"
        linked = Queue()
        client.submit("echo", b"linked").rawlink(linked.put)
        if not threaded:
            assert linked.get(timeout=20).get() == [b"linked"]


def test_G8_a_call_in_flight_in_a_thread_ends_when_a_threaded_client_closes(echoing):
    client = AsyncClient(echoing.endpoint, timeout=20, threaded=True)

    def wait(number):
        return client.submit("nobody", b"").get()

    closer = gevent.spawn(lambda: wait_until(lambda: client.statistics().in_flight == 2) and client.close())
    assert [type(error) for error in in_threads(2, wait)] == [ClosedError] * 2
    closer.get()


def test_futures_come_in_the_order_in_which_their_calls_ended():
    """Those that have ended already come at once; each comes once."""
    answers = [FutureAnswer() for _ in range(3)]
    queue = EndedQueue()
    answers[2].add_part(Part(None, [b"2"], final=True), 0.0)
    for answer in answers:
        answer.future.put_into(queue)
    answers[1].fail(ClosedError("closed"))
    answers[0].add_part(Part(None, [b"0"], final=True), 0.0)
    assert [queue.get(answers[0].future) for _ in range(3)] == [answers[number].future for number in (2, 1, 0)]
    assert not queue._futures


def test_a_reader_of_ended_futures_waits_for_the_next_one():
    queue, answer = EndedQueue(), FutureAnswer()
    answer.canceller = SimpleNamespace(owner=SimpleNamespace(runs_here=True))
    answer.future.put_into(queue)
    reader = gevent.spawn(queue.get, answer.future)
    gevent.sleep(0)
    assert not reader.ready()
    answer.add_part(Part(None, [b"x"], final=True), 0.0)
    assert reader.get(timeout=20) is answer.future
