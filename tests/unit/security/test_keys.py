"""Keys: how they are named, read and made, and that no message shows a secret."""

import errno
import logging
import os
import stat
from pathlib import Path

import pytest
import zmq
import zmq.auth
from secured import (
    JUNK_FILES,
    PUBLIC,
    SECRET,
    SERVER_PUBLIC,
    SERVER_SECRET,
    TRUNCATED,
    refusal_of,
    write_key_file,
)

from gmdp import AsyncClient, Broker, Client, ConfigurationError, Worker
from gmdp.security import generate_keys
from gmdp.security.keys import public_key, secret_key

TCP = "tcp://127.0.0.1:5555"
NOT_SHOWN = "is not shown"


def handler(request):
    return b""


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


READERS = [public_key, secret_key]


# How keys are named


@pytest.fixture
def key_files(tmp_path):
    """The paths of a file with a public key, and of one with both."""
    return write_key_file(tmp_path / "alice.key", mode=0o644), write_key_file(
        tmp_path / "alice.key_secret", secret=SECRET
    )


def test_keys_in_z85_as_str_and_bytes():
    assert public_key("k", PUBLIC) == public_key("k", PUBLIC.decode()) == PUBLIC
    assert secret_key("k", SECRET) == secret_key("k", SECRET.decode()) == (PUBLIC, SECRET)


def test_keys_in_files(key_files):
    public, secret = key_files
    assert public_key("k", public) == public_key("k", str(public)) == public_key("k", str(secret)) == PUBLIC
    assert secret_key("k", secret) == secret_key("k", str(secret)) == (PUBLIC, SECRET)


@pytest.mark.parametrize("write", [zmq.auth.create_certificates, lambda folder, name: generate_keys(name, folder)])
def test_our_files_and_those_of_zmq_auth_are_the_same(tmp_path, write):
    public, secret = write(tmp_path, "alice")
    os.chmod(secret, 0o600)
    assert zmq.auth.load_certificate(secret) == secret_key("k", secret)
    assert public_key("k", public) == secret_key("k", secret)[0] == zmq.auth.load_certificate(public)[0]
    assert zmq.auth.load_certificate(public)[1] is None
    assert Path(public).name == "alice.key"
    assert Path(secret).name == "alice.key_secret"


def test_keys_in_the_environment(monkeypatch, key_files):
    monkeypatch.setenv("A_KEY", SECRET.decode())
    assert secret_key("k", "env:A_KEY") == (PUBLIC, SECRET)
    monkeypatch.setenv("A_KEY", str(key_files[1]))
    assert secret_key("k", "env:A_KEY") == (PUBLIC, SECRET)
    monkeypatch.setenv("A_KEY", PUBLIC.decode())
    assert public_key("k", "env:A_KEY") == PUBLIC


@pytest.mark.parametrize("value", [None, ""], ids=["not set", "empty"])
def test_a_variable_that_is_not_set_is_named(monkeypatch, value):
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    message = refusal_of(secret_key, "curve_key", "env:A_KEY")
    assert message.startswith("curve_key: ")
    assert "'A_KEY'" in message


def test_a_variable_does_not_name_another_variable(monkeypatch):
    monkeypatch.setenv("A_KEY", "env:ANOTHER")
    monkeypatch.setenv("ANOTHER", SECRET.decode())
    assert NOT_SHOWN in refusal_of(secret_key, "k", "env:A_KEY")


def test_a_file_may_have_any_name(tmp_path, monkeypatch):
    """Even one of 40 characters of Z85: a str names the file then, and bytes are the key."""
    monkeypatch.chdir(tmp_path)
    name = SERVER_SECRET.decode()
    write_key_file(tmp_path / name, secret=SECRET)
    assert secret_key("k", name) == (PUBLIC, SECRET)
    assert secret_key("k", SERVER_SECRET) == (SERVER_PUBLIC, SERVER_SECRET)


def test_a_public_file_gives_no_secret_key(key_files):
    message = refusal_of(secret_key, "curve_key", key_files[0])
    assert message.startswith(f"curve_key: {key_files[0]} holds no secret key")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_missing_file_is_named(tmp_path, read, kind):
    path = tmp_path / "nobody.key_secret"
    message = refusal_of(read, "curve_key", kind(path))
    assert message == f"curve_key: cannot read {path}: No such file or directory"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("content", JUNK_FILES.values(), ids=JUNK_FILES)
def test_a_junk_file_is_named(tmp_path, read, content):
    path = tmp_path / "junk.key_secret"
    path.write_bytes(content)
    path.chmod(0o600)
    assert refusal_of(read, "server_key", path).startswith(f"server_key: {path} holds no ")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "value",
    ["", "x", "#" * 40, "~" * 40, "0" * 39, "0" * 41, "ä" * 40, "\0", "0\n" * 20, "x" * 5000, "\ud800" * 40],
    ids=ascii,
)
@pytest.mark.parametrize("kind", [str, lambda text: text.encode("utf-8", "surrogatepass")], ids=["str", "bytes"])
def test_junk_text_is_not_shown(read, value, kind):
    message = refusal_of(read, "curve_key", kind(value))
    assert message.startswith("curve_key: ")
    assert NOT_SHOWN in message


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("value", [5, None, True, ["x"], {}], ids=repr)
def test_a_key_of_another_type_is_refused_by_its_type(read, value):
    message = refusal_of(read, "curve_key", value)
    assert message.startswith("curve_key ")
    assert message.endswith(f"not of type {type(value).__name__}")


@pytest.mark.parametrize("read", READERS)
def test_a_folder_is_no_key(tmp_path, read):
    assert refusal_of(read, "curve_key", tmp_path).startswith("curve_key: ")


