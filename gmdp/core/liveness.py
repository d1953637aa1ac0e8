"""Heartbeats, and when silence means loss.

There are two clocks, and each message and state belongs to one of them:

* A *process* is alive while its connection answers ZMTP heartbeats (PING and PONG).  libzmq's own
  thread answers them, so a process that computes in Python is alive, and a frozen one is not.
  libzmq ends the connection of a process that does not answer; see :func:`zmtp_heartbeat`.
* A *peer* is attentive while it speaks MDP: any message counts, HEARTBEAT among them.  A peer that has
  said nothing for :data:`MUTE_AFTER` intervals is *mute*.  The rest of this page is about this clock.

RFC 7 and 18: "Both broker and worker MUST send heartbeats at regular and
agreed-upon intervals.  A peer MUST consider the other peer "disconnected" if
no heartbeat arrives within some multiple of that interval (usually 3-5)."

Two rules of gmdp make this work in practice:

* On a HEARTBEAT, if nothing was sent to the peer since its previous HEARTBEAT, one is sent
  at once.  Besides, each side sends one if it has sent nothing for its own interval.  It also
  sends one if it has heard nothing for that time: so it asks whether the peer is alive.  Peers
  with different intervals then do not lose each other, and no two peers answer each other forever.
* After a gap in this process's own running, no peer is lost until the socket has been read
  empty, and the peer has had time to answer a HEARTBEAT (:class:`Gap`).
"""

from __future__ import annotations

#: Intervals without a word after which a peer is mute.
MUTE_AFTER = 2


def zmtp_heartbeat(interval: float, expiry: float) -> tuple[float, float]:
    """Return (seconds between ZMTP heartbeats, seconds without an answer that end a connection).

    A process that is frozen, or whose link is cut, is found out between the second number and the sum of both, as
    the moment is: `expiry` less half an interval on average.  An idle peer that sends a message each interval
    is lost by its expiry after as long on average, so a busy one is found out no later.

    Args:
        interval: Seconds between the peer's MDP heartbeats.
        expiry: Seconds of silence after which a peer is lost.
    """
    return interval / 2, expiry - 0.75 * interval


class Pulse:
    """When a peer was last heard, and when messages were last sent to it (monotonic seconds)."""

    __slots__ = ("heard_at", "heartbeat_sent_at", "sent_at", "sent_since_heartbeat")

    def __init__(self, now: float) -> None:
        #: When any message was last received.
        self.heard_at = now
        #: When any message was last sent.
        self.sent_at = now
        #: When a HEARTBEAT was last sent.
        self.heartbeat_sent_at = now
        #: True if a message was sent since the peer's previous HEARTBEAT.
        self.sent_since_heartbeat = False

    def on_sent(self, now: float) -> None:
        """A message is sent to the peer."""
        self.sent_at = now
        self.sent_since_heartbeat = True

    def on_heartbeat_sent(self, now: float) -> None:
        """A HEARTBEAT is sent to the peer."""
        self.heartbeat_sent_at = now
        self.on_sent(now)

    def on_heartbeat(self) -> bool:
        """The peer's HEARTBEAT came; True if one must be sent at once."""
        if self.sent_since_heartbeat:
            self.sent_since_heartbeat = False
            return False
        return True

    def next_heartbeat(self, interval: float) -> float:
        """Return when the next HEARTBEAT is due (monotonic seconds)."""
        return min(self.sent_at, max(self.heard_at, self.heartbeat_sent_at)) + interval

    def next_regular_heartbeat(self, interval: float) -> float:
        """Return when the next HEARTBEAT is due to a peer that takes nothing else for a sign of life."""
        return self.heartbeat_sent_at + interval


class Gap:
    """Notices that this process has not run for a while, and allows its peers that time.

    Running late by half an interval is a gap.  After a gap, no peer is lost for `grace`, or for
    two intervals once the socket has been read empty.  Two, because a peer with a longer interval
    waits for a HEARTBEAT to answer, and answers every second one.  A flooded socket may never be
    read empty; then `grace` is the limit.

    Args:
        interval: Seconds between heartbeats.
        grace: Seconds after a gap in which no peer is lost while the socket may hold unread messages.
        now: Monotonic seconds.
    """

    __slots__ = ("_answers_due", "_grace", "_interval", "_late", "_pass_began", "until")

    def __init__(self, interval: float, grace: float, now: float) -> None:
        self._interval = interval
        self._late = interval / 2
        self._grace = grace
        self._pass_began = now
        #: The time before which no peer is lost.
        self.until = now
        #: When the peers will have had time to answer since the last gap.
        self._answers_due = now

    def on_wake(self, now: float, due: float) -> None:
        """A pass of the owner begins; it should have begun at `due` at the latest."""
        if now - self._pass_began > self._late and now - due > self._late:
            self.until = now + self._grace
            self._answers_due = now + 2 * self._interval
        self._pass_began = now

    def on_caught_up(self, now: float) -> None:
        """The socket has nothing more to read."""
        if self._answers_due < self.until:
            self.until = self._answers_due

    def may_judge(self, now: float) -> bool:
        """True if a peer that has been silent may be lost: no gap of this process explains the silence."""
        return now >= self.until

    def has_waited(self, since: float, now: float) -> bool:
        """True if what has waited `since` for the socket to be read empty need wait no longer."""
        return now >= since + self._grace and self.may_judge(now)
