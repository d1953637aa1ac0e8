"""``gmdp worker --processes``: a real parent, its processes, real signals."""

import os
import re
import signal
import sys

import gevent
import pytest
from processes import GMDP, HANDLERS, Gate, Process, outcomes
from waiting import wait_until

from gmdp import AsyncClient

pytestmark = pytest.mark.both_ends

SERVICE = b"pool"

#: A handler that answers with its version and its process.
VERSION = """
import os, sys, time


def which(request):
    time.sleep(0.02)
    return [b"{}", str(os.getpid()).encode()]


def prints(request):
    print("printed", flush=True)
    return sys.stdin.read().encode()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "versions.py").write_text(VERSION.format("old"))
    return tmp_path


@pytest.fixture
def gate():
    with Gate() as gate:
        yield gate


@pytest.fixture
def client(broker):
    with AsyncClient(broker.endpoint, timeout=30) as client:
        yield client


def workers_of(broker):
    service = broker.statistics().services.get(SERVICE)
    return 0 if service is None else service.workers


class Pool:
    """A parent that has announced its processes, and the broker they serve."""

    def __init__(self, process, broker, count):
        self.process = process
        self.broker = broker
        self.count = count

    def workers(self):
        """How many workers the broker knows."""
        return workers_of(self.broker)

    def started(self):
        """The pids of all processes that were ever started, in order."""
        return [int(pid) for pid in re.findall(rb"started worker process (\d+)", self.process.err)]

    def complete(self):
        wait_until(lambda: self.workers() == self.count)

    def signal_all(self, number):
        """Send a signal to the parent and all its processes, as systemd and killall do."""
        for pid in [*self.started()[-self.count :], self.process.pid]:
            os.kill(pid, number)


#: The command line with constants of the parent changed.
CHANGED = """
import sys
from gmdp.cli import main, supervisor

name, value = sys.argv.pop(1).split("=")
setattr(supervisor, name, float(value))
main()
"""


@pytest.fixture
def pool(broker, folder):
    """A function: start a parent, wait until it is ready."""
    processes = []

    def start(count, handler="handlers:work", changed=None, *more, **variables):
        arguments = ("worker", SERVICE, handler, "--broker", broker.endpoint, "--processes", str(count), "-v", *more)
        command = GMDP if changed is None else (sys.executable, "-c", CHANGED, changed)
        process = Process(*arguments, command=command, cwd=folder, PYTHONDONTWRITEBYTECODE="1", **variables)
        processes.append(process)
        several = "process" if count == 1 else "processes"
        assert process.line() == f"serving pool for {broker.endpoint} ({count} {several})"
        pool = Pool(process, broker, count)
        pool.complete()
        return pool

    yield start
    for process in processes:
        with process:
            print(process)  # shown where a test fails


def children(pid):
    """The pids of the children of `pid`, and among them those of zombies."""
    found, zombies = [], []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    state, parent = stat.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue  # it has ended
            if int(parent) == pid:
                found.append(int(entry))
                if state == "Z":
                    zombies.append(int(entry))
    return sorted(found), zombies


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_as_many_workers_as_processes_one_line_and_nothing_else(broker, folder):
    arguments = ("worker", SERVICE, "handlers:work", "--broker", broker.endpoint, "--processes", "3")
    with Process(*arguments, cwd=folder) as process:
        assert process.line() == f"serving pool for {broker.endpoint} (3 processes)"
        wait_until(lambda: workers_of(broker) == 3)
        process.signal(signal.SIGTERM)
        assert process.ended() == (0, b"", b"")
    wait_until(lambda: workers_of(broker) == 0)


def test_a_killed_process_is_replaced_and_no_zombie_stays(pool, client):
    """The first time at once, the second time in a row after a pause."""
    pool = pool(2)
    for count, pause in ((3, b"now"), (4, b"in 0.1 s")):
        stays, *_, victim = pool.started()
        os.kill(victim, signal.SIGKILL)
        pool.process.log(b"worker process %d was ended by SIGKILL; starting another %s" % (victim, pause))
        pool.process.log(b"started worker process", count=count)
        assert children(pool.process.pid) == (sorted([stays, pool.started()[-1]]), [])
        wait_until(lambda count=count: pool.broker.statistics().registrations == count)
        pool.complete()
    assert client.request(SERVICE, b"after") == [b"after"]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT of a terminal", "SIGTERM to all"])
def test_a_running_request_is_answered_before_the_end(pool, client, gate, how):
    """P5: the signal may reach the parent alone, a terminal's whole group, or all processes (systemd)."""
    pool = pool(2)
    reply = client.submit(SERVICE, [b"gate", gate.port.encode()])
    gate.arrived()
    if how == "SIGTERM":
        pool.process.signal(signal.SIGTERM)
    elif how == "SIGTERM to all":
        pool.signal_all(signal.SIGTERM)
    else:
        pool.process.signal_group(signal.SIGINT)
    wait_until(lambda: pool.workers() == 1)
    pool.process.log(b"stopping worker process")
    assert not reply.ready()
    gate.open()
    assert reply.get() == [b"done"]
    ended = pool.process.ended()
    assert (ended.status, ended.out) == (0, b"")
    assert not any(map(alive, pool.started()))


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)], ids=["INT", "TERM"]
)
def test_a_second_signal_kills_all_and_ends_at_once(pool, client, gate, first, second):
    pool = pool(1)
    reply = client.submit(SERVICE, [b"gate", gate.port.encode()])
    gate.arrived()
    pool.process.signal(first)
    pool.process.log(b"stopping worker process")
    pool.process.signal(second)
    assert pool.process.ended().status == 128 + second
    assert not any(map(alive, pool.started()))
    assert not reply.ready()


