"""Keys, passwords, lists and addresses: what is accepted, what is refused, and that no message tells a secret."""

import errno
import logging
import os
import stat
import traceback
from pathlib import Path

import pytest
import zmq
import zmq.auth
from secured import GateHost, make_gate

from gmdp import AsyncClient, Broker, Client, ConfigurationError, Worker
from gmdp.core.broker.access import REVOKED
from gmdp.security import generate_keys, hash_password
from gmdp.security.credentials import credentials
from gmdp.security.keys import public_key, secret_key
from gmdp.security.lists import KeyFolder, UserFile, password_credential, set_password
from gmdp.security.passwords import MAX_PASSWORD, read_hash

# The pairs of zmq_curve(7).
PUBLIC, SECRET = b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
SERVER_PUBLIC, SERVER_SECRET = b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", b"JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"

#: A secret that was not copied to its end.
TRUNCATED = SECRET[:-1]

PASSWORD = "correct horse battery staple"
TCP = "tcp://127.0.0.1:5555"
NOTHING_SHOWN = "what was given may be a secret: it is not shown"


def handler(request):
    return b""


def written(path, public=PUBLIC, secret=None, mode=0o600):
    """A file as `zmq.auth` writes it, with these keys."""
    lines = ["#   ****  a banner  ****", "", "metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return path


def replaced(path, text):
    """As who writes it anew beside it: another file of the same name."""
    other = path.with_name(path.name + ".new")
    other.write_text(text) if isinstance(text, str) else other.write_bytes(text)
    other.replace(path)
    return path


def refused(function, *args, **kwargs):
    """The message of the ConfigurationError that it raises: one line."""
    with pytest.raises(ConfigurationError) as caught:
        function(*args, **kwargs)
    assert_tells_nothing(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_tells_nothing(thing):
    """S7: no secret in what can be printed of it, nor any that was given truncated."""
    shown = [str(thing), repr(thing), f"{thing}"]
    if isinstance(thing, BaseException):
        shown += [repr(thing.args), *traceback.format_exception(thing)]
        assert thing.__cause__ is None
        assert thing.__context__ is None or thing.__suppress_context__
    for secret in (TRUNCATED.decode(), SERVER_SECRET[:-1].decode(), PASSWORD):
        assert [text for text in shown if secret in text] == []


# Keys, and how they are named

READERS = [public_key, secret_key]


@pytest.fixture
def key_files(tmp_path):
    """The paths of a public and a secret file."""
    return written(tmp_path / "alice.key", mode=0o644), written(tmp_path / "alice.key_secret", secret=SECRET)


def test_keys_in_z85_as_str_and_bytes():
    assert public_key("k", PUBLIC) == public_key("k", PUBLIC.decode()) == PUBLIC
    assert secret_key("k", SECRET) == secret_key("k", SECRET.decode()) == (PUBLIC, SECRET)


def test_keys_in_files(key_files):
    public, secret = key_files
    assert public_key("k", public) == public_key("k", str(public)) == public_key("k", str(secret)) == PUBLIC
    assert secret_key("k", secret) == secret_key("k", str(secret)) == (PUBLIC, SECRET)


@pytest.mark.parametrize("write", [zmq.auth.create_certificates, lambda folder, name: generate_keys(name, folder)])
def test_files_of_zmq_auth_and_ours_are_the_same(tmp_path, write):
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
def test_a_variable_that_is_not_there_is_named(monkeypatch, value):
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    assert refused(secret_key, "curve_key", "env:A_KEY") == "curve_key: the environment has no variable 'A_KEY'"


def test_a_variable_names_no_other(monkeypatch):
    monkeypatch.setenv("A_KEY", "env:ANOTHER")
    monkeypatch.setenv("ANOTHER", SECRET.decode())
    assert NOTHING_SHOWN in refused(secret_key, "k", "env:A_KEY")


def test_a_file_may_have_any_name(tmp_path, monkeypatch):
    """Even one of 40 characters of Z85: a str is the file then; bytes are the key."""
    monkeypatch.chdir(tmp_path)
    name = SERVER_SECRET.decode()
    written(tmp_path / name, secret=SECRET)
    assert secret_key("k", name) == (PUBLIC, SECRET)
    assert secret_key("k", SERVER_SECRET) == (SERVER_PUBLIC, SERVER_SECRET)


def test_the_secret_of_a_public_file_is_refused(key_files):
    said = refused(secret_key, "curve_key", key_files[0])
    assert said == f"curve_key: {key_files[0]} holds no secret key; the file .key_secret does"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_that_is_not_there_is_named(tmp_path, read, kind):
    path = tmp_path / "nobody.key_secret"
    said = refused(read, "curve_key", kind(path))
    assert said == f"curve_key: cannot read {path}: No such file or directory"


JUNK = {
    "empty": b"",
    "words": b"this is no key\n",
    "binary": bytes(range(256)) * 40,
    "half": b'curve\n    public-key = "Yne@$w-vo<fVvi]a',
    "no value": b"curve\n    public-key\n    secret-key\n",
    "empty values": b'curve\n    public-key = ""\n    secret-key = ""\n',
    "other characters": b'curve\n    public-key = "' + b"~" * 40 + b'"\n    secret-key = "' + b"\xff" * 40 + b'"\n',
    "too large for 32 bits": b'curve\n    public-key = "' + b"#" * 40 + b'"\n    secret-key = "' + b"#" * 40 + b'"\n',
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_a_junk_file_is_named(tmp_path, read, content):
    path = tmp_path / "junk.key_secret"
    path.write_bytes(content)
    path.chmod(0o600)
    assert refused(read, "server_key", path).startswith(f"server_key: {path} holds no ")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "given",
    ["", "x", "#" * 40, "~" * 40, "0" * 39, "0" * 41, "ä" * 40, "\0", "0\n" * 20, "x" * 5000, "\ud800" * 40],
    ids=ascii,
)
@pytest.mark.parametrize("kind", [str, lambda text: text.encode("utf-8", "surrogatepass")], ids=["str", "bytes"])
def test_junk_text_is_not_shown(read, given, kind):
    said = refused(read, "curve_key", kind(given))
    assert said == f"curve_key: neither a file nor a key of 40 characters of Z85 ({NOTHING_SHOWN})"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("given", [5, None, True, ["x"], {}], ids=repr)
def test_a_key_of_another_type_is_refused_by_its_type(read, given):
    said = refused(read, "curve_key", given)
    assert said == f"curve_key must name a key, by a file or in Z85, not of type {type(given).__name__}"


@pytest.mark.parametrize("read", READERS)
def test_a_folder_is_no_key(tmp_path, read):
    assert refused(read, "curve_key", tmp_path).startswith("curve_key: ")


#: Every way in which a secret, not copied to its end, may be given.
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

#: Every option that takes a key, and what it needs besides.
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
    """S7: however it is given, to whatever takes a key; the option is named."""
    caplog.set_level(logging.DEBUG)
    written(tmp_path / "truncated.key_secret", TRUNCATED, TRUNCATED)
    monkeypatch.setenv("TRUNCATED", TRUNCATED.decode())
    monkeypatch.setenv("WITH_LINE", SECRET.decode() + "\n")
    monkeypatch.setenv("A_FILE", str(tmp_path / "truncated.key_secret"))
    said = refused(TAKERS[taker], WAYS[way](tmp_path))
    assert said.startswith(f"{taker.split()[0]}: ")
    assert TRUNCATED.decode() not in caplog.text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601], ids=oct)
