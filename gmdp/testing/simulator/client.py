"""A client in virtual time, and its calls."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ...core.outcomes import Outcome
from ...core.peer.calls import Call, Ended, Part
from ...core.peer.client import ClientCore
from ...core.peer.reconnect import Reconnect
from ...core.peer.statistics import ClientCounters
from ...protocol.dialects import Dialect
from ...protocol.extension import VERSION, part_weight
from ...protocol.text import show_name
from ...validation import check_body
from .network import Network
from .peer import PeerNode


class SimulatedCall:
    """One call of a simulated client, and its outcome.

    Attributes:
        call: The call as the core has it.
        number: Counts the client's calls from 1.
        began: When the call was made, in seconds of the simulation.
        ended: When the call ended; infinity before.
        parts: The parts of the answer so far.
        outcome: How the call ended: "reply", an :class:`~gmdp.core.outcomes.Outcome`, or "crashed" with its
            client; None before.
        failure: The frames that came with a failure.
        reads: The least and most seconds that its reader takes for a part; infinity: it stops reading.
    """

    def __init__(self, call: Call, number: int, began: float, reads: tuple[float, float]) -> None:
        self.call = call
        self.number = number
        self.began = began
        self.parts: list[list[bytes]] = []
        self.outcome: str | Outcome | None = None
        self.failure: list[bytes] = []
        self.ended = math.inf
        self.reads = reads
        #: The weights of the parts that the reader has not taken.
        self.unread: deque[int] = deque()

    @property
    def reply(self) -> list[bytes]:
        """All frames of the answer, as ``Client.request`` returns them.  AssertionError if the call has no reply."""
        if self.outcome != "reply":
            raise AssertionError(f"{self!r} has no reply")
        frames = [frame for part in self.parts for frame in part]
        return frames[:-1] if len(self.parts) > 1 and self.parts[-1] == [b""] else frames

    def __repr__(self) -> str:
        return f"<call {self.number} of {show_name(self.call.service)}: {self.outcome}>"


class ClientNode(PeerNode[ClientCore]):
    """A client.  Each of its calls ends once.

    Attributes:
        counters: What the client counted.
        calls: All calls so far.
        open_calls: The calls that have not ended.
        on_part: Called with the call and the part, for each part of an answer.
    """

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
        extension: int = VERSION,
        heartbeat_interval: float = 2.5,
        stream_window: int = 1024 * 1024,
        stream_bytes: int = 64 * 1024 * 1024,
        bandwidth: float = math.inf,
    ) -> None:
        super().__init__(network, name, strict, extension, bandwidth)
        self.zmtp_heartbeat = (heartbeat_interval, 3 * heartbeat_interval)
        self.counters = ClientCounters()
        self.core = ClientCore(
            dialect,
            Reconnect(endpoints, 0.5),
            max_connections,
            self.counters,
            nonce=self.schedule.random.randbytes(16),
            max_in_flight=max_in_flight,
            stream_window=stream_window,
            stream_bytes=stream_bytes,
        )
        self.stream_bytes = stream_bytes
        self.core.extension_version = extension
        self.calls: list[SimulatedCall] = []
        self._simulated: dict[Call, SimulatedCall] = {}
        self.open_calls: dict[SimulatedCall, None] = {}
        self.on_part: Callable[[SimulatedCall, Part], None] | None = None

    def request(
        self,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        *,
        timeout: float = 30.0,
        reads: tuple[float, float] = (0.0, 0.0),
        **options: Any,
    ) -> SimulatedCall:
        """Begin a call.

        Args:
            service: The name of the service.
            body: The body's frame, or its frames.
            timeout: Seconds the call may take.
            reads: The least and most seconds that its reader takes for a part of the answer; infinity: it
                never reads.
            options: Those of :class:`~gmdp.core.peer.calls.Call`.

        Returns:
            The call, whose outcome comes as time goes by.
        """
        name = service.encode() if isinstance(service, str) else service
        options.setdefault("deadline", timeout)
        call = Call(name, check_body(body), timeout=timeout, **options)
        self._simulated[call] = simulated = SimulatedCall(call, len(self.calls) + 1, self.schedule.now, reads)
        self.calls.append(simulated)
        self.open_calls[simulated] = None
        self.post(self._submit, call)
        return simulated

    def cancel(self, call: SimulatedCall) -> None:
        """Cancel a call."""
        self.post(self._cancel, call.call)

    def close(self) -> None:
        """End all calls and close all connections."""
        self.post(self.core.close, self.schedule.now)

    def _submit(self, call: Call) -> None:
        self.schedule.record(self, f"calls {show_name(call.service)}: {call.body[0]!r}")
        self.core.submit(call, self.schedule.now)

    def _cancel(self, call: Call) -> None:
        self.core.cancel(call, Outcome.CANCELLED, self.schedule.now)

    def _read_next(self, simulated: SimulatedCall) -> None:
        """Have the reader take a part, now or after a while."""
        longest = simulated.reads[1]
        if longest == 0.0:
            self._take_part(simulated)
        elif longest < math.inf:
            self.schedule.after(self.schedule.random.uniform(*simulated.reads), self.post, self._take_part, simulated)

    def _take_part(self, simulated: SimulatedCall) -> None:
        call = simulated.call
        call.consumed += simulated.unread.popleft()
        if call.consumed >= call.grant_at:
            call.grant_at = math.inf
            self.core.grant(call, self.schedule.now)
        if simulated.unread:
            self._read_next(simulated)

    def crash(self) -> None:
        """Let the process die, and its calls with it."""
        super().crash()
        for simulated in self.open_calls:
            simulated.outcome = "crashed"
        self.open_calls.clear()

    def on_event(self, event: Part | Ended, now: float) -> None:
        """Take a part of an answer, or the end of a call."""
        simulated = self._simulated[event.call]
        if simulated.outcome is not None:
            raise AssertionError(f"{simulated!r} had ended before")
        if isinstance(event, Ended):
            simulated.outcome = event.outcome
            simulated.failure = list(event.body)
        else:
            simulated.parts.append(event.body)
            if self.on_part is not None:
                self.on_part(simulated, event)
            if not event.final:
                simulated.unread.append(part_weight(event.body))
                if len(simulated.unread) == 1:
                    self._read_next(simulated)
                return
            simulated.outcome = "reply"
        simulated.ended = now
        del self.open_calls[simulated]
        self.schedule.record(self, f"{simulated!r}")
