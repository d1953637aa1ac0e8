"""The figures, the table and the pictures that are made of results."""

import xml.etree.ElementTree

import pytest

from gmdp.cli.bench import report
from gmdp.cli.bench.load import Measured, Point
from gmdp.cli.bench.measuring import Result

pytestmark = pytest.mark.once


def result(stack="gmdp", mdp="0.2", size=64, concurrency=1, requests=100, errors=None, broker_cpu=0.01):
    point = Point(stack, mdp, size, concurrency, 1.0, 0.0, 10.0)
    measured = Measured(requests, errors or {}, 2.0, 1.234567, 2.5, 7.0, 0.02)
    return Result(point, measured, broker_cpu, None)


def test_figures_are_per_request_rounded_and_compared_with_gmdps():
    ours, theirs, none = result(), result("zerorpc", "", requests=50), result(requests=0, errors={"RequestTimeout": 3})
    rows = report.rows([ours, theirs])
    assert rows[0]["broker_cpu_us"] == 100.0
    assert rows[0]["client_cpu_us"] == 200.0
    assert rows[0]["worker_cpu_us"] is None
    assert rows[0]["p50_ms"] == 1.23
    assert (rows[0]["gmdp_ratio"], rows[1]["gmdp_ratio"], rows[1]["mdp"]) == (1.0, 2.0, None)
    assert report.rows([none])[0]["broker_cpu_us"] is None


@pytest.mark.gmdp_allow_leaks("descriptors")  # matplotlib keeps fonts open
def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    rows = report.rows([result(concurrency=n, requests=100 * n) for n in (1, 32)] + [result("zerorpc", "")])
    report.check_picture(tmp_path / "x.svg")
    for name in ("x.svg", "x.png"):
        report.plot(rows, tmp_path / name)
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert xml.etree.ElementTree.parse(tmp_path / "x.svg").getroot().tag.endswith("svg")
