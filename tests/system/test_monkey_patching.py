"""P2 to P4: whatever is monkey-patched, and whenever; and two hubs.  Each in an interpreter of its own."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.both_ends

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
        # Real threads or greenlets, as threading is patched or not; this hub is not blocked meanwhile.
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
        # A worker with a pool has as many sessions as the pool has threads.
        assert (broker.statistics().workers, worker.statistics().errors) == (4 + 2, 0)
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
    """The case of no patching is in the next test."""
    run(SCRIPT.format(**{"first": "", "second": "", "third": "", when: WHAT[what]}))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("what", ["nothing", "everything"])
def test_P2_in_any_order_of_imports(order, what):
    run(SCRIPT.format(first=f"{ORDERS[order]}\n{WHAT[what]}", second="", third=""))


@pytest.mark.parametrize("patch", ["", ALL], ids=["nothing patched", "everything patched"])
def test_P4_two_hubs_in_two_threads_are_independent(patch):
    """Each has a broker, a worker and a client; one hub is blocked while the other works and ends."""
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
    reports = dict(a=[], b=[])

    def live(name, other):
        with gmdp.Broker("tcp://127.0.0.1:*") as broker:
            reports[name].append(broker.endpoint)
            with gmdp.Worker(broker.endpoint, "name", lambda request: name.encode()):
                with gmdp.AsyncClient(broker.endpoint, timeout=20) as client:
                    while not reports[other]:
                        gevent.sleep(0.001)
                    for _ in range(100):
                        assert client.request("name", b"") == [name.encode()]
                    # Across: the other's broker, from this hub.
                    with gmdp.Client(reports[other][0], timeout=20) as across:
                        assert across.request("name", b"") == [other.encode()]
                    reports[name].append("worked")
                    while len(reports[other]) < 2:
                        gevent.sleep(0.001)
                    if name == "a":
                        blocked.acquire()  # blocks this hub until the other has worked and ended
                        assert reports["b"][-1] == "ended"
                        assert client.request("name", b"") == [b"a"]
                    else:
                        for _ in range(100):
                            assert client.request("name", b"") == [b"b"]
        reports[name].append("ended")
        if name == "b":
            blocked.release()

    start_thread(live, ("a", "b"))
    start_thread(live, ("b", "a"))
    while not (reports["a"][-1:] == reports["b"][-1:] == ["ended"]):
        pause(0.005)
    print("well")
    """)


@pytest.mark.parametrize("when", ["first", "second", "third"])
def test_P3_a_threaded_client_has_a_thread_of_the_operating_system_whatever_is_patched(when):
    """The client starts in the main hub, which then blocks; a thread without a hub is answered all the same."""
    script = """
    {first}
    import gevent
    import gevent.monkey
    from gevent._hub_local import get_hub_if_exists
    import gmdp
    {second}

    start_thread = gevent.monkey.get_original("_thread", "start_new_thread")
    allocate_lock = gevent.monkey.get_original("_thread", "allocate_lock")
    serving, answered, ended = allocate_lock(), allocate_lock(), allocate_lock()
    endpoints, answers, end = [], [], []

    def serve():
        with ended, gmdp.Broker("tcp://127.0.0.1:*") as broker:
            with gmdp.Worker(broker.endpoint, "echo", lambda request: request.body):
                endpoints.append(broker.endpoint)
                serving.release()
                while not end:
                    gevent.sleep(0.005)

    def ask():
        try:
            answers.append(client.request("echo", b"from a thread", timeout=5))
            # To wait for the answer, the thread made no hub, which would leak descriptors.
            answers.append(get_hub_if_exists())
        finally:
            answered.release()

    serving.acquire()
    start_thread(serve, ())
    serving.acquire()
    client = gmdp.Client(endpoints[0], timeout=20, threaded=True)
    {third}
    assert client.request("echo", b"from the main hub") == [b"from the main hub"]
    answered.acquire()
    start_thread(ask, ())
    answered.acquire()  # blocks the main hub
    assert answers == [[b"from a thread"], None], answers
    client.close()
    assert client.closed
    end.append(True)
    ended.acquire()
    print("well")
    """
    run(script.format(**{"first": "", "second": "", "third": "", when: ALL}))


@pytest.mark.parametrize("patch", ["", ALL], ids=["nothing patched", "everything patched"])
def test_P2_a_secured_broker_that_ends_blocks_no_greenlet(patch):
    """The end of the broker's context waits for a client that does not read, in a thread of the operating system."""
    run(f"""
    {patch}
    import gevent
    import gmdp
    import zmq
    from time import monotonic

    gaps = [0.0]

    def watch():
        last = monotonic()
        while True:
            gevent.sleep(0.005)
            now = monotonic()
            gaps.append(now - last)
            last = now

    context = zmq.Context()
    with gmdp.Broker("tcp://127.0.0.1:*", allow=["127.0.0.1"]) as broker:
        assert broker.secured
        with gmdp.Worker(broker.endpoint, "large", lambda request: bytes(1 << 20)) as worker:
            client = context.socket(zmq.DEALER)
            client.set(zmq.LINGER, 0)
            client.set(zmq.RCVHWM, 1)
            client.connect(broker.endpoint)
            for _ in range(40):
                client.send_multipart([b"MDPC02", b"\\1", b"large", b""])
            while broker.statistics().replies < 40:
                gevent.sleep(0.005)
        watcher = gevent.spawn(watch)
        while not gaps:
            gevent.sleep(0.001)
        del gaps[:]
        begun = monotonic()
        broker.close()
        took = monotonic() - begun
        seen = len(gaps)
        while len(gaps) == seen:
            gevent.sleep(0.001)
        watcher.kill()
    # The broker waited for its last messages, and other greenlets ran meanwhile.
    assert took > 0.8, took
    assert max(gaps) < 0.6, gaps
    client.close()
    context.term()
    print("well")
    """)
