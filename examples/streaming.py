"""An answer in parts, each of which goes out as soon as the handler makes it."""

from collections.abc import Generator

from gmdp import Broker, Client, Request, Worker


def countdown(request: Request) -> Generator[bytes, None, bytes]:
    """Each item is a PARTIAL, the return value the FINAL."""
    for number in range(int(request.body[0]), 0, -1):
        yield b"%d" % number
    return b"lift-off"


def main() -> None:
    with (
        Broker("tcp://127.0.0.1:*") as broker,
        Worker(broker.endpoint, "countdown", countdown),
        Client(broker.endpoint) as client,
    ):
        for part in client.stream("countdown", b"3", timeout=2.5):
            print(part[0].decode())


if __name__ == "__main__":
    main()
