"""P1: forked processes, each from an interpreter of its own."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

import gmdp.security.lists

pytestmark = pytest.mark.both_ends

#: Parent and child; {fork} forks and runs `child()` in the child.
SCRIPT = """
import gc, os, sys, time
import gevent
import gmdp
from gmdp.io import reports

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
while not ticks:
    gevent.sleep(0.001)
pid = os.getpid()
owners = [shell._owner.greenlet for shell in (broker, worker, client)]
watchers = [link._watcher for shell in (broker, worker, client) for link in shell._owner._links]
watchers += [socket._watcher for socket in reports._sockets.values()]
assert all(watcher.active for watcher in watchers)


def child():
    assert os.getpid() != pid
    assert [shell.state.value for shell in (broker, worker, client)] == ["new"] * 3
    assert broker.statistics().requests == worker.statistics().requests == client.statistics().requests == 0
    assert broker.endpoint == "tcp://127.0.0.1:*"
    assert not any(watcher.active for watcher in watchers)
    ticking.kill()  # greenlets are copied; this one is not wanted here
    # The parent's broker and worker answer, over a connection of the child's own.
    for number in range(50):
        assert client.request("echo", b"%d" % number) == [b"%d" % number]
    assert set(handled) == {{pid}}
    # The parent's greenlets are gone from here: to kill them changes nothing.
    gc.collect()
    gevent.killall(owners)
    assert [shell.state.value for shell in (broker, worker, client)] == ["new", "new", "running"]
    # Nothing spins on an inherited descriptor.
    cpu = time.process_time()
    gevent.sleep(0.5)
    assert time.process_time() - cpu < 0.2, time.process_time() - cpu
    # All may be started again, and stopped.
    broker.start()
    assert broker.endpoint != parents
    worker.start()
    own = gmdp.Client(broker.endpoint, timeout=20)
    assert own.request("mmi.services", b"")[0] == b"200"
    for shell in (own, client, worker, broker):
        shell.stop()
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
for shell in (client, worker, broker):
    shell.close()
print("the parent is well", flush=True)
"""

FORK = """
child_pid = os.fork()
if not child_pid:
    status = 1
    try:
        child()
        status = 0
    finally:
        if status:
            import traceback
            traceback.print_exc()
        os._exit(status)
status = wait_for(child_pid)
assert status == 0, status
"""

#: A fork of which Python's hooks hear nothing.
IN_C = "\nimport ctypes; os.fork = ctypes.PyDLL(None).fork\n"

MULTIPROCESSING = """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
while process.is_alive():
    gevent.sleep(0.01)
process.join()
assert process.exitcode == 0, process.exitcode
"""

#: Defines `wait_for(pid)`: the status of a child, once it has ended; the hub runs meanwhile.
WAIT_FOR = """
import os
import gevent


def wait_for(child_pid):
    while True:
        found, status = os.waitpid(child_pid, os.WNOHANG)
        if found:
            return status
        gevent.sleep(0.01)
"""

PATCH = "import gevent.monkey; gevent.monkey.patch_all()"


def run(script, patch="", **variables):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", f"{patch}\n{WAIT_FOR}\n{textwrap.dedent(script)}"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a bug ended" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("patch", ["", PATCH], ids=["nothing patched", "everything patched"])
@pytest.mark.parametrize("fork", [FORK, MULTIPROCESSING], ids=["os.fork", "multiprocessing"])
def test_P1_in_a_forked_child_everything_is_as_new_and_the_parent_notices_nothing(patch, fork):
    assert run(SCRIPT.format(fork=fork), patch) == ["the child is well", "the parent is well"]


@pytest.mark.parametrize("patch", ["", PATCH], ids=["nothing patched", "everything patched"])
def test_G6_a_child_that_was_forked_in_c_is_as_new_at_its_first_look(patch):
    """uWSGI forks like this: Python's hooks hear nothing."""
    assert run(SCRIPT.format(fork=IN_C + FORK), patch) == ["the child is well", "the parent is well"]


