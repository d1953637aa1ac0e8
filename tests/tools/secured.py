"""Secured brokers for tests, and bare ZeroMQ peers with keys."""

import logging
from contextlib import contextmanager

import peers
import zmq
import zmq.auth
import zmq.green
from waiting import wait_until

import gmdp
from gmdp.security.gate import Gate

INTERVAL = 0.2


class Keys:
    """Pairs of keys in a folder, and a folder of those that are allowed."""

    def __init__(self, folder):
        self.folder = folder
        self.allowed = folder / "allowed"
        self.allowed.mkdir()
        gmdp.generate_keys("broker", folder)

    def make(self, *names, allow=True):
        """Make pairs; they are allowed unless told otherwise."""
        for name in names:
            public, _ = gmdp.generate_keys(name, self.folder)
            if allow:
                self.allow(name)
            assert public.exists()

    def allow(self, name):
        (self.allowed / f"{name}.key").write_bytes((self.folder / f"{name}.key").read_bytes())

    def revoke(self, name):
        (self.allowed / f"{name}.key").unlink()

    def pair(self, name):
        """The key pair (public, secret) of `name`."""
        return zmq.auth.load_certificate(self.folder / f"{name}.key_secret")

    def of(self, name, server="broker"):
        """The keywords of a client or worker that is `name`."""
        return {
            "curve_key": self.folder / f"{name}.key_secret",
            "server_key": self.folder / f"{server}.key",
        }

    def broker(self, *endpoints, **options):
        """A broker that allows who is allowed."""
        options.setdefault("heartbeat_interval", INTERVAL)
        options.setdefault("curve_clients", self.allowed)
        return gmdp.Broker(endpoints or "tcp://127.0.0.1:*", curve_key=self.folder / "broker.key_secret", **options)

    def dealer(self, endpoint, name, server="broker", routing_id=b"", kind=zmq.DEALER):
        """A bare ZeroMQ socket that is `name`."""
        return BarePeer(kind, endpoint, self.pair(name), self.pair(server)[0], routing_id)


class BarePeer(peers.Peer):
    """A bare socket with keys."""

    def __init__(self, kind, endpoint, pair, server, routing_id=b""):
        self._pair = pair
        self._server = server
        super().__init__(kind, endpoint, routing_id=routing_id)

    def prepare(self, socket):
        socket.set(zmq.CURVE_PUBLICKEY, self._pair[0])
        socket.set(zmq.CURVE_SECRETKEY, self._pair[1])
        socket.set(zmq.CURVE_SERVERKEY, self._server)


class Records(logging.Handler):
    """What a logger was told while this is in force."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def text(self):
        """All of it, tracebacks and extras included."""
        return "\n".join(logging.Formatter().format(one) + repr(vars(one)) for one in self.records)


@contextmanager
def listening(name=""):
    """The records of a logger and all below it, from DEBUG on."""
    handler = Records()
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def make_gate(**options):
    """A gate with defaults for all options that are not given."""
    defaults = {
        "curve_key": None,
        "curve_clients": None,
        "plain_users": None,
        "allow": None,
        "deny": None,
        "max_connections": 10,
        "check_timeout": 5.0,
    }
    return Gate(**{**defaults, **options})


class GateHost:
    """In place of a broker: opens a gate, and keeps its replies and refusals."""

    def __init__(self, **options):
        self.connections = 0
        self.replies = []
        self.refused = []
        self.gate = make_gate(**options)
        self.gate.open(self, 60.0)

    def count_established(self, now):
        return self.connections

    def send_zap_reply(self, frames):
        self.replies.append(frames)

    def on_connection_refused(self, refused):
        self.refused.append(refused)

    def post(self, function, *args):
        function(*args)

    def on_lists_changed(self, revoked):
        """No test looks at it."""

    def ask(self, *frames):
        """Send the gate a ZAP request of these frames; its status code, and the reason of a refusal."""
        before = len(self.replies)
        self.gate.on_zap_request([b"route", b"", *frames], 0.0)
        wait_until(lambda: len(self.replies) > before)
        (reply,) = self.replies[before:]
        reason = self.refused.pop().reason.value if reply[4] != b"200" else ""
        assert self.refused == []
        return reply[4].decode(), reason
