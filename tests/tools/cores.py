"""Messages and cores for the tests of the protocol cores.

Each dialect's messages are spelled out byte by byte, not taken from
`gmdp.protocol.dialects`.  A broker, a worker and a client run under a clock that the
test moves.
"""

from gmdp.core.broker.core import BrokerCore
from gmdp.core.broker.options import BrokerOptions
from gmdp.core.peer.calls import Call
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.connector import Close, Open, Phase, Send
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.sessions import Resumed, Work
from gmdp.core.peer.statistics import ClientCounters, WorkerCounters
from gmdp.core.peer.worker import WorkerCore
from gmdp.protocol.dialects import MAJORTOMO, RFC7, RFC18
from gmdp.protocol.extension import Offer, offer_body

NONCE = b"\x00\x01\x02\x03\x04\x05\x06\x07"

#: When every test begins.
START = 1000.0

INTERVAL = 2.5
EXPIRY = 7.5


class MDP01:
    """MDP/0.1, as RFC 7 lays it out.  A worker's commands have short names."""

    dialect = RFC7
    #: Where a worker finds the client address.
    address_at = 3
    heartbeat = [b"", b"MDPW01", b"\x04"]
    disconnect = [b"", b"MDPW01", b"\x05"]

    @staticmethod
    def client_request(service, *body):
        return [b"", b"MDPC01", service, *body]

    @staticmethod
    def client_final(service, *body):
        return [b"", b"MDPC01", service, *body]

    @staticmethod
    def ready(service):
        return [b"", b"MDPW01", b"\x01", service]

    @staticmethod
    def request(address, *body):
        return [b"", b"MDPW01", b"\x02", address, b"", *body]

    @staticmethod
    def final(address, *body):
        return [b"", b"MDPW01", b"\x03", address, b"", *body]


class MDP02:
    """MDP/0.2, as RFC 18 lays it out."""

    dialect = RFC18
    address_at = 2
    heartbeat = [b"MDPW02", b"\x05"]
    disconnect = [b"MDPW02", b"\x06"]

    @staticmethod
    def client_request(service, *body):
        return [b"MDPC02", b"\x01", service, *body]

    @staticmethod
    def client_partial(service, *body):
        return [b"MDPC02", b"\x02", service, *body]

    @staticmethod
    def client_final(service, *body):
        return [b"MDPC02", b"\x03", service, *body]

    @staticmethod
    def ready(service):
        return [b"MDPW02", b"\x01", service]

    @staticmethod
    def request(address, *body):
        return [b"MDPW02", b"\x02", address, b"", *body]

    @staticmethod
    def partial(address, *body):
        return [b"MDPW02", b"\x03", address, b"", *body]

    @staticmethod
    def final(address, *body):
        return [b"MDPW02", b"\x04", address, b"", *body]


class Majortomo:
    """The 0.2 of the majortomo package: delimited, and replies name no service."""

    dialect = MAJORTOMO
    address_at = 3
    heartbeat = [b"", b"MDPW02", b"\x05"]
    disconnect = [b"", b"MDPW02", b"\x06"]

    @staticmethod
    def client_request(service, *body):
        return [b"", b"MDPC02", b"\x02", service, *body]

    @staticmethod
    def client_partial(service, *body):
        return [b"", b"MDPC02", b"\x03", *body]

    @staticmethod
    def client_final(service, *body):
        return [b"", b"MDPC02", b"\x04", *body]

    @staticmethod
    def ready(service):
        return [b"", b"MDPW02", b"\x01", service]

    @staticmethod
    def request(address, *body):
        return [b"", b"MDPW02", b"\x02", address, b"", *body]

    @staticmethod
    def partial(address, *body):
        return [b"", b"MDPW02", b"\x03", address, b"", *body]

    @staticmethod
    def final(address, *body):
        return [b"", b"MDPW02", b"\x04", address, b"", *body]


def answers(mdp, address):
    """The commands that answer the request of `address`."""
    final = mdp.final(address, b"answer")
    return [final] if mdp is MDP01 else [final, mdp.partial(address, b"part")]