def test_the_processes_of_a_killed_parent_finish_what_they_do_and_end(pool, client, gate):
    pool = pool(2)
    reply = client.submit(SERVICE, [b"gate", gate.port.encode()])
    gate.arrived()
    pool.process.signal(signal.SIGKILL)
    wait_until(lambda: pool.workers() == 1)
    gate.open()
    assert reply.get() == [b"done"]
    assert pool.process.ended().status == -signal.SIGKILL  # and no process has its standard error open
    wait_until(lambda: pool.workers() == 0)


def test_a_reload_under_load_loses_nothing(pool, client, folder):
    """Four processes are called all the time; there is not even a moment without a worker."""
    pool = pool(4, "versions:which")
    before = set(pool.started())
    (folder / "versions.py").write_text(VERSION.format("new"))
    going_on, versions, pids, failures = [True], [], set(), []

    def call():
        while going_on:
            try:
                version, pid = client.request(SERVICE, b"", when_no_worker="fail")
            except Exception as error:
                failures.append(error)
                return
            versions.append(version)
            pids.add(int(pid))

    callers = [gevent.spawn(call) for _ in range(12)]
    wait_until(lambda: pids == before)
    pool.process.signal(signal.SIGHUP)
    pool.process.log(b": reloaded")
    new = set(pool.started()[-4:])
    wait_until(lambda: new <= pids or failures)
    going_on.clear()
    gevent.joinall(callers, raise_error=True)  # some had their answer from a process that has just ended
    assert failures == []
    assert len(pool.started()) == 8
    pids.clear()
    going_on.append(True)
    callers = [gevent.spawn(call) for _ in range(12)]
    wait_until(lambda: len(pids) == 4 or failures)
    going_on.clear()
    gevent.joinall(callers, raise_error=True)
    assert failures == []
    assert pids == new
    assert (versions[0], versions[-1]) == (b"old", b"new")
    assert children(pool.process.pid) == (sorted(pids), [])
    assert pool.broker.statistics().redeliveries == 0


def test_a_hangup_during_a_reload_is_one_more_reload(pool, client, gate):
    """A busy process finishes first."""
    pool = pool(1)
    reply = client.submit(SERVICE, [b"gate", gate.port.encode()])
    gate.arrived()
    pool.process.signal(signal.SIGHUP)
    pool.process.log(b"retiring worker process")
    for _ in range(3):
        pool.process.signal(signal.SIGHUP)
    assert client.request(SERVICE, b"meanwhile") == [b"meanwhile"]
    assert not reply.ready()
    gate.open()
    assert reply.get() == [b"done"]
    pool.process.log(b": reloaded", count=2)
    pool.process.signal(signal.SIGTERM)
    assert pool.process.ended().status == 0
    assert len(pool.started()) == 3