def test_G6_whatever_a_child_that_was_forked_in_c_does_first():
    """No inherited socket is used, and no inherited watcher keeps a core busy."""
    script = """
    import os, threading, time, traceback
    import gmdp

    def ask(client):
        assert client.request("mmi.nothing", b"") == [b"501"]

    def ask_in_threads():
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(threaded.request("mmi.nothing", b""))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        while len(answers) < 4:
            gevent.sleep(0.001)
        for thread in threads:
            thread.join()

    acts = {
        "a call": lambda: ask(client),
        "the hub runs": lambda: gevent.sleep(0.1),
        "a stream is dropped": lambda: streams.clear(),
        "another client": lambda: ask(gmdp.Client(parents, timeout=20)),
        "close": lambda: client.close(),
        "the broker starts": lambda: broker.start(),
        "the client is looked at": lambda: client.state,
        "threads call": ask_in_threads,
    }
    broker = gmdp.Broker("tcp://127.0.0.1:*")
    broker.start()
    parents = broker.endpoint
    worker = gmdp.Worker(parents, "echo", lambda request: request.body)
    worker.start()
    client = gmdp.Client(parents, timeout=20)
    assert client.request("echo", b"before") == [b"before"]
    threaded = gmdp.Client(parents, timeout=20, threaded=True)
    ask(threaded)
    streams = [client.stream("nobody", b"x")]
    for name, act in acts.items():
        child_pid = os.fork()
        if not child_pid:
            status = 1
            try:
                act()
                cpu = time.process_time()
                gevent.sleep(0.1)
                assert time.process_time() - cpu < 0.05, time.process_time() - cpu
                if client.closed:
                    client.start()
                assert client.request("echo", b"child") == [b"child"]
                status = 7
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        while True:
            found, status = os.waitpid(child_pid, os.WNOHANG)
            if found:
                break
            assert client.request("echo", b"meanwhile") == [b"meanwhile"]
        assert os.waitstatus_to_exitcode(status) == 7, name
    print("well")
    """
    assert run(IN_C + textwrap.dedent(script)) == ["well"]


@pytest.mark.skipif(importlib.util.find_spec("gevent.libuv._corecffi") is None, reason="gevent was built without it")
def test_P1_with_gevent_s_other_loop():
    """libuv does not see by itself that the process was forked."""
    script = SCRIPT.format(fork=FORK)
    assert run(script, GEVENT_LOOP="libuv") == ["the child is well", "the parent is well"]


@pytest.mark.skipif(importlib.util.find_spec("gevent.libuv._corecffi") is None, reason="gevent was built without it")
@pytest.mark.parametrize("in_c", [False, True], ids=["in Python", "in C"])
def test_P1_a_fork_leaves_the_loops_of_other_threads_alone(in_c):
    """With gevent's other loop: what the child does to its copy of a hub that it does not run
    made each call of the parent take a second or two.
    """
    script = """
    import os, sys, threading, time
    import gevent
    import gmdp

    fork = os.fork
    broker = gmdp.Broker("tcp://127.0.0.1:*")
    broker.start()
    worker = gmdp.Worker(broker.endpoint, "echo", lambda request: request.body)
    worker.start()
    client = gmdp.Client(broker.endpoint, timeout=20)
    threaded = gmdp.Client(broker.endpoint, timeout=20, threaded=True)

    def call():
        return client.request("echo", b"1"), threaded.request("echo", b"2")

    def fork_and_look():
        child_pid = fork()
        if not child_pid:
            states = [instance.state.value for instance in (broker, worker, client, threaded)]
            os._exit(7 if states == ["new"] * 4 else 1)
        ends.append(child_pid)

    def fork_in_thread():
        thread = threading.Thread(target=fork_and_look)
        thread.start()
        while thread.is_alive():
            gevent.sleep(0.001)

    ends = []
    for fork_so in (fork_and_look, fork_in_thread):
        call()
        fork_so()
        assert os.waitstatus_to_exitcode(wait_for(ends.pop())) == 7
        begun = time.monotonic()
        for _ in range(4):
            assert call() == ([b"1"], [b"2"])
        seconds = time.monotonic() - begun
        assert seconds < 2, seconds  # without the forks it takes some 20 ms
    for instance in (threaded, client, worker, broker):
        instance.close()
    print("well")
    """
    assert run((IN_C if in_c else "") + textwrap.dedent(script), GEVENT_LOOP="libuv") == ["well"]


