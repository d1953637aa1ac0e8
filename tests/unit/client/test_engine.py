"""A client's engine: what it gives to answers, and how it ends."""

import logging
from time import monotonic

import gevent
import pytest
import zmq.green
from gevent.event import Event
from waiting import wait_until

from gmdp import AsyncClient, ClosedError, RequestTimeout, StreamOverflow, Worker
from gmdp.client.answers import Answer
from gmdp.client.engine import ClientEngine
from gmdp.client.futures import FutureAnswer
from gmdp.core.outcomes import Outcome
from gmdp.core.peer.calls import Call, Part
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.statistics import ClientCounters
from gmdp.exceptions import OwnerDied
from gmdp.io.owner import Owner
from gmdp.protocol.dialects import RFC18


class Broken(FutureAnswer):
    """An answer that fails when it gets a part."""

    __slots__ = ()

    def add_part(self, part, now):
        """Raise, as a bug would."""
        raise RuntimeError("a bug")


def test_a_bug_while_answers_are_given_ends_every_call(broker, monkeypatch):
    """No caller waits forever, not even the one whose answer was next."""
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
        assert any(isinstance(end, ClosedError) and "a bug" in str(end) for end in ended)
        wait_until(lambda: client.closed)


@pytest.fixture
def ended():
    """The arguments of the calls of the engine's callback."""
    return []


@pytest.fixture
def engine(ended, unused_endpoint):
    """An engine whose owner does not run."""
    core = ClientCore(RFC18, Reconnect([unused_endpoint], 0.1), 1, ClientCounters(), nonce=b"n" * 16, max_in_flight=10)
    engine = ClientEngine(core, zmq.green.Context.instance(), (2.5, 7.5), None, ended.append)
    engine.owner = Owner(engine, "test")
    yield engine
    engine.close(ClosedError("closed"))


def begin(engine, span=None):
    """Begin a call; returns its future."""
    answer = FutureAnswer()
    answer.span = span
    answer.canceller = engine
    answer.call = Call(b"it", [b"x"], timeout=5.0, sink=answer)
    engine.submit(answer.call)
    return answer.future


def test_each_caller_gets_an_error_of_its_own_when_the_client_closes(engine, ended):
    """Raising an error adds a traceback to it: two callers must not share one."""
    futures = [begin(engine), begin(engine)]
    engine.close(ClosedError("closed by the test"))
    errors = [future.exception for future in futures]
    assert [str(error) for error in errors] == ["closed by the test"] * 2
    assert errors[0] is not errors[1]
    assert ended == [None]


def test_a_call_that_comes_after_the_end_gets_the_same_error(engine, ended):
    engine.close(ClosedError("closed by the test"))
    future = begin(engine)
    assert isinstance(future.exception, ClosedError)
    assert str(future.exception) == "closed by the test"


def test_the_bug_that_ended_the_owner_is_passed_on_once(engine, ended):
    died = OwnerDied("a bug")
    died.__cause__ = ZeroDivisionError()
    future = begin(engine)
    engine.on_owner_died(died)
    engine.close(ClosedError("closed"))
    assert ended == [died]
    assert isinstance(future.exception, OwnerDied)
    assert future.exception is not died
    assert future.exception.__cause__ is died.__cause__


def test_the_engine_asks_its_core_for_the_deadline(engine):
    assert engine.deadline() == engine.core.deadline()
    begin(engine)
    assert engine.deadline() <= monotonic() + 5.0


class Spans:
    """Stands in for the tracer, and records which spans ended, and why."""

    def __init__(self):
        self.ended = []

    def end_call(self, span, error):
        """Record the end of a span."""
        self.ended.append((span, error))


def test_a_call_s_span_ends_once_with_its_outcome(engine, monkeypatch):
    spans = Spans()
    monkeypatch.setattr("gmdp.client.engine.tracer", lambda: spans)
    answers = [begin(engine)._answer for _ in range(3)]
    for number, answer in enumerate(answers):
        answer.span = number
    engine._on_events([Part(answers[0].call, [b"a part"], final=False)], 0.0)
    assert spans.ended == []
    engine._on_events([Part(answers[0].call, [b"the last"], final=True)], 0.0)
    engine.cancel(answers[1].call)
    engine.flush(0.0)
    engine.close(ClosedError("closed"))
    assert spans.ended == [(0, ""), (1, Outcome.CANCELLED.value), (2, Outcome.CLOSED.value)]
    late = begin(engine, span=3)
    assert isinstance(late.exception, ClosedError)
    assert spans.ended[3:] == [(3, Outcome.CLOSED.value)]


