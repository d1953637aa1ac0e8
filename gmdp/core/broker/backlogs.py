"""Clients that read too slowly, and the messages that wait for them.

The rules of this module:

* Nobody waits for a client that does not read.  Once a message finds no room in the client's
  socket, that message and all later ones wait in the client's *backlog*, in order.
* The messages of a backlog are tried again after 2 ms, doubled up to 128 ms while none goes
  through.  A try begins with one message and doubles that, so a client that does not read costs
  one message a try.  Backlogs with the longest delay are tried together, in one pass.
* An answer that the client's account has no room for is dropped.  A gmdp client hears that
  its call ended as overloaded; for that message it may hold twice as many bytes as are free.
* An answer with a gap is worse than none: when one message of an answer is dropped, the rest
  is dropped, too.
* When a client is unreachable, its backlog is dropped.
"""

from __future__ import annotations

from collections import deque

from ...protocol.dialects import EMPTY
from ...protocol.extension import Status
from ...protocol.text import show_name
from ..outcomes import EndReason
from .accounts import Accounts
from .decisions import Outgoing
from .reasons import DropReason
from .records import Backlog, Client, Request, charged_bytes
from .state import BrokerState
from .wording import explain_end

#: Seconds until a message is tried again: the first time, and after many failures.
FIRST_RETRY = 0.002
LAST_RETRY = 0.128
#: Messages of one backlog that are tried at a time at most, unless another number is set.
BATCH = 100

_NOTHING = [EMPTY]


class Backlogs:
    """The messages that wait until their clients read."""

    def __init__(self, state: BrokerState, accounts: Accounts) -> None:
        self._state = state
        self._accounts = accounts
        #: Clients that do not read.
        self.count = 0
        #: Messages of one backlog that are tried at a time at most.
        self.batch = BATCH

    def append(self, backlog: Backlog, outgoing: Outgoing, now: float) -> None:
        """Have a new message wait behind the others of its client."""
        self._hold(backlog, outgoing, backlog.waiting, now)

    def hold_back(self, outgoing: Outgoing, now: float) -> bool:
        """Return True if this message must not be sent now; it is then dropped or queued.

        A message of an abandoned answer is dropped.  A message to a client whose socket was
        found full goes back into the client's backlog.
        """
        target = outgoing.target
        if type(target) is Request:
            if target.abandon_reason is not None:
                self._state.counters.count_drop(DropReason.ABANDONED)
                return True
        elif target is not None or not outgoing.essential:
            return False  # a message to a worker
        if self.count:
            client = self._accounts.clients.get(outgoing.frames[0])
            if client is not None and client.backlog is not None and client.backlog.blocked:
                self._hold(client.backlog, outgoing, client.backlog.front, now)
                return True
        return False

    def send_failed(self, outgoing: Outgoing, full: bool, now: float) -> None:
        """A client's message could not be sent: the client's socket is `full`, or its connection is closed."""
        routing_id = outgoing.frames[0]
        client = self._accounts.client_of(routing_id, self._state.users.get(routing_id, ""), now)
        backlog = client.backlog
        if full:
            if backlog is None:
                backlog = client.backlog = Backlog(client, FIRST_RETRY)
                self.count += 1
                self._state.counters.slow_clients += 1
            backlog.blocked = True
            again = now + backlog.delay
            if backlog.delay == LAST_RETRY:
                again = max(round(again / LAST_RETRY) * LAST_RETRY, now + LAST_RETRY / 2)
            self._state.timers.arm(backlog, again)
            self._hold(backlog, outgoing, backlog.front, now)
            return
        self._drop(outgoing, EndReason.CLIENT_GONE, DropReason.CLIENT_GONE, now)
        if backlog is not None:
            self.drop_all(client, EndReason.CLIENT_GONE, DropReason.CLIENT_GONE, now)
        self._accounts.forget_if_unused(client)

    def on_timer(self, backlog: Backlog, now: float) -> None:
        """Try again to send some of the messages."""
        waiting, front = backlog.waiting, backlog.front
        sent = backlog.last_batch - len(front) if backlog.blocked else backlog.last_batch
        if sent <= 0:
            backlog.delay = min(2 * backlog.delay, LAST_RETRY)
            backlog.last_batch = 1
        else:
            backlog.delay = FIRST_RETRY
            backlog.last_batch = min(max(1, sent if backlog.blocked else 2 * sent), self.batch)
        backlog.blocked = False
        waiting.extendleft(reversed(front))
        front.clear()
        if not waiting:
            self._close(backlog)
            self._accounts.forget_if_unused(backlog.client)
            return
        backlog.last_batch = min(len(waiting), backlog.last_batch)
        for _ in range(backlog.last_batch):
            outgoing = waiting.popleft()
            self._accounts.charge(backlog.client, -charged_bytes(outgoing.frames))
            if isinstance(outgoing.target, Request) and now > outgoing.target.deadline:
                self._drop(outgoing, EndReason.DEADLINE, DropReason.LATE, now)
            else:
                self._state.outbox.append(outgoing)
        self._state.timers.arm(backlog, now + FIRST_RETRY)

    def drop_all(self, client: Client, reason: EndReason, counted_as: DropReason, now: float) -> None:
        """Drop the messages that wait for a client, which will not read them."""
        backlog = client.backlog
        if backlog is None:
            return
        self._close(backlog)
        for outgoing in (*backlog.front, *backlog.waiting):
            self._accounts.charge(client, -charged_bytes(outgoing.frames))
            self._drop(outgoing, reason, counted_as, now)

    def _close(self, backlog: Backlog) -> None:
        """End a backlog: later messages to this client are sent at once."""
        self._state.timers.disarm(backlog)
        backlog.client.backlog = None
        self.count -= 1

    def _hold(self, backlog: Backlog, outgoing: Outgoing, where: deque[Outgoing] | list[Outgoing], now: float) -> None:
        """Put a message into one part of a backlog, or drop it if the account has no room."""
        size = charged_bytes(outgoing.frames)
        if not self._accounts.has_room(backlog.client, size):
            self._drop(outgoing, EndReason.CLIENT_FULL, DropReason.CLIENT_FULL, now)
            request = outgoing.target
            if not isinstance(request, Request):
                return
            if not request.terms.frame:  # a strict client would not understand the status
                reason = EndReason.CLIENT_FULL
                self._state.complaints.complain(
                    reason.value, request.address[0], request.user, now, describe_lost_answer, request, reason
                )
                return
            explain_end(self._state, request, EndReason.CLIENT_FULL)
            outgoing = Outgoing(request.answer_frames(_NOTHING, Status.OVERLOADED), None, True)
            size = charged_bytes(outgoing.frames)
            if not self._accounts.has_room(backlog.client, size, times=2):
                return
        where.append(outgoing)
        self._accounts.charge(backlog.client, size)

    def _drop(self, outgoing: Outgoing, reason: EndReason, counted_as: DropReason, now: float) -> None:
        """Drop a message, and with it the rest of its answer."""
        self._state.counters.count_drop(counted_as)
        if isinstance(outgoing.target, Request):
            self._accounts.abandon(outgoing.target, reason, now)


def describe_lost_answer(request: Request, reason: EndReason) -> str:
    """Say in a warning that a strict client gets no answer, or only the beginning of one."""
    return (
        f"the answer to a request of {request.dialect.name} for {show_name(request.service.name)} was dropped: "
        f"{reason.text} (max_queue_bytes)"
    )
