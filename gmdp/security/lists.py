"""Lists of the users who may connect, in files that may change at any time.

The rules of this module:

* A list that cannot be read allows nobody.
* A list maps *credentials* to users.  libzmq knows a connection by its credential: a key,
  or a name with a mark of its password.  A new key or password under an old name is thus
  another credential, and ends the connections of the old one.
* A change is loaded when it is seen for the second time: a file that is just being written,
  or put in its place, is left alone.
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
    """Return whether `name` can be the name of a user."""
    return isinstance(name, str) and 0 < len(name) <= MAX_USER and name.isprintable()


class UserList(abc.ABC):
    """A list of the users who may connect.

    One thread may poll the list while another one reads `users` and `hashes`.

    Attributes:
        path: Where the list is.
    """

    #: The user of each credential; replaced whole.
    users: Mapping[str, str]
    #: The hash of each user's password; replaced whole, before `users`.
    hashes: Mapping[str, Hash]
    #: Lines for the log that have not been logged yet.
    notes: list[str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.users, self.hashes = {}, {}
        self.notes = []
        #: Stamp of the list last loaded (or the error's text); None if the list must be loaded again.
        self._loaded_stamp: object = None
        #: Stamp of the list last seen (or the error's text).
        self._last_stamp: object = None
        #: The notes of the last load, which are not logged again.
        self._last_notes: list[str] = []

    @abc.abstractmethod
    def _stamp(self) -> object:
        """Return a value that differs once the list has changed; OSError if the list cannot be read."""

    @abc.abstractmethod
    def _load(self) -> tuple[bool, list[str]]:
        """Load the list.  Returns (complete, notes for the log); OSError or ValueError if the list is wrong."""

    def poll(self) -> bool:
        """Look at the list, and load it if it has changed.

        Returns whether the list was loaded.  A change is loaded when it is seen for the second time.
        Blocks for as long as the disk does.
        """
        error: Exception | None = None
        stamp: object
        try:
            stamp = self._stamp()
        except OSError as failure:
            error, stamp = failure, failure.strerror or type(failure).__name__
        is_settled, self._last_stamp = stamp == self._last_stamp, stamp
        if stamp == self._loaded_stamp or not is_settled:
            return False
        complete = True
        notes: list[str] = []
        if error is None:
            try:
                complete, notes = self._load()
            except (OSError, ValueError) as failure:
                error = failure
        if error is not None:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            notes = [f"cannot read {self.path}: {reason}: nobody is allowed"]
            self.clear()
            complete = not isinstance(error, OSError) or stamp == error.strerror
        # A list that could not be read for the moment (no descriptor was left, say) is loaded again.
        self._loaded_stamp = stamp if complete else None
        self.notes += [note for note in notes if note not in self._last_notes]
        self._last_notes = notes
        return True

    def load_now(self) -> None:
        """Load the list as it is now, if it has changed."""
        self.poll()
        self.poll()

    def clear(self) -> None:
        """Allow nobody until the list is loaded again."""
        self.hashes, self.users = {}, {}
        self._loaded_stamp = None


def _file_stamp(path: Path) -> tuple[int, ...]:
    """Return a value that differs once a file has changed; OSError if `path` is not a file."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe, say, could take for ever
        raise OSError(errno.EINVAL, "not a file")
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class KeyFolder(UserList):
    """A folder of public keys: the key in the file ``NAME.key`` belongs to the user NAME.

    Raises ConfigurationError if the folder does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        if not self.path.is_dir():
            raise ConfigurationError(f"curve_clients: {self.path} is not a folder")
        self.load_now()

    def _stamp(self) -> object:
        files: list[tuple[object, ...]] = []
        for name in self._names():
            try:
                files.append((name, *_file_stamp(self.path / name)))
            except OSError as error:  # removed meanwhile, or a link to nothing
                files.append((name, error.strerror))
        return files

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.path) if name.endswith(_SUFFIX))

    def _load(self) -> tuple[bool, list[str]]:
        users: dict[str, str] = {}
        notes = []
        complete = True
        for name in self._names():
            path, user = self.path / name, name[: -len(_SUFFIX)]
            try:
                _file_stamp(path)
                key = zmq.auth.load_certificate(path)[0].decode("ascii")
            except (OSError, ValueError, IndexError) as error:
                reason = ""
                if isinstance(error, OSError) and error.errno is not None:
                    reason = f": {error.strerror}"
                    # Any other error may pass without a change of the file.
                    complete = complete and error.errno in (errno.ENOENT, errno.EINVAL, errno.ELOOP, errno.ENOTDIR)
                notes.append(f"{path} holds no key and allows nobody{reason}")
                continue
            if not is_key(key) or not is_user(user):
                notes.append(f"{path} holds no key in Z85, or its name cannot be a user's name: it allows nobody")
            elif key in users:
                notes.append(f"{path} holds the key of {users[key]!r}, too: the key stays with that user")
            else:
                users[key] = user
        self.users = users
        return complete, notes


class UserFile(UserList):
    """A file of users and the hashes of their passwords (:mod:`~.passwords`).

    Raises ConfigurationError if the file cannot be read, or is wrong.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            self._loaded_stamp = self._last_stamp = self._stamp()
            self._load()
        except OSError as error:
            raise ConfigurationError(f"plain_users: cannot read {self.path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigurationError(f"plain_users: {self.path}: {error}") from None

    def _stamp(self) -> object:
        return _file_stamp(self.path)

    def _load(self) -> tuple[bool, list[str]]:
        hashes: dict[str, Hash] = {}
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            user, _, text = line.partition(":")
            try:
                password_hash = read_hash(text)
            except ValueError:
                raise ValueError(f"line {number} must be NAME:HASH, as `gmdp passwd` writes it") from None
            if not is_user(user) or user in hashes:
                raise ValueError(f"line {number}: {user!r} cannot be a user's name, or is listed above")
            hashes[user] = password_hash
        self.hashes = hashes
        self.users = {password_credential(user, hashes[user]): user for user in hashes}
        return True, []


def set_password(path: str | os.PathLike[str], user: str, password: str) -> None:
    """Set the password of a user in a file of users.

    A user that is not listed is added, and a file that does not exist is made.

    Args:
        path: The file of users.
        user: The user's name.
        password: The password; 1 to 255 bytes of UTF-8.

    Raises:
        ConfigurationError: The file is wrong or cannot be written, or the name or the
            password is not valid.
    """
    if not is_user(user) or ":" in user or user.startswith("#") or user != user.strip():
        raise ConfigurationError(
            f"a user's name must be printable, without a colon and without blanks at its ends, not {user!r}"
        )
    file = Path(path)
    try:
        line = f"{user}:{hash_password(password)}"
        lines: list[str] = []
        if file.exists():
            UserFile(file)
            lines = file.read_text(encoding="utf-8").splitlines()
        indices = [index for index, old in enumerate(lines) if old.strip().startswith(f"{user}:")]
        if indices:
            lines[indices[0]] = line
        else:
            lines.append(line)
        # The file is replaced whole or not at all, and no other user gains access to it.
        file = file.resolve()
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as replacement:
            try:
                replacement.write("\n".join(lines) + "\n")
                replacement.close()
                if file.exists():
                    status = os.stat(file)
                    if (status.st_uid, status.st_gid) != (os.getuid(), os.getgid()):
                        os.chown(replacement.name, status.st_uid, status.st_gid)
                    os.chmod(replacement.name, stat.S_IMODE(status.st_mode))
                os.replace(replacement.name, file)
            except BaseException:
                os.unlink(replacement.name)
                raise
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def password_credential(user: str, password_hash: Hash) -> str:
    """Return the credential of `user` with the password of this hash."""
    return f"{hashlib.sha256(str(password_hash).encode()).hexdigest()[:16]}:{user}"
