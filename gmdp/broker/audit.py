"""Audit records: what a broker refused, and changes of its lists of users."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from zope.interface import implementer

from ..core.rates import Rates
from ..interfaces import IAuditHook
from ..io import guarded, logs
from ..protocol.text import plain_name

_log = logs.QueuedLogger("gmdp.audit")

CONNECTION_REFUSED = "connection_refused"
REGISTRATION_REFUSED = "registration_refused"
CALL_REFUSED = "call_refused"
LIST_RELOADED = "list_reloaded"


@dataclass(frozen=True)
class AuditRecord:
    """One refusal of a broker, or one change of its lists of users."""

    #: "connection_refused", "registration_refused", "call_refused" or "list_reloaded".
    kind: str
    #: The user; for a refused connection, the key (Z85) or the name that it showed.
    user: str = ""
    #: The peer's IP address, or what ZeroMQ says of an ipc peer; empty if not known.
    address: str = ""
    #: The service, if the record is about one.
    service: bytes = b""
    #: The reason: "key", "not_allowed", "rate_full", …
    reason: str = ""
    #: Records of this kind that were left out before this one, because of the bounded rate.
    suppressed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "service": plain_name(self.service)}


AuditHook = Callable[[AuditRecord], None]


@implementer(IAuditHook)
class LogAudit:
    """Logs each record under ``gmdp.audit``: refusals as warnings, changes of lists as information.

    The log record has the facts as a dictionary, too, in its attribute ``audit``.
    """

    def __call__(self, record: AuditRecord) -> None:
        level = logging.INFO if record.kind == LIST_RELOADED else logging.WARNING
        facts = record.as_dict()
        words = " ".join(f"{name}={value!r}" for name, value in facts.items() if value and name != "kind")
        _log.log(level, "%s %.500s", record.kind, words, extra={"audit": facts})


class Auditor:
    """Gives audit records to a hook, at a bounded rate.  For one greenlet.

    Records beyond :attr:`rate` and :attr:`total` are left out and counted.  The next record
    of the same kind says how many were left out before it; at the end, :meth:`flush` does.
    """

    #: Records a second of one kind and user (or address); as many may come at once.
    rate = 10
    #: Records a second of one kind.
    total = 100

    def __init__(self, hook: AuditHook) -> None:
        self._hook = hook
        self._rates = Rates(self.rate)
        self._totals = Rates(self.total)
        #: Records that were left out since the last one of their kind, by kind.
        self._left_out: dict[str, int] = {}

    def record(self, now: float, kind: str, count: int = 1, **facts: Any) -> None:
        """Give the hook one record of `count` equal events, unless that exceeds the rate."""
        source = (kind, facts.get("user") or facts.get("address"))
        left_out = self._left_out.pop(kind, 0)
        if not self._rates.take(source, now) or not self._totals.take(kind, now):
            self._left_out[kind] = left_out + count
            return
        self._call_hook(AuditRecord(kind, suppressed=left_out + count - 1, **facts))

    def flush(self) -> None:
        """Give the hook one record for each kind of which records were left out."""
        for kind, left_out in self._left_out.items():
            self._call_hook(AuditRecord(kind, reason="left_out", suppressed=left_out))
        self._left_out.clear()

    def _call_hook(self, record: AuditRecord) -> None:
        guarded.call(self._hook, record, default=None, on_error=_log_failure)


def _log_failure(error: BaseException) -> None:
    _log.exception("the audit hook failed")
