"""Which tests may be skipped where: what SKIPS.md lists."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

#: A row of the table: a test, a file or an interpreter; environments; the reason.
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", re.M)


@dataclass(frozen=True)
class Skip:
    """One row."""

    what: str
    environments: tuple[str, ...]
    reason: str

    def covers(self, what: str, environment: str) -> bool:
        """Whether this row allows skipping `what`, a test's id, in a tox environment."""
        return what.partition("[")[0] == self.what and ("any" in self.environments or environment in self.environments)


def listed(path: Path) -> list[Skip]:
    """The rows of the table at `path`."""
    rows = _ROW.findall(path.read_text(encoding="utf-8"))
    return [Skip(what, tuple(environments.split(", ")), reason) for what, environments, reason in rows]


def are_failures() -> bool:
    """Whether a skip that is not listed fails here: under continuous integration."""
    return bool(os.environ.get("CI"))


def refusal(what: str, path: Path) -> str | None:
    """What to say of a skip that is not listed; None if it is, or if nobody minds."""
    environment = os.environ.get("TOX_ENV_NAME", "")
    if not are_failures() or any(row.covers(what, environment) for row in listed(path)):
        return None
    return f"a skip that {path.name} does not list for the environment {environment!r}"
