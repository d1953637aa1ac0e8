"""A client's calls (RFC 7 and RFC 18, MDP/Client; the extension).

The rules of this module:

* RFC 7 and 18 call the client's dialog "strictly synchronous", and a reply
  does not say which request it answers.  So a strict connection carries one call
  at a time.  A call that is withdrawn takes its connection with it, so that a late
  reply reaches no other call.  Many calls at once use many connections, up to a bound.
* An extended connection carries many calls, and an answer names its call.  There is
  one extended connection in use.  A withdrawn call is cancelled on it, and a late answer
  is dropped.
* Calls for which no connection has room wait in line.
* A request is sent on a connection that stands, and on no other.
* A call moves through the states of :class:`~.calls.CallState`.
* A broker's decision about a request (no worker, overloaded, worker lost, …)
  ends the call, with one exception: when the broker is shutting down, a call that
  has a try left goes to the next broker.  So does a call without one if the broker says that no worker has had
  it; where there is no other broker, the call waits for this one's return, until its time is up.
* Where every broker leaves, calls that are to fail without a worker end instead of waiting.  Until a broker is
  reached, each of them waits for one new try of the brokers, or for none if the last one is not long ago.
* A broker that leaves gets no new call.  Further tries of the calls it has go there, to join them.
* All parts of an answer are from one run of the request.  A call that has parts from
  one try, and then gets parts from another, ends.
* The reader of a stream grants credits as it takes parts (:mod:`gmdp.protocol.extension`): up to a *window* for
  each stream, as long as all streams together have granted less than a bound.  Each stream has
  :data:`~gmdp.protocol.extension.INITIAL_CREDIT` besides, so that it never waits for another stream's reader.
* A reader that takes little for long, be it slow or its link, grants that: the broker must see that it reads.
* While a stream's handler waits for its reader, the time for its next part does not run.
* Until a broker has answered, one connection is tried at a time.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from ...protocol import extension
from ...protocol.dialects import EMPTY, Command, Dialect
from ...protocol.extension import (
    FAIL_WITHOUT_WORKER,
    GRANTS_CREDITS,
    INITIAL_CREDIT,
    SUPPORTED,
    TIME_STATED,
    Feature,
    Status,
)
from ..outcomes import OUTCOME_OF_STATUS, Outcome, notice_time
from ..snapshots import copy_counts
from .calls import Call, CallState, ClientConnection, Ended, Part
from .connector import Connector, Phase, Send
from .reasons import CloseReason
from .reconnect import Reconnect
from .statistics import ClientCounters, ClientStatistics

_new = tuple.__new__  # costs a third of a NamedTuple's own constructor
_CREDITS = int(Feature.CREDITS)  # an IntFlag's own operators are Python functions
_STATED = int(Feature.STATED)
# Needed for each message: looking a member up costs as much as a call.
_EXTENDED, _STRICT = Phase.EXTENDED, Phase.STRICT
_SENT, _DONE = CallState.SENT, CallState.DONE
_FINAL = Command.FINAL
_OK, _PARTIAL, _NOT_RUN = int(Status.OK), int(Status.PARTIAL), int(Status.NOT_RUN)
#: The reader of a stream that has taken so much grants more for the first time.
_FIRST_GRANT = INITIAL_CREDIT // 2
#: Statuses from a broker that takes no more calls.
_STOPPING = frozenset({Status.SHUTTING_DOWN, Status.NOT_RUN})
#: The bytes of a frame that may be too large for a slow link, and what the error says then.
LARGE_FRAME = 512 * 1024
SLOW_LINK = (
    "; a frame must cross its link in less than heartbeat_interval * (liveness - 0.75) seconds (the broker's options), "
    "and the largest one had {} bytes"
)
#: Seconds between two looks at the reader of a stream: the least, and the most.
LEAST_LOOK = 0.1
MOST_LOOK = 5.0


class ClientCore(Connector[ClientConnection, Part | Ended]):
    """All calls of one client.

    Its events are :class:`~.calls.Part` and :class:`~.calls.Ended`.

    Args:
        dialect: RFC7, RFC18 or MAJORTOMO.
        reconnect: The brokers' endpoints.
        max_connections: The most connections to a strict broker.
        counters: The client's counters, which go on over restarts.
        nonce: 16 bytes that no client has used before.
        max_in_flight: The most calls on an extended connection.
        require_extensions: True if a broker that does not speak gmdp's extension is not used.
        stream_window: The most weight of parts that one stream's reader grants beyond what it has taken.
        stream_bytes: The most that all streams together grant in this way, INITIAL_CREDIT for each excepted.
    """

    counters: ClientCounters
    #: A client begins nothing.
    features: int = SUPPORTED & ~Feature.BEGUN

    def __init__(
        self,
        dialect: Dialect,
        reconnect: Reconnect,
        max_connections: int,
        counters: ClientCounters,
        *,
        nonce: bytes,
        max_in_flight: int,
        require_extensions: bool = False,
        stream_window: int = 1024 * 1024,
        stream_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        super().__init__(dialect, reconnect, require_extensions)
        self.counters = counters
        self._max_extra_credit = max(0, stream_window - INITIAL_CREDIT)
        #: What is left of `stream_bytes`.
        self._shared_credit = stream_bytes
        self._nonce = nonce
        self._last_number = 0
        self._max_connections = max_connections
        self._max_in_flight = max_in_flight
        self._waiting: OrderedDict[Call, None] = OrderedDict()
        #: The extended connection in use, if there is one.
        self._shared: ClientConnection | None = None
        #: Strict connections that are free.
        self._idle: list[ClientConnection] = []
        #: Connections whose broker is shutting down: calls end there, but none begins.
        self._draining: set[ClientConnection] = set()
        #: Brokers in a row that were left because they do not speak the extension.
        self._unextended_in_a_row = 0

    # What the owner calls

    def submit(self, call: Call, now: float) -> None:
        """Begin a call."""
        self.counters.requests += 1
        self._last_number += 1
        call.number = self._last_number
        call.identity = extension.request_id(self._nonce, call.number)
        call.submitted_at = now
        call.deadline_at = now + call.deadline
        self._begin_try(call, now)
        self._waiting[call] = None
        self._assign_waiting(now, call)

    def cancel(self, call: Call, outcome: Outcome, now: float) -> None:
        """End a call whose caller went away (CANCELLED), or reads too slowly (OVERFLOW)."""
        if call.state is CallState.DONE:
            return
        self._withdraw(call)
        self._end_call(call, outcome, "")
        self._assign_waiting(now)

    def grant(self, call: Call, now: float) -> None:
        """Grant a stream's handler new credit, if its reader has taken anything since the last time."""
        connection = call.connection
        if call.credit == math.inf or connection is None:
            return
        consumed, credit, extra = call.consumed, int(call.credit), call.extra_credit
        if consumed > credit - INITIAL_CREDIT - extra:
            extra = min(self._max_extra_credit, self._shared_credit + call.extra_credit)
            # Granted credit is not taken back, though other streams may have used up what they share.
            extra = max(extra, credit - consumed - INITIAL_CREDIT)
            self._shared_credit += call.extra_credit - extra
            call.extra_credit = extra
            call.credit = new_credit = consumed + INITIAL_CREDIT + extra
            if new_credit > credit:
                self._send_grant(call, connection, new_credit)
                if credit <= call.received < new_credit:
                    call.try_ends_at = now + call.timeout  # the handler goes on
                    self._timers.arm(call, min(call.try_ends_at, call.deadline_at))
        call.grant_at = call.credit - (INITIAL_CREDIT + extra) // 2

    def deadline(self) -> float:
        """When :meth:`tick` is needed next; infinity if never."""
        when = self._timers.next_due()
        if self._waiting and not self._pending and self._mode is None:
            when = min(when, self._open_at)
        return when

    def close(self, now: float) -> None:
        """End every call and connection."""
        for connection in list(self._connections):
            for call in list(connection.calls.values()):
                self._withdraw(call)
                self._end_call(call, Outcome.CLOSED, "")
            if connection.phase is not Phase.CLOSED:
                self._retire(connection, CloseReason.CLOSED, after_sending=True)
        while self._waiting:
            self._end_call(self._waiting.popitem(last=False)[0], Outcome.CLOSED, "")

    def unfinished(self) -> list[Call]:
        """Return every call that has not ended, wherever a defect has left it: each has a timer until its end."""
        return [item for item in self._timers.items() if isinstance(item, Call)]

    def statistics(self) -> ClientStatistics:
        """Return counters and sizes as they are now, as an immutable copy."""
        return ClientStatistics(
            in_flight=sum(len(connection.calls) for connection in self._connections),
            waiting=len(self._waiting),
            sockets=len(self._connections),
            **copy_counts(self.counters),
        )

    # Connections

    def _make_connection(self, endpoint: str, epoch: int) -> ClientConnection:
        return ClientConnection(endpoint, epoch)

    def _on_usable(self, connection: ClientConnection, now: float) -> None:
        self._unextended_in_a_row = 0
        if connection.epoch != self._epoch:
            self._retire(connection, CloseReason.BROKER_LEFT)
        elif connection.phase is Phase.EXTENDED:
            if self.dialect.streams and connection.features & _CREDITS:
                connection.own_flags = GRANTS_CREDITS
                connection.first_credit, connection.first_grant = INITIAL_CREDIT, _FIRST_GRANT
            if not connection.features & _STATED:
                connection.known_flags = ~TIME_STATED
            self._shared = connection
        else:
            self._idle.append(connection)

    def _on_connection_lost(self, connection: ClientConnection, reason: CloseReason, detail: str, now: float) -> None:
        if connection.calls or connection is self._shared or connection in self._idle:
            self.counters.disconnects += 1
        text = f"{connection.place}: {reason.describe(detail)}"
        if connection in self._draining:
            text += "; the broker had announced its stop"
        self._unlist(connection)
        for other in [other for other in self._idle if other.epoch != self._epoch]:
            self._retire(other, CloseReason.BROKER_LOST)
        calls = list(connection.calls.values())
        largest = max((len(frame) for call in calls for frame in call.body), default=0)
        if reason is CloseReason.CONNECTION_CLOSED and largest >= LARGE_FRAME:
            text += SLOW_LINK.format(largest)
        connection.calls.clear()
        for call in reversed(calls):  # so that the first call is first in line again
            call.connection = None
            if self._may_retry(call, now):
                self._queue_retry(call, now)
            else:
                self._end_call(call, Outcome.BROKER_LOST, text)
        self._fail_without_broker(self._waiting, now)
        # Calls in line wait for the next broker, unless every broker has turned this client away.
        outcome = None
        if self.denied and self._reconnect.endpoint_failed:
            outcome, text = Outcome.DENIED, self.denial
        if reason is CloseReason.NOT_EXTENDED:
            self._unextended_in_a_row += 1
            if self._unextended_in_a_row >= self._reconnect.targets:
                outcome = Outcome.UNSUPPORTED
        while outcome is not None and self._waiting:
            self._end_call(self._waiting.popitem(last=False)[0], outcome, text)

    def _on_message(self, connection: ClientConnection, frames: list[bytes], now: float, jitter: float) -> None:
        if connection.phase is _EXTENDED:
            self._on_answer(connection, frames, now, jitter)
            return
        parsed = self.dialect.parse_reply(frames)
        call = next(iter(connection.calls.values()), None)
        if parsed is None or call is None or (parsed[1] is not None and parsed[1] != call.service):
            if parsed is None or parsed[1] != extension.PROBE_SERVICE:
                self.counters.malformed += 1  # a late answer to a probe does no harm
            return
        self._note_broker_heard(connection, now)
        command, _, body = parsed
        self._deliver_part(call, body, command is _FINAL, now)

    def _on_answer(self, connection: ClientConnection, frames: list[bytes], now: float, jitter: float) -> None:
        """Handle an answer of a gmdp broker: find its call, and give it the part, retry it or end it."""
        frame = frames[0]
        parsed = self.extended.parse_reply(frames, 1) if extension.is_call(frame) else None
        if parsed is None:
            if self._is_leaving(frames):
                self._stop_using(connection, now, jitter)
                self._assign_waiting(now)
            elif self._probe_answer(frames) is None:
                self.counters.malformed += 1
            return
        status, joined_try, _, deliveries, identity, _, _, fields = extension.read_call(frame)
        number = extension.call_number(identity, self._nonce)
        call = connection.calls.get(number) if number is not None else None
        if status in _STOPPING and number is not None:
            # Even the answer to a call that has ended shows that the broker takes no more calls.
            self._stop_using(connection, now, jitter)
        if call is None:
            # The call was withdrawn, or the request id belongs to another client.
            self.counters.late_replies += 1
            self._assign_waiting(now)
            return
        command, service, body = parsed
        final = command is _FINAL
        if status == _NOT_RUN and final and service == call.service and not call.parts:
            # No worker has had the request: that costs no try.
            self._detach(call)
            call.become(CallState.WAITING)
            self._waiting[call] = None
            self._assign_waiting(now, call)
            return
        outcome = OUTCOME_OF_STATUS.get(status)
        fits = status == _OK or outcome is not None if final else status == _PARTIAL
        if service != call.service or not fits:
            # Status and command contradict each other: the call waits for a proper answer.
            self.counters.malformed += 1
            return
        call.deliveries = deliveries
        if outcome is None:
            if not call.parts:
                call.answered_try = joined_try
            elif call.answered_try != joined_try:
                # The rest of the first try's answer was lost: this part answers another try.
                self._withdraw(call)
                self._end_call(call, Outcome.OVERLOADED, "part of the answer was lost: it was read too slowly")
                self._assign_waiting(now)
                return
            self._deliver_part(call, body, final, now)
            return
        # The broker has decided about the request.  The call ends, with one exception: a
        # broker that stops leaves the request to the next one.
        if outcome is Outcome.SHUTTING_DOWN and self._may_retry(call, now):
            self._detach(call)
            self._queue_retry(call, now)
            self._assign_waiting(now, call)
            return
        self._detach(call)
        if now >= call.deadline_at or (
            outcome is Outcome.EXPIRED and now >= call.deadline_at - notice_time(call.deadline_at - call.submitted_at)
        ):
            # The time is up anyway.  A handler that was stopped for that reason has not failed.
            outcome, body = Outcome.TIMEOUT, []
        self._end_call(call, outcome, extension.read_reason(fields), body)
        self._assign_waiting(now)

    def _deliver_part(self, call: Call, body: list[bytes], final: bool, now: float) -> None:
        """Hand over a part of the answer; a FINAL ends the call, a PARTIAL restarts its timeout."""
        call.parts += 1
        self.events.append(_new(Part, (call, body, final)))
        if final:
            self.counters.replies += 1
            self._detach(call)
            self._finish_call(call)
            self._assign_waiting(now)
        else:
            self.counters.partials += 1
            call.received += extension.part_weight(body)
            if call.received < call.credit:
                call.try_ends_at = now + call.timeout
                if now >= call.look_at:
                    # Parts may take long to get here: the broker must see that they are read.
                    self.grant(call, now)
                    call.look_at = now + self._look_interval(call)
            else:
                # The handler waits for the reader, so the next part is not overdue.
                call.try_ends_at = now + self._look_interval(call)
            self._timers.arm(call, min(call.try_ends_at, call.deadline_at))

    def _stop_using(self, connection: ClientConnection, now: float, jitter: float) -> None:
        """Begin no call on this connection any more: its broker is shutting down."""
        if connection is self._shared:
            self._shared = None
            self._draining.add(connection)
            if connection.epoch == self._epoch:
                self._end_epoch(connection, CloseReason.SHUTTING_DOWN, self._reconnect.on_lost(now, jitter), now)
                self._fail_without_broker(self._waiting, now)
            if not connection.calls:
                self._retire(connection, CloseReason.SHUTTING_DOWN, after_sending=True)

    def _retire(self, connection: ClientConnection, reason: CloseReason, after_sending: bool = False) -> None:
        """Unlist and close a connection that is not to be used again."""
        self._unlist(connection)
        self._close(connection, reason, after_sending)

    def _unlist(self, connection: ClientConnection) -> None:
        """Take a connection out of the lists of those that calls may use."""
        if connection is self._shared:
            self._shared = None
        self._draining.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    # Calls

    def _assign_waiting(self, now: float, newcomer: Call | None = None) -> None:
        """Give waiting calls the connections that are free, and open further ones for the rest.

        `newcomer`: the call that has come to wait.
        """
        waiting = self._waiting
        shared = self._shared
        if shared is not None:
            assert shared.offer is not None  # an extended connection has one
            limit = min(self._max_in_flight, shared.offer.max_in_flight)
            while waiting and len(shared.calls) < limit:
                self._send_call(waiting.popitem(last=False)[0], shared, now)
            return
        while waiting and self._idle:
            self._send_call(waiting.popitem(last=False)[0], self._idle.pop(), now)
        if newcomer is not None and newcomer in waiting:
            self._fail_without_broker((newcomer,), now)
        wanted = min(len(waiting), self._max_connections if self._mode is Phase.STRICT else 1)
        limit = self._max_connections + len(self._draining)
        while self._pending < wanted and len(self._connections) < limit and now >= self._open_at:
            self._open_connection(now)

    def _fail_without_broker(self, calls: Iterable[Call], now: float) -> None:
        """If every broker leaves, end those of these waiting calls that are to fail without a worker.

        While brokers are tried again, such calls wait for the result.  Once the first wait after the last failure
        is over, they have brokers tried again, however long the present wait is.
        """
        if not self._all_leave or now >= self._open_at:
            return
        for call in [call for call in calls if call.flags & FAIL_WITHOUT_WORKER]:
            if now >= self._ended_at + self._reconnect.interval:
                self._open_at = now
                return
            del self._waiting[call]
            self._end_call(call, Outcome.SHUTTING_DOWN, "every broker has announced its stop")

    def _send_call(self, call: Call, connection: ClientConnection, now: float) -> None:
        """Send a call's request; a request that is larger than the broker takes ends its call."""
        call.credit = connection.first_credit
        call.grant_at = connection.first_grant
        if connection.phase is _EXTENDED:
            deadline_at = call.deadline_at
            time_left = None if deadline_at == math.inf else deadline_at - now
            frame = extension.call_frame(
                call.identity,
                flags=call.flags & connection.known_flags | connection.own_flags,
                priority=call.priority,
                attempt=call.tries,
                time_left=time_left,
                traceparent=call.traceparent,
                version=connection.version,
            )
            frames = [frame, *self.extended.request(call.service, call.body)]
            if not connection.accepts(frames):
                offer = connection.offer
                assert offer is not None  # a connection without an offer accepts any message
                limits = f"{offer.max_frame_size} bytes a frame and {offer.max_frames} frames, envelope included"
                self._end_call(call, Outcome.TOO_LARGE, f"the broker takes {limits}")
                return
        else:
            frames = self.dialect.request(call.service, call.body)
        connection.calls[call.number] = call
        call.connection = connection
        call.become(_SENT)
        self.actions.append(_new(Send, (connection, frames)))

    def _on_timer(self, item: Any, now: float, jitter: float) -> None:
        """The time of a call's try is over."""
        if not isinstance(item, Call):
            return  # a usable connection's timer: a client does not watch its broker
        call = item
        connection = call.connection
        if call.received >= call.credit and now < call.deadline_at:
            # A reader that takes little at a time grants that now: the broker must see that it reads.
            self.grant(call, now)
            if call.timer is None:
                call.try_ends_at = now + self._look_interval(call)
                self._timers.arm(call, min(call.try_ends_at, call.deadline_at))
            return
        if not self._may_retry(call, now):
            detail = self._why_not_sent() if connection is None else self._why_no_reply(connection)
            self._withdraw(call)
            self._end_call(call, Outcome.TIMEOUT, detail)
            if connection is not None and connection.phase is Phase.CLOSED:
                self._leave_if_silent(connection, now, jitter)
        elif connection is None:
            self._begin_try(call, now)
        elif connection.phase is Phase.EXTENDED:
            # Under the same id, so that the retry joins a request that is still queued or running.
            self.counters.retries += 1
            self._begin_try(call, now)
            self._send_call(call, connection, now)
        else:
            self._note_silent_round(connection)
            self._withdraw(call)
            self._queue_retry(call, now)
            self._leave_if_silent(connection, now, jitter)

    def _leave_if_silent(self, connection: ClientConnection, now: float, jitter: float) -> None:
        """Turn to the next endpoint if this epoch's peer has never said anything: it may be no broker."""
        if not self._heard and connection.epoch == self._epoch and self._reconnect.targets > 1:
            self._end_epoch(connection, CloseReason.SILENT, self._reconnect.on_lost(now, jitter), now)
            for other in self._idle[:]:
                self._retire(other, CloseReason.SILENT)

    def _begin_try(self, call: Call, now: float) -> None:
        """Begin a call's next try, whose share of the time runs from now on."""
        call.tries += 1
        call.try_ends_at = now + call.timeout / (call.retries + 1)
        self._timers.arm(call, min(call.try_ends_at, call.deadline_at))

    def _may_retry(self, call: Call, now: float) -> bool:
        """True if a try is left, no part was delivered, and there is time."""
        return call.tries <= call.retries and not call.parts and now < call.deadline_at

    def _send_grant(self, call: Call, connection: ClientConnection, credit: int) -> None:
        """Tell the broker how much weight of parts a stream's reader takes in all."""
        frame = extension.call_frame(
            call.identity,
            flags=extension.GRANT,
            attempt=call.tries,
            fields=[(extension.Field.CREDIT, credit.to_bytes(8, "big"))],
            version=connection.version,
        )
        self.actions.append(Send(connection, [frame, *self.extended.request(call.service, [EMPTY])]))

    @staticmethod
    def _look_interval(call: Call) -> float:
        """Return after how many seconds to look whether a stream's reader has taken anything."""
        offer = call.connection.offer if call.connection is not None else None
        return MOST_LOOK if offer is None else max(LEAST_LOOK, min(offer.stream_stall_timeout / 4, MOST_LOOK))

    def _queue_retry(self, call: Call, now: float) -> None:
        """Begin a call's next try, first in line."""
        self.counters.retries += 1
        call.become(CallState.WAITING)
        self._begin_try(call, now)
        self._waiting[call] = None
        self._waiting.move_to_end(call, last=False)

    def _withdraw(self, call: Call) -> None:
        """Take a call out of line, or off its connection, so that no answer reaches it."""
        self._waiting.pop(call, None)
        connection = call.connection
        if connection is None:
            return
        if connection.phase is Phase.EXTENDED:
            frame = extension.call_frame(
                call.identity, flags=extension.CANCEL, attempt=call.tries, version=connection.version
            )
            self.actions.append(Send(connection, [frame, *self.extended.request(call.service, [EMPTY])]))
            self._detach(call)
        else:
            del connection.calls[call.number]
            call.connection = None
            self._retire(connection, CloseReason.CALL_WITHDRAWN)

    def _detach(self, call: Call) -> None:
        """Take a call off its connection, which stays in use."""
        connection = call.connection
        if connection is None:
            return
        del connection.calls[call.number]
        call.connection = None
        if connection.phase is _STRICT:
            if connection.epoch == self._epoch:
                self._idle.append(connection)
            else:
                self._retire(connection, CloseReason.BROKER_LOST)
        elif connection in self._draining and not connection.calls:
            self._retire(connection, CloseReason.SHUTTING_DOWN, after_sending=True)

    def _finish_call(self, call: Call) -> None:
        """Mark a call as done, so that no part or error follows."""
        call.become(_DONE)
        self._timers.disarm(call)
        if call.extra_credit:
            self._shared_credit += call.extra_credit

    def _end_call(self, call: Call, outcome: Outcome, detail: str, body: Sequence[bytes] = ()) -> None:
        """End a call without its answer; `detail` and `body` are for its error."""
        self._finish_call(call)
        if outcome is Outcome.TIMEOUT:
            self.counters.timeouts += 1
        elif outcome is Outcome.CANCELLED:
            self.counters.cancelled += 1
        else:
            self.counters.errors += 1
        self.events.append(Ended(call, outcome, detail, body))

    def _why_no_reply(self, connection: ClientConnection) -> str:
        """Return why a call that was sent has no answer, for its error."""
        hint = self._note_silent_round(connection)
        place = connection.place
        if hint:
            return f"no broker answered at {place}: nothing was ever heard; {hint}"
        if connection in self._draining:
            return f"no reply; the broker at {place} had announced its stop"
        return f"no reply, though the broker at {place} has answered before"

    def _why_not_sent(self) -> str:
        """Return why no connection took a call before its time was up."""
        if self._mode is not None:
            return "all connections were busy"
        place = self._trouble_place or self._reconnect.endpoint
        text = f"no broker answered at {place}: {self._trouble}"
        if len(self._reconnect.endpoints) > 1:
            text += f" (the last that was tried of {len(self._reconnect.endpoints)} endpoints)"
        if self._leaving_place:
            return f"the broker at {self._leaving_place} had announced its stop, and {text}"
        return f"{text}; a broker had answered before" if self._ever_spoken else text