def test_a_secret_file_that_others_may_read_is_warned_of_and_used(key_files, caplog, mode):
    secret = key_files[1]
    secret.chmod(mode)
    assert secret_key("k", secret) == (PUBLIC, SECRET)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("gmdp.security", logging.WARNING)
    assert record.getMessage() == (
        f"{secret} holds a secret key and others may read it (mode {mode:03o}): chmod 600 it"
    )


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700], ids=oct)
def test_a_secret_file_for_its_owner_alone_is_not_warned_of(key_files, caplog, mode):
    public, secret = key_files
    secret.chmod(mode)
    secret_key("k", secret)
    secret_key("k", SECRET)
    public_key("k", public)
    public_key("k", secret)
    assert caplog.records == []


# Making keys


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """A function: sets it."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o002, 0o022, 0o027, 0o077], ids=oct)
def test_modes_of_new_keys_whatever_the_umask_allows(tmp_path, umask, mask):
    umask(mask)
    public, secret = generate_keys("alice", tmp_path)
    assert mode_of(public) == 0o644 & ~mask
    assert mode_of(secret) == 0o600


def test_new_keys_are_a_pair_and_none_is_made_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public, secret = generate_keys("alice")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alice.key", "alice.key_secret"]
    assert public_key("k", public) == secret_key("k", secret)[0]
    assert public_key("k", generate_keys("bob")[0]) != public_key("k", public)


@pytest.mark.parametrize("there", [["a.key"], ["a.key_secret"], ["a.key", "a.key_secret"]], ids=" ".join)
def test_keys_are_never_overwritten(tmp_path, there):
    for name in there:
        (tmp_path / name).write_text("precious")
    said = refused(generate_keys, "a", tmp_path)
    assert said == f"{tmp_path / there[0]} exists: it is not overwritten"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(there, "precious")


def test_a_link_is_not_followed_to_write_a_secret(tmp_path):
    (tmp_path / "a.key_secret").symlink_to(tmp_path / "elsewhere")
    assert "exists" in refused(generate_keys, "a", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.key_secret"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_nothing_half_written_is_left(tmp_path, monkeypatch, error):
    def half(folder, name):
        Path(folder, name + ".key").write_text("half")
        raise error

    monkeypatch.setattr(zmq.auth, "create_certificates", half)
    with pytest.raises((ConfigurationError, KeyboardInterrupt)) as raised:
        generate_keys("a", tmp_path)
    if isinstance(error, OSError):
        assert str(raised.value) == f"cannot write to {str(tmp_path)!r}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_keys_that_is_not_there(tmp_path):
    nowhere = tmp_path / "nowhere"
    assert refused(generate_keys, "a", nowhere) == f"cannot write to {str(nowhere)!r}: No such file or directory"
    file = tmp_path / "file"
    file.touch()
    assert refused(generate_keys, "a", file) == f"cannot write to {str(file)!r}: Not a directory"


@pytest.mark.parametrize("name", ["", "a/b", "/", "../a", "a\0", "a\nb", "\ud800"], ids=ascii)
def test_a_keys_name_is_that_of_a_file(tmp_path, name):
    assert refused(generate_keys, name, tmp_path).startswith("a key's name must be that of a file")
    assert list(tmp_path.iterdir()) == []


def test_without_curve_no_files_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    assert refused(generate_keys, "a", tmp_path) == "this libzmq was built without CURVE"
    assert list(tmp_path.iterdir()) == []


# Passwords


@pytest.fixture(scope="module")
def hashed():
    """What a file says of PASSWORD."""
    return hash_password(PASSWORD)


@pytest.mark.parametrize("password", ["x", "größe €", "with: $ and #", "x" * MAX_PASSWORD, "\U0001f511" * 63])
def test_a_password_goes_round(password):
    assert read_hash(hash_password(password)).matches(password)


def test_no_other_password_matches(hashed):
    for other in (PASSWORD.upper(), "", PASSWORD + "x" * MAX_PASSWORD, "\ud800"):
        assert not read_hash(hashed).matches(other)


def test_two_hashes_of_a_password_differ(hashed):
    again = hash_password(PASSWORD)
    assert again != hashed
    assert read_hash(again).matches(PASSWORD)


def test_the_form_of_a_hash(hashed):
    """It stands alone on a line, says how it was made, and is read as it was written."""
    kind, cost, block, parallel, _, _ = hashed.split("$")
    assert (kind, cost, block, parallel) == ("scrypt", "16384", "8", "1")
    assert str(read_hash(hashed)) == hashed
    assert ":" not in hashed
    assert hashed.isprintable()


@pytest.mark.parametrize("password", ["", "x" * (MAX_PASSWORD + 1), "é" * 128, "\ud800", "p\udcffq"], ids=ascii)
def test_passwords_that_there_cannot_be(password):
    with pytest.raises(ValueError, match=r"^a password is 1 to 255 bytes of UTF-8$") as error:
        hash_password(password)
    assert error.value.__suppress_context__ or error.value.__context__ is None


SALT, DIGEST = "MDEyMzQ1Njc4OWFiY2RlZg==", "A" * 43 + "="


@pytest.mark.parametrize(
    "text",
    [
        *("", "$", "$$$$$", "scrypt", PASSWORD, f"scrypt$16384$8${SALT}${DIGEST}"),
        *(f"scrypt$16384$8$1${SALT}", f"scrypt$16384$8$1$1${SALT}${DIGEST}", f"scrypt$16384$8$1${SALT}${DIGEST}$"),
        *(f"bcrypt$16384$8$1${SALT}${DIGEST}", f"pbkdf2$16384$8$1${SALT}${DIGEST}", f"${SALT}$1$1$1${DIGEST}"),
        *(f"scrypt$x$8$1${SALT}${DIGEST}", f"scrypt$1e4$8$1${SALT}${DIGEST}", f"scrypt${'9' * 5000}$8$1$${DIGEST}"),
        *(f"scrypt$16384$8$1$*${DIGEST}", f"scrypt$16384$8$1${SALT}$AAAA", f"scrypt$16384$8$1${SALT}$", "é" * 9),
        f"scrypt$16384$8$1${SALT}$ä",
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_what_is_no_hash_is_refused(text):
    with pytest.raises(ValueError):
        read_hash(text)


@pytest.mark.parametrize(
    ("cost", "block", "parallel"),
    [
        *((0, 8, 1), (1, 8, 1), (1000, 8, 1), (-16384, 8, 1), (-16384, -8, 1), (-16384, -8, -1)),
        *((16384, 0, 1), (16384, -8, 1), (16384, 8, 0), (16384, 8, -1), (16384, 8, 17), (65536, 1, 1)),
        *((2**18, 8, 1), (2**40, 8, 1), (2, 2**20, 1), (16384, 2**40, 1)),
    ],
)
def test_absurd_parameters_are_refused(cost, block, parallel):
    with pytest.raises(ValueError):
        read_hash(f"scrypt${cost}${block}${parallel}${SALT}${DIGEST}")


@pytest.mark.parametrize(("cost", "block", "parallel"), [(2, 1, 1), (2**15, 1, 1), (16, 8, 16), (2**15, 8, 1)])
def test_parameters_that_are_accepted_can_be_computed(cost, block, parallel):
    assert not read_hash(f"scrypt${cost}${block}${parallel}${SALT}${DIGEST}").matches("x")


def test_s7_a_hash_tells_no_password(hashed):
    """S7: nor does its repr tell the hash."""
    one = read_hash(hashed)
    assert_tells_nothing(one)
    assert hashed.split("$")[-1] not in repr(one)


def looked(one):
    """Two looks at a list, as it takes to take up a change; True if one was taken up."""
    return one.poll() or one.poll()


# A folder of keys

KEYS = [PUBLIC, SERVER_PUBLIC, b"0" * 40, b"1" * 40]


class KeysInFolder:
    """A folder of keys, and the list that is read from it."""

    def __init__(self, path):
        self.path = path
        self.path.mkdir(exist_ok=True)
        self.list = None

    def put(self, name, key):
        written(self.path / (name + ".new"), key).replace(self.path / name)

    def open(self):
        self.list = KeyFolder(self.path)
        return self

    def read(self):
        """The users by their keys' numbers, if there was a change; None if not."""
        changed = looked(self.list)
        return self.users if changed else None

    @property
    def users(self):
        return {KEYS.index(key.encode()): user for key, user in self.list.users.items()}

    def notes(self):
        notes, self.list.notes = self.list.notes, []
        return notes


