"""The processes of ``gmdp worker --exec``: what a guard hears, and which processes are killed when."""

import os
import shlex
import signal
import subprocess
import sys

import gevent.subprocess
import pytest
from families import Family

from gmdp.cli import commands, guard
from gmdp.cli.commands import Command, Guard


def python(code):
    """A command line that runs `code`."""
    return shlex.join([sys.executable, "-I", "-S", "-c", code])


# Real processes


#: Runs a command, prints its guard, and kills the handler at a line of input.  Prints
#: whether that worked, and how many descriptors stayed open.
KILLED = """
import os, sys
from types import SimpleNamespace
import gevent
from gmdp.cli.targets import Execute

execute = Execute(sys.argv[1])
execute._guard.ensure()
before = len(os.listdir("/proc/self/fd"))
handler = gevent.spawn(execute, SimpleNamespace(body=[b"x" * 1_000_000]))
gevent.sleep(0)
print(execute._guard._process.pid, flush=True)
gevent.get_hub().threadpool.apply(sys.stdin.readline)
handler.kill(timeout=10)
print("killed" if handler.dead else "runs on", len(os.listdir("/proc/self/fd")) - before)
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("first", ["stays", "ends"])
def test_X11_all_processes_of_a_command_are_killed_with_its_handler(tmp_path, first):
    """Also those that its first process has left behind, which hold its output."""
    with Family(tmp_path, first) as family, start(KILLED, family.command) as process:
        family.started()
        assert process.communicate("kill\n", timeout=60)[0].splitlines()[1] == "killed 0"
        family.ended()


def test_X11_a_process_that_left_the_group_lives_on_and_holds_up_nothing(tmp_path):
    """It holds the command's input, unread, and its output."""
    with Family(tmp_path, second="leaves") as family, start(KILLED, family.command) as process:
        family.started()
        assert process.communicate("kill\n", timeout=60)[0].splitlines()[1] == "killed 0"
        assert family.runs()


def test_X11_a_handler_that_is_killed_while_its_command_starts_leaves_no_process():
    script = KILLED.replace("gevent.get_hub().threadpool.apply(sys.stdin.readline)", "")
    script += "print(*open(f'/proc/self/task/{os.getpid()}/children'))\nsys.stdin.read()"
    with start(script, python("import time; time.sleep(1000)")) as process:
        guard, killed, children = process.communicate("", timeout=60)[0].splitlines()
    assert killed == "killed 0"
    assert children.split() == [guard]


#: Has a command run, does something to the guard before or after the command starts, and is killed.
GUARDED = """
import os, signal, sys
from types import SimpleNamespace
import gevent
from gmdp.cli.targets import Execute

def wait_for_input():
    gevent.get_hub().threadpool.apply(sys.stdin.readline)

execute = Execute("cat")
execute(SimpleNamespace(body=[b"one"]))
guard = execute._guard._process
execute.arguments = sys.argv[2:]
if sys.argv[1] == "replaced":
    guard.kill()
    guard.wait()
gevent.spawn(execute, SimpleNamespace(body=[b"two"]))
wait_for_input()
if sys.argv[1] == "signalled":
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
        guard.send_signal(number)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("what", ["replaced", "signalled"])
def test_X11_there_is_always_a_guard(tmp_path, what):
    """A guard that was killed is replaced; signals for all processes of a service do not end it."""
    with Family(tmp_path) as family, start(GUARDED, what, *shlex.split(family.command)) as process:
        family.started()
        process.communicate("\n", timeout=60)
        family.ended()


# The worker's side, without processes


class Started:
    """Stands in for a guard's process: keeps the end of the pipe from which it would read."""

    def __init__(self, arguments, stdin, **options):
        self.arguments = arguments
        self.options = options
        self.pipe = os.dup(stdin)
        self.returncode = None

    def lines(self):
        """What the guard was told so far."""
        os.set_blocking(self.pipe, False)
        try:
            return os.read(self.pipe, 65536).decode().split()
        except BlockingIOError:
            return []


