"""The gateway itself.  :mod:`gmdp.wsgi`, where it is public, describes what it does."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..client import Client
from ..client.options import check_when_no_worker
from ..exceptions import ConfigurationError, MDPError, NotAllowed
from ..protocol.dialects import MAX_SERVICE_NAME
from ..protocol.text import show_name
from ..validation import check_number, check_service
from . import slow_clients
from .answers import Answer, RequestRefused, error_answer
from .bodies import LAST_EVENT_ID, frames_answer, read_frames, stream_answer, text_answer
from .cors import CrossOrigin, preflight_answer
from .requests import (
    InputError,
    check_method,
    read_body,
    read_priority,
    read_query_body,
    read_time_limit,
    read_traceparent,
    wants_chunks,
    wants_events,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

MEBIBYTE = 1024 * 1024

_SERVICES = b"/services/"
_MANAGEMENT = "mmi."
#: Characters that make a name a shell-style pattern.
_WILDCARD = re.compile(r"[*?\[]")


class Gateway:
    """A WSGI application that exposes services of a broker (:mod:`gmdp.wsgi`).

    The client remains the caller's to close.  Each request holds its body, up to `max_body`, and its
    answer or the unread parts of a stream (the client's ``stream_bytes``).  Safe for any number of
    greenlets, and for threads as far as the client is.

    Args:
        client: A :class:`gmdp.Client`, or a callable without arguments that makes one at the
            first request.  The client's ``retries`` hold for every call.
        services: The exposed services: names, or shell-style patterns like ``report.*``, which
            are matched with the name as UTF-8.  Without any, nothing is exposed.  Only patterns
            that begin with ``mmi.`` expose such names.
        safe: Those of the exposed services that change nothing, as names and patterns like `services`.
            A browser's ``EventSource`` may call them, by GET.  Any web page can make a browser do that.
            A name or pattern that exposes nothing is an error.
        cors_origins: Origins like ``https://app.example`` whose web pages may read the gateway's answers;
            ``*`` for all pages.  Without any, a browser keeps the answers from pages of other origins.
        timeout: Seconds that a call may take in all.
        max_body: Bytes of the longest request body.
        when_no_worker: What a call does where no worker is registered: "fail" at once, or "wait".
        ready_services: Names of the services that must have a worker for ``/readyz``.
        client_timeout: Seconds without progress after which an HTTP client is given up that does not
            send the rest of a body or does not read an answer.  Holds on gunicorn's gevent worker;
            other servers have limits of their own.

    Raises:
        ConfigurationError: A value is wrong.

    Attributes:
        services: The names and patterns of the exposed services.
        safe: The names and patterns of the services that may be called by GET.
        cors_origins: The origins whose pages may read answers.
        timeout: Seconds that a call may take in all.
        max_body: Bytes of the longest request body.
        when_no_worker: "fail" or "wait".
        ready_services: The names of the services for ``/readyz``, as bytes.
        client_timeout: Seconds for an HTTP client that sends or reads nothing.
        ready_timeout: Seconds in which the broker must answer for ``/readyz``.
    """

    #: Seconds in which the broker must answer for ``/readyz``.
    ready_timeout: float = 1.0

    def __init__(
        self,
        client: Client | Callable[[], Client],
        services: Sequence[str] = (),
        *,
        safe: Sequence[str] = (),
        cors_origins: Sequence[str] = (),
        timeout: float = 30.0,
        max_body: int = 16 * MEBIBYTE,
        when_no_worker: str = "fail",
        ready_services: Sequence[str | bytes] = (),
        client_timeout: float = 60.0,
    ) -> None:
        if not callable(client) and not all(hasattr(client, name) for name in ("request", "stream")):
            raise ConfigurationError(f"client must be a gmdp.Client, or a callable that makes one, not {client!r}")
        self._make_client = client if callable(client) else lambda: client
        self._client: Client | None = None if callable(client) else client
        #: Never held while anything may switch.
        self._lock = threading.Lock()
        self.services = _check_names("services", services)
        self.safe = _check_names("safe", safe)
        self._exposed = _Patterns(self.services)
        self._safe = _Patterns(self.safe)
        self._check_safe_is_exposed()
        self._cross_origin = CrossOrigin(cors_origins)
        self.cors_origins = self._cross_origin.origins
        self.timeout: float = check_number("timeout", timeout, above=0)
        self.max_body: int = check_number("max_body", max_body, at_least=0, whole=True)
        self.when_no_worker = check_when_no_worker(when_no_worker)
        self.ready_services = tuple(check_service(name) for name in _check_names("ready_services", ready_services))
        self.client_timeout: float = check_number("client_timeout", client_timeout, above=0)

    def _check_safe_is_exposed(self) -> None:
        """Raise ConfigurationError for a safe service that is certainly not exposed.

        Whether two patterns have a name in common is not decided.
        """
        for safe in self.safe:
            if not _WILDCARD.search(safe):
                exposed = self._exposed.match(safe.encode("utf-8", "surrogateescape"))
            elif any(_WILDCARD.search(name) for name in self.services):
                continue
            else:
                pattern = _Patterns([safe])
                exposed = any(pattern.match(name.encode("utf-8", "surrogateescape")) for name in self.services)
            if not exposed:
                raise ConfigurationError(f"safe: {safe!r} is none of the exposed services; services must name it, too")

    @property
    def client(self) -> Client:
        """The client.  Where a callable makes it, that happens on the first access."""
        client = self._client
        if client is None:
            new = self._make_client()
            # Another greenlet or thread may have made a client meanwhile.  The first one stays.
            with self._lock:
                client = self._client = self._client or new
            if client is not new:
                new.close()
        return client

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as PEP 3333 has it.

        Args:
            environ: The request.
            start_response: The server's function for status and headers.

        Returns:
            The body.
        """
        return slow_clients.serve(self._respond, environ, start_response, self.client_timeout)

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            answer = self._answer(environ)
        except InputError as error:
            # The server knows whether the connection can be used again.
            raise error.__cause__ or error from None
        except Exception as error:
            answer = error_answer(error)
        phrase = HTTPStatus(answer.status).phrase
        more_headers = [("Cache-Control", "no-store"), *self._cross_origin.headers(environ)]
        start_response(f"{answer.status} {phrase}", [*answer.headers, *more_headers])
        return () if environ["REQUEST_METHOD"] == "HEAD" else answer.body

    def __repr__(self) -> str:
        return f"<{type(self).__name__} services={list(self.services)} client={self._client!r}>"

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        # PEP 3333: the bytes of the path, decoded as Latin-1.
        path = environ.get("PATH_INFO", "").encode("latin-1")
        methods, answer = self._find(path, environ)
        if self._cross_origin.is_preflight(environ):
            return preflight_answer(methods)
        check_method(environ["REQUEST_METHOD"], *methods)
        return answer()

    def _find(self, path: bytes, environ: WSGIEnvironment) -> tuple[Sequence[str], Callable[[], Answer]]:
        """Return the methods that `path` takes, and what answers the request."""
        if path.startswith(_SERVICES):
            name = path[len(_SERVICES) :]
            if not self._exposed.match(name):
                raise RequestRefused(404, "NotFound", "no such service")
            return ("GET", "POST") if self._safe.match(name) else ("POST",), partial(self._call, name, environ)
        if path == b"/healthz":
            return ("GET", "HEAD"), partial(text_answer, "ok\n")
        if path == b"/readyz":
            return ("GET", "HEAD"), self._answer_readiness
        raise RequestRefused(404, "NotFound", "no such path")

    def _call(self, name: bytes, environ: WSGIEnvironment) -> Answer:
        timeout = read_time_limit(environ.get("HTTP_X_REQUEST_TIMEOUT"), self.timeout)
        options: dict[str, Any] = {
            "timeout": timeout,
            "when_no_worker": self.when_no_worker,
            "priority": read_priority(environ.get("HTTP_X_REQUEST_PRIORITY")),
            "traceparent": read_traceparent(environ.get("HTTP_TRACEPARENT", "")),
        }
        events = wants_events(environ.get("HTTP_ACCEPT", ""))
        query = environ.get("QUERY_STRING", "")
        is_event_source = environ["REQUEST_METHOD"] == "GET"
        if is_event_source:
            if not events:
                raise RequestRefused(406, "NotAcceptable", "a GET needs Accept: text/event-stream")
            if environ.get("HTTP_LAST_EVENT_ID") == LAST_EVENT_ID:
                return Answer(204, [], ())  # the browser does not ask again
            chunks, frames = False, read_query_body(query)
        else:
            chunks = wants_chunks(query)
            frames = read_frames(read_body(environ, self.max_body), environ.get("CONTENT_TYPE", ""))
        if not events and not chunks:
            return frames_answer(self.client.request(name, frames, **options))
        # The answer begins with the first part: an error before that has a status of its own.
        parts = iter(self.client.stream(name, frames, deadline=timeout, **options))
        first = next(parts)
        while not events and not any(first):
            # As a chunk, an empty part writes nothing, and an error may still follow.
            following = next(parts, None)
            if following is None:
                break
            first = following
        return stream_answer(first, parts, events, is_event_source)

    # Readiness

    def _answer_readiness(self) -> Answer:
        until = monotonic() + self.ready_timeout
        try:
            for name in self.ready_services:
                if self._request("mmi.service", name, until)[0] != b"200":
                    raise RequestRefused(503, "NoWorker", f"no worker is registered for {show_name(name)}")
            if not self.ready_services:
                self._request("mmi.service", b"mmi.service", until)
            if self.client.extensions:
                self._check_not_draining(until)
        except NotAllowed as error:
            # The broker has answered, but does not say which services have workers.
            if self.ready_services:
                return error_answer(error)._replace(status=503)
        except MDPError as error:
            return error_answer(error)._replace(status=503)
        return text_answer("ready\n")

    def _check_not_draining(self, until: float) -> None:
        """Raise RequestRefused if the broker drains: it answers this question, but takes no requests."""
        try:
            reply = self._request("mmi.broker", b"", until)
            draining = json.loads(reply[-1])["state"] == "draining"
        except (NotAllowed, ValueError, LookupError, TypeError):
            return  # the broker does not say
        if draining:
            raise RequestRefused(503, "BrokerShuttingDown", "the broker stops")

    def _request(self, service: str, body: bytes, until: float) -> list[bytes]:
        # Even when the time is up, one more millisecond is enough to accept a reply that has arrived.
        timeout = max(until - monotonic(), 0.001)
        return self.client.request(service, body, timeout=timeout, retries=0)


class _Patterns:
    """Shell-style patterns of service names."""

    def __init__(self, patterns: Sequence[str]) -> None:
        #: For each pattern: whether it may match management services, and the compiled pattern.
        self._patterns = [(pattern.startswith(_MANAGEMENT), re.compile(translate(pattern))) for pattern in patterns]

    def match(self, name: bytes) -> bool:
        """Return whether one of the patterns matches `name`."""
        if not 0 < len(name) <= MAX_SERVICE_NAME:
            return False
        text = name.decode("utf-8", "surrogateescape")
        is_management = text.startswith(_MANAGEMENT)
        return any(
            pattern.match(text) for for_management, pattern in self._patterns if for_management or not is_management
        )


def _check_names(option: str, names: Sequence[Any]) -> tuple[Any, ...]:
    # A name that was not put into a list would be one pattern for each of its letters.
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise ConfigurationError(f"{option} must be a sequence of names, not {names!r}")
    checked = tuple(names)
    types = (str, bytes) if option == "ready_services" else str
    for name in checked:
        if not isinstance(name, types) or not name:
            raise ConfigurationError(f"{option} must be names, not {name!r}")
    return checked
