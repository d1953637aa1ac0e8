"""Which endpoint a client or worker tries next, and when.

The rules of this module:

* The first endpoint that answers is used, and the next one when it is lost.
* Delays double from the first up to a multiple of it, with jitter.
* They start anew once a broker has answered and stayed for longer than the first delay.
"""

from __future__ import annotations

from collections.abc import Sequence

#: The longest delay, in multiples of the first.
MAX_FACTOR = 16


class Reconnect:
    """The endpoints of one peer's brokers, and its patience.

    Args:
        endpoints: At least one, in the order in which they are tried.
        interval: Seconds before the second attempt at an endpoint.
    """

    __slots__ = ("_answered", "_failures", "_index", "_since", "endpoints", "interval")

    def __init__(self, endpoints: Sequence[str], interval: float) -> None:
        self.endpoints = tuple(endpoints)
        self.interval = interval
        self._index = 0
        self._failures = 0
        self._answered = False
        self._since = 0.0

    @property
    def endpoint(self) -> str:
        """The endpoint to try, or in use."""
        return self.endpoints[self._index]

    def on_answer(self, now: float) -> None:
        """A broker answered at the present endpoint."""
        if not self._answered:
            self._answered = True
            self._since = now

    def on_lost(self, now: float, jitter: float) -> float:
        """The connection is lost, or was never made: turn to the next endpoint.

        There is no wait until each endpoint has been tried once.

        Args:
            now: Monotonic seconds.
            jitter: A random number from 0 to 1.

        Returns:
            Seconds to wait before the next attempt.
        """
        # A broker that answers and hangs up at once is no better than one that does not answer.
        if self._answered and now >= self._since + self.interval:
            self._failures = 0
        self._answered = False
        self._failures += 1
        self._index = (self._index + 1) % len(self.endpoints)
        rounds = self._failures // len(self.endpoints)
        if len(self.endpoints) > 1 and self._failures % len(self.endpoints):
            return 0.0
        return self.interval * min(1 << min(rounds - 1, 16), MAX_FACTOR) * (0.5 + jitter / 2)

    def on_disconnect(self, now: float, jitter: float) -> float:
        """The broker said DISCONNECT, so it is there: stay with it if it had answered before.

        Returns the seconds to wait before the next attempt.
        """
        stay = self._answered
        delay = self.on_lost(now, jitter)
        if stay:
            self._index = (self._index - 1) % len(self.endpoints)
            self._failures = 0
            delay = self.interval * (0.5 + jitter / 2)
        return delay
