"""What commands print: nothing that a terminal acts on, tables, and JSON."""

import contextlib
import json
import logging
import os
import pty

import pytest
from processes import Process, gmdp_here

from gmdp import Broker, Client, HandlerFailed, Worker
from gmdp.cli.printing import PrintableFormatter, print_json, print_table, printable

#: Clears the screen, and sets the terminal's title.
EVIL = "\x1b[2J\x1b]0;owned\x07"


def test_what_is_printable_stays():
    assert printable("größe ☃ 'x' \\x1b") == "größe ☃ 'x' \\x1b"
    assert printable(5) == "5"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202eevil", r"\u202eevil"),
        ("\udc80", r"\udc80"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_X4_what_is_not_printable_is_escaped(text, shown):
    assert printable(text) == shown


def test_X4_lines_of_a_log_are_printable():
    formatter = PrintableFormatter("%(levelname)s: %(message)s")
    record = logging.LogRecord("gmdp", logging.INFO, __file__, 1, "from %s", (f"{EVIL}\n\tnext",), None)
    assert formatter.format(record) == "INFO: from " + r"\x1b[2J\x1b]0;owned\x07" + "\n\tnext"


def test_without_a_terminal_a_table_has_columns_and_no_lines(capsys):
    print_table(("name", "count"), [("a", 5), ("longer", 1000)], text=("name",))
    assert capsys.readouterr().out == "name    count\na           5\nlonger   1000\n"


def test_a_table_without_rows_has_its_titles(capsys):
    print_table(("name", "count"), [])
    assert capsys.readouterr().out == "name  count\n"


def test_on_a_terminal_a_table_has_lines():
    parent, child = pty.openpty()
    pid = os.fork()
    if pid == 0:  # a process of its own, whose standard output is the terminal
        os.dup2(child, 1)
        os.environ.update(TERM="dumb", COLUMNS="80")
        with os.fdopen(1, "w") as terminal, contextlib.redirect_stdout(terminal):
            print_table(("name", "count"), [(f"[bold]{EVIL}", 5)], text=("name",))
        os._exit(0)
    os.close(child)
    shown = b""
    try:
        while data := os.read(parent, 65536):
            shown += data
    except OSError:
        pass  # the other end is closed
    os.close(parent)
    os.waitpid(pid, 0)
    assert "│" in shown.decode()
    assert rb"[bold]\x1b[2J" in shown
    assert b"\x1b[2J" not in shown


def test_json_is_one_line_in_ascii(capsys):
    print_json({"name": f"größe {EVIL}"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.count("\n") == 1
    assert "\x1b" not in printed
    assert json.loads(printed) == {"name": f"größe {EVIL}"}


@pytest.mark.parametrize("command", ["services", "workers", "statistics", "ping"])
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["people", "program"])
def test_X4_no_report_acts_on_the_terminal(broker, command, more):
    with Worker(broker.endpoint, EVIL, lambda request: b""), Client(broker.endpoint) as client:
        client.request(EVIL, b"")
        ended = gmdp_here(command, "--broker", broker.endpoint, *more)
    assert (ended.status, ended.err) == (0, b"")
    assert b"\x1b" not in ended.out
    if command in ("services", "workers"):
        assert rb"\x1b[2J" in ended.out or rb"\u001b[2J" in ended.out


def test_X4_no_error_acts_on_the_terminal():
    with Broker("tcp://127.0.0.1:*") as broker:

        def fail(request):
            raise ValueError(f"{EVIL}\n{EVIL}")

        with Worker(broker.endpoint, EVIL, fail, reveal_errors=True), Client(broker.endpoint) as client:
            with pytest.raises(HandlerFailed, match="owned"):
                client.request(EVIL, b"")
            ended = gmdp_here("call", EVIL, "x", "--broker", broker.endpoint)
    assert ended.status == 1
    assert "owned" in ended.one_line()
    assert b"\x1b" not in ended.err


def test_letters_that_an_output_does_not_have_are_escaped(broker):
    arguments = ("worker", "größe ☃", "--exec", "cat", "--broker", broker.endpoint)
    with Process(*arguments, PYTHONIOENCODING="ascii", PYTHONUTF8="0") as process:
        assert process.line() == rf"serving gr\xf6\xdfe \u2603 for {broker.endpoint}"


def test_a_table_without_standard_output_is_not_printed(monkeypatch, capfd):
    """Python has no standard output where its descriptor is closed."""
    monkeypatch.setattr("sys.stdout", None)
    print_table(("a", "b"), [("c", 1)])
    assert capfd.readouterr() == ("", "")
