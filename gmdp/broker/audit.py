"""What a broker did not let somebody do, told to whoever is responsible for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from zope.interface import implementer

from ..core.broker.reports import text
from ..core.rates import Rates
from ..interfaces import IAuditHook

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
    """Hands records to a hook, at most :attr:`rate` a second of each kind and user (or
    address), and :attr:`total` in all.

    The rest is counted, and told with the next one of the kind, at the end at the latest.
    For one greenlet.
    """

    #: Records a second of one kind and user; as many may come at once.
    rate = 10
    #: Records a second of one kind.
    total = 100

    def __init__(self, hook: AuditHook) -> None:
        self._hook = hook
        self._rates = Rates(self.rate)
        self._totals = Rates(self.total)
        self._suppressed: dict[str, int] = {}

    def tell(self, now: float, kind: str, count: int = 1, **facts: Any) -> None:
        """Tell the hook that something happened `count` times, if it is not too much."""
        who = (kind, facts.get("user") or facts.get("address"))
        left_out = self._suppressed.pop(kind, 0)
        if not self._rates.take(who, now) or not self._totals.take(kind, now):
            self._suppressed[kind] = left_out + count
            return
        self._call(AuditRecord(kind, suppressed=left_out + count - 1, **facts))

    def flush(self) -> None:
        """Tell what was left out so far."""
        for kind, left_out in self._suppressed.items():
            self._call(AuditRecord(kind, reason="left_out", suppressed=left_out))
        self._suppressed.clear()

    def _call(self, record: AuditRecord) -> None:
        try:
            self._hook(record)
        except Exception:
            _log.exception("the audit hook failed")
