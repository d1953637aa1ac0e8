"""What the gateway answers: statuses, headers, and the JSON of errors (the table of :mod:`gmdp.wsgi`)."""

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

#: The status and the message of each error.  None stands for the error's own message, which comes
#: from the broker.  The messages of other errors may reveal internals.
STATUS: dict[type[MDPError], tuple[int, str | None]] = {
    getattr(exceptions, row.error): (row.http_status, row.http_message) for row in TABLE
}


class RequestRefused(Exception):
    """The gateway makes no call for the request, and answers with an error of its own.

    Attributes:
        status: The status of the answer.
        name: The error's name in the JSON.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, name: str, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.headers = headers


class Answer(NamedTuple):
    """An answer for the server to send."""

    status: int
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


def bad_request(message: str) -> RequestRefused:
    """Return the error for a malformed request."""
    return RequestRefused(400, "BadRequest", message)


def content_headers(content_type: str, length: int) -> list[tuple[str, str]]:
    """Return the headers of a body of this type and length."""
    return [("Content-Type", content_type), ("Content-Length", str(length))]


def error_answer(error: Exception) -> Answer:
    """Return the answer to a request that ended with `error`; log the details that are not shown."""
    more_headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, RequestRefused):
        status, name, message, more_headers = error.status, error.name, str(error), error.headers
    elif isinstance(error, MDPError):
        error_class = next(base for base in type(error).__mro__ if base in STATUS)
        status, public_message = STATUS[error_class]
        name, message = type(error).__name__, str(error) if public_message is None else public_message
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            more_headers = (("Retry-After", "1"),)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("a request failed", exc_info=error)
        elif public_message is not None:
            _log.info("%s: %s", name, error)
    else:
        status, name, message = 500, "InternalError", "the gateway failed; its log has the details"
        _log.error("a request failed", exc_info=error)
    body = json.dumps({"error": name, "message": message}).encode()
    return Answer(status, [*content_headers("application/json", len(body)), *more_headers], [body])
