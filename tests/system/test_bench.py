"""``gmdp bench``: its results, its output, and that no process of it stays behind."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import gmdp
from waiting import wait_until

from gmdp import Broker

pytestmark = pytest.mark.once

BENCH = Path(__file__).parents[2] / "bench"
QUICK = ["--seconds", "0.3", "--warm-up", "0.1"]


def test_each_combination_is_measured_and_told_as_json():
    sizes = ["--size", "10", "--size", "1000"]
    ended = gmdp("bench", *QUICK, *sizes, "--concurrency", "3", "--mdp", "0.1", "--mdp", "0.2", "--json")
    assert ended.status == 0, ended
    printed = json.loads(ended.out)
    assert set(printed["machine"]) >= {"gmdp", "python", "gevent", "pyzmq", "cpus", "system"}
    rows = printed["results"]
    combinations = [(row["stack"], row["mdp"], row["size"], row["concurrency"]) for row in rows]
    assert combinations == [("gmdp", mdp, size, 3) for mdp in ("0.1", "0.2") for size in (10, 1000)]
    for row in rows:
        assert row["errors"] == {}
        assert row["requests"] > 0
        assert row["rate"] == pytest.approx(row["requests"] / row["seconds"], rel=0.05)
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["client_cpu_us"] > 0
        assert "gmdp_ratio" not in row
    # Without a terminal there is a line for each point instead of a bar.
    assert len(re.findall(rb"gmdp 0\.[12], \d+ bytes, 3 callers\n", ended.err)) == 4


def test_a_table_for_people():
    ended = gmdp("bench", *QUICK, "--concurrency", "2")
    assert ended.status == 0, ended
    lines = ended.out.decode().splitlines()
    for title in ("stack", "callers", "requests/s", "p50 ms", "p99 ms", "broker µs", "worker µs", "client µs"):
        assert title in lines[0]
    assert re.search(r"gmdp +0\.2 +64 +2 +[\d,]+ ", ended.out.decode())


def test_peers_that_are_installed_are_measured_in_the_same_sitting():
    arguments = (*QUICK, "--concurrency", "2", "--json")
    ended = gmdp(*arguments, command=(sys.executable, str(BENCH / "compare.py")), timeout=60)
    assert ended.status == 0, ended
    rows = json.loads(ended.out)["results"]
    measured = [row["stack"] for row in rows]
    assert measured[0] == "gmdp"
    assert {"majortomo", "libzmq proxy"} <= set(measured)
    missing = re.findall(r"^not installed: (.*)$", ended.err.decode(), re.M)
    names = [*measured[1:], *(missing[0].split(", ") if missing else [])]
    assert sorted(names) == sorted(["zerorpc", "majortomo", "NATS", "libzmq proxy"])
    ours = rows[0]["rate"]
    for row in rows:
        assert row["requests"] > 0
        assert row["gmdp_ratio"] == pytest.approx(ours / row["rate"], rel=0.02)


def test_a_broker_that_runs_already():
    with Broker("tcp://127.0.0.1:*") as broker:
        done = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gmdp",
                "bench",
                *QUICK,
                "--broker",
                broker.endpoint,
                "--concurrency",
                "2",
                "--json",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: done.poll() is not None)
        (row,) = json.loads(done.stdout.read())["results"]
        done.stdout.close()
        assert broker.statistics().replies >= row["requests"] > 0
        assert row["broker_cpu_us"] is None  # the broker is a process of somebody else
        wait_until(lambda: broker.statistics().workers == 0)


def test_calls_that_fail_are_counted_and_are_the_exit_status():
    with Broker("tcp://127.0.0.1:*", max_frame_size=1000) as broker:
        done = subprocess.Popen(
            [sys.executable, "-m", "gmdp", "bench", *QUICK, "--broker", broker.endpoint, "--size", "2000", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: done.poll() is not None)
        rows = json.loads(done.stdout.read())["results"]
        done.stdout.close()
    assert done.returncode == 1
    for row in rows:
        assert row["requests"] == 0
        assert set(row["errors"]) == {"MessageTooLarge"}
        assert row["p50_ms"] is None


def test_a_worker_that_cannot_start_ends_it_with_one_line(monkeypatch):
    ended = gmdp("bench", *QUICK, "--broker", "nonsense")
    assert (ended.status, ended.out) == (1, b"")
    assert b"a worker of gmdp ended" in ended.err
    assert b"Traceback" not in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_takes_its_processes_with_it(number):
    with Broker("tcp://127.0.0.1:*") as broker:
        bench = subprocess.Popen(
            [sys.executable, "-m", "gmdp", "bench", "--seconds", "100", "--broker", broker.endpoint],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: broker.statistics().replies > 0)
        bench.send_signal(number)
        wait_until(lambda: bench.poll() is not None)
        assert bench.returncode == 130
        wait_until(lambda: broker.statistics().workers == 0 == broker.statistics().connections)
