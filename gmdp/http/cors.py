"""Cross-origin resource sharing (CORS, in the Fetch Standard): which web pages may read the gateway's answers.

A browser sends a page's origin with its requests.  The gateway names the origins that it trusts, and the
browser keeps the answer from all other pages.  Requests of other pages are answered all the same:
only the browser's user is protected, and only from reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..exceptions import ConfigurationError
from .answers import Answer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Headers of an answer that a page may read, beside those that it may always read.
EXPOSED = "Allow, Retry-After"
#: Headers that a page may send, beside those that it may always send.
ACCEPTED = "Content-Type, Last-Event-ID, Traceparent, X-Request-Priority, X-Request-Timeout"
#: Seconds that a browser may remember the answer to a preflight.
MAX_AGE = 600

_ANY = "*"
#: As a browser writes an origin: in lower case, without a path and without a scheme's own port.
_ORIGIN = re.compile(r"(?!http://.*:80$)(?!https://.*:443$)[a-z][a-z0-9+.-]*://[^\sA-Z/?#@,*]+")


class CrossOrigin:
    """The origins whose pages may read answers.

    Args:
        origins: Origins like ``https://app.example``, or ``*`` for all.

    Raises:
        ConfigurationError: An origin is not written as browsers write it.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        if isinstance(origins, (str, bytes)) or not isinstance(origins, Iterable):
            raise ConfigurationError(f"cors_origins must be a sequence of origins, not {origins!r}")
        self.origins = tuple(origins)
        for origin in self.origins:
            if not isinstance(origin, str) or (origin != _ANY and _ORIGIN.fullmatch(origin) is None):
                raise ConfigurationError(
                    f"cors_origins must be '*' or origins like https://app.example:8443, not {origin!r}"
                )

    def _allows(self, origin: str) -> bool:
        """Whether the page of a request with this origin ("" for none) may read the answer."""
        return bool(origin) and (_ANY in self.origins or origin in self.origins)

    def headers(self, environ: WSGIEnvironment) -> list[tuple[str, str]]:
        """Return the headers that every answer to this request needs."""
        if not self.origins:
            return []
        origin = environ.get("HTTP_ORIGIN", "")
        any_origin = _ANY in self.origins
        headers = [] if any_origin else [("Vary", "Origin")]
        if self._allows(origin):
            headers.append(("Access-Control-Allow-Origin", _ANY if any_origin else origin))
            headers.append(("Access-Control-Expose-Headers", EXPOSED))
        return headers

    def is_preflight(self, environ: WSGIEnvironment) -> bool:
        """Return whether a browser asks, for a page that may ask, what it may send."""
        return (
            environ["REQUEST_METHOD"] == "OPTIONS"
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
            and self._allows(environ.get("HTTP_ORIGIN", ""))
        )


def preflight_answer(methods: Sequence[str]) -> Answer:
    """Return the answer to a preflight for a path that takes `methods`."""
    return Answer(
        204,
        [
            ("Access-Control-Allow-Methods", ", ".join(methods)),
            ("Access-Control-Allow-Headers", ACCEPTED),
            ("Access-Control-Max-Age", str(MAX_AGE)),
        ],
        (),
    )
