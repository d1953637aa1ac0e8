"""Why a broker drops messages and loses workers: closed sets, each member with a text.

A member's value is its key in a broker's statistics.  The reasons for which requests end are
in :mod:`gmdp.core.outcomes`.
"""

from __future__ import annotations

import enum


class _Reason(enum.Enum):
    """The base of both sets; a member is written as its value and its text."""

    # Enum's own hash goes through the name: a Python call for each look-up.
    __hash__ = object.__hash__

    #: One line for people.
    text: str

    def __new__(cls, value: str, text: str) -> _Reason:
        """Make a member of its key in the statistics and its text."""
        reason = object.__new__(cls)
        reason._value_ = value
        reason.text = text
        return reason


class LossReason(_Reason):
    """Why a worker was lost; the keys of ``lost_workers``."""

    DISCONNECT = "disconnect", "the worker said DISCONNECT"
    EXPIRED = "expired", "the worker was silent for heartbeat_interval * liveness"
    RECALLED = "recalled", "the worker was silent and had not begun its request"
    BUSY_TIMEOUT = "busy_timeout", "the worker was silent for busy_timeout while it worked"
    UNREACHABLE = "unreachable", "the worker's connection was closed, or took no more messages"
    MALFORMED = "malformed", "the worker sent a message that is not MDP"
    SECOND_READY = "second_ready", "the worker said READY twice"
    STRAY_REPLY = "stray_reply", "the worker answered a request that it did not have"
    OTHER_DIALECT = "other_dialect", "the worker changed its dialect"
    OTHER_USER = "other_user", "another user spoke under the worker's routing id"
    NOT_ALLOWED = "not_allowed", "the worker's user may not serve the service any more"
    REVOKED = "revoked", "the worker's user was revoked"
    STOPPED = "stopped", "the broker stopped"


class DropReason(_Reason):
    """Why a message was dropped, or a newcomer refused; the keys of ``drops``."""

    # Messages that are not MDP, or that a worker may not send
    MALFORMED = "malformed", "the message was not an MDP message"
    TOO_MANY_FRAMES = "too_many_frames", "the message had more frames than max_frames"
    FRAME_TOO_LARGE = "frame_too_large", "a frame was larger than max_frame_size"
    UNREGISTERED = "unregistered", "the worker was not registered"
    RETIRED_SESSION = "retired_session", "the session had ended before"
    STRAY_REPLY = "stray_reply", "the worker did not have the request that it answered"

    # Refused registrations
    RESERVED_NAME = "reserved_name", "services that begin with mmi. are the broker's own"
    WORKERS_FULL = "workers_full", "there were max_workers workers"
    SESSIONS_FULL = "sessions_full", "the connection had as many sessions as it may have"
    USER_WORKERS_FULL = "user_workers_full", "the user had registered max_user_workers workers"

    # Refused registrations and requests
    DRAINING = "draining", "the broker was stopping"
    SERVICES_FULL = "services_full", "there were max_services services"
    USER_SERVICES_FULL = "user_services_full", "the user had opened max_user_services services"
    REPORTS_FULL = "reports_full", "it had asked for too many reports a second"
    RATE_FULL = "rate_full", "the user sent more than max_user_rate requests a second"
    NOT_ALLOWED = "not_allowed", "the policy did not allow it"
    REVOKED = "revoked", "the user was revoked"

    # Refused requests
    IN_FLIGHT_FULL = "in_flight_full", "the connection had max_in_flight requests open"
    BYTES_FULL = "bytes_full", "the client held as many bytes as max_queue_bytes and max_user_bytes allow"
    LATE = "late", "the caller's time was up"
    ID_REUSED = "id_reused", "the request had the id of a request for another service"
    LATE_RETRY = "late_retry", "a later try of the same call had come before"
    LATE_CANCEL = "late_cancel", "the call that was cancelled had ended"

    # Answers that do not reach their client
    ABANDONED = "abandoned", "nobody waited for the answer any more"
    REPLY_TOO_LARGE = "reply_too_large", "the parts of the answer were too large to be joined"
    CLIENT_GONE = "client_gone", "the client's connection was closed"
    CLIENT_FULL = "client_full", "the client read too slowly"
    OTHER_USER = "other_user", "another user spoke under the client's routing id"


#: The reasons of refusals for which there are audit records.
AUDITED = frozenset(
    {
        DropReason.NOT_ALLOWED,
        DropReason.REVOKED,
        DropReason.RATE_FULL,
        DropReason.USER_SERVICES_FULL,
        DropReason.USER_WORKERS_FULL,
    }
)

#: The reasons of refusals because a table of the whole broker is full.
TABLES_FULL = frozenset({DropReason.WORKERS_FULL, DropReason.SERVICES_FULL})
