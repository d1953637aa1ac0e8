"""Secured brokers and gates for tests, bare ZeroMQ peers with keys, and looks for secrets in what is shown."""

import logging
import traceback
from contextlib import contextmanager

import peers
import pytest
import zmq
import zmq.auth
import zmq.green
from waiting import wait_until

import gmdp
from gmdp.security.gate import Gate

INTERVAL = 0.2

# The key pairs of zmq_curve(7).
PUBLIC, SECRET = b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
SERVER_PUBLIC, SERVER_SECRET = b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", b"JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"

#: Keys by number.
KEYS = [PUBLIC, SERVER_PUBLIC, b"0" * 40, b"1" * 40]

#: A secret whose last character was not copied.
TRUNCATED = SECRET[:-1]

PASSWORD = "correct horse battery staple"

#: What files may hold in place of a key.
JUNK_FILES = {
    "empty": b"",
    "words": b"this is no key\n",
    "binary": bytes(range(256)) * 40,
    "half": b'curve\n    public-key = "Yne@$w-vo<fVvi]a',
    "no value": b"curve\n    public-key\n    secret-key\n",
    "empty values": b'curve\n    public-key = ""\n    secret-key = ""\n',
    "other characters": b'curve\n    public-key = "' + b"~" * 40 + b'"\n    secret-key = "' + b"\xff" * 40 + b'"\n',
    "too large for 32 bits": b'curve\n    public-key = "' + b"#" * 40 + b'"\n    secret-key = "' + b"#" * 40 + b'"\n',
}


class Keys:
    """Key pairs in a folder, and a folder of the public keys that are allowed."""

    def __init__(self, folder):
        self.folder = folder
        self.allowed = folder / "allowed"
        self.allowed.mkdir()
        gmdp.generate_keys("broker", folder)

    def make(self, *names, allow=True):
        """Make key pairs, and allow them unless `allow` is false."""
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
        """The keywords of a client or worker with the keys of `name`."""
        return {
            "curve_key": self.folder / f"{name}.key_secret",
            "server_key": self.folder / f"{server}.key",
        }

    def broker(self, *endpoints, **options):
        """A broker that allows the keys of the folder."""
        options.setdefault("heartbeat_interval", INTERVAL)
        options.setdefault("curve_clients", self.allowed)
        return gmdp.Broker(endpoints or "tcp://127.0.0.1:*", curve_key=self.folder / "broker.key_secret", **options)

    def dealer(self, endpoint, name, server="broker", routing_id=b"", kind=zmq.DEALER):
        """A bare ZeroMQ socket with the keys of `name`."""
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
    """A logging handler that keeps its records."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def text(self):
        """All records as text, with tracebacks and extras."""
        return "\n".join(logging.Formatter().format(record) + repr(vars(record)) for record in self.records)


@contextmanager
def listening(name=""):
    """Keep the records of a logger and of all loggers below it, from DEBUG on."""
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
    """A gate with defaults for the other options."""
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

    def __init__(self, interval=60.0, **options):
        self.connections = 0
        self.replies = []
        self.refused = []
        #: The users of each change of the list who lost a key or password.
        self.revoked = []
        self.gate = make_gate(**options)
        self.gate.open(self, interval)

    def count_established(self, now):
        return self.connections

    def send_zap_reply(self, frames):
        self.replies.append(frames)

    def on_connection_refused(self, refused):
        self.refused.append(refused)

    def post(self, function, *args):
        function(*args)

    def on_lists_changed(self, revoked):
        self.revoked.append(set(revoked))

    def ask(self, *frames):
        """Send the gate a ZAP request of these frames; its status code, and the reason of a refusal."""
        before = len(self.replies)
        self.gate.on_zap_request([b"route", b"", *frames], 0.0)
        wait_until(lambda: len(self.replies) > before)
        (reply,) = self.replies[before:]
        reason = self.refused.pop().reason.value if reply[4] != b"200" else ""
        assert self.refused == []
        return reply[4].decode(), reason


def write_key_file(path, public=PUBLIC, secret=None, mode=0o600):
    """Write a file with these keys, as `zmq.auth` writes it."""
    lines = ["#   ****  a banner  ****", "", "metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return path


def replace_file(path, content):
    """Write another file beside `path`, and move it there."""
    other = path.with_name(path.name + ".new")
    other.write_text(content) if isinstance(content, str) else other.write_bytes(content)
    other.replace(path)
    return path


def refusal_of(function, *args, **kwargs):
    """The message of the ConfigurationError that the call raises: one line, without a secret."""
    with pytest.raises(gmdp.ConfigurationError) as caught:
        function(*args, **kwargs)
    assert_shows_no_secret(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_shows_no_secret(thing):
    """S7: nothing that can be printed of `thing` has a secret in it, not even a truncated one."""
    shown = [str(thing), repr(thing), f"{thing}"]
    if isinstance(thing, BaseException):
        shown += [repr(thing.args), *traceback.format_exception(thing)]
        assert thing.__cause__ is None
        assert thing.__context__ is None or thing.__suppress_context__
    for secret in (TRUNCATED.decode(), SERVER_SECRET[:-1].decode(), PASSWORD):
        assert [text for text in shown if secret in text] == []
