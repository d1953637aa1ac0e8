"""Dead letters: requests that were given up because workers were lost over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from zope.interface import implementer

from ..core.broker.decisions import DeadLetter
from ..exceptions import ConfigurationError
from ..interfaces import IDeadLetterHook
from ..io import logs
from ..protocol.dialects import MMI_PREFIX
from ..protocol.text import plain_name, show_name
from ..validation import check_service

_log = logs.QueuedLogger("gmdp.broker")


class Enqueuer(Protocol):
    """What a dead-letter hook needs of a broker."""

    def enqueue(self, service: str | bytes, body: bytes | Sequence[bytes]) -> bool:
        """Have `service` work on a request of the broker's own; False if there is no room."""


@implementer(IDeadLetterHook)
class LogDeadLetters:
    """Logs each dead letter as a warning, without its body."""

    def __call__(self, letter: DeadLetter, broker: Enqueuer) -> None:
        _log.warning(
            "a request for %s was given up (%s) after %d %s and %.1f seconds",
            show_name(letter.service),
            letter.reason,
            letter.attempts,
            "attempt" if letter.attempts == 1 else "attempts",
            letter.age,
        )


@implementer(IDeadLetterHook)
class ForwardDeadLetters(LogDeadLetters):
    """Logs each dead letter and sends it to a service, as a request of the broker's own.

    The first frame of that request is JSON (``service``, ``attempts``, ``reason``, ``age`` in
    seconds, ``user``); the other frames are the dead letter's body.  The service's answer is
    dropped.  A dead letter of that service itself is only logged, and so is one for which
    there is no room.

    Args:
        service: the name of the service, as str (UTF-8) or bytes.

    Raises:
        ConfigurationError: the name is empty or too long, or begins with ``mmi.``.
        TypeError: the name is neither str nor bytes.
    """

    def __init__(self, service: str | bytes) -> None:
        self.service = check_service(service)
        if self.service.startswith(MMI_PREFIX):
            raise ConfigurationError(
                f"dead letters cannot go to {show_name(self.service)}: "
                "the broker itself serves what begins with mmi. (RFC 8)"
            )

    def __call__(self, letter: DeadLetter, broker: Enqueuer) -> None:
        super().__call__(letter, broker)
        if letter.service == self.service:
            return
        facts = {
            "service": plain_name(letter.service),
            "attempts": letter.attempts,
            "reason": letter.reason,
            "age": round(letter.age, 3),
            "user": letter.user,
        }
        if not broker.enqueue(self.service, [json.dumps(facts).encode(), *letter.body]):
            _log.warning(
                "no room for a dead letter of %s at the service %s", show_name(letter.service), show_name(self.service)
            )
