"""The gateway itself: see :mod:`gmdp.wsgi`, where it is public, for what it does."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ..client.client import Client
from ..client.options import check_when_no_worker
from ..exceptions import ConfigurationError, MDPError, NotAllowed
from ..protocol.dialects import MAX_SERVICE_NAME
from ..protocol.extension import NORMAL_PRIORITY, PRIORITIES, is_traceparent
from ..security.credentials import make_credentials
from ..validation import DEFAULT_ENDPOINT, MAX_FRAMES, check_endpoints, check_number, check_service
from . import multipart
from .answers import Answer, Refused, bad, failure, headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_log = logging.getLogger("gmdp.wsgi")

MEBIBYTE = 1024 * 1024

_SERVICES = b"/services/"
#: Bytes of a body that are read at a time.
_PIECE = 65536

_SECONDS = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([Ee][+-]?[0-9]+)?")
#: RFC 9110, 12.4.2: "a value of 0 means 'not acceptable'".
_NOT_ACCEPTABLE = re.compile(r";[ \t]*q[ \t]*=[ \t]*0(\.0*)?[ \t]*(;|$)", re.IGNORECASE)


class _InputBroken(Exception):
    """Reading the body raised its ``__cause__``."""


class Gateway:
    """A WSGI application that exposes services of a broker: see :mod:`gmdp.wsgi`.

    `client`: a :class:`gmdp.Client`, or a callable without arguments that makes one, which is
    called at the first request.  Its ``retries`` hold for every call.  `services`: what is
    exposed, names or shell-style patterns (``report.*``), which are matched with the name as
    UTF-8; nothing, unless something is named.  Names that begin with ``mmi.`` are exposed by
    patterns only that begin so themselves.  `timeout`: seconds a call may take in all.
    `max_body`: bytes of a request's body.  `when_no_worker`: "fail" at once, or "wait".
    `ready_services`: names that must have a worker for ``/readyz``.

    Holds nothing but the client, which stays the caller's to close.  Safe for any number of
    greenlets, and for threads as far as the client is.  Raises ConfigurationError for a
    wrong value.
    """

    #: Seconds in which the broker must answer for ``/readyz``.
    ready_timeout: float = 1.0

    def __init__(
        self,
        client: Client | Callable[[], Client],
        services: Sequence[str] = (),
        *,
        timeout: float = 30.0,
        max_body: int = 16 * MEBIBYTE,
        when_no_worker: str = "fail",
        ready_services: Sequence[str | bytes] = (),
    ) -> None:
        if not callable(client) and not all(hasattr(client, name) for name in ("request", "stream")):
            raise ConfigurationError(f"client must be a gmdp.Client, or a callable that makes one, not {client!r}")
        self._make = client if callable(client) else lambda: client
        self._client: Client | None = None if callable(client) else client
        #: Never held while anything may switch.
        self._lock = threading.Lock()
        self.services = _names("services", services)
        self._exposed = [(pattern.startswith("mmi."), re.compile(translate(pattern))) for pattern in self.services]
        self.timeout: float = check_number("timeout", timeout, above=0)
        self.max_body: int = check_number("max_body", max_body, at_least=0, whole=True)
        self.when_no_worker = check_when_no_worker(when_no_worker)
        self.ready_services = tuple(check_service(name) for name in _names("ready_services", ready_services))

    @property
    def client(self) -> Client:
        """The client; made now, if it was not yet."""
        client = self._client
        if client is None:
            made = self._make()
            # Making it may have let another greenlet or thread run: the first one stays.
            with self._lock:
                client = self._client = self._client or made
            if client is not made:
                made.close()
        return client

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request, as PEP 3333 has it."""
        try:
            answer = self._answer(environ)
        except _InputBroken as error:
            # The server knows whether the connection can be used on.
            raise error.__cause__ or error from None
        except Exception as error:
            answer = failure(error)
        phrase = HTTPStatus(answer.status).phrase
        start_response(f"{answer.status} {phrase}", [*answer.headers, ("Cache-Control", "no-store")])
        return () if environ["REQUEST_METHOD"] == "HEAD" else answer.body

    def __repr__(self) -> str:
        return f"<{type(self).__name__} services={list(self.services)} client={self._client!r}>"

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        # PEP 3333: the bytes of the path, decoded as Latin-1.
        path = environ.get("PATH_INFO", "").encode("latin-1")
        method = environ["REQUEST_METHOD"]
        if path.startswith(_SERVICES):
            name = path[len(_SERVICES) :]
            if not self._exposes(name):
                raise Refused(404, "NotFound", "no such service")
            _check_method(method, "POST")
            return self._call(name, environ)
        if path == b"/healthz":
            _check_method(method, "GET", "HEAD")
            return _text("ok\n")
        if path == b"/readyz":
            _check_method(method, "GET", "HEAD")
            return self._readiness()
        raise Refused(404, "NotFound", "no such path")

    def _exposes(self, name: bytes) -> bool:
        if not 0 < len(name) <= MAX_SERVICE_NAME:
            return False
        text = name.decode("utf-8", "surrogateescape")
        management = text.startswith("mmi.")
        return any(pattern.match(text) for of_management, pattern in self._exposed if of_management or not management)

    def _call(self, name: bytes, environ: WSGIEnvironment) -> Answer:
        timeout = self._time_limit(environ.get("HTTP_X_REQUEST_TIMEOUT"))
        options: dict[str, Any] = {
            "timeout": timeout,
            "when_no_worker": self.when_no_worker,
            "priority": _priority(environ.get("HTTP_X_REQUEST_PRIORITY")),
            "traceparent": _traceparent(environ.get("HTTP_TRACEPARENT", "")),
        }
        events = _wants_events(environ.get("HTTP_ACCEPT", ""))
        chunks = _wants_chunks(environ.get("QUERY_STRING", ""))
        body = _frames(self._read(environ), environ.get("CONTENT_TYPE", ""))
        if not events and not chunks:
            return _whole(self.client.request(name, body, **options))
        # The first part is waited for: until then, an error has a status of its own.
        parts = iter(self.client.stream(name, body, deadline=timeout, **options))
        first = next(parts)
        while not events and not any(first):
            # It writes nothing: what follows may be an error still.
            following = next(parts, None)
            if following is None:
                break
            first = following
        answer = (_Events if events else _Chunks)(first, parts)
        # Some proxies would keep it until it is complete.
        return Answer(200, [("Content-Type", answer.content_type), ("X-Accel-Buffering", "no")], answer)

    def _time_limit(self, given: str | None) -> float:
        if given is None:
            return self.timeout
        seconds = float(given) if _SECONDS.fullmatch(given.strip()) else 0.0
        if seconds <= 0:
            raise bad("X-Request-Timeout must be seconds greater than 0, like 2.5 or 1e-3")
        return min(seconds, self.timeout)

    def _read(self, environ: WSGIEnvironment) -> bytes:
        """The body of a request, of at most `max_body` bytes."""
        coding = environ.get("HTTP_TRANSFER_ENCODING")
        if coding is not None and coding.strip().lower() != "chunked":
            raise bad("Transfer-Encoding can be chunked, and nothing else")
        stated = environ.get("CONTENT_LENGTH") or None
        if stated is not None:
            if not (stated.isascii() and stated.isdigit()):
                raise bad("Content-Length must be a number of bytes")
            if len(stated) > 18 or int(stated) > self.max_body:
                raise self._too_large()
            left = int(stated)
        elif environ.get("wsgi.input_terminated"):
            left = self.max_body + 1
        elif coding is not None:
            raise bad("a Content-Length is needed: this server does not tell where such a body ends")
        else:
            return b""
        pieces = []
        while left > 0:
            try:
                piece = environ["wsgi.input"].read(min(left, _PIECE))
            except Exception as error:
                raise _InputBroken from error
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        if stated is not None and left:
            raise bad("the body ended before its Content-Length")
        if stated is None and not left:
            raise self._too_large()
        return b"".join(pieces)

    def _too_large(self) -> Refused:
        return Refused(413, "MessageTooLarge", f"the body has more than {self.max_body} bytes")

    def _readiness(self) -> Answer:
        until = monotonic() + self.ready_timeout
        try:
            for name in self.ready_services:
                if self._ask(name, until) != b"200":
                    told = name.decode("utf-8", "backslashreplace")
                    raise Refused(503, "NoWorker", f"no worker is registered for {told}")
            if not self.ready_services:
                self._ask(b"mmi.service", until)
            if self.client.extensions:
                self._check_that_it_stays(until)
        except NotAllowed as error:
            # The broker answered; only with whom it has workers it does not tell.
            if self.ready_services:
                return failure(error)._replace(status=503)
        except MDPError as error:
            return failure(error)._replace(status=503)
        return _text("ready\n")

    def _check_that_it_stays(self, until: float) -> None:
        """A broker of gmdp that stops answers such questions still, but no others."""
        try:
            reply = self._request("mmi.broker", b"", until)
            stops = json.loads(reply[-1])["state"] == "draining"
        except (NotAllowed, ValueError, LookupError, TypeError):
            return  # then nobody knows
        if stops:
            raise Refused(503, "BrokerShuttingDown", "the broker stops")

    def _ask(self, name: bytes, until: float) -> bytes:
        return self._request("mmi.service", name, until)[0]

    def _request(self, service: str, body: bytes, until: float) -> list[bytes]:
        # Time that is up is one more look at what may have come.
        left = max(until - monotonic(), 0.001)
        return self.client.request(service, body, timeout=left, retries=0)


