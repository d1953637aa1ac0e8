"""Waiting for conditions, never for seconds."""

from time import monotonic

import gevent

#: Seconds between two looks.
LOOK = 0.002


def wait_until(condition, timeout=60, message=None):
    """Let other greenlets run until `condition()` is true; returns what it returned."""
    until = monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if monotonic() > until:
            raise AssertionError((message and message()) or f"not within {timeout} s: {condition}")
        gevent.sleep(LOOK)