def test_a_reload_ends_a_process_that_has_not_come_to_serve(pool, folder):
    """A process that was started again a moment before, for instance."""
    (folder / "slow.py").write_text(
        "import os, time\n"
        "if os.path.exists('hold'):\n"
        "    os.rename('hold', 'held')\n"
        "    while True:\n"
        "        time.sleep(1)\n"
        "from handlers import work\n"
    )
    pool = pool(1, "slow:work")
    [first] = pool.started()
    (folder / "hold").touch()
    os.kill(first, signal.SIGKILL)
    wait_until((folder / "held").exists)
    pool.process.signal(signal.SIGHUP)
    pool.process.log(b": reloaded")
    last = pool.started()[-1]
    assert len(pool.started()) == 3
    wait_until(lambda: children(pool.process.pid) == ([last], []))
    pool.complete()


def test_a_reload_of_code_that_is_broken_keeps_what_there_is(pool, client, folder):
    pool = pool(2, "versions:which")
    before = pool.started()
    (folder / "versions.py").write_text("def half(:\n")
    pool.process.signal(signal.SIGHUP)
    log = pool.process.log(b"reload given up")
    assert b"gmdp: cannot import versions: SyntaxError" in log
    assert re.search(rb"ERROR gmdp.supervisor: reload given up: the new worker process \d+ ended with status 2\n", log)
    assert {int(client.request(SERVICE, b"")[1]) for _ in range(8)} == set(before)
    assert children(pool.process.pid) == (sorted(before), [])
    # A mended one is taken.
    (folder / "versions.py").write_text(VERSION.format("new"))
    pool.process.signal(signal.SIGHUP)
    pool.process.log(b": reloaded")
    assert client.request(SERVICE, b"")[0] == b"new"


def test_a_reload_waits_so_long_for_a_new_process_and_no_longer(pool, client, folder):
    pool = pool(1, "versions:which", "REGISTER_TIMEOUT=1.5")
    [pid] = pool.started()
    (folder / "versions.py").write_text("import time\ntime.sleep(1000)\n")
    pool.process.signal(signal.SIGHUP)
    pool.process.log(b"was not registered within 1.5 s")
    wait_until(lambda: children(pool.process.pid) == ([pid], []))
    assert client.request(SERVICE, b"")[0] == b"old"


def test_what_takes_long_is_done_by_a_process_that_was_replaced(pool, client, gate):
    """The work may take any time; the reload does not wait for it."""
    pool = pool(2, "handlers:work", "RETIRE_TIMEOUT=0.1", "--stop-timeout", "0.1")
    before = pool.started()
    reply = client.submit(SERVICE, [b"gate", gate.port.encode()])
    gate.arrived()
    pool.process.signal(signal.SIGHUP)
    pool.process.log(b": reloaded")
    assert b"ends when its work is done" in pool.process.err
    assert client.request(SERVICE, b"meanwhile") == [b"meanwhile"]
    [left] = [pid for pid in before if alive(pid)]
    wait_until(lambda: pool.workers() == 3)  # the old process keeps its session until it has answered
    assert not reply.ready()
    gate.open()
    assert reply.get() == [b"done"]
    wait_until(lambda: not alive(left))
    assert pool.broker.statistics().redeliveries == 0
    assert b"WARNING" not in pool.process.err


def test_the_end_of_all_is_also_that_of_a_process_that_was_replaced(pool, client, gate):
    pool = pool(1, "handlers:work", "RETIRE_TIMEOUT=0.1", "--stop-timeout", "0.1")
    reply = client.submit(SERVICE, [b"gate", gate.port.encode()])
    gate.arrived()
    pool.process.signal(signal.SIGHUP)
    pool.process.log(b": reloaded")
    pool.process.signal(signal.SIGTERM)
    ended = pool.process.ended()
    assert ended.status == 0
    assert not any(map(alive, pool.started()))
    assert not reply.ready()
    assert b"killing it" not in ended.err