@pytest.mark.parametrize("answer", ["127.0.0.1", ""], ids=["found", "unknown"])
@pytest.mark.parametrize("in_c", [False, True], ids=["in Python", "in C"])
def test_P1_a_fork_while_a_broker_that_starts_looks_up_a_name(in_c, answer):
    """The child's copy of that start closed, after its time for the name, what the child had started itself."""
    script = f"""
    import os, socket
    import gevent.event
    import gmdp

    class Resolver:
        def __init__(self):
            self.asked = 0

        def getaddrinfo(self, host, *args):
            self.asked += 1
            if self.asked == 1:
                answered.wait()
                if not {answer!r}:
                    raise socket.gaierror(socket.EAI_NONAME, "unknown")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    def start():
        try:
            broker.start()
        except Exception as error:
            errors.append(type(error))

    answered, errors = gevent.event.Event(), []
    resolver = gevent.get_hub().resolver = Resolver()
    broker = gmdp.Broker("tcp://slow.example:*")
    starting = gevent.spawn(start)
    while not resolver.asked:
        gevent.sleep(0.001)
    child_pid = os.fork()
    if not child_pid:
        status = 1
        try:
            assert broker.state.value == "new"
            broker.start()
            endpoint, owner = broker.endpoint, broker._owner
            answered.set()
            starting.join()
            assert errors == [gmdp.StateError if {answer!r} else gmdp.BindError], errors
            assert broker.state.value == "running" and broker._owner is owner
            with gmdp.Client(endpoint, timeout=20) as client:
                assert client.request("mmi.nothing", b"") == [b"501"]
            broker.close()
            assert broker.closed
            status = 7
        finally:
            if status != 7:
                import traceback
                traceback.print_exc()
            os._exit(status)
    assert os.waitstatus_to_exitcode(wait_for(child_pid)) == 7
    assert broker.state.value == "starting"
    broker.close()
    starting.join()
    assert errors == [gmdp.StateError], errors
    print("well")
    """
    assert run((IN_C if in_c else "") + textwrap.dedent(script)) == ["well"]


def test_P1_a_fork_in_a_handler_and_one_in_a_hook_of_the_owner():
    """The hook forks in the middle of an owner's pass."""
    script = """
    import os
    import gevent
    import gevent.event
    import gmdp

    def fork(*_):
        child_pid = os.fork()
        if not child_pid:
            with gmdp.Client(endpoint, timeout=20) as client:
                assert client.request("echo", b"child") == [b"child"]
            os._exit(7)
        children.append(child_pid)
        return b"forked"

    def exit_after(owner):
        while not owner.dead:
            gevent.sleep(0.001)
        os._exit(7)

    class Hook:
        def __call__(self, letter, broker):
            owner = gevent.getcurrent()
            child_pid = os.fork()
            if not child_pid:
                gevent.spawn(exit_after, owner)
                return  # back into the owner, which ends
            children.append(child_pid)

    children = []
    over = gevent.event.Event()
    broker = gmdp.Broker("tcp://127.0.0.1:*", attempts=1, dead_letter=Hook())
    broker.start()
    endpoint = broker.endpoint
    echo = gmdp.Worker(endpoint, "echo", lambda request: request.body)
    forks = gmdp.Worker(endpoint, "forks", fork)
    client = gmdp.AsyncClient(endpoint, timeout=20)
    echo.start()
    forks.start()
    assert client.request("forks", b"") == [b"forked"]
    lost = gmdp.Worker(endpoint, "lost", lambda request: over.wait())
    lost.start()
    future = client.submit("lost", b"")
    while not lost.statistics().busy:
        gevent.sleep(0.01)
    lost._owner.finish()  # abruptly, but without killing its handler
    lost._owner.post(int)
    try:
        future.get()
    except gmdp.WorkerLost:
        pass
    while len(children) < 2:
        gevent.sleep(0.01)
    for child_pid in children:
        status = wait_for(child_pid)
        assert os.waitstatus_to_exitcode(status) == 7, status
    assert client.request("echo", b"after") == [b"after"]
    print("well")
    """
    assert run(script) == ["well"]


