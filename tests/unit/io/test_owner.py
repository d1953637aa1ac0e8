"""The greenlet that owns sockets: its turns, its end, its mailbox."""

import itertools
import logging
import subprocess
import sys
import threading
from time import monotonic

import gevent
import pytest
import zmq
import zmq.green
from waiting import wait_until

from gmdp import AsyncClient
from gmdp.exceptions import OwnerDied
from gmdp.io.link import Link
from gmdp.io.owner import Owner
from gmdp.io.slots import Slot

NEVER = float("inf")


class RecordingEngine:
    """Notes what an owner calls; fails or finishes where a test says so."""

    def __init__(self):
        self.calls = []
        self.messages = []
        self.due_at = NEVER
        self.error = None
        self.death = None

    def on_wake(self, now):
        self.calls.append("wake")
        if self.error is not None:
            raise self.error

    def on_message(self, link, frames, now):
        self.messages.append(frames)

    def on_connected(self, link, now):
        self.calls.append("connected")

    def on_disconnected(self, link, reason, now):
        self.calls.append("disconnected")
        link.close()

    def on_caught_up(self, now):
        self.calls.append("caught up")

    def deadline(self):
        return self.due_at

    def tick(self, now):
        self.calls.append("tick")
        self.due_at = NEVER

    def flush(self, now):
        self.calls.append("flush")

    def on_owner_died(self, error):
        self.death = error


@pytest.fixture
def engine():
    return RecordingEngine()


@pytest.fixture
def owner(engine):
    """An owner that runs, and waits."""
    owner = Owner(engine, "test")
    owner.start()
    owner.call(lambda: None, timeout=20)
    yield owner
    owner.finish()
    owner.post(int)
    owner.greenlet.join()


