"""Greenlet-based tests without pytest: a deadline, and nothing left behind.  (With
pytest, the fixtures of gmdp_pytest see to both.)"""

from collections.abc import Callable

import gevent

from gmdp import Broker, Client, Request, Worker
from gmdp.testing.deadline import deadline
from gmdp.testing.leaks import Leaked, no_leaks


def greet(request: Request) -> bytes:
    return b"hello " + request.body[0]


def greet_and_remember(request: Request) -> bytes:
    gevent.spawn(remember, request.body[0])  # nobody waits for it: this is the bug
    return greet(request)


def remember(name: bytes) -> None:
    gevent.sleep(3600)


def check(handler: Callable[[Request], bytes]) -> None:
    """A test of `handler`, which has to leave nothing, and to be done in five seconds."""
    with deadline(5), no_leaks(patience=0.2), Broker("inproc://greetings") as broker:
        with Worker(broker.endpoint, "greet", handler), Client(broker.endpoint) as client:
            assert client.request("greet", b"Ada") == [b"hello Ada"]


def main() -> None:
    check(greet)
    print("greet: passed")
    try:
        check(greet_and_remember)
    except Leaked as error:
        (leak,) = error.leaks
        assert "in remember: gevent.sleep(3600)" in leak.what  # where it is, and where it was spawned
        print(f"greet_and_remember: left {leak.kind} behind")


if __name__ == "__main__":
    main()
