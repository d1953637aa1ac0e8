"""ZAP, the ZeroMQ Authentication Protocol (RFC 27): libzmq's requests and our replies, as bytes.

The rules of this module:

* libzmq asks about each new connection, and the reply decides whether the connection is
  allowed.  A ROUTER socket reads the requests and sends the replies.
* :func:`read_request` takes any frames and never raises.  A request that breaks a rule of
  the RFC is *malformed*; the gate refuses its connection.
* The credentials are read separately, by :func:`read_key` and :func:`read_password`, once the
  gate knows that the mechanism is its own.
* No ``repr`` shows credentials.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmq.utils import z85

# RFC 27: "The handler SHALL bind to the endpoint inproc://zeromq.zap.01."
ENDPOINT = "inproc://zeromq.zap.01"
#: The domain of every socket of a broker.
DOMAIN = b"gmdp"

NULL, PLAIN, CURVE = b"NULL", b"PLAIN", b"CURVE"

# RFC 27: "'200' to indicate success, '300' to indicate a temporary error, '400' to indicate
# authentication failure".
SUCCESS, TEMPORARY, FAILURE = b"200", b"300", b"400"

# RFC 27: "The version frame, which SHALL contain the three octets '1.0'."
_VERSION = b"1.0"
#: A routing id, the delimiter, and the six frames that every request has.
_HEAD = 8
# RFC 27: "All string fields are at most 255 characters", and so is the identity.
_LONGEST = 255
# RFC 27: "a 32-byte long-term public key of the peer being authenticated".
_KEY_SIZE = 32


class ZapRequest:
    """One request of libzmq, about one connection.

    A malformed request has the fields that could be read; the others are empty.
    """

    __slots__ = ("address", "credentials", "domain", "malformed", "mechanism", "request_id", "routing_id")

    def __init__(self, routing_id: bytes) -> None:
        #: The routing id of the asking session in libzmq, to which the reply goes.
        self.routing_id = routing_id
        self.request_id = b""
        self.domain = b""
        #: Where the connection comes from.
        self.address = ""
        self.mechanism = b""
        self.credentials: Sequence[bytes] = ()
        self.malformed = True

    def __repr__(self) -> str:
        state = " malformed" if self.malformed else ""
        return f"<{type(self).__name__} {self.mechanism!r} from {self.address!r}{state}>"


def read_request(frames: Sequence[bytes]) -> ZapRequest:
    """Return the request in the frames that a ROUTER socket has read."""
    request = ZapRequest(frames[0] if frames else b"")
    if len(frames) > 3:
        # RFC 27: "The reply SHALL echo the request id without modifying it."
        request.request_id = frames[3]
    if len(frames) < _HEAD:
        return request
    _, delimiter, version, _, domain, address, identity, mechanism, *credentials = frames
    request.domain, request.mechanism, request.credentials = domain, mechanism, credentials
    try:
        request.address = _text(address, "ascii")
    except ValueError:
        return request
    # RFC 27: "An address delimiter frame, which SHALL have a length of zero."  "The domain,
    # which SHALL contain a (non-empty) string."  "The mechanism SHALL NOT be empty."
    request.malformed = (
        delimiter != b""
        or version != _VERSION
        or not 0 < len(domain) <= _LONGEST
        or not 0 < len(mechanism) <= _LONGEST
        or len(identity) > _LONGEST
    )
    return request


def read_key(credentials: Sequence[bytes]) -> str | None:
    """Return the key (Z85) in the credentials of CURVE; None if they are malformed."""
    if len(credentials) != 1 or len(credentials[0]) != _KEY_SIZE:
        return None
    return z85.encode(credentials[0]).decode("ascii")


def read_password(credentials: Sequence[bytes]) -> tuple[str, str] | None:
    """Return the name and the password in the credentials of PLAIN; None if they are malformed.

    Both may be UTF-8, beyond the ASCII of the RFC.  Bytes that are not become U+FFFD, which no
    name and no password may hold.
    """
    # RFC 27: "The credentials SHALL consist of two string frames: a username and a password."
    try:
        username, password = credentials
        return _text(username, "utf-8", "replace"), _text(password, "utf-8", "replace")
    except ValueError:
        return None


def reply(request: ZapRequest, code: bytes, text: str, user_id: str = "") -> list[bytes]:
    """Return the frames of the reply to `request`.

    Args:
        request: The request to answer.
        code: :data:`SUCCESS`, :data:`TEMPORARY` or :data:`FAILURE`.
        text: An explanation of the code; at most 255 ASCII characters.
        user_id: The ``User-Id`` of the connection's messages from now on.  Only success has one.
    """
    # RFC 27: "The handler MUST send this routing ID frame at the start of its reply message."
    # The last frame is the metadata, which is empty.
    head = [request.routing_id, b"", _VERSION, request.request_id]
    return [*head, code, text.encode("ascii"), user_id.encode(), b""]


def _text(frame: bytes, encoding: str, errors: str = "strict") -> str:
    """Return `frame` as text; ValueError if it is too long or, unless `errors` says "replace", is not text."""
    if len(frame) > _LONGEST:
        raise ValueError("too long")
    return frame.decode(encoding, errors)
