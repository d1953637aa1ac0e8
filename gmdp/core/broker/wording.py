"""Texts about requests that have no answer, for clients that name the feature ``reasons`` and for logs.

The rules of this module:

* Words are made for requests that have no answer, and for no others.
* They name the option that decided, and its value.
* They tell nothing of other clients but numbers.  A client takes no decision by them.
"""

from __future__ import annotations

import re
from dataclasses import fields

from ...protocol import extension
from ...protocol.extension import TIME_STATED, Feature, Status
from ...protocol.text import show_name
from ..outcomes import EndReason
from .options import BrokerOptions, ServiceOptions
from .reasons import DropReason, LossReason
from .records import Request
from .state import BrokerState

_REASONS = int(Feature.REASONS)
#: The names of options that stand in texts: those with an underscore.
_OPTION = re.compile(rf"\b(?:{'|'.join(option.name for option in fields(BrokerOptions) if '_' in option.name)})\b")


def explain_end(
    state: BrokerState,
    request: Request,
    reason: EndReason,
    *,
    behind: int | None = None,
    loss: LossReason | None = None,
) -> None:
    """Have the status with which a request ends carry words, if its client understands them.

    The arguments are those of :func:`describe_end`.
    """
    terms = request.terms
    if state.peers.features_of(request.address, terms.frame) & _REASONS:
        words = describe_end(state.options, request, reason, behind=behind, loss=loss)
        request.terms = terms._replace(frame=extension.with_fields(terms.frame, extension.reason_bytes(words)))


def explain_refusal(
    state: BrokerState, address: tuple[bytes, ...], frame: bytes, reason: DropReason, status: Status
) -> bytes:
    """Return the optional fields of the answer to a request that is refused; none if its client understands no words.

    Args:
        state: What the parts of the broker share.
        address: The client's routing id and return address.
        frame: The request's call frame.
        reason: Why the request is refused.
        status: What the client hears.
    """
    if status is Status.NOT_RUN or not state.peers.features_of(address, frame) & _REASONS:
        return extension.NO_FIELDS
    return extension.reason_bytes(describe_refusal(state.options, reason, status))


def describe_end(
    options: BrokerOptions,
    request: Request,
    reason: EndReason,
    *,
    behind: int | None = None,
    loss: LossReason | None = None,
) -> str:
    """Return why a request ended without an answer.

    Args:
        options: The broker's options.
        request: The request.
        reason: Why it ended.
        behind: How many requests waited when it joined the queue; None: that is not known.
        loss: Why its last worker was lost, if that ended it.
    """
    service = request.service
    if reason is EndReason.NO_WORKER:
        return f"no worker is registered for {show_name(service.name)}"
    if reason is EndReason.OVERLOADED:
        return f"max_queue={service.options.max_queue} requests waited for the service"
    if reason is EndReason.EXPIRED:
        frame = request.terms.frame
        is_stated = frame and extension.read_call(frame).flags & TIME_STATED
        ttl = service.stated_ttl if is_stated else service.options.request_ttl
        option = "request_ttl" if ttl == service.options.request_ttl else "max_request_ttl"
        return f"it was queued for {option}={ttl:g} s{_describe_wait(request, behind)}"
    if reason is EndReason.DEADLINE and not request.attempts:
        return f"it was queued all that time{_describe_wait(request, behind)}"
    text = reason.text
    if reason is EndReason.ATTEMPTS:
        times = f"{request.attempts} {'time' if request.attempts == 1 else 'times'}"
        text = f"its worker was lost {times} (attempts={service.options.attempts})"
    if loss is not None:
        text = f"{text}: {loss.text}"
    return _with_values(text, service.options, options)


def _describe_wait(request: Request, behind: int | None) -> str:
    """Return the end of a sentence about a request that no worker took in time."""
    others = f" behind {behind} {'other' if behind == 1 else 'others'}" if behind and not request.attempts else ""
    return f"{others}, and no worker was {'free' if request.service.members else 'registered'}"


def describe_refusal(options: BrokerOptions, reason: DropReason, status: Status | None = None) -> str:
    """Return why a request, or a worker, was refused.

    Args:
        options: The broker's options.
        reason: Why it was refused.
        status: What a gmdp client hears.
    """
    text = reason.text
    if reason is DropReason.BYTES_FULL and status is Status.TOO_LARGE:
        text = "the request is larger than max_queue_bytes"
    return _with_values(text, options)


def _with_values(text: str, *options: ServiceOptions) -> str:
    """Return `text` with the value of each option that it names: the first of `options` that has one."""

    def with_value(match: re.Match[str]) -> str:
        value = next(getattr(some, match[0]) for some in options if hasattr(some, match[0]))
        return f"{match[0]}={value:g}" if isinstance(value, float) else f"{match[0]}={value}"

    return _OPTION.sub(with_value, text)
