"""The command line as a shell's user sees it: real processes, their output, their exit status."""

import json
import os
import re
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gevent
import peers
import pytest
from families import Family
from processes import HANDLERS, Gate, Process, Unreachable, environment, gmdp, only_line, outcomes
from refusals import Refusal
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, HandlerFailed, MDPError, Worker, __version__

ANYWHERE = "tcp://127.0.0.1:*"
TCP = re.compile(r"tcp://127\.0\.0\.1:[1-9]\d*")

#: A command for ``--exec``; the first word of its input says what it does.
COMMAND = """
import os, socket, sys

verb = os.read(0, 6)
if verb == b"exit 3":
    print("half a reply", flush=True)
    sys.exit(3)
if verb == b"signal":
    os.kill(os.getpid(), 15)
if verb == b"ignore":
    print("ignored")
    sys.exit()
rest = verb + sys.stdin.buffer.read()
if verb == b"gate  ":
    with socket.create_connection(("127.0.0.1", int(rest[6:]))) as connection:
        connection.recv(1)
    rest = b"done"
if verb != b"silent":
    sys.stdout.buffer.write(rest)
"""


# Fixtures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a blank in its name: handlers, a command, and files that commands read."""
    folder = tmp_path_factory.mktemp("command line")
    (folder / "handlers.py").write_text(HANDLERS)
    (folder / "command.py").write_text(COMMAND)
    return folder


@pytest.fixture(scope="module")
def broker_endpoint():
    with Process("broker", "--bind", ANYWHERE) as process:
        yield process.listening()[0]


@pytest.fixture(scope="module")
def worker_of_work(broker_endpoint, folder):
    """Four sessions for the service "work", see HANDLERS."""
    arguments = ("worker", "work", "handlers:work", "--broker", broker_endpoint, "--concurrency", "4")
    with Process(*arguments, cwd=folder) as process:
        assert process.line() == f"serving work for {broker_endpoint}"
        yield process


@pytest.fixture(scope="module")
def command_line(folder):
    """The value of --exec that runs COMMAND."""
    return shlex.join([sys.executable, "-I", "-S", str(folder / "command.py")])


@pytest.fixture(scope="module")
def worker_of_exec(broker_endpoint, command_line):
    with Process("worker", "exec", "--exec", command_line, "--broker", broker_endpoint) as process:
        process.line()
        yield process


@pytest.fixture
def client(broker_endpoint):
    with AsyncClient(broker_endpoint, timeout=30) as client:
        yield client


@pytest.fixture
def gate():
    with Gate() as gate:
        yield gate


@pytest.fixture(scope="module")
def unreachable():
    with Unreachable() as port:
        yield port.endpoint


def report(client, service):
    """The JSON of one of the broker's own services."""
    code, text = client.request(service, b"")
    assert code == b"200"
    return json.loads(text)


def assert_ended_by(ended, number):
    """Assert that a signal ended the process, as a shell sees it, and that it printed nothing."""
    assert ended.status in (128 + number, -number)
    assert (ended.out, ended.err.strip()) == (b"", b"")


def workers_of(client, service):
    """How many workers the broker knows for `service`."""
    found = json.loads(client.request("mmi.services", service.encode())[1])["services"]
    return found[0]["workers"] if found else 0


# Refusals; tests/unit/cli has more, in the tests' own process

FILES = {
    "name.toml": "heartbeat_intervall = 3\n",
    "service_value.toml": '[services."a.*"]\nattempts = "many"\n',
    "raises.py": "def half(:\n",
}

