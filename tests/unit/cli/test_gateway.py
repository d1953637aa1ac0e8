"""The command ``gmdp gateway``: its options, its signals, its refusals."""

import http.client
import os
import re
import signal
import socket
import sys

import gevent.socket
import pytest
from gateways import HeldHandler, exchange
from processes import Process, outcomes
from waiting import wait_until

import gmdp.cli.gateway
from gmdp import Worker


def test_the_command_passes_its_options_on(monkeypatch):
    served = []
    monkeypatch.setattr(gmdp.cli.gateway, "serve", lambda server, *more: served.append(server))
    options = ["--service", "a", "--service", "b", "--timeout", "7.5", "--retries", "3", "--max-body", "5"]
    options += ["--when-no-worker", "wait", "--ready-service", "r", "--broker", "tcp://127.0.0.1:1"]
    gmdp.cli.gateway.gateway.main(options, standalone_mode=False)
    [server] = served
    application = server.application
    assert (application.services, application.ready_services) == (("a", "b"), (b"r",))
    assert (application.timeout, application.max_body, application.when_no_worker) == (7.5, 5, "wait")
    client = application.client
    assert (client.endpoints, client.timeout, client.retries) == (("tcp://127.0.0.1:1",), 7.5, 3)
    assert server.stop_timeout == 10
    assert f"({server.stop_timeout:g} seconds)" in gmdp.cli.gateway.gateway.help


def test_more_connections_than_descriptors_wait(stack, connect):
    program = (sys.executable, "-m", "gmdp")
    command = ("sh", "-c", 'ulimit -n 60; exec "$@"', "sh", *program)
    arguments = ("gateway", "--bind", "127.0.0.1:0", "--service", "work", "--broker", stack.endpoint)
    with Process(*arguments, command=command) as process:
        port = int(process.line().rpartition(":")[2])
        served = connect(port)
        assert exchange(served, "GET", "/healthz")[0] == 200
        # The system keeps as many connections until they are accepted.
        crowd = [gevent.socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        assert exchange(served, "POST", "/services/work", b"hello") == (200, b"hello")
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 50
        for connection in (served, *crowd):
            connection.close()
        assert exchange(connect(port), "POST", "/services/work", b"hello") == (200, b"hello")
        process.signal(signal.SIGTERM)
        assert process.ended(timeout=8).err == b""


@pytest.fixture
def command(stack):
    """``gmdp gateway`` in a process of its own, and its port."""
    arguments = ("gateway", "--bind", "127.0.0.1:0", "--service", "wor*", "--ready-service", "work", "--max-body", "99")
    with Process(*arguments, "--broker", stack.endpoint, "-v") as process:
        url = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)", process.line())
        process.port = int(url[1])
        yield process


def test_the_command_serves_and_ends_with_idle_connections(command, connect):
    connection = connect(command.port)
    assert exchange(connection, "GET", "/readyz")[0] == 200
    assert exchange(connection, "POST", "/services/work", b"hello") == (200, b"hello")
    assert exchange(connection, "POST", "/services/other")[0] == 404
    assert exchange(connection, "POST", "/services/work", b"x" * 100)[0] == 413
    assert exchange(connection, "POST", "/services/work", b"half", {"Accept": "text/event-stream"})[0] == 200
    with pytest.raises(http.client.IncompleteRead):
        exchange(connection, "POST", "/services/work?stream=1", b"half")
    connection.close()
    assert exchange(connection, "GET", "/healthz")[0] == 200
    command.signal(signal.SIGTERM)
    # The idle connection does not delay the end.
    ended = command.ended(timeout=8)
    assert (ended.status, ended.out) == (0, b"")
    assert b'"POST /services/work HTTP/1.1" 200' in ended.err
    assert b"Traceback" not in ended.err, ended.err.decode()


@pytest.fixture
def slow(stack, client, command, connect):
    """A held worker for "works", and a connection whose request it has."""
    handler = HeldHandler()
    with Worker(stack.endpoint, "works", handler):
        wait_until(lambda: client.request("mmi.service", b"works") == [b"200"])
        handler.connection = connect(command.port)
        handler.connection.request("POST", "/services/works", b"")
        assert handler.arrived.wait(timeout=30)
        yield handler
        handler.go.set()


def test_a_signal_lets_running_requests_end(command, slow):
    command.signal(signal.SIGINT)

    def refused():
        try:
            gevent.socket.create_connection(("127.0.0.1", command.port)).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(refused)
    slow.go.set()
    answer = slow.connection.getresponse()
    assert (answer.status, answer.read(), answer.getheader("Connection")) == (200, b"done", "close")
    assert command.ended(timeout=8).status == 0


def test_a_second_signal_ends_it_at_once(command, slow):
    command.signal(signal.SIGTERM)
    command.signal_until_ended(signal.SIGTERM, timeout=5)
    assert command.ended().status in (128 + signal.SIGTERM, -signal.SIGTERM)


REFUSALS = [
    (["--bind", "127.0.0.1"], "bad address '127.0.0.1': it must look like HOST:PORT", 2),
    (["--bind", ":8080"], "bad address ':8080': it must look like HOST:PORT", 2),
    (["--bind", "[::1:80"], r"bad address '\[::1:80': .*", 2),
    (["--bind", "localhost:65536"], "bad address 'localhost:65536': .*", 2),
    (["--bind", "{busy}"], "cannot bind {busy}: Address already in use", 1),
    (["--bind", "no.such.host.invalid:1"], r"cannot bind no\.such\.host\.invalid:1: .+", 1),
    (["--broker", "localhost"], "bad endpoint 'localhost': .*", 2),
    (["--timeout", "0"], "timeout must be a number greater than 0, not 0.*", 2),
    (["--max-body", "-1"], "max_body must be a whole number of at least 0, not -1.*", 2),
    (["--retries", "x"], ".*--retries.*'x' is not a valid integer.*", 2),
    (["--when-no-worker", "never"], ".*--when-no-worker.*never.*", 2),
    (["--ready-service", ""], "ready_services must be names, not ''", 2),
    (["--service", ""], "services must be names, not ''", 2),
    (["--server-key", "nowhere.key"], r"server_key: cannot read nowhere\.key: .*", 2),
    (["--username", "me"], "--username needs --password-file.*", 2),
    (["--servce", "x"], ".*[Nn]o such option.*--servce.*", 2),
]


def test_a_refusal_gives_its_reason_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        commands = [["gateway"]]
        for arguments, _, _ in REFUSALS:
            commands.append(["gateway", "--service", "x", *(argument.format(busy=busy) for argument in arguments)])
        without_services, *refused = outcomes(commands, tmp_path)
    assert "--service" in without_services.one_line()
    assert without_services.status == 2
    for outcome, (arguments, pattern, status) in zip(refused, REFUSALS, strict=True):
        program, _, message = outcome.one_line().partition(": ")
        assert program.split()[0] == "gmdp"
        assert re.fullmatch(pattern.format(busy=busy), message), (arguments, message)
        assert outcome.status == status
