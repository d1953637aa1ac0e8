"""Answers and streams on their way to their readers: bounds, and readers that go away."""

import gevent
import pytest
from gevent.event import Event
from waiting import wait_until

from gmdp import AsyncClient, Client, ClosedError, StreamOverflow, Worker
from gmdp.client.answers import CATCH_UP_TIME, Answer
from gmdp.core.peer.calls import Call, Part

# Readers that do not read


def test_the_parts_of_an_unread_stream_are_bounded(broker):
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


def test_the_bytes_of_an_unread_stream_are_bounded(broker):
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


def test_a_stream_that_is_read_may_have_any_number_of_bytes(broker):
    """A burst may arrive before the reader runs, however large."""

    class Small(Client):
        stream_bytes = 1_000

    with Worker(broker.endpoint, "large", parts_of(100_000, 100)), Small(broker.endpoint, timeout=30) as client:
        assert [len(part) for [part] in client.stream("large", b"")] == [100_000] * 100


def test_a_reader_that_has_caught_up_may_fall_behind_again():
    """Unread bytes count, not all bytes that arrived."""
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


def test_an_answer_counts_its_unread_parts():
    answer = Answer(2, 1_000)
    for number in range(2):
        assert answer.add_part(Part(None, [b"%d" % number], final=False), 0.0)
    assert not answer.add_part(Part(None, [b"2"], final=False), 0.0)
    # The last part is never too much: nothing follows it.
    assert answer.add_part(Part(None, [b"x" * 10_000], final=True), 10 * CATCH_UP_TIME)
    answer.call = Call(b"it", [b""], timeout=1.0)
    assert [len(frame) for [frame] in answer] == [1, 1, 1, 10_000]


# Readers that go away


@pytest.mark.parametrize("how", ["close", "forget"])
def test_a_stream_that_is_closed_or_dropped_ends_its_call(broker, how):
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


def test_a_closed_stream_holds_no_parts(broker):
    """The stream takes no more parts: they would stay until the garbage collector runs."""
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


def test_C5_a_killed_caller_is_forgotten(broker, held):
    with Client(broker.endpoint) as client:
        caller = gevent.spawn(client.request, "held", b"x")
        wait_until(lambda: client.statistics().in_flight == 1)
        caller.kill()
        wait_until(lambda: client.statistics().in_flight == 0)
        assert client.statistics().cancelled == 1
        held.release()
        assert client.request("held", b"y") == [b"y"]


def test_C5_the_callers_own_timeout_arrives_untouched(broker, held):
    with Client(broker.endpoint) as client:
        own = gevent.Timeout(0.02)
        with pytest.raises(gevent.Timeout) as caught, own:
            client.request("held", b"x")
        assert caught.value is own
        wait_until(lambda: client.statistics().cancelled == 1)


@pytest.mark.parametrize("how", ["killed", "own timeout", "stream closed", "map closed", "client closed"])
def test_C5_a_caller_that_goes_away_cancels_its_call(broker, held, client, how):
    blocking = client.submit("held", b"blocks the worker")
    wait_until(lambda: held.requests)
    with AsyncClient(broker.endpoint) as other:
        if how == "killed":
            caller = gevent.spawn(other.request, "held", b"x")
        elif how == "own timeout":
            caller = gevent.spawn(gevent.with_timeout, 0.3, other.request, "held", b"x", timeout_value=None)
        elif how == "stream closed":
            stream = other.stream("held", b"x")
        else:
            mapped = other.map("held", [b"x"] * 10, in_flight=1)
            caller = gevent.spawn(next, mapped)
        wait_until(lambda: broker.statistics().queued == 1)
        if how == "stream closed":
            stream.close()
        elif how == "client closed":
            other.close()
            with pytest.raises(ClosedError):
                caller.get()
        elif how != "own timeout":
            caller.kill()
        wait_until(lambda: broker.statistics().ended == {"cancelled": 1})
        assert broker.statistics().queued == 0
    held.release()
    assert blocking.get() == [b"blocks the worker"]
    assert len(held.requests) == 1
