"""Handlers for worker processes that get into trouble."""

import os
import time

import gevent


def slow(request):
    """Take the seconds in the body's first frame; returns the pid and the other frames."""
    gevent.sleep(float(request.body[0]))
    return [b"%d" % os.getpid(), *request.body[1:]]


def poison(request):
    """Kill the whole process if the body says so; otherwise return the body."""
    if request.body[0] == b"die":
        os.kill(os.getpid(), 9)
    gevent.sleep(0.3)
    return request.body


def blocking(request):
    """Compute for the seconds in the body, without letting any other greenlet run; returns the pid."""
    until = time.monotonic() + float(request.body[0])
    while time.monotonic() < until:
        pass
    return b"%d" % os.getpid()


def check(request):
    """Return the body reversed: an answer that belongs to this request alone."""
    return [frame[::-1] for frame in request.body]
