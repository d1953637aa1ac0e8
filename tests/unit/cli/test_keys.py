"""``gmdp keygen`` and ``gmdp passwd``."""

import stat
import sys

import pytest
from processes import gmdp_here

from gmdp import MDPError
from gmdp.cli.keys import passwd
from gmdp.security.keys import public_key, secret_key
from gmdp.security.lists import UserFile


def test_keygen_writes_a_pair_into_a_folder(tmp_path):
    ended = gmdp_here("keygen", "me", "--folder", str(tmp_path))
    public, secret = tmp_path / "me.key", tmp_path / "me.key_secret"
    assert (ended.status, ended.err) == (0, b"")
    assert str(public) in ended.out.decode()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert public_key("k", public) == secret_key("k", secret)[0]


def test_passwd_takes_the_first_line_of_standard_input(tmp_path):
    file = tmp_path / "users"
    assert gmdp_here("passwd", str(file), "bob", stdin=b"secret\r\nmore\n") == (0, b"", b"")
    assert UserFile(file).hashes["bob"].matches("secret")


def test_passwd_asks_a_terminal(tmp_path, monkeypatch):
    file = tmp_path / "users"
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("click.prompt", lambda text, hide_input, confirmation_prompt: "typed")
    passwd.callback(str(file), "bob")
    assert UserFile(file).hashes["bob"].matches("typed")


def test_passwd_complains_of_a_missing_folder_before_it_wants_a_password(tmp_path):
    file = tmp_path / "nowhere" / "users"
    ended = gmdp_here("passwd", str(file), "bob", stdin=b"")
    assert (ended.one_line(), ended.status) == (f"gmdp: cannot write {file}: {file.parent} is not a folder", 2)


def test_passwd_needs_standard_input(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(MDPError, match="standard input"):
        passwd.callback(str(tmp_path / "users"), "bob")
    assert list(tmp_path.iterdir()) == []
