"""The options of a call: checked once, then passed on as one object.

A client has one :class:`CallOptions` for its calls without options.  A call with options makes
one more, in :meth:`CallOptions.override`.  A new option also needs a parameter in each method
that begins calls (``request``, ``stream``, ``submit``, ``map``) and in :mod:`gmdp.interfaces`.
An option for the core needs a place in :class:`gmdp.core.peer.calls.Call`, which
``Client._begin_call`` fills.
"""

from __future__ import annotations

from typing import NamedTuple

from ..exceptions import ConfigurationError
from ..protocol.extension import FAIL_WITHOUT_WORKER, NORMAL_PRIORITY, PRIORITIES, is_traceparent
from ..validation import check_number

#: Flags of a call frame for each value of `when_no_worker`.
FLAGS = {"wait": 0, "fail": FAIL_WITHOUT_WORKER}

#: Seconds that a call may take if neither the call nor its client states any.
DEFAULT_TIMEOUT = 30.0


class CallOptions(NamedTuple):
    """What a call asks of the client and the broker; each value has been checked."""

    #: Seconds in all; of a stream, per part.
    timeout: float
    #: Tries after the first one.
    retries: int
    #: "wait" or "fail".
    when_no_worker: str
    #: From 0 to 3; higher is more urgent.
    priority: int = NORMAL_PRIORITY
    #: Of W3C Trace Context; None: the one of the request on which the caller works.
    traceparent: str | None = None
    #: True if the caller stated `timeout`, for the call or for the client: a broker queues the request for
    #: as long.
    stated: bool = False

    def override(
        self,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        when_no_worker: str | None = None,
        priority: int = NORMAL_PRIORITY,
        traceparent: str | None = None,
    ) -> CallOptions:
        """Return these options with the given ones in their place; ConfigurationError if one is wrong."""
        if (
            timeout is None
            and retries is None
            and when_no_worker is None
            and priority is NORMAL_PRIORITY
            and traceparent is None
        ):
            return self  # most calls have no options
        return CallOptions(
            self.timeout if timeout is None else check_timeout(timeout),
            self.retries if retries is None else check_retries(retries),
            self.when_no_worker if when_no_worker is None else check_when_no_worker(when_no_worker),
            priority if priority is NORMAL_PRIORITY else check_priority(priority),
            None if traceparent is None else check_traceparent(traceparent),
            self.stated or timeout is not None,
        )


def check_timeout(value: float) -> float:
    """Return `value` if a call may take so many seconds; else raise ConfigurationError."""
    return check_number("timeout", value, above=0)


def check_retries(value: int) -> int:
    """Return `value` if it is a number of retries; else raise ConfigurationError."""
    return check_number("retries", value, whole=True)


def check_when_no_worker(value: str) -> str:
    """Return `value` if it is "wait" or "fail"; else raise ConfigurationError."""
    if not isinstance(value, str) or value not in FLAGS:
        raise ConfigurationError(f'when_no_worker must be "wait" or "fail", not {value!r}')
    return value


def check_priority(value: int) -> int:
    """Return `value` if it is a priority; else raise ConfigurationError."""
    return check_number("priority", value, at_least=PRIORITIES[0], at_most=PRIORITIES[-1], whole=True)


def check_traceparent(value: str) -> str:
    """Return `value` if it is a ``traceparent``; else raise ConfigurationError."""
    if not isinstance(value, str) or not is_traceparent(value.encode("utf-8", "replace")):
        raise ConfigurationError(
            f"traceparent must look like 00-<32 hex digits>-<16>-<2>, in lower case, not {value!r}"
        )
    return value