def deadlines(core, now, end):
    """The times at which `core` wants its tick, up to `end`."""
    at_once = 0
    while (deadline := core.deadline()) <= end:
        # A tick's decisions may be due at once, but not for ever.
        at_once = at_once + 1 if deadline <= now else 0
        assert at_once < 4, "ticks leave their deadline behind"
        now = max(now, deadline)
        yield now


class ManualBroker:
    """A broker core whose owner is the test; options are BrokerOptions' keywords."""

    def __init__(self, access=None, about=None, **options):
        self.now = START
        chosen = BrokerOptions(heartbeat_interval=INTERVAL, **options)
        self.core = BrokerCore(chosen, NONCE, START, about=about, access=access)
        #: All that was sent: (when, peer, frames without the routing id).
        self.log = []
        #: All events, in order.
        self.events = []
        self._waiting = {}

    @property
    def state(self):
        """What the parts of the core share."""
        return self.core._state

    @property
    def workers(self):
        """The workers that are registered, by routing id; sessions by (routing id, session frame)."""
        return {
            (connection.key, session) if session else connection.key: worker
            for connection in self.core._registry.connections.values()
            for session, worker in connection.workers.items()
        }

    def feed(self, peer, frames, user=""):
        """`peer` says `frames`, now."""
        self.core.on_wake(self.now)
        self.core.feed([peer, *frames], self.now, user)
        self.core.on_caught_up(self.now)
        self.collect()

    def advance(self, seconds):
        """Let time pass, with a tick at each deadline."""
        end = self.now + seconds
        for now in deadlines(self.core, self.now, end):
            self.now = now
            self.core.on_wake(self.now)
            self.core.on_caught_up(self.now)
            self.core.tick(self.now)
            self.collect()
        self.now = end

    def decided(self):
        """What the core wants sent, for tests that call the core itself; the messages are not sent."""
        outbox, events = self.core.take()
        self.events += events
        return outbox

    def collect(self):
        """Take the messages the core wants sent, as an owner does; needed only after calls to the core itself."""
        while outbox := self.decided():
            for outgoing in outbox:
                if self.core.backlogs.hold_back(outgoing, self.now):
                    continue
                peer, *frames = outgoing.frames
                self.log.append((self.now, peer, frames))
                self._waiting.setdefault(peer, []).append(frames)

    def take(self, peer):
        """The messages sent to `peer` since the last time."""
        return self._waiting.pop(peer, [])

    def ready(self, mdp, *peers, service=b"echo"):
        """`peers` register as workers."""
        for peer in peers:
            self.feed(peer, mdp.ready(service))

    def ask(self, mdp, peer, *body, service=b"echo"):
        """`peer` sends a request."""
        self.feed(peer, mdp.client_request(service, *body))

    def assignment(self, mdp, peer):
        """The one message sent to the worker `peer` is a REQUEST: (its address, its body)."""
        (frames,) = self.take(peer)
        address, body = frames[mdp.address_at], frames[mdp.address_at + 2 :]
        assert frames == mdp.request(address, *body)
        return address, body

    def answers(self, mdp, peer, service=b"echo"):
        """The bodies of the answers to the client `peer`, by a FINAL (REPLY in MDP/0.1) each."""
        head = len(mdp.client_final(service))
        answers = self.take(peer)
        assert all(frames[:head] == mdp.client_final(service) for frames in answers)
        return [frames[head:] for frames in answers]


def is_probe(mdp, action):
    """True if `action` sends the probe for gmdp's extension."""
    return isinstance(action, Send) and action.frames[:-1] == mdp.client_request(b"mmi.gmdp")


