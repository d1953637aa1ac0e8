"""Token buckets: so many a second for each key, a second's worth of them at once."""

from __future__ import annotations

from collections.abc import Hashable

#: Buckets that are remembered.  Past it the full ones are forgotten; if all are in use, all
#: are, and every key begins anew.
MAX_REMEMBERED = 100_000


class Rates:
    """A token bucket for each key; full ones need no memory.  `rate`: tokens a second."""

    __slots__ = ("_full_at", "_step")

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        #: When each key's bucket will be full again.
        self._full_at: dict[Hashable, float] = {}

    def take(self, key: Hashable, now: float) -> bool:
        """Take one token out of this key's bucket; False if it is empty."""
        full_at = self._full_at.get(key, now)
        if full_at < now:
            full_at = now
        elif full_at > now + 1.0 - self._step / 2:
            return False
        if len(self._full_at) >= MAX_REMEMBERED:
            self._full_at = {other: when for other, when in self._full_at.items() if when > now}
            if len(self._full_at) >= MAX_REMEMBERED:
                self._full_at.clear()
        self._full_at[key] = full_at + self._step
        return True