REFUSALS = [
    Refusal("port in use", ["broker", "--bind", "{busy}"], "cannot bind {busy}: Address already in use", 1),
    Refusal(
        "second port in use",
        ["broker", "--bind", ANYWHERE, "--bind", "{busy}"],
        "cannot bind {busy}: Address already in use",
        1,
    ),
    Refusal("foreign address", ["broker", "--bind", "tcp://192.0.2.1:5555"], "cannot bind tcp://192.0.2.1:5555: .+", 1),
    Refusal(
        "no such folder",
        ["broker", "--bind", "ipc:///no/such/folder"],
        "cannot bind ipc:///no/such/folder: No such .+",
        1,
    ),
    Refusal("unknown option", ["broker", "--liveliness", "3"], ".*[Nn]o such option.*--liveliness.*--liveness.*"),
    Refusal(
        "unknown key",
        ["broker", "--config", "name.toml"],
        "name.toml: unknown option 'heartbeat_intervall'; did you mean 'heartbeat_interval'.*",
    ),
    Refusal(
        "value of a key of a service",
        ["broker", "--config", "service_value.toml"],
        r"service_value.toml: services\['a.\*'\]: attempts must be a whole number.*, not 'many'",
    ),
    Refusal(
        "module is wrong", ["worker", "svc", "raises:work"], "cannot import raises: SyntaxError.*raises.py, line 1.*"
    ),
    Refusal("callable not there", ["worker", "svc", "handlers:worc"], "handlers has no worc"),
    Refusal(
        "command not there",
        ["worker", "svc", "--exec", "no-such-command -x"],
        "--exec: no such command: no-such-command",
    ),
    Refusal("unknown command", ["cal", "x"], ".*[Nn]o such command 'cal'.*"),
    Refusal("call in no time", ["call", "x", "x", "--timeout", "0"], "--timeout must be a number greater than 0, .*"),
    Refusal("demo of no folder", ["demo", "nowhere"], "nowhere is not a folder"),
    Refusal(
        "nobody answers a call",
        ["call", "x", "y", "--broker", "{nobody}", "--timeout", "0.5"],
        ".*no broker answered.*{nobody}.*refused.*",
        124,
    ),
    Refusal(
        "nobody answers services",
        ["services", "--broker", "{nobody}", "--timeout", "0.5"],
        ".*no broker answered.*{nobody}.*refused.*",
        124,
    ),
    Refusal(
        "nobody answers ping",
        ["ping", "--broker", "{nobody}", "--timeout", "0.5"],
        ".*no broker answered.*{nobody}.*refused.*",
        124,
    ),
    Refusal(
        "nobody answers ping of 0.1",
        ["ping", "--broker", "{nobody}", "--timeout", "0.5", "--mdp", "0.1"],
        ".*no broker answered.*{nobody}.*refused.*",
        124,
    ),
]


@pytest.fixture(scope="module")
def refused(folder, unreachable):
    """The command lines of REFUSALS, filled in, and how they ended; both by name."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        filled = {"busy": f"tcp://127.0.0.1:{busy.getsockname()[1]}", "nobody": unreachable}
        refusals = [refusal.filled(**filled) for refusal in REFUSALS]
        ends = outcomes([refusal.arguments for refusal in refusals], folder)
        return {refusal.name: (refusal, ended) for refusal, ended in zip(refusals, ends, strict=True)}


@pytest.mark.parametrize("name", [refusal.name for refusal in REFUSALS])
def test_what_is_refused_says_why_in_one_line(refused, name):
    refusal, ended = refused[name]
    refusal.assert_ended_so(ended)


def test_a_service_name_may_be_any_bytes(broker_endpoint, client):
    with Worker(broker_endpoint, b"\xff\xfe", lambda request: b"heard " + request.body[0]):
        ended = gmdp("call", b"\xff\xfe", "x", "--broker", broker_endpoint)
    assert ended == (0, b"heard x", b"")


# The program


def test_version(folder):
    [ended] = outcomes([["--version"]], folder)
    assert (ended.status, ended.err) == (0, b"")
    assert __version__ in ended.out.decode()


WITHOUT = """
import runpy, sys


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