class ManualWorker:
    """A worker whose owner is the test, towards a broker that speaks the RFC only: it has one session."""

    def __init__(self, mdp, endpoints=("tcp://one",), service=b"echo", liveness=3, **options):
        self.now = START
        self.mdp = mdp
        self.counters = WorkerCounters()
        self.core = WorkerCore(
            service,
            mdp.dialect,
            Reconnect(endpoints, 0.5),
            self.counters,
            concurrency=1,
            heartbeat_interval=INTERVAL,
            liveness=liveness,
            error_reply=[b"500"],
            now=START,
            **options,
        )
        self.session = self.core.sessions[0]
        #: The connection opened last.
        self.connection = None
        #: All decisions, without the probes: (when, action or event).
        self.log = []
        self._taken = 0
        self.core.start(START)
        self._collect()

    @property
    def connecting(self):
        return self.connection is not None and self.connection.phase is Phase.CONNECTING

    def register(self):
        """Connect, and drop the decisions so far."""
        self.advance(0)
        self.connected()
        assert self.session.registered
        self.take()

    def connected(self):
        """Connect, and answer the probe as a broker of the RFC does."""
        self.core.on_connected(self.connection, self.now)
        self._collect()
        if self.connection.phase is Phase.PROBING:
            self.feed(self.mdp.client_final(b"mmi.gmdp", b"501"))

    def disconnected(self, reason):
        self.core.on_disconnected(self.connection, reason, self.now, 0.5)
        self._collect()

    def feed(self, frames):
        """The broker says `frames`, now."""
        self.core.on_wake(self.now)
        self.core.feed(self.connection, frames, self.now, 0.5)
        self.core.on_caught_up(self.now)
        self._collect()

    def work(self, *body, address=b"client"):
        """The broker sends a request: the Work it leads to."""
        self.feed(self.mdp.request(address, *body))
        (work,) = self.take()
        assert isinstance(work, Work)
        return work

    def partial(self, work, *body):
        wanted = self.core.partial(work, body, self.now)
        self._collect()
        return wanted

    def final(self, work, *body, failure=None):
        wanted = self.core.final(work, body, failure, self.now)
        self._collect()
        return wanted

    def close(self):
        self.core.close(self.now)
        self._collect()

    def advance(self, seconds):
        """Let time pass, with a tick at each deadline."""
        end = self.now + seconds
        for now in deadlines(self.core, self.now, end):
            self.now = now
            self.core.on_wake(self.now)
            self.core.on_caught_up(self.now)
            self.core.tick(self.now, 0.5)
            self._collect()
        self.now = end

    def take(self):
        """The actions and events since the last time."""
        actions = [action for _, action in self.log[self._taken :]]
        self._taken = len(self.log)
        return actions

    def sent(self):
        """The messages since the last time, nothing else having been done."""
        actions = self.take()
        assert all(isinstance(action, Send) for action in actions), actions
        return [action.frames for action in actions]

    def _collect(self):
        actions, events = self.core.take()
        for action in (*actions, *events):
            if isinstance(action, Open):
                self.connection = action.connection
            if not is_probe(self.mdp, action) and not isinstance(action, Resumed):
                self.log.append((self.now, action))


def refuses(mdp, frames):
    """True if `frames` are no command for a registered worker, and no sign of the broker's life."""
    session = ManualWorker(mdp)
    session.register()
    session.advance(EXPIRY - 0.1)
    session.take()
    session.feed(frames)
    worked = any(isinstance(action, Work) for action in session.take())
    session.advance(0.1)
    return not worked and session.counters.malformed == 1 and not session.session.registered


