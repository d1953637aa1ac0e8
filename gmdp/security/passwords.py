"""Hashes of passwords in a file, one user a line (scrypt, RFC 7914).

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

#: Cost, block size and parallelism of new hashes.  A check takes 16 MiB and about 50 ms.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 1
#: Bytes that a check may take.
_MAX_MEMORY = 256 * 1024 * 1024
_SALT_SIZE = 16

#: The longest password, in bytes (ZMTP 3.1, PLAIN: a length of one byte).
MAX_PASSWORD = 255


@dataclass(frozen=True, repr=False)
class Hash:
    """The hash of a password, and the parameters it was made with."""

    cost: int
    block: int
    parallel: int
    salt: bytes
    digest: bytes

    def matches(self, password: str) -> bool:
        """Return whether `password` is right.  Takes tens of milliseconds, so no hub should run it."""
        try:
            encoded = password.encode()
        except UnicodeEncodeError:
            return False  # no file holds such a password
        return len(encoded) <= MAX_PASSWORD and hmac.compare_digest(self._digest(encoded), self.digest)

    def _digest(self, password: bytes) -> bytes:
        return hashlib.scrypt(
            password, salt=self.salt, n=self.cost, r=self.block, p=self.parallel, maxmem=_MAX_MEMORY, dklen=32
        )

    def __str__(self) -> str:
        salt, digest = (base64.b64encode(part).decode() for part in (self.salt, self.digest))
        return f"scrypt${self.cost}${self.block}${self.parallel}${salt}${digest}"


def hash_password(password: str) -> str:
    """Return the hash of a password, as a file of users holds it.

    Takes tens of milliseconds.

    Args:
        password: 1 to 255 bytes of UTF-8.

    Returns:
        ``scrypt$COST$BLOCK$PARALLEL$SALT$DIGEST``, with a new salt each time.

    Raises:
        ValueError: The password is empty, too long, or cannot be encoded.  The message does
            not show it.
    """
    try:
        encoded = password.encode()
    except UnicodeEncodeError:  # its attributes show the password
        encoded = b""
    if not 0 < len(encoded) <= MAX_PASSWORD:
        raise ValueError(f"a password is 1 to {MAX_PASSWORD} bytes of UTF-8")
    empty = Hash(_COST, _BLOCK, _PARALLEL, os.urandom(_SALT_SIZE), b"")
    return str(replace(empty, digest=empty._digest(encoded)))


#: Checked in place of an unknown user's hash, so that unknown names take as long as known ones.
NOBODY = Hash(_COST, _BLOCK, _PARALLEL, bytes(_SALT_SIZE), bytes(32))


def read_hash(text: str) -> Hash:
    """Return the hash that ``str(hash)`` wrote; ValueError if `text` is not a hash."""
    kind, *numbers, salt, digest = text.split("$")
    cost, block, parallel = map(int, numbers)
    result = Hash(cost, block, parallel, base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True))
    if kind != "scrypt" or len(result.digest) != 32:
        raise ValueError("not a hash of scrypt")
    # RFC 7914, section 2, bounds the parameters; the memory follows from them.
    power = cost > 1 and cost & (cost - 1) == 0
    memory = 128 * block * (cost + parallel + 2)
    if not (power and block > 0 and cost.bit_length() <= 16 * block and 0 < parallel <= 16 and memory <= _MAX_MEMORY):
        raise ValueError("not the parameters of scrypt, or it takes too much memory")
    return result
