"""Handlers for worker processes that get into trouble."""

import os
import socket
import time

import gevent


def slow(request):
    """Take the seconds in the body's first frame; returns the pid and the other frames."""
    gevent.sleep(float(request.body[0]))
    return [b"%d" % os.getpid(), *request.body[1:]]


def slow_at_first(request):
    """Take a minute on the first attempt, and no time on a later one; returns the pid and the body."""
    gevent.sleep(60 if request.attempt == 1 else 0)
    return [b"%d" % os.getpid(), *request.body]


def poison(request):
    """Kill the whole process if the body says so; otherwise return the body."""
    if request.body[0] == b"die":
        os.kill(os.getpid(), 9)
    gevent.sleep(0.3)
    return request.body


def blocking(request):
    """Compute while there is a file of the body's path, without letting any other greenlet run; returns the pid."""
    while os.path.exists(request.body[0]):
        pass
    return b"%d" % os.getpid()


def check(request):
    """Return the body reversed: an answer that belongs to this request alone."""
    return [frame[::-1] for frame in request.body]


def large(request):
    """Answer with as many bytes as the second frame says, once the gate at the first frame's port opens."""
    with socket.create_connection(("127.0.0.1", int(request.body[0]))) as connection:
        connection.recv(1)
    return bytes(int(request.body[1]))


def computing(request):
    """Note the run in the file of the first frame, compute for the seconds of the second frame; returns the pid."""
    with open(request.body[0], "ab") as runs:
        runs.write(b"%d\n" % os.getpid())
    until = time.monotonic() + float(request.body[1])
    while time.monotonic() < until:
        pass
    return b"%d" % os.getpid()


def export(request):
    """Yield parts as fast as they are taken: the body says of how many bytes, and how many."""
    size, count = map(int, request.body[0].split())
    part = b"x" * size
    for _ in range(count):
        yield part
