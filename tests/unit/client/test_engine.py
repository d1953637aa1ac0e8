"""A client's engine: what it gives to answers, and how it ends."""

import logging
from time import monotonic

import gevent
import pytest
import zmq.green
from gevent.event import Event
from waiting import wait_until

from gmdp import AsyncClient, ClosedError, Worker
from gmdp.client.engine import ClientEngine
from gmdp.client.futures import FutureAnswer
from gmdp.core.peer.calls import Call
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.statistics import ClientCounters
from gmdp.exceptions import OwnerDied
from gmdp.io.owner import Owner
from gmdp.protocol.dialects import RFC18


class Broken(FutureAnswer):
    """One that gmdp cannot give to its caller."""

    __slots__ = ()

    def add_part(self, part, now):
        """A defect."""
        raise RuntimeError("a defect")


def test_a_defect_while_answers_are_given_ends_every_call(broker, monkeypatch):
    """Nobody waits for ever, also not those whose answers were next."""
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
        assert any(isinstance(end, ClosedError) and "a defect" in str(end) for end in ended)
        wait_until(lambda: client.closed)


@pytest.fixture
def ended():
    """What the engine's callback was called with."""
    return []


@pytest.fixture
def engine(ended, unused_endpoint):
    """An engine whose owner does not run."""
    core = ClientCore(RFC18, Reconnect([unused_endpoint], 0.1), 1, ClientCounters(), nonce=b"n" * 16, max_in_flight=10)
    engine = ClientEngine(core, zmq.green.Context.instance(), 2.5, None, ended.append)
    engine.owner = Owner(engine, "test")
    yield engine
    engine.close(ClosedError("closed"))


def begin(engine):
    """Begin a call; returns its future."""
    answer = FutureAnswer()
    answer.engine = engine
    answer.call = Call(b"it", [b"x"], timeout=5.0, owner=answer)
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


def test_the_defect_that_ended_the_owner_is_passed_on_once(engine, ended):
    died = OwnerDied("a defect")
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
