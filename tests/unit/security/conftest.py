"""What tests of several modules of gmdp.security share."""

import os

import pytest
from secured import KEYS, write_key_file

from gmdp.security.lists import KeyFolder


@pytest.fixture
def umask():
    """A function: sets the umask, until the test ends."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


class FolderOfKeys:
    """A folder of keys, and the list that is loaded from it."""

    def __init__(self, path):
        self.path = path
        self.path.mkdir(exist_ok=True)
        self.list = None

    def put(self, name, key):
        write_key_file(self.path / (name + ".new"), key).replace(self.path / name)

    def open(self):
        self.list = KeyFolder(self.path)
        return self

    def poll_twice(self):
        """Poll the list as often as it takes to load a change; its users then, None without a change."""
        return self.users if self.list.poll() or self.list.poll() else None

    @property
    def users(self):
        """The users by the numbers of their keys."""
        return {KEYS.index(key.encode()): user for key, user in self.list.users.items()}

    def notes(self):
        notes, self.list.notes = self.list.notes, []
        return notes


@pytest.fixture
def folder(tmp_path):
    return FolderOfKeys(tmp_path / "keys")


@pytest.fixture(scope="session")
def hashes():
    """Three hashes that cost little."""
    return [f"scrypt$2$1$1$MDEyMzQ1Njc4OWFiY2RlZg==${digit * 43}=" for digit in "AEI"]


@pytest.fixture
def users_file(tmp_path):
    """The path of a file of users; the test writes it."""
    return tmp_path / "users"