package = sys.argv.pop(1)
sys.meta_path.insert(0, NotInstalled())
runpy.run_module("gmdp", run_name="__main__")
"""


@pytest.mark.parametrize(("package", "arguments"), [("click", []), ("rich", ["demo"])])
def test_without_the_extra_one_line_tells_what_to_install(package, arguments):
    with Process(package, *arguments, command=(sys.executable, "-c", WITHOUT)) as process:
        ended = process.ended()
    assert ended.status == 1
    assert "pip install 'gmdp[cli]'" in ended.one_line()


def test_the_installed_script_is_the_same_program():
    script = Path(sys.executable).with_name("gmdp")
    if not script.exists():
        pytest.skip("gmdp is not installed with its script")
    with Process("call", command=(str(script),)) as process:
        ended = process.ended()
    assert ended.status == 2
    assert "SERVICE" in ended.one_line()


# gmdp broker


def test_broker_prints_one_line_with_all_endpoints_and_takes_its_options(tmp_path):
    """The command line overrides the file; other values of the file hold, also those of services."""
    file = tmp_path / "broker.toml"
    file.write_text("""
        bind = "tcp://127.0.0.1:1"
        heartbeat_interval = 7.5
        max_frames = 50
        request_ttl = 600

        [services."short.*"]
        request_ttl = 0.01
    """)
    ipc = f"ipc://{os.path.relpath(tmp_path / 'socket')}"
    binds = ("--bind", ANYWHERE, "--bind", ANYWHERE, "--bind", ipc)
    with Process("broker", "--config", str(file), *binds, "--max-frames", "60") as process:
        endpoints = process.listening()
        assert len(endpoints) == 3
        assert TCP.fullmatch(endpoints[0])
        assert TCP.fullmatch(endpoints[1])
        assert endpoints[0] != endpoints[1]
        assert endpoints[2] == ipc
        for endpoint in endpoints:
            with Client(endpoint) as client:
                about = report(client, "mmi.broker")
                assert (about["heartbeat_interval"], about["max_frames"]) == (7.5, 60)
        with AsyncClient(endpoints[0]) as client:
            client.submit("long.1", b"")
            client.submit("short.1", b"")
            wait_until(lambda: report(client, "mmi.statistics")["ended"] == {"expired": 1})
            assert report(client, "mmi.statistics")["queued"] == 1
        process.signal(signal.SIGTERM)
        assert process.ended() == (0, b"", b"")


def test_broker_binds_where_the_file_says(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text('bind = ["tcp://127.0.0.1:*", "tcp://127.0.0.1:*"]\n')
    with Process("broker", "--config", file) as process:
        endpoints = process.listening()
        assert len(endpoints) == 2
        for endpoint in endpoints:
            with Client(endpoint) as client:
                assert report(client, "mmi.broker")["name"] == "gmdp"
        process.signal(signal.SIGINT)
        assert process.ended() == (0, b"", b"")


def test_broker_logs_to_standard_error_when_asked():
    with Process("broker", "--bind", ANYWHERE, "-vv") as process:
        endpoint = process.listening()[0]
        with Worker(endpoint, "logged", lambda request: b""), Client(endpoint) as client:
            wait_until(lambda: workers_of(client, "logged") == 1)
        process.signal(signal.SIGTERM)
        ended = process.ended()
    assert (ended.status, ended.out) == (0, b"")
    assert "gmdp.broker: registered 'logged'" in ended.err.decode()


@pytest.fixture
def held():
    """A broker process, and a worker of this process that works on a request until `held.go_on` is called."""
    with Process("broker", "--bind", ANYWHERE) as process:
        endpoint = process.listening()[0]
        running, go_on = gevent.event.Event(), gevent.event.Event()

        def handler(request):
            running.set()
            go_on.wait()
            return b"finished"

        worker = Worker(endpoint, "held", handler)
        with AsyncClient(endpoint, timeout=30) as client:
            worker.start()
            try:
                reply = client.submit("held", b"")
                assert running.wait(30)
                yield Held(process, client, reply, go_on.set)
            finally:
                worker.close()


class Held(NamedTuple):
    process: Process
    client: AsyncClient
    reply: gevent.event.AsyncResult
    go_on: Callable[[], None]

    def wait_until_draining(self):
        """Wait until the broker has heard the signal.  A gmdp client, once told, would ask a leaving broker no more."""
        wait_until(lambda: json.loads(peers.ask(self.client.endpoint, b"mmi.broker", b"")[0][1])["state"] == "draining")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_p5_broker_lets_a_running_request_end(held, number):
    """P5: the reply of a worker still gets through; the exit status is 0."""
    held.process.signal(number)
    held.wait_until_draining()
    assert not held.reply.ready()
    held.go_on()
    assert held.reply.get() == [b"finished"]
    assert held.process.ended() == (0, b"", b"")


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)],
    ids=["SIGINT second", "SIGTERM second"],
)
def test_p5_a_second_signal_ends_the_broker_at_once(held, first, second):
    """P5: however many requests are running."""
    held.process.signal(first)
    held.wait_until_draining()
    held.process.signal(second)
    assert_ended_by(held.process.ended(), second)
    assert not held.reply.ready() or held.reply.exception is not None


# gmdp worker


def test_worker_serves_a_callable_from_the_current_folder(worker_of_work, client):
    assert client.request("work", [b"a", b"", b"\x00\xff"]) == [b"a", b"", b"\x00\xff"]


def test_worker_serves_an_attribute_of_a_class_and_speaks_0_1(broker_endpoint, folder, client):
    arguments = ("worker", "method", "handlers:Holder.method", "--mdp", "0.1")
    with Process(*arguments, cwd=folder, GMDP_BROKER=broker_endpoint) as process:
        assert process.line() == f"serving method for {broker_endpoint}"
        assert client.request("method", b"") == [b"method"]
        [worker] = json.loads(client.request("mmi.workers", b"method")[1])["workers"]
        assert worker["protocol"] == "MDP/0.1 (gmdp)"
        process.signal(signal.SIGTERM)
        assert process.ended() == (0, b"", b"")


def test_W6_a_failing_callable_is_an_error_and_the_worker_lives_on(worker_of_work, client):
    with pytest.raises(HandlerFailed):
        client.request("work", [b"fail"])
    assert client.request("work", [b"after"]) == [b"after"]


def test_worker_concurrency(worker_of_work, client, gate):
    """As many requests as sessions are worked on at once."""
    port = gate.port.encode()
    replies = [client.submit("work", [b"gate", port]) for _ in range(4)]
    for _ in replies:
        gate.arrived()
    fifth = client.submit("work", [b"fifth"])
    wait_until(lambda: json.loads(client.request("mmi.services", b"work")[1])["services"][0]["queued"] == 1)
    assert not fifth.ready()
    gate.open()
    assert [reply.get() for reply in replies] == [[b"done"]] * 4
    assert fifth.get() == [b"fifth"]


@pytest.fixture
def worker_at_work(broker_endpoint, folder, client, gate):
    """A worker process with two sessions, one of which has a request that waits at the gate."""
    service = f"leaving.{gate.port}"
    arguments = ("worker", service, "handlers:work", "--concurrency", "2", "--broker", broker_endpoint)
    with Process(*arguments, cwd=folder) as process:
        process.line()
        wait_until(lambda: workers_of(client, service) == 2)
        reply = client.submit(service, [b"gate", gate.port.encode()])
        gate.arrived()
        yield process, reply, lambda: workers_of(client, service)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_p5_worker_finishes_its_request(worker_at_work, gate, number):
    """P5: the idle session leaves, the request is finished and answered, the exit status is 0."""
    process, reply, workers = worker_at_work
    process.signal(number)
    wait_until(lambda: workers() == 1)
    assert not reply.ready()
    gate.open()
    assert reply.get() == [b"done"]
    assert process.ended() == (0, b"", b"")


def test_p5_a_second_signal_ends_a_worker_at_once(worker_at_work):
    """P5: while its handler waits."""
    process, reply, workers = worker_at_work
    process.signal(signal.SIGINT)
    wait_until(lambda: workers() == 1)
    process.signal(signal.SIGTERM)
    assert_ended_by(process.ended(), signal.SIGTERM)
    assert not reply.ready()


def test_p5_a_second_signal_ends_a_worker_whose_handler_computes(broker_endpoint, folder, client, gate):
    """P5: the process hears signals even while a handler never lets the hub run."""
    with Process("worker", "computing", "handlers:work", "--broker", broker_endpoint, cwd=folder) as process:
        process.line()
        client.submit("computing", [b"compute", gate.port.encode()])
        gate.arrived()
        process.signal_until_ended(signal.SIGTERM, timeout=5)
        assert_ended_by(process.ended(), signal.SIGTERM)


def test_a_worker_without_a_broker_waits_for_one_and_ends_when_told(unreachable):
    with Process("worker", "svc", "--exec", "cat", "--broker", unreachable) as process:
        process.log(b"worker 'svc': no broker can be reached")
        process.signal(signal.SIGTERM)
        ended = process.ended()
    assert (ended.status, ended.out) == (0, b"")
    assert re.search(f"WARNING .* no broker can be reached \\({unreachable}: connection refused", only_line(ended.err))


def test_a_worker_says_that_it_serves_once_it_is_registered(unused_endpoint):
    with Process("worker", "svc", "--exec", "cat", "--broker", unused_endpoint) as process:
        process.log(b"no broker can be reached")
        assert process.out == b""
        with Broker(unused_endpoint) as broker:
            assert process.line() == f"serving svc for {unused_endpoint}"
            wait_until(lambda: broker.statistics().workers == 1)


def test_a_worker_and_a_broker_give_running_work_the_time_they_are_told(unused_endpoint, folder, gate):
    arguments = ("--broker", unused_endpoint, "--stop-timeout", "0.1")
    with Process("broker", "--bind", unused_endpoint, "--stop-timeout", "0.1") as broker:
        broker.listening()
        with Process("worker", "svc", "handlers:work", *arguments, cwd=folder) as worker:
            worker.line()
            with AsyncClient(unused_endpoint, timeout=30) as client:
                reply = client.submit("svc", [b"gate", gate.port.encode()])
                gate.arrived()
                broker.signal(signal.SIGTERM)
                assert broker.ended(timeout=8).status == 0
                worker.signal(signal.SIGTERM)
                assert worker.ended(timeout=8).status == 0
                assert isinstance(reply.exception, MDPError) or not reply.ready()


#: Runs the command and interrupts it while it imports the module sys.argv[1].
INTERRUPTED = """
import os, signal, sys

