"""How a broker answers the messages of workers (RFC 7 and RFC 18, MDP/Worker; the extension).

The rules of this module:

* A worker has at most one request.  A reply counts only if it carries the token of the
  worker's present assignment.
* What each command of a registered worker leads to:

  ============  ======================  ===================================
  command       worker idle             worker busy
  ============  ======================  ===================================
  READY         lost, DISCONNECT        lost, DISCONNECT, redelivery
  PARTIAL       lost, DISCONNECT        right token: forwarded or joined;
                                        wrong one: lost, DISCONNECT,
                                        redelivery
  FINAL         lost, DISCONNECT        right token: answered, then idle;
                                        wrong one as above
  HEARTBEAT     alive                   alive
  DISCONNECT    lost                    lost, redelivery
  malformed     lost, DISCONNECT        lost, DISCONNECT, redelivery; a reply that
                                        lacks only the empty frame before its
                                        body: as if it had the frame
  any, in       lost, DISCONNECT        lost, DISCONNECT, redelivery
  another
  dialect
  ============  ======================  ===================================

* A peer that is not registered may say READY.  Anything else is answered with one DISCONNECT,
  and then with nothing.
* In the extension, each session of a connection is one worker by these rules.  A session's number is never
  used again after a DISCONNECT, from either side: later messages of the session are dropped.
"""

from __future__ import annotations

from collections.abc import Hashable

from ...protocol import extension, token
from ...protocol.dialects import EMPTY, Command
from ...protocol.extension import Feature, Status
from ...protocol.text import show_name
from ...protocol.wire import Message
from .accounts import Accounts
from .delivery import Delivery
from .flows import Flows
from .reasons import DropReason, LossReason
from .records import Connection, Request, Worker
from .registry import Registry
from .replies import Replies
from .state import BrokerState

# Bound once, since each reply needs them: in Python 3.11 a member of an Enum is slow to look up.
_FINAL, _PARTIAL = Command.FINAL, Command.PARTIAL
_OK = Status.OK
_HEARTBEAT = Command.HEARTBEAT
_BEGUN = int(Feature.BEGUN)  # an IntFlag's own operators are Python functions


#: Of so many sessions that a connection does not have, the broker still knows what they have begun.
MAX_STALE = 10


