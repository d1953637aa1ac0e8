"""A client in virtual time, and its calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...core.outcomes import Outcome
from ...core.peer.calls import Call, Ended, Part
from ...core.peer.client import ClientCore
from ...core.peer.reconnect import Reconnect
from ...core.peer.statistics import ClientCounters
from ...protocol.dialects import Dialect
from ...validation import check_body
from .network import Network
from .peer import PeerNode


class SimulatedCall:
    """One call of a simulated client, and what came of it."""

    def __init__(self, call: Call, number: int, began: float) -> None:
        self.call = call
        self.number = number
        self.began = began
        #: The parts of the answer that came.
        self.parts: list[list[bytes]] = []
        #: How it ended: "reply", an :class:`~gmdp.core.outcomes.Outcome`, or None if it has not.
        self.outcome: str | Outcome | None = None
        #: What came with a failure.
        self.failure: list[bytes] = []
        self.ended = math.inf

    @property
    def reply(self) -> list[bytes]:
        """All frames of its answer, as ``Client.request`` returns them; AssertionError if there is none."""
        if self.outcome != "reply":
            raise AssertionError(f"{self!r} has no reply")
        frames = [frame for part in self.parts for frame in part]
        return frames[:-1] if len(self.parts) > 1 and self.parts[-1] == [b""] else frames

    def __repr__(self) -> str:
        return f"<call {self.number} of {self.call.service!r}: {self.outcome}>"


class ClientNode(PeerNode[ClientCore]):
    """A client.  Each of its calls ends once."""

    def __init__(
        self,
        network: Network,
        name: str,
        endpoints: Sequence[str],
        dialect: Dialect,
        *,
        max_connections: int = 3,
        max_in_flight: int = 100,
        strict: bool | str = False,
    ) -> None:
        super().__init__(network, name, strict)
        self.counters = ClientCounters()
        self.core = ClientCore(
            dialect,
            Reconnect(endpoints, 0.5),
            max_connections,
            self.counters,
            nonce=self.schedule.random.randbytes(16),
            max_in_flight=max_in_flight,
        )
        self.calls: list[SimulatedCall] = []
        #: Those that have not ended.
        self.open_calls: dict[SimulatedCall, None] = {}
        #: Called with each part that comes.
        self.on_part: Callable[[SimulatedCall, Part], None] | None = None

    def request(
        self, service: str | bytes, body: bytes | Sequence[bytes], *, timeout: float = 30.0, **options: Any
    ) -> SimulatedCall:
        """Begin a call; `options` are those of :class:`~gmdp.core.peer.client.Call`."""
        name = service.encode() if isinstance(service, str) else service
        options.setdefault("deadline", timeout)
        call = Call(name, check_body(body), timeout=timeout, **options)
        call.owner = asked = SimulatedCall(call, len(self.calls) + 1, self.schedule.now)
        self.calls.append(asked)
        self.open_calls[asked] = None
        self.post(self._submit, call)
        return asked

    def cancel(self, asked: SimulatedCall) -> None:
        """Give a call up."""
        self.post(self._cancel, asked.call)

    def close(self) -> None:
        """End all calls and connections."""
        self.post(self.core.close, self.schedule.now)

    def _submit(self, call: Call) -> None:
        self.schedule.tell(self, f"calls {call.service!r}: {call.body[0]!r}")
        self.core.submit(call, self.schedule.now)

    def _cancel(self, call: Call) -> None:
        self.core.cancel(call, Outcome.CANCELLED, self.schedule.now)

    def crash(self) -> None:
        """The process dies, and its calls with it."""
        super().crash()
        for asked in self.open_calls:
            asked.outcome = "crashed"
        self.open_calls.clear()

    def on_event(self, event: Part | Ended, now: float) -> None:
        """A part came for a caller, or a call ended."""
        asked: SimulatedCall = event.call.owner
        if asked.outcome is not None:
            raise AssertionError(f"{asked!r} had ended before")
        if isinstance(event, Ended):
            asked.outcome = event.outcome
            asked.failure = list(event.body)
        else:
            asked.parts.append(event.body)
            if self.on_part is not None:
                self.on_part(asked, event)
            if not event.final:
                return
            asked.outcome = "reply"
        asked.ended = now
        del self.open_calls[asked]
        self.schedule.tell(self, f"{asked!r}")