name = sys.argv.pop(1)


class Finder:
    def find_spec(self, fullname, path=None, target=None):
        if fullname == name:
            os.kill(os.getpid(), signal.SIGINT)


import gmdp_command
sys.meta_path.insert(0, Finder())
gmdp_command.main()
"""


@pytest.mark.parametrize("module", ["gmdp", "gmdp.cli.group", "gmdp.cli.services"])
def test_an_interrupt_while_it_starts_is_no_traceback(module):
    ended = gmdp(module, "ping", command=(sys.executable, "-c", INTERRUPTED))
    assert ended == (-signal.SIGINT, b"", b"")


def test_worker_takes_the_broker_that_answers(broker_endpoint, folder, unreachable, client):
    arguments = ("worker", "second", "handlers:work", "--broker", f"{unreachable}, {broker_endpoint}")
    with Process(*arguments, cwd=folder) as process:
        process.line()
        assert client.request("second", b"x") == [b"x"]


# gmdp worker --exec


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ([b"hello"], b"hello"),
        ([b"several", b" ", b"frames"], b"several frames"),
        ([bytes(range(256)) + b"\r\n\x00"], bytes(range(256)) + b"\r\n\x00"),
        ([b""], b""),
        ([b"silent"], b""),
        ([b"x" * 3_000_000], b"x" * 3_000_000),
        ([b"ignore" + b"x" * 3_000_000], b"ignored\n"),
    ],
    ids=["text", "frames", "binary", "empty", "silent", "large", "input not read"],
)
def test_exec_input_is_the_request_and_output_the_reply(worker_of_exec, client, body, reply):
    assert client.request("exec", body) == [reply]


@pytest.mark.parametrize("body", [b"exit 3", b"signal"], ids=["status", "signal"])
def test_W6_exec_that_fails_is_an_error_and_the_worker_lives_on(worker_of_exec, client, body):
    """The output of a command that fails is no reply."""
    with pytest.raises(HandlerFailed):
        client.request("exec", body)
    assert client.request("exec", b"after") == [b"after"]


def test_exec_survives_the_interrupt_of_a_terminal(broker_endpoint, command_line, client, gate):
    """P5: Ctrl-C goes to all processes of a terminal; the running command finishes all the same."""
    with Process("worker", "interrupted", "--exec", command_line, "--broker", broker_endpoint) as process:
        process.line()
        reply = client.submit("interrupted", b"gate  " + gate.port.encode())
        gate.arrived()
        process.signal_group(signal.SIGINT)
        gate.open()
        assert reply.get() == [b"done"]
        assert process.ended() == (0, b"", b"")


class End(NamedTuple):
    """How a worker, or one request of it, is brought to an end while a command runs."""

    #: Further options of the worker.
    options: list[str]
    #: The signals that the worker gets; without any, the caller cancels its call.
    signals: list[int]


ENDS = {
    "killed": End([], [signal.SIGKILL]),
    "stopped": End(["--stop-timeout", "0.1"], [signal.SIGTERM]),
    "two signals": End([], [signal.SIGTERM, signal.SIGINT]),
    "two signals to a pool": End(["--processes", "1"], [signal.SIGTERM, signal.SIGINT]),
    "cancelled": End(["--enforce-deadline"], []),
}


@pytest.mark.both_ends
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_X11_no_process_of_a_command_outlives_its_worker_or_its_call(broker_endpoint, client, tmp_path, end):
    arguments = ("worker", "family", "--broker", broker_endpoint, *end.options)
    with Family(tmp_path) as family, Process(*arguments, "--exec", family.command) as process:
        process.line()
        reply = client.submit("family", b"", retries=0)
        family.started()
        for number in end.signals:
            process.signal(number)
        if not end.signals:
            reply.cancel()
        family.ended()


# gmdp call


def test_call_sends_frames_and_prints_the_reply_raw(worker_of_work, broker_endpoint):
    """All frames, with nothing between or after them; any bytes; $GMDP_BROKER."""
    frames = ("frames", "a", "", b"\xff\xfe\n", "é ☃", "--", "--timeout")
    ended = gmdp("call", "--timeout", "20", "--", "work", *frames, GMDP_BROKER=broker_endpoint)
    assert ended == (0, b"6a\xff\xfe\n" + "é ☃".encode() + b"----timeout", b"")


def test_call_sends_standard_input_as_one_frame(worker_of_work, broker_endpoint):
    data = b"\x00\xff\r\n" + bytes(range(256)) * 5_000 + b"\n\n"
    assert gmdp("call", "work", "--broker", broker_endpoint, stdin=data) == (0, data, b"")


def test_call_sends_an_empty_standard_input_as_an_empty_frame(broker_endpoint):
    with Worker(broker_endpoint, "count", lambda request: repr(request.body).encode()):
        assert gmdp("call", "count", "--broker", broker_endpoint, stdin=b"") == (0, b"[b'']", b"")


def test_call_prints_a_part_as_soon_as_it_comes(worker_of_work, broker_endpoint, gate):
    with Process("call", "work", "parts", gate.port, "--broker", broker_endpoint) as process:
        assert process.read(5) == b"first"
        gate.arrived()
        assert process.out == b""
        gate.open()
        assert process.ended() == (0, b"secondthirdlast", b"")


def test_call_over_0_1_gets_the_parts_together_from_the_second_broker_named(
    worker_of_work, broker_endpoint, gate, unreachable
):
    arguments = ("call", "work", "parts", gate.port, "--mdp", "0.1", "--broker", f"{unreachable},{broker_endpoint}")
    with Process(*arguments, GMDP_BROKER="nonsense") as process:
        gate.arrived()
        assert process.out == b""
        gate.open()
        assert process.ended() == (0, b"firstsecondthirdlast", b"")


def test_call_of_a_handler_that_fails(worker_of_work, broker_endpoint):
    ended = gmdp("call", "work", "fail", "--broker", broker_endpoint)
    assert (ended.status, ended.out) == (1, b"")
    assert re.fullmatch(
        r"gmdp: handler failed: service 'work', after \d+\.\d+ s and 1 try, 1 delivery: the worker's log has.*",
        ended.one_line(),
    )


def test_a_worker_may_reveal_its_errors_and_they_are_one_line_all_the_same(broker_endpoint, folder):
    arguments = ("worker", "frank", "handlers:work", "--reveal-errors", "--broker", broker_endpoint)
    with Process(*arguments, cwd=folder) as process:
        process.line()
        ended = gmdp("call", "frank", "fail", "two\nlines", "--broker", broker_endpoint)
    assert ended.status == 1
    assert ended.one_line().endswith("and 1 try, 1 delivery: ValueError: internal")


def test_exec_may_be_stopped_when_its_caller_has_gone(broker_endpoint, folder, gate):
    """The command is killed with its handler, and the worker takes the next request."""
    command = shlex.join([sys.executable, "-I", "-S", str(folder / "command.py")])
    arguments = ("worker", "stopped", "--exec", command, "--enforce-deadline", "--broker", broker_endpoint)
    with Process(*arguments) as process:
        process.line()
        with Process("call", "stopped", f"gate  {gate.port}", "--broker", broker_endpoint, "--timeout", "0.5") as call:
            gate.arrived()
            assert call.ended().status == 124
        assert gmdp("call", "stopped", "next", "--broker", broker_endpoint).out == b"next"


@pytest.mark.parametrize("how", ["option", "file"])
def test_dead_letters_may_go_to_a_service(tmp_path, folder, how):
    (tmp_path / "broker.toml").write_text('dead_letter = "morgue"\nattempts = 1\n')
    options = ("--dead-letter", "morgue", "--attempts", "1") if how == "option" else ("--config", "broker.toml")
    with Process("broker", "--bind", ANYWHERE, *options, cwd=tmp_path) as broker:
        (endpoint,) = broker.listening()
        seen = []
        with AsyncClient(endpoint) as client, Worker(endpoint, "morgue", lambda r: seen.append(r.body) or b""):
            client.submit("it", b"body")
            with peers.dealer(endpoint) as worker:
                worker.send(b"MDPW02", b"\x01", b"it")
                worker.recv()
                worker.send(b"MDPW02", b"\x06")
                wait_until(lambda: seen)
        assert json.loads(seen[0][0])["reason"] == "attempts"
        assert seen[0][1:] == [b"body"]


def test_call_keeps_its_time_when_parts_have_come(worker_of_work, broker_endpoint, gate):
    """The timeout is for the call in all; the parts that came are printed."""
    arguments = ("call", "work", "parts", gate.port, "--broker", broker_endpoint, "--timeout", "2")
    with Process(*arguments) as process:
        assert process.read(5) == b"first"
        ended = process.ended()
    assert (ended.status, ended.out) == (124, b"")
    assert "timeout" in only_line(ended.err)


def test_call_whose_broker_is_lost_ends_with_1(gate):
    with Process("broker", "--bind", ANYWHERE) as broker:
        endpoint = broker.listening()[0]
        with Worker(endpoint, "held", lambda request: wait_at(gate)):
            with Process("call", "held", gate.port, "--broker", endpoint) as call:
                gate.arrived()
                broker.signal(signal.SIGKILL)
                ended = call.ended()
            gate.open()
    assert ended.status == 1
    assert re.fullmatch(rf"gmdp: broker lost: .*{endpoint}.*", ended.one_line())


def wait_at(gate):
    """Wait at a gate, in a handler of this process."""
    with gevent.socket.create_connection(("127.0.0.1", int(gate.port))) as connection:
        connection.recv(1)
    return b""


def test_a_worker_process_has_frozen_what_was_there_before_it_served(broker_endpoint, tmp_path):
    """The process's garbage collector does not look through all modules again and again."""
    (tmp_path / "frozen.py").write_text("import gc\ndef count(request): return b'%d' % gc.get_freeze_count()\n")
    with Process("worker", "frozen", "frozen:count", "--broker", broker_endpoint, cwd=tmp_path) as process:
        process.line()
        assert int(gmdp("call", "frozen", "", "--broker", broker_endpoint).out) > 10_000


