"""CURVE keys as users name them, and in files (the layout of ``zmq.auth``).

A key is named by

* the path of a file: ``NAME.key`` holds a public key, ``NAME.key_secret`` both;
* 40 characters of Z85 (ZeroMQ RFC 32), as bytes, or as a str unless a file has that name;
* ``env:VARIABLE``: the variable holds one of the two.

No message, repr or log shows anything that may be a secret.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from ..core.broker.access import is_key
from ..exceptions import ConfigurationError

_log = logging.getLogger("gmdp.security")

#: A key as its user names it.
Key = str | bytes | os.PathLike[str]

_SUFFIX = ".key"
_SECRET_SUFFIX = ".key_secret"
_ENVIRONMENT = "env:"


def public_key(option: str, key: Key) -> bytes:
    """Return the public key (Z85) that `key` names.

    Raises ConfigurationError, with the option's name, if `key` names no key.
    """
    text, path = _resolve(option, key)
    if path is not None:
        text, _ = _load(option, path)
    return _check(option, text, path)


def secret_key(option: str, key: Key) -> tuple[bytes, bytes]:
    """Return the key pair (public, secret; Z85) whose secret half `key` names.

    Raises ConfigurationError, with the option's name, if `key` names no key.
    """
    text, path = _resolve(option, key)
    if path is not None:
        _, text = _load(option, path)
        if not text:
            raise ConfigurationError(f"{option}: {path} holds no secret key; the file NAME{_SECRET_SUFFIX} does")
    secret = _check(option, text, path)
    if path is not None:
        _warn_if_loose(path)
    return zmq.curve_public(secret), secret


def _resolve(option: str, key: Key) -> tuple[bytes, Path | None]:
    """Return (the text of the key, None), or (empty, the file that holds the key)."""
    if isinstance(key, str) and key.startswith(_ENVIRONMENT):
        variable = key[len(_ENVIRONMENT) :]
        value = os.environ.get(variable)
        if not value:
            # A text that cannot be a variable's name may be a secret.
            shown = repr(variable) if variable.isidentifier() else "of that name"
            raise ConfigurationError(f"{option}: the environment has no variable {shown}")
        key = value
    if isinstance(key, bytes):
        return key, None
    if not isinstance(key, (str, os.PathLike)):
        raise ConfigurationError(f"{option} must name a key, by a file or in Z85, not of type {type(key).__name__}")
    path = Path(key)
    if path.name.endswith((_SUFFIX, _SECRET_SUFFIX)) or _is_file(path):
        return b"", path
    # A text that names no file may be a secret.
    return b"" if isinstance(key, os.PathLike) else key.encode("utf-8", "surrogatepass"), None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _load(option: str, path: Path) -> tuple[bytes, bytes]:
    """Return (public, secret or empty) from a file in the layout of `zmq.auth`."""
    try:
        with open(path, "rb"):
            pass  # raises an error that gives the reason; load_certificate does not
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot read {path}: {error.strerror or error}") from None
    except (ValueError, IndexError):
        raise _no_key_error(option, path) from None
    return public, secret or b""


def _no_key_error(option: str, path: Path) -> ConfigurationError:
    return ConfigurationError(f"{option}: {path} holds no key; `gmdp keygen` writes key files")


def _check(option: str, text: bytes, path: Path | None) -> bytes:
    """Return `text`, which must be a key in Z85.  `path`: the file that holds it, or None."""
    if is_key(text.decode("ascii", "replace")):
        try:
            if len(z85.decode(text)) == 32:
                return text
        except (ValueError, struct.error):
            pass
    if path is not None:
        raise _no_key_error(option, path)
    raise ConfigurationError(
        f"{option}: neither a file nor a key of 40 characters of Z85 (the value may be a secret and is not shown)"
    )


def _warn_if_loose(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        _log.warning("%s holds a secret key, and other users may read it (mode %03o): chmod 600 it", path, mode)


def generate_keys(name: str, folder: str | os.PathLike[str] = ".") -> tuple[Path, Path]:
    """Write a new pair of CURVE keys.

    The files have the layout of ``zmq.auth``.  Existing files are never overwritten.

    Args:
        name: The key's name; the name of a file, printable.
        folder: Where the files are written.

    Returns:
        The paths of ``NAME.key``, the public key, which may be shown to anybody, and of
        ``NAME.key_secret``, which holds both keys and which only its owner can read.

    Raises:
        ConfigurationError: The name is not valid, a file exists, the folder cannot be
            written to, or libzmq was built without CURVE.
    """
    if not name or os.sep in name or not name.isprintable():
        raise ConfigurationError(f"a key's name must be a file name, and printable, not {name!r}")
    if not zmq.has("curve"):
        raise ConfigurationError("this libzmq was built without CURVE")
    public, secret = (Path(folder, name + suffix) for suffix in (_SUFFIX, _SECRET_SUFFIX))
    made: list[Path] = []
    try:
        for path, mode in ((public, 0o644), (secret, 0o600)):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            made.append(path)
        # Writes to the files that exist, and leaves their modes as they are.
        zmq.auth.create_certificates(folder, name)
        made.clear()
    except FileExistsError as error:
        raise ConfigurationError(f"{error.filename} exists, and is not overwritten") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write to {os.fspath(folder)!r}: {error.strerror}") from None
    finally:
        for path in made:
            path.unlink()
    return public, secret
