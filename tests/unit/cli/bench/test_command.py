"""``gmdp bench``: what it refuses before it measures anything."""

import re
import sys

import pytest
from processes import gmdp_here

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
