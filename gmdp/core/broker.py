"""The broker's decisions (RFC 7 and RFC 18, both sub-protocols; RFC 8).

The rules of this module:

* A request is always in exactly one :class:`~.records.Place`.
* A worker has at most one request; a reply counts only if it carries the token
  of that very assignment, whoever sent it and whatever else it says.
* What a registered worker may say, and what comes of it:

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
  malformed     lost, DISCONNECT        lost, DISCONNECT, redelivery
  any, in       lost, DISCONNECT        lost, DISCONNECT, redelivery
  another
  dialect
  ============  ======================  ===================================

* Whoever is not registered may say READY; to anything else, the first answer
  is DISCONNECT and there is no second one.
* Every table has a bound, and beside it what happens to the newcomer.

Decisions are appended to :attr:`BrokerCore.outbox` and
:attr:`BrokerCore.events`; the owner of the socket empties both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from types import MappingProxyType
from typing import NamedTuple

from . import management, token, wire
from .liveness import Gap
from .options import BrokerOptions
from .records import FRAME_COST, Place, Request, Service, Worker, weight
from .statistics import BrokerCounters, BrokerStatistics, ServiceStatistics, counted
from .timers import Timers
from .wire import Command, Message

#: Peers that were told DISCONNECT and hear nothing more until READY; past this
#: number the longest known is forgotten (and may hear a second DISCONNECT).
MAX_REJECTED = 10_000


class Outgoing(NamedTuple):
    """One message to send."""

    frames: list[bytes]
    #: Whom it concerns if it cannot be sent.
    target: Worker | Request | None
    #: False if a peer with no room for it may do without.
    essential: bool


class Event(NamedTuple):
    """Something worth a line in a log."""

    #: "registered", "lost" (a worker) or "ended" (a request).
    kind: str
    service: bytes
    reason: str


class BrokerCore:
    """One broker, without its socket, clock and randomness.

    `nonce`: 8 bytes never used before, `now`: monotonic seconds.  `counters`
    may be those of an earlier core, to go on counting.
    """

    def __init__(
        self,
        options: BrokerOptions,
        nonce: bytes,
        now: float,
        counters: BrokerCounters | None = None,
        about: management.About | None = None,
    ) -> None:
        self.options = options
        self.counters = counters if counters is not None else BrokerCounters()
        self.about = about if about is not None else management.About()
        #: What to send, in order.
        self.outbox: list[Outgoing] = []
        #: What to tell, in order.
        self.events: list[Event] = []
        self.services: dict[bytes, Service] = {}
        self.workers: dict[Hashable, Worker] = {}
        self.started = now
        self.draining = False
        #: Requests workers have, and requests that wait.
        self.assigned = 0
        self.queued = 0
        #: Bytes of all their bodies, and of replies being joined.
        self.held_bytes = 0
        self._unserved: dict[bytes, None] = {}
        self._rejected: OrderedDict[Hashable, float] = OrderedDict()
        self._timers = Timers()
        self._token_start = token.start(nonce)
        self._assignments = 0
        self._gap = Gap(options.heartbeat_interval, options.expiry, now)

    # What the owner calls

    def awake(self, now: float) -> None:
        """A pass begins."""
        self._gap.awake(now, self._timers.next())

    def caught_up(self, now: float) -> None:
        """There was nothing more to read."""
        self._gap.caught_up(now)

    def feed(self, frames: list[bytes], now: float) -> None:
        """One whole message as received, routing id first."""
        options = self.options
        if not 3 <= len(frames) <= options.max_frames:
            self._malformed(frames, "malformed" if len(frames) < 3 else "too_many_frames", now)
        elif max(map(len, frames)) > options.max_frame_size:
            self._malformed(frames, "frame_too_large", now)
        elif (message := wire.parse(frames)) is None:
            self._malformed(frames, "malformed", now)
        elif message.client:
            self._client_said(frames[0], message, now)
        else:
            self._worker_said(frames[0], message, now)

    def unsent(self, outgoing: Outgoing, full: bool, now: float) -> None:
        """`outgoing` could not be sent: its peer is `full`, or gone."""
        target = outgoing.target
        if isinstance(target, Worker):
            # A full worker that is sent a HEARTBEAT has no need of it.
            if target.registered and (outgoing.essential or not full):
                if outgoing.essential and target.request is not None:
                    target.request.attempts -= 1  # it never reached anybody
                self._lose(target, "unreachable", now)
        elif target is not None:
            # An answer with a hole in it is worse than none: the rest goes too.
            target.abandoned = True
            self.counters.count("drops", "client_full" if full else "client_gone")

    def given_up(self, outgoing: Outgoing) -> bool:
        """Is `outgoing` the rest of an answer of which a part was not sent?"""
        if type(outgoing.target) is not Request or not outgoing.target.abandoned:
            return False
        self.counters.count("drops", "abandoned")
        return True

    def tick(self, now: float) -> None:
        """Do what is due by `now`."""
        while (item := self._timers.due(now)) is not None:
            if isinstance(item, Worker):
                self._check(item, now)
            else:
                item.service.queue.remove(item.lane, item)
                self._unqueue(item)
                self._end(item, "expired")
                self._collect(item.service)

    def deadline(self) -> float:
        """When :meth:`tick` is needed next; infinity if never."""
        return self._timers.next()

    def drain(self) -> None:
        """Take no new work from now on."""
        self.draining = True

    @property
    def drained(self) -> bool:
        """True when no worker has a request; what is queued then has no worker."""
        return not self.assigned

    def finish(self, now: float) -> None:
        """Tell every worker DISCONNECT and end what is left."""
        for service in list(self.services.values()):
            while service.queue:
                request = service.queue.pop()
                self._unqueue(request)
                self._end(request, "stopped")
            self._collect(service)
        for worker in list(self.workers.values()):
            if worker.request is not None:
                self._end(self._unassign(worker), "stopped")
            self._lose(worker, "stopped", now, disconnect=True)

    # Clients

    def _client_said(self, routing_id: bytes, message: Message, now: float) -> None:
        name = message.subject
        address = (routing_id, *message.stack)
        if name.startswith(wire.MMI_PREFIX):
            self.counters.management += 1
            body = management.answer(self, name, message.body, now)
            frames = [*address, *message.dialect.reply(name, body)]
            self.outbox.append(Outgoing(frames, None, False))
            return
        if self.draining:
            self.counters.count("drops", "draining")
            return
        service = self.services.get(name)
        if service is None:
            service = self._open(name)
            if service is None:
                self.counters.count("drops", "services_full")
                return
        request = Request(service, address, message.dialect, message.body, now)
        if self.held_bytes + request.size > self.options.max_queue_bytes:
            self.counters.count("drops", "bytes_full")
            self._collect(service)
            return
        self.counters.requests += 1
        service.requests += 1
        self.held_bytes += request.size
        if service.idle:
            self._assign(request, service.idle.popitem(last=False)[0], now)
        else:
            self._enqueue(request, now)

    def _enqueue(self, request: Request, now: float, again: bool = False) -> None:
        service = request.service
        request.move(Place.QUEUED)
        self.queued += 1
        if again:
            service.queue.push_front(request.lane, request)
        else:
            service.queue.push(request.lane, request)
        self._timers.arm(request, now + request.ttl_left)
        # The newest request of the longest backlog gives way.
        if len(service.queue) > service.options.max_queue:
            victim = service.queue.evict()
            self._unqueue(victim)
            self._end(victim, "overloaded")
        self._collect(service)

    def _unqueue(self, request: Request) -> None:
        self.queued -= 1
        self._timers.disarm(request)

    def _end(self, request: Request, reason: str) -> None:
        request.move(Place.ENDED)
        self.counters.count("ended", reason)
        self._release(request)

    def _release(self, request: Request) -> None:
        self.held_bytes -= request.size + request.joined_size
        request.body = []
        request.joined = None
        request.joined_size = 0

    # Services

    def _open(self, name: bytes, for_worker: bool = False) -> Service | None:
        if len(self.services) >= self.options.max_services:
            # A READY may push out a service that has no worker.
            if not for_worker or not self._unserved:
                return None
            oldest = self.services[next(iter(self._unserved))]
            while oldest.queue:
                request = oldest.queue.pop()
                self._unqueue(request)
                self._end(request, "evicted")
            self._collect(oldest)
        service = self.services[name] = Service(name, self.options.for_service(name))
        self._unserved[name] = None
        return service

    def _collect(self, service: Service) -> None:
        """Forget a service that has neither workers nor requests."""
        if not service.workers and not service.queue and self.services.get(service.name) is service:
            del self.services[service.name]
            del self._unserved[service.name]

    # Workers

    def _worker_said(self, routing_id: bytes, message: Message, now: float) -> None:
        key: Hashable = (routing_id, *message.stack) if message.stack else routing_id
        worker = self.workers.get(key)
        if worker is None:
            self._stranger_said(key, (routing_id, *message.stack), message, now)
            return
        if message.dialect is not worker.dialect:
            self._lose(worker, "other_dialect", now, disconnect=True)
            return
        # "Any received command except DISCONNECT acts as a heartbeat."
        worker.pulse.heard = now
        command = message.command
        if command is Command.FINAL:
            self._final(worker, message, now)
        elif command is Command.HEARTBEAT:
            self._heartbeat(worker, now)
        elif command is Command.PARTIAL:
            self._partial(worker, message, now)
        elif command is Command.DISCONNECT:
            # "When the broker receives DISCONNECT from a worker it MUST send no
            # further commands to that worker."
            self._reject(key, now)
            self._lose(worker, "disconnect", now)
        else:
            # "The worker MUST NOT send a further READY."
            self._lose(worker, "second_ready", now, disconnect=True)

    def _stranger_said(self, key: Hashable, address: tuple[bytes, ...], message: Message, now: float) -> None:
        if message.command is Command.DISCONNECT:
            self.counters.count("drops", "unregistered")
            self._reject(key, now)
        elif message.command is not Command.READY:
            # "The broker MUST respond to any valid but unexpected command by sending
            # DISCONNECT and then no further commands to that worker."
            self.counters.count("drops", "unregistered")
            if self._rejected.get(key, now) <= now:
                self._refuse(key, address, message, now)
            else:
                self._reject(key, now)  # remembered for as long as it talks on
        elif message.subject.startswith(wire.MMI_PREFIX):
            # RFC 8: "It MUST disconnect any workers that attempt to register
            # services in this namespace."
            self.counters.count("drops", "reserved_name")
            self._refuse(key, address, message, now)
        elif self.draining:
            self.counters.count("drops", "draining")
            self._refuse(key, address, message, now)
        elif len(self.workers) >= self.options.max_workers:
            self.counters.count("drops", "workers_full")
            self._refuse(key, address, message, now)
        else:
            service = self.services.get(message.subject) or self._open(message.subject, for_worker=True)
            if service is None:
                self.counters.count("drops", "services_full")
                self._refuse(key, address, message, now)
            else:
                self._register(key, address, message, service, now)

    def _register(
        self, key: Hashable, address: tuple[bytes, ...], message: Message, service: Service, now: float
    ) -> None:
        self._rejected.pop(key, None)
        worker = Worker(key, address, message.dialect, service, now)
        self.workers[key] = worker
        service.workers += 1
        self._unserved.pop(service.name, None)
        self.counters.registrations += 1
        self.events.append(Event("registered", service.name, message.dialect.name))
        self._timers.arm(worker, now + self.options.heartbeat_interval)
        self._free(worker, now)

    def _refuse(self, key: Hashable, address: tuple[bytes, ...], message: Message, now: float) -> None:
        frames = [*address, *message.dialect.worker(Command.DISCONNECT)]
        self.outbox.append(Outgoing(frames, None, False))
        self._reject(key, now)

    def _reject(self, key: Hashable, now: float) -> None:
        rejected = self._rejected
        rejected[key] = now + self.options.expiry
        rejected.move_to_end(key)
        while len(rejected) > MAX_REJECTED or next(iter(rejected.values())) <= now:
            rejected.popitem(last=False)

    def _malformed(self, frames: list[bytes], reason: str, now: float) -> None:
        """ "The broker SHOULD respond to invalid messages by dropping them and
        treating that peer as invalid." """
        self.counters.count("drops", reason)
        worker = self.workers.get(frames[0]) if frames else None
        if worker is not None:
            self._lose(worker, "malformed", now, disconnect=True)

    def _lose(self, worker: Worker, reason: str, now: float, disconnect: bool = False) -> None:
        service = worker.service
        worker.registered = False
        del self.workers[worker.key]
        service.workers -= 1
        service.idle.pop(worker, None)
        self._timers.disarm(worker)
        if not service.workers:
            self._unserved[service.name] = None
        self.counters.count("lost_workers", reason)
        self.events.append(Event("lost", service.name, reason))
        if disconnect:
            self.outbox.append(Outgoing(worker.command(Command.DISCONNECT), None, False))
            self._reject(worker.key, now)
        if worker.request is not None:
            self._deliver_again(self._unassign(worker), now)
        self._collect(service)

    def _check(self, worker: Worker, now: float) -> None:
        """A worker's timer: is it silent, does it need a HEARTBEAT?"""
        options = self.options
        pulse = worker.pulse
        # Workers that fall silent while they work get the time work may take.
        allowance = options.expiry
        if worker.request is not None and not worker.heard_busy:
            allowance = worker.service.options.busy_timeout
        lost_at = pulse.heard + allowance
        if worker.request is not None:
            lost_at = max(lost_at, worker.assigned_at + allowance)
        if now >= lost_at:
            if self._gap.may_judge(now):
                self._lose(worker, "expired", now)
                return
            lost_at = self._gap.until
        # "Peers SHOULD NOT send HEARTBEAT commands while also sending other commands."
        if now >= pulse.beat_at(options.heartbeat_interval):
            self._send_heartbeat(worker, now)
        self._timers.arm(worker, min(lost_at, pulse.beat_at(options.heartbeat_interval)))

    def _heartbeat(self, worker: Worker, now: float) -> None:
        # The first one of a piece of work may have been sent before it began.
        if worker.request is not None and now >= worker.assigned_at + self.options.heartbeat_interval:
            worker.heard_busy = True
        if worker.pulse.heartbeat_due():
            self._send_heartbeat(worker, now)

    def _send_heartbeat(self, worker: Worker, now: float) -> None:
        worker.pulse.beating(now)
        self.outbox.append(Outgoing(worker.command(Command.HEARTBEAT), worker, False))

    # Assignments

    def _free(self, worker: Worker, now: float) -> None:
        """Give an idle worker its next request, or let it wait for one."""
        service = worker.service
        while service.queue:
            request = service.queue.pop()
            if request.timer is not None:
                request.ttl_left = request.timer[0] - now
            self._unqueue(request)
            if request.ttl_left > 0:
                self._assign(request, worker, now)
                return
            self._end(request, "expired")  # its time was up before the tick that would say so
        service.idle[worker] = None

    def _assign(self, request: Request, worker: Worker, now: float) -> None:
        request.move(Place.ASSIGNED)
        request.attempts += 1
        if request.attempts > 1:
            self.counters.redeliveries += 1
        self.assigned += 1
        self._assignments += 1
        address = token.mint(self._token_start, self._assignments, request.attempts)
        worker.request = request
        worker.token = address[: token.PREFIX_SIZE]
        worker.assigned_at = now
        worker.pulse.sending(now)
        frames = [*worker.request_head, address, wire.EMPTY, *request.body]
        self.outbox.append(Outgoing(frames, worker, True))

    def _unassign(self, worker: Worker) -> Request:
        request = worker.request
        assert request is not None  # ours, not a peer's: callers looked
        worker.request = None
        worker.token = b""
        self.assigned -= 1
        return request

    def _deliver_again(self, request: Request, now: float) -> None:
        service = request.service
        if request.streamed:
            reason = "worker_lost"  # a PARTIAL went out: not run again
        elif request.attempts >= service.options.attempts:
            reason = "attempts"
        elif request.abandoned:
            reason = "client_gone"
        else:
            self.held_bytes -= request.joined_size
            request.joined = None
            request.joined_size = 0
            if service.idle:
                request.move(Place.QUEUED)
                self._assign(request, service.idle.popitem(last=False)[0], now)
            else:
                self._enqueue(request, now, again=True)
            return
        self._end(request, reason)
        self.events.append(Event("ended", service.name, reason))

    def _current(self, worker: Worker, message: Message, now: float) -> Request | None:
        """The request `message` answers, or None if it answers none: then the
        worker is lost ("valid but unexpected command")."""
        request = worker.request
        if request is not None and message.subject[: token.PREFIX_SIZE] == worker.token:
            return request
        self.counters.count("drops", "stray_reply")
        self._lose(worker, "stray_reply", now, disconnect=True)
        return None

    def _partial(self, worker: Worker, message: Message, now: float) -> None:
        request = self._current(worker, message, now)
        if request is None:
            return
        self.counters.partials += 1
        if request.abandoned:
            self.counters.count("drops", "abandoned")
        elif request.dialect.streams:
            request.streamed = True
            self._answer(request, message.body, final=False)
        else:
            self._join(request, message.body)

    def _join(self, request: Request, body: list[bytes]) -> None:
        """Keep a part of an answer for a client that gets one reply."""
        size = weight(body) + (FRAME_COST if request.joined else 0)
        if self.held_bytes + size > self.options.max_queue_bytes:
            request.abandoned = True
            self.counters.count("drops", "reply_too_large")
            return
        if request.joined is None:
            request.joined = []
        request.joined += body
        request.joined_size += size
        self.held_bytes += size

    def _final(self, worker: Worker, message: Message, now: float) -> None:
        request = self._current(worker, message, now)
        if request is None:
            return
        self._unassign(worker)
        request.move(Place.ANSWERED)
        self.counters.replies += 1
        worker.service.replies += 1
        worker.served += 1
        if len(message.subject) > token.STATUS and message.subject[token.STATUS] == token.HANDLER_FAILED:
            self.counters.handler_failures += 1
        body = message.body
        if request.joined is not None:
            body = request.joined + body
        if request.abandoned:
            self.counters.count("drops", "abandoned")
        else:
            self._answer(request, body, final=True)
        self._release(request)
        self._free(worker, now)

    def _answer(self, request: Request, body: list[bytes], final: bool) -> None:
        frames = [*request.address, *request.dialect.reply(request.service.name, body, final)]
        self.outbox.append(Outgoing(frames, request, True))

    # Statistics

    def service_statistics(self, services: Iterable[Service], now: float) -> dict[bytes, ServiceStatistics]:
        """Each service as it is now."""
        return {
            service.name: ServiceStatistics(
                workers=service.workers,
                idle=len(service.idle),
                busy=service.workers - len(service.idle),
                queued=len(service.queue),
                requests=service.requests,
                replies=service.replies,
                oldest=max((now - request.accepted for request in service.queue.heads()), default=0.0),
            )
            for service in services
        }

    def statistics(self, now: float) -> BrokerStatistics:
        """Everything as it is now, as an immutable copy."""
        counts = counted(self.counters)
        for table in ("ended", "lost_workers", "drops"):
            counts[table] = MappingProxyType(counts[table])
        return BrokerStatistics(
            uptime=now - self.started,
            services=MappingProxyType(self.service_statistics(self.services.values(), now)),
            workers=len(self.workers),
            idle=len(self.workers) - self.assigned,
            busy=self.assigned,
            queued=self.queued,
            queued_bytes=self.held_bytes,
            assigned=self.assigned,
            **counts,
        )
