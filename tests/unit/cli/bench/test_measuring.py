"""Processes that print lines, and the points of a plan."""

import json
import sys

import pytest

from gmdp import MDPError
from gmdp.cli.bench.load import Measured
from gmdp.cli.bench.measuring import Plan, Process, Result, Servers
from gmdp.cli.bench.stacks import GMDP, GMDP_STACK, Stack

pytestmark = pytest.mark.once

MEASURED = Measured(10, {}, 2.0, 1.0, 2.0, 3.0, 0.5)


def python(code):
    """A command that runs `code`, and then waits to be ended."""
    return [sys.executable, "-I", "-S", "-c", f"import sys\n{code}\nsys.stdout.flush()\nimport time\ntime.sleep(100)"]


def stack(worker="print('ready')"):
    """A stack whose broker says that it listens, and whose client says that it has measured MEASURED."""
    lines = ({"began": True}, {"requests": 4}, MEASURED._asdict())
    client = [sys.executable, "-I", "-S", "-c", f"print({chr(10).join(map(json.dumps, lines))!r})"]
    return Stack(("", "x"), lambda: python("print('ready tcp://there')"), lambda *each: python(worker), client)


def plan(stacks, **options):
    fields = {"versions": ["0.1"], "sizes": [1, 2], "concurrencies": [3, 4, 5], "seconds": 0.1, "warm_up": 0.0}
    return Plan(stacks, **fields, timeout=1.0, broker=None, worker_processes=2, worker_concurrency=1, **options)


def test_the_lines_of_a_process():
    with Process("it", python("print('one\\ntwo')")) as process:
        assert [process.line(20), process.line(20)] == ["one", "two"]
        assert process.cpu() >= 0
        with pytest.raises(MDPError, match=r"it .*0\.1 seconds"):
            process.line(0.1)


def test_a_process_that_ends_without_a_line():
    with Process("it", [sys.executable, "-I", "-S", "-c", ""]) as process:
        with pytest.raises(MDPError, match="it ended"):
            process.line(20)


def test_gmdp_s_versions_are_the_plan_s_and_others_have_their_own():
    points = plan({GMDP: GMDP_STACK, "other": stack()})
    assert list(points.points(GMDP)) == ["0.1"]
    assert list(points.points("other")) == ["", "x"]
    assert [(point.size, point.concurrency) for point in points.points(GMDP)["0.1"]][:4] == [
        (1, 3),
        (1, 4),
        (1, 5),
        (2, 3),
    ]
    assert points.total() == 18


def test_each_point_is_measured_and_its_progress_told():
    progress = []
    measured = plan({"other": stack()})._replace(sizes=[1], concurrencies=[3])
    results = list(measured.measure(lambda point, requests: progress.append((point.mdp, requests))))
    assert [result.measured for result in results] == [MEASURED, MEASURED]
    assert progress == [("", None), ("", 4), ("x", None), ("x", 4)]
    assert all(result.broker_cpu >= 0 and result.worker_cpu >= 0 for result in results)


def test_workers_get_the_endpoint_of_the_broker_or_are_called_themselves():
    with Servers("other", stack(), "", None, 2, 1) as servers:
        assert (servers.endpoint, len(servers.brokers), len(servers.workers)) == ("tcp://there", 1, 2)
    alone = stack("print('ready tcp://worker')")._replace(broker=None)
    with Servers("other", alone, "", None, 2, 1) as servers:
        assert (servers.endpoint, len(servers.brokers), len(servers.workers)) == ("tcp://worker", 0, 1)


def test_a_worker_that_does_not_start_leaves_no_process():
    servers = Servers("other", stack("sys.exit()"), "", None, 1, 1)
    with pytest.raises(MDPError, match="a worker of other ended"):
        servers.__enter__()
    assert servers.brokers[0]._child.poll() is not None


def test_figures_per_request():
    point = plan({"other": stack()}).points("other")[""][0]
    result = Result(point, MEASURED, None, None)
    assert (result.rate, result.cpu_per_request(0.001), result.cpu_per_request(None)) == (5.0, 100.0, None)
    nothing = Result(point, MEASURED._replace(requests=0), None, None)
    assert nothing.cpu_per_request(0.001) is None
