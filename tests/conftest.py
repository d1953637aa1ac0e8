"""What all tests share: endpoints, waiting for conditions, a look at what is left over."""

import gc
import logging
import os
import random
import threading

import gevent
import pytest
from waiting import wait_until

import gmdp

#: Seconds after which a test is stuck; far more than any takes on a busy machine.
DEADLINE = 120


@pytest.fixture(autouse=True)
def _deadline(request):
    """A test that hangs fails, instead of hanging the run."""
    marker = request.node.get_closest_marker("deadline")
    seconds = marker.args[0] if marker is not None else DEADLINE
    with gevent.Timeout(seconds, AssertionError(f"the test did not end within {seconds} s")):
        yield


class _Criticals(logging.Handler):
    """Keeps what an owner says when a defect ends it."""

    def __init__(self):
        super().__init__(logging.CRITICAL)
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture(autouse=True)
def _no_defects():
    """An owner that ends by a defect of gmdp's own fails the test, though nobody waits for it."""
    handler = _Criticals()
    logger = logging.getLogger("gmdp.owner")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert [logging.Formatter().format(record) for record in handler.records] == []


@pytest.fixture
def broker():
    with gmdp.Broker("tcp://127.0.0.1:*") as broker:
        yield broker


class Census:
    """Greenlets, descriptors and threads of this process."""

    def __init__(self):
        gc.collect()
        self.greenlets = [
            one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and not one.dead and one is not None
        ]
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.threads = threading.active_count()

    def counts(self):
        return len(self.greenlets), self.descriptors, self.threads


@pytest.fixture
def nothing_left():
    """A function: waits until there are no more greenlets, descriptors and threads than now."""
    before = Census().counts()

    def check():
        latest = []

        def same():
            latest[:] = Census().counts()
            return all(now <= then for now, then in zip(latest, before, strict=True))

        wait_until(same, message=lambda: f"greenlets, descriptors, threads: {before} before, {latest} now")

    return check


@pytest.fixture
def unused_endpoint():
    """An endpoint nobody listens on, though one can.

    Below the range from which the system takes ports for outgoing connections:
    none of these gets it meanwhile, not even a connection to itself.
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
