"""What tests of the client share: services, and a client."""

import pytest
from gevent.event import Event

from gmdp import AsyncClient, Worker


class HeldHandler:
    """A handler whose requests wait until they are released."""

    def __init__(self):
        self.requests = []
        self._released = Event()

    def __call__(self, request):
        self.requests.append(request)
        self._released.wait()
        return request.body

    def release(self):
        """Answer every request, those to come as well."""
        self._released.set()


@pytest.fixture
def held(broker):
    """The handler of the service "held", which has one worker."""
    handler = HeldHandler()
    worker = Worker(broker.endpoint, "held", handler)
    worker.start()
    yield handler
    handler.release()
    worker.stop()


@pytest.fixture
def echoing(broker):
    """The broker, with the service "echo"."""
    with Worker(broker.endpoint, "echo", lambda request: request.body, concurrency=8):
        yield broker


@pytest.fixture
def client(broker):
    """A client of the broker, with futures."""
    with AsyncClient(broker.endpoint) as client:
        yield client
