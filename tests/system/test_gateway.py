"""``gmdp gateway`` in processes of its own: signals, reloading, what the arbiter holds, latency."""

import http.client
import os
import re
import signal
import socket
import sys
from pathlib import Path
from time import perf_counter

import gevent.socket
import pytest
from gateways import HeldHandler, client, connect, exchange, gateway, needs_gunicorn, stack
from processes import Process, gmdp
from waiting import wait_until

from gmdp import Worker

__all__ = ["client", "connect", "gateway", "stack"]

needs_gunicorn()

pytestmark = pytest.mark.both_ends


class Gateway(Process):
    """``gmdp gateway`` on any port; ready when it listens."""

    def __init__(self, stack, *options, **more):
        arguments = ("gateway", "--bind", "127.0.0.1:0", "--service", "wor*", "--broker", stack.endpoint)
        super().__init__(*arguments, *options, **more)
        self.port = int(re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)", self.line())[1])

    def children(self):
        """The ids of its worker processes."""
        return set(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())


@pytest.fixture
def command(stack):
    with Gateway(stack, "--ready-service", "work", "--max-body", "99", "-v") as process:
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


def test_what_strangers_do_is_no_warning(stack, connect):
    with Gateway(stack) as process:
        for request in (b"nonsense\r\n\r\n", b"GET /healthz HTTP/1.1\r\n : x\r\n\r\n"):
            with gevent.socket.create_connection(("127.0.0.1", process.port)) as connection:
                connection.sendall(request)
                assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
        process.signal(signal.SIGTERM)
        assert process.ended(timeout=8).err == b""


def test_SIGUSR2_starts_no_second_arbiter(command, connect):
    command.signal(signal.SIGUSR2)
    command.log(b"SIGUSR2 is ignored")
    assert exchange(connect(command.port), "GET", "/healthz")[0] == 200


def test_more_connections_than_descriptors_wait(stack, connect):
    program = (sys.executable, "-m", "gmdp")
    command = ("sh", "-c", 'ulimit -n 60; exec "$@"', "sh", *program)
    with Gateway(stack, command=command) as process:
        served = connect(process.port)
        assert exchange(served, "GET", "/healthz")[0] == 200
        # The system keeps as many connections until they are accepted.
        crowd = [gevent.socket.create_connection(("127.0.0.1", process.port)) for _ in range(100)]
        assert exchange(served, "POST", "/services/work", b"hello") == (200, b"hello")
        (worker,) = process.children()
        assert len(os.listdir(f"/proc/{worker}/fd")) < 50
        for connection in (served, *crowd):
            connection.close()
        assert exchange(connect(process.port), "POST", "/services/work", b"hello") == (200, b"hello")
        process.signal(signal.SIGTERM)
        assert process.ended(timeout=8).err == b""


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


def is_refused(port):
    """Whether nobody listens on a port."""
    try:
        gevent.socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("send", [Process.signal, Process.signal_group], ids=["process", "terminal"])
def test_a_signal_lets_running_requests_end(command, slow, send):
    send(command, signal.SIGINT)
    wait_until(lambda: is_refused(command.port))
    slow.go.set()
    answer = slow.connection.getresponse()
    assert (answer.status, answer.read(), answer.getheader("Connection")) == (200, b"done", "close")
    assert command.ended(timeout=8).status == 0


def test_a_second_signal_ends_it_at_once(command, slow):
    command.signal(signal.SIGTERM)
    command.signal_until_ended(signal.SIGTERM, timeout=5)
    assert command.ended().status in (128 + signal.SIGTERM, -signal.SIGTERM)


def test_requests_that_run_for_too_long_do_not_delay_the_end(stack, client, connect):
    handler = HeldHandler()
    with Gateway(stack, "--stop-timeout", "0.2") as process, Worker(stack.endpoint, "works", handler):
        wait_until(lambda: client.request("mmi.service", b"works") == [b"200"])
        connection = connect(process.port)
        connection.request("POST", "/services/works", b"")
        assert handler.arrived.wait(timeout=30)
        process.signal(signal.SIGTERM)
        ended = process.ended(timeout=8)
        assert (ended.status, ended.err) == (0, b"")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            connection.getresponse()
        handler.go.set()


