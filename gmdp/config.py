"""A broker's options from a TOML file.

The keys are the keywords of :class:`gmdp.Broker` (``bind`` among them);
``[services."pattern"]`` tables hold what differs per service.
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
    """The keywords for :class:`gmdp.Broker` that the file at `path` holds.

    Raises ConfigurationError, with the file's name and line, if it cannot be
    read or is no TOML; names and values are the broker's to check.
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
