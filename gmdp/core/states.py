"""The states of a broker, worker or client, and the changes between them.

=============  ==================================================  ============
state          meaning                                             next
=============  ==================================================  ============
new            never started; no socket is held                    starting,
                                                                   closed
starting       sockets are being opened                            connecting,
                                                                   running,
                                                                   closed
connecting     a worker without a registered session              running,
                                                                   draining,
                                                                   closed
running        at work                                             connecting,
                                                                   draining,
                                                                   closed
draining       takes no new work, finishes the work it has         closed
closed         stopped; no socket is held; may be started again    starting
=============  ==================================================  ============
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple


class State(enum.Enum):
    """Where a broker, worker or client is in its life."""

    NEW = "new"
    STARTING = "starting"
    CONNECTING = "connecting"
    RUNNING = "running"
    DRAINING = "draining"
    CLOSED = "closed"


#: Every change that is allowed.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.STARTING, State.CLOSED}),  # a client may be closed before its first call
    State.STARTING: frozenset({State.CONNECTING, State.RUNNING, State.CLOSED}),
    State.CONNECTING: frozenset({State.RUNNING, State.DRAINING, State.CLOSED}),
    State.RUNNING: frozenset({State.CONNECTING, State.DRAINING, State.CLOSED}),
    State.DRAINING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset({State.STARTING}),
}

#: The states from ``start()`` until stopping begins.
STARTED = frozenset({State.STARTING, State.CONNECTING, State.RUNNING})
#: The states in which no socket is held.
AT_REST = frozenset({State.NEW, State.CLOSED})


class StateChange(NamedTuple):
    """One change of state, as subscribers get it."""

    old: State
    new: State
    #: Monotonic seconds.
    at: float
    #: One line; may be empty.
    reason: str


class StateMachine:
    """The present state of a broker, worker or client.

    Args:
        watch: Called with every change, in order.
    """

    __slots__ = ("_watch", "changes", "state")

    def __init__(self, watch: Callable[[StateChange], None]) -> None:
        self.state = State.NEW
        #: How many changes there were.
        self.changes = 0
        self._watch = watch

    def advance(self, new: State, now: float, reason: str = "") -> None:
        """Change to `new`; ValueError if the table above does not allow the change."""
        old = self.state
        if new not in TRANSITIONS[old]:
            allowed = ", ".join(sorted(state.value for state in TRANSITIONS[old]))
            raise ValueError(f"no change from {old.value} to {new.value}; possible: {allowed}")
        self.state = new
        self.changes += 1
        self._watch(StateChange(old, new, now, reason))
