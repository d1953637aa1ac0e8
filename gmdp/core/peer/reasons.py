"""Why connections of clients and workers are closed, and why no caller waits for an answer.

Cores and shells compare members.  Logs, errors and state changes show their values, after
the endpoint and before any details.
"""

from __future__ import annotations

import enum

from ..numbers import MAX_FRAMES_READ


class CloseReason(enum.Enum):
    """Why a connection was closed, or could not be made."""

    # Reported by the socket
    CONNECTION_CLOSED = "the connection was closed"
    CONNECTION_REFUSED = "connection refused"
    CLOSED_IN_HANDSHAKE = "the connection was closed in the handshake"
    #: The broker has read the handshake and hung up without a reason.
    HUNG_UP = "the broker hung up in the handshake: it has another server key, or expects other security"
    MISMATCH = (
        "the handshake failed: the broker expects a key, a password, or no security, unlike this peer; "
        "or it is no MDP broker at all"
    )
    NOT_ALLOWED = "the broker refused the connection: this key, password or address is not allowed"
    ENDPOINT_CLOSED = "the broker closed its endpoint"
    NOT_MADE = "no connection could be made"
    #: The operating system has no descriptors left, or does not know the address; details follow.
    NO_SOCKET = "no socket could be opened"
    #: Details follow.
    NAME_NOT_RESOLVED = "the host name could not be resolved"

    # The broker's conduct
    NO_CONNECTION_IN_TIME = "no connection in time"
    TOO_MANY_FRAMES = f"the broker sent a message of more than {MAX_FRAMES_READ:,} frames"
    NOT_EXTENDED = "the broker does not speak gmdp's extension, which is required"
    NO_HEARTBEAT = "no heartbeat from the broker"
    DISCONNECT = "the broker said DISCONNECT"
    NOT_A_COMMAND = "the broker sent a message that is no command"
    SECOND_REQUEST = "a second request came before the reply"
    SHUTTING_DOWN = "the broker is shutting down"
    SILENT = "the broker is silent"

    # The peer's own decision
    BROKER_LOST = "another connection to the same broker was lost"
    PROBE_UNANSWERED = "its probe was not answered"
    BROKER_LEFT = "the peer has left the broker for another"
    CALL_WITHDRAWN = "its call was withdrawn"
    NOT_NEEDED = "not needed"
    CLOSED = "closed"

    def describe(self, detail: str = "") -> str:
        """Return the text for logs and errors, followed by `detail`."""
        return f"{self.value}: {detail}" if detail else self.value


class GoneReason(enum.Enum):
    """Why no caller waits for a worker's answer any more."""

    CALLER_GONE = "its caller has gone"
    TIME_UP = "its caller's time is up"
    STALLED = "the reader of its stream took nothing for too long"
