"""Two processes of gunicorn on gevent under load, while a worker, the broker and a process are killed."""

import http.client
import json
import os
import re
import signal
import sys
from collections import Counter

import gevent
import gevent.socket
import pytest
from gateways import needs_gunicorn
from processes import HANDLERS, Process
from waiting import wait_until

from gmdp import Client

needs_gunicorn()

#: The processes of a fixture of the module are replaced in the tests; so are the pipes from them.
pytestmark = [pytest.mark.both_ends, pytest.mark.gmdp_allow_leaks("descriptors")]

#: The statuses that are allowed while a worker and the broker are killed.
DOCUMENTED = {200, 429, 502, 503, 504}

#: Seconds a call may take in all, and further tries.
TIMEOUT, RETRIES = 4, 3
#: Seconds after which a connection hangs.
HANGS = 20
#: Connections at a time, each with one request at a time, and requests after which a connection is
#: closed and opened again: one process may get all connections at the beginning.
CONNECTIONS, KEPT_FOR = 24, 8

#: An application whose module makes a client; with --preload, it is made and used before the fork.
APPLICATION = f"""
import os

from gmdp import Client, MDPError, RequestTimeout

client = Client(os.environ["GMDP_BROKER"], timeout={TIMEOUT}, retries={RETRIES})
if os.environ.get("USED_BEFORE_THE_FORK"):
    assert client.request("work", b"before the fork") == [b"before the fork"]
made_in = os.getpid()


def application(environ, start_response):
    if environ["PATH_INFO"] == "/made":
        reply = b"%d %d" % (made_in, os.getpid())
    else:
        try:
            reply, = client.request("work", environ["wsgi.input"].read())
        except RequestTimeout as error:
            start_response("504 Gateway Timeout", [])
            return [str(error).encode()]
        except MDPError as error:
            start_response("503 Service Unavailable", [])
            return [repr(error).encode()]
    start_response("200 OK", [("Content-Length", str(len(reply))), ("X-Process", str(os.getpid()))])
    return [reply]
"""

GATEWAY = "gmdp.wsgi:gateway_from_environment()"


class Backend:
    """A broker and two workers, each in a process of its own."""

    def __init__(self, endpoint, folder):
        self.endpoint = endpoint
        self._folder = folder
        self._broker = None
        self._workers = []

    def start(self):
        """Start the processes that do not run."""
        if self._broker is None:
            self._broker = Process("broker", "--bind", self.endpoint)
            self._broker.listening()
        arguments = ("worker", "work", "handlers:work", "--broker", self.endpoint, "--concurrency", "16")
        new = [Process(*arguments, cwd=self._folder) for _ in range(2 - len(self._workers))]
        self._workers += new
        for worker in new:
            worker.line()
        with Client(self.endpoint, timeout=10) as client:
            wait_until(lambda: len(self._registered(client)) == 32)

    def _registered(self, client):
        return json.loads(client.request("mmi.workers", b"work")[1])["workers"]

    def kill_worker(self):
        self._workers.pop(0).__exit__()

    def replace_broker(self):
        """Kill the broker, and start another one on the same endpoint."""
        self._broker.__exit__()
        self._broker = Process("broker", "--bind", self.endpoint)
        self._broker.listening()

    def close(self):
        for process in (self._broker, *self._workers):
            if process is not None:
                process.__exit__()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gunicorn")
    (folder / "handlers.py").write_text(HANDLERS)
    (folder / "shared.py").write_text(APPLICATION)
    return folder


@pytest.fixture(scope="module")
def backend_of_module(folder, tmp_path_factory):
    backend = Backend(f"ipc://{tmp_path_factory.mktemp('broker')}/broker.sock", folder)
    try:
        yield backend
    finally:
        backend.close()


@pytest.fixture
def backend(backend_of_module):
    backend_of_module.start()
    return backend_of_module


