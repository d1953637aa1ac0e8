"""The command line: ``python -m gmdp.testing``."""

import subprocess
import sys

import pytest

from gmdp.testing.__main__ import main
from gmdp.testing.explorer.search import run_seeds


def run_module(*arguments):
    command = [sys.executable, "-m", "gmdp.testing", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_failure_names_its_seed_and_the_seed_replays_it(monkeypatch, capsys):
    monkeypatch.setattr("gmdp.protocol.token.PREFIX_SIZE", 0)  # any token is accepted
    seed = next(seed for seed in range(1000) if run_seeds([seed]).failures)
    assert main(["--first", str(seed), "--seeds", "1", "--jobs", "1"]) == 1
    failure = capsys.readouterr()
    assert failure.out.startswith(f"seed {seed}, after ")
    assert "--replay" in failure.err
    assert main(["--replay", str(seed)]) == 1
    replayed = capsys.readouterr()
    assert failure.out.splitlines()[0].startswith(replayed.err.strip())
    assert "FAILED" in replayed.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--seeds", "3", "--jobs", "2"], 0, "3 seeds, 0 failures"),
        (["--seeds", "0"], 2, "must be at least 1"),
        (["--seeds", "many"], 2, "invalid int value"),
        (["--replay", "1"], 0, "a scenario of the kind"),
    ],
)
def test_the_command_line(arguments, status, line):
    ended = run_module(*arguments)
    assert ended.returncode == status
    assert line in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
