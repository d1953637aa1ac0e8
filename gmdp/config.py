"""A broker's options in a TOML file.

The keys are the keywords of :class:`gmdp.Broker` (``bind`` among them).  Tables
``[services."pattern"]`` hold values for the services whose names match.  Relative paths are
relative to the file's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .core.broker.access import is_key
from .exceptions import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


#: The options whose values may be paths.
_PATHS = ("curve_key", "curve_clients", "plain_users")


def load(path: str | Path) -> dict[str, Any]:
    """Read a file of options; the broker checks their names and values.

    Args:
        path: the file's name.

    Returns:
        Keywords for :class:`gmdp.Broker`.

    Raises:
        ConfigurationError: the file cannot be read, or is not TOML; the message gives the
            file's name and the line.
    """
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        options = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of too many digits
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    folder = Path(path).parent
    for name in _PATHS:
        value = options.get(name)
        if isinstance(value, str) and value:
            options[name] = _resolve(folder, value)
    bind = options.get("bind")
    if isinstance(bind, str):
        options["bind"] = _resolve_endpoint(folder, bind)
    elif isinstance(bind, list):
        options["bind"] = [_resolve_endpoint(folder, value) for value in bind]
    return options


def _resolve_endpoint(folder: Path, endpoint: Any) -> Any:
    """Return an endpoint with an absolute path if it is one of ipc with a relative path."""
    if isinstance(endpoint, str) and endpoint.startswith("ipc://") and endpoint[6:7] not in ("", "/", "@", "*"):
        return f"ipc://{folder.absolute() / endpoint[6:]}"
    return endpoint


def _resolve(folder: Path, value: str) -> str:
    """Return a path as `value` means it in a file in `folder`; a value that is not a path stays."""
    if value == "*" or value.startswith("env:"):
        return value
    resolved = str(folder / value)
    return value if is_key(value) and not os.path.exists(resolved) else resolved