# What is asked


def _check_method(method: str, *allowed: str) -> None:
    if method not in allowed:
        names = ", ".join(allowed)
        raise Refused(405, "MethodNotAllowed", f"allowed here: {names}", ("Allow", names))


def _priority(given: str | None) -> int:
    if given is None:
        return NORMAL_PRIORITY
    known = {str(priority): priority for priority in PRIORITIES}
    if given.strip() not in known:
        raise bad(f"X-Request-Priority must be a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    return known[given.strip()]


def _traceparent(given: str) -> str | None:
    # W3C Trace Context, 3.2.2.  "If parsing fails, [the vendor] ... creates a new traceparent":
    # whoever traces does; here nothing is passed on.
    value = given.strip()
    return value if is_traceparent(value.encode("utf-8", "replace")) else None


def _wants_events(accept: str) -> bool:
    return any(_media_type(one) == "text/event-stream" and not _NOT_ACCEPTABLE.search(one) for one in accept.split(","))


def _wants_chunks(query: str) -> bool:
    given = parse_qs(query, keep_blank_values=True, errors="replace").get("stream", ["0"])
    if given not in (["0"], ["1"]):
        raise bad("stream must be 1 or 0")
    return given == ["1"]


def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def _frames(body: bytes, content_type: str) -> list[bytes]:
    """The frames of a request's body."""
    if _media_type(content_type) != multipart.MIXED:
        return [body]
    try:
        return multipart.split(body, content_type, MAX_FRAMES)
    except multipart.TooManyParts as error:
        raise Refused(413, "MessageTooLarge", str(error)) from None
    except ValueError as error:
        raise bad(str(error)) from None


# What is answered


def _text(text: str) -> Answer:
    return Answer(200, headers("text/plain; charset=utf-8", len(text)), [text.encode()])


def _whole(frames: list[bytes]) -> Answer:
    """An answer that is complete."""
    if len(frames) == 1:
        return Answer(200, headers("application/octet-stream", len(frames[0])), frames)
    content_type, body = multipart.joined(frames)
    return Answer(200, headers(content_type, len(body)), [body])


class _Chunks:
    """The body of an answer in parts, each written as it comes; closing it cancels the call."""

    content_type = "application/octet-stream"

    def __init__(self, first: list[bytes], parts: Iterator[list[bytes]]) -> None:
        self._first: list[bytes] | None = first
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        part, self._first = self._first, None
        return self._written(next(self._parts) if part is None else part)

    def _written(self, part: list[bytes]) -> bytes:
        return b"".join(part)

    def close(self) -> None:
        """PEP 3333: the server calls it in any case."""
        close = getattr(self._parts, "close", None)
        if close is not None:
            close()


class _Events(_Chunks):
    """The same as server-sent events."""

    content_type = "text/event-stream"

    def __next__(self) -> bytes:
        try:
            return super().__next__()
        except StopIteration:
            raise
        except Exception as error:
            # After an error there are no more parts: the next one is the end.
            (body,) = failure(error).body
            return b"event: error\ndata: %b\n\n" % body

    def _written(self, part: list[bytes]) -> bytes:
        return b"".join(map(_event, part))


def _event(frame: bytes) -> bytes:
    try:
        if b"\r" in frame:
            # In an event it would be one more end of a line.
            raise ValueError
        frame.decode()
    except ValueError:
        return b"event: base64\ndata: %b\n\n" % base64.b64encode(frame)
    return b"".join(b"data: %b\n" % line for line in frame.split(b"\n")) + b"\n"


# How it is set up


def _names(option: str, given: Sequence[Any]) -> tuple[Any, ...]:
    # A single name, forgotten to be put into a list, would be a pattern per letter.
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{option} must be a sequence of names, not {given!r}")
    names = tuple(given)
    kinds = str if option == "services" else (str, bytes)
    for name in names:
        if not isinstance(name, kinds) or not name:
            raise ConfigurationError(f"{option} must be names, not {name!r}")
    return names


def gateway_from_environment(environment: Mapping[str, str] | None = None) -> Gateway:
    """A :class:`Gateway` as variables of the environment say; its client is made at its first request.

    ``GMDP_SERVICES`` (names and patterns, with commas between; needed), ``GMDP_BROKER`` (one or
    several endpoints, with commas between; ``tcp://127.0.0.1:5555``), ``GMDP_TIMEOUT`` (30),
    ``GMDP_RETRIES`` (0), ``GMDP_MAX_BODY`` (16 MiB), ``GMDP_WHEN_NO_WORKER`` (fail),
    ``GMDP_READY_SERVICES``; ``GMDP_SERVER_KEY``, ``GMDP_CURVE_KEY``, or ``GMDP_USERNAME`` and
    ``GMDP_PASSWORD``, as the command line has them.  Raises ConfigurationError for a wrong value.
    """
    if environment is None:
        environment = os.environ
    services = _listed(environment, "GMDP_SERVICES")
    if not services:
        raise ConfigurationError("$GMDP_SERVICES must name the services to expose")
    timeout = check_number("timeout", _number(environment, "GMDP_TIMEOUT", 30.0), above=0)
    retries = check_number("retries", _number(environment, "GMDP_RETRIES", 0), at_least=0, whole=True)
    endpoints = check_endpoints(_listed(environment, "GMDP_BROKER") or [DEFAULT_ENDPOINT])
    username = environment.get("GMDP_USERNAME") or None
    keys: dict[str, Any] = {
        "curve_key": environment.get("GMDP_CURVE_KEY") or None,
        "server_key": environment.get("GMDP_SERVER_KEY") or None,
        "username": username,
        "password": None if username is None else environment.get("GMDP_PASSWORD"),
    }
    # What is wrong is told now, not at the first request.
    make_credentials(endpoints, **keys)

    def client() -> Client:
        return Client(endpoints, timeout=timeout, retries=retries, **keys)

    return Gateway(
        client,
        services,
        timeout=timeout,
        max_body=_number(environment, "GMDP_MAX_BODY", 16 * MEBIBYTE),
        when_no_worker=environment.get("GMDP_WHEN_NO_WORKER") or "fail",
        ready_services=_listed(environment, "GMDP_READY_SERVICES"),
    )


def _listed(environment: Mapping[str, str], variable: str) -> list[str]:
    return [name.strip() for name in environment.get(variable, "").split(",") if name.strip()]


def _number(environment: Mapping[str, str], variable: str, default: Any) -> Any:
    """A number of the type of `default`."""
    given = environment.get(variable) or default
    try:
        return type(default)(given)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigurationError(f"${variable} must be {kind}, not {given!r}") from None
