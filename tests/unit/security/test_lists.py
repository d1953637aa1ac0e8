"""Lists of users: what is loaded from folders and files, and what becomes of wrong ones."""

import errno
import os
import stat
from pathlib import Path

import pytest
import zmq.auth
from secured import JUNK_FILES, KEYS, PASSWORD, refusal_of, replace_file, write_key_file

from gmdp import ConfigurationError
from gmdp.security.lists import KeyFolder, UserFile, password_credential, set_password
from gmdp.security.passwords import read_hash


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def poll_twice(users):
    """Poll a list as often as it takes to load a change.  Returns whether there was one."""
    return users.poll() or users.poll()


# A folder of keys


def test_keys_are_added_changed_and_removed(folder):
    folder.put("alice.key", KEYS[0])
    assert folder.open().users == {0: "alice"}
    assert folder.poll_twice() is None
    folder.put("bob.key", KEYS[1])
    assert folder.poll_twice() == {0: "alice", 1: "bob"}
    assert folder.poll_twice() is None
    folder.put("alice.key", KEYS[2])
    assert folder.poll_twice() == {2: "alice", 1: "bob"}
    (folder.path / "alice.key").unlink()
    assert folder.poll_twice() == {1: "bob"}
    (folder.path / "bob.key").rename(folder.path / "carol.key")
    assert folder.poll_twice() == {1: "carol"}
    assert folder.notes() == []


def test_files_that_zmq_auth_wrote_are_read(folder):
    public, secret = zmq.auth.create_certificates(folder.path, "alice")
    assert folder.open().list.users == {zmq.auth.load_certificate(public)[0].decode(): "alice"}
    Path(secret).unlink()
    assert folder.poll_twice() is None


def test_an_empty_folder_allows_nobody(folder):
    assert folder.open().users == {}


@pytest.mark.parametrize("content", JUNK_FILES.values(), ids=JUNK_FILES)
def test_a_file_without_a_key_allows_nobody_and_leaves_others_alone(folder, content):
    folder.put("alice.key", KEYS[0])
    folder.put("bob.key", KEYS[1])
    folder.open()
    replace_file(folder.path / "alice.key", content)
    poll_twice(folder.list)
    assert KEYS[0].decode() not in folder.list.users
    assert folder.list.users[KEYS[1].decode()] == "bob"


def test_a_half_written_key_counts_once_it_is_whole(folder):
    folder.put("bob.key", KEYS[1])
    folder.open()
    whole = write_key_file(folder.path / "whole", KEYS[0]).read_text()
    path = folder.path / "alice.key"
    for end in range(0, len(whole) - 2, 7):
        path.write_text(whole[:end])
        poll_twice(folder.list)
        assert folder.users == {1: "bob"}, whole[:end]
    path.write_text(whole)
    assert folder.poll_twice() == {0: "alice", 1: "bob"}


def test_of_two_files_with_one_key_the_first_counts(folder):
    folder.put("a.key", KEYS[0])
    folder.put("b.key", KEYS[0])
    assert folder.open().users == {0: "a"}
    [note] = folder.notes()
    assert note.startswith(f"{folder.path / 'b.key'} holds the key of 'a'")
    (folder.path / "a.key").unlink()
    assert folder.poll_twice() == {0: "b"}


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
    """NAME.key belongs to user NAME; a name that no user can have allows nobody."""
    write_key_file(folder.path / name, KEYS[0])
    assert folder.open().users == ({} if user is None else {0: user})


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "link"])
def test_folders_and_links_leave_others_alone(folder, make):
    """A folder, or a link to nothing, as open editors leave it."""
    folder.put("alice.key", KEYS[0])
    folder.open()
    make(folder.path / ".#bob.key")
    poll_twice(folder.list)
    assert folder.users == {0: "alice"}
    [note] = folder.notes()
    assert note.startswith(str(folder.path / ".#bob.key"))
    assert folder.poll_twice() is None
    assert folder.notes() == []


