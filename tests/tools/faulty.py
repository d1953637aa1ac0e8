"""Handlers for workers in processes of their own, which get into trouble."""

import os
import time

import gevent


def slow(request):
    """Takes as many seconds as the body's first frame says, and tells which process it was."""
    gevent.sleep(float(request.body[0]))
    return [b"%d" % os.getpid(), *request.body[1:]]


def poison(request):
    """Kills the whole process, if it is asked to."""
    if request.body[0] == b"die":
        os.kill(os.getpid(), 9)
    gevent.sleep(0.3)
    return request.body


def blocking(request):
    """Computes, without letting anything else run."""
    until = time.monotonic() + float(request.body[0])
    while time.monotonic() < until:
        pass
    return b"%d" % os.getpid()


def check(request):
    """An answer that only this request can have: its body, reversed."""
    return [frame[::-1] for frame in request.body]
