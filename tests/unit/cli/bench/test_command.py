"""``gmdp bench``: what it refuses before it measures anything, and what it prints."""

import json
import re
import sys

import pytest
from processes import gmdp_here

from gmdp.cli.bench.command import measure
from gmdp.cli.bench.load import Measured, Point
from gmdp.cli.bench.measuring import Plan, Result
from gmdp.cli.bench.stacks import GMDP_STACK

pytestmark = pytest.mark.once


def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    ended = gmdp_here("bench", "--seconds", "100", "--plot", str(tmp_path / "nowhere" / "picture.svg"))
    assert ended.status == 2
    assert ended.one_line() == f"gmdp: --plot cannot write to the folder {tmp_path / 'nowhere'}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "x.pdf"], r"--plot writes \.png or \.svg, not x\.pdf"),
        (["--concurrency", "0"], "concurrency"),
        (["--mdp", "0.3"], "0.3"),
        (["--seconds", "0"], "seconds"),
        (["--compare"], r"bench/compare\.py"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(options, message):
    ended = gmdp_here("bench", *options)
    assert (ended.status, ended.out) == (2, b"")
    assert re.search(message, ended.err.decode())
    assert ended.err.count(b"\n") == 1


def test_without_matplotlib_a_picture_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = gmdp_here("bench", "--plot", "x.png")
    assert ended.status == 2
    assert ended.one_line() == "gmdp: --plot needs matplotlib: pip install 'gmdp[plot]'"


def test_results_are_printed_and_failed_calls_are_the_exit_status(monkeypatch, capsys):
    point = Point("other", "", 64, 1, 1.0, 0.0, 1.0)
    errors = {}
    result = Result(point, Measured(10, errors, 2.0, 1.0, 2.0, 3.0, 0.5), None, None)
    monkeypatch.setattr(Plan, "measure", lambda plan, progress: progress(point, None) or [result])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    plan = dict.fromkeys(Plan._fields[1:], ())
    stacks = {"other": GMDP_STACK._replace(versions=())}
    assert measure(stacks, as_json=True, picture=None, **plan) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["results"][0]["rate"] == 5.0
    assert err == "other, 64 bytes, 1 caller\n"
    errors["ValueError"] = 1
    assert measure(stacks, as_json=False, picture=None, **plan) == 1
    assert "1 ValueError" in capsys.readouterr().out