class Gunicorn(Process):
    """gunicorn with two processes; ready when they serve."""

    def __init__(self, application, endpoint, folder, *options):
        command = (sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "--bind", "127.0.0.1:0")
        super().__init__(
            *(*options, application),
            command=command,
            cwd=folder,
            GMDP_BROKER=endpoint,
            GMDP_SERVICES="work",
            GMDP_TIMEOUT=str(TIMEOUT),
            GMDP_RETRIES=str(RETRIES),
            USED_BEFORE_THE_FORK="1" if "--preload" in options else "",
        )
        self.log(b"Booting worker with pid", count=2)
        self._first = int(re.search(rb"Booting worker with pid: (\d+)", self.err)[1])
        self.port = int(re.search(rb"Listening at: http://127\.0\.0\.1:(\d+)", self.err)[1])

    def kill_one(self):
        """Kill one of the two processes; gunicorn starts another."""
        os.kill(self._first, signal.SIGKILL)
        self.log(b"Booting worker with pid", count=3)

    def connection(self):
        """An HTTP connection on gevent's sockets."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANGS)
        connection._create_connection = gevent.socket.create_connection
        return connection


class Load:
    """Requests from many greenlets, each on a connection of its own that it keeps for a while."""

    def __init__(self, gunicorn, path):
        self._gunicorn = gunicorn
        self._path = path
        self._remaining = 0
        self.done = 0
        #: Whether connections may break off without an answer, and how many did.
        self.cuts_expected = False
        self.cut = 0
        self.statuses = Counter()
        #: The ids of the processes that answered, as far as they said.
        self.processes = set()
        self.wrong = []

    def start(self, count):
        """Begin `count` more requests, and return the greenlets that send them."""
        self._remaining += count
        return [gevent.spawn(self._requests) for _ in range(CONNECTIONS)]

    def _requests(self):
        connection = self._gunicorn.connection()
        try:
            while self._remaining:
                self._remaining -= 1
                body = b"body %d" % self._remaining
                try:
                    connection.request("POST", self._path, body)
                    answer = connection.getresponse()
                    received = answer.read()
                except Exception as error:
                    self.done += 1
                    # The rest of this connection is of no use.
                    connection.close()
                    if self.cuts_expected and isinstance(error, (ConnectionError, http.client.IncompleteRead)):
                        self.cut += 1
                        continue
                    self.wrong.append(f"{body!r}: {error!r}")
                    return
                self.done += 1
                self.statuses[answer.status] += 1
                self.processes.add(answer.getheader("X-Process"))
                if self._remaining % KEPT_FOR == 0:
                    connection.close()
                if answer.status not in DOCUMENTED or (answer.status == 200 and received != body):
                    self.wrong.append(f"{body!r}: {answer.status} {received[:200]!r}")
        finally:
            connection.close()


def play(gunicorn, backend, path, count):
    """Send `count` requests, and meanwhile kill a worker, the broker and a process of gunicorn.

    After that, each of the last hundred requests must be answered.  Returns the ids of the
    processes that answered.
    """
    load = Load(gunicorn, path)
    greenlets = load.start(count - 100)
    wait_until(lambda: load.done >= count // 4 or load.wrong)
    backend.kill_worker()
    wait_until(lambda: load.done >= count // 2 or load.wrong)
    backend.replace_broker()
    wait_until(lambda: load.done >= 3 * count // 4 or load.wrong)
    load.cuts_expected = True
    gunicorn.kill_one()
    gevent.joinall(greenlets, raise_error=True)
    assert load.wrong == []
    assert load.done == count - 100
    # Each connection to the killed process may break off once.
    assert load.cut <= CONNECTIONS
    assert load.statuses[200] >= count // 3, load.statuses

    backend.start()
    after = Load(gunicorn, path)
    gevent.joinall(after.start(100), raise_error=True)
    assert (after.wrong, after.statuses) == ([], {200: 100})
    return load.processes - {None}


FEW, MANY = 600, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.deadline(600)])
OPTIONS = pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])


@pytest.mark.parametrize("count", [FEW, MANY])
@OPTIONS
def test_the_gateway_survives_kills_behind_it(backend, folder, options, count):
    with Gunicorn(GATEWAY, backend.endpoint, folder, *options) as gunicorn:
        play(gunicorn, backend, "/services/work", count)
        assert b"Traceback" not in gunicorn.err, gunicorn.err.decode()


@pytest.mark.parametrize("count", [FEW, MANY])
@OPTIONS
def test_a_client_of_a_module_serves_both_processes(backend, folder, options, count):
    """With --preload, the parent makes and uses the client."""
    with Gunicorn("shared:application", backend.endpoint, folder, *options) as gunicorn:
        assert len(play(gunicorn, backend, "/", count)) > 1
        assert made_before_the_fork(gunicorn) is bool(options)
        if options:
            gunicorn.signal(signal.SIGTERM)
            assert gunicorn.ended().status == 0
        assert b"Traceback" not in gunicorn.err, gunicorn.err.decode()


def made_before_the_fork(gunicorn):
    """Whether the module's client was made in another process than the one that serves."""
    connection = gunicorn.connection()
    try:
        connection.request("GET", "/made")
        made_in, served_by = connection.getresponse().read().split()
    finally:
        connection.close()
    return made_in != served_by
