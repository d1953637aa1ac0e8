"""Deadlines: when they pass, what they interrupt, and what they leave alone."""

import asyncio
import functools
import os
import signal
import threading
import time
import types

import gevent
import gevent.socket
import pytest

from gmdp.testing import deadline
from gmdp.testing.deadline import DeadlinePassed
from gmdp.testing.leaks import no_leaks


@pytest.fixture(autouse=True)
def _sigint_raises():
    """Let SIGINT raise here: a background job of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_deadline_that_does_not_pass_leaves_no_trace(capsys):
    with no_leaks(), deadline.deadline(60):
        gevent.sleep(0)
    assert capsys.readouterr().err == ""


def test_a_deadline_raises_again_while_cleaning_up_and_through_except_exception(capsys):
    def work():
        try:
            try:
                gevent.sleep(60)
            except Exception:
                raise AssertionError("swallowed") from None
        finally:
            cleaning.append(True)
            gevent.sleep(60)

    cleaning = []
    with no_leaks():
        with pytest.raises(DeadlinePassed, match=r"the deadline of 0\.05 s passed; greenlets alive: \d"):
            with deadline.deadline(0.05):
                work()
    assert cleaning
    assert capsys.readouterr().err.count("The deadline of 0.05 s passed.\n") == 2


def test_a_deadline_raises_in_the_greenlet_that_started_it():
    def work():
        with deadline.deadline(0.05):
            gevent.sleep(60)

    working = gevent.spawn(work)
    with pytest.raises(DeadlinePassed):
        working.get()


def test_a_blocked_hub_is_interrupted_and_a_users_interrupt_stays_one(monkeypatch, capsys):
    monkeypatch.setattr(deadline, "GRACE", 0.1)
    with pytest.raises(DeadlinePassed, match="the hub was blocked") as raised, deadline.deadline(0.05):
        time.sleep(60)
    assert isinstance(raised.value.__cause__, KeyboardInterrupt)
    err = capsys.readouterr().err
    assert "the hub has not run for 0.1 s since" in err
    assert "time.sleep(60)" in err
    with pytest.raises(KeyboardInterrupt), deadline.deadline(60):
        raise KeyboardInterrupt


def test_a_hub_blocked_by_asyncio_is_interrupted_until_it_ends(monkeypatch, capsys):
    async def block():
        time.sleep(60)
        slept.append(True)

    monkeypatch.setattr(deadline, "GRACE", 0.1)
    slept = []
    with pytest.raises(DeadlinePassed, match="the hub was blocked"), deadline.deadline(0.05):
        asyncio.run(block())
    assert slept == []
    assert capsys.readouterr().err.count("the hub has not run for 0.1 s since") == 1


def test_after_a_pause_a_deadline_has_the_seconds_that_remained(monkeypatch):
    passed = 0.0
    monkeypatch.setattr(deadline, "monotonic", lambda: time.monotonic() + passed)
    limit = deadline.deadline(60)
    limit.start()
    passed = 59.9
    limit.pause()
    passed += 1000
    limit.resume()
    with pytest.raises(DeadlinePassed, match="the deadline of 60 s passed"):
        gevent.sleep(10)
    for end in (limit.pause, limit.cancel, limit.resume):
        end()
    assert not limit.running


def test_a_block_that_has_just_ended_is_not_interrupted(monkeypatch):
    """No signal is sent while the deadline is being cancelled in time."""
    monkeypatch.setattr(deadline, "GRACE", 0.05)
    with deadline.deadline(0.05) as limit:
        limit._drop_timer()
        limit._timer = types.SimpleNamespace(stop=functools.partial(time.sleep, 0.3), close=bool)


def test_an_interrupt_on_its_way_arrives_before_the_block_has_ended(monkeypatch):
    sent = []

    def block():
        while not sent:
            time.sleep(0.001)

    def deliver(how, signals):
        while sent:
            signal.raise_signal(sent.pop())

    monkeypatch.setattr(deadline, "GRACE", 0.05)
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: sent.append(number))
    monkeypatch.setattr(signal, "pthread_sigmask", deliver)
    with pytest.raises(DeadlinePassed, match="the hub was blocked"), deadline.deadline(0.05):
        block()
    assert sent == []


def test_a_forked_child_has_no_deadline_but_may_start_one():
    """Even if the watching thread held the lock at the fork."""

    def child(outer, inner):
        signal.alarm(20)
        inner.cancel()
        gevent.sleep(0.4)
        outer.cancel()
        inner.start(0.05)
        try:
            gevent.sleep(10)
        except DeadlinePassed:
            os._exit(7)

    with deadline.deadline(0.2) as outer, deadline.deadline(60) as inner:
        inner._lock.acquire()
        forked = os.fork()
        if forked:
            inner._lock.release()
        else:
            try:
                child(outer, inner)
            finally:
                os._exit(1)
    status = gevent.get_hub().threadpool.apply(os.waitpid, (forked, 0))[1]
    assert os.waitstatus_to_exitcode(status) == 7


def test_a_deadline_of_another_thread_sends_no_signal(monkeypatch, capsys):
    monkeypatch.setattr(deadline, "GRACE", 0.05)
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: sent.append(number))
    ended, sent, err = [], [], ""

    def run():
        nonlocal err
        with deadline.deadline(0.05):
            while "the hub has not run" not in err:
                time.sleep(0.001)
                err += capsys.readouterr().err
            time.sleep(0.2)  # long enough for four signals
        ended.append(True)
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended
    assert sent == []


def test_a_deadline_does_not_prevent_a_loop_exit():
    done = []

    def run():
        with deadline.deadline(60), pytest.raises(gevent.exceptions.LoopExit):
            gevent.event.Event().wait()
        done.append(True)
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done
