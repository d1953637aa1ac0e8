"""Services over HTTP: your own web app, with the gateway mounted in it."""

from gevent import monkey

monkey.patch_all()  # for http.client below; gmdp needs no patching

import json  # noqa: E402
from collections.abc import Generator, Iterable  # noqa: E402
from http.client import HTTPConnection  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

from gmdp import Broker, Client, Request, Worker  # noqa: E402
from gmdp.wsgi import Gateway  # noqa: E402


def countdown(request: Request) -> Generator[bytes, None, bytes]:
    for number in range(int(request.body[0]), 0, -1):
        yield b"%d" % number
    return b"lift-off"


class Site:
    """The web app: one client for all its greenlets, and below /api what the gateway exposes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._api = Gateway(client, services=["countdown", "report.*"], ready_services=["countdown"])

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        if path.startswith("/api/"):
            return self._api({**environ, "SCRIPT_NAME": "/api", "PATH_INFO": path[len("/api") :]}, start_response)
        [page] = self._client.request("shout", b"welcome", timeout=2.5)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [page]


def ask(connection: HTTPConnection, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def main() -> None:
    with (
        Broker("tcp://127.0.0.1:*") as broker,
        Worker(broker.endpoint, "shout", lambda request: request.body[0].upper()),
        Worker(broker.endpoint, "countdown", countdown),
        Client(broker.endpoint) as client,
        WSGIServer(("127.0.0.1", 0), Site(client), log=None) as server,
    ):
        server.start()
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        while ask(connection, "GET", "/api/readyz")[0] != 200:  # as a load balancer does
            gevent.sleep(0.01)
        print(ask(connection, "GET", "/"))
        print(ask(connection, "POST", "/api/services/countdown?stream=1", b"3"))
        print(ask(connection, "POST", "/api/services/countdown", b"1", Accept="text/event-stream"))
        for service in ("shout", "report.daily"):  # "shout" is not exposed, "report.daily" has no worker
            status, text = ask(connection, "POST", f"/api/services/{service}")
            print(status, json.loads(text)["error"])
        connection.close()


if __name__ == "__main__":
    main()
