"""Which endpoint a client or worker tries next, and when.

The rules of this module:

* The endpoints are tried in rounds.  The first one that answers is used until its broker is
  lost; then the next endpoint is tried.
* An endpoint with a host name stands for one address or several, once they were looked up.  They are
  tried in turn, without a wait; when all have failed, the endpoint has failed.
* A look-up without an answer takes no address away.
* In each round over the endpoints, only the last failure is followed by a wait.
* Waits double from round to round, up to a multiple of the first, with jitter.
* Waits start anew once a broker has answered and stayed for at least the first wait.
"""

from __future__ import annotations

from collections.abc import Sequence

#: The longest wait, in multiples of the first.
MAX_FACTOR = 16


def backoff(interval: float, doublings: int, jitter: float) -> float:
    """Return the seconds to wait after so many doublings of `interval`; `jitter`, from 0 to 1, takes off up to half."""
    return interval * min(1 << min(doublings, 16), MAX_FACTOR) * (0.5 + jitter / 2)


class Reconnect:
    """The endpoints of one peer's brokers, and which of them is next.

    Args:
        endpoints: At least one, in the order in which they are tried.
        interval: Seconds, at most, before the first new attempt once every endpoint has failed.
            Later waits double.
    """

    __slots__ = (
        "_addresses",
        "_answered",
        "_failures",
        "_index",
        "_since",
        "_tried",
        "address",
        "endpoints",
        "interval",
    )

    def __init__(self, endpoints: Sequence[str], interval: float) -> None:
        self.endpoints = tuple(endpoints)
        self.interval = interval
        self._index = 0
        self._failures = 0
        self._answered = False
        self._since = 0.0
        #: For each endpoint, the endpoints with addresses that it stands for, as looked up last.
        self._addresses: dict[str, tuple[str, ...]] = {}
        #: Those of the present endpoint that have failed.
        self._tried: set[str] = set()
        #: The one in use, or being tried; empty while none is chosen, and where the endpoint has no name.
        self.address = ""

    @property
    def endpoint(self) -> str:
        """The endpoint in use, or to be tried next."""
        return self.endpoints[self._index]

    @property
    def targets(self) -> int:
        """How many endpoints there are, with each address of a name counted."""
        return sum(len(self._addresses.get(endpoint, ("",))) for endpoint in self.endpoints)

    @property
    def endpoint_failed(self) -> bool:
        """After a loss: False if further addresses of the same endpoint are tried first."""
        return not self._tried

    def known(self, endpoint: str) -> tuple[str, ...]:
        """Return the endpoints with addresses that `endpoint` is known to stand for."""
        return self._addresses.get(endpoint, ())

    def learn(self, endpoint: str, addresses: Sequence[str]) -> None:
        """The name in `endpoint` was looked up: it stands for these endpoints.  No effect if there are none."""
        if addresses:
            self._addresses[endpoint] = tuple(addresses)

    def choose(self) -> str:
        """Return the address to try, of those known for the present endpoint; later calls return the same one."""
        if not self.address:
            known = self._addresses[self.endpoint]
            self.address = next((address for address in known if address not in self._tried), known[0])
        return self.address

    def on_answer(self, now: float) -> None:
        """A broker answered at the present endpoint."""
        if not self._answered:
            self._answered = True
            self._since = now

    def on_lost(self, now: float, jitter: float) -> float:
        """The connection is lost, or was never made: turn to the next address, or endpoint.

        In each round over the endpoints, only the last failure is followed by a wait.

        Args:
            now: Monotonic seconds.
            jitter: A random number from 0 to 1.

        Returns:
            Seconds to wait before the next attempt.
        """
        # A broker that answers and hangs up at once is no better than one that does not answer.
        if self._answered and now >= self._since + self.interval:
            self._failures = 0
            self._tried.clear()
        self._answered = False
        if self.address:
            self._tried.add(self.address)
            self.address = ""
            if not self._tried.issuperset(self.known(self.endpoint)):
                return 0.0
        self._tried.clear()
        self._failures += 1
        self._index = (self._index + 1) % len(self.endpoints)
        rounds = self._failures // len(self.endpoints)
        if len(self.endpoints) > 1 and self._failures % len(self.endpoints):
            return 0.0
        return backoff(self.interval, rounds - 1, jitter)

    def on_disconnect(self, now: float, jitter: float) -> float:
        """The broker said DISCONNECT, so it is running: stay with it if it had answered before.

        Returns the seconds to wait before the next attempt.
        """
        stay, index, address = self._answered, self._index, self.address
        delay = self.on_lost(now, jitter)
        if stay:
            self._index, self.address = index, address
            self._failures = 0
            delay = backoff(self.interval, 0, jitter)
        return delay
