"""What clients are told, what they hold of the broker's memory, and who reads too slowly.

The rules of this module:

* An answer goes to whoever asked, in the dialect in which he asked; a gmdp client
  is also told why there is none.
* Each client (a user where there is one, else a connection) has an account of the
  bytes it holds: bodies queued or assigned, parts being joined, answers it does not
  read.  It may hold as many bytes as are still free of ``max_queue_bytes``: one
  client alone half of them, two a third each, and a newcomer always finds room.  A user
  may besides hold no more than ``max_user_bytes``.
* Nobody waits for a client that does not read.  Once a message finds no room in its
  socket, that and all later ones wait in its *backlog*, in order, and are tried again
  after 2 ms, doubled up to 128 ms while nothing goes through.  An answer that its
  account has no room for is dropped.  A gmdp client is told that its call ended as
  overloaded; for such news it may hold twice as many bytes as are free.
* When a client is unreachable its backlog is dropped; when another user speaks under
  its routing id, everything that is on its way there, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable

from ...protocol import extension
from ...protocol.dialects import EMPTY, Command
from ...protocol.extension import CALLER_GONE, Status
from ..outcomes import STATUS_OF_REASON, EndReason
from .decisions import Outgoing, new_tuple
from .records import FRAME_COST, Backlog, Client, Request, charged_bytes
from .state import BrokerState

#: Seconds until a message is tried again: the first time, and at most.
FIRST_RETRY = 0.002
LAST_RETRY = 0.128
#: Messages of one backlog that are tried at a time, unless another number is set.
BATCH = 100

_NOTHING = [EMPTY]


class Replies:
    """Answers on their way out."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        #: By routing id.
        self.clients: dict[Hashable, Client] = {}
        self._users: dict[Hashable, Client] = {}
        #: Open requests of gmdp clients, by user and request id.
        self.calls: dict[tuple[str, bytes], Request] = {}
        #: Clients that do not read.
        self.backlogs = 0
        #: Messages of one backlog that are tried at a time.
        self.batch = BATCH

    # Accounts

    def client(self, routing_id: bytes, user: str) -> Client:
        """The client that speaks on this connection."""
        client = self.clients.get(routing_id)
        if client is None:
            account = None
            if user:
                account = self._users.get(user)
                if account is None:
                    account = self._users[user] = Client(user, user)
                account.open += 1
            client = self.clients[routing_id] = Client(routing_id, user, account)
        return client

    def forget(self, client: Client) -> None:
        """Nothing of it may be left: then it is not known any more."""
        if client.open or client.backlog is not None:
            return
        if self.clients.get(client.key) is client:
            del self.clients[client.key]
        elif not client.gone:
            return
        account, client.account = client.account, None
        if account is not None:
            account.open -= 1
            if not account.open:
                del self._users[account.key]

    def void(self, routing_id: bytes, counted_as: str, now: float) -> None:
        """Whoever had this routing id is gone: nothing goes there any more that was for him."""
        outbox = self._state.outbox
        kept = [outgoing for outgoing in outbox if outgoing.frames[0] != routing_id]
        for _ in range(len(outbox) - len(kept)):
            self._state.counters.count("drops", counted_as)
        outbox[:] = kept
        client = self.clients.pop(routing_id, None)
        if client is not None:
            client.gone = True
            if client.backlog is not None:
                self._end_backlog(client.backlog, EndReason.CLIENT_GONE, counted_as, now)
            self.forget(client)

    def reconsider(self, revoked: Collection[str], now: float) -> None:
        """What waits for connections of these users is dropped."""
        for client in list(self.clients.values()) if revoked else ():
            if client.backlog is not None and client.user in revoked:
                self._end_backlog(client.backlog, EndReason.NOT_ALLOWED, "not_allowed", now)
                self.forget(client)

    def has_room(self, client: Client, size: int, times: int = 1) -> bool:
        """May this client hold `size` bytes more, up to so many times what is free?"""
        free = self._free(client)
        return size <= free and size + (client.account or client).bytes <= times * free

    def _free(self, client: Client) -> int:
        """As many bytes as this client may hold."""
        state = self._state
        options = state.options
        free = options.max_queue_bytes - state.held_bytes
        return free if client.account is None else min(free, options.max_user_bytes)

    def admit(self, request: Request, client: Client) -> bool:
        """Put a request on its client's account; False if there is no room."""
        size = request.size
        state = self._state
        account = client.account or client
        free = state.options.max_queue_bytes - state.held_bytes
        if size + account.bytes > free or (account is not client and size + account.bytes > self._free(client)):
            return False
        request.client = client
        client.open += 1
        account.bytes += size
        state.held_bytes += size
        identity = request.terms.identity
        if identity is not None:
            self.calls[identity] = request
        return True

    def settle(self, request: Request) -> None:
        """The broker is done with a request, or with its answer: off the account."""
        client = request.client
        if client is None:
            return
        request.client = None
        size = request.size + request.joined_bytes
        (client.account or client).bytes -= size
        self._state.held_bytes -= size
        request.body = []
        if request.joined_parts is not None:
            request.joined_parts = None
            request.joined_bytes = 0
        identity = request.terms.identity
        if identity is not None and self.calls.get(identity) is request:
            del self.calls[identity]
        client.open -= 1
        if not client.open:
            self.forget(client)

    def move(self, request: Request, address: tuple[bytes, ...], client: Client) -> None:
        """The answer goes to another address from now on, perhaps of another connection."""
        request.address = address
        old = request.client
        if old is not None and old is not client:
            request.client = client
            client.open += 1
            size = request.size + request.joined_bytes
            (client.account or client).bytes += size
            (old.account or old).bytes -= size
            old.open -= 1
            self.forget(old)

    def _charge(self, client: Client, size: int) -> None:
        (client.account or client).bytes += size
        self._state.held_bytes += size

    # Answers

    def answer(self, request: Request, body: list[bytes], status: Status, now: float) -> None:
        """Send an answer, a part of one, or the reason why there is none."""
        client = request.client
        if request.abandon_reason or client is None or client.gone:
            self._state.counters.count("drops", "abandoned")
        elif now > request.deadline:
            self._state.counters.count("drops", "late")
        elif request.address:
            outgoing: Outgoing = new_tuple(Outgoing, (request.answer_frames(body, status), request, True))
            if client.backlog is None:
                self._state.outbox.append(outgoing)
            else:
                self._hold(client.backlog, outgoing, client.backlog.waiting, now)

    def fail(self, request: Request, status: Status, now: float) -> None:
        """Tell a gmdp client why there is no answer; nobody else would understand."""
        if request.terms.frame and not request.abandon_reason:
            self.answer(request, _NOTHING, status, now)

    def dismiss(self, request: Request, reason: EndReason, now: float) -> None:
        """Nothing more comes of an answer that a worker is still at: tell a gmdp client why."""
        client = request.client
        status = STATUS_OF_REASON[reason]
        if status is not None and request.terms.frame and client is not None and not client.gone:
            # Not as the request's own: whatever else of that is on its way is dropped.
            self.tell(request.answer_frames(_NOTHING, status), now)
        self.abandon(request, reason, now)

    def tell(self, frames: list[bytes], now: float) -> None:
        """Send a client what answers no accepted request."""
        client = self.clients.get(frames[0])
        outgoing = Outgoing(frames, None, True)
        if client is None or client.backlog is None:
            self._state.outbox.append(outgoing)
        else:
            self._hold(client.backlog, outgoing, client.backlog.waiting, now)

    def join_part(self, request: Request, body: list[bytes], now: float) -> None:
        """Keep a part of an answer, for a client that gets one reply."""
        client = request.client
        if client is None:
            self._state.counters.count("drops", "abandoned")
            return
        size = charged_bytes(body) + (FRAME_COST if request.joined_parts else 0)
        if not self.has_room(client, size):
            self._state.counters.count("drops", "reply_too_large")
            self.dismiss(request, EndReason.TOO_LARGE, now)
            return
        if request.joined_parts is None:
            request.joined_parts = []
        request.joined_parts += body
        request.joined_bytes += size
        self._charge(client, size)

    def unjoin(self, request: Request) -> None:
        """Forget the parts kept so far."""
        if request.joined_parts is not None and request.client is not None:
            self._charge(request.client, -request.joined_bytes)
            request.joined_parts = None
            request.joined_bytes = 0

    def abandon(self, request: Request, reason: EndReason, now: float) -> None:
        """Nobody waits for this answer any more, or it cannot be sent whole.

        The worker that has it is told, if it understands that.
        """
        if request.abandon_reason:
            return
        request.abandon_reason = reason
        self.settle(request)
        worker = request.worker
        if worker is not None and worker.connection.dialect.extended:
            connection = worker.connection
            _, number = extension.read_session(worker.session)
            frames = [
                *connection.address,
                extension.session_frame(number, CALLER_GONE),
                *connection.dialect.worker(Command.HEARTBEAT),
            ]
            connection.pulse.beating(now)
            self._state.outbox.append(Outgoing(frames, connection, False))

    # Slow clients

    def withheld(self, outgoing: Outgoing, now: float) -> bool:
        """Is this message, which is about to be sent, not to be sent now or at all?"""
        target = outgoing.target
        if type(target) is Request:
            if target.abandon_reason:
                self._state.counters.count("drops", "abandoned")
                return True
        elif target is not None or not outgoing.essential:
            return False
        if self.backlogs:
            client = self.clients.get(outgoing.frames[0])
            if client is not None and client.backlog is not None and client.backlog.blocked:
                self._hold(client.backlog, outgoing, client.backlog.returned, now)
                return True
        return False

    def unsent(self, outgoing: Outgoing, full: bool, now: float) -> None:
        """A client's message could not be sent: the client is `full`, or gone."""
        routing_id = outgoing.frames[0]
        client = self.client(routing_id, self._state.users.get(routing_id, ""))
        backlog = client.backlog
        if full:
            if backlog is None:
                backlog = client.backlog = Backlog(client, FIRST_RETRY)
                self.backlogs += 1
                self._state.counters.slow_clients += 1
            backlog.blocked = True
            self._state.timers.arm(backlog, now + backlog.delay)
            self._hold(backlog, outgoing, backlog.returned, now)
            return
        self._drop(outgoing, EndReason.CLIENT_GONE, "client_gone", now)
        if backlog is not None:
            self._end_backlog(backlog, EndReason.CLIENT_GONE, "client_gone", now)
        self.forget(client)

    def due(self, backlog: Backlog, now: float) -> None:
        """Try again: some messages, for now."""
        waiting, returned = backlog.waiting, backlog.returned
        if backlog.blocked and len(returned) >= backlog.tried:
            backlog.delay = min(2 * backlog.delay, LAST_RETRY)
        else:
            backlog.delay = FIRST_RETRY  # some went through
        backlog.blocked = False
        waiting.extendleft(reversed(returned))
        returned.clear()
        if not waiting:
            self._end(backlog)
            self.forget(backlog.client)
            return
        backlog.tried = min(len(waiting), self.batch)
        for _ in range(backlog.tried):
            message = waiting.popleft()
            self._charge(backlog.client, -charged_bytes(message.frames))
            if isinstance(message.target, Request) and now > message.target.deadline:
                self._drop(message, EndReason.DEADLINE, "late", now)
            else:
                self._state.outbox.append(message)
        self._state.timers.arm(backlog, now + FIRST_RETRY)

    def _end(self, backlog: Backlog) -> None:
        self._state.timers.disarm(backlog)
        backlog.client.backlog = None
        self.backlogs -= 1

    def _end_backlog(self, backlog: Backlog, reason: EndReason, counted_as: str, now: float) -> None:
        """Drop what waits for a client that will not read it."""
        self._end(backlog)
        for message in (*backlog.returned, *backlog.waiting):
            self._charge(backlog.client, -charged_bytes(message.frames))
            self._drop(message, reason, counted_as, now)

    def _hold(self, backlog: Backlog, outgoing: Outgoing, where: deque[Outgoing] | list[Outgoing], now: float) -> None:
        size = charged_bytes(outgoing.frames)
        if not self.has_room(backlog.client, size):
            self._drop(outgoing, EndReason.CLIENT_FULL, "client_full", now)
            request = outgoing.target
            if not isinstance(request, Request) or not request.terms.frame:
                return
            outgoing = Outgoing(request.answer_frames(_NOTHING, Status.OVERLOADED), None, True)
            size = charged_bytes(outgoing.frames)
            if not self.has_room(backlog.client, size, times=2):
                return
        where.append(outgoing)
        self._charge(backlog.client, size)

    def _drop(self, outgoing: Outgoing, reason: EndReason, counted_as: str, now: float) -> None:
        self._state.counters.count("drops", counted_as)
        # An answer with a hole in it is worse than none: the rest is dropped, too.
        if isinstance(outgoing.target, Request):
            self.abandon(outgoing.target, reason, now)
