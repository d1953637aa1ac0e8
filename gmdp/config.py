"""A broker's options in a TOML file.

The keys are the keywords of :class:`gmdp.Broker` (``bind`` among them).  Tables
``[services."pattern"]`` hold values for the services whose names match.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .exceptions import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of too many digits
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
