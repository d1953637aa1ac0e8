"""What becomes of requests that workers were lost over."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from zope.interface import implementer

from ..core.broker.decisions import DeadLetter
from ..core.broker.reports import text
from ..interfaces import IDeadLetterHook
from ..validation import check_service

if TYPE_CHECKING:
    from .broker import Broker

_log = logging.getLogger("gmdp.broker")


@implementer(IDeadLetterHook)
class LogDeadLetters:
    """Logs each dead letter as a warning, without its body."""

    def __call__(self, letter: DeadLetter, broker: Broker) -> None:
        _log.warning(
            "given up (%s): a request for %.100r after %d %s and %.1f seconds",
            letter.reason,
            letter.service,
            letter.attempts,
            "attempt" if letter.attempts == 1 else "attempts",
            letter.age,
        )


@implementer(IDeadLetterHook)
class ForwardDeadLetters(LogDeadLetters):
    """Logs each dead letter and hands it to `service`, as a request of the broker's own.

    Its first frame is JSON (``service``, ``attempts``, ``reason``, ``age`` in
    seconds, ``user``), the others are the body.  Nobody hears the answer.  What
    that service itself gives up is only logged, and so is what finds no room.
    ConfigurationError or TypeError for what is no service name.
    """

    def __init__(self, service: str | bytes) -> None:
        self.service = check_service(service)

    def __call__(self, letter: DeadLetter, broker: Broker) -> None:
        super().__call__(letter, broker)
        if letter.service == self.service:
            return
        facts = {
            "service": text(letter.service),
            "attempts": letter.attempts,
            "reason": letter.reason,
            "age": round(letter.age, 3),
            "user": letter.user,
        }
        if not broker.enqueue(self.service, [json.dumps(facts).encode(), *letter.body]):
            _log.warning("a dead letter of %.100r found no room with %.100r", letter.service, self.service)
