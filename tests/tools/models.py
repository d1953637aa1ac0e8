"""Simple models of the cores, and messages to feed them, for the property tests.

Everything here is written to be obviously right, not fast: lists that are
walked from end to end, messages spelled out byte by byte, nothing taken from
the modules under test but the enumeration of dialects.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from gmdp.protocol.dialects import DELIMITED, MAJORTOMO, RFC7, RFC18

DIALECTS = (RFC7, RFC18, MAJORTOMO)

#: The bytes of every message: (client head, request code, partial code, final code, whether
#: the service is repeated, worker head).
_LAYOUT = {
    RFC7: ([b"", b"MDPC01"], [], None, [], True, [b"", b"MDPW01"]),
    RFC18: ([b"MDPC02"], [b"\x01"], [b"\x02"], [b"\x03"], True, [b"MDPW02"]),
    MAJORTOMO: ([b"", b"MDPC02"], [b"\x02"], [b"\x03"], [b"\x04"], False, [b"", b"MDPW02"]),
    # A client of RFC 18 behind a delimiter; nothing tells its workers from majortomo's.
    DELIMITED: ([b"", b"MDPC02"], [b"\x01"], [b"\x02"], [b"\x03"], True, [b"", b"MDPW02"]),
}
_WORKER_CODES = {
    RFC7: {"READY": 1, "REQUEST": 2, "FINAL": 3, "HEARTBEAT": 4, "DISCONNECT": 5},
    RFC18: {"READY": 1, "REQUEST": 2, "PARTIAL": 3, "FINAL": 4, "HEARTBEAT": 5, "DISCONNECT": 6},
}
_WORKER_CODES[MAJORTOMO] = _WORKER_CODES[DELIMITED] = _WORKER_CODES[RFC18]


def weight(body):
    """How many bytes frames count in the bound: their own, and 64 for each beyond the first."""
    return sum(map(len, body)) + 64 * max(len(body) - 1, 0)


def request_weight(address, body):
    """How many bytes a request counts: 1,000, its body, and each frame of its return address like one of the body."""
    stack = address[1:]
    return 1000 + weight(body) + sum(map(len, stack)) + 64 * len(stack)


def client_request(dialect, service, body):
    """A client's REQUEST, without routing id and return address."""
    head, request, _, _, _, _ = _LAYOUT[dialect]
    return [*head, *request, service, *body]


def client_reply(dialect, service, body, final=True):
    """A broker's answer to a client, without routing id and return address."""
    head, _, partial_code, final_code, names_service, _ = _LAYOUT[dialect]
    code: Any = final_code if final else partial_code
    return [*head, *code, *([service] if names_service else []), *body]


def worker_command(dialect, name, *rest):
    """A command between worker and broker, without routing id and return address."""
    return [*_LAYOUT[dialect][5], bytes([_WORKER_CODES[dialect][name]]), *rest]


def worker_commands(dialect):
    """The names of the commands of `dialect` between worker and broker."""
    return sorted(_WORKER_CODES[dialect])


def read_client_reply(dialect, frames):
    """(final, service or None, body) of what :func:`client_reply` built."""
    head, _, partial_code, _, names_service, _ = _LAYOUT[dialect]
    assert frames[: len(head)] == head
    rest = frames[len(head) :]
    final = True
    if partial_code is not None:
        final = rest.pop(0) != partial_code[0]
    service = rest.pop(0) if names_service else None
    assert rest
    return final, service, rest


def read_for_worker(dialect, frames):
    """(command name, address, body) of what a broker sent a worker."""
    head = _LAYOUT[dialect][5]
    assert frames[: len(head)] == head
    code, *rest = frames[len(head) :]
    (name,) = [name for name, number in _WORKER_CODES[dialect].items() if bytes([number]) == code]
    if name != "REQUEST":
        assert not rest
        return name, None, []
    assert rest[1] == b""
    assert rest[2:]
    return name, rest[0], rest[2:]


# Strategies

