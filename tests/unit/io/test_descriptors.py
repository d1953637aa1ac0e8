"""Programs that are nearly out of descriptors."""

import errno
import json
import os
import subprocess
import sys

import pytest
from processes import environment

from gmdp import StateError
from gmdp.io import descriptors

#: Forks a process for each (what, descriptors that are free), and prints how it ended: a signal's number, or an error.
_CASES = """
import gc, json, logging, os, resource, sys
import gevent, gmdp

logging.disable()

def run(what, free):
    if what != "first hub":
        gevent.get_hub()
        gevent.sleep(0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for _ in range(free):
        os.close(held.pop())
    nowhere = "tcp://127.0.0.1:1"
    if what == "broker":
        gmdp.Broker("tcp://127.0.0.1:*").start()
    elif what == "secured broker":
        gmdp.Broker("tcp://127.0.0.1:*", allow="127.0.0.1").start()
    elif what == "worker":
        with gmdp.Worker(nowhere, "x", lambda r: r.body) as worker:
            gevent.sleep(0.01)
            assert worker.state is gmdp.State.CONNECTING
    else:
        with gmdp.Client(nowhere, timeout=0.05, threaded=what == "threaded client") as client:
            client.request("x", b"")

for what, free in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        ended = "started"
        os.dup2(writer, 1)
        os.close(writer)
        try:
            run(what, free)
        except gmdp.MDPError as error:
            ended = f"{type(error).__name__}: {error}"
        except BaseException as error:
            ended = f"UNTYPED {error!r}"
        gc.collect()
        os.write(1, ended.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as output:
        text = output.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([what, free, status, text]), flush=True)
"""

_WHAT = ("client", "threaded client", "worker", "broker", "secured broker", "first hub")


def outcomes(cases):
    command = [sys.executable, "-c", _CASES, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment())
    assert (done.returncode, done.stderr) == (0, ""), done
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(cases):
    for what, free, status, text in outcomes(cases):
        named = what, free, text
        assert status == 0, named
        assert "UNTYPED" not in text, named
        if free < 8 and what != "worker":
            assert "ulimit -n" in text, named
            assert "of the 100 " in text, named
        if what == "worker":
            assert text == "started" or free == 0, named


@pytest.mark.both_ends
def test_G10_a_process_that_is_nearly_out_of_descriptors_lives():
    check([(what, free) for what in _WHAT for free in (0, 3, 5, 8)])


@pytest.mark.slow
@pytest.mark.once
def test_G10_at_no_number_of_descriptors_a_process_is_aborted():
    check([(what, free) for what in _WHAT for free in range(40)])


def test_a_shortage_is_told_with_the_limit_that_was_met():
    assert descriptors.shortage(3) == 0
    assert descriptors.shortage(10_000_000) == errno.EMFILE
    assert "ulimit -n" in descriptors.shortage_text(errno.EMFILE)
    assert descriptors.shortage_text(errno.ENFILE) == os.strerror(errno.ENFILE)


def test_looking_leaves_nothing_open():
    before = os.listdir("/dev/fd")
    descriptors.shortage(10_000_000)
    descriptors.shortage(1)
    assert set(os.listdir("/dev/fd")) <= set(before)  # what an earlier test had open may be closed meanwhile


def test_a_hub_is_made_only_where_there_are_descriptors_for_it(monkeypatch):
    monkeypatch.setattr(descriptors, "get_hub_if_exists", lambda: None)
    monkeypatch.setattr(descriptors, "shortage", lambda count: errno.EMFILE)
    with pytest.raises(StateError, match="hub cannot be made"):
        descriptors.get_hub()