def test_a_file_removed_while_the_folder_is_read_leaves_others_alone(folder, monkeypatch):
    folder.put("alice.key", KEYS[0])
    folder.put("bob.key", KEYS[1])
    folder.open()
    listdir = os.listdir

    def list_and_remove_one(path):
        names = listdir(path)
        (folder.path / "alice.key").unlink(missing_ok=True)
        return names

    monkeypatch.setattr(os, "listdir", list_and_remove_one)
    assert (folder.poll_twice() or folder.poll_twice()) == {1: "bob"}
    monkeypatch.undo()
    poll_twice(folder.list)
    assert folder.users == {1: "bob"}


def test_without_the_folder_nobody_is_allowed_until_it_is_back(folder):
    folder.put("alice.key", KEYS[0])
    folder.open()
    away = folder.path.rename(folder.path.with_name("away"))
    assert folder.poll_twice() == {}
    [note] = folder.notes()
    assert f"{folder.path}: No such file or directory" in note
    assert folder.poll_twice() is None
    assert folder.notes() == []  # it is logged once
    away.rename(folder.path)
    assert folder.poll_twice() == {0: "alice"}


@pytest.mark.parametrize("make", [lambda path: None, Path.touch], ids=["nothing", "file"])
def test_without_a_folder_there_is_no_list(tmp_path, make):
    path = tmp_path / "keys"
    make(path)
    assert refusal_of(KeyFolder, path).startswith(f"curve_clients: {path} ")


# A file of users


def names(users):
    """The users of a list, sorted."""
    return sorted(users.users.values())


def test_users_are_added_changed_and_removed(users_file, hashes):
    users = UserFile(replace_file(users_file, f"alice:{hashes[0]}\n"))
    assert users.users == {password_credential("alice", read_hash(hashes[0])): "alice"}
    assert str(users.hashes.get("alice")) == hashes[0]
    assert not poll_twice(users)
    replace_file(users_file, f"alice:{hashes[0]}\nbob:{hashes[1]}\n")
    assert poll_twice(users)
    assert names(users) == ["alice", "bob"]
    before = set(users.users)
    replace_file(users_file, f"alice:{hashes[2]}\nbob:{hashes[1]}\n")
    assert poll_twice(users)
    assert before - set(users.users) == {password_credential("alice", read_hash(hashes[0]))}
    replace_file(users_file, f"bob:{hashes[1]}\n")
    assert poll_twice(users)
    assert names(users) == ["bob"]
    assert users.hashes.get("alice") is None
    assert users.notes == []


def test_comments_blank_lines_and_the_ends_of_lines(users_file, hashes):
    text = f"# users\r\n\r\n  alice:{hashes[0]}  \r\n\t# bob:{hashes[1]}\r\ncarol smith:{hashes[1]}"
    assert names(UserFile(replace_file(users_file, text))) == ["alice", "carol smith"]


def test_an_empty_file_of_users_allows_nobody(users_file):
    assert UserFile(replace_file(users_file, "")).users == {}