def in_thread(function):
    """What `function` returns in a thread without a hub; the hub runs meanwhile."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    wait_until(lambda: not thread.is_alive())
    return results[0]


# Time


def test_a_deadline_within_a_millisecond_sets_no_timer_that_libuv_warns_of(engine, monkeypatch):
    """With warnings as errors, such a timer ended the owner."""
    times = []

    class Loop:
        def __getattr__(self, name):
            return getattr(gevent.get_hub().loop, name)

        def timer(self, after):
            times.append(after)
            return gevent.get_hub().loop.timer(after)

    # The clock stands still while the owner decides how long to wait.
    monkeypatch.setattr("gmdp.io.owner.monotonic", lambda: 1000.0)
    monkeypatch.setattr(engine, "deadline", lambda: 1000.0002)
    owner = Owner(engine, "test")
    owner.loop = Loop()
    owner.start()
    wait_until(lambda: times)
    assert set(times) == {0.001}
    owner.finish()
    owner.post(int)
    owner.greenlet.join()


# The mailbox


def test_posts_are_called_in_order_and_one_wake_suffices(owner, engine):
    wait_until(lambda: owner._waiter is not None)
    del engine.calls[:]
    numbers = []
    for number in range(10):
        owner.post(numbers.append, number)
    wait_until(lambda: len(numbers) == 10)
    assert numbers == list(range(10))
    assert engine.calls.count("wake") == 1


def test_a_call_returns_the_result_or_raises_the_error(owner):
    def fail():
        raise ZeroDivisionError

    for caller in (lambda function: function(), in_thread):
        assert caller(lambda: owner.call(divmod, 7, 2, timeout=20)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        owner.call(fail, timeout=20)


def test_a_call_from_a_thread_ends_with_its_timeout_if_the_hub_does_not_run(owner):
    def call():
        with pytest.raises(TimeoutError, match="test"):
            owner.call(int, timeout=0.01)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()  # the hub is blocked
    wait_until(lambda: not owner._mailbox)


def test_only_its_own_thread_is_where_an_owner_runs(owner):
    assert owner.runs_here
    assert not in_thread(lambda: owner.runs_here)


def test_after_the_end_posts_are_called_at_once(engine):
    owner = Owner(engine, "test")
    owner.start()
    owner.post(owner.finish)
    owner.greenlet.join()
    assert owner.call(divmod, 7, 2, timeout=0) == (3, 1)


# Waking and waiting


def test_an_owner_wakes_for_its_engines_deadline(owner, engine):
    del engine.calls[:]
    began = monotonic()
    engine.due_at = began + 0.05
    owner.post(int)  # a pass, in which the deadline is asked for
    wait_until(lambda: "tick" in engine.calls)
    assert monotonic() - began >= 0.05
    assert engine.calls[-4:] == ["wake", "caught up", "tick", "flush"]


def test_an_owner_looks_at_its_sockets_in_any_case_after_the_safety_interval(owner, monkeypatch):
    monkeypatch.setattr(owner, "safety_interval", 0.02)
    link = owner.add_link(zmq.green.Context.instance().socket(zmq.ROUTER), 10)
    link._watcher.stop()  # its descriptor misses every edge
    owner.post(int)
    with zmq.green.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.connect(link.listen("tcp://127.0.0.1:*"))
        dealer.send(b"x")
        wait_until(lambda: owner._engine.messages)


def test_messages_arrive_in_order_and_in_bounded_bursts(owner, engine):
    link = owner.add_link(zmq.green.Context.instance().socket(zmq.ROUTER), 10)
    link.socket.set(zmq.RCVHWM, 0)
    turns = []

    def take_turns():
        while True:
            turns.append(len(engine.messages))
            gevent.sleep(0)

    with zmq.green.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.set(zmq.SNDHWM, 0)
        dealer.connect(link.listen("tcp://127.0.0.1:*"))
        taking = gevent.spawn(take_turns)
        for number in range(1000):
            dealer.send(b"%d" % number)
        wait_until(lambda: len(engine.messages) == 1000)
        taking.kill()
    assert [frames[1] for frames in engine.messages] == [b"%d" % number for number in range(1000)]
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 2 * owner.burst


def test_a_connection_is_reported_and_its_last_messages_come_before_its_end(owner, engine):
    context = zmq.green.Context.instance()
    link = owner.add_link(context.socket(zmq.DEALER), 10)
    with context.socket(zmq.ROUTER) as router:
        router.bind("tcp://127.0.0.1:*")
        link.socket.set(zmq.RECONNECT_IVL, 60_000)
        link.connect(router.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())
        wait_until(lambda: "connected" in engine.calls)
        owner.post(link.send, [b"hello"])
        sender, _ = router.recv_multipart()
        for number in range(100):
            router.send_multipart([sender, b"%d" % number])
        router.close(1000)
    wait_until(lambda: "disconnected" in engine.calls)
    assert engine.messages == [[b"%d" % number] for number in range(100)]


def test_G7_what_is_posted_waits_while_the_end_of_a_connection_is_reported_in_part(owner, engine, monkeypatch):
    """It might be sent over that connection, and lost."""
    parts, polled = [], []
    poll = Link.poll_connection

    def poll_connection(link, now):
        polled.append(now)
        established, gone = poll(link, now)
        return established, (gone or link.loss is not None) and bool(parts)  # the last report is still to come

    monkeypatch.setattr(Link, "poll_connection", poll_connection)
    context = zmq.green.Context.instance()
    link = owner.add_link(context.socket(zmq.DEALER), 10)
    with context.socket(zmq.ROUTER) as router:
        router.bind("tcp://127.0.0.1:*")
        link.socket.set(zmq.RECONNECT_IVL, 60_000)
        link.connect(router.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())
        wait_until(lambda: "connected" in engine.calls)
        router.close(0)
    wait_until(lambda: link.loss is not None)
    posted = []
    owner.post(lambda: posted.append(link.closed))
    looks = len(polled)
    wait_until(lambda: len(polled) > looks + 3)
    assert posted == []
    parts.append("the last report")
    wait_until(lambda: posted)
    assert posted == [True]
    wait_until(lambda: not owner._ending)


# The end


def test_a_bug_ends_the_owner_closes_its_links_and_is_logged(engine, caplog, monkeypatch):
    monkeypatch.setattr("gmdp.io.owner._log", logging.getLogger("test"))  # this bug is one on purpose
    owner = Owner(engine, "test")
    link = owner.add_link(zmq.green.Context.instance().socket(zmq.DEALER), 10)
    owner.start()
    engine.error = ZeroDivisionError()
    owner.greenlet.join()
    assert isinstance(engine.death, OwnerDied)
    assert engine.death.__cause__ is engine.error
    assert link.closed
    assert any(record.exc_info and record.exc_info[1] is engine.error for record in caplog.records)


@pytest.fixture
def criticals(monkeypatch):
    """What is logged of bugs that are bugs on purpose, in order with what a test adds."""
    steps = []

    class Log:
        @staticmethod
        def critical(text, *args, exc_info):
            steps.append(exc_info)

    monkeypatch.setattr("gmdp.io.owner._log", Log)
    return steps


def test_G3_an_owner_that_a_bug_ends_answers_everybody_before_it_logs(engine, criticals):
    """Earlier and later posts are answered; a second bug on the way changes nothing."""
    owner = Owner(engine, "test")
    owner.start()
    wait_until(lambda: owner._waiter is not None)
    second = KeyError("a second bug")

    def on_owner_died(error):
        criticals.append("everybody is told")
        raise second

    engine.on_owner_died = on_owner_died
    engine.error = gevent.Timeout(5)
    waiting = gevent.spawn(owner.call, lambda: criticals.append("answered") or 7, timeout=20)
    owner.greenlet.join()
    assert waiting.get() == 7
    assert criticals == ["everybody is told", "answered", engine.error, second]
    assert owner.call(divmod, 7, 2, timeout=0) == (3, 1)
    late = ValueError("a late bug")
    owner.post(fail_with, late)  # raised in nobody's face
    assert criticals[4:] == [late]
    slot = Slot()
    owner.set_when_gone(slot)
    assert slot.wait(0)


def fail_with(error):
    raise error


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_G4_an_interrupt_in_the_middle_of_what_was_posted_leaves_its_caller_an_answer(engine, criticals, interrupt):
    owner = Owner(engine, "test")
    owner.start()
    begun, answers = [], []

    def interrupted_once():
        begun.append(True)
        if len(begun) == 1:
            raise interrupt
        answers.append("answered")

    owner.post(interrupted_once)
    owner.post(answers.append, "the next")
    with pytest.raises(interrupt):
        gevent.sleep(60)
    owner.greenlet.join()
    assert answers == ["answered", "the next"]
    assert isinstance(engine.death, OwnerDied)
    assert criticals == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_G4_a_caller_whose_function_is_interrupted_gets_an_error(engine, interrupt):
    owner = Owner(engine, "test")
    owner.start()

    def call():
        with pytest.raises(OwnerDied):
            owner.call(fail_with, interrupt(), timeout=20)

    caller = gevent.spawn(call)
    with pytest.raises(interrupt):
        gevent.sleep(60)
    caller.get()
    owner.greenlet.join()


def test_G2_a_timeout_that_somebody_left_in_the_owner_is_no_bug(owner, engine, caplog):
    wait_until(lambda: owner._waiter is not None)
    owner.loop.run_callback(owner.greenlet.throw, gevent.Timeout(5))
    assert owner.call(divmod, 7, 2, timeout=20) == (3, 1)
    assert "never ended it" in caplog.text
    assert engine.death is None


def test_an_abandoned_owner_never_runs_again(engine):
    owner = Owner(engine, "test")
    link = owner.add_link(zmq.green.Context.instance().socket(zmq.DEALER), 10)
    socket = link.socket
    owner.start()
    wait_until(lambda: owner._waiter is not None)
    del engine.calls[:]
    owner.abandon()
    owner.post(pytest.fail, "there is no owner any more")
    owner.wake()
    for _ in range(5):
        gevent.sleep(0)  # it would run now
    assert engine.calls == []
    assert link.closed
    owner.greenlet.kill()
    assert engine.death is None
    socket.close(0)


def test_the_embedding_programs_greenlets_run_while_the_broker_is_flooded(broker):
    """A flooded broker yields after a bounded burst."""
    turns = []

    def take_turns():
        while True:
            turns.append(broker.statistics().requests)
            gevent.sleep(0)

    context = zmq.green.Context.instance()
    flood = context.socket(zmq.DEALER)
    flood.set(zmq.LINGER, 0)
    flood.set(zmq.SNDHWM, 0)
    flood.connect(broker.endpoint)
    other = gevent.spawn(take_turns)
    for _ in range(5000):
        flood.send_multipart([b"MDPC02", b"\x01", b"nobody", b"x"])
    wait_until(lambda: broker.statistics().requests == 5000)
    other.kill()
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= 2 * broker._engine.owner.burst
    flood.close()


def test_an_owner_that_is_killed_closes_its_sockets_and_tells_callers(broker, nothing_left):
    """The state is closed, and waiting callers get OwnerDied."""
    client = AsyncClient(broker.endpoint)
    future = client.submit("nobody", b"")
    wait_until(lambda: broker.statistics().queued)
    client._owner.greenlet.kill()
    with pytest.raises(Exception, match="owner") as caught:
        future.get(timeout=30)
    assert type(caught.value).__name__ == "OwnerDied"
    assert client.closed
    client.start()
    assert client.request("mmi.nothing", b"") == [b"501"]
    client.close()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_that_hits_the_owner_reaches_the_main_greenlet(interrupt):
    """The program sees the interrupt as it would anyway, and the log says nothing of a bug."""
    script = f"""
import gmdp
def interrupt(): raise {interrupt.__name__}
with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.AsyncClient(broker.endpoint) as client:
    future = client.submit("nobody", b"")
    client._owner.post(interrupt)
    try:
        future.get()
    except {interrupt.__name__}:
        print("as it should be", client.closed)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("as it should be True\n", 0), done.stderr
    assert "bug" not in done.stderr