def test_SIGHUP_replaces_the_processes_and_loses_no_request(command, slow, connect):
    wait_until(command.children)
    (before,) = command.children()
    command.signal(signal.SIGHUP)
    wait_until(lambda: command.children() - {before})
    assert exchange(connect(command.port), "POST", "/services/work", b"hello") == (200, b"hello")
    slow.go.set()
    answer = slow.connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"done")
    wait_until(lambda: before not in command.children())
    assert exchange(connect(command.port), "POST", "/services/work", b"hello") == (200, b"hello")
    command.signal(signal.SIGTERM)
    ended = command.ended(timeout=8)
    assert ended.status == 0
    assert b"Traceback" not in ended.err, ended.err.decode()


def test_a_password_that_cannot_be_read_again_stops_nothing(stack, connect, tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\n")
    with Gateway(stack, "--username", "u", "--password-file", str(file)) as process:
        connection = connect(process.port)
        assert exchange(connection, "GET", "/healthz")[0] == 200
        (before,) = process.children()
        file.unlink()
        process.signal(signal.SIGHUP)
        process.log(b"reload given up: cannot read ")
        # A process that replaces a killed one reads the file, too; it ends, and the arbiter tries again.
        assert exchange(connection, "GET", "/healthz")[0] == 200
        os.kill(int(before), signal.SIGKILL)
        process.log(b"a process cannot begin to serve: cannot read ")
        file.write_text("secret\n")
        assert exchange(connect(process.port), "GET", "/healthz")[0] == 200
        process.signal(signal.SIGTERM)
        ended = process.ended(timeout=8)
    assert ended.status == 0
    assert b"Traceback" not in ended.err


def test_SIGHUP_to_a_process_that_serves_does_not_kill_it(command, connect):
    """A terminal that closes sends it to all processes."""
    connection = connect(command.port)
    assert exchange(connection, "GET", "/healthz")[0] == 200
    (worker,) = command.children()
    os.kill(int(worker), signal.SIGHUP)
    assert exchange(connection, "GET", "/healthz")[0] == 200
    assert command.children() == {worker}


def test_a_killed_process_is_replaced(stack, connect):
    with Gateway(stack, "--workers", "2") as process:
        wait_until(lambda: len(process.children()) == 2)
        before = process.children()
        os.kill(int(min(before)), signal.SIGKILL)
        wait_until(lambda: len(process.children()) == 2 and process.children() != before)
        assert exchange(connect(process.port), "POST", "/services/work", b"hello") == (200, b"hello")


def test_the_arbiter_has_neither_a_hub_nor_threads(command, connect):
    assert exchange(connect(command.port), "POST", "/services/work", b"hello") == (200, b"hello")
    assert len(os.listdir(f"/proc/{command.pid}/task")) == 1
    folder = f"/proc/{command.pid}/fd"
    files = {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
    assert not any("eventpoll" in file or "eventfd" in file for file in files), files


def test_the_processes_end_with_the_arbiter(command):
    wait_until(command.children)
    (worker,) = command.children()
    command.signal(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{worker}").exists() or is_refused(command.port))


def test_accesses_are_logged_to_a_file(stack, connect, tmp_path):
    file = tmp_path / "access"
    with Gateway(stack, "--access-log", str(file)) as process:
        assert exchange(connect(process.port), "POST", "/services/work", b"hello") == (200, b"hello")
        wait_until(lambda: b'"POST /services/work HTTP/1.1" 200 5' in file.read_bytes())
        process.signal(signal.SIGTERM)
        assert process.ended().err == b""


def test_an_address_that_is_taken_is_told_in_one_line_and_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = gmdp("gateway", "--service", "x", "--bind", busy, timeout=4)
    assert ended.one_line() == f"gmdp: cannot bind {busy}: Address already in use"
    assert ended.status == 1
    ended = gmdp("gateway", "--service", "x", "--bind", "no.such.host.invalid:1")
    assert re.fullmatch(r"gmdp: cannot bind no\.such\.host\.invalid:1: .+", ended.one_line())


def test_variables_for_gunicorn_change_nothing(stack, connect):
    with Gateway(stack, WEB_CONCURRENCY="", SCRIPT_NAME="/app") as process:
        assert exchange(connect(process.port), "GET", "/healthz") == (200, b"ok\n")


def test_F12_a_kept_connection_is_answered_at_once(command, connect):
    """Two writes of an answer used to wait 40 ms for each other."""
    connection = connect(command.port)
    exchange(connection, "POST", "/services/work", b"hello")
    times = []
    for _ in range(30):
        began = perf_counter()
        assert exchange(connection, "POST", "/services/work", b"hello") == (200, b"hello")
        times.append(perf_counter() - began)
    assert min(times) < 0.02, times
