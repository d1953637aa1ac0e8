"""P1: forked processes, each from an interpreter of its own."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

import gmdp.security.lists

pytestmark = pytest.mark.both_ends

#: Parent and child; {fork}: how it forks: `child()` runs there.
SCRIPT = """
import gc, os, sys, time
import gevent
import gmdp

broker = gmdp.Broker("tcp://127.0.0.1:*")
broker.start()
parents = broker.endpoint
handled = []
worker = gmdp.Worker(parents, "echo", lambda request: handled.append(os.getpid()) or request.body)
worker.start()
client = gmdp.AsyncClient(parents, timeout=20)
assert client.request("echo", b"before") == [b"before"]
waits = client.submit("nobody", b"x")
ticks = []


def tick():
    while True:
        ticks.append(client.request("echo", b"tick"))
        gevent.sleep(0.001)


ticking = gevent.spawn(tick)
gevent.sleep(0.05)
pid = os.getpid()
owners = [shell._owner.greenlet for shell in (broker, worker, client)]
watchers = [one for shell in (broker, worker, client) for link in shell._owner._links for one in link._watchers]
assert all(watcher.active for watcher in watchers)


def child():
    assert os.getpid() != pid
    assert [one.state.value for one in (broker, worker, client)] == ["new"] * 3
    assert broker.statistics().requests == worker.statistics().requests == client.statistics().requests == 0
    assert broker.endpoint == "tcp://127.0.0.1:*"
    assert not any(watcher.active for watcher in watchers)
    ticking.kill()  # greenlets are copied; this one is not wanted here
    # The parent's broker and worker do it, over a connection of the child's own.
    for number in range(50):
        assert client.request("echo", b"%d" % number) == [b"%d" % number]
    assert set(handled) == {{pid}}
    # What is the parent's is gone from here, and nothing of it happens any more.
    gc.collect()
    gevent.killall(owners)
    assert [one.state.value for one in (broker, worker, client)] == ["new", "new", "running"]
    # Nothing spins on what was inherited.
    began = time.process_time()
    gevent.sleep(0.5)
    assert time.process_time() - began < 0.2, time.process_time() - began
    # All may be started again, and stopped.
    broker.start()
    assert broker.endpoint != parents
    worker.start()
    own = gmdp.Client(broker.endpoint, timeout=20)
    assert own.request("mmi.services", b"")[0] == b"200"
    for one in (own, client, worker, broker):
        one.stop()
    assert not waits.ready()
    print("the child is well", flush=True)


{fork}

seen = len(ticks)
while len(ticks) < seen + 100:
    gevent.sleep(0.001)
assert not ticking.dead
assert client.request("echo", b"after") == [b"after"]
assert broker.started and worker.started and client.started
assert broker.statistics().queued == 1 and not waits.ready()
assert set(handled) == {{pid}}
ticking.kill()
for one in (client, worker, broker):
    one.close()
print("the parent is well", flush=True)
"""

FORK = """
started = os.fork()
if not started:
    status = 1
    try:
        child()
        status = 0
    finally:
        if status:
            import traceback
            traceback.print_exc()
        os._exit(status)
status = ended(started)
assert status == 0, status
"""

MULTIPROCESSING = """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
while process.is_alive():
    gevent.sleep(0.01)
process.join()
assert process.exitcode == 0, process.exitcode
"""

#: Waits for a child while the hub runs; `ended(pid)` is its status.
ENDED = """
import os
import gevent


def ended(started):
    while True:
        found, status = os.waitpid(started, os.WNOHANG)
        if found:
            return status
        gevent.sleep(0.01)
