"""Fixtures of the worker's tests."""

import threading

import pytest
from waiting import wait_until

from gmdp import AsyncClient


@pytest.fixture
def client(broker):
    with AsyncClient(broker.endpoint) as client:
        yield client


class Endless:
    """A handler that yields without end, and what became of it."""

    #: Bytes of a part.
    size = 30_000
    #: Parts that the handler has sent when it waits for the reader of the first 64 KiB.
    ahead = 3

    def __init__(self):
        self.sent = 0
        self.ended = []
        self.threads = set()

    def __call__(self, request):
        self.threads.add(threading.get_ident())
        try:
            while True:
                self.sent += 1
                yield b"x" * self.size
        except BaseException as error:
            self.ended.append(type(error))
            raise

    def wait_until_it_waits(self, client):
        """Wait until the handler waits in its `yield`."""
        wait_until(lambda: client.statistics().partials == self.ahead and self.sent == self.ahead)


@pytest.fixture
def endless():
    return Endless()


@pytest.fixture(params=["greenlet", "thread"])
def spawn(request, thread_pool):
    """Handlers run in greenlets, or in a pool of threads."""
    return None if request.param == "greenlet" else thread_pool(4)
