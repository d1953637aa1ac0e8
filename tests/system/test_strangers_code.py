"""Code that is not gmdp's, and runs in its owners: hooks, policies, queues, span processors, signals' handlers."""

import signal
import sys
from functools import partial

import gevent
import pytest
import strangers
from gevent.queue import Queue
from processes import Process
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, MDPError, NotAllowed, State, StateError, Worker


class Failing:
    """A hook of any kind: raises what it is told to, or allows."""

    def __init__(self, throw):
        self.throw = throw
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        if self.throw is not None:
            self.throw()
        return True


def make(kind, hook):
    """A broker, started, with `hook` as its hook of a kind."""
    options = {
        "policy": {"access": hook},
        "audit": {"audit": hook, "access": lambda user, action, service: service != b"refused"},
        "dead letter": {"dead_letter": hook, "attempts": 1},
    }
    broker = Broker("tcp://127.0.0.1:*", **options[kind])
    broker.start()
    return broker


def have_called(kind, broker, client):
    """Have the broker call its hook, and wait for what its default decision comes to."""
    if kind != "dead letter":
        with pytest.raises(NotAllowed):
            client.request("refused", b"")
        return
    with Worker(broker.endpoint, "lethal", lambda request: gevent.sleep(60)) as worker:
        future = client.submit("lethal", b"")
        wait_until(lambda: worker.statistics().busy)
        worker.close()
    with pytest.raises(MDPError):
        future.get(timeout=30)


KINDS = ["policy", "audit", "dead letter"]