class Conversation:
    """Handles the messages of workers."""

    def __init__(
        self,
        state: BrokerState,
        accounts: Accounts,
        replies: Replies,
        flows: Flows,
        delivery: Delivery,
        registry: Registry,
    ) -> None:
        self._state = state
        self._accounts = accounts
        self._replies = replies
        self._flows = flows
        self._delivery = delivery
        self._registry = registry
        self._connections = registry.connections

    def handle(self, routing_id: bytes, message: Message, now: float, user: str) -> None:
        """Take one message of a worker, of any kind."""
        command, dialect, _, stack, _, _, session = message
        key: Hashable = (routing_id, *stack) if stack else routing_id
        connection = self._connections.get(key)
        if connection is None:
            self._on_unregistered_peer(key, (routing_id, *stack), message, now, user)
            return
        # "Any received command except DISCONNECT acts as a heartbeat."
        connection.pulse.heard_at = now
        worker = connection.workers.get(session)
        if dialect is not connection.dialect:
            self._on_other_dialect(connection, message, now)
        elif worker is None:
            self._on_unregistered_session(connection, message, now)
        elif command is _FINAL:
            self._on_final(worker, message, now)
        elif command is _PARTIAL:
            self._on_partial(worker, message, now)
        else:
            self._on_command(worker, message, now)
        if connection.mute:
            self._registry.on_heard(connection, now)

    def _on_command(self, worker: Worker, message: Message, now: float) -> None:
        """Handle any message of a registered worker."""
        command = message.command
        if command is _FINAL:
            self._on_final(worker, message, now)
        elif command is _PARTIAL:
            self._on_partial(worker, message, now)
        elif command is Command.HEARTBEAT:
            self._on_heartbeat(worker.connection, now)
        elif command is Command.DISCONNECT:
            # "When the broker receives DISCONNECT from a worker it MUST send no
            # further commands to that worker."
            self._registry.lose_worker(worker, LossReason.DISCONNECT, now)
        else:
            # "The worker MUST NOT send a further READY."
            self._registry.lose_worker(worker, LossReason.SECOND_READY, now, disconnect=True)

    def expects(self, routing_id: bytes, reply: Message) -> bool:
        """True if `reply` answers the present request of a registered strict worker: its token is proof."""
        key: Hashable = (routing_id, *reply.stack) if reply.stack else routing_id
        connection = self._connections.get(key)
        worker = connection.workers.get(EMPTY) if connection is not None else None
        return (
            worker is not None
            and worker.request is not None
            and reply.dialect is worker.connection.dialect
            and reply.subject[: token.PREFIX_SIZE] == worker.token
        )

    def on_malformed(self, key: Hashable, now: float) -> None:
        """Lose a connection that sent a message that is not MDP.

        "The broker SHOULD respond to invalid messages by dropping them and
        treating that peer as invalid."
        """
        connection = self._connections.get(key)
        if connection is not None:
            self._registry.lose_connection(connection, LossReason.MALFORMED, now, disconnect=True)

    # Messages of no registered worker

    def _on_unregistered_peer(
        self, key: Hashable, address: tuple[bytes, ...], message: Message, now: float, user: str
    ) -> None:
        """Register a peer by its READY, or refuse it for any other message."""
        if message.command is Command.READY:
            self._registry.register(key, address, message, now, user)
            return
        self._state.counters.count_drop(DropReason.UNREGISTERED)
        self._registry.refuse_peer(key, address, message, now)

    def _on_other_dialect(self, connection: Connection, message: Message, now: float) -> None:
        """Handle a message in another dialect than that of READY.

        An extended connection uses the RFC's own dialect for messages that concern itself and
        not one of its sessions.
        """
        own = connection.dialect.extended and message.dialect is connection.base_dialect
        if own and message.command is Command.HEARTBEAT:
            self._on_heartbeat(connection, now)
        elif own and message.command is Command.DISCONNECT:
            self._registry.lose_connection(connection, LossReason.DISCONNECT, now)
        else:
            self._registry.lose_connection(connection, LossReason.OTHER_DIALECT, now, disconnect=True)

    def _on_unregistered_session(self, connection: Connection, message: Message, now: float) -> None:
        """Handle a message whose session frame is not that of a registered session, byte for byte."""
        if connection.features & _BEGUN and extension.is_session_0(message.extra) and message.command is _HEARTBEAT:
            begun = connection.begun
            begun.update(dict.fromkeys(extension.read_begun(message.extra), self._delivery.assignments))
            if len(begun) > 2 * len(connection.workers) + MAX_STALE:
                self._registry.forget_stale_begun(connection)
            return
        flags, number = extension.read_session(message.extra)
        # Workers are known by frames without flags and optional fields, so look this one up without them.
        bare = extension.mark_session(message.extra, 0)
        worker = connection.workers.get(bare) if flags in (0, extension.LAST) else None
        if worker is not None and not flags:
            self._on_command(worker, message, now)
            return
        if worker is not None and message.command is Command.FINAL:
            # The session answers and ends in one message.
            self._on_final(worker, message, now, last=True)
            return
        if worker is not None and message.command is Command.DISCONNECT:
            # The session ends and has not begun its request.
            self._registry.lose_worker(worker, LossReason.DISCONNECT, now, unsent=worker.request)
            return
        if flags and (worker is not None or flags != extension.LAST):
            # Unknown flags, or LAST on another command.
            self._state.counters.count_drop(DropReason.MALFORMED)
            self._registry.lose_connection(connection, LossReason.MALFORMED, now, disconnect=True)
            return
        if number <= connection.highest_session:
            # The session was lost before: messages that were on their way then break no rule.
            self._state.counters.count_drop(DropReason.RETIRED_SESSION)
            return
        if message.command is Command.READY:
            self._registry.register(connection.key, connection.address, message, now, connection.user)
            return
        # A session that never said READY; its number is used up.
        connection.highest_session = number
        self._state.counters.count_drop(DropReason.UNREGISTERED)
        if message.command is not Command.DISCONNECT:
            self._registry.send_disconnect((*connection.address, bare), connection.dialect)

    # Messages of registered workers

    def _match_reply(self, worker: Worker, message: Message, now: float) -> Request | None:
        """Return the worker's request, if `message` is a reply to it.

        None if it is not: then the worker is lost ("valid but unexpected command").
        """
        request = worker.request
        if request is not None and message.subject[: token.PREFIX_SIZE] == worker.token:
            return request
        self._state.counters.count_drop(DropReason.STRAY_REPLY)
        if not message.extra:
            self._state.complaints.complain(
                DropReason.STRAY_REPLY.value,
                worker.connection.address[0],
                worker.connection.user,
                now,
                _describe_stray_reply,
                worker,
            )
        self._registry.lose_worker(worker, LossReason.STRAY_REPLY, now, disconnect=True)
        return None

    def _on_partial(self, worker: Worker, message: Message, now: float) -> None:
        """Forward a part of an answer, or keep it for an MDP/0.1 client."""
        request = self._match_reply(worker, message, now)
        if request is None:
            return
        self._state.counters.partials += 1
        if request.dialect.streams:
            request.partial_sent = True
            self._replies.answer(request, message.body, Status.PARTIAL, now)
            if (
                request.terms.token_flags & worker.connection.token_flags & token.CREDITS
                and request.abandon_reason is None
            ):
                self._flows.on_part(request, message.body, now)
        else:
            self._replies.keep_part(request, message.body, now)

    def _on_final(self, worker: Worker, message: Message, now: float, last: bool = False) -> None:
        """Answer a request and give the worker its next one; `last`: the session ends with this answer."""
        request = self._match_reply(worker, message, now)
        if request is None:
            return
        counters = self._state.counters
        counters.replies += 1
        worker.service.replies += 1
        worker.replies += 1
        status = _OK
        _, _, _, _, address, body, _ = message
        if token.says_failed(address):
            counters.handler_failures += 1
            status = Status.HANDLER_FAILED
        elif request.joined_parts is not None:
            # As for other callers, an empty FINAL after parts is none of the answer.
            body = request.joined_parts if body == [EMPTY] else request.joined_parts + body
        self._replies.answer(request, body, status, now)
        self._delivery.mark_answered(worker)
        if last:
            self._registry.lose_worker(worker, LossReason.DISCONNECT, now)
        else:
            self._delivery.give_next(worker, now)
        if request.suspect:
            self._delivery.give_next_suspect(worker.connection, now)
        self._accounts.release(request)

    def _on_heartbeat(self, connection: Connection, now: float) -> None:
        """Answer a HEARTBEAT if nothing was sent since the previous one."""
        if not connection.dialect.extended:
            worker = connection.workers[EMPTY]
            # A HEARTBEAT early in an assignment may have been sent before the request arrived.
            if worker.request is not None and now >= worker.assigned_at + self._state.options.heartbeat_interval:
                connection.heartbeat_while_busy = True
        if connection.pulse.on_heartbeat():
            self._registry.send_heartbeat(connection, now)


def _describe_stray_reply(worker: Worker) -> str:
    service = show_name(worker.service.name)
    if worker.request is None:
        return f"a worker of {service} sent a reply without having a request; it is dropped, and the worker is lost"
    return (
        f"a reply of a worker of {service} was dropped: its client address is not that of the worker's request, "
        "which must come back unchanged; the worker is lost"
    )
