"""The command line, in processes that are read with a deadline and always ended, or in this process."""

import contextlib
import importlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from time import monotonic
from typing import Any, NamedTuple
from unittest import mock

import gevent.socket
from gevent.hub import Hub
from gevent.select import select

from gmdp.cli import main

#: Seconds after which an expected event is taken not to happen.
DEADLINE = 30.0

GMDP = (sys.executable, "-m", "gmdp")

#: Variables that would change what the commands do or print.
_UNWANTED = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def environment(**variables):
    """The environment of this process, without the variables that would change the outcome, and `variables`."""
    kept = {name: value for name, value in os.environ.items() if name not in _UNWANTED and not name.startswith("GMDP_")}
    return {**kept, **variables}


class Ended(NamedTuple):
    """The exit status and the output of a process."""

    status: int
    out: bytes
    err: bytes

    def one_line(self):
        """The one line on standard error, with nothing on standard output; AssertionError otherwise."""
        assert self.out == b"", self
        return only_line(self.err)


def only_line(text):
    """The only line of `text`, which must not be empty; AssertionError otherwise."""
    assert b"Traceback" not in text, text.decode(errors="replace")
    assert text.endswith(b"\n"), text
    assert text.count(b"\n") == 1, text.decode(errors="replace")
    line = text.decode().strip()
    assert line
    return line


class Process:
    """``python -m gmdp`` with `arguments` (or `command`), in a session of its own.

    Waiting lets other greenlets run.  At the end of a ``with``, the process and all processes it
    started are killed.
    """

    def __init__(self, *arguments, command=GMDP, stdin=b"", cwd=None, **variables):
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=environment(**variables),
                start_new_session=True,
                # A shell's background job ignores SIGINT.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        self.pid = self._process.pid
        self.out = bytearray()
        self.err = bytearray()
        self._buffers = {self._process.stdout.fileno(): self.out, self._process.stderr.fileno(): self.err}

    def _pump(self, until):
        """Read the output that there is, or wait for some until `until`; False if none came."""
        ready = select(list(self._buffers), [], [], max(0.0, until - monotonic()))[0]
        for descriptor in ready:
            data = os.read(descriptor, 65536)
            if data:
                self._buffers[descriptor] += data
            else:
                del self._buffers[descriptor]
        return bool(ready)

    def _until(self, condition, what, timeout):
        until = monotonic() + timeout
        while not condition():
            if not self._buffers:
                raise AssertionError(f"it ended without {what}: {self}")
            if not self._pump(until):
                raise AssertionError(f"no {what} within {timeout:g} s: {self}")

    def line(self, timeout=DEADLINE):
        """Wait for the next line of standard output; the line is removed from `out`."""
        self._until(lambda: b"\n" in self.out, "line on standard output", timeout)
        end = self.out.index(b"\n") + 1
        line = bytes(self.out[:end])
        del self.out[:end]
        return line.decode().rstrip("\n")

    def log(self, text, count=1, timeout=DEADLINE):
        """Wait until standard error has `text` `count` times; returns all of standard error so far."""
        self._until(lambda: self.err.count(text) >= count, f"{text!r} on standard error", timeout)
        return bytes(self.err)

    def listening(self):
        """Wait for a broker's "listening on" line; returns its endpoints."""
        words = self.line().split()
        assert words[:2] == ["listening", "on"], words
        return words[2:]

    def read(self, count, timeout=DEADLINE):
        """Wait for `count` bytes of standard output; they are removed from `out`."""
        self._until(lambda: len(self.out) >= count, f"{count} bytes", timeout)
        read = bytes(self.out[:count])
        del self.out[:count]
        return read

    def close_output(self):
        """Stop reading standard output."""
        del self._buffers[self._process.stdout.fileno()]
        self._process.stdout.close()

    def signal(self, number):
        """Send a signal to the process."""
        self._process.send_signal(number)

    def signal_group(self, number):
        """Send a signal to the process and to all it started, as a terminal does."""
        os.killpg(self.pid, number)

    def signal_until_ended(self, number, timeout):
        """Send a signal again and again until the process ends; AssertionError if it lives on."""
        until = monotonic() + timeout
        while self._process.poll() is None:
            assert monotonic() < until, f"it lives on: {self}"
            self.signal(number)
            if self._buffers:
                self._pump(monotonic() + 0.1)

    def ended(self, timeout=DEADLINE):
        """Wait until the process has ended, and all it started that hold its output; returns how it ended."""
        until = monotonic() + timeout
        while self._buffers:
            if not self._pump(until):
                raise AssertionError(f"it, or what it started, runs on after {timeout:g} s: {self}")
        status = self._process.wait(DEADLINE)
        return Ended(status, bytes(self.out), bytes(self.err))

    def __repr__(self):
        state = self._process.poll()
        err = self.err.decode(errors="replace")
        arguments: Any = self._process.args
        return f"<Process {arguments[3:]} status={state} out={bytes(self.out)!r} err={err}>"

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


def gmdp(*arguments, timeout=DEADLINE, **options):
    """Run ``python -m gmdp`` to its end; returns how it ended."""
    with Process(*arguments, **options) as process:
        return process.ended(timeout)


