"""A zerorpc service and its successor, side by side.

Three things change.  A broker stands in between, so that there may be several workers, which
come and go and may be killed.  Heartbeats do not depend on the handler, so that a job may
take an hour or keep the hub busy.  Bodies are JSON instead of msgpack (or any other bytes).
The class, its methods, generators that stream, and errors with their type stay.

Where zerorpc is installed, the old server runs, too, and must give the same answers.
"""

import importlib.util
import json
import logging
from collections.abc import Iterator
from typing import Any

import gevent

from gmdp import Broker, Client, HandlerFailed, Request, Worker


class Calculator:
    """The service, ten years old."""

    def add(self, left: int, right: int) -> int:
        return left + right

    def divide(self, left: int, right: int) -> float:
        return left / right

    def count(self, up_to: int) -> Iterator[int]:
        yield from range(up_to)


# Before                                        # After
#
# server = zerorpc.Server(Calculator())         worker = Worker(broker.endpoint, "calculator", Exposed(Calculator()),
# server.bind("tcp://127.0.0.1:4242")                           concurrency=100, reveal_errors=True)
# server.run()                                  worker.serve_forever()
#
# client = zerorpc.Client()                     client = Client(broker.endpoint)
# client.connect("tcp://127.0.0.1:4242")        calculator = Remote(client, "calculator")
# client.add(1, 2)                              calculator.add(1, 2)
# for number in client.count(3): ...            for number in calculator.each.count(3): ...
# except zerorpc.RemoteError as error:          except HandlerFailed as error:
#     error.name, error.msg                         error.type_name, error.detail


class Exposed:
    """A handler that calls an object's public methods: the first frame is the name, the second the arguments."""

    def __init__(self, service: object) -> None:
        self.service = service

    def __call__(self, request: Request) -> Any:
        name, arguments = (frame.decode() for frame in request.body)
        if name.startswith("_"):
            raise NameError(f"no method {name}")
        result = getattr(self.service, name)(*json.loads(arguments))
        if isinstance(result, Iterator):
            return (json.dumps(item).encode() for item in result)
        return json.dumps(result).encode()


class Remote:
    """A service whose methods can be called; those of `each` return the parts of a stream as they come."""

    def __init__(self, client: Client, service: str, stream: bool = False) -> None:
        self._client, self._service, self._stream = client, service, stream

    @property
    def each(self) -> "Remote":
        return Remote(self._client, self._service, True)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            body = [name.encode(), json.dumps(arguments).encode()]
            if self._stream:
                return (json.loads(part[0]) for part in self._client.stream(self._service, body) if part[0])
            answer = self._client.request(self._service, body)
            if len(answer) != 1 or not answer[0]:
                raise TypeError(f"{name} is a stream: call each.{name}(...)")
            return json.loads(answer[0])

        return call


def with_zerorpc() -> list[Any] | None:
    """The answers of the old service; None where zerorpc is not installed."""
    if importlib.util.find_spec("zerorpc") is None:
        return None
    import zerorpc

    class Streaming(Calculator):
        count = zerorpc.stream(Calculator.count)

    server = zerorpc.Server(Streaming())
    server.bind("inproc://calculator")
    running = gevent.spawn(server.run)
    client = zerorpc.Client("inproc://calculator")
    answers = [client.add(1, 2), list(client.count(3))]
    try:
        client.divide(1, 0)
    except zerorpc.RemoteError as error:
        answers.append(error.name)
    client.close()
    server.close()
    running.kill()
    return answers


def with_gmdp() -> list[Any]:
    """The answers of the new service, through a broker."""
    with (
        Broker("tcp://127.0.0.1:*") as broker,
        Worker(broker.endpoint, "calculator", Exposed(Calculator()), concurrency=100, reveal_errors=True),
        Client(broker.endpoint) as client,
    ):
        calculator = Remote(client, "calculator")
        answers: list[Any] = [calculator.add(1, 2), list(calculator.each.count(3))]
        try:
            calculator.divide(1, 0)
        except HandlerFailed as error:
            answers.append(error.type_name)
        return answers


def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)  # both log the handler that fails
    before, after = with_zerorpc(), with_gmdp()
    assert before is None or before == after
    print(*after, sep="\n")


if __name__ == "__main__":
    main()
