"""A broker, a worker and a client in one process."""

from gmdp import Broker, Client, Request, Worker


def shout(request: Request) -> list[bytes]:
    return [frame.upper() for frame in request.body]


def main() -> None:
    with (
        Broker("tcp://127.0.0.1:*") as broker,
        Worker(broker.endpoint, "shout", shout),
        Client(broker.endpoint, timeout=2.5) as client,
    ):
        print(client.request("shout", b"hello"))


if __name__ == "__main__":
    main()
