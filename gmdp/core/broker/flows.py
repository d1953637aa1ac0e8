"""How far the handlers of streams may run ahead of their readers (:mod:`gmdp.protocol.extension`).

The rules of this module:

* Where the caller grants credits and the worker heeds them, the broker passes the credits on.
  It keeps an account of each stream, from its first part on.
* A worker gets a new credit once it has nearly used up the last one, and a small one only when its handler
  waits: so the messages to it are as many as its parts allow, however many grants a client sends.
* A reader that grants nothing for ``stream_stall_timeout``, while the handler of its stream waits,
  has stalled: both sides are told, and the session is free once its handler has ended.
* For strict callers, joined answers and peers of version 1 the broker is the reader, and
  grants all: :mod:`~.backlogs` and :mod:`~.replies` end the answer at their bounds.
"""

from __future__ import annotations

from ...protocol import extension
from ...protocol.dialects import Command
from ...protocol.extension import INITIAL_CREDIT, CallFrame
from ..outcomes import EndReason
from .accounts import Accounts
from .decisions import Outgoing, Target
from .records import Connection, Flow, Request
from .replies import Replies
from .state import BrokerState

#: A worker is told of a new credit once it has less left of the last one.  While it has anything left, it is
#: told only of a credit that is greater by so much.
LOW = INITIAL_CREDIT // 2
#: Seconds until a credit is passed on again for which the worker's socket had no room.
RETRY = 0.1


class Grant(Target):
    """The target of a message that passes a credit on."""

    __slots__ = ("connection", "earlier", "flow", "request")

    def __init__(self, request: Request, connection: Connection, flow: Flow, earlier: int) -> None:
        self.request = request
        self.connection = connection
        self.flow = flow
        #: The credit that the worker knows without this message.
        self.earlier = earlier

    def stands(self) -> bool:
        """Return True if the worker's connection is registered."""
        return self.connection.registered


class Flows:
    """Passes credits on, and ends the streams that have stalled."""

    def __init__(self, state: BrokerState, accounts: Accounts, replies: Replies) -> None:
        self._state = state
        self._accounts = accounts
        self._replies = replies

    def on_part(self, request: Request, body: list[bytes], now: float) -> None:
        """A part of a stream was sent, whose caller grants credits and whose worker heeds them."""
        flow = request.flow
        if flow is None:
            flow = request.flow = Flow()
        before, granted = flow.sent, flow.granted
        flow.sent = sent = before + extension.part_weight(body)
        if sent < granted:
            if granted > flow.passed_on:
                self._pass_on(request, flow, now)
        elif before < granted:
            self._await_reader(request, now)

    def on_grant(self, identity: tuple[str, bytes], call: CallFrame, now: float) -> None:
        """A client has granted credits to one of its calls."""
        request = self._accounts.calls.get(identity)
        flow = request.flow if request is not None else None
        credit = extension.read_credit(call.fields)
        if request is None or flow is None or credit <= flow.granted:
            return  # the answer has ended, or its worker heeds no credits
        flow.granted = credit
        if flow.sent < credit:
            self._state.timers.disarm(request)
            self._pass_on(request, flow, now)
        else:
            self._await_reader(request, now)  # the handler waits on, but the reader reads

    def send_failed(self, grant: Grant, now: float) -> None:
        """The worker's socket had no room for a credit, which is passed on again soon."""
        request, flow = grant.request, grant.flow
        flow.passed_on = min(flow.passed_on, grant.earlier)
        if request.worker is not None and request.flow is flow and flow.sent < flow.granted:
            self._state.timers.arm(request, now + RETRY)

    def on_timer(self, request: Request, now: float) -> None:
        """End a stream that has stalled, or pass a credit on again."""
        flow = request.flow
        if flow is not None and flow.sent < flow.granted:
            if flow.granted > flow.passed_on:
                self._pass_on(request, flow, now)
        else:
            self._state.counters.stalled_streams += 1
            self._replies.end_early(request, EndReason.STALLED, now)

    def _await_reader(self, request: Request, now: float) -> None:
        """The handler waits for its reader: from now on, the reader's time runs."""
        self._state.timers.arm(request, now + self._state.options.stream_stall_timeout)

    def _pass_on(self, request: Request, flow: Flow, now: float) -> None:
        """Tell the worker of the credit, unless it has enough of the last one."""
        worker = request.worker
        left = flow.passed_on - flow.sent
        if worker is None or left >= LOW or (left > 0 and flow.granted - flow.passed_on < LOW):
            return
        earlier, flow.passed_on = flow.passed_on, flow.granted
        connection = worker.connection
        session = extension.mark_session(worker.session, 0, extension.credit_bytes(flow.granted))
        frames = [*connection.address, session, *connection.dialect.worker_command(Command.HEARTBEAT)]
        connection.pulse.on_sent(now)
        self._state.outbox.append(Outgoing(frames, Grant(request, connection, flow, earlier), False))
