"""Token buckets: for each key so many tokens a second, and one second's worth of them at once."""

from __future__ import annotations

from collections.abc import Hashable

#: How many buckets are remembered.  Beyond this number, full buckets are forgotten; if none is
#: full, all buckets are, and every key begins with a full one.
MAX_REMEMBERED = 100_000


class Rates:
    """A token bucket for each key.  Full buckets need not be remembered.  `rate`: tokens a second."""

    __slots__ = ("_full_at", "_step")

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        #: When each key's bucket will be full again.
        self._full_at: dict[Hashable, float] = {}

    def take(self, key: Hashable, now: float, tokens: int = 1) -> bool:
        """Take tokens out of this key's bucket; False if it is empty.  The last ones may be more than it holds."""
        full_at = self._full_at.get(key, now)
        if full_at < now:
            full_at = now
        elif full_at > now + 1.0 - self._step / 2:
            return False
        if len(self._full_at) >= MAX_REMEMBERED:
            self._full_at = {other: when for other, when in self._full_at.items() if when > now}
            if len(self._full_at) >= MAX_REMEMBERED:
                self._full_at.clear()
        self._full_at[key] = full_at + self._step * tokens
        return True

    def charge(self, key: Hashable, now: float, tokens: int) -> None:
        """Take tokens out of a bucket from which :meth:`take` has just taken some, even if it holds fewer."""
        self._full_at[key] = max(now, self._full_at.get(key, now)) + self._step * tokens
