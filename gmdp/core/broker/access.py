"""What users may do, and how often.

The rules of this module:

* A policy is asked once for each user, action and service.  Its answer is remembered until
  the answer may have changed, so a message costs one look-up.
* A user is the name that a connection's key or password stands for; never a routing id,
  which any peer may choose.  Where connections are not authenticated, the user is empty.
* A policy is asked whether a user may *serve* a service (a worker's READY), *call* it (a
  client's REQUEST) or *inspect* one of ``mmi.*``.  The probe ``mmi.gmdp`` is open to all.
* Rules allow and never deny: what no rule allows is not allowed.
* Each request or READY of a user takes a token from the user's bucket, which holds one
  second's worth.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..numbers import check_text
from ..rates import Rates

#: The user of a connection whose key or password is not valid any more; it may do nothing.
REVOKED = "\0revoked"

#: ``(user, action, service) -> bool``, or None if the policy does not know.
Policy = Callable[[str, str, bytes], "bool | None"]

SERVE = "serve"
CALL = "call"
INSPECT = "inspect"
ACTIONS = (SERVE, CALL, INSPECT)

#: How many answers are remembered; at this number all are forgotten, and the policy is asked again.
MAX_REMEMBERED = 100_000

#: A CURVE key as Z85 text (ZeroMQ RFC 32), whose alphabet has characters that patterns use.
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")

#: Text without the special characters that all but one in 10,000 keys have.
_WORDS = re.compile(r"[0-9a-zA-Z.\-:/*?!\[\]]*\Z")


def is_key(text: str) -> bool:
    """True if `text` looks like a CURVE key."""
    return _KEY.match(text) is not None


class Rules:
    """The policy of ``[[access]]`` tables.

    Args:
        tables: Mappings.  Each has ``user``, a shell-style pattern or a list of them (a CURVE
            key means itself alone), and under ``serve``, ``call`` and ``inspect`` patterns of
            the services that these users may serve, call and inspect.

    Raises:
        ValueError: If `tables` is not an iterable of such mappings.
    """

    def __init__(self, tables: Iterable[Mapping[str, Any]]) -> None:
        self._rules: list[tuple[re.Pattern[str], dict[str, re.Pattern[bytes]]]] = []
        if isinstance(tables, (str, bytes, Mapping)) or not isinstance(tables, Iterable):
            raise ValueError(f"access must be a list of tables with user, {', '.join(ACTIONS)}, not {tables!r}")
        for at, table in enumerate(tables):
            where = f"access[{at}]"
            if not isinstance(table, Mapping):
                raise ValueError(f"{where} must be a table with user, {', '.join(ACTIONS)}, not {table!r}")
            others = [name for name in table if name not in ("user", *ACTIONS)]
            if others:
                raise ValueError(f"{where}: unknown {others[0]!r}; known are: user, {', '.join(ACTIONS)}")
            users = _patterns(f"{where}.user", table.get("user"))
            services = {
                action: _pattern(_patterns(f"{where}.{action}", table[action])) for action in ACTIONS if action in table
            }
            if not services:
                raise ValueError(f"{where} allows nothing: it needs one of {', '.join(ACTIONS)}")
            user = re.compile("|".join(map(_user_pattern, users)))
            self._rules.append((user, {action: re.compile(pattern.encode()) for action, pattern in services.items()}))

    def __call__(self, user: str, action: str, service: bytes) -> bool:
        """True if a rule allows `user` to do `action` with `service`."""
        return any(
            action in services and users.match(user) is not None and services[action].match(service) is not None
            for users, services in self._rules
        )


def _user_pattern(user: str) -> str:
    """The regular expression for `user`: a pattern, or a key, which means itself alone.

    A text of a key's length that may be either means both.  No attacker finds another key that
    differs from it only where it has a wildcard.
    """
    if not is_key(user):
        return fnmatch.translate(user)
    literal = re.escape(user) + r"\Z"
    return f"{literal}|{fnmatch.translate(user)}" if _WORDS.match(user) else literal


def _patterns(name: str, value: Any) -> list[str]:
    """The patterns under the key `name`; ValueError if `value` is neither a pattern nor a list of them."""
    patterns = [value] if isinstance(value, str) else value
    if (
        not isinstance(patterns, (list, tuple))
        or not patterns
        or not all(isinstance(pattern, str) for pattern in patterns)
    ):
        raise ValueError(f"{name} must be a pattern or a list of patterns, not {value!r}")
    for pattern in patterns:
        check_text(name, pattern)
        if "[" in pattern and not pattern.isascii():  # a service's name is bytes
            raise ValueError(f"{name}: only ASCII may stand in a pattern with brackets, not {pattern!r}")
    return list(patterns)


def _pattern(patterns: list[str]) -> str:
    """A regular expression for any of these shell-style patterns."""
    return "|".join(map(fnmatch.translate, patterns))


class Access:
    """A policy with its remembered answers, and the rates of users.

    Args:
        policy: Asked whether a user may do something; None: everybody may do everything.  A
            policy that returns None does not know: its answer counts as no and is not remembered.
        rate: How many requests a user may send a second.
    """

    def __init__(self, policy: Policy | None, rate: float) -> None:
        self._policy = policy
        self._answers: dict[tuple[str, str, bytes], bool] = {}
        self._rates = Rates(rate)

    def allows(self, user: str, action: str, service: bytes) -> bool:
        """True if `user` may do `action` with `service`."""
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
        """Forget all answers: they may have changed."""
        self._answers.clear()

    def take_turn(self, user: str, now: float) -> bool:
        """Take one request out of the bucket of `user`; False if it is empty."""
        return self._rates.take(user, now)
