"""Waiting for a condition, never for a number of seconds."""

from time import monotonic

import gevent

#: Seconds between two checks of the condition.
LOOK = 0.002


def wait_until(condition, timeout=60, message=None):
    """Let other greenlets run until `condition()` is true, and return its value.

    AssertionError after `timeout` seconds, with the text of `message()` if it is given.
    """
    until = monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if monotonic() > until:
            raise AssertionError((message and message()) or f"not within {timeout} s: {condition}")
        gevent.sleep(LOOK)