@pytest.mark.parametrize("name", strangers.ERRORS)
@pytest.mark.parametrize("kind", KINDS)
def test_G2_whatever_a_hook_raises_the_default_is_decided_and_the_broker_lives(kind, name, caplog):
    hook = Failing(partial(strangers.throw, name))
    broker = make(kind, hook)
    with AsyncClient(broker.endpoint, timeout=20) as client:
        have_called(kind, broker, client)
        wait_until(lambda: hook.calls)
        assert broker.state is State.RUNNING
        broker.stop()
    assert any("failed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("interrupt", strangers.INTERRUPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_G2_an_interrupt_in_a_hook_reaches_the_program_and_the_broker_lives(kind, interrupt):
    def throw():
        hook.throw = partial(strangers.throw, "wordless")
        raise interrupt

    hook = Failing(throw)
    broker = make(kind, hook)
    with AsyncClient(broker.endpoint, timeout=20) as client:

        def have_called_and_wait():
            have_called(kind, broker, client)
            gevent.sleep(60)

        with pytest.raises(interrupt):
            have_called_and_wait()
        have_called(kind, broker, client)
        assert broker.state is State.RUNNING
        broker.stop()


def test_G2_a_timeout_that_a_hook_begins_and_never_ends_ends_nobody(caplog):
    broker = make("audit", Failing(lambda: gevent.Timeout(0.01).start()))
    with AsyncClient(broker.endpoint, timeout=20) as client:
        have_called("audit", broker, client)
        wait_until(lambda: "never ended it" in caplog.text)
        have_called("audit", broker, client)
        broker.stop()


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G2_a_subscriber_s_queue_that_fails_is_dropped(name, caplog):
    class Broken(Queue):
        def put_nowait(self, item):
            strangers.throw(name)

    broker = Broker("tcp://127.0.0.1:*")
    broker.subscribe(Broken())
    changes = broker.subscribe()
    with broker:
        assert broker.state is State.RUNNING
    assert [change.new.value for change in changes.queue] == ["starting", "running", "draining", "closed"]
    assert caplog.text.count("is broken; it is dropped") == 1


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G2_a_callback_of_a_future_that_fails_ends_nobody(broker, name):
    with AsyncClient(broker.endpoint, timeout=20) as client:
        future = client.submit("mmi.nothing", b"")
        future.rawlink(lambda _: strangers.throw(name))
        assert future.get(timeout=30) == [b"501"]
        gevent.sleep(0)
        assert client.request("mmi.nothing", b"") == [b"501"]


class FailingTracer:
    """A tracer whose spans cannot be ended, or recorded."""

    def __init__(self, name):
        self._name = name
        self.calls = 0

    def begin_call(self, service, parent):
        return object(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def end_call(self, span, error=""):
        self.calls += 1
        strangers.throw(self._name)

    def record_wait(self, *args):
        self.calls += 1
        strangers.throw(self._name)


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G2_a_span_processor_that_fails_ends_neither_client_nor_broker(broker, monkeypatch, name):
    tracer = FailingTracer(name)
    for module in ("gmdp.client.client", "gmdp.client.engine", "gmdp.tracing"):
        monkeypatch.setattr(f"{module}.tracer", lambda: tracer)
    broker._core.trace()
    with AsyncClient(broker.endpoint, timeout=20) as client:
        future = client.submit("later", b"")
        wait_until(lambda: broker.statistics().queued)
        with Worker(broker.endpoint, "later", lambda request: b"done"):
            assert future.get(timeout=30) == [b"done"]
        assert client.request("mmi.nothing", b"") == [b"501"]
    assert tracer.calls == 3


def test_G3_a_request_from_a_hook_is_an_error_since_the_owner_would_wait_for_itself():
    errors = []

    def ask():
        with AsyncClient(broker.endpoint) as own:
            for call in (own.request, lambda *args: next(own.stream(*args)), client.request):
                try:
                    call("mmi.nothing", b"")
                except StateError as error:
                    errors.append(error)

    broker = make("audit", Failing(ask))
    with AsyncClient(broker.endpoint, timeout=20) as client:
        have_called("audit", broker, client)
        wait_until(lambda: len(errors) == 3)
        assert client.request("mmi.nothing", b"") == [b"501"]
        broker.stop()


def test_G3_a_request_from_a_callback_of_the_hub_is_an_error(broker):
    errors = []
    with Client(broker.endpoint, timeout=20) as client:

        def ask():
            try:
                client.request("mmi.nothing", b"")
            except StateError as error:
                errors.append(error)

        client.start()
        gevent.get_hub().loop.run_callback(ask)
        wait_until(lambda: errors)
        assert client.request("mmi.nothing", b"") == [b"501"]


def test_G5_a_hook_may_stop_what_it_does_not_belong_to(broker):
    """The owner that runs the hook does not wait for the other owner."""
    worker = Worker(broker.endpoint, "it", lambda request: b"")
    other = make("audit", Failing(worker.stop))
    with worker, AsyncClient(other.endpoint, timeout=20) as client:
        have_called("audit", other, client)
        wait_until(lambda: worker.closed)
        other.stop()


# Real signals, real processes

#: A program that is interrupted in code of the kind sys.argv[1] says, by the handler that sys.argv[2] names.
PROGRAM = """
import logging, signal, sys, gevent, gmdp
from gmdp.core.broker.core import BrokerCore

where, how = sys.argv[1:]
error = {"SystemExit": SystemExit(7), "KeyboardInterrupt": KeyboardInterrupt()}[how]

def interrupt(number, frame):
    raise error

signal.signal(signal.SIGTERM, interrupt)

def compute(*args, begun=[]):
    if not begun:
        begun.append(True)
        print("computing", flush=True)
        while True:
            sum(range(100))

class Computing(logging.Handler):
    def emit(self, record):
        compute()

options = {}
if where == "policy":
    options["access"] = lambda user, action, service: service != b"it" or compute()
elif where == "log":
    logging.getLogger("gmdp.broker").addHandler(Computing())
    logging.getLogger("gmdp.broker").setLevel("DEBUG")
elif where == "owner":
    tick = BrokerCore.tick
    BrokerCore.tick = lambda *args: (compute(), tick(*args))
elif where == "idle":
    gevent.spawn_later(0.1, print, "computing", flush=True)

try:
    with gmdp.Broker("tcp://127.0.0.1:*", **options) as broker:
        with gmdp.Worker(broker.endpoint, "it", compute if where == "handler" else lambda request: b""):
            with gmdp.Client(broker.endpoint, timeout=60) as client:
                if where not in ("idle", "policy"):
                    client.request("it", b"")
                gevent.spawn(client.request, "it", b"") if where == "policy" else None
                gevent.sleep(60)
except KeyboardInterrupt:
    sys.exit(8)
"""


@pytest.mark.both_ends
@pytest.mark.parametrize("how", ["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("where", ["handler", "policy", "log", "owner", "idle"])
def test_G4_a_signal_whose_handler_raises_ends_the_program_wherever_it_hits(where, how):
    with Process(where, how, command=(sys.executable, "-c", PROGRAM)) as process:
        assert process.line() == "computing"
        process.signal(signal.SIGTERM)
        ended = process.ended()
    assert ended.status == (7 if how == "SystemExit" else 8), ended
    assert b"a bug ended the owner" not in ended.err


#: A worker that a handler of ``signal.signal`` stops, while its handler waits.
STOPPING = """
import signal, sys, threading, gevent, gmdp
with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.AsyncClient(broker.endpoint, timeout=20) as client:
    def wait(request):
        print("waiting", flush=True)
        while worker.started:
            gevent.sleep(0.01)
        return b"answered"

    worker = gmdp.Worker(broker.endpoint, "it", wait)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.start()
    future = client.submit("it", b"")
    worker.serve_forever()
    print(future.get(), worker.state.value)
"""


@pytest.mark.both_ends
def test_G5_a_signal_s_handler_may_stop_a_worker_whose_request_is_then_answered():
    with Process(command=(sys.executable, "-c", STOPPING)) as process:
        assert process.line() == "waiting"
        process.signal(signal.SIGTERM)
        ended = process.ended()
    assert (ended.status, ended.out, ended.err) == (0, b"[b'answered'] closed\n", b"")