class ManualClient:
    """A client core whose owner is the test, towards a broker that speaks the RFC only."""

    def __init__(self, mdp, connections=4, endpoints=("tcp://one",)):
        self.now = START
        self.mdp = mdp
        self._events = []
        self.core = ClientCore(
            mdp.dialect,
            Reconnect(endpoints, 0.5),
            connections,
            ClientCounters(),
            nonce=bytes(16),
            max_in_flight=1000,
        )

    def submit(self, service, *body, timeout=10.0, retries=0):
        call = Call(service, body, timeout=timeout, retries=retries)
        self.core.submit(call, self.now)
        return call

    def connect(self):
        """Connect all sockets that are being opened; returns the messages sent then: (connection, frames)."""
        sent = []
        for action in self.take():
            if isinstance(action, Open):
                self.connected(action.connection)
                sent += [(a.connection, a.frames) for a in self.take() if isinstance(a, Send)]
        return sent

    def connected(self, connection):
        """Connect, and answer the probe as a broker of the RFC does."""
        self.core.on_connected(connection, self.now)
        if connection.phase is Phase.PROBING:
            self.core.feed(connection, self.mdp.client_final(b"mmi.gmdp", b"501"), self.now, 0.5)

    def call(self, service, *body, timeout=10.0, retries=0):
        """Submit a call and connect for it; returns the call, its connection and its message."""
        call = self.submit(service, *body, timeout=timeout, retries=retries)
        ((connection, frames),) = self.connect()
        return call, connection, frames

    def feed(self, connection, frames):
        """The broker says `frames`, now."""
        self.core.feed(connection, frames, self.now, 0.5)

    def advance(self, seconds):
        """Let time pass, with a tick at each deadline."""
        end = self.now + seconds
        for now in deadlines(self.core, self.now, end):
            self.now = now
            self.core.tick(self.now, 0.5)
        self.now = end

    def take(self):
        """The actions since the last time, without the probes."""
        actions, events = self.core.take()
        self._events += events
        return [action for action in actions if not is_probe(self.mdp, action)]

    def events(self):
        """The events since the last time."""
        events, self._events = [*self._events, *self.core.events], []
        self.core.events.clear()
        return events


class ClientBench:
    """A client core, and the connections it has opened; the brokers are the test."""

    def __init__(self, dialect=RFC18, endpoints=("tcp://a:1",), most=4):
        self.core = ClientCore(
            dialect, Reconnect(endpoints, 1.0), most, ClientCounters(), nonce=bytes(16), max_in_flight=1000
        )
        self.opened = []
        self.closed = []
        self.sent = []

    def act(self):
        actions, events = self.core.take()
        for action in actions:
            if isinstance(action, Open):
                self.opened.append(action.connection)
            elif isinstance(action, Close):
                self.closed.append(action.connection)
            elif isinstance(action, Send) and b"mmi.gmdp" not in action.frames:
                self.sent.append((action.connection, action.frames))
        return events

    def connected(self, connection, now):
        """Connect, and answer the probe as a broker of the RFC does."""
        self.core.on_connected(connection, now)
        if connection.phase is Phase.PROBING:
            self.feed(connection, self.core.dialect.reply(b"mmi.gmdp", [b"501"]), now)

    def feed(self, connection, frames, now):
        self.core.feed(connection, frames, now, 0.5)

    def call(self, now=0.0, **limits):
        call = Call(b"it", [b"x"], **{"timeout": 10.0, **limits})
        self.core.submit(call, now)
        return call

    def connected_call(self, **limits):
        call = self.call(**limits)
        self.act()
        self.connected(self.opened[-1], 0.0)
        self.act()
        return call, self.opened[-1]

    def extended_call(self, **limits):
        """The same, with a broker that speaks the extension."""
        call = self.call(**limits)
        self.act()
        (connection,) = self.opened
        self.core.on_connected(connection, 0.0)
        offer = offer_body(Offer(100, 100, 100, 10_000, 1.0))
        self.feed(connection, [b"MDPC02", b"\x03", b"mmi.gmdp", *offer], 0.0)
        self.act()
        return call, connection


def client_core(endpoints, dialect=RFC18):
    return ClientCore(dialect, Reconnect(endpoints, 0.5), 3, ClientCounters(), nonce=bytes(16), max_in_flight=1000)


def core_with_call(retries=0, dialect=RFC18, **more):
    """A client with one call out: (core, call, connection)."""
    core = client_core(["one"], dialect)
    call = Call(b"s", [b"body"], timeout=10.0, retries=retries, **more)
    core.submit(call, 0.0)
    (opened,) = core.actions
    connect(core, opened.connection, 0.0)
    core.actions.clear()
    return core, call, opened.connection


def connect(core, connection, now, offer=None):
    """Connect, and answer the probe with this offer; without one, as a broker of the RFC does."""
    core.on_connected(connection, now)
    if connection.phase is Phase.PROBING:
        answer = [b"501"] if offer is None else offer_body(offer)
        core.feed(connection, core.dialect.reply(b"mmi.gmdp", answer), now, 0.5)