def test_a_bug_in_one_answer_leaves_the_others_for_the_end(engine):
    """The events that no answer has got are not lost."""
    first, second = begin(engine), begin(engine)
    first._answer.__class__ = Broken
    parts = [Part(future._answer.call, [b"x"], final=True) for future in (first, second)]
    with pytest.raises(RuntimeError, match="a bug"):
        engine._on_events(parts, 0.0)
    assert "a bug" in str(first.exception)
    assert not second.ready()
    engine.close(ClosedError("closed"))
    assert second.value == [b"x"]


def test_a_call_whose_reader_does_not_keep_up_is_cancelled(engine):
    answer = Answer(10)
    answer.canceller = engine
    answer.call = Call(b"it", [b"x"], timeout=5.0, sink=answer)
    engine.submit(answer.call)
    answer.call.received = 100
    answer._over_since = -2.0
    engine._on_events([Part(answer.call, [b"too much"], final=False)], 0.0)
    engine.flush(0.0)
    assert next(answer) == [b"too much"]
    with pytest.raises(StreamOverflow):
        next(answer)


def test_cancelling_after_the_end_has_no_effect(engine):
    future = begin(engine)
    call = future._answer.call
    engine.close(ClosedError("closed"))
    engine.cancel(call)
    assert isinstance(future.exception, ClosedError)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()], ids=["bug", "interrupt"])
def test_a_failure_while_sending_leaves_no_caller_waiting(engine, monkeypatch, error):
    """What was decided for callers in the same pass as for the socket still reaches them."""
    future = begin(engine)  # decides to open a connection
    engine.core.tick(monotonic() + 10.0, 0.5)  # the call's time is up

    def fails(connection, now):
        raise error

    monkeypatch.setattr(engine, "_open", fails)
    with pytest.raises(type(error)):
        engine.flush(monotonic())
    engine.on_owner_died(OwnerDied("of a test"))
    with pytest.raises(RequestTimeout):
        future.get(block=False)


@pytest.mark.parametrize("method", ["close", "take"])
def test_G3_a_core_that_cannot_even_close_leaves_no_caller_waiting(engine, ended, monkeypatch, method):
    """Each caller gets the error once, and the owner's end is reported."""

    def fail(*args):
        raise KeyError("a second bug")

    futures = [begin(engine) for _ in range(3)]
    monkeypatch.setattr(ClientCore, method, fail)
    death = OwnerDied("of a test")
    with pytest.raises(KeyError):
        engine.on_owner_died(death)
    assert [type(future.exception) for future in futures] == [OwnerDied] * 3
    assert ended == [death]
    late = begin(engine)
    assert isinstance(late.exception, OwnerDied)
    monkeypatch.undo()


def test_a_client_that_nobody_holds_closes_once_no_call_is_open(engine, ended, monkeypatch):
    posted = []
    monkeypatch.setattr(engine, "idle_interval", 0.0)
    monkeypatch.setattr(engine.owner, "post", lambda function, *args: posted.append(function))
    future = begin(engine)
    call = future._answer.call
    engine.close_when_idle()
    assert ended == []
    wait_until(lambda: posted)
    assert posted == [engine.close_when_idle]
    engine.cancel(call)
    engine.flush(monotonic())
    for _ in range(2):  # the second time has no effect
        engine.close_when_idle()
        assert ended == [None]
    assert "garbage-collected" in str(begin(engine).exception)


def test_credit_is_granted_for_what_was_read_until_the_client_closes(engine, monkeypatch):
    granted = []
    monkeypatch.setattr(engine.core, "grant", lambda call, now: granted.append(call))
    call = begin(engine)._answer.call
    engine.grant(call)
    engine.close(ClosedError("closed"))
    engine.grant(call)
    assert granted == [call]
