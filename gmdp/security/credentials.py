"""The credentials that a worker or client shows a broker, and the key it expects of the broker."""

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
    """Keys, or a name and a password, for sockets that connect.  The repr shows no secret."""

    __slots__ = ("_options", "kind")

    def __init__(self, kind: str, options: dict[int, bytes]) -> None:
        self.kind = kind
        self._options = options

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Set the options of a socket that has not connected yet."""
        for option, value in self._options.items():
            socket.set(option, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind}>"


def make_credentials(
    endpoints: Sequence[str],
    curve_key: Key | None,
    server_key: Key | None,
    username: str | None,
    password: str | None,
) -> Credentials | None:
    """Return the credentials that the keywords of a worker or client give; None if they give none.

    With `server_key` alone, a new key pair is made, for brokers that allow any key.  Raises
    ConfigurationError if a keyword is wrong, or they do not go together.
    """
    if (username is None) is not (password is None):
        raise ConfigurationError("username and password go together")
    if curve_key is None and server_key is None and username is None:
        return None
    if any(endpoint.startswith("inproc:") for endpoint in endpoints):
        raise ConfigurationError("ZeroMQ checks no key and no password on inproc://: use ipc:// or tcp://")
    if username is not None:
        if curve_key is not None or server_key is not None:
            raise ConfigurationError("a socket has either a key or a password: leave out curve_key or username")
        options: dict[int, bytes] = {
            zmq.PLAIN_USERNAME: _encode("username", username),
            zmq.PLAIN_PASSWORD: _encode("password", password),
        }
        warn_of_clear_passwords(endpoints)
        return Credentials("plain", options)
    if server_key is None:
        raise ConfigurationError(
            "curve_key needs server_key, the broker's public key: without it, anybody could pose as the broker"
        )
    if not zmq.has("curve"):
        raise ConfigurationError("this libzmq was built without CURVE")
    public, secret = secret_key("curve_key", curve_key) if curve_key is not None else zmq.curve_keypair()
    server = public_key("server_key", server_key)
    return Credentials("curve", {zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: secret, zmq.CURVE_SERVERKEY: server})


def warn_of_clear_passwords(endpoints: Sequence[str]) -> None:
    """Log a warning for each endpoint whose passwords cross a network unencrypted."""
    for endpoint in endpoints:
        host = endpoint.removeprefix("tcp://")
        if host != endpoint and not host.startswith(("127.", "localhost:", "[::1]")):
            _log.warning(
                "passwords cross the network in clear on %s: use keys, or make sure the network is encrypted", endpoint
            )


def _encode(keyword: str, value: Any) -> bytes:
    """Return a name or password as a socket takes it.  No message shows the value."""
    if isinstance(value, str):
        try:
            encoded = value.encode()
        except UnicodeEncodeError:  # its attributes show the value
            encoded = b""
        if 0 < len(encoded) <= MAX_PASSWORD and b"\0" not in encoded:
            return encoded
    raise ConfigurationError(f"{keyword} must be a str of 1 to {MAX_PASSWORD} bytes of UTF-8")