@pytest.fixture
def started(monkeypatch):
    """The guards that were started."""
    processes = []

    def start(*arguments, **options):
        processes.append(Started(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(commands.subprocess, "Popen", start)
    yield processes
    for process in processes:
        os.close(process.pipe)


@pytest.fixture
def guarding(started):
    """A guard that runs."""
    guarding = Guard()
    guarding.ensure()
    yield guarding
    os.close(guarding._pipe)


def test_a_guard_is_a_process_that_signals_to_others_do_not_reach(started, guarding):
    (process,) = started
    assert process.arguments == [sys.executable, "-I", "-S", guard.__file__]
    assert process.options["start_new_session"]
    assert process.options["cwd"] == "/"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    try:
        process.options["preexec_fn"]()
        assert {signal.getsignal(number) for number in handlers} == {signal.SIG_IGN}
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_X11_a_guard_hears_of_each_group_and_of_its_end(started, guarding):
    for group in (5, 7):
        guarding.add(group)
    guarding.remove(5)
    assert started[0].lines() == ["+5", "+7", "-5"]


def test_X11_a_command_tells_its_group_before_it_runs_its_program(started, guarding, monkeypatch):
    told = []
    monkeypatch.setattr(os, "setsid", lambda: told.extend(started[0].lines()) or told.append("a group"))
    guarding.enter()
    assert told == ["a group"]
    assert started[0].lines() == [f"+{os.getpid()}"]


def test_X11_a_guard_that_was_ended_is_replaced_and_hears_of_all_that_runs(started, guarding):
    guarding.ensure()
    assert len(started) == 1
    guarding.add(5)
    guarding.add(7)
    guarding.remove(7)
    started[0].returncode = -9
    guarding.ensure()
    assert len(started) == 2
    assert started[1].lines() == ["+5"]
    # The end of the first one's pipe, which the worker has closed.
    started[0].lines()
    assert os.read(started[0].pipe, 1) == b""


def test_X11_a_guard_that_does_not_read_or_has_ended_holds_up_no_command(started, guarding):
    for _ in range(20_000):
        guarding.add(1234)  # more than the pipe holds
    os.close(started[0].pipe)
    started[0].pipe = os.open(os.devnull, os.O_RDONLY)
    guarding.add(5)
    assert guarding._groups == {5, 1234}


class Group:
    """What becomes of a command's processes, and what its guard hears."""

    def __init__(self):
        self.done = []

    def enter(self):
        """As a guard's."""

    def add(self, group):
        """Note that the guard knows the group."""
        self.done.append(("add", group))

    def remove(self, group):
        """Note that the guard knows the group no more."""
        self.done.append(("remove", group))


@pytest.fixture
def group(monkeypatch):
    """A group of no real processes.  The command's first process has the number 77."""
    group = Group()

    def init(command, arguments, **options):
        assert options["preexec_fn"] == group.enter
        command.pid = None if arguments == ["not forked"] else 77
        if arguments != ["cat"]:
            raise gevent.Timeout

    def kill_group(number, how):
        group.done.append(("kill group", number, how))
        raise ProcessLookupError

    monkeypatch.setattr(gevent.subprocess.Popen, "__init__", init)
    monkeypatch.setattr(gevent.subprocess.Popen, "kill", lambda command: group.done.append("kill"))
    monkeypatch.setattr(gevent.subprocess.Popen, "wait", lambda command: group.done.append("wait"))
    monkeypatch.setattr(os, "killpg", kill_group)
    return group


def test_a_command_that_runs_is_known_and_killed_with_its_whole_group(group):
    """A group that has ended meanwhile is no error."""
    command = Command(["cat"], group)
    assert group.done == [("add", 77)]
    command.kill_group()
    assert group.done[1:] == ["kill", ("kill group", 77, signal.SIGKILL)]


def test_X11_a_command_whose_handler_is_killed_as_it_starts_is_killed_too(group):
    with pytest.raises(gevent.Timeout):
        Command(["starts"], group)
    assert group.done == ["kill", ("kill group", 77, signal.SIGKILL), "wait", ("remove", 77)]
    with pytest.raises(gevent.Timeout):
        Command(["not forked"], group)
    assert len(group.done) == 4
