"""Each example runs as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples").glob("*.py"))

#: The output of each example; "..." stands for anything.
PRINTS = {
    "first_steps": ["[b'HELLO']"],
    "from_zerorpc": ["3", "[0, 1, 2]", "ZeroDivisionError"],
    "greenlet_tests": ["greet: passed", "greet_and_remember: left greenlets behind"],
    "legacy_handler": ["100", "70", "75", "ledger.wipe is not allowed"],
    "many_at_once": ["100 of 100 digests agree", "later: ...", "ClientStatistics(..."],
    "secured": [
        "balance: 75",
        "bank.transfer: NotAllowed",
        "bank.balance: AuthenticationFailed",
        "call_refused bank.transfer not_allowed",
        "connection_refused at the door key",
    ],
    "simulated_faults": ["5 hours of faults, 500 bookings, none lost, none booked twice; the slowest took 14.0 s"],
    "streaming": ["3", "2", "1", "lift-off"],
    "supervised": ["desserts", "<Broker closed inproc://supervised ..."],
    "web_app": [
        "(200, 'WELCOME')",
        "(200, '321lift-off')",
        "(200, 'data: 1\\n\\ndata: lift-off\\n\\n')",
        "404 NotFound",
        "503 NoWorker",
    ],
    "when_things_go_wrong": [
        "NoWorker after 1 try",
        "ZeroDivisionError | integer division or modulo by zero",
        "stopped: nobody waits for the answer: its caller has gone",
        "dead letter: b'deadly' [b'poison'] attempts after 1 attempts",
        "WorkerLost after 1 delivery",
    ],
}


def test_there_is_an_expectation_for_each():
    assert {path.stem for path in EXAMPLES} == set(PRINTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_as_it_stands(path):
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(PRINTS[path.stem])
    for line, expected in zip(lines, PRINTS[path.stem], strict=True):
        if expected.endswith("..."):
            assert line.startswith(expected[:-3])
        else:
            assert line == expected
