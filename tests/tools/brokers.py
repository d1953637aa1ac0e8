"""Brokers under a clock moved by hand, for tests of the parts of a broker's core."""

import pytest
from cores import MDP01, MDP02, Majortomo, ManualBroker

from gmdp.core.broker.access import Access, Rules
from gmdp.core.broker.decisions import DeadLetter, Outgoing
from gmdp.core.broker.records import Request
from gmdp.protocol import extension
from gmdp.protocol.extension import Status

DIALECTS = [MDP01, MDP02, Majortomo]


every_dialect = pytest.mark.parametrize("mdp", DIALECTS, ids=lambda mdp: mdp.dialect.name)


def counters(broker):
    """The counters of a broker's core."""
    return broker.core.counters


def lost_heartbeat(broker):
    """A HEARTBEAT to the one worker, W1."""
    (worker,) = broker.workers.values()
    return Outgoing([b"W1"], worker.connection, False)


def busy_worker(broker, mdp=MDP02):
    """Register W1 and give it a request: (address, body)."""
    broker.ready(mdp, b"W1")
    broker.ask(mdp, b"client", b"x")
    return broker.assignment(mdp, b"W1")


class GmdpBroker(ManualBroker):
    """A broker core whose peers speak the extension."""

    def call(self, peer, number, *body, service=b"echo", user="", nonce=None, **frame):
        """`peer` makes its call `number`."""
        identity = extension.request_id(nonce or peer.ljust(16, b"."), number)
        self.core.on_wake(self.now)
        message = [peer, extension.call_frame(identity, **frame), b"", b"MDPC02", b"\x01", service, *(body or [b"x"])]
        self.core.feed(message, self.now, user)
        self.core.on_caught_up(self.now)
        self.collect()

    def session(self, peer, number, code, *rest, flags=0):
        """The session `number` of `peer` says the command of this code."""
        self.feed(peer, [extension.session_frame(number, flags), b"", b"MDPW02", code, *rest])

    def register(self, peer, *numbers, service=b"echo"):
        """`peer` registers sessions of these numbers."""
        for number in numbers:
            self.session(peer, number, b"\x01", service)

    def requests(self, peer):
        """The requests of the sessions of `peer`: number -> (token, body); nothing else was sent to it."""
        requests = {}
        for frame, _, _, code, address, _, *body in self.take(peer):
            assert code == b"\x02"
            requests[extension.read_session(frame)[1]] = (address, body)
        return requests

    def answered(self, peer):
        """The answers that `peer` got: (call's number, status, attempts, body)."""
        answers = []
        for frame, _, _, _, _, *body in self.take(peer):
            call = extension.read_call(frame)
            answers.append((int.from_bytes(call.id[16:], "big"), Status(call.status), call.attempt, body))
        return answers

    def letters(self):
        """The dead letters since the last time."""
        events, self.events = self.events, []
        return [event for event in events if isinstance(event, DeadLetter)]


def failed(number, status, attempts=0):
    """What `answered` returns for a call that ended with this status."""
    return number, status, attempts, [b""]


def running_request(broker):
    """The token and body of the one request that runs."""
    messages = [frames for frames in broker.take(b"W") if frames[3:4] == [b"\x02"]]
    ((_, _, _, _, address, _, *body),) = messages
    return address, body


class BoundedSocket:
    """Sends as the owner does; some peers have room for so many messages only."""

    def __init__(self, broker):
        self.broker = broker
        self.room = {}
        self.sent = []

    def flush(self):
        """Send what the core has decided."""
        core, now = self.broker.core, self.broker.now
        while outbox := self.broker.decided():
            for outgoing in outbox:
                if core.backlogs.hold_back(outgoing, now):
                    continue
                peer = outgoing.frames[0]
                room = self.room.get(peer, 1)
                if room == "gone" or room == 0:
                    core.send_failed(outgoing, room == 0, now)
                    continue
                if peer in self.room:
                    self.room[peer] -= 1
                self.sent.append(outgoing.frames)

    def bodies(self, peer):
        """The last frames of the messages that `peer` got since the last time."""
        mine = [frames[-1] for frames in self.sent if frames[0] == peer]
        self.sent = [frames for frames in self.sent if frames[0] != peer]
        return mine


class SlowBroker(GmdpBroker):
    """Messages stay in the outbox until the socket is flushed."""

    def __init__(self, **options):
        super().__init__(**options)
        self.socket = BoundedSocket(self)

    def collect(self):
        self.socket.flush()

    def take(self, peer):
        mine = [frames[1:] for frames in self.socket.sent if frames[0] == peer]
        self.socket.sent = [frames for frames in self.socket.sent if frames[0] != peer]
        return mine

    def answer_all(self, worker, *bodies):
        """Answer all requests of a worker, in these parts; with their own bodies if there are none."""
        for number, (address, body) in self.requests(worker).items():
            for part in bodies[:-1]:
                self.session(worker, number, b"\x03", address, b"", part)
            self.session(worker, number, b"\x04", address, b"", *(bodies[-1:] or body))


def running(broker) -> list[Request]:
    """The requests that workers have."""
    return [worker.request for worker in broker.core.workers if worker.request is not None]


KEY = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"


RULES = Rules(
    [
        {"user": "worker*", "serve": ["echo", "report.*"]},
        {"user": ["client", "other"], "call": "echo", "inspect": "mmi.service"},
        {"user": "admin", "call": "*", "inspect": "*"},
    ]
)


class SecuredBroker(ManualBroker):
    """A broker core that knows its peers' users."""

    def __init__(self, policy=RULES, rate=1000.0, **options):
        super().__init__(access=Access(policy, rate), **options)

    def ready(self, peer, user, service=b"echo", mdp=MDP02):
        """`peer` registers as a worker of `user`."""
        self.feed(peer, mdp.ready(service), user)

    def ask(self, peer, user, *body, service=b"echo", mdp=MDP02):
        """`peer` sends a request of `user`."""
        self.feed(peer, mdp.client_request(service, *(body or [b"x"])), user)

    def call(self, peer, user, number=1, service=b"echo", **frame):
        """`peer`, a gmdp client, sends a request of `user`."""
        identity = extension.request_id(peer.ljust(16, b"."), number)
        call = extension.call_frame(identity, **frame)
        self.feed(peer, [call, b"", b"MDPC02", b"\x01", service, b"x"], user)

    def statuses(self, peer):
        """The statuses that a gmdp client got."""
        return [Status(extension.read_call(frames[0]).status) for frames in self.take(peer)]

    def refused(self):
        """The refusals since the last time."""
        return self.core.take_refusals()

    @property
    def drops(self):
        return self.core.counters.drops
