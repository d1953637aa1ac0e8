"""Checks of the arguments that users give: numbers, flags, endpoints, service names, bodies.

Each check returns the value in the form that the library uses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from .core import numbers
from .exceptions import ConfigurationError
from .protocol.dialects import MAX_SERVICE_NAME, VERSIONS, Dialect

#: Where a broker listens, and clients and workers connect, if no endpoint is given.
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"

#: The environment variable that names the brokers of clients and workers that are given no endpoint.
BROKER_VARIABLE = "GMDP_BROKER"

#: The largest value of a socket option of type int.
MAX_INT = 2**31 - 1

#: The largest port of TCP.
MAX_PORT = 65_535

N = TypeVar("N", bound=float)

#: One frame, as users may give it.
Frame = bytes | bytearray | memoryview

_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>[^\s:/\[\]]+)\Z")
_IPC_PATH_LIMIT = 107


def check_number(
    name: str,
    value: N,
    *,
    at_least: float = 0,
    above: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
) -> N:
    """Return `value` if it is a finite number within the bounds; else raise ConfigurationError.

    `above` excludes its own value, and replaces `at_least`.  `whole` allows whole numbers only.
    """
    try:
        if above is None:
            numbers.check_number(name, value, at_least, whole=whole, most=at_most)
        else:
            numbers.check_number(name, value, above, whole=whole, above=True, most=at_most)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return value


def check_flag(name: str, value: Any) -> bool:
    """Return `value` if it is True or False; else raise ConfigurationError."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")
    return value


def check_version(version: object) -> Dialect:
    """Return the dialect of version "0.1" or "0.2"; raise ConfigurationError for any other."""
    if not isinstance(version, str) or version not in VERSIONS:
        raise ConfigurationError(f'version must be "0.1" or "0.2", not {version!r}')
    return VERSIONS[version]


def check_endpoint(endpoint: object, bind: bool) -> str:
    """Return `endpoint` if it can be bound (`bind`) or connected to; else raise ConfigurationError."""
    if not isinstance(endpoint, str):
        raise ConfigurationError(f"an endpoint must be a str like {DEFAULT_ENDPOINT!r}, not {endpoint!r}")
    wrong = f"bad endpoint {endpoint!r}: "
    try:
        encoded = numbers.check_text("an endpoint", endpoint)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if "\0" in endpoint:
        raise ConfigurationError(wrong + "it must not contain a NUL character, where ZeroMQ would end it")
    scheme, found, rest = endpoint.partition("://")
    if not found or scheme not in ("tcp", "ipc", "inproc"):
        raise ConfigurationError(wrong + "it must begin with tcp://, ipc:// or inproc://")
    if scheme == "tcp":
        match = _TCP.match(endpoint)
        if match is None:
            raise ConfigurationError(wrong + "it must look like tcp://HOST:PORT")
        host, port = match["host"], match["port"]
        if port != "*":
            check_port(port, wrong, "tcp://HOST:PORT", "a number or *" if bind else "a number")
        if not bind and (port in ("*", "0") or host == "*"):
            raise ConfigurationError(wrong + "a broker can bind a wildcard, but nobody can connect to it")
    elif not rest:
        raise ConfigurationError(wrong + "a name must follow")
    elif scheme == "ipc" and len(encoded) - len("ipc://") > _IPC_PATH_LIMIT:
        raise ConfigurationError(wrong + f"a socket's path is at most {_IPC_PATH_LIMIT} bytes")
    return endpoint


def check_port(text: str, wrong: str, form: str, kinds: str = "a number") -> int:
    """Return the port that `text` names; else raise ConfigurationError.

    Args:
        text: The port.
        wrong: The beginning of the message, which names the address.
        form: What the address must look like.
        kinds: What a port may be.
    """
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(f"{wrong}it must look like {form}, and the port must be {kinds}")
    if len(text) > 5 or int(text) > MAX_PORT:
        raise ConfigurationError(f"{wrong}the port must be at most {MAX_PORT}")
    return int(text)


def check_endpoints(endpoints: str | Sequence[str] | None, bind: bool = False) -> tuple[str, ...]:
    """Return one endpoint, or a sequence of at least one, as a tuple; raise ConfigurationError for a wrong one.

    None stands for the endpoints in :data:`BROKER_VARIABLE`, with commas between.
    """
    if endpoints is None:
        endpoints = [endpoint.strip() for endpoint in os.environ.get(BROKER_VARIABLE, "").split(",")]
        if endpoints == [""]:
            raise ConfigurationError(
                f"no endpoint is given, and ${BROKER_VARIABLE} is not set: it may be one like {DEFAULT_ENDPOINT}"
            )
    if isinstance(endpoints, str) or not isinstance(endpoints, Iterable):
        return (check_endpoint(endpoints, bind),)
    checked = tuple(check_endpoint(endpoint, bind) for endpoint in endpoints)
    if not checked:
        raise ConfigurationError(f"at least one endpoint is needed, like {DEFAULT_ENDPOINT!r}")
    return checked


def check_service(service: str | bytes) -> bytes:
    """Return a service name as bytes (str in UTF-8); ConfigurationError or TypeError for a wrong one."""
    if isinstance(service, str):
        try:
            service = numbers.check_text("a service name", service)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
    if not isinstance(service, bytes):
        raise TypeError(f"a service name must be str or bytes, not {type(service).__name__}")
    if not 0 < len(service) <= MAX_SERVICE_NAME:
        raise ConfigurationError(f"a service name is 1 to {MAX_SERVICE_NAME} bytes long, not {len(service)}")
    return service


def check_body(body: Frame | Sequence[Frame]) -> list[bytes]:
    """Return the frames of a body: bytes are one frame, an empty list is one empty frame; else TypeError."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return [bytes(body)]
    if isinstance(body, (list, tuple)):
        for frame in body:
            if not isinstance(frame, (bytes, bytearray, memoryview)):
                raise TypeError(f"a frame must be bytes, not {type(frame).__name__}")
        return [bytes(frame) for frame in body] or [b""]
    raise TypeError(f"a body must be bytes or a list or tuple of bytes, not {type(body).__name__}")
