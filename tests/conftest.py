"""What all tests share: a deadline, a look at what is left over, endpoints."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import skips
import zmq
from gevent.threadpool import ThreadPool

import gmdp
from gmdp.testing import leaks
from gmdp.testing.deadline import Deadline, DeadlinePassed
from gmdp.testing.leaks import Census

#: Seconds after which a test is stuck; far more than any takes on a busy machine.
DEADLINE = 120
#: The same for a test of hypothesis, which may shrink an example for 300 seconds before it reports the failure.
DEADLINE_WITH_SHRINKING = DEADLINE + 360

#: Folders of tests that make no greenlet, socket or thread: nothing is looked for after them.
WITHOUT_GREENLETS = ("unit/core/", "unit/protocol/")

#: The skips that are no failures.
SKIPS = Path(__file__).with_name("SKIPS.md")

_failed: pytest.StashKey[bool] = pytest.StashKey()


def pytest_configure() -> None:
    """Listen to SIGINT, with which a deadline interrupts a blocked hub: a shell's background job ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Make what a process makes only once; spare each census, and the garbage collector, what was imported."""
    zmq.Context.instance()  # pyzmq's own, beside the green one
    gc.collect()
    gc.freeze()


def _with_deadline(
    item: pytest.Item, error: Callable[[str], BaseException] = pytest.fail.Exception
) -> Generator[None, object, object]:
    """Run one phase of a test, which fails with `error` at the deadline, also where it blocks the hub.

    After pytest's own error, pytest tears down the other fixtures; after any other BaseException in a
    teardown, it does not.  A teardown that blocks the hub is interrupted, so fixtures below it are kept all the
    same: their test has failed, and the run goes on.
    """
    marker = item.get_closest_marker("deadline")
    seconds = DEADLINE if item.get_closest_marker("hypothesis") is None else DEADLINE_WITH_SHRINKING
    with Deadline(seconds if marker is None else marker.args[0], error):
        return (yield)


def _refuse_skip(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Make a failure of a skip that is not listed, under continuous integration."""
    if report.skipped:
        refusal = skips.refusal(report.nodeid, SKIPS)
        if refusal is not None:
            report.outcome = "failed"
            report.longrepr = f"{refusal}: {report.longreprtext}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _with_deadline(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    # Hypothesis takes pytest's own error for a failed example: it would run what hangs again, and shrink it.
    return (yield from _with_deadline(item, DeadlinePassed))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _with_deadline(item))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test fails if it leaves something behind that its marker ``gmdp_allow_leaks`` does not name.

    The traceback of a failed test holds the test's variables.  Therefore nothing is looked for after it.
    """
    if any(folder in request.node.nodeid for folder in WITHOUT_GREENLETS):
        yield
        return
    allowed = {kind for marker in request.node.iter_markers("gmdp_allow_leaks") for kind in marker.args}
    census = Census()
    yield
    if not request.node.stash.get(_failed, False):
        census.check([kind for kind in leaks.KINDS if kind not in allowed])


class _Criticals(logging.Handler):
    """Keeps what an owner logs when a defect ends it."""

    def __init__(self) -> None:
        super().__init__(logging.CRITICAL)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def _no_defects() -> Iterator[None]:
    """A defect of gmdp's own that ends an owner fails the test, though nobody waits for that owner."""
    handler = _Criticals()
    logger = logging.getLogger("gmdp.owner")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert [logging.Formatter().format(record) for record in handler.records] == []


@pytest.fixture
def broker() -> Iterator[gmdp.Broker]:
    with gmdp.Broker("tcp://127.0.0.1:*") as broker:
        yield broker


@pytest.fixture
def thread_pool() -> Iterator[Callable[[int], Any]]:
    """A function: makes a gevent ThreadPool whose threads end with the test."""
    pools: list[Any] = []

    def make(size: int) -> Any:
        pools.append(ThreadPool(size))
        return pools[-1]

    yield make
    for pool in pools:
        pool.kill()


@pytest.fixture
def nothing_left() -> Callable[[], None]:
    """A function: fails if there are greenlets, descriptors or threads that were not there before the test."""
    return Census().check


@pytest.fixture
def unused_endpoint() -> str:
    """An endpoint nobody listens on, though one can.

    The port lies below the range from which the system takes ports for outgoing connections.
    No connection gets it meanwhile, not even a connection to itself.
    """
    ports = list(range(20_000, 32_000))
    random.Random(os.getpid()).shuffle(ports)
    for port in ports:
        try:
            with gmdp.Broker(f"tcp://127.0.0.1:{port}") as passing:
                return passing.endpoint
        except gmdp.BindError:
            continue
    raise AssertionError("no unused port")
