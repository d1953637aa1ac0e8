"""Lists of those who may connect, in files that may change at any time.

What cannot be read allows nobody.  Each maps *credentials* (what ZeroMQ is told that a
connection is: a key, or a name with a mark of its password) to users, so that a new key
or password under an old name ends what the old one opened.
"""

from __future__ import annotations

import abc
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

import zmq.auth

from ..core.broker.access import is_key
from ..exceptions import ConfigurationError
from .passwords import Hash, hash_password, read_hash

#: The longest name of a user, in characters.
MAX_USER = 255

_SUFFIX = ".key"


def is_user(name: object) -> bool:
    """Can this be the name of a user?"""
    return isinstance(name, str) and 0 < len(name) <= MAX_USER and name.isprintable()


class List(abc.ABC):
    """A list of those who may connect.  `path`: where it is."""

    #: By credential, the user; replaced whole.
    users: Mapping[str, str]
    #: By user, the hash of the password; replaced whole, before `users`.
    hashes: Mapping[str, Hash]
    #: What is worth a line in a log, and was not told yet.
    notes: list[str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.users, self.hashes = {}, {}
        self.notes = []
        #: What was taken up last, and what was seen last: a stamp, or why it could not be read.
        self._taken: object = None
        self._seen: object = None
        self._noted: list[str] = []

    @abc.abstractmethod
    def _stamp(self) -> object:
        """What differs once it has changed; OSError if it cannot be read."""

    @abc.abstractmethod
    def _load(self) -> tuple[bool, list[str]]:
        """Take it up: (is that all there is to it?, what to note).  OSError, ValueError if it is wrong."""

    def read(self) -> bool:
        """Look at it; True if what may have changed was taken up.

        That is so when a change is seen for the second time: what is being written, or put
        in its place, is left alone.  Blocks for as long as the disk does.
        """
        error: Exception | None = None
        stamp: object
        try:
            stamp = self._stamp()
        except OSError as failure:
            error, stamp = failure, failure.strerror or type(failure).__name__
        settled, self._seen = stamp == self._seen, stamp
        if stamp == self._taken or not settled:
            return False
        whole = True
        notes: list[str] = []
        if error is None:
            try:
                whole, notes = self._load()
            except (OSError, ValueError) as failure:
                error = failure
        if error is not None:
            why = error.strerror if isinstance(error, OSError) else str(error)
            notes = [f"cannot read {self.path}: {why}: nobody is allowed"]
            self.forget()
            whole = not isinstance(error, OSError) or stamp == error.strerror
        # What could not be read for want of a descriptor, say, is tried again.
        self._taken = stamp if whole else None
        self.notes += [note for note in notes if note not in self._noted]
        self._noted = notes
        return True

    def settle(self) -> None:
        """Take it up as it is now."""
        self.read()
        self.read()

    def forget(self) -> None:
        """Nobody is on it, until it is read anew."""
        self.hashes, self.users = {}, {}
        self._taken = None


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs once a file has changed; OSError if there is none."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # to read a pipe, say, could take for ever
        raise OSError(errno.EINVAL, "it is no file")
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class KeyFolder(List):
    """A folder of public keys, ``NAME.key``: whoever has such a key is user NAME.

    ConfigurationError if there is no such folder now.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        if not self.path.is_dir():
            raise ConfigurationError(f"curve_clients: {self.path} is no folder of keys")
        self.settle()

    def _stamp(self) -> object:
        files: list[tuple[object, ...]] = []
        for name in self._names():
            try:
                files.append((name, *_stamp(self.path / name)))
            except OSError as error:  # it is gone by now, or a link to nothing
                files.append((name, error.strerror))
        return files

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.path) if name.endswith(_SUFFIX))

    def _load(self) -> tuple[bool, list[str]]:
        users: dict[str, str] = {}
        notes = []
        whole = True
        for name in self._names():
            path, user = self.path / name, name[: -len(_SUFFIX)]
            try:
                _stamp(path)
                key = zmq.auth.load_certificate(path)[0].decode("ascii")
            except (OSError, ValueError, IndexError) as error:
                why = ""
                if isinstance(error, OSError) and error.errno is not None:
                    why = f": {error.strerror}"
                    whole = whole and error.errno in (errno.ENOENT, errno.EINVAL, errno.ELOOP, errno.ENOTDIR)
                notes.append(f"{path} holds no key, and allows nobody{why}")
                continue
            if not is_key(key) or not is_user(user):
                notes.append(f"{path} holds no key in Z85, or its name cannot be a user's: it allows nobody")
            elif key in users:
                notes.append(f"{path} holds the key of {users[key]!r}, too: it is that user's")
            else:
                users[key] = user
        self.users = users
        return whole, notes


class UserFile(List):
    """A file of users and the hashes of their passwords (:mod:`~.passwords`).

    ConfigurationError if it cannot be read now, or is wrong.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            self._taken = self._seen = self._stamp()
            self._load()
        except OSError as error:
            raise ConfigurationError(f"plain_users: cannot read {self.path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigurationError(f"plain_users: {self.path}: {error}") from None

    def _stamp(self) -> object:
        return _stamp(self.path)

    def _load(self) -> tuple[bool, list[str]]:
        hashes: dict[str, Hash] = {}
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            user, _, text = line.partition(":")
            try:
                hashed = read_hash(text)
            except ValueError:
                raise ValueError(f"line {number} must be NAME:HASH, as `gmdp passwd` writes it") from None
            if not is_user(user) or user in hashes:
                raise ValueError(f"line {number}: {user!r} cannot be a user's name, or has a line already")
            hashes[user] = hashed
        self.hashes = hashes
        self.users = {credential(user, hashed): user for user, hashed in hashes.items()}
        return True, []


def set_password(path: str | os.PathLike[str], user: str, password: str) -> None:
    """Set the password of `user` in a file of users, or add both; the file is made if need be.

    ConfigurationError if the file is wrong or cannot be written, or one of them makes no sense.
    """
    if not is_user(user) or ":" in user or user.startswith("#") or user != user.strip():
        raise ConfigurationError(f"a user's name is printable, has no colon and no blank at its ends: not {user!r}")
    file = Path(path)
    try:
        line = f"{user}:{hash_password(password)}"
        lines: list[str] = []
        if file.exists():
            UserFile(file)
            lines = file.read_text(encoding="utf-8").splitlines()
        places = [at for at, old in enumerate(lines) if old.strip().startswith(f"{user}:")]
        if places:
            lines[places[0]] = line
        else:
            lines.append(line)
        # Whole or not at all, and never readable by others than before.
        file = file.resolve()
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as new:
            try:
                new.write("\n".join(lines) + "\n")
                new.close()
                if file.exists():
                    status = os.stat(file)
                    if (status.st_uid, status.st_gid) != (os.getuid(), os.getgid()):
                        os.chown(new.name, status.st_uid, status.st_gid)
                    os.chmod(new.name, stat.S_IMODE(status.st_mode))
                os.replace(new.name, file)
            except BaseException:
                os.unlink(new.name)
                raise
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def credential(user: str, hashed: Hash) -> str:
    """What a connection of `user` with the password of this hash is known by."""
    return f"{hashlib.sha256(str(hashed).encode()).hexdigest()[:16]}:{user}"
