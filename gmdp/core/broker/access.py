"""Who may do what, and how often.

The rules of this module:

* A policy is asked once for each user, action and service, and its answer is
  remembered until it may have changed; the path of a message has one look-up.
* A user is who a connection's keys or password say; never a routing id, which any
  peer may choose.  Where nobody is authenticated the user is empty.
* What a policy is asked: may this user *serve* a service (a worker's READY),
  *call* it (a client's REQUEST), *inspect* one of ``mmi.*``?  The probe ``mmi.gmdp``
  is open to all.
* Rules allow and never deny: what no rule allows, nobody may.
* A user's requests are counted in a token bucket that holds one second's worth.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..rates import Rates

#: The user of a connection whose key or password is not valid any more: may do nothing.
REVOKED = "\0revoked"

#: ``(user, action, service) -> bool``, or None if it does not know.
Policy = Callable[[str, str, bytes], "bool | None"]

SERVE = "serve"
CALL = "call"
INSPECT = "inspect"
ACTIONS = (SERVE, CALL, INSPECT)

#: Answers that are remembered; past it they are forgotten and asked for again.
MAX_REMEMBERED = 100_000

#: A CURVE key as Z85 text (ZeroMQ RFC 32), which has characters that patterns use.
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")


def is_key(text: str) -> bool:
    """Does `text` look like a CURVE key?"""
    return _KEY.match(text) is not None


class Rules:
    """The policy of ``[[access]]`` tables.

    Each has ``user``, a shell-style pattern or a list of them (a CURVE key means
    itself alone), and patterns of services under ``serve``, ``call`` and ``inspect``.
    Raises ValueError for what is no such table.
    """

    def __init__(self, tables: Iterable[Mapping[str, Any]]) -> None:
        self._rules: list[tuple[re.Pattern[str], dict[str, re.Pattern[bytes]]]] = []
        if isinstance(tables, (str, bytes, Mapping)) or not isinstance(tables, Iterable):
            raise ValueError(f"access must be a list of tables with user, {', '.join(ACTIONS)}, not {tables!r}")
        for at, table in enumerate(tables):
            where = f"access[{at}]"
            if not isinstance(table, Mapping):
                raise ValueError(f"{where} must be a table with user, {', '.join(ACTIONS)}, not {table!r}")
            unknown = [name for name in table if name not in ("user", *ACTIONS)]
            if unknown:
                raise ValueError(f"{where}: unknown {unknown[0]!r}; known are: user, {', '.join(ACTIONS)}")
            users = _patterns(f"{where}.user", table.get("user"))
            services = {
                action: _pattern(_patterns(f"{where}.{action}", table[action])) for action in ACTIONS if action in table
            }
            if not services:
                raise ValueError(f"{where} allows nothing: it needs one of {', '.join(ACTIONS)}")
            user = re.compile(
                "|".join(re.escape(one) + r"\Z" if is_key(one) else fnmatch.translate(one) for one in users)
            )
            self._rules.append((user, {action: re.compile(pattern.encode()) for action, pattern in services.items()}))

    def __call__(self, user: str, action: str, service: bytes) -> bool:
        """May `user` do `action` with `service`?"""
        return any(
            action in services and who.match(user) is not None and services[action].match(service) is not None
            for who, services in self._rules
        )


def _patterns(name: str, value: Any) -> list[str]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, (list, tuple)) or not patterns or not all(isinstance(one, str) for one in patterns):
        raise ValueError(f"{name} must be a pattern or a list of patterns, not {value!r}")
    for pattern in patterns:
        if "[" in pattern and not pattern.isascii():  # names of services are bytes
            raise ValueError(f"{name}: only ASCII may stand in a pattern with brackets, not {pattern!r}")
    return list(patterns)


def _pattern(patterns: list[str]) -> str:
    return "|".join(map(fnmatch.translate, patterns))


class Access:
    """A policy with its remembered answers, and the rates of users.

    `policy` None: everybody may everything; one that says None does not know: that is no,
    and is not remembered.  `rate`: requests a second and user.
    """

    def __init__(self, policy: Policy | None, rate: float) -> None:
        self._policy = policy
        self._answers: dict[tuple[str, str, bytes], bool] = {}
        self._rates = Rates(rate)

    def allows(self, user: str, action: str, service: bytes) -> bool:
        """May `user` do `action` with `service`?"""
        answer = self._answers.get((user, action, service))
        if answer is None:
            if user == REVOKED:
                return False
            answer = True if self._policy is None else self._policy(user, action, service)
            if answer is None:
                return False
            if len(self._answers) >= MAX_REMEMBERED:
                self._answers.clear()
            self._answers[user, action, service] = answer
        return answer

    def forget(self) -> None:
        """What was answered may not be true any more."""
        self._answers.clear()

    def in_time(self, user: str, now: float) -> bool:
        """Is there room for one more request of `user` in its bucket?  Takes it."""
        return self._rates.take(user, now)
