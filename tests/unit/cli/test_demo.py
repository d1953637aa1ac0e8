"""``gmdp demo``: the folders it refuses, and the parts of it that need no process."""

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusals import Refusal

from gmdp.cli.demo import FRAME, _find_files, _printable, _read, sha256

REFUSALS = [
    Refusal("demo of no folder", ["demo", "nowhere"], "nowhere is not a folder"),
    Refusal("demo of a file", ["demo", "handlers.py"], "handlers.py is not a folder"),
    Refusal("demo of an empty folder", ["demo", "empty"], "empty holds no file that can be read"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refusal_is_one_line(folder, refusal):
    refusal.check(folder)


def test_the_service_is_the_digest_of_all_frames():
    digest = sha256(SimpleNamespace(body=[b"one ", b"two"]))
    assert digest.decode() == hashlib.sha256(b"one two").hexdigest()


def test_regular_files_are_found_in_order_with_their_sizes(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, size in (("b", 2), ("a", 1), ("folder/c", 0)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    assert _find_files(tmp_path) == [(tmp_path / "a", 1), (tmp_path / "b", 2), (tmp_path / "folder" / "c", 0)]


def test_a_large_file_is_read_in_frames(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(FRAME + 1))
    assert _read(tmp_path / "empty").frames == [b""]
    item = _read(tmp_path / "large")
    assert [len(frame) for frame in item.frames] == [FRAME, 1]
    assert item.digest.decode() == hashlib.sha256(bytes(FRAME + 1)).hexdigest()


@pytest.mark.parametrize(
    ("name", "printable"),
    [("folder", "folder"), ("x" * 41, "..." + "x" * 37), (os.fsdecode(b"\xff"), "\\udcff")],
    ids=["short", "long", "no letters"],
)
def test_a_folder_is_shown_as_any_terminal_can(name, printable):
    assert _printable(Path(name)) == printable
