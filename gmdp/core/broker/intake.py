"""What clients ask of a broker (RFC 7 and RFC 18, MDP/Client; RFC 8; the extension).

The rules of this module:

* A request is refused, and counted, when its caller's time is up, when the broker is
  stopping, when its client holds too many bytes, or when there are too many services.  A gmdp
  client is told, unless its time is up.  A strict client hears nothing: the RFCs have no message
  for a refusal.
* A gmdp client's request is also refused when its connection has ``max_in_flight`` requests open.
  A strict client does not know that bound, so only queues and bytes bound its requests.
* A gmdp client's request that carries the id of one that is still queued or running joins
  it, if the user is the same: the answer goes to the connection of the retry.  If a part of the
  answer went to another connection, that request is given up and the retry begins anew.
* With :mod:`~.access`, a user may send only so many requests a second, and may call and
  inspect only what the policy allows.  A gmdp client is told that something is not allowed; a strict
  client hears ``403`` from ``mmi.`` services and nothing from others.
* A cancelled request leaves the queue; if it runs, its answer is dropped.
* A grant is about the parts of an answer (:mod:`~.flows`).
"""

from __future__ import annotations

import math

from ...protocol import extension, token
from ...protocol.dialects import EMPTY, MMI_PREFIX, RFC18
from ...protocol.extension import CallFrame, Feature, Status
from ...protocol.text import show_name
from ...protocol.wire import Message
from ..outcomes import EndReason
from . import access
from .accounts import Accounts
from .decisions import Refusal, new_tuple
from .delivery import Delivery
from .flows import Flows
from .options import BrokerOptions
from .reasons import AUDITED, TABLES_FULL, DropReason
from .records import CallTerms, Place, Request, envelope_bytes
from .replies import Replies
from .reports import FORBIDDEN, OVERLOADED, Reports
from .services import Services
from .state import BrokerState
from .wording import describe_refusal, explain_refusal

_NOTHING = [EMPTY]
#: The most bytes of a request to an ``mmi.`` service that are looked at: one more than any name or probe may have.
_MOST_ASKED = extension.MAX_PROBE + 1
#: The flags of call frames that begin no request.
_NO_REQUEST = extension.CANCEL | extension.GRANT
_FAIL_WITHOUT_WORKER, _GRANTS_CREDITS = extension.FAIL_WITHOUT_WORKER, extension.GRANTS_CREDITS
_TIME_STATED = extension.TIME_STATED
_TYPED_FAILURES = token.TYPED_FAILURES
_TYPED_FAILURES_AND_CREDITS = token.TYPED_FAILURES | token.CREDITS


