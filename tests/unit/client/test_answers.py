"""Answers and streams on their way to their readers: bounds, and readers that go away."""

from types import SimpleNamespace

import gevent
import pytest
from gevent.event import Event
from waiting import wait_until

from gmdp import AsyncClient, Client, ClosedError, ConfigurationError, HubNotRunning, StreamOverflow, Worker
from gmdp.client.answers import CATCH_UP_TIME, Answer
from gmdp.core.peer.calls import Call, Part

# Readers that do not read


def parts_of(size, count, gone=None):
    def handler(request):
        try:
            for _ in range(count):
                yield b"x" * size
        finally:
            if gone is not None:
                gone.set()

    return handler


def test_X9_a_handler_waits_for_a_stream_that_nobody_reads(broker):
    """It is never more than one part ahead of what its reader grants, and ends when the stream is closed."""
    sent, ended = [], Event()

    def endless(request):
        try:
            while True:
                sent.append(len(sent))
                yield b"x" * 30_000
        finally:
            ended.set()

    class Small(Client):
        stream_window = 200_000

    with Worker(broker.endpoint, "endless", endless), Small(broker.endpoint, timeout=60) as client:
        stream = client.stream("endless", b"")
        # 64 KiB are granted by the request: two parts, and a third that begins within them.
        wait_until(lambda: client.statistics().partials == 3)
        client.request("mmi.service", b"")
        assert len(sent) == 3
        for _ in range(50):
            assert len(next(stream)[0]) == 30_000
        taken = client.statistics().partials
        assert taken - 49 <= 200_000 // 30_064 + 2
        assert not ended.is_set()
        stream.close()
        assert ended.wait(10)


def test_the_bytes_of_an_unread_stream_are_bounded_without_flow_control(broker):
    """A worker of an earlier release sends as it likes."""

    class Small(Client):
        stream_bytes = 1_000_000

    def endless(request):
        while True:
            yield b"x" * 100_000
            gevent.sleep(0.01)

    worker = Worker(broker.endpoint, "endless", endless)
    worker.start()
    worker._core.extension_version = 1
    with Small(broker.endpoint, timeout=60) as client:
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


def test_X10_a_stream_of_20_000_small_parts_whose_reader_is_late(broker):
    """Its reader begins once the handler waits for it."""
    with Worker(broker.endpoint, "small", parts_of(10, 20_000)), Client(broker.endpoint, timeout=30) as client:
        stream = client.stream("small", b"")
        # What the request grants: each part weighs 10 bytes and 64 for its frame.
        wait_until(lambda: client.statistics().partials == 65_536 // 74 + 1)
        assert sum(1 for part in stream) == 20_000


class Reader:
    """An answer of a call, and the owner's side of it."""

    def __init__(self, stream_bytes):
        self.answer = Answer(stream_bytes)
        self.answer.call = self.call = Call(b"it", [b""], timeout=1.0)
        self.answer.canceller = self
        self.owner = self
        self.grants = 0

    def post(self, function, *args):
        function(*args)

    def grant(self, call):
        self.grants += 1

    def add(self, now, size, final=False):
        """A part of so many bytes comes; see `Answer.add_part`."""
        if not final:
            self.call.received += size + 64
        self.call.parts += 1
        return self.answer.add_part(Part(self.call, [b"x" * size], final), now)


def test_a_reader_that_has_caught_up_may_fall_behind_again():
    """Unread bytes count, not all bytes that arrived."""
    reader = Reader(1_400)
    for now in range(100):
        assert reader.add(float(now), 600)
        assert reader.add(now + 0.5, 600)  # too many
        assert [len(next(reader.answer)[0]), len(next(reader.answer)[0])] == [600] * 2
    assert reader.add(100.0, 600)
    assert reader.add(101.0, 600)
    assert reader.add(102.0, 600)
    assert not reader.add(102.1, 600)


def test_X10_an_answer_counts_bytes_and_not_parts():
    reader = Reader(1_000_000)
    for _ in range(15_000):
        assert reader.add(0.0, 1)
    for _ in range(400):
        reader.add(0.0, 1)
    assert reader.add(CATCH_UP_TIME, 1)
    assert not reader.add(CATCH_UP_TIME + 0.1, 1)
    # The last part is never too much: nothing follows it.
    assert reader.add(10 * CATCH_UP_TIME, 10_000, final=True)
    assert [len(frame) for [frame] in reader.answer] == [1] * 15_402 + [10_000]


def test_X9_a_part_counts_as_taken_once_the_next_is_asked_for():
    reader = Reader(1_000_000)
    reader.call.grant_at = 300
    for _ in range(3):
        reader.add(0.0, 136)
    next(reader.answer)
    assert (reader.call.consumed, reader.grants) == (0, 0)
    next(reader.answer)
    assert (reader.call.consumed, reader.grants) == (200, 0)
    # Or as soon as its reader says so, but never twice.
    reader.answer.note_taken(150)
    assert (reader.call.consumed, reader.grants) == (350, 1)
    reader.answer.note_taken(1_000)
    assert reader.call.consumed == 400
    next(reader.answer)
    assert (reader.call.consumed, reader.grants) == (400, 1)


@pytest.mark.parametrize(
    ("size", "error"),
    [(300 / 7, TypeError), ("300", TypeError), (-1, ConfigurationError)],
    ids=["float", "str", "below 0"],
)
def test_what_a_reader_of_a_stream_notes_wrongly_costs_no_other_call(broker, client, held, size, error):
    """The owner would put the sum into a grant of credit."""
    with Worker(broker.endpoint, "parts", parts_of(1_000, 100)):
        other = client.submit("held", b"other")
        stream = client.stream("parts", b"")
        for _ in range(99):
            next(stream)
            with pytest.raises(error):
                stream.note_taken(size)
            stream.note_taken(300)
        assert len(list(stream)) == 1
        held.release()
        assert other.get(timeout=20) == [b"other"]


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


# In another thread than the client's


class Waited:
    """Stands in for a slot that is never set, and for a hub that has made no pass, or one at least."""

    def __init__(self, made=False):
        self.made = made
        self.waits = []

    def wait(self, *arguments):
        """Record for how long, and give up."""
        self.waits.append(arguments[-1])
        return False


@pytest.mark.parametrize("made", [None, True, False])
def test_a_reader_in_another_thread_outwaits_the_owner_and_not_for_ever(made):
    """The owner keeps the time of a call, unless its hub does not run.  None: the client has a hub of its own."""
    answer, slot = Answer(0), Waited()
    first_pass = None if made is None else Waited(made)
    answer.call = Call(b"it", [b""], timeout=5.0, deadline=3.0)
    answer.canceller = SimpleNamespace(owner=SimpleNamespace(runs_here=False), first_pass=first_pass)
    with pytest.raises(HubNotRunning) as caught:
        answer.wait(slot)
    assert (slot if first_pass is None else first_pass).waits == [4.0]
    assert caught.value.service == b"it"
    assert str(caught.value).startswith("no reply from 'it': the hub of the thread that made the client did not run")
    assert ("since the client was made" in str(caught.value)) is (made is False)