@pytest.fixture
def folder(tmp_path):
    return KeysInFolder(tmp_path / "keys")


def test_keys_are_added_changed_and_removed(folder):
    folder.put("alice.key", KEYS[0])
    assert folder.open().users == {0: "alice"}
    assert folder.read() is None
    folder.put("bob.key", KEYS[1])
    assert folder.read() == {0: "alice", 1: "bob"}
    assert folder.read() is None
    folder.put("alice.key", KEYS[2])
    assert folder.read() == {2: "alice", 1: "bob"}
    (folder.path / "alice.key").unlink()
    assert folder.read() == {1: "bob"}
    (folder.path / "bob.key").rename(folder.path / "carol.key")
    assert folder.read() == {1: "carol"}
    assert folder.notes() == []


def test_files_that_zmq_auth_wrote_are_read(folder):
    public, secret = zmq.auth.create_certificates(folder.path, "alice")
    assert folder.open().list.users == {zmq.auth.load_certificate(public)[0].decode(): "alice"}
    Path(secret).unlink()
    assert folder.read() is None


def test_an_empty_folder_allows_nobody(folder):
    assert folder.open().users == {}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_a_file_that_holds_no_key_allows_nobody_and_hinders_nobody(folder, content):
    folder.put("alice.key", KEYS[0])
    folder.put("bob.key", KEYS[1])
    folder.open()
    replaced(folder.path / "alice.key", content)
    looked(folder.list)
    assert KEYS[0].decode() not in folder.list.users
    assert folder.list.users[KEYS[1].decode()] == "bob"


def test_a_half_written_key_counts_once_it_is_whole(folder):
    folder.put("bob.key", KEYS[1])
    folder.open()
    whole = written(folder.path / "whole", KEYS[0]).read_text()
    path = folder.path / "alice.key"
    for end in range(0, len(whole) - 2, 7):
        path.write_text(whole[:end])
        looked(folder.list)
        assert folder.users == {1: "bob"}, whole[:end]
    path.write_text(whole)
    assert folder.read() == {0: "alice", 1: "bob"}


def test_of_two_files_with_one_key_the_first_counts(folder):
    folder.put("a.key", KEYS[0])
    folder.put("b.key", KEYS[0])
    assert folder.open().users == {0: "a"}
    assert folder.notes() == [f"{folder.path / 'b.key'} holds the key of 'a', too: the key stays with that user"]
    (folder.path / "a.key").unlink()
    assert folder.read() == {0: "b"}


