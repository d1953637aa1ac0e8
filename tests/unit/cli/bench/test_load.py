"""The client process: callers, what they record, and percentiles of latencies."""

import json
import math
import os

import gevent
import pytest

from gmdp.cli.bench.load import Measured, Point, call_in_greenlets, percentile, run

pytestmark = pytest.mark.once


def test_a_percentile_is_one_of_the_values():
    assert [percentile([1.0, 2.0, 3.0, 4.0], part) for part in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 4.0, 4.0]
    assert math.isnan(percentile([], 0.5))


POINT = Point("it", "", 3, 2, 0.05, 0.02, 1.0)


def test_callers_are_counted_after_the_warm_up(capsys):
    bodies = []

    def call(body):
        bodies.append(body)
        gevent.sleep(0.005)

    measured = call_in_greenlets(POINT, call)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"began": True}
    assert lines[-1] == {"requests": measured.requests}
    assert set(bodies) == {b"xxx"}
    assert 0 < measured.requests < len(bodies)
    assert measured.errors == {}
    assert measured.seconds >= 0.05
    assert 0 < measured.p50 <= measured.p99 <= measured.max


def test_calls_that_fail_are_counted_by_type_and_do_not_spin():
    calls = []

    def call(body):
        calls.append(body)
        raise ValueError

    measured = call_in_greenlets(POINT, call)
    assert measured.requests == 0
    assert set(measured.errors) == {"ValueError"}
    assert len(calls) < 100


def test_the_client_process_prints_its_result_and_ends(capsys, monkeypatch):
    given, statuses = [], []
    monkeypatch.setattr(os, "_exit", statuses.append)
    measured = Measured(1, {}, 1.0, 1.0, 1.0, 1.0, 0.1)
    run(lambda *arguments: given.append(arguments) or measured, json.dumps([*POINT, "tcp://there", "service"]))
    assert given == [(POINT, "tcp://there", "service")]
    assert json.loads(capsys.readouterr().out) == measured._asdict()
    assert statuses == [0]