dialects = st.sampled_from(DIALECTS)
frames_of_any_kind = st.one_of(
    st.binary(max_size=8),
    st.sampled_from([b"", b"\x00", b"\xff\xfe", b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02", b"mmi.service", b"mmi."]),
    st.integers(0, 8).map(lambda number: bytes([number])),
    st.sampled_from([255, 256, 300]).map(lambda size: b"s" * size),
)
bodies = st.lists(frames_of_any_kind, min_size=1, max_size=4)
service_names = st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from([b"mmi.service", b"s" * 255]))
#: Frames of a return address: not empty, and the first of them is no header.
stacks = st.lists(st.binary(min_size=1, max_size=8), max_size=8).map(tuple)


def may_stand_before(dialect, stack):
    """True if a return address can stand before a message of this dialect."""
    return not stack or (dialect is not RFC18 and stack[0] not in (b"MDPC02", b"MDPW02"))


@st.composite
def valid_messages(draw):
    """(dialect, stack, kind, subject, body) of a message that a peer may send to a broker."""
    dialect = draw(dialects)
    stack = draw(stacks.filter(lambda stack: may_stand_before(dialect, stack))) if dialect is not RFC18 else ()
    kind = draw(st.sampled_from(["request", *(name for name in worker_commands(dialect) if name != "REQUEST")]))
    subject, body = b"", []
    if kind in ("request", "READY"):
        subject = draw(service_names)
    elif kind in ("PARTIAL", "FINAL"):
        subject = draw(st.binary(max_size=30))
    if kind in ("request", "PARTIAL", "FINAL"):
        body = draw(bodies)
    return dialect, stack, kind, subject, body


def as_frames(routing_id, message):
    """A message of :func:`valid_messages` as a ROUTER socket gives it."""
    dialect, stack, kind, subject, body = message
    if kind == "request":
        frames = client_request(dialect, subject, body)
    elif kind == "READY":
        frames = worker_command(dialect, kind, subject)
    elif kind in ("PARTIAL", "FINAL"):
        frames = worker_command(dialect, kind, subject, b"", *body)
    else:
        frames = worker_command(dialect, kind)
    return [routing_id, *stack, *frames]


@st.composite
def near_misses(draw, messages):
    """A message of `messages` with a frame dropped, doubled, changed, or put in."""
    frames = list(draw(messages))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, max(len(frames) - 1, 0)))
        how = draw(st.sampled_from(["drop", "double", "change", "insert", "swap", "cut"]))
        if how == "insert" or not frames:
            frames.insert(at, draw(frames_of_any_kind))
        elif how == "drop":
            del frames[at]
        elif how == "double":
            frames.insert(at, frames[at])
        elif how == "change":
            frames[at] = draw(frames_of_any_kind)
        elif how == "swap":
            frames[at], frames[-1] = frames[-1], frames[at]
        else:
            frames = frames[:at]
    return frames


huge = st.builds(
    lambda front, frame, count: [*front, *([frame] * count)],
    st.lists(frames_of_any_kind, max_size=4),
    frames_of_any_kind,
    st.sampled_from([9, 1_000, 100_000]),
)


# A fair queue


