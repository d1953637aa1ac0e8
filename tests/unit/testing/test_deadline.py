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
def _interrupts():
    """Here, and in what is started here; a shell's job in the background ignores them, and hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_deadline_that_is_met_leaves_nothing(capsys):
    with no_leaks(), deadline.deadline(60):
        gevent.sleep(0.01)
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


def test_a_deadline_ends_the_greenlet_it_was_set_in():
    def work():
        with deadline.deadline(0.05):
            gevent.sleep(60)

    working = gevent.spawn(work)
    with pytest.raises(DeadlinePassed):
        working.get()


def test_a_blocked_hub_is_interrupted_and_a_users_interrupt_is_left_alone(monkeypatch, capsys):
    monkeypatch.setattr(deadline, "GRACE", 0.1)
    with pytest.raises(DeadlinePassed, match="the hub was blocked") as raised, deadline.deadline(0.05):
        time.sleep(60)
    assert isinstance(raised.value.__cause__, KeyboardInterrupt)
    told = capsys.readouterr().err
    assert "the hub has not run for 0.1 s since" in told
    assert "time.sleep(60)" in told
    with pytest.raises(KeyboardInterrupt), deadline.deadline(60):
        raise KeyboardInterrupt


def test_a_hub_blocked_by_asyncio_is_interrupted_until_that_helps(monkeypatch, capsys):
    async def block():
        time.sleep(60)
        slept.append(True)

    monkeypatch.setattr(deadline, "GRACE", 0.1)
    slept = []
    with pytest.raises(DeadlinePassed, match="the hub was blocked"), deadline.deadline(0.05):
        asyncio.run(block())
    assert slept == []
    assert capsys.readouterr().err.count("the hub has not run for 0.1 s since") == 1


def test_a_deadline_goes_on_after_a_pause_with_what_remains(monkeypatch):
    passed = 0.0
    monkeypatch.setattr(deadline, "monotonic", lambda: time.monotonic() + passed)
    limit = deadline.deadline(60)
    limit.start()
    passed = 59.9
    limit.pause()
    gevent.sleep(0.2)
    limit.resume()
    with pytest.raises(DeadlinePassed, match="the deadline of 60 s passed"):
        gevent.sleep(10)
    for end in (limit.pause, limit.cancel, limit.resume):
        end()
    assert not limit.running


def test_a_block_that_has_just_ended_is_not_interrupted(monkeypatch):
    """Where its deadline is being cancelled, in time, it is too late."""
    monkeypatch.setattr(deadline, "GRACE", 0.05)
    with deadline.deadline(0.05) as limit:
        limit._drop_timer()
        limit._timer = types.SimpleNamespace(stop=functools.partial(time.sleep, 0.3), close=bool)


def test_an_interrupt_that_is_on_its_way_comes_before_a_deadline_is_left(monkeypatch):
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
    """Even if the thread that watches the hub held the lock when it forked."""

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


def test_another_threads_deadline_interrupts_nobody(monkeypatch, capsys):
    monkeypatch.setattr(deadline, "GRACE", 0.05)
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: sent.append(number))
    ended, sent, err = [], [], ""

    def run():
        nonlocal err
        with deadline.deadline(0.05):
            while "the hub has not run" not in err:
                time.sleep(0.001)
                err += capsys.readouterr().err
            time.sleep(0.2)  # time enough for four signals
        ended.append(True)
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended
    assert sent == []


def test_where_nothing_can_ever_happen_a_deadline_does_not_hide_it():
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