WRONG_LINES = {
    "no hash": ("alice", "line 1 "),
    "a password": (f"alice:{PASSWORD}", "line 1 "),
    "a password alone": (PASSWORD, "line 1 "),
    "twice": ("# c\nalice:{0}\nalice:{1}", "line 3: 'alice'"),
    "no name": (":{0}", "line 1: ''"),
    "long name": ("x" * 256 + ":{0}", "line 1: '" + "x" * 256 + "'"),
    "control character": ("a\x07:{0}", r"line 1: 'a\x07'"),
    "not UTF-8": (b"\xff", "position 0"),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_file_is_refused_first_and_allows_nobody_later(users_file, hashes, name):
    text, fact = WRONG_LINES[name]
    text = text.format(*hashes) if isinstance(text, str) else text
    message = refusal_of(UserFile, replace_file(users_file, text))
    assert message.startswith(f"plain_users: {users_file}: ")
    assert fact in message
    users = UserFile(replace_file(users_file, f"alice:{hashes[0]}\n"))
    replace_file(users_file, text)
    assert poll_twice(users)
    assert users.users == {}
    assert users.hashes.get("alice") is None
    [note] = users.notes
    assert str(users_file) in note
    assert fact in note
    assert not poll_twice(users)
    assert len(users.notes) == 1  # it is logged once
    replace_file(users_file, f"alice:{hashes[0]}\n")
    assert poll_twice(users)
    assert names(users) == ["alice"]


def test_without_the_file_nobody_is_allowed_until_it_is_back(users_file, hashes):
    message = refusal_of(UserFile, users_file)
    assert message.startswith("plain_users: ")
    assert f"{users_file}: No such file or directory" in message
    users = UserFile(replace_file(users_file, f"alice:{hashes[0]}\n"))
    users_file.unlink()
    assert poll_twice(users)
    assert users.users == {}
    [note] = users.notes
    assert f"{users_file}: No such file or directory" in note
    assert not poll_twice(users)
    replace_file(users_file, f"alice:{hashes[0]}\n")
    assert poll_twice(users)
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
def test_a_wrong_name_leaves_the_file_as_it_is(users_file, hashes, user):
    users_file.write_text(f"a:{hashes[0]}\n")
    assert repr(user) in refusal_of(set_password, users_file, user, PASSWORD)
    assert users_file.read_text() == f"a:{hashes[0]}\n"


@pytest.mark.parametrize("password", ["", PASSWORD * 10, "\ud800" + PASSWORD], ids=["empty", "long", "not UTF-8"])
def test_a_wrong_password_leaves_the_file_as_it_is(users_file, password):
    assert "255" in refusal_of(set_password, users_file, "alice", password)
    assert not users_file.exists()


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_file_is_left_as_it_is(users_file, hashes, name):
    text, fact = WRONG_LINES[name]
    replace_file(users_file, text.format(*hashes) if isinstance(text, str) else text)
    before = users_file.read_bytes()
    assert fact in refusal_of(set_password, users_file, "bob", PASSWORD)
    assert users_file.read_bytes() == before


def test_a_path_that_can_be_no_file_of_users_is_named(tmp_path):
    assert str(tmp_path) in refusal_of(set_password, tmp_path, "alice", PASSWORD)
    nowhere = tmp_path / "nowhere" / "users"
    assert f"{nowhere}: No such file or directory" in refusal_of(set_password, nowhere, "alice", PASSWORD)


def test_a_file_of_users_is_replaced_whole_or_not_at_all(users_file, hashes, monkeypatch):
    users_file.write_text(f"alice:{hashes[0]}\n")

    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    message = refusal_of(set_password, users_file, "alice", PASSWORD)
    assert f"{users_file}: No space left on device" in message
    assert users_file.read_text() == f"alice:{hashes[0]}\n"
    assert [path.name for path in users_file.parent.iterdir()] == ["users"]


def test_a_link_is_followed_to_set_a_password_and_the_file_keeps_its_owner(tmp_path):
    """A broker that runs as another user can still read the file."""
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


def test_a_pipe_is_not_read(tmp_path):
    """Neither in place of a key, nor in place of a file of users."""
    os.mkfifo(tmp_path / "pipe.key")
    folder = KeyFolder(tmp_path)
    assert folder.users == {}
    assert len(folder.notes) == 1
    with pytest.raises(ConfigurationError, match="plain_users"):
        UserFile(tmp_path / "pipe.key")


def test_a_change_is_loaded_when_it_is_seen_for_the_second_time(tmp_path):
    """An editor that truncates the file for a moment revokes nobody."""
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
def test_a_key_that_cannot_be_read_for_the_moment_is_read_again(folder, monkeypatch, number):
    """Without a descriptor or a permission; the key is read once there is one, though its file is the same."""
    folder.put("alice.key", KEYS[0])

    def failing(path):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(zmq.auth, "load_certificate", failing)
        assert folder.open().users == {}
        assert not folder.list.users
        assert len(folder.notes()) == 1
        poll_twice(folder.list)
        assert folder.notes() == []  # it is logged once
    assert folder.poll_twice() == {0: "alice"}


def test_a_key_replaced_in_place_with_its_old_time_is_noticed(folder):
    folder.put("alice.key", KEYS[0])
    folder.open()
    path = folder.path / "alice.key"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(KEYS[0], KEYS[1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.poll_twice() == {1: "alice"}