class NaiveQueue:
    """A fair queue made of lists: priorities, and in each of them lanes served in turn.

    Items have `lane`, `priority`, `suspect` and `number`.
    """

    def __init__(self, patience=16):
        self.patience = patience
        #: For each priority, lanes: [name, suspects given back, other items].
        self.levels = [[], [], [], []]
        self.passed = [0, 0, 0, 0]

    def __len__(self):
        return len(self.items())

    def items(self):
        return [item for lanes in self.levels for _, suspects, items in lanes for item in suspects + items]

    def heads(self):
        return [(suspects + items)[0] for lanes in self.levels for _, suspects, items in lanes]

    def _lane(self, item):
        lanes = self.levels[item.priority]
        for lane in lanes:
            if lane[0] == item.lane:
                return lanes, lane
        lane = [item.lane, [], []]
        lanes.append(lane)
        return lanes, lane

    def _sweep(self):
        self.levels = [[lane for lane in lanes if lane[1] or lane[2]] for lanes in self.levels]

    def push(self, item):
        self._lane(item)[1][2].append(item)

    def push_front(self, item):
        lanes, lane = self._insert(item)
        lanes.remove(lane)
        lanes.insert(0, lane)

    def move(self, item, name):
        self.remove(item)
        item.lane = name
        self._insert(item)

    def _insert(self, item):
        lanes, lane = self._lane(item)
        part = lane[1 if item.suspect else 2]
        part.append(item)
        part.sort(key=lambda other: other.number)
        return lanes, lane

    def pop(self, suspects=True):
        def able(lane):
            return lane[2] or (suspects and lane[1])

        levels = [priority for priority, lanes in enumerate(self.levels) if any(map(able, lanes))]
        if not levels:
            return None
        waiting = [priority for priority in levels[:-1] if self.passed[priority] >= self.patience]
        chosen = waiting[0] if waiting else levels[-1]
        if levels != [1] or any(item.suspect for item in self.items()):
            for priority in levels:
                if priority < chosen:
                    self.passed[priority] += 1
            self.passed[chosen] = 0
        lanes = self.levels[chosen]
        lane = next(lane for lane in lanes if able(lane))
        item = lane[1].pop(0) if suspects and lane[1] else lane[2].pop(0)
        lanes.remove(lane)
        lanes.append(lane)
        self._sweep()
        return item

    def remove(self, item):
        _, lane = self._lane(item)
        lane[1 if item in lane[1] else 2].remove(item)
        self._sweep()

    def victims(self):
        """The newest of the least urgent items of each client with the longest backlog; one of them gives way."""
        backlogs = Counter(item.lane for item in self.items())
        longest = [name for name, count in backlogs.items() if count == max(backlogs.values())]
        victims = []
        for name in longest:
            lane = next(lane for lanes in self.levels for lane in lanes if lane[0] == name)
            victims.append((lane[1] + lane[2])[-1] if lane[2] else lane[1][-1])
        return victims


# A broker


class Token:
    """Stands for a token in an expected message: any token that was never seen before."""

    def __init__(self, attempt):
        self.attempt = attempt
        #: The token itself, once it was seen.
        self.bytes = b""


class Report:
    """Stands for a management report in an expected message."""

    def __init__(self, service, only):
        self.service = service
        self.only = only


@dataclass(eq=False)
class ModelClient:
    """One that has a routing id until a message to it cannot be sent; who speaks under it next is another."""

    gone: bool = False


@dataclass(eq=False)
class ModelRequest:
    uid: bytes
    address: list
    dialect: object
    service: bytes
    body: list
    ttl_left: float
    #: How many requests were accepted, this one included.
    number: int
    client: ModelClient
    due: float | None = None
    attempts: int = 0
    streamed: bool = False
    #: Why the rest of its answer is dropped; empty: it is not.
    abandoned: str = ""
    joined: list = field(default_factory=list)
    priority = 1
    #: That a request was lost once makes no difference where a connection has one worker.
    suspect = False

    @property
    def lane(self):
        return self.address[0]

    @property
    def held(self):
        return 0 if self.abandoned else request_weight(self.address, self.body) + weight(self.joined)


@dataclass(eq=False)
class ModelWorker:
    key: tuple
    dialect: object
    service: bytes
    heard: float
    sent: float
    beat: float
    answered: bool = False
    heard_busy: bool = False
    mute: bool = False
    assigned_at: float = 0.0
    request: ModelRequest | None = None
    token: Token | None = None

    def says(self, name):
        return [*self.key, *worker_command(self.dialect, name)]


@dataclass(eq=False)
class ModelService:
    queue: NaiveQueue = field(default_factory=NaiveQueue)
    idle: list = field(default_factory=list)
    workers: int = 0


@dataclass(eq=False)
class Expected:
    """A message that the broker should send, what it is about, and whether it is essential."""

    frames: list
    target: object = None
    essential: bool = False