def test_call_that_is_interrupted_says_nothing_and_ends_with_130(worker_of_work, broker_endpoint, gate):
    with Process("call", "work", "gate", gate.port, "--broker", broker_endpoint) as process:
        gate.arrived()
        process.signal(signal.SIGINT)
        ended = process.ended()
    assert_ended_by(ended, signal.SIGINT)


def test_call_whose_output_nobody_reads_ends_without_a_word(worker_of_work, broker_endpoint, gate):
    with Process("call", "work", "parts", gate.port, "--broker", broker_endpoint) as process:
        process.read(5)
        gate.arrived()
        process.close_output()
        gate.open()
        ended = process.ended()
    assert ended.status != 0
    assert ended.err == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_call_whose_output_is_full_says_so(worker_of_work, broker_endpoint):
    shell = ("sh", "-c", 'exec "$@" >/dev/full', "sh", sys.executable, "-m", "gmdp")
    ended = gmdp("call", "work", "x", "--broker", broker_endpoint, command=shell)
    assert ended.status == 1
    assert "No space left on device" in ended.one_line()


@pytest.mark.parametrize("redirect", ["<&-", ">&-"], ids=["input", "output"])
def test_call_without_standard_input_or_output_fails_in_one_line(worker_of_work, broker_endpoint, redirect):
    shell = ("sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-m", "gmdp")
    ended = gmdp("call", "work", "--broker", broker_endpoint, command=shell)
    assert ended.status == 1
    ended.one_line()