def test_P1_a_handler_that_had_not_begun_does_not_in_the_child():
    """The handler's work would be done twice."""
    script = """
    import gmdp

    begun = []
    later = lambda run, *args: gevent.spawn_later(0.2, run, *args)
    with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.AsyncClient(broker.endpoint, timeout=20) as client:
        with gmdp.Worker(broker.endpoint, "it", lambda request: begun.append(1) or b"done", spawn=later) as worker:
            future = client.submit("it", b"")
            while not worker.statistics().busy:
                gevent.sleep(0.001)
            child_pid = os.fork()
            if not child_pid:
                gevent.spawn_later(0.3, int).join()  # the handler would begin after 0.2
                os._exit(len(begun))
            assert future.get() == [b"done"]
            assert wait_for(child_pid) == 0
            assert begun == [1]
    print("well")
    """
    assert run(script) == ["well"]


@pytest.mark.parametrize("patch", ["", PATCH], ids=["nothing patched", "everything patched"])
def test_P1_a_client_works_in_a_child_that_another_thread_forked(patch):
    """The hub of the thread that made the client does not exist in the child."""
    script = """
    import threading
    import gmdp

    broker = gmdp.Broker("tcp://127.0.0.1:*")
    broker.start()
    client = gmdp.Client(broker.endpoint, timeout=20)
    assert client.request("mmi.nothing", b"") == [b"501"]
    ends = []

    def fork():
        child_pid = os.fork()
        if not child_pid:
            os._exit(7 if client.request("mmi.nothing", b"") == [b"501"] else 1)
        ends.append(wait_for(child_pid))

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
    """The child has threads of its own for that."""
    gmdp.security.lists.set_password(str(tmp_path / "users"), "me", "secret")
    script = f"""
    import gmdp

    broker = gmdp.Broker("tcp://127.0.0.1:*", plain_users={str(tmp_path / "users")!r})
    broker.start()
    make_client = lambda: gmdp.Client(broker.endpoint, username="me", password="secret", timeout=20)
    with make_client() as client:
        assert client.request("mmi.nothing", b"") == [b"501"]
    child_pid = os.fork()
    if not child_pid:
        broker.start()
        greenlets = [thing for thing in gc.get_objects() if isinstance(thing, gevent.Greenlet)]
        gates = [greenlet for greenlet in greenlets if "_watch" in repr(greenlet)]
        assert len([gate for gate in gates if not gate.dead]) == 1, gates
        with make_client() as client:
            assert client.request("mmi.nothing", b"") == [b"501"]
        os._exit(7)
    assert os.waitstatus_to_exitcode(wait_for(child_pid)) == 7
    broker.close()
    print("well")
    """
    assert run("import gc\n" + textwrap.dedent(script)) == ["well"]


def test_P1_a_connection_that_waits_for_the_parent_s_check_is_not_refused_by_the_child():
    script = """
    import gevent.event
    import gmdp

    asked, go_on, records = [], gevent.event.Event(), []

    def check(name, password):
        asked.append(name)
        go_on.wait()

    broker = gmdp.Broker("tcp://127.0.0.1:*", plain_users=check, handshake_timeout=20, audit=records.append)
    broker.start()
    client = gmdp.AsyncClient(broker.endpoint, username="me", password="secret", timeout=20)
    future = client.submit("mmi.nothing", b"")
    while not asked:
        gevent.sleep(0.001)
    child_pid = os.fork()
    if not child_pid:
        broker.start()
        go_on.set()
        gevent.sleep(0.1)
        os._exit(7 + len(records))
    assert os.waitstatus_to_exitcode(wait_for(child_pid)) == 7
    go_on.set()
    while not records:
        gevent.sleep(0.001)
    assert records[0].kind == "connection_refused", records
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
    child_pid = os.fork()
    if not child_pid:
        assert client.request("mmi.nothing", b"") == [b"501"]  # by the parent's broker
        broker.start()
        own = gmdp.Client(broker.endpoint, server_key=keys[0], timeout=20)
        assert own.request("mmi.nothing", b"") == [b"501"]
        broker.close()
        os._exit(7)
    status = wait_for(child_pid)
    assert os.waitstatus_to_exitcode(status) == 7, status
    assert client.request("mmi.nothing", b"") == [b"501"]
    broker.close()
    print("well")
    """
    assert run(script) == ["well"]


def test_P1_the_child_does_not_use_the_context_that_the_parent_was_given():
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
    child_pid = os.fork()
    if not child_pid:
        assert client.request("mmi.nothing", b"") == [b"501"]
        os._exit(7)
    status = wait_for(child_pid)
    assert os.waitstatus_to_exitcode(status) == 7, status
    print("well")
    """
    assert run(script) == ["well"]