@pytest.mark.parametrize(
    ("name", "user"),
    [
        *(("a b.key", "a b"), ("größe.key", "größe"), ("a.b.key", "a.b"), ("..key", "."), ("a.key.key", "a.key")),
        *(("*.key", "*"), ("-.key", "-"), (".alice.key", ".alice"), (f"{'x' * 251}.key", "x" * 251)),
        *((".key", None), ("key", None), ("alice", None), ("alice.KEY", None), ("alice.key_secret", None)),
        *(("alice.key~", None), ("a\nb.key", None), ("\x1b[1m.key", None), ("\udcff.key", None)),
    ],
    ids=ascii,
)
def test_odd_names(folder, name, user):
    """NAME.key is user NAME's; what cannot be a user's name allows nobody."""
    written(folder.path / name, KEYS[0])
    assert folder.open().users == ({} if user is None else {0: user})


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "link"])
def test_what_is_no_file_hinders_nobody(folder, make):
    """A folder, or a link to nothing, as editors leave while they are open."""
    folder.put("alice.key", KEYS[0])
    folder.open()
    make(folder.path / ".#bob.key")
    looked(folder.list)
    assert folder.users == {0: "alice"}
    [note] = folder.notes()
    assert note.startswith(f"{folder.path / '.#bob.key'} holds no key and allows nobody")
    assert folder.read() is None
    assert folder.notes() == []


def test_a_file_that_goes_while_the_folder_is_read_hinders_nobody(folder, monkeypatch):
    folder.put("alice.key", KEYS[0])
    folder.put("bob.key", KEYS[1])
    folder.open()
    listdir = os.listdir

    def and_then_one_goes(path):
        names = listdir(path)
        (folder.path / "alice.key").unlink(missing_ok=True)
        return names

    monkeypatch.setattr(os, "listdir", and_then_one_goes)
    assert (folder.read() or folder.read()) == {1: "bob"}
    monkeypatch.undo()
    looked(folder.list)
    assert folder.users == {1: "bob"}


def test_without_its_folder_nobody_is_allowed_until_it_is_back(folder):
    folder.put("alice.key", KEYS[0])
    folder.open()
    away = folder.path.rename(folder.path.with_name("away"))
    assert folder.read() == {}
    assert folder.notes() == [f"cannot read {folder.path}: No such file or directory: nobody is allowed"]
    assert folder.read() is None
    assert folder.notes() == []  # once
    away.rename(folder.path)
    assert folder.read() == {0: "alice"}


@pytest.mark.parametrize("make", [lambda path: None, Path.touch], ids=["nothing", "file"])
def test_without_a_folder_there_is_no_list(tmp_path, make):
    path = tmp_path / "keys"
    make(path)
    assert refused(KeyFolder, path) == f"curve_clients: {path} is not a folder"


# A file of users


@pytest.fixture(scope="module")
def hashes():
    """Three hashes that cost little."""
    return [f"scrypt$2$1$1${SALT}${digit * 43}=" for digit in "AEI"]


@pytest.fixture
def users_file(tmp_path):
    return tmp_path / "users"


def names(users):
    """The users of a list, sorted."""
    return sorted(users.users.values())


def test_users_are_added_changed_and_removed(users_file, hashes):
    users = UserFile(replaced(users_file, f"alice:{hashes[0]}\n"))
    assert users.users == {password_credential("alice", read_hash(hashes[0])): "alice"}
    assert str(users.hashes.get("alice")) == hashes[0]
    assert not looked(users)
    replaced(users_file, f"alice:{hashes[0]}\nbob:{hashes[1]}\n")
    assert looked(users)
    assert names(users) == ["alice", "bob"]
    before = set(users.users)
    replaced(users_file, f"alice:{hashes[2]}\nbob:{hashes[1]}\n")
    assert looked(users)
    assert before - set(users.users) == {password_credential("alice", read_hash(hashes[0]))}
    replaced(users_file, f"bob:{hashes[1]}\n")
    assert looked(users)
    assert names(users) == ["bob"]
    assert users.hashes.get("alice") is None
    assert users.notes == []


def test_comments_blank_lines_and_the_ends_of_lines(users_file, hashes):
    text = f"# users\r\n\r\n  alice:{hashes[0]}  \r\n\t# bob:{hashes[1]}\r\ncarol smith:{hashes[1]}"
    assert names(UserFile(replaced(users_file, text))) == ["alice", "carol smith"]


def test_an_empty_file_of_users_allows_nobody(users_file):
    assert UserFile(replaced(users_file, "")).users == {}