class Intake:
    """Accepts, joins, answers, cancels or refuses the requests of clients."""

    def __init__(
        self,
        state: BrokerState,
        accounts: Accounts,
        replies: Replies,
        flows: Flows,
        services: Services,
        delivery: Delivery,
        reports: Reports,
    ) -> None:
        self._state = state
        self._accounts = accounts
        self._replies = replies
        self._flows = flows
        self._services = services
        self._delivery = delivery
        self._reports = reports

    def handle(self, routing_id: bytes, message: Message, now: float, user: str) -> None:
        """Take one message of a client, of any kind.

        The order of the checks matters.  The user's rights come before any step that costs work
        or reveals something; the check for room comes last.
        """
        _, dialect, _, stack, name, body, frame = message
        address = (routing_id, *stack)
        state = self._state
        accounts = self._accounts
        call: CallFrame | None = None
        identity: tuple[str, bytes] | None = None
        if frame:
            call = extension.read_call(frame)
            _, flags, priority, attempt, call_id, time_left, traceparent, _ = call
            identity = (user, call_id)
            if flags & _NO_REQUEST:
                # A cancel and a grant are about a call that was accepted: they need no right and no
                # room, and have no answer.
                if flags & extension.CANCEL:
                    self._cancel(identity, now)
                else:
                    self._flows.on_grant(identity, call, now)
                return
        if state.access is not None and not self._check_rights(state.access, address, message, user, now):
            return  # refused, and answered if the dialect can say why
        if call is not None and identity in accounts.calls and self._join(identity, call, address, message, now):
            # The try belongs to a request that the broker has already, and takes no further room.
            return
        if name.startswith(MMI_PREFIX):
            # Answered at once and never queued: management works while the broker is full or draining.
            state.counters.management += 1
            body = [body[0][:_MOST_ASKED]]
            if name == extension.PROBE_SERVICE:
                state.peers.note(address, extension.read_probe(body) & self._reports.features, dialect)
            answer = self._reports.answer(name, body, now, user or routing_id)
            if call is not None and answer == [OVERLOADED]:
                self.refuse(address, message, DropReason.REPORTS_FULL, Status.OVERLOADED, now)
            else:
                self._reply(address, message, answer, Status.OK, now)
            return
        if call is not None and time_left == 0:
            # The caller has given up: an answer would come too late, and so would a refusal.
            state.counters.count_drop(DropReason.LATE)
            return
        if state.draining:
            # Queued requests may still be worked on; a new one would only be ended.
            state.refused_at = now
            not_run = state.peers.features_of(address, frame) & Feature.NOT_RUN
            self.refuse(address, message, DropReason.DRAINING, Status.NOT_RUN if not_run else Status.SHUTTING_DOWN, now)
            return
        options = state.options
        client = accounts.clients.get(routing_id) or accounts.client_of(routing_id, user, now)
        if client.open >= options.max_in_flight and call is not None:
            # The client has requests open, so it is not forgotten here.
            self.refuse(address, message, DropReason.IN_FLIGHT_FULL, Status.OVERLOADED, now)
            return
        service = self._services.by_name.get(name) or self._services.open(name, now, user)
        if service is None:
            # Only a READY may push out another service.
            reason = DropReason.SERVICES_FULL
            if self._services.has_opened_too_many(user):
                reason = DropReason.USER_SERVICES_FULL
                state.refusals.append(Refusal(access.CALL, user, name, reason))
            self.refuse(address, message, reason, Status.OVERLOADED, now)
            accounts.forget_if_unused(client)
            return
        request = Request(service, address, dialect, body, user or routing_id, now)
        if stack:
            request.size += envelope_bytes(address)
        if call is not None:
            fail = flags & _FAIL_WITHOUT_WORKER != 0
            token_flags = _TYPED_FAILURES
            if flags & _GRANTS_CREDITS and dialect.streams:
                token_flags = _TYPED_FAILURES_AND_CREDITS
            if flags & _TIME_STATED:
                request.ttl_left = service.stated_ttl
            if len(frame) > extension.BARE_SIZE:
                frame = extension.bare_call(frame)
            if traceparent:
                request.size += len(traceparent)
            request.terms = new_tuple(CallTerms, (frame, identity, fail, traceparent, attempt, token_flags))
            request.priority = priority
            if time_left is not None:
                request.deadline = now + time_left
        if not accounts.admit(request, client):
            # A body larger than max_queue_bytes never fits; any other body may fit later.
            too_large = request.size > options.max_queue_bytes
            self.refuse(
                address, message, DropReason.BYTES_FULL, Status.TOO_LARGE if too_large else Status.OVERLOADED, now
            )
            # The client and the service may have been made for this request.
            accounts.forget_if_unused(client)
            self._services.forget_if_unused(service)
            return
        self._delivery.submit(request, now)

    def inject(self, service: bytes, body: list[bytes], now: float) -> bool:
        """Accept a request of the broker's own; False if it has no room, or the broker stops."""
        found = None if self._state.draining else self._services.open(service, now, "")
        if found is None:
            return False
        request = Request(found, (), RFC18, body, EMPTY, now)
        client = self._accounts.client_of(EMPTY, "", now)
        if not self._accounts.admit(request, client):
            self._accounts.forget_if_unused(client)
            self._services.forget_if_unused(found)
            return False
        self._delivery.submit(request, now)
        return True

    def refuse(
        self, address: tuple[bytes, ...], message: Message, reason: DropReason, status: Status, now: float
    ) -> None:
        """Refuse a request; a gmdp client hears `status`."""
        self._state.counters.count_drop(reason)
        if message.extra:
            fields = explain_refusal(self._state, address, message.extra, reason, status)
            self._reply(address, message, _NOTHING, status, now, fields)
        elif reason not in AUDITED:
            state = self._state
            user, peer = state.users.get(address[0], ""), EMPTY if reason in TABLES_FULL else address[0]
            state.complaints.complain(reason.value, peer, user, now, _describe_refused, state.options, message, reason)

    def _check_rights(
        self, rights: access.Access, address: tuple[bytes, ...], message: Message, user: str, now: float
    ) -> bool:
        """True if `user` may send this request; else the request is refused."""
        name = message.subject
        if name == extension.PROBE_SERVICE:
            return True
        inspects = name.startswith(MMI_PREFIX)
        action = access.INSPECT if inspects else access.CALL
        if user and not rights.take_turn(user, now):
            reason, status = DropReason.RATE_FULL, Status.OVERLOADED
        elif not rights.allows(user, action, name):
            reason, status = (
                DropReason.REVOKED if user == access.REVOKED else DropReason.NOT_ALLOWED,
                Status.NOT_ALLOWED,
            )
        else:
            return True
        self._state.refusals.append(Refusal(action, user, name, reason))
        if inspects and not message.extra and status is Status.NOT_ALLOWED:
            self._state.counters.count_drop(reason)
            self._reply(address, message, [FORBIDDEN], status, now)
        else:
            self.refuse(address, message, reason, status, now)
        return False

    def _reply(
        self,
        address: tuple[bytes, ...],
        message: Message,
        body: list[bytes],
        status: Status,
        now: float,
        fields: bytes = extension.NO_FIELDS,
    ) -> None:
        """Answer a message at once; `fields` are the optional fields of the answer's call frame."""
        reply = message.dialect.reply(message.subject, body)
        if message.extra:
            attempt = extension.read_call(message.extra).attempt
            frame = extension.answer_frame(extension.bare_call(message.extra), status, attempt, 0)
            if fields is not extension.NO_FIELDS:
                frame = extension.with_fields(frame, fields)
            self._replies.send([*address, frame, *reply], now)
        else:
            self._replies.send([*address, *reply], now)

    def _join(
        self, identity: tuple[str, bytes], call: CallFrame, address: tuple[bytes, ...], message: Message, now: float
    ) -> bool:
        """Have a retry join the request that has its id, or drop the retry; False if it begins anew."""
        request = self._accounts.calls[identity]
        if request.service.name != message.subject:
            # Two calls with one id are a bug in the client; the first call keeps the id.
            self._state.counters.count_drop(DropReason.ID_REUSED)
            return True
        if call.attempt < extension.read_call(request.terms.frame).attempt:
            # A later try arrived before this one, which took a slower connection.
            self._state.counters.count_drop(DropReason.LATE_RETRY)
            return True
        if request.partial_sent and request.address != address:
            # The retry's connection has not seen the parts that went out on another.
            self._accounts.abandon(request, EndReason.CLIENT_GONE, now)
            return False
        self._state.counters.joins += 1
        request.terms = request.terms._replace(frame=extension.bare_call(message.extra))
        self._accounts.redirect(request, address, self._accounts.client_of(address[0], identity[0], now))
        request.deadline = math.inf if call.time_left is None else now + call.time_left
        lane = identity[0] or address[0]
        if request.place is Place.QUEUED:
            self._services.arm(request, now)
            if request.lane != lane:
                request.service.queue.move(request, lane)
        else:
            request.lane = lane
        return True

    def _cancel(self, identity: tuple[str, bytes], now: float) -> None:
        """End the request of a call that its caller gave up."""
        request = self._accounts.calls.get(identity)
        if request is None:
            self._state.counters.count_drop(DropReason.LATE_CANCEL)
        elif request.place is Place.QUEUED:
            self._services.withdraw(request, EndReason.CANCELLED, now)
        else:
            self._accounts.abandon(request, EndReason.CANCELLED, now)


def _describe_refused(options: BrokerOptions, message: Message, reason: DropReason) -> str:
    text = describe_refusal(options, reason)
    return f"a request of {message.dialect.name} for {show_name(message.subject)} was dropped: {text}"
