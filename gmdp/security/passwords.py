"""Passwords at rest: scrypt (RFC 7914), one user a line.

::

    # NAME:HASH, as ``gmdp passwd`` writes them
    alice:scrypt$16384$8$1$1ZyVh…$9uC0…
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from dataclasses import dataclass, replace

#: Cost, block size and parallelism: 16 MiB and some 50 ms a check.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 1
_MOST_MEMORY = 256 * 1024 * 1024
_SALT_SIZE = 16

#: The longest password, in bytes (ZMTP 3.1, PLAIN: a length of one byte).
MAX_PASSWORD = 255


@dataclass(frozen=True, repr=False)
class Hash:
    """A password's hash."""

    cost: int
    block: int
    parallel: int
    salt: bytes
    digest: bytes

    def matches(self, password: str) -> bool:
        """Is this the password?  Takes tens of milliseconds: not for a hub."""
        try:
            encoded = password.encode()
        except UnicodeEncodeError:
            return False  # as in no file
        return len(encoded) <= MAX_PASSWORD and hmac.compare_digest(self._digest(encoded), self.digest)

    def _digest(self, password: bytes) -> bytes:
        return hashlib.scrypt(
            password, salt=self.salt, n=self.cost, r=self.block, p=self.parallel, maxmem=_MOST_MEMORY, dklen=32
        )

    def __str__(self) -> str:
        salt, digest = (base64.b64encode(part).decode() for part in (self.salt, self.digest))
        return f"scrypt${self.cost}${self.block}${self.parallel}${salt}${digest}"


def hash_password(password: str) -> str:
    """`password` as a file of users holds it; ValueError if it is empty, longer than 255 bytes, or not UTF-8."""
    try:
        encoded = password.encode()
    except UnicodeEncodeError:  # which holds it
        encoded = b""
    if not 0 < len(encoded) <= MAX_PASSWORD:
        raise ValueError(f"a password is 1 to {MAX_PASSWORD} bytes of UTF-8")
    fresh = Hash(_COST, _BLOCK, _PARALLEL, os.urandom(_SALT_SIZE), b"")
    return str(replace(fresh, digest=fresh._digest(encoded)))


#: What the password of nobody is compared with, so that a name that there is not takes as long.
NOBODY = Hash(_COST, _BLOCK, _PARALLEL, bytes(_SALT_SIZE), bytes(32))


def read_hash(text: str) -> Hash:
    """The reverse of ``str(hash)``; ValueError if it is none."""
    kind, *numbers, salt, digest = text.split("$")
    cost, block, parallel = map(int, numbers)
    result = Hash(cost, block, parallel, base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True))
    if kind != "scrypt" or len(result.digest) != 32:
        raise ValueError("not a hash of scrypt")
    # RFC 7914, and what it takes.
    power = cost > 1 and cost & (cost - 1) == 0
    memory = 128 * block * (cost + parallel + 2)
    if not (power and block > 0 and cost.bit_length() <= 16 * block and 0 < parallel <= 16 and memory <= _MOST_MEMORY):
        raise ValueError("not the parameters of scrypt, or it takes too much memory")
    return result