# gmdp services, gmdp ping


def test_services_lists_what_the_broker_knows(worker_of_work, broker_endpoint, client):
    client.request("work", b"x")
    ended = gmdp("services", "--broker", broker_endpoint)
    assert (ended.status, ended.err) == (0, b"")
    cells = {line[0]: line[1:] for line in table(ended.out) if line}
    assert cells["service"] == ["workers", "idle", "mute", "busy", "queued", "requests", "replies"]
    assert cells["work"][:5] == ["4", "4", "0", "0", "0"]
    assert int(cells["work"][5]) >= 1


def table(output):
    """The cells of each line of a table."""
    return [line.split() for line in output.decode().splitlines()]


PING = r"{}: {}; {} round trips: min \d+\.\d+, mean \d+\.\d+, max \d+\.\d+ ms"


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_ping_tells_what_answers_and_how_fast(broker_endpoint, unreachable, version):
    brokers = f"{unreachable},{broker_endpoint}"
    ended = gmdp("ping", "--broker", brokers, "--mdp", version, "--count", "3")
    assert (ended.status, ended.err) == (0, b"")
    what = rf"gmdp {re.escape(__version__)}, running, up \d+ s"
    line = only_line(ended.out)
    assert re.fullmatch(PING.format(broker_endpoint, what, 3), line)
    least, mean, most = map(float, re.findall(r"\d+\.\d+(?=,| ms)", line.partition("round trips")[2]))
    assert least <= mean <= most


def test_the_environment_names_the_broker(broker_endpoint, folder, unreachable):
    """$GMDP_BROKER is for each command that connects; --broker overrides the variable."""
    commands = [["ping", "--count", "1"], ["services"], ["ping", "--count", "1", "--broker", unreachable]]
    commands[2] += ["--timeout", "0.5"]
    pinged, listed, elsewhere = outcomes(commands, folder, GMDP_BROKER=broker_endpoint)
    assert pinged.out.decode().startswith(broker_endpoint + ": ")
    assert (pinged.status, listed.status) == (0, 0)
    assert elsewhere.status == 124
    assert unreachable in elsewhere.one_line()
    assert "GMDP_BROKER" not in environment()