#: Every way to give a secret whose last character was not copied.
WAYS = {
    "str": lambda folder: TRUNCATED.decode(),
    "bytes": lambda folder: TRUNCATED,
    "path": lambda folder: Path(TRUNCATED.decode()),
    "with a blank": lambda folder: SECRET.decode() + " ",
    "twice": lambda folder: SECRET.decode() * 2,
    "env": lambda folder: "env:TRUNCATED",
    "env with an end of line": lambda folder: "env:WITH_LINE",
    "env of a file": lambda folder: "env:A_FILE",
    "name of a variable": lambda folder: "env:" + TRUNCATED.decode(),
    "file": lambda folder: folder / "truncated.key_secret",
    "name of a file": lambda folder: str(folder / "truncated.key_secret"),
}


#: Every option that takes a key, and what goes with it.
TAKERS = {
    "curve_key of Client": lambda key: Client(TCP, curve_key=key, server_key=SERVER_PUBLIC),
    "server_key of Client": lambda key: Client(TCP, server_key=key),
    "curve_key of AsyncClient": lambda key: AsyncClient(TCP, curve_key=key, server_key=SERVER_PUBLIC),
    "curve_key of Worker": lambda key: Worker(TCP, "a", handler, curve_key=key, server_key=SERVER_PUBLIC),
    "server_key of Worker": lambda key: Worker(TCP, "a", handler, server_key=key),
    "curve_key of Broker": lambda key: Broker(TCP, curve_key=key, curve_clients="*"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("taker", TAKERS)
def test_s7_a_truncated_secret_is_refused_and_not_shown(tmp_path, monkeypatch, caplog, way, taker):
    """S7: in each way, to each option that takes a key; the option is named."""
    caplog.set_level(logging.DEBUG)
    write_key_file(tmp_path / "truncated.key_secret", TRUNCATED, TRUNCATED)
    monkeypatch.setenv("TRUNCATED", TRUNCATED.decode())
    monkeypatch.setenv("WITH_LINE", SECRET.decode() + "\n")
    monkeypatch.setenv("A_FILE", str(tmp_path / "truncated.key_secret"))
    message = refusal_of(TAKERS[taker], WAYS[way](tmp_path))
    assert message.startswith(f"{taker.split()[0]}: ")
    assert TRUNCATED.decode() not in caplog.text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601], ids=oct)
def test_a_secret_file_that_others_can_read_is_used_with_a_warning(key_files, caplog, mode):
    secret = key_files[1]
    secret.chmod(mode)
    assert secret_key("k", secret) == (PUBLIC, SECRET)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("gmdp.security", logging.WARNING)
    assert str(secret) in record.getMessage()
    assert f"{mode:03o}" in record.getMessage()


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700], ids=oct)
def test_a_secret_file_for_its_owner_alone_gives_no_warning(key_files, caplog, mode):
    public, secret = key_files
    secret.chmod(mode)
    secret_key("k", secret)
    secret_key("k", SECRET)
    public_key("k", public)
    public_key("k", secret)
    assert caplog.records == []


# Making keys


@pytest.mark.parametrize("mask", [0, 0o002, 0o022, 0o027, 0o077], ids=oct)
def test_the_modes_of_new_keys_under_any_umask(tmp_path, umask, mask):
    umask(mask)
    public, secret = generate_keys("alice", tmp_path)
    assert mode_of(public) == 0o644 & ~mask
    assert mode_of(secret) == 0o600


def test_new_keys_are_a_pair_and_each_pair_is_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public, secret = generate_keys("alice")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alice.key", "alice.key_secret"]
    assert public_key("k", public) == secret_key("k", secret)[0]
    assert public_key("k", generate_keys("bob")[0]) != public_key("k", public)


@pytest.mark.parametrize("existing", [["a.key"], ["a.key_secret"], ["a.key", "a.key_secret"]], ids=" ".join)
def test_keys_are_never_overwritten(tmp_path, existing):
    for name in existing:
        (tmp_path / name).write_text("precious")
    message = refusal_of(generate_keys, "a", tmp_path)
    assert str(tmp_path / existing[0]) in message
    assert "exists" in message
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(existing, "precious")


def test_no_secret_is_written_through_a_link(tmp_path):
    (tmp_path / "a.key_secret").symlink_to(tmp_path / "elsewhere")
    assert "exists" in refusal_of(generate_keys, "a", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.key_secret"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_no_half_written_file_is_left(tmp_path, monkeypatch, error):
    def fail_halfway(folder, name):
        Path(folder, name + ".key").write_text("half")
        raise error

    monkeypatch.setattr(zmq.auth, "create_certificates", fail_halfway)
    with pytest.raises((ConfigurationError, KeyboardInterrupt)) as raised:
        generate_keys("a", tmp_path)
    if isinstance(error, OSError):
        assert repr(str(tmp_path)) in str(raised.value)
        assert "No space left on device" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_for_keys_is_named(tmp_path):
    nowhere = tmp_path / "nowhere"
    assert repr(str(nowhere)) in refusal_of(generate_keys, "a", nowhere)
    file = tmp_path / "file"
    file.touch()
    assert repr(str(file)) in refusal_of(generate_keys, "a", file)


@pytest.mark.parametrize("name", ["", "a/b", "/", "../a", "a\0", "a\nb", "\ud800"], ids=ascii)
def test_the_name_of_a_key_must_be_a_file_name(tmp_path, name):
    assert repr(name) in refusal_of(generate_keys, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_curve_no_files_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    assert "CURVE" in refusal_of(generate_keys, "a", tmp_path)
    assert list(tmp_path.iterdir()) == []
