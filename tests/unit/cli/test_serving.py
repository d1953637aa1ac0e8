"""A server runs until a signal, in this process."""

import contextlib
import gc
import logging
import os
import signal
import sys

import gevent
import pytest
from gevent.event import Event
from waiting import wait_until

from gmdp import Broker, Worker
from gmdp.cli.serving import configure_logging, print_when_registered, serve


class Server:
    """A server that notes its calls; it stops when the test lets it."""

    def __init__(self):
        self.calls = []
        self.may_stop, self.stopped = Event(), Event()

    def start(self):
        self.calls.append("start")

    def stop(self):
        self.calls.append("stop")
        self.may_stop.wait()
        self.stopped.set()

    def serve_forever(self):
        self.stopped.wait()


@pytest.fixture
def exits(monkeypatch):
    """The statuses of exits at once; what `serve` changes in a process is undone."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it may be ignored where the tests run
    yield statuses
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_it_is_announced_when_it_has_started_and_a_signal_stops_it(exits, number):
    server, announced = Server(), []
    server.may_stop.set()
    serving = gevent.spawn(serve, server, lambda server: "ready", lambda *each: announced.append(each))
    wait_until(lambda: announced)
    assert (announced, server.calls) == ([(server, "ready")], ["start"])
    os.kill(os.getpid(), number)
    serving.get(timeout=20)
    assert (server.calls, exits) == (["start", "stop"], [])


@pytest.mark.parametrize("handler", [signal.SIG_IGN, print])
def test_a_hangup_that_is_ignored_or_handled_stays_so(exits, handler):
    """As under nohup, and in the processes of `gmdp worker --processes`."""
    signal.signal(signal.SIGHUP, handler)
    server, announced = Server(), []
    server.may_stop.set()
    serving = gevent.spawn(serve, server, lambda server: "ready", lambda *each: announced.append(each))
    wait_until(lambda: announced)
    assert signal.getsignal(signal.SIGHUP) is handler
    os.kill(os.getpid(), signal.SIGTERM)
    serving.get(timeout=20)


def test_a_second_signal_ends_the_process_at_once(exits, capsys):
    server = Server()
    serving = gevent.spawn(serve, server, lambda server: "ready")
    wait_until(lambda: server.calls)
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: "stop" in server.calls)
    os.kill(os.getpid(), signal.SIGINT)
    wait_until(lambda: exits)
    assert exits == [128 + signal.SIGINT]
    server.may_stop.set()
    serving.get(timeout=20)
    assert capsys.readouterr().out == "ready\n"


def test_a_worker_is_announced_once_it_is_registered(unused_endpoint, capsys):
    with Worker(unused_endpoint, "svc", lambda request: b"") as worker:
        print_when_registered(worker, "serving")
        gevent.idle()
        assert capsys.readouterr().out == ""
        printed = []
        with Broker(unused_endpoint):
            wait_until(lambda: printed.append(capsys.readouterr().out) or "serving\n" in printed)


def test_a_worker_whose_output_nobody_takes_serves_all_the_same(unused_endpoint, monkeypatch, caplog):
    with Broker(unused_endpoint), Worker(unused_endpoint, "svc", lambda request: b"") as worker:
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            print_when_registered(worker, "serving svc")
            wait_until(lambda: caplog.messages)
            monkeypatch.undo()
            with contextlib.suppress(OSError):
                full.close()
    assert caplog.messages == ["serving svc (standard output: No space left on device)"]


@pytest.mark.parametrize(
    ("verbosity", "level"), [(0, logging.WARNING), (1, logging.INFO), (2, logging.DEBUG), (5, logging.DEBUG)]
)
def test_verbosity_is_a_level_of_logging(monkeypatch, verbosity, level):
    configured = {}
    monkeypatch.setattr(logging, "basicConfig", configured.update)
    configure_logging(verbosity)
    assert configured["level"] == level
