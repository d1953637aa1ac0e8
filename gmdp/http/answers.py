"""What the gateway answers: statuses, headers, and the JSON of its errors (the table of :mod:`gmdp.wsgi`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from .. import exceptions
from ..core.outcomes import TABLE
from ..exceptions import MDPError

_log = logging.getLogger("gmdp.wsgi")

#: The status of an error and what is said of it; None: what the error says itself, which
#: comes from the broker.  The others' messages are about the inside.
STATUS: dict[type[MDPError], tuple[int, str | None]] = {
    getattr(exceptions, row.error): (row.http_status, row.http_message) for row in TABLE
}


class Refused(Exception):
    """The request is not one that a call can be made of."""

    def __init__(self, status: int, name: str, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.headers = headers


class Answer(NamedTuple):
    """What goes to the server."""

    status: int
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


def bad(message: str) -> Refused:
    """The request is wrong in itself."""
    return Refused(400, "BadRequest", message)


def headers(content_type: str, length: int) -> list[tuple[str, str]]:
    """Of a body of this length."""
    return [("Content-Type", content_type), ("Content-Length", str(length))]


def failure(error: Exception) -> Answer:
    """What the client is told of `error`, and the log if it is no matter of his."""
    more: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Refused):
        status, name, message, more = error.status, error.name, str(error), error.headers
    elif isinstance(error, MDPError):
        kind = next(one for one in type(error).__mro__ if one in STATUS)
        status, said = STATUS[kind]
        name, message = type(error).__name__, str(error) if said is None else said
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            more = (("Retry-After", "1"),)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("a request failed", exc_info=error)
        elif said is not None:
            _log.info("%s: %s", name, error)
    else:
        status, name, message = 500, "InternalError", "the gateway failed; its log tells more"
        _log.error("a request failed", exc_info=error)
    body = json.dumps({"error": name, "message": message}).encode()
    return Answer(status, [*headers("application/json", len(body)), *more], [body])
