"""What clients are told.

The rules of this module:

* An answer goes to the connection that asked, in the dialect in which it asked.
* A gmdp client is also told why there is no answer; a strict client would not
  understand the status.
* An MDP/0.1 client gets one reply: the parts of an answer are joined for it, without an empty FINAL.
* While a client has a backlog (:mod:`~.backlogs`), a new message waits behind it.
* When another user speaks under a client's routing id, or the connection is closed, all
  messages on their way there are dropped.
"""

from __future__ import annotations

from collections.abc import Collection

from ...protocol.dialects import EMPTY
from ...protocol.extension import Status
from ..outcomes import STATUS_OF_REASON, EndReason
from .accounts import Accounts
from .backlogs import Backlogs, describe_lost_answer
from .decisions import Outgoing, new_tuple
from .reasons import DropReason, LossReason
from .records import FRAME_COST, Request, charged_bytes
from .state import BrokerState
from .wording import explain_end

_NOTHING = [EMPTY]


class Replies:
    """Sends answers, and the reasons why there are none."""

    def __init__(self, state: BrokerState, accounts: Accounts, backlogs: Backlogs) -> None:
        self._state = state
        self._accounts = accounts
        self._backlogs = backlogs

    # Answers of accepted requests

    def answer(self, request: Request, body: list[bytes], status: Status, now: float) -> None:
        """Send an answer, a part of one, or the status that says why there is none."""
        client = request.client
        if request.abandon_reason is not None or client is None or client.gone:
            self._state.counters.count_drop(DropReason.ABANDONED)
        elif now > request.deadline:
            self._state.counters.count_drop(DropReason.LATE)
        elif request.address:
            outgoing: Outgoing = new_tuple(Outgoing, (request.answer_frames(body, status), request, True))
            if client.backlog is None:
                self._state.outbox.append(outgoing)
            else:
                self._backlogs.append(client.backlog, outgoing, now)

    def send_status(
        self,
        request: Request,
        status: Status,
        reason: EndReason,
        now: float,
        *,
        behind: int | None = None,
        loss: LossReason | None = None,
    ) -> None:
        """Tell a gmdp client why there is no answer.

        `behind` and `loss` are those of :func:`~.wording.describe_end`.
        """
        if request.terms.frame and request.abandon_reason is None:
            if status is not Status.NOT_RUN:  # such a request is not over
                explain_end(self._state, request, reason, behind=behind, loss=loss)
            self.answer(request, _NOTHING, status, now)

    def end_early(self, request: Request, reason: EndReason, now: float) -> None:
        """Give up an answer on which a worker still works, and tell a gmdp client why."""
        client = request.client
        status = STATUS_OF_REASON[reason]
        if status is not None and request.terms.frame and client is not None and not client.gone:
            explain_end(self._state, request, reason)
            # Sent without the request as target: messages of an abandoned request are dropped.
            self.send(request.answer_frames(_NOTHING, status), now)
        if client is not None and not request.terms.frame and reason is EndReason.TOO_LARGE:
            self._state.complaints.complain(
                reason.value, request.address[0], request.user, now, describe_lost_answer, request, reason
            )
        self._accounts.abandon(request, reason, now)

    def keep_part(self, request: Request, body: list[bytes], now: float) -> None:
        """Keep a part of an answer, for an MDP/0.1 client."""
        client = request.client
        if client is None:
            self._state.counters.count_drop(DropReason.ABANDONED)
            return
        size = charged_bytes(body) + (FRAME_COST if request.joined_parts else 0)
        if not self._accounts.has_room(client, size):
            self._state.counters.count_drop(DropReason.REPLY_TOO_LARGE)
            self.end_early(request, EndReason.TOO_LARGE, now)
            return
        if request.joined_parts is None:
            request.joined_parts = []
        request.joined_parts += body
        request.joined_bytes += size
        self._accounts.charge(client, size)

    def drop_joined(self, request: Request) -> None:
        """Forget the parts kept so far: another worker begins anew."""
        if request.joined_parts is not None and request.client is not None:
            self._accounts.charge(request.client, -request.joined_bytes)
            request.joined_parts = None
            request.joined_bytes = 0

    # Other messages to clients

    def send(self, frames: list[bytes], now: float) -> None:
        """Send a client a message that belongs to no accepted request."""
        client = self._accounts.clients.get(frames[0])
        outgoing = Outgoing(frames, None, True)
        if client is None or client.backlog is None:
            self._state.outbox.append(outgoing)
        else:
            self._backlogs.append(client.backlog, outgoing, now)

    # Clients that may hear nothing more

    def forget_routing_id(self, routing_id: bytes, counted_as: DropReason, now: float) -> None:
        """Drop all messages on their way to the client of this routing id, which is gone."""
        # The same connection may have workers.
        for _ in range(self._state.find_unsent().drop(routing_id)):
            self._state.counters.count_drop(counted_as)
        client = self._accounts.clients.pop(routing_id, None)
        if client is not None:
            client.gone = True
            self._backlogs.drop_all(client, EndReason.CLIENT_GONE, counted_as, now)
            self._accounts.forget_if_unused(client)

    def reconsider(self, revoked: Collection[str], now: float) -> None:
        """Drop the messages that wait for connections of these users."""
        for client in list(self._accounts.clients.values()) if revoked else ():
            if client.backlog is not None and client.user in revoked:
                self._backlogs.drop_all(client, EndReason.NOT_ALLOWED, DropReason.NOT_ALLOWED, now)
                self._accounts.forget_if_unused(client)