WRONG_LINES = {
    "no hash": ("alice", "line 1 must be NAME:HASH, as `gmdp passwd` writes it"),
    "a password": (f"alice:{PASSWORD}", "line 1 must be NAME:HASH, as `gmdp passwd` writes it"),
    "a password alone": (PASSWORD, "line 1 must be NAME:HASH, as `gmdp passwd` writes it"),
    "twice": ("# c\nalice:{0}\nalice:{1}", "line 3: 'alice' cannot be a user's name, or is listed above"),
    "no name": (":{0}", "line 1: '' cannot be a user's name, or is listed above"),
    "long name": ("x" * 256 + ":{0}", "line 1: '" + "x" * 256 + "' cannot be a user's name, or is listed above"),
    "control character": ("a\x07:{0}", r"line 1: 'a\x07' cannot be a user's name, or is listed above"),
    "not UTF-8": (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_file_is_refused_at_first_and_allows_nobody_later(users_file, hashes, name):
    text, says = WRONG_LINES[name]
    text = text.format(*hashes) if isinstance(text, str) else text
    assert refused(UserFile, replaced(users_file, text)) == f"plain_users: {users_file}: {says}"
    users = UserFile(replaced(users_file, f"alice:{hashes[0]}\n"))
    replaced(users_file, text)
    assert looked(users)
    assert users.users == {}
    assert users.hashes.get("alice") is None
    assert users.notes == [f"cannot read {users_file}: {says}: nobody is allowed"]
    assert not looked(users)
    assert len(users.notes) == 1
    replaced(users_file, f"alice:{hashes[0]}\n")
    assert looked(users)
    assert names(users) == ["alice"]


def test_without_its_file_nobody_is_allowed_until_it_is_back(users_file, hashes):
    assert refused(UserFile, users_file) == f"plain_users: cannot read {users_file}: No such file or directory"
    users = UserFile(replaced(users_file, f"alice:{hashes[0]}\n"))
    users_file.unlink()
    assert looked(users)
    assert users.users == {}
    assert users.notes == [f"cannot read {users_file}: No such file or directory: nobody is allowed"]
    assert not looked(users)
    replaced(users_file, f"alice:{hashes[0]}\n")
    assert looked(users)
    assert names(users) == ["alice"]


# Setting a password


@pytest.mark.parametrize("mask", [0, 0o077], ids=oct)
def test_a_new_file_of_users_is_for_its_owner_alone(users_file, umask, mask):
    umask(mask)
    set_password(users_file, "alice", PASSWORD)
    assert mode_of(users_file) == 0o600
    assert UserFile(users_file).hashes.get("alice").matches(PASSWORD)
    assert PASSWORD not in users_file.read_text()
    assert [path.name for path in users_file.parent.iterdir()] == ["users"]


def test_setting_a_password_leaves_other_users_and_comments(users_file, hashes):
    lines = ["# the users", f"alice:{hashes[0]}", "", f"alice smith:{hashes[1]}", "# the end"]
    users_file.write_text("\n".join(lines))
    set_password(users_file, "alice", PASSWORD)
    after = users_file.read_text().splitlines()
    assert [line for line, old in zip(after, lines, strict=True) if line != old] == [after[1]]
    assert UserFile(users_file).hashes.get("alice").matches(PASSWORD)
    set_password(users_file, "bob", PASSWORD)
    assert users_file.read_text().splitlines()[:-1] == after
    assert names(UserFile(users_file)) == ["alice", "alice smith", "bob"]


@pytest.mark.parametrize(
    "user", ["", "a:b", ":", "#a", " a", "a ", "a\nb", "a\0", "x" * 256, "\ud800", None], ids=ascii
)
def test_a_name_that_is_none_leaves_the_file_as_it_is(users_file, hashes, user):
    users_file.write_text(f"a:{hashes[0]}\n")
    assert repr(user) in refused(set_password, users_file, user, PASSWORD)
    assert users_file.read_text() == f"a:{hashes[0]}\n"


@pytest.mark.parametrize("password", ["", PASSWORD * 10, "\ud800" + PASSWORD], ids=["empty", "long", "not UTF-8"])
def test_a_password_that_is_none_leaves_the_file_as_it_is(users_file, password):
    assert refused(set_password, users_file, "alice", password) == "a password is 1 to 255 bytes of UTF-8"
    assert not users_file.exists()


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_file_is_left_as_it_is(users_file, hashes, name):
    text, says = WRONG_LINES[name]
    replaced(users_file, text.format(*hashes) if isinstance(text, str) else text)
    before = users_file.read_bytes()
    assert refused(set_password, users_file, "bob", PASSWORD) == f"plain_users: {users_file}: {says}"
    assert users_file.read_bytes() == before


def test_where_no_file_of_users_can_be(tmp_path):
    assert "not a file" in refused(set_password, tmp_path, "alice", PASSWORD)
    nowhere = tmp_path / "nowhere" / "users"
    said = refused(set_password, nowhere, "alice", PASSWORD)
    assert said == f"cannot write {nowhere}: No such file or directory"


def test_a_file_of_users_is_written_whole_or_not_at_all(users_file, hashes, monkeypatch):
    users_file.write_text(f"alice:{hashes[0]}\n")

    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    said = refused(set_password, users_file, "alice", PASSWORD)
    assert said == f"cannot write {users_file}: No space left on device"
    assert users_file.read_text() == f"alice:{hashes[0]}\n"
    assert [path.name for path in users_file.parent.iterdir()] == ["users"]


# What a client or worker is given

CONNECTING = {
    "Client": lambda endpoint=TCP, **keywords: Client(endpoint, **keywords),
    "AsyncClient": lambda endpoint=TCP, **keywords: AsyncClient(endpoint, **keywords),
    "Worker": lambda endpoint=TCP, **keywords: Worker(endpoint, "a", handler, **keywords),
}
KEY = {"curve_key": SECRET, "server_key": SERVER_PUBLIC}
NAME = {"username": "alice", "password": PASSWORD}

NONSENSE = {
    "name alone": ({"username": "alice"}, "username and password go together"),
    "password alone": ({"password": PASSWORD}, "username and password go together"),
    "name and keys": ({"username": "alice", **KEY}, "username and password go together"),
    "password and keys": ({"password": PASSWORD, **KEY}, "username and password go together"),
    "password and key": ({"password": PASSWORD, "curve_key": SECRET}, "username and password go together"),
    "both": ({**NAME, **KEY}, "a socket has either a key or a password: leave out curve_key or username"),
    "both, one key": (
        {**NAME, "curve_key": SECRET},
        "a socket has either a key or a password: leave out curve_key or username",
    ),
    "both, server's key": (
        {**NAME, "server_key": SERVER_PUBLIC},
        "a socket has either a key or a password: leave out curve_key or username",
    ),
    "no server's key": (
        {"curve_key": SECRET},
        "curve_key needs server_key, the broker's public key: else anybody could play the broker",
    ),
    "empty name": ({**NAME, "username": ""}, "username must be a str of 1 to 255 bytes of UTF-8"),
    "empty password": ({**NAME, "password": ""}, "password must be a str of 1 to 255 bytes of UTF-8"),
    "long name": ({**NAME, "username": "x" * 256}, "username must be a str of 1 to 255 bytes of UTF-8"),
    "long password": ({**NAME, "password": PASSWORD * 10}, "password must be a str of 1 to 255 bytes of UTF-8"),
    "nul": ({**NAME, "password": PASSWORD + "\0"}, "password must be a str of 1 to 255 bytes of UTF-8"),
    "not UTF-8": ({**NAME, "password": PASSWORD + "\ud800"}, "password must be a str of 1 to 255 bytes of UTF-8"),
    "bytes": ({**NAME, "password": PASSWORD.encode()}, "password must be a str of 1 to 255 bytes of UTF-8"),
    "number": ({**NAME, "username": 5}, "username must be a str of 1 to 255 bytes of UTF-8"),
}
ON_INPROC = "on inproc:// ZeroMQ looks at no key and no password: use ipc:// or tcp://"


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("kind", CONNECTING)
def test_keywords_that_make_no_sense_together(kind, name):
    keywords, says = NONSENSE[name]
    assert refused(CONNECTING[kind], **keywords) == says


@pytest.mark.parametrize("keywords", [KEY, NAME, {"server_key": SERVER_PUBLIC}], ids=["keys", "password", "server"])
@pytest.mark.parametrize("endpoint", ["inproc://a", [TCP, "inproc://a"]], ids=repr)
@pytest.mark.parametrize("kind", CONNECTING)
def test_on_inproc_there_is_no_security(kind, endpoint, keywords):
    assert refused(CONNECTING[kind], endpoint, **keywords) == ON_INPROC


def test_on_inproc_nothing_is_asked_for():
    for make in CONNECTING.values():
        make("inproc://a")


def test_without_keywords_there_are_no_credentials():
    assert credentials([TCP], None, None, None, None) is None


def test_without_curve_keys_are_refused(monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    assert refused(Client, TCP, **KEY) == "this libzmq was built without CURVE"
    assert refused(Broker, TCP, curve_key=SECRET, curve_clients="*") == "this libzmq was built without CURVE"
    Client(TCP, **NAME)


class Options:
    """A socket that remembers what it is set to."""

    def __init__(self):
        self.set_to = {}

    def set(self, option, value):
        self.set_to[option] = value


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (
            (SECRET, SERVER_PUBLIC, None, None),
            {zmq.CURVE_PUBLICKEY: PUBLIC, zmq.CURVE_SECRETKEY: SECRET, zmq.CURVE_SERVERKEY: SERVER_PUBLIC},
        ),
        (
            (None, None, "größe", "x" * MAX_PASSWORD),
            {zmq.PLAIN_USERNAME: "größe".encode(), zmq.PLAIN_PASSWORD: b"x" * MAX_PASSWORD},
        ),
    ],
    ids=["keys", "password"],
)
def test_what_a_socket_is_set_to(given, options):
    socket = Options()
    credentials([TCP, "ipc://a"], *given).apply(socket)
    assert socket.set_to == options


def test_with_the_servers_key_alone_a_pair_is_made_up():
    made = []
    for _ in range(2):
        socket = Options()
        credentials([TCP], None, SERVER_PUBLIC, None, None).apply(socket)
        assert socket.set_to[zmq.CURVE_SERVERKEY] == SERVER_PUBLIC
        assert zmq.curve_public(socket.set_to[zmq.CURVE_SECRETKEY]) == socket.set_to[zmq.CURVE_PUBLICKEY]
        made.append(socket.set_to[zmq.CURVE_PUBLICKEY])
    assert made[0] != made[1]


# A gate


def test_s2_a_key_without_a_list_of_clients_is_refused():
    """S2: nobody leaves the list out by mistake and lets in everybody; "*" says it."""
    for make in (make_gate, Broker):
        assert refused(make, curve_key=SECRET) == (
            "curve_key needs curve_clients: a folder of the allowed keys, a callable, or '*' to allow any key"
        )
        make(curve_key=SECRET, curve_clients="*")


GATES = {
    "clients without a key": (
        {"curve_clients": "*"},
        "curve_clients needs curve_key, the broker's own secret key",
    ),
    "keys and passwords": (
        {"curve_key": SECRET, "curve_clients": "*", "plain_users": lambda name, password: True},
        "a broker takes either keys or passwords: leave out curve_key or plain_users",
    ),
    "key and passwords": (
        {"curve_key": SECRET, "plain_users": lambda name, password: True},
        "a broker takes either keys or passwords: leave out curve_key or plain_users",
    ),
    "clients and passwords": (
        {"curve_clients": "*", "plain_users": lambda name, password: True},
        "curve_clients needs curve_key, the broker's own secret key",
    ),
    "no name of a folder": (
        {"curve_key": SECRET, "curve_clients": ""},
        "curve_clients is empty: it must name a folder",
    ),
    "no name of a file": ({"plain_users": ""}, "plain_users is empty: it must name a file"),
    "nobody allowed": ({"allow": []}, "allow lists nobody: leave it out, or say who it is"),
    "nobody denied": ({"deny": ()}, "deny lists nobody: leave it out, or say who it is"),
    "no folder": ({"curve_key": SECRET, "curve_clients": "nowhere"}, "curve_clients: nowhere is not a folder"),
    "clients of another type": (
        {"curve_key": SECRET, "curve_clients": 5},
        "curve_clients must be a folder, a callable or '*', not of type int",
    ),
    "a list of clients": (
        {"curve_key": SECRET, "curve_clients": []},
        "curve_clients must be a folder, a callable or '*', not of type list",
    ),
    "no file of users": ({"plain_users": "nowhere"}, "plain_users: cannot read nowhere: No such file or directory"),
    "passwords": (
        {"plain_users": {"alice": PASSWORD}},
        "plain_users must be a file or a callable, not of type dict",
    ),
    "a client's key": (
        {"curve_key": SERVER_SECRET, "curve_clients": SECRET},
        "curve_clients must be a folder, a callable or '*', not of type bytes",
    ),
    "no key": (
        {"curve_key": 5, "curve_clients": "*"},
        "curve_key must name a key, by a file or in Z85, not of type int",
    ),
}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("make", [make_gate, Broker])
def test_a_gate_that_makes_no_sense_is_refused(tmp_path, monkeypatch, make, name):
    monkeypatch.chdir(tmp_path)
    keywords, says = GATES[name]
    assert refused(make, **keywords) == says


def test_a_gate_takes_lists_callables_and_paths(folder, users_file, hashes):
    replaced(users_file, f"alice:{hashes[0]}\n")
    check = {}.get
    for keywords, authenticates in (
        ({"curve_key": SECRET, "curve_clients": folder.path}, True),
        ({"curve_key": SECRET, "curve_clients": str(folder.path)}, True),
        ({"curve_key": SECRET, "curve_clients": check}, True),
        ({"plain_users": users_file}, True),
        ({"plain_users": str(users_file)}, True),
        ({"plain_users": check}, True),
        ({"allow": ["ipc"]}, False),
    ):
        assert make_gate(**keywords).authenticates is authenticates
        assert Broker("tcp://127.0.0.1:*", **keywords).secured
    assert not Broker("tcp://127.0.0.1:*").secured


def test_a_secured_broker_has_no_inproc_and_no_context_of_others():
    said = refused(Broker, ["tcp://127.0.0.1:*", "inproc://a"], allow="127.0.0.1")
    assert said == "on inproc:// ZeroMQ asks for no key: a secured broker binds ipc:// or tcp://"
    said = refused(Broker, context=zmq.green.Context.instance(), allow="127.0.0.1")
    assert said == "a secured broker has a context of its own: leave out context"


def test_who_a_credential_is(folder, users_file, hashes):
    """A user of a list; whoever is on none, nobody; without a list, what it is known by."""
    folder.put("alice.key", KEYS[0])
    listed = make_gate(curve_key=SECRET, curve_clients=folder.path)
    assert listed.key_credential(KEYS[0].decode()) == KEYS[0].decode()
    assert listed.user_of(KEYS[0].decode()) == "alice"
    assert listed.key_credential(KEYS[1].decode()) == ""
    assert listed.user_of(KEYS[1].decode()) == REVOKED
    anybody = make_gate(curve_key=SECRET, curve_clients="*")
    assert anybody.user_of(anybody.key_credential(KEYS[1].decode())) == KEYS[1].decode()
    replaced(users_file, f"alice:{hashes[0]}\n")
    named = make_gate(plain_users=users_file)
    assert named.user_of(password_credential("alice", read_hash(hashes[0]))) == "alice"
    assert named.user_of(password_credential("alice", read_hash(hashes[1]))) == REVOKED


@pytest.mark.parametrize(
    ("answer", "user"),
    [(True, "the key"), ("alice", "alice"), (None, ""), (False, ""), ("", ""), (0, ""), ([], "")],
    ids=repr,
)
def test_what_a_callables_answer_means(answer, user):
    asked = make_gate(curve_key=SECRET, curve_clients=lambda key: answer)
    assert asked.key_credential("the key") == user
    asked = make_gate(plain_users=lambda name, password: answer)
    assert asked.password_credential("the key", PASSWORD) == user


@pytest.mark.parametrize("answer", [5, 1, b"alice", ["alice"], "a\nb", "\0revoked", "x" * 256], ids=repr)
def test_an_answer_that_is_no_user_is_an_error(answer):
    with pytest.raises(ValueError, match="must return a user's name, True, or something false"):
        make_gate(curve_key=SECRET, curve_clients=lambda key: answer).key_credential("the key")


# Addresses


IPC = ":0:0:1234"


def of_null(address):
    """The frames of a ZAP request about a connection from `address`."""
    return b"1.0", b"1", b"gmdp", address.encode(), b"", b"NULL"


@pytest.mark.parametrize(
    ("lists", "inside", "outside"),
    [
        ({"allow": "192.0.2.1"}, ["192.0.2.1"], ["192.0.2.2", "2001:db8::1", IPC, ""]),
        ({"allow": ["192.0.2.0/24"]}, ["192.0.2.0", "192.0.2.255"], ["192.0.3.0", "192.0.1.255", IPC]),
        ({"allow": ["0.0.0.0/0"]}, ["192.0.2.1", "::ffff:192.0.2.1"], ["2001:db8::1", IPC]),
        ({"allow": ["::/0"]}, ["2001:db8::1"], ["192.0.2.1", "::ffff:192.0.2.1", IPC]),
        ({"allow": ["2001:db8::1"]}, ["2001:db8::1", "2001:DB8:0::0:1"], ["2001:db8::2", "192.0.2.1"]),
        ({"allow": ["2001:db8::/32"]}, ["2001:db8:1::5"], ["2001:db9::"]),
        ({"allow": ["fe80::/10"]}, ["fe80::1%eth0", "fe80::1"], ["2001:db8::1%eth0"]),
        ({"allow": ["192.0.2.0/24"]}, ["::ffff:192.0.2.7"], ["::ffff:192.0.3.7", "::192.0.2.7"]),
        ({"allow": ["::ffff:192.0.2.0/120"]}, ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.3.7"]),
        ({"allow": ["::ffff:192.0.2.7"]}, ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.8"]),
        ({"allow": "ipc"}, [IPC, "localhost:0:0:1234"], ["192.0.2.1", "::1", "", "localhost", "garbage"]),
        ({"allow": ["ipc", "::1"]}, [IPC, "::1"], ["127.0.0.1"]),
        ({"allow": ("127.0.0.1", "192.0.2.0/255.255.255.0")}, ["127.0.0.1", "192.0.2.9"], ["127.0.0.2"]),
        ({"deny": ["192.0.2.0/24"]}, ["192.0.3.1", "2001:db8::1", IPC], ["192.0.2.1", "::ffff:192.0.2.1"]),
        ({"deny": ["::ffff:192.0.2.0/120"]}, ["192.0.3.1"], ["192.0.2.1", "::ffff:192.0.2.1"]),
        ({"deny": "ipc"}, ["192.0.2.1", "::1"], [IPC, "", "garbage"]),
        ({"deny": ["0.0.0.0/0", "::/0"]}, [IPC], ["192.0.2.1", "::1", "", "garbage"]),
        ({"allow": "192.0.2.0/24", "deny": "192.0.2.1"}, ["192.0.2.2"], ["192.0.2.1", "192.0.3.1"]),
        ({"allow": "192.0.2.1", "deny": "192.0.2.0/24"}, [], ["192.0.2.1", "192.0.2.2"]),
        ({"allow": None, "deny": None}, ["192.0.2.1", "::1", IPC, ""], []),
    ],
    ids=str,
)
def test_who_may_come_from_where(lists, inside, outside):
    host = GateHost(**lists)
    answers = {address: host.ask(*of_null(address)) for address in [*inside, *outside]}
    assert answers == {**dict.fromkeys(inside, ("200", "")), **dict.fromkeys(outside, ("400", "address"))}


@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost", "192.0.2", "192.0.2.256", "192.0.2.1/33", "192.0.2.1/24", "192.0.2.0/24 ", "1", "IPC", "*"),
        *("2001:db8::1::2", "2001:db8::1/32", "ipc://x", "tcp://192.0.2.1:5555", "192.0.2.1:5555", "[::1]"),
        *(5, True, [None], b"\xc0\x00\x02\x01", ("192.0.2.0", 24), 3.5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("option", ["allow", "deny"])
def test_an_address_that_is_none_is_shown(option, address):
    said = refused(make_gate, **{option: [address]})
    assert said == f"{option}: an address must be like '192.0.2.1', '192.0.2.0/24' or 'ipc', not {address!r}"


@pytest.mark.parametrize("option", ["allow", "deny"])
def test_addresses_of_another_type_are_refused(option):
    for given in (5, b"192.0.2.1", {"192.0.2": 1}):
        assert refused(Broker, **{option: given}).startswith(f"{option}: an address must be like ")


# No secret is shown


@pytest.mark.parametrize("kind", CONNECTING)
@pytest.mark.parametrize("keywords", [KEY, NAME], ids=["keys", "password"])
def test_s7_what_has_a_secret_does_not_show_it(unused_endpoint, kind, keywords):
    """S7: in its repr, before it runs and while it does."""
    one = CONNECTING[kind](unused_endpoint, **keywords)
    assert_tells_nothing(one)
    assert_tells_nothing(one._credentials)
    with one:
        assert_tells_nothing(one)
    assert_tells_nothing(one)


@pytest.mark.parametrize(
    "keywords",
    [{"curve_key": SECRET, "curve_clients": "*"}, {"plain_users": lambda name, password: password == PASSWORD}],
    ids=["keys", "password"],
)
def test_s7_a_broker_does_not_show_its_secret(keywords):
    """S7: nor do its gate, its options and its statistics."""
    assert_tells_nothing(make_gate(**keywords))
    broker = Broker("tcp://127.0.0.1:*", **keywords)
    assert_tells_nothing(broker)
    with broker:
        assert_tells_nothing(broker)
        assert_tells_nothing(broker.options)
        assert_tells_nothing(broker.statistics())
        assert_tells_nothing(broker._gate)


def test_a_password_is_set_where_a_link_leads_and_the_file_stays_whose_it_was(tmp_path):
    """A broker under another user can read it as before."""
    file = tmp_path / "users"
    set_password(file, "alice", PASSWORD)
    file.chmod(0o640)
    os.chown(file, os.getuid(), os.getgid())
    link = tmp_path / "link"
    link.symlink_to("users")
    set_password(link, "bob", PASSWORD)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(UserFile(file).hashes) == ["alice", "bob"]


def test_a_pipe_in_place_of_a_list_is_not_waited_for(tmp_path):
    """Neither one that has the name of a key, nor one that has the name of the file of users."""
    os.mkfifo(tmp_path / "pipe.key")
    folder = KeyFolder(tmp_path)
    assert folder.users == {}
    assert len(folder.notes) == 1
    with pytest.raises(ConfigurationError, match="not a file"):
        UserFile(tmp_path / "pipe.key")


def test_a_list_that_changed_while_the_broker_was_stopped_is_read_when_it_starts(tmp_path):
    """A removed key does not get in for a moment."""
    generate_keys("broker", tmp_path)
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    generate_keys("alice", allowed)
    broker = Broker("tcp://127.0.0.1:*", curve_key=tmp_path / "broker.key_secret", curve_clients=allowed)
    (allowed / "alice.key").unlink()
    with broker:
        assert broker._gate.key_credential(zmq.auth.load_certificate(allowed / "alice.key_secret")[0].decode()) == ""


def test_a_change_is_taken_up_when_it_is_seen_for_the_second_time(tmp_path):
    """What an editor truncates for a moment throws nobody out."""
    file = tmp_path / "users"
    set_password(file, "alice", PASSWORD)
    users = UserFile(file)
    text = file.read_text()
    file.write_text("")
    assert not users.poll()
    file.write_text(text)
    assert not users.poll()
    assert list(users.hashes) == ["alice"]
    file.write_text("")
    assert [users.poll(), users.poll(), users.poll()] == [False, True, False]
    assert users.users == {}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_a_key_that_could_not_be_read_for_the_moment_is_tried_again(folder, monkeypatch, number):
    """No descriptors left, or no right to: it is read when that has passed, though nothing changed on disk."""
    folder.put("alice.key", KEYS[0])

    def failing(path):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(zmq.auth, "load_certificate", failing)
        assert folder.open().users == {}
        assert not folder.list.users
        assert len(folder.notes()) == 1
        looked(folder.list)
        assert folder.notes() == []  # it was said
    assert folder.read() == {0: "alice"}


def test_a_key_replaced_in_place_with_its_old_time_is_noticed(folder):
    folder.put("alice.key", KEYS[0])
    folder.open()
    path = folder.path / "alice.key"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(KEYS[0], KEYS[1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.read() == {1: "alice"}


@pytest.mark.parametrize(
    ("name", "password"),
    [("eve", ""), ("", "x"), ("\ufffd", "x"), ("eve", "x\ufffd"), ("a\nb", "x"), ("eve", "x\0"), ("x" * 256, "x")],
    ids=repr,
)
def test_a_callable_is_not_asked_about_what_is_no_name_or_no_password(name, password):
    """No empty password, as some directories take for anybody's; nothing that pyzmq could not decode."""
    asked = []
    assert make_gate(plain_users=lambda *both: asked.append(both) or True).password_credential(name, password) == ""
    assert asked == []


@pytest.mark.parametrize(
    ("endpoint", "clear"),
    [
        ("tcp://127.0.0.1:5555", False),
        ("tcp://localhost:5555", False),
        ("tcp://[::1]:5555", False),
        ("ipc:///run/broker", False),
        ("tcp://192.0.2.1:5555", True),
        ("tcp://localhost.example:5555", True),
    ],
)
def test_passwords_in_clear_are_warned_of(caplog, users_file, endpoint, clear):
    """At either end, without the password; on the machine itself, and with keys, there is nothing to warn of."""
    set_password(users_file, "alice", PASSWORD)
    Broker(endpoint, plain_users=users_file)
    Client(endpoint, username="alice", password=PASSWORD)
    Client(endpoint, server_key=PUBLIC)
    assert len(caplog.records) == (2 if clear else 0)
    assert PASSWORD not in caplog.text
    Broker("tcp://*:5555", plain_users=users_file)
    assert "in clear" in caplog.records[-1].getMessage()