"""

PATCH = "import gevent.monkey; gevent.monkey.patch_all()"


def run(script, patch="", **variables):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", f"{patch}\n{ENDED}\n{textwrap.dedent(script)}"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "defect" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("patch", ["", PATCH], ids=["nothing patched", "everything patched"])
@pytest.mark.parametrize("fork", [FORK, MULTIPROCESSING], ids=["os.fork", "multiprocessing"])
def test_P1_in_a_forked_child_all_is_as_new_and_the_parent_notices_nothing(patch, fork):
    assert run(SCRIPT.format(fork=fork), patch) == ["the child is well", "the parent is well"]


@pytest.mark.skipif(importlib.util.find_spec("gevent.libuv._corecffi") is None, reason="gevent was built without it")
def test_P1_with_gevent_s_other_loop():
    """Which does not see by itself that it was forked."""
    script = SCRIPT.format(fork=FORK)
    assert run(script, GEVENT_LOOP="libuv") == ["the child is well", "the parent is well"]


def test_P1_a_fork_in_a_handler_and_one_in_a_hook_of_the_owner():
    """In the middle of an owner's pass, too."""
    script = """
    import os
    import gevent
    import gevent.event
    import gmdp

    def fork(*_):
        started = os.fork()
        if not started:
            with gmdp.Client(there, timeout=20) as client:
                assert client.request("echo", b"child") == [b"child"]
            os._exit(7)
        children.append(started)
        return b"forked"

    class Hook:
        def __call__(self, letter, broker):
            pass_of = gevent.getcurrent()
            started = os.fork()
            if not started:
                gevent.spawn_later(0.1, lambda: os._exit(7 if pass_of.dead else 1))
                return  # back into the owner, which ends
            children.append(started)

    children = []
    over = gevent.event.Event()
    broker = gmdp.Broker("tcp://127.0.0.1:*", attempts=1, dead_letter=Hook())
    broker.start()
    there = broker.endpoint
    echo = gmdp.Worker(there, "echo", lambda request: request.body)
    forks = gmdp.Worker(there, "forks", fork)
    client = gmdp.AsyncClient(there, timeout=20)
    echo.start()
    forks.start()
    assert client.request("forks", b"") == [b"forked"]
    lost = gmdp.Worker(there, "lost", lambda request: over.wait())
    lost.start()
    future = client.submit("lost", b"")
    while not lost.statistics().busy:
        gevent.sleep(0.01)
    lost._owner.finish()  # abruptly; its handler is spared
    lost._owner.post(int)
    try:
        future.get()
    except gmdp.WorkerLost:
        pass
    while len(children) < 2:
        gevent.sleep(0.01)
    for started in children:
        status = ended(started)
        assert os.waitstatus_to_exitcode(status) == 7, status
    assert client.request("echo", b"after") == [b"after"]
    print("well")
    """
    assert run(script) == ["well"]


def test_P1_a_handler_that_had_not_begun_does_not_in_the_child():
    """What it does would be done twice."""
    script = """
    import gmdp

    begun = []
    later = lambda run, *args: gevent.spawn_later(0.2, run, *args)
    with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.AsyncClient(broker.endpoint, timeout=20) as client:
        with gmdp.Worker(broker.endpoint, "it", lambda request: begun.append(1) or b"done", spawn=later) as worker:
            future = client.submit("it", b"")
            while not worker.statistics().busy:
                gevent.sleep(0.001)
            started = os.fork()
            if not started:
                gevent.sleep(0.4)  # which is due after that
                os._exit(len(begun))
            assert future.get() == [b"done"]
            assert ended(started) == 0
            assert begun == [1]
    print("well")
    """
    assert run(script) == ["well"]


@pytest.mark.parametrize("patch", ["", PATCH], ids=["nothing patched", "everything patched"])
def test_P1_a_client_works_in_the_child_of_another_thread_too(patch):
    """The hub of the thread that made it is not there."""
    script = """
    import threading
    import gmdp

    broker = gmdp.Broker("tcp://127.0.0.1:*")
    broker.start()
    client = gmdp.Client(broker.endpoint, timeout=20)
    assert client.request("mmi.nothing", b"") == [b"501"]
    ends = []

    def fork():
        started = os.fork()
        if not started:
            os._exit(7 if client.request("mmi.nothing", b"") == [b"501"] else 1)
        ends.append(ended(started))

    thread = threading.Thread(target=fork)
    thread.start()
    while not ends:
        gevent.sleep(0.01)
    thread.join()
    assert os.waitstatus_to_exitcode(ends[0]) == 7, ends
    assert client.request("mmi.nothing", b"") == [b"501"]
    broker.close()
    print("well")
    """
    assert run(script, patch) == ["well"]