def test_a_hangup_for_a_process_that_only_starts_is_the_parent_s(pool, folder):
    """A signal to all processes of the name reaches the child, but is the parent's business."""
    (folder / "sitecustomize.py").write_text(
        "import os, signal\n"
        "if b'--until-eof' in open('/proc/self/cmdline', 'rb').read():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
    )
    pool = pool(1, PYTHONPATH=str(folder))
    assert len(pool.started()) == 1


def test_where_all_standard_streams_are_closed(broker, folder):
    script = 'exec "$0" -c "import gmdp_command; gmdp_command.main()" "$@" <&- >&- 2>&-'
    arguments = ("worker", SERVICE, "handlers:work", "--broker", broker.endpoint, "--processes", "2")
    with Process(*arguments, command=("sh", "-c", script, sys.executable), cwd=folder) as process:
        wait_until(lambda: workers_of(broker) == 2)
        process.signal(signal.SIGTERM)
        assert process.ended() == (0, b"", b"")
    wait_until(lambda: workers_of(broker) == 0)


def test_a_process_that_does_not_stop_is_killed(pool, client, gate):
    """A process whose handler never lets the hub run does not hear the parent."""
    pool = pool(1, "handlers:work", "STOP_GRACE=0.3", "--stop-timeout", "0.2")
    client.submit(SERVICE, [b"compute", gate.port.encode()])
    gate.arrived()
    pool.process.signal(signal.SIGTERM)
    ended = pool.process.ended()
    assert ended.status == 0
    assert b"did not stop within 0.5 s: killing it" in ended.err
    assert not any(map(alive, pool.started()))


def test_a_hangup_for_all_processes_is_a_reload(pool):
    pool = pool(1)
    before = pool.started()
    pool.signal_all(signal.SIGHUP)
    pool.process.log(b": reloaded")
    pool.complete()
    assert len(pool.started()) == 2
    assert not any(map(alive, before))
    assert b"WARNING" not in pool.process.err


def test_what_handlers_print_is_seen_and_their_input_is_empty(pool, client):
    pool = pool(1, "versions:prints")
    assert client.request(SERVICE, b"") == [b""]
    assert pool.process.line() == "printed"


def test_without_a_broker_it_waits_and_ends_when_told(unused_endpoint, folder):
    """The parent announces nothing before its processes are registered."""
    arguments = ("worker", SERVICE, "handlers:work", "--broker", unused_endpoint, "--processes", "2", "-v")
    with Process(*arguments, cwd=folder) as process:
        process.log(b"started worker process", count=2)
        process.signal(signal.SIGTERM)
        ended = process.ended()
    assert (ended.status, ended.out) == (0, b"")


#: By name: arguments, the exit status, and a pattern of the line.
REFUSALS = {
    "handler": (["handlers:worc", "--processes", "4"], 2, "gmdp: handlers has no worc"),
    "neither": (["--processes", "1"], 2, "gmdp: name either .*"),
    "endpoint": (["handlers:work", "--processes", "4", "--broker", "none"], 2, "gmdp: bad endpoint 'none'.*"),
    "file": (
        ["handlers:work", "--processes=4", "--username", "me", "--password-file", "none"],
        2,
        "gmdp: cannot read none: No such file or directory",
    ),
    "silent end": (["exits:work", "--processes", "4"], 1, r"gmdp: worker process \d+ ended with status 0 before .*"),
    "killed": (["kills:work", "--processes", "4"], 1, r"gmdp: worker process \d+ was ended by SIGKILL before .*"),
}


def test_what_never_served_is_not_started_again(folder):
    """The line and the exit status are those of the first process, the only one that was started."""
    (folder / "exits.py").write_text("import os\nos._exit(0)\n")
    (folder / "kills.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    commands = [["worker", "pool", *arguments] for arguments, _, _ in REFUSALS.values()]
    shown, *ends = outcomes([["worker", "--help"], *commands], folder)
    assert b"--processes" in shown.out
    assert b"until-eof" not in shown.out  # that option is private to the parent and its children
    for (name, (_, status, line)), ended in zip(REFUSALS.items(), ends, strict=True):
        assert ended.status == status, (name, ended)
        assert re.fullmatch(line, ended.one_line()), (name, ended)