@contextlib.contextmanager
def _standard_streams(stdin):
    """Files in the place of the standard streams; the contents of output and errors come in a list afterwards."""
    printed = []
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        streams = [
            io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", write_through=True) for file in files
        ]
        before = sys.stdin, sys.stdout, sys.stderr
        sys.stdin, sys.stdout, sys.stderr = streams
        try:
            yield printed
        finally:
            sys.stdin, sys.stdout, sys.stderr = before
            for file in files[1:]:
                file.seek(0)
                printed.append(file.read())
            for stream in streams:
                stream.detach()


@contextlib.contextmanager
def _undone(cwd):
    """At the end of the block, undo the changes that a command makes in its process."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logger = logging.getLogger("gmdp.connections")
    not_error, handlers = Hub.NOT_ERROR, logger.handlers[:]
    argv, path, modules, folder = sys.argv, sys.path[:], set(sys.modules), os.getcwd()
    os.chdir(cwd or folder)
    importlib.invalidate_caches()
    configured = logging.NullHandler()  # so that a command leaves logging as it is
    logging.root.addHandler(configured)
    try:
        # A worker's command patches the standard library.
        with mock.patch("gevent.monkey.patch_all"):
            yield
    finally:
        logging.root.removeHandler(configured)
        os.chdir(folder)
        sys.argv, sys.path[:] = argv, path
        for name in set(sys.modules) - modules:
            if cwd and (getattr(sys.modules[name], "__file__", None) or "").startswith(f"{cwd}{os.sep}"):
                del sys.modules[name]
        Hub.NOT_ERROR, logger.handlers[:] = not_error, handlers
        for number, handler in signals.items():
            signal.signal(number, handler)


def gmdp_here(*arguments, stdin=b"", cwd=None, **variables):
    """Run the command line `arguments` in this process, which takes milliseconds; returns how it ended.

    For commands that end by themselves.  Their log goes where the tests' log goes, not to standard error.
    """
    with _undone(cwd), mock.patch.dict(os.environ, environment(**variables), clear=True):
        sys.argv = ["gmdp", *map(os.fsdecode, arguments)]
        with _standard_streams(stdin) as printed:
            try:
                main()
            except SystemExit as exit:
                status = exit.code
    return Ended(status, *printed)


# Starting an interpreter takes long.  One process loads the program, and forks a child for
# each of many command lines.
_MANY = """
import json, os, runpy, signal, sys, tempfile, traceback
import gevent.monkey, gevent.selectors, gevent.signal, gevent.ssl, gevent.threading
import gmdp.cli.group

for name in gmdp.cli.group.COMMANDS:
    gmdp.cli.group.import_command(name)
import gmdp.cli.targets

AT_ONCE = 8
running = []


def end_first():
    child, *files = running.pop(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read().decode("latin-1"))
    print(json.dumps([status, *texts]), flush=True)


for arguments in json.loads(sys.argv[1]):
    if len(running) == AT_ONCE:
        end_first()
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    child = os.fork()
    if not child:
        signal.alarm(30)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.argv = ["gmdp", *arguments]
        status = 1
        try:
            runpy.run_module("gmdp", run_name="__main__", alter_sys=True)
        except SystemExit as done:
            status = done.code if isinstance(done.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            # The clean-up of an interpreter would take longer than all the rest.
            sys.stdout.flush()
            os._exit(status)
    running.append((child, out, err))
while running:
    end_first()
"""


def outcomes(commands, cwd, **variables):
    """Run many command lines; returns how each ended.  One that does not end has a negative status."""
    arguments = (json.dumps(list(commands)),)
    with Process(*arguments, command=(sys.executable, "-c", _MANY), cwd=cwd, **variables) as process:
        done = process.ended(3 * DEADLINE)
    assert (done.status, done.err) == (0, b""), done
    lines = map(json.loads, done.out.splitlines())
    return [Ended(status, out.encode("latin-1"), err.encode("latin-1")) for status, out, err in lines]


class Gate:
    """A place where handlers in other processes wait until the test opens it.

    The handlers connect to :attr:`port` and read a byte: see ``wait`` of HANDLERS.
    """

    def __init__(self):
        self._listener = gevent.socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._listener.settimeout(DEADLINE)
        self.port = str(self._listener.getsockname()[1])
        self._waiting = []

    def arrived(self):
        """Wait until one more handler has arrived."""
        self._waiting.append(self._listener.accept()[0])

    def open(self):
        """Let all waiting handlers go on."""
        for connection in self._waiting:
            try:
                connection.sendall(b".")
            except OSError:
                pass
            connection.close()
        self._waiting.clear()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.open()
        self._listener.close()


#: A module of handlers; the request's first frame says what `work` does.
HANDLERS = """
import socket


def wait(port):
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        connection.recv(1)


def _parts(rest):
    yield b"first"
    wait(rest[0])
    yield [b"second", b"third"]
    return b"last"


def _computes(rest):
    with socket.create_connection(("127.0.0.1", int(rest[0]))):
        while True:
            pass


def work(request):
    verb, *rest = request.body
    if verb == b"gate":
        wait(rest[0])
        return b"done"
    if verb == b"parts":
        return _parts(rest)
    if verb == b"compute":
        return _computes(rest)
    if verb == b"fail":
        raise ValueError("internal")
    if verb == b"frames":
        return [str(len(rest)).encode(), *rest]
    return request.body


class Holder:
    @staticmethod
    def method(request):
        return b"method"


number = 5
"""


class Unreachable:
    """An endpoint that refuses connections: its port is bound, but no socket listens."""

    def __init__(self):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._socket.close()
