"""A broker and a worker beside a StreamServer.

Their supervisor knows only gevent's ``BaseServer``: start, stop, serve_forever.
"""

from typing import Any

import gevent
from gevent import socket
from gevent.server import StreamServer

from gmdp import Broker, Client, Request, State, Worker


class Supervisor:
    """A supervisor older than gmdp: it starts servers, waits for them, and stops them in reverse."""

    def __init__(self, *servers: Any) -> None:
        self.servers = servers
        self.running: list[gevent.Greenlet] = []

    def start(self) -> None:
        for server in self.servers:
            server.start()
            self.running.append(gevent.spawn(server.serve_forever))

    def stop(self) -> None:
        for server in reversed(self.servers):
            server.stop(timeout=5)
        gevent.joinall(self.running, raise_error=True)


def reverse(request: Request) -> list[bytes]:
    return [frame[::-1] for frame in request.body]


def main() -> None:
    endpoint = "inproc://supervised"
    client = Client(endpoint)

    def handle(connection: socket.socket, address: tuple[str, int]) -> None:
        """The old line protocol, served by the new service."""
        line = connection.makefile("rb").readline().strip()
        connection.sendall(client.request("reverse", line)[0])

    old_server = StreamServer(("127.0.0.1", 0), handle)
    broker = Broker(endpoint)
    changes = broker.subscribe()
    supervisor = Supervisor(broker, Worker(endpoint, "reverse", reverse), old_server)
    supervisor.start()
    with socket.create_connection(("127.0.0.1", old_server.server_port)) as connection:
        connection.sendall(b"stressed\n")
        print(connection.recv(100).decode())
    supervisor.stop()
    client.close()
    assert [changes.get().new for _ in range(4)][-1] is State.CLOSED
    print(broker)


if __name__ == "__main__":
    main()