def test_P1_passwords_are_checked_in_the_child_too(tmp_path):
    """By threads of its own."""
    gmdp.security.lists.set_password(str(tmp_path / "users"), "me", "secret")
    script = f"""
    import gmdp

    broker = gmdp.Broker("tcp://127.0.0.1:*", plain_users={str(tmp_path / "users")!r})
    broker.start()
    asks = lambda: gmdp.Client(broker.endpoint, username="me", password="secret", timeout=20)
    with asks() as client:
        assert client.request("mmi.nothing", b"") == [b"501"]
    started = os.fork()
    if not started:
        broker.start()
        gates = [one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and "_watch" in repr(one)]
        assert len([one for one in gates if not one.dead]) == 1, gates
        with asks() as client:
            assert client.request("mmi.nothing", b"") == [b"501"]
        os._exit(7)
    assert os.waitstatus_to_exitcode(ended(started)) == 7
    broker.close()
    print("well")
    """
    assert run("import gc\n" + textwrap.dedent(script)) == ["well"]


def test_P1_who_asks_the_parent_is_not_told_by_the_child():
    script = """
    import gevent.event
    import gmdp

    asked, go_on, told = [], gevent.event.Event(), []

    def check(name, password):
        asked.append(name)
        go_on.wait()

    broker = gmdp.Broker("tcp://127.0.0.1:*", plain_users=check, handshake_timeout=20, audit=told.append)
    broker.start()
    client = gmdp.AsyncClient(broker.endpoint, username="me", password="secret", timeout=20)
    future = client.submit("mmi.nothing", b"")
    while not asked:
        gevent.sleep(0.001)
    started = os.fork()
    if not started:
        broker.start()
        go_on.set()
        gevent.sleep(0.1)
        os._exit(7 + len(told))
    assert os.waitstatus_to_exitcode(ended(started)) == 7
    go_on.set()
    while not told:
        gevent.sleep(0.001)
    assert told[0].kind == "connection_refused", told
    broker.close()
    client.close()
    print("well")
    """
    assert run(script) == ["well"]


def test_P1_a_secured_broker_is_as_new_in_the_child():
    script = """
    import os
    import gevent
    import gmdp
    import zmq

    keys = [key.decode() for key in zmq.curve_keypair()]
    broker = gmdp.Broker("tcp://127.0.0.1:*", curve_key=keys[1], curve_clients="*")
    broker.start()
    client = gmdp.Client(broker.endpoint, server_key=keys[0], timeout=20)
    assert client.request("mmi.nothing", b"") == [b"501"]
    started = os.fork()
    if not started:
        assert client.request("mmi.nothing", b"") == [b"501"]  # of the parent's
        broker.start()
        own = gmdp.Client(broker.endpoint, server_key=keys[0], timeout=20)
        assert own.request("mmi.nothing", b"") == [b"501"]
        broker.close()
        os._exit(7)
    status = ended(started)
    assert os.waitstatus_to_exitcode(status) == 7, status
    assert client.request("mmi.nothing", b"") == [b"501"]
    broker.close()
    print("well")
    """
    assert run(script) == ["well"]


def test_P1_the_child_of_a_program_with_a_context_of_its_own_uses_another():
    script = """
    import os
    import gevent
    import zmq.green
    import gmdp

    context = zmq.green.Context()
    broker = gmdp.Broker("tcp://127.0.0.1:*", context=context)
    broker.start()
    client = gmdp.Client(broker.endpoint, context=context, timeout=20)
    assert client.request("mmi.nothing", b"") == [b"501"]
    started = os.fork()
    if not started:
        assert client.request("mmi.nothing", b"") == [b"501"]
        os._exit(7)
    status = ended(started)
    assert os.waitstatus_to_exitcode(status) == 7, status
    print("well")
    """
    assert run(script) == ["well"]
