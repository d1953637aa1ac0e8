"""Row B4, hostile bytes: the inputs that fuzzing kept, fuzzing itself, and planted bugs that fuzzing must find."""

import importlib.util
import re
import subprocess
import sys

import fuzzing
import pytest
import seeds

from gmdp.core.broker import access, accounts, registry, replies, services
from gmdp.core.peer import client, worker
from gmdp.protocol import extension, token, wire
from gmdp.protocol.dialects import RFC18, Command, Dialect

KEPT = [(name, path) for name in fuzzing.TARGETS for path in fuzzing.corpus(name)]
#: Executions of each target in the slow set.
RUNS = 20_000


@pytest.mark.parametrize(("name", "path"), KEPT, ids=[f"{name}-{path.name}" for name, path in KEPT])
def test_B4_an_input_that_was_kept_does_no_harm(name, path):
    """B4: each input once reached much code, or a defect."""
    fuzzing.run_target(name, path.read_bytes())


def test_B4_few_and_small_inputs_are_kept_of_each_target():
    """B4"""
    assert {name for name, _ in KEPT} == set(fuzzing.TARGETS)
    assert 20 <= len(KEPT) <= 60
    assert all(path.stat().st_size < 2048 for _, path in KEPT)


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_B4_any_bytes_are_an_input(name):
    """B4: an empty input, and a few drawn by chance."""
    fuzzing.run_target(name, b"")
    fuzzing.by_chance(name, 50, seeds.FIRST)


@pytest.mark.slow
@pytest.mark.deadline(3600)
def test_B4_many_hostile_bytes_led_by_what_they_reach():
    """B4: under atheris, if it is installed; else by chance."""
    if importlib.util.find_spec("atheris") is None:
        for name in fuzzing.TARGETS:
            fuzzing.by_chance(name, RUNS, seeds.FIRST)
        return
    command = [sys.executable, fuzzing.__file__, "all", "--runs", str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    executions = dict(re.findall(r"^(\w+): ([\d,]+) executions", done.stdout, re.M))
    assert executions.keys() == {*fuzzing.TARGETS, "all"}
    assert all(int(number.replace(",", "")) >= RUNS for number in executions.values())


# Planted bugs

_read_fields = extension._read_fields
_is_call = extension.is_call
_parse, _release = wire.parse, accounts.Accounts.release
_lost, _forget = registry.Registry._count_lost, replies.Replies.forget_routing_id
_on_message, _detach = worker.WorkerCore._on_message, client.ClientCore._detach


def _parse_and_lose_a_frame(frames):
    message = _parse(frames)
    return message if message is None or len(message.body) < 2 else message._replace(body=message.body[:-1])


def _release_and_keep_the_bytes(self, request):
    self._state.held_bytes += 0 if request.client is None else 1
    _release(self, request)


def _lost_but_counted(self, lost, *rest):
    _lost(self, lost, *rest)
    self.count += 1 if len(lost) > 2 else 0


def _on_message_without_a_look(self, connection, frames, now, jitter):
    if frames[-1] == b"\x06":
        raise ValueError("no such command")
    _on_message(self, connection, frames, now, jitter)


def _detach_but_not_idle(self, call):
    connection = call.connection
    _detach(self, call)
    if connection in self._idle:
        self._idle.remove(connection)


def _forget_but_not_what_waits(self, routing_id, *rest):
    outbox = self._state.outbox[:]
    _forget(self, routing_id, *rest)
    self._state.outbox[:] = outbox


def _mark_any_bytes_failed(address):
    return address[:21] + b"\x01" + address[22:]


def _is_some_call(frame):
    return any(_is_call(frame[: len(frame) - more]) for more in range(9))


def _read_fields_to_the_end(frame, at):
    return _read_fields(frame + b"\0" * 8, at)


#: Per bug: the target that finds it, the object and the name of what is replaced, and the replacement.
PLANTED = {
    "a frame is lost in reading": ("wire", wire, "parse", _parse_and_lose_a_frame),
    "a call frame of version 1 has no traceparent": ("wire", wire, "CALL_SIZES_1", frozenset({37})),
    "DISCONNECT is no command": ("envelope", RFC18, "spoken_by_workers", {b"\x01": Command.READY}),
    "an address of any length": ("envelope", wire, "MAX_ADDRESS", 1000),
    "a return address of nine frames": ("envelope", wire, "MAX_STACK", 9),
    "a traceparent of zeros": ("extension", extension, "_TRACEPARENT", re.compile(rb"[0-9a-f-]{55}\Z")),
    "a call frame may be longer than it says": ("extension", extension, "is_call", _is_some_call),
    "an optional field may be cut short": ("extension", extension, "_read_fields", _read_fields_to_the_end),
    "a token of a few bytes": ("extension", token, "mark_failed", _mark_any_bytes_failed),
    "released bytes stay on the account": (
        "broker",
        accounts.Accounts,
        "release",
        _release_and_keep_the_bytes,
    ),
    "lost workers still count": ("broker", registry.Registry, "_count_lost", _lost_but_counted),
    "all tokens are one": ("broker", token, "prefix", lambda begin, number: begin + bytes(8)),
    "every user may do everything": ("broker", access.Access, "allows", lambda self, *asked: True),
    "messages that wait for one user go to the next": (
        "broker",
        replies.Replies,
        "forget_routing_id",
        _forget_but_not_what_waits,
    ),
    "unused services stay": ("broker", services.Services, "forget_if_unused", lambda self, service: None),
    "a broker's DISCONNECT ends its worker": ("worker", worker.WorkerCore, "_on_message", _on_message_without_a_look),
    "a worker's sessions never register again": (
        "worker",
        worker.WorkerCore,
        "_assign_waiting",
        lambda self, now: None,
    ),
    "a free connection is forgotten": ("client", client.ClientCore, "_detach", _detach_but_not_idle),
    "a call is not told of its client's end": ("client", client.ClientCore, "close", lambda self, now: None),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_B4_a_planted_bug_is_noticed(monkeypatch, bug):
    """B4: one of the kept inputs, or one drawn by chance, finds it."""
    name, where, what, wrong = PLANTED[bug]
    if isinstance(where, Dialect):
        monkeypatch.setitem(where.__dict__, what, wrong)
    else:
        monkeypatch.setattr(where, what, wrong)
    with pytest.raises(Exception):  # noqa: B017
        look_for_bugs(name)


def look_for_bugs(name):
    for path in fuzzing.corpus(name):
        fuzzing.run_target(name, path.read_bytes())
    fuzzing.by_chance(name, 2000)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["all", "--runs", "many"]])
def test_B4_it_is_a_command(arguments):
    """B4: its help names the targets."""
    done = subprocess.run([sys.executable, fuzzing.__file__, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    assert ",".join([*fuzzing.TARGETS, "all"]) in done.stdout + done.stderr
