"""P2 and P4: whatever is monkey-patched, and when; and two hubs.  Each in an interpreter of its own."""

import subprocess
import sys
import textwrap

import pytest

#: {first} comes before gmdp is imported, {second} after, {third} while it runs.
SCRIPT = """
{first}
import gmdp
import gevent
import gevent.threadpool
{second}
import socket, threading, time, queue, select, ssl, subprocess

with gmdp.Broker("tcp://127.0.0.1:*") as broker:
    pool = gevent.threadpool.ThreadPool(2)
    worker = gmdp.Worker(broker.endpoint, "echo", lambda request: request.body, concurrency=4)
    other = gmdp.Worker(broker.endpoint, "thread", lambda request: time.sleep(0.01) or request.body, spawn=pool)
    with worker, other, gmdp.AsyncClient(broker.endpoint, timeout=20) as client:
        {third}
        assert client.request("echo", b"1") == [b"1"]
        assert client.request("thread", b"2") == [b"2"]
        calls = [gevent.spawn(client.request, "echo", b"%d" % n) for n in range(200)]
        gevent.joinall(calls)
        assert [call.value for call in calls] == [[b"%d" % n] for n in range(200)]
        assert list(client.map("echo", [b"%d" % n for n in range(50)])) == [[b"%d" % n] for n in range(50)]
        # What threading gives, whatever that is at present; waited for without blocking this hub.
        found = []
        threads = [
            threading.Thread(target=lambda n=n: found.append((n, client.request("echo", b"%d" % n)))) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        while len(found) < 8:
            gevent.sleep(0.001)
        for thread in threads:
            thread.join()
        assert sorted(found) == [(n, [b"%d" % n]) for n in range(8)]
        assert (broker.statistics().workers, worker.statistics().errors) == (5, 0)
assert broker.closed and worker.closed and client.closed
print("well")
"""

ALL = "import gevent.monkey; gevent.monkey.patch_all()"
WHAT = {
    "nothing": "",
    "everything": ALL,
    "no threads": "import gevent.monkey; gevent.monkey.patch_all(thread=False)",
    "threads only": "import gevent.monkey; gevent.monkey.patch_thread()",
    "sockets only": "import gevent.monkey; gevent.monkey.patch_socket(); gevent.monkey.patch_select()",
    "time and os only": "import gevent.monkey; gevent.monkey.patch_time(); gevent.monkey.patch_os()",
}
ORDERS = {
    "zmq first": "import zmq",
    "zmq.green first": "import zmq.green",
    "threading first": "import threading, socket, queue",
    "zope first": "import zope.interface.verify",
}


def run(script, *, timeout=100):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=timeout
    )
    assert (done.stdout, done.returncode, done.stderr) == ("well\n", 0, "")


@pytest.mark.parametrize("what", [what for what in WHAT if what != "nothing"])
@pytest.mark.parametrize("when", ["first", "second", "third"])
def test_P2_whatever_is_patched_and_whenever(what, when):
    """Nothing at all: below."""
    run(SCRIPT.format(**{"first": "", "second": "", "third": "", when: WHAT[what]}))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("what", ["nothing", "everything"])
def test_P2_in_any_order_of_imports(order, what):
    run(SCRIPT.format(first=f"{ORDERS[order]}\n{WHAT[what]}", second="", third=""))


@pytest.mark.parametrize("patch", ["", ALL], ids=["nothing patched", "everything patched"])
def test_P4_two_hubs_in_two_threads_are_independent(patch):
    """Each with broker, worker and client; one of them is blocked, and ends, while the other works."""
    run(f"""
    {patch}
    import gevent
    import gevent.monkey
    import time
    import gmdp

    start_thread = gevent.monkey.get_original("_thread", "start_new_thread")
    blocked = gevent.monkey.get_original("_thread", "allocate_lock")()
    blocked.acquire()
    pause = gevent.monkey.get_original("time", "sleep")
    told = dict(a=[], b=[])

    def live(name, other):
        with gmdp.Broker("tcp://127.0.0.1:*") as broker:
            told[name].append(broker.endpoint)
            with gmdp.Worker(broker.endpoint, "who", lambda request: name.encode()):
                with gmdp.AsyncClient(broker.endpoint, timeout=20) as client:
                    while not told[other]:
                        gevent.sleep(0.001)
                    for _ in range(100):
                        assert client.request("who", b"") == [name.encode()]
                    # Across: the other's broker, from this hub.
                    with gmdp.Client(told[other][0], timeout=20) as across:
                        assert across.request("who", b"") == [other.encode()]
                    told[name].append("worked")
                    while len(told[other]) < 2:
                        gevent.sleep(0.001)
                    if name == "a":
                        blocked.acquire()  # this hub, until the other has worked meanwhile, and ended
                        assert told["b"][-1] == "ended"
                        assert client.request("who", b"") == [b"a"]
                    else:
                        for _ in range(100):
                            assert client.request("who", b"") == [b"b"]
        told[name].append("ended")
        if name == "b":
            blocked.release()

    start_thread(live, ("a", "b"))
    start_thread(live, ("b", "a"))
    while not (told["a"][-1:] == told["b"][-1:] == ["ended"]):
        pause(0.005)
    print("well")
    """)