class BrokerModel:
    """A broker made of lists.  Ends and losses are counted by reason."""

    def __init__(self, options, still_queued):
        self.options = options
        #: Called with a uid; True if that request is still queued in the broker.  Where several
        #: requests are equally new, the answer shows which of them was refused.
        self._still_queued = still_queued
        self.services = {}
        self.unserved = []
        self.workers = {}
        self.muted = {}
        self.outbox = []
        #: By routing id.
        self.clients = {}
        self.unreachable = {}
        self.draining = False
        #: True once the first step of a drain is done, in which gmdp peers are told.
        self.announced = False
        #: When idle workers may be let go next.
        self.release_at = 0.0
        #: Until when no worker is lost for silence: the broker ran late.
        self.excused_until = 0.0
        self.requests = 0
        self.replies = 0
        self.partials = 0
        self.redeliveries = 0
        self.management = 0
        self.registrations = 0
        self.ended = Counter()
        self.lost = Counter()
        self.drops = Counter()

    # What there is

    def queued(self):
        return [request for service in self.services.values() for request in service.queue.items()]

    def assigned(self):
        return [worker.request for worker in self.workers.values() if worker.request is not None]

    def held(self):
        return sum(request.held for request in self.queued() + self.assigned())

    def has_room(self, client, size):
        """A client may hold as many bytes as are free."""
        own = sum(request.held for request in self.queued() + self.assigned() if request.client is client)
        return own + size <= self.options.max_queue_bytes - self.held()

    def _send(self, frames, target=None, essential=False):
        self.outbox.append(Expected(frames, target, essential))

    # Clients

    def request(self, address, dialect, service, body, now):
        if self.draining:
            self.drops["draining"] += 1
            return
        if service not in self.services:
            if len(self.services) >= self.options.max_services:
                self.drops["services_full"] += 1
                return
            self._open(service)
        ttl = self.options.for_service(service).request_ttl
        client = self.clients.setdefault(address[0], ModelClient())
        request = ModelRequest(body[0], address, dialect, service, body, ttl, self.requests + 1, client)
        if not self.has_room(client, request_weight(address, body)):
            self.drops["bytes_full"] += 1
            self._collect(service)
            return
        self.requests += 1
        found = self.services[service]
        if found.idle:
            self._assign(request, found.idle.pop(0), now)
        else:
            found.queue.push(request)
            self._queued(request, now)

    def _queued(self, request, now):
        request.due = now + request.ttl_left
        service = self.services[request.service]
        limit = self.options.for_service(request.service).max_queue
        if len(service.queue) > limit:
            victims = service.queue.victims()
            gone = [victim for victim in victims if not self._still_queued(victim.uid)]
            assert gone, "none of the newest of the longest backlogs was refused"
            service.queue.remove(gone[0])
            self.ended["overloaded"] += 1
        self._collect(request.service)

    def expire(self, request):
        self.services[request.service].queue.remove(request)
        self.ended["expired"] += 1
        self._collect(request.service)

    def ask_management(self, address, dialect, service, only):
        self.management += 1
        if service == b"mmi.service":
            known = only in self.services and self.services[only].workers
            body: list[Any] = [b"200" if known else b"404"]
        elif service in (b"mmi.services", b"mmi.workers", b"mmi.statistics", b"mmi.broker"):
            body = [b"200", Report(service, only)]
        else:
            body = [b"501"]
        self._send([*address, *client_reply(dialect, service, body)], essential=True)

    # Services

    def _open(self, name):
        self.services[name] = ModelService()
        self.unserved.append(name)

    def _collect(self, name):
        service = self.services.get(name)
        if service is not None and not service.workers and not len(service.queue):
            del self.services[name]
            self.unserved.remove(name)

    # Workers

    def malformed(self, routing_id, reason, now):
        self.drops[reason] += 1
        worker = self.workers.get((routing_id,))
        if worker is not None:
            self.lose(worker, "malformed", now, disconnect=True)

    def _mute(self, key, now):
        self.muted[key] = now + self.options.expiry

    def _refuse(self, key, dialect, now):
        self._send([*key, *worker_command(dialect, "DISCONNECT")])
        self._mute(key, now)

    def stranger(self, key, dialect, now):
        """PARTIAL, FINAL or HEARTBEAT of one who is not registered."""
        self.drops["unregistered"] += 1
        if self.muted.get(key, now) <= now:
            self._refuse(key, dialect, now)
        else:
            self._mute(key, now)

    def _known(self, key, dialect, now):
        """The worker that speaks; it is lost if it speaks another dialect than before."""
        worker = self.workers.get(key)
        if worker is not None and worker.dialect is not dialect:
            self.lose(worker, "other_dialect", now, disconnect=True)
        return worker

    def ready(self, key, dialect, service, now):
        worker = self._known(key, dialect, now)
        if worker is not None:
            if key in self.workers:
                self.lose(worker, "second_ready", now, disconnect=True)
            return
        reason = None
        if service.startswith(b"mmi."):
            reason = "reserved_name"
        elif self.draining:
            reason = "draining"
        elif len(self.workers) >= self.options.max_workers:
            reason = "workers_full"
        elif service not in self.services:
            if len(self.services) >= self.options.max_services:
                if self.unserved:
                    oldest = self.services[self.unserved[0]]
                    self.ended["evicted"] += len(oldest.queue)
                    oldest.queue = NaiveQueue()
                    self._collect(self.unserved[0])
                else:
                    reason = "services_full"
            if reason is None:
                self._open(service)
        if reason is not None:
            self.drops[reason] += 1
            self._refuse(key, dialect, now)
            return
        self.muted.pop(key, None)
        self.registrations += 1
        found = self.services[service]
        found.workers += 1
        if service in self.unserved:
            self.unserved.remove(service)
        worker = self.workers[key] = ModelWorker(key, dialect, service, now, now, now)
        self._free(worker, now)

    def heartbeat(self, key, dialect, now):
        worker = self._known(key, dialect, now)
        if worker is None:
            self.stranger(key, dialect, now)
            return
        if key not in self.workers:
            return
        if worker.request is not None and now >= worker.assigned_at + self.options.heartbeat_interval:
            worker.heard_busy = True
        if worker.answered:
            worker.answered = False
        else:
            self._beat(worker, now)
        self.hear(worker, now)  # it may get a request after its HEARTBEAT is answered

    def _beat(self, worker, now):
        worker.sent = worker.beat = now
        worker.answered = True
        self._send(worker.says("HEARTBEAT"), worker)

    def tick(self, now, order):
        """Everything that is due, the longest due first; `order` of what is equally due."""
        due = []
        for worker in self.workers.values():
            beat_at = min(worker.sent, max(worker.heard, worker.beat)) + self.options.heartbeat_interval
            if self.mute_at(worker) <= now:
                worker.mute = True
                service = self.services[worker.service]
                if worker in service.idle:
                    service.idle.remove(worker)
            if self.lost_at(worker) <= now:
                due.append((self.lost_at(worker), -1, "lose", worker))
            elif beat_at <= now:
                due.append((beat_at, order(worker.key), "beat", worker))
        due += [(request.due, -1, "expire", request) for request in self.queued() if request.due <= now]
        for _, _, what, who in sorted(due, key=lambda one: one[:2]):
            if what == "lose":
                self.lose(who, self._loss(who)[1], now)
            elif what == "beat":
                self._beat(who, now)
            elif who.due is not None:
                self.expire(who)
        if self.draining:
            self._drain(now)

    def _drain(self, now):
        """Take the next step of a drain."""
        if not self.announced:
            self.announced = True
        elif not self.assigned():
            self.finish(now)
        elif now >= self.release_at:
            idle = [one for one in self.workers.values() if not one.request and not self.services[one.service].queue]
            for worker in idle:
                self.lose(worker, "stopped", now, disconnect=True)
                self.release_at = now + 0.02

    def disconnect(self, key, now):
        worker = self.workers.get(key)
        self._mute(key, now)
        if worker is None:
            self.drops["unregistered"] += 1
        else:
            self.lose(worker, "disconnect", now)

    def lost_at(self, worker):
        """When silence makes it lost."""
        return max(self._loss(worker)[0], self.excused_until)

    def _loss(self, worker):
        """When it is lost, and why."""
        expiry = (worker.heard + self.options.expiry, "expired")
        is_direct = len(worker.key) == 1
        if worker.request is None or (not is_direct and worker.heard_busy):
            return expiry
        busy_timeout = self.options.for_service(worker.service).busy_timeout
        return max(expiry, (max(worker.heard, worker.assigned_at) + busy_timeout, "busy_timeout"))

    def mute_at(self, worker):
        """When silence makes it mute; infinity if it is mute."""
        return math.inf if worker.mute else max(worker.heard + 2 * self.options.heartbeat_interval, self.excused_until)

    def hear(self, worker, now):
        """It says something."""
        worker.heard = now
        if worker.mute:
            worker.mute = False
            if worker.request is None:
                self._free(worker, now)

    def lose(self, worker, reason, now, disconnect=False):
        service = self.services[worker.service]
        del self.workers[worker.key]
        service.workers -= 1
        if worker in service.idle:
            service.idle.remove(worker)
        if not service.workers:
            self.unserved.append(worker.service)
        self.lost[reason] += 1
        if disconnect:
            self._refuse(worker.key, worker.dialect, now)
        request, worker.request = worker.request, None
        if any(request is unsent for unsent in self.unreachable.pop(worker.key, [])):
            request.attempts -= 1
        if request is not None:
            request.due = None
            if request.abandoned:
                self.ended[request.abandoned] += 1
            elif request.client.gone:
                self.ended["client_gone"] += 1
            elif request.streamed:
                self.ended["worker_lost"] += 1
            elif request.attempts >= self.options.for_service(request.service).attempts:
                self.ended["attempts"] += 1
            else:
                request.joined = []
                if service.idle:
                    self._assign(request, service.idle.pop(0), now)
                else:
                    service.queue.push_front(request)
                    self._queued(request, now)
        self._collect(worker.service)

    # Assignments

    def _free(self, worker, now):
        service = self.services[worker.service]
        while len(service.queue):
            request = service.queue.pop()
            request.ttl_left = request.due - now
            request.due = None
            if request.ttl_left > 0:
                self._assign(request, worker, now)
                return
            self.ended["expired"] += 1
        service.idle.append(worker)

    def _assign(self, request, worker, now):
        request.attempts += 1
        if request.attempts > 1:
            self.redeliveries += 1
        worker.request = request
        worker.assigned_at = worker.sent = now
        worker.answered = True
        worker.token = Token(request.attempts)
        frames = [*worker.key, *worker_command(worker.dialect, "REQUEST", worker.token, b"", *request.body)]
        self._send(frames, worker, essential=True)

    def answer(self, key, dialect, address, body, final, now):
        worker = self._known(key, dialect, now)
        if worker is None:
            self.stranger(key, dialect, now)
            return
        if key not in self.workers:
            return
        worker.heard, worker.mute = now, False
        request = worker.request
        if request is None or not worker.token.bytes or address[:21] != worker.token.bytes[:21]:
            self.drops["stray_reply"] += 1
            self.lose(worker, "stray_reply", now, disconnect=True)
        elif final:
            worker.request = None
            self.replies += 1
            if request.abandoned or request.client.gone:
                self.drops["abandoned"] += 1
            else:
                failed = address[21:22] == b"\x01"
                self._reply(request, body if failed else request.joined + body, True)
            self._free(worker, now)
        else:
            self.partials += 1
            if request.abandoned or (request.client.gone and request.dialect is not RFC7):
                self.drops["abandoned"] += 1
            elif request.dialect is not RFC7:
                request.streamed = True
                self._reply(request, body, False)
            elif not self.has_room(request.client, weight(request.joined + body) - weight(request.joined)):
                request.abandoned = "too_large"
                self.drops["reply_too_large"] += 1
            else:
                request.joined = request.joined + body

    def _reply(self, request, body, final):
        frames = [*request.address, *client_reply(request.dialect, request.service, body, final)]
        self._send(frames, request, essential=True)

    def on_caught_up(self, now):
        for key in list(self.unreachable):
            if key in self.unreachable:
                self.lose(self.workers[key], "unreachable", now)

    def unsent(self, expected, full, now):
        target = expected.target
        if isinstance(target, ModelWorker):
            registered = self.workers.get(target.key) is target
            if registered and (expected.essential or not full):
                # It is lost when all it has frames was read; what did not get there was no attempt.
                unsent = self.unreachable.setdefault(target.key, [])
                if expected.essential and target.request is not None:
                    unsent.append(target.request)
                if full:
                    self.lose(target, "unreachable", now)
        elif expected.essential:
            assert not full, "what becomes of a slow client is not foretold here"
            self.drops["client_gone"] += 1
            if target is not None:
                target.abandoned = "client_gone"
            self._forget_client(expected.frames[0])

    def _forget_client(self, routing_id):
        """Nobody waits for the answers to these requests."""
        client = self.clients.pop(routing_id, ModelClient())
        client.gone = True
        for request in self.queued():
            if request.client is client:
                self.services[request.service].queue.remove(request)
                self.ended["client_gone"] += 1
                self._collect(request.service)

    def adopt(self, core):
        """Go on from where the broker is."""
        requests = {}
        clients = {}

        def client_of(one):
            return clients.setdefault(one, ModelClient(one is not None and one.gone))

        def request_of(one):
            uid = one.body[0] if one.body else b""
            copy = ModelRequest(
                uid,
                list(one.address),
                one.dialect,
                one.service.name,
                one.body,
                one.ttl_left,
                one.number,
                client_of(one.client),
            )
            copy.due, copy.attempts = one.timer and one.timer[0], one.attempts
            copy.streamed, copy.abandoned, copy.joined = (
                one.partial_sent,
                one.abandon_reason.value if one.abandon_reason else "",
                list(one.joined_parts or ()),
            )
            requests[one] = copy
            return copy

        workers = {}
        for one in core.workers:
            connection, pulse = one.connection, one.connection.pulse
            key = connection.key if isinstance(connection.key, tuple) else (connection.key,)
            copy = ModelWorker(
                key, connection.dialect, one.service.name, pulse.heard_at, pulse.sent_at, pulse.heartbeat_sent_at
            )
            copy.answered, copy.heard_busy, copy.assigned_at, copy.mute = (
                pulse.sent_since_heartbeat,
                connection.heartbeat_while_busy,
                one.assigned_at,
                connection.mute,
            )
            if one.request is not None:
                copy.request = request_of(one.request)
                copy.token = Token(one.request.attempts)
                copy.token.bytes = one.token
            workers[one] = copy
        self.workers = {copy.key: copy for copy in workers.values()}
        self.services = {}
        for name, one in core.services.items():
            service = self.services[name] = ModelService(workers=one.workers)
            service.idle = [workers[worker] for worker in one.idle]
            for request in one.queue:
                service.queue.push(request_of(request))
        self.clients = {key: client_of(one) for key, one in core._accounts.clients.items()}
        self.unserved = list(core._services.without_worker)
        self.excused_until = core._state.gap.until
        self.announced = core._draining._sent_elsewhere
        self.release_at = core._draining._release_at
        muted = core._registry._refused.items()
        self.muted = {key if isinstance(key, tuple) else (key,): until for key, until in muted}
        counters = core.counters
        self.requests, self.replies, self.partials = counters.requests, counters.replies, counters.partials
        self.redeliveries, self.management = counters.redeliveries, counters.management
        self.registrations = counters.registrations
        self.ended, self.lost = Counter(counters.ended), Counter(counters.lost_workers)
        self.drops = Counter(counters.drops)
        return requests, workers

    def finish(self, now):
        for name in list(self.services):
            queue = self.services[name].queue
            self.ended["stopped"] += len(queue)
            self.services[name].queue = NaiveQueue()
            self._collect(name)
        for worker in list(self.workers.values()):
            if worker.request is not None:
                worker.request = None
                self.ended["stopped"] += 1
            self.lose(worker, "stopped", now, disconnect=True)
