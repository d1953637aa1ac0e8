"""What a worker or client shows a broker, and what it demands to see."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import zmq

from ..exceptions import ConfigurationError
from .keys import Key, public_key, secret_key
from .passwords import MAX_PASSWORD

_log = logging.getLogger("gmdp.security")


class Credentials:
    """Keys, or a name and password, for connecting sockets.  Its repr tells no secret."""

    __slots__ = ("_options", "kind")

    def __init__(self, kind: str, options: dict[int, bytes]) -> None:
        self.kind = kind
        self._options = options

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Set the options of a socket that is to connect."""
        for option, value in self._options.items():
            socket.set(option, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind}>"


def credentials(
    endpoints: Sequence[str],
    curve_key: Key | None,
    server_key: Key | None,
    username: str | None,
    password: str | None,
) -> Credentials | None:
    """What these keywords of a worker or client come to; ConfigurationError if they make no sense.

    With `server_key` alone a key pair is made up, for brokers that accept any.
    """
    if (username is None) is not (password is None):
        raise ConfigurationError("username and password go together")
    if curve_key is None and server_key is None and username is None:
        return None
    if any(endpoint.startswith("inproc:") for endpoint in endpoints):
        raise ConfigurationError("on inproc:// ZeroMQ looks at no key and no password: use ipc:// or tcp://")
    if username is not None:
        if curve_key is not None or server_key is not None:
            raise ConfigurationError("a socket has either a key or a password: leave out curve_key or username")
        options: dict[int, bytes] = {
            zmq.PLAIN_USERNAME: _text("username", username),
            zmq.PLAIN_PASSWORD: _text("password", password),
        }
        warn_of_clear(endpoints)
        return Credentials("plain", options)
    if server_key is None:
        raise ConfigurationError(
            "curve_key needs server_key, the broker's public key: else anybody could play the broker"
        )
    if not zmq.has("curve"):
        raise ConfigurationError("this libzmq was built without CURVE")
    public, secret = secret_key("curve_key", curve_key) if curve_key is not None else zmq.curve_keypair()
    server = public_key("server_key", server_key)
    return Credentials("curve", {zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: secret, zmq.CURVE_SERVERKEY: server})


def warn_of_clear(endpoints: Sequence[str]) -> None:
    """Passwords are not encrypted on their way."""
    for endpoint in endpoints:
        host = endpoint.removeprefix("tcp://")
        if host != endpoint and not host.startswith(("127.", "localhost:", "[::1]")):
            _log.warning(
                "passwords go over %s in clear: use keys, or see to it that the network is encrypted", endpoint
            )


def _text(name: str, value: Any) -> bytes:
    """A name or password as the socket takes it; its value is in no message."""
    if isinstance(value, str):
        try:
            encoded = value.encode()
        except UnicodeEncodeError:  # which holds it
            encoded = b""
        if 0 < len(encoded) <= MAX_PASSWORD and b"\0" not in encoded:
            return encoded
    raise ConfigurationError(f"{name} must be a str of 1 to {MAX_PASSWORD} bytes of UTF-8")
