"""The guard of a worker's commands: a process that outlives the worker, and kills what it left."""

import os
import signal
import subprocess
import sys

import pytest

from gmdp.cli import guard


@pytest.fixture
def groups():
    """Three processes, each of them a group of its own."""
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) for _ in range(3)]
    yield processes
    for process in processes:
        process.stdin.close()
        process.wait()


def test_X11_the_guard_kills_the_groups_that_run_at_the_end(groups):
    first, second, third = groups
    lines = f"+{first.pid}\n+{second.pid}\n+{second.pid}\n-{first.pid}\n+{third.pid}\n-{third.pid}\n"
    subprocess.run([sys.executable, "-I", "-S", guard.__file__], input=lines.encode(), check=True, timeout=60)
    assert second.wait(60) == -signal.SIGKILL
    for process in (first, third):
        process.stdin.close()
        assert process.wait(60) == 0


def test_X11_the_guard_bears_groups_that_have_ended(groups):
    ended, runs, _ = groups
    ended.stdin.close()
    ended.wait()
    lines = f"+{ended.pid}\n+{runs.pid}\n"
    subprocess.run([sys.executable, "-I", "-S", guard.__file__], input=lines.encode(), check=True, timeout=60)
    assert runs.wait(60) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.killpg(ended.pid, 0)


def test_X11_a_group_is_told_once_or_twice_and_forgotten_once():
    assert guard.collect([b"+1\n", b"+1\n", b"-1\n", b"-2\n", b"+3\n"]) == {3}
