"""What a broker did not let somebody do, told to whoever is responsible for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from zope.interface import implementer

from .core.management import text
from .interfaces import IAuditHook

_log = logging.getLogger("gmdp.audit")

CONNECTION_REFUSED = "connection_refused"
REGISTRATION_REFUSED = "registration_refused"
CALL_REFUSED = "call_refused"
LIST_RELOADED = "list_reloaded"


@dataclass(frozen=True)
class AuditRecord:
    """One thing a broker did not let somebody do, or a change of who may."""

    #: "connection_refused", "registration_refused", "call_refused" or "list_reloaded".
    kind: str
    #: Who: the user; of a connection that was refused the key (Z85) or name given.
    user: str = ""
    #: From where: an IP address, or what ZeroMQ says of an ipc peer; empty if not known.
    address: str = ""
    #: What: the service, if it is about one.
    service: bytes = b""
    #: Why: "key", "not_allowed", "rate_full", …
    reason: str = ""
    #: How many records of this kind were left out before this one, to keep to the rate.
    suppressed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "service": text(self.service)}


AuditHook = Callable[[AuditRecord], None]


@implementer(IAuditHook)
class LogAudit:
    """Logs each record under ``gmdp.audit``: refusals as warnings, changes as information.

    The log record has the facts as ``audit``, a dictionary, too.
    """

    def __call__(self, record: AuditRecord) -> None:
        level = logging.INFO if record.kind == LIST_RELOADED else logging.WARNING
        facts = record.as_dict()
        words = " ".join(f"{name}={value!r}" for name, value in facts.items() if value and name != "kind")
        _log.log(level, "%s %.500s", record.kind, words, extra={"audit": facts})


class Auditor:
    """Hands records to a hook, at most :attr:`rate` a second of each kind.

    The rest is counted, and told with the next one.  For one greenlet.
    """

    #: Records a second of one kind; as many may come at once.
    rate = 10

    def __init__(self, hook: AuditHook) -> None:
        self._hook = hook
        self._full_at: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def tell(self, now: float, kind: str, **facts: Any) -> None:
        """Tell the hook, if it is not too much."""
        full_at = max(self._full_at.get(kind, now), now)
        if full_at > now + 1.0 - 0.5 / self.rate:
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return
        self._full_at[kind] = full_at + 1 / self.rate
        try:
            self._hook(AuditRecord(kind, suppressed=self._suppressed.pop(kind, 0), **facts))
        except Exception:
            _log.exception("the audit hook failed")
