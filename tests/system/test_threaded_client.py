"""``Client(threaded=True)``: for programs in which no hub runs.  P3."""

import subprocess
import sys
import textwrap
import threading

import gevent
import pytest
from waiting import wait_until

import gmdp.client.threaded
import gmdp.io.slots
from gmdp import AsyncClient, Client, ClosedError, ConfigurationError, Worker

#: What a program without gevent does: eight threads that share a client.
PROGRAM = """
import atexit
atexit.register(lambda: print(client.closed, client._thread.alive))  # after gmdp's own
import sys, threading, os, gc
import gmdp
{more}
from gevent._hub_local import get_hub_if_exists

client = gmdp.Client(sys.argv[1], timeout=20, threaded=True)
wrong = []


def ask(thread):
    for number in range(100):
        body = b"%d %d" % (thread, number)
        if client.request("echo", body) != [body]:
            wrong.append(body)


threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert wrong == []
assert client.statistics().requests == 800
assert [b"".join(part) for part in client.stream("echo", b"x")] == [b"x"]
assert {no_hub}get_hub_if_exists() is None
{end}
print("well", flush=True)
"""

CLOSE = """
before = len(os.listdir("/proc/self/fd"))
for _ in range(20):
    client.close()
    assert client.closed
    client.start()
    assert client.request("echo", b"again") == [b"again"]
client.close()
while threading.active_count() > 1 or len(os.listdir("/proc/self/fd")) > before:
    gc.collect()
"""

FORK = """
started = os.fork()
if not started:
    status = 1
    try:
        ask(1)
        status = 0
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(started, 0)[1]) == 0
ask(2)
"""


@pytest.fixture
def echo(broker):
    with Worker(broker.endpoint, "echo", lambda request: request.body, concurrency=8):
        wait_until(lambda: broker.statistics().workers == 8)
        yield broker.endpoint


@pytest.mark.parametrize("end", [CLOSE, "", FORK], ids=["closed", "never closed", "forked"])
@pytest.mark.parametrize("patched", [False, True], ids=["", "patched"])
def test_threads_of_a_program_without_a_hub_share_a_client(echo, end, patched):
    """P3, P6, P7; and P1 in the child."""
    more = "import gevent.monkey; gevent.monkey.patch_all()" if patched else ""
    script = PROGRAM.format(end=end, more=more, no_hub="" if not patched else "True or ")
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), echo],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: child.poll() is not None)
    assert (*child.communicate(), child.returncode) == ("well\nTrue False\n", "", 0)


def test_greenlets_may_use_it_too_and_all_start_it_at_once(echo, nothing_left):
    client = Client(echo, timeout=20, threaded=True)
    calls = [gevent.spawn(client.request, "echo", b"%d" % n) for n in range(100)]
    gevent.joinall(calls)
    assert [call.value for call in calls] == [[b"%d" % n] for n in range(100)]
    client.close()
    nothing_left()


def test_a_call_that_waits_when_it_is_closed(echo):
    client = Client(echo, timeout=20, threaded=True)
    errors = []

    def ask():
        try:
            client.request("nobody", b"")
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: client.started and client.statistics().in_flight == 1)
    client.close()
    wait_until(lambda: not thread.is_alive())
    assert len(errors) == 1
    with pytest.raises(ClosedError):
        client.request("echo", b"")


def test_a_client_closed_while_it_starts_is_closed(echo, monkeypatch):
    """Another thread has called for it, and its own has not yet begun."""
    go = gmdp.io.slots.allocate_lock()
    go.acquire()

    def start_later(function, args):
        start_thread(lambda: go.acquire() and function(*args), ())

    start_thread = gmdp.client.threaded.start_thread
    monkeypatch.setattr("gmdp.client.threaded.start_thread", start_later)
    client = Client(echo, timeout=20, threaded=True)
    thread = threading.Thread(target=client.start)
    thread.start()
    wait_until(lambda: client._thread._starters)
    gevent.spawn(go.release)  # once this greenlet waits
    client.close()
    gevent.sleep(0)
    thread.join()
    assert client.closed
    assert not client._thread.alive


def test_nobody_calls_a_client_before_it_has_started(echo, monkeypatch):
    """Two threads call at once, and the sockets of the first one's are not yet made."""
    go = gmdp.io.slots.allocate_lock()
    go.acquire()
    opened = Client._open

    def open_later(client):
        go.acquire()
        return opened(client)

    monkeypatch.setattr(Client, "_open", open_later)
    client = Client(echo, timeout=20, threaded=True)
    calls = [gevent.spawn(client.request, "echo", b"first")]
    wait_until(lambda: client.started)
    calls.append(gevent.spawn(client.request, "echo", b"second"))
    wait_until(lambda: calls[1].dead or len(client._thread._starters) == 2)
    go.release()
    assert [call.get() for call in calls] == [[b"first"], [b"second"]]
    client.close()


def test_a_client_closed_at_any_moment_of_its_start_is_closed(echo):
    """By another thread."""
    for number in range(40):
        client = Client(echo, timeout=20, threaded=True)
        thread = threading.Thread(target=client.start)
        thread.start()
        for _ in range(number):
            client.state  # noqa: B018 - so that it comes a little later each time
        client.close()
        thread.join()
        client.close()
        assert client.closed
        assert not client._thread.alive


def test_futures_need_a_hub():
    with pytest.raises(ConfigurationError, match="threaded is for Client"):
        AsyncClient("tcp://127.0.0.1:1", threaded=True)
    with pytest.raises(ConfigurationError, match="threaded must be True or False"):
        Client("tcp://127.0.0.1:1", threaded=1)
