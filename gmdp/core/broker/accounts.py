"""How much of the broker's memory each client holds.

The rules of this module:

* Each client (a user if the user is known, else a connection) has an account of the bytes it
  holds: requests queued or assigned, parts of answers being joined, unread answers.  A request
  counts what it takes: a constant, its return address and its body (:mod:`~.records`).
* A client may hold as many bytes as are still free in ``max_queue_bytes``: one client alone
  half of them, two a third each, so a newcomer always finds room.  Besides, a user may hold
  at most ``max_user_bytes``.
* A client is known as long as it has an open request or a backlog.
* An abandoned request leaves its account at once; the worker that has it is told.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from ...protocol import extension
from ...protocol.dialects import Command
from ...protocol.extension import CALLER_GONE, STALLED
from ..outcomes import EndReason
from .decisions import Outgoing
from .records import QUEUED, Client, Request, envelope_bytes
from .state import BrokerState


class Accounts:
    """The known clients, the bytes they hold, and the calls they may join or cancel."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        #: By routing id.
        self.clients: dict[Hashable, Client] = {}
        #: The accounts of users, by user.
        self.users: dict[Hashable, Client] = {}
        #: Open requests of gmdp clients, by user and request id.
        self.calls: dict[tuple[str, bytes], Request] = {}
        #: When the clients that wait for answers are looked for next, if there are clients (:mod:`~.notices`).
        self.check_at = math.inf

    # Clients

    def client_of(self, routing_id: bytes, user: str, now: float) -> Client:
        """The client that speaks on this connection; made if it is not known."""
        client = self.clients.get(routing_id)
        if client is None:
            if not self.clients:
                self.check_at = now + self._state.options.heartbeat_interval
            account = None
            if user:
                account = self.users.get(user)
                if account is None:
                    account = self.users[user] = Client(user, user)
                account.open += 1
            client = self.clients[routing_id] = Client(routing_id, user, account)
            peers = self._state.peers
            if peers.crowded:
                peers.on_use(routing_id)
        return client

    def forget_if_unused(self, client: Client) -> None:
        """Forget a client that has neither open requests nor a backlog."""
        if client.open or client.backlog is not None:
            return
        if self.clients.get(client.key) is client:
            del self.clients[client.key]
        elif not client.gone:
            return  # it was forgotten before
        account, client.account = client.account, None
        if account is not None:
            account.open -= 1
            if not account.open:
                del self.users[account.key]

    # Bytes

    def has_room(self, client: Client, size: int, times: int = 1) -> bool:
        """True if the client may hold `size` bytes more: at most `times` the bytes that are free."""
        free = self._free_for(client)
        return size <= free and size + (client.account or client).bytes <= times * free

    def charge(self, client: Client, size: int) -> None:
        """Put `size` bytes on the client's account; a negative number takes them off."""
        (client.account or client).bytes += size
        self._state.held_bytes += size

    def _free_for(self, client: Client) -> int:
        """How many bytes this client may hold."""
        state = self._state
        options = state.options
        free = options.max_queue_bytes - state.held_bytes
        return free if client.account is None else min(free, options.max_user_bytes)

    # Requests

    def admit(self, request: Request, client: Client) -> bool:
        """Put a request on its client's account; False if there is no room."""
        size = request.size
        state = self._state
        account = client.account or client
        free = state.options.max_queue_bytes - state.held_bytes
        if size + account.bytes > free or (account is not client and size + account.bytes > self._free_for(client)):
            return False
        request.client = client
        client.open += 1
        account.bytes += size
        state.held_bytes += size
        identity = request.terms.identity
        if identity is not None:
            self.calls[identity] = request
        return True

    def release(self, request: Request) -> None:
        """Take a request off its account: the broker is done with the request, or with its answer."""
        client = request.client
        if client is None:
            return  # released before
        request.client = None
        size = request.size
        if request.joined_parts is not None:
            size += request.joined_bytes
            request.joined_parts = None
            request.joined_bytes = 0
        (client.account or client).bytes -= size
        self._state.held_bytes -= size
        request.body = []
        identity = request.terms.identity
        # A retry that could not join this request may have taken its place.
        if identity is not None and self.calls.get(identity) is request:
            del self.calls[identity]
        client.open -= 1
        if not client.open:
            self.forget_if_unused(client)

    def redirect(self, request: Request, address: tuple[bytes, ...], client: Client) -> None:
        """Have the answer sent to `address`, and charge the request to `client` from now on."""
        old = request.client
        growth = envelope_bytes(address) - envelope_bytes(request.address)
        request.address = address
        if growth and old is not None:
            request.size += growth
            self.charge(old, growth)
        if old is not None and old is not client:
            request.client = client
            client.open += 1
            if request.place is QUEUED:
                old.queued -= 1
                client.queued += 1
            size = request.size + request.joined_bytes
            (client.account or client).bytes += size
            (old.account or old).bytes -= size
            old.open -= 1
            self.forget_if_unused(old)

    def abandon(self, request: Request, reason: EndReason, now: float) -> None:
        """Give up an answer that nobody waits for any more, or that cannot be sent whole.

        A worker that has the request is told, if its dialect is extended.
        """
        if request.abandon_reason is not None:
            return
        request.abandon_reason = reason
        self.release(request)
        if request.flow is not None:
            self._state.timers.disarm(request)
        worker = request.worker
        if worker is not None and worker.connection.dialect.extended:
            connection = worker.connection
            stalled = reason is EndReason.STALLED
            frames = [
                *connection.address,
                extension.mark_session(worker.session, CALLER_GONE | STALLED if stalled else CALLER_GONE),
                *connection.dialect.worker_command(Command.HEARTBEAT),
            ]
            connection.pulse.on_heartbeat_sent(now)
            self._state.outbox.append(Outgoing(frames, connection, False))
