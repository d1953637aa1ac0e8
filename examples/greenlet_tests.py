"""Greenlet-based tests without pytest: each has a deadline and leaves nothing behind.

With pytest, the fixtures of gmdp_pytest do both.
"""

from collections.abc import Callable

import gevent

from gmdp import Broker, Client, Request, Worker
from gmdp.testing.deadline import deadline
from gmdp.testing.leaks import Leaked, no_leaks


def greet(request: Request) -> bytes:
    return b"hello " + request.body[0]


def greet_and_remember(request: Request) -> bytes:
    gevent.spawn(remember, request.body[0])  # no code waits for this greenlet: that is the bug
    return greet(request)


def remember(name: bytes) -> None:
    gevent.sleep(3600)


def check(handler: Callable[[Request], bytes]) -> None:
    """Test `handler`: it must be done in five seconds and leave nothing behind."""
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
        assert "in remember: gevent.sleep(3600)" in leak.what  # where the greenlet is, and where it was spawned
        print(f"greet_and_remember: left {leak.kind} behind")


if __name__ == "__main__":
    main()
