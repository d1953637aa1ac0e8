"""Heartbeats, and when silence means loss.

RFC 7 and 18: "Both broker and worker MUST send heartbeats at regular and
agreed-upon intervals.  A peer MUST consider the other peer "disconnected" if
no heartbeat arrives within some multiple of that interval (usually 3-5)."

Two rules of ours make that hold in practice:

* On a HEARTBEAT, if nothing was sent to that peer since its previous
  HEARTBEAT, one is sent at once; besides, at one's own interval, if nothing was
  sent or nothing was heard meanwhile (who sends much and hears nothing asks).
  Peers with different intervals then do not lose each other, and nobody answers
  for ever.
* After a gap in one's own running nobody is lost before what waits on the
  socket has been read, and before there was time to answer a HEARTBEAT
  (:class:`Gap`).
"""

from __future__ import annotations


class Pulse:
    """What was heard from one peer and what was sent to it, and when."""

    __slots__ = ("answered", "beat", "heard", "sent")

    def __init__(self, now: float) -> None:
        #: When anything was last received.
        self.heard = now
        #: When anything was last sent.
        self.sent = now
        #: When a HEARTBEAT was last sent.
        self.beat = now
        #: True if something was sent since the peer's previous HEARTBEAT.
        self.answered = False

    def sending(self, now: float) -> None:
        """Something is being sent to the peer."""
        self.sent = now
        self.answered = True

    def beating(self, now: float) -> None:
        """A HEARTBEAT is being sent to the peer."""
        self.beat = now
        self.sending(now)

    def beat_at(self, interval: float) -> float:
        """When the next HEARTBEAT is to be sent."""
        return min(self.sent, max(self.heard, self.beat)) + interval

    def heartbeat_due(self) -> bool:
        """The peer's HEARTBEAT came: must it be answered at once?"""
        if self.answered:
            self.answered = False
            return False
        return True


class Gap:
    """Knows when one's own process did not run, and grants the peers that time.

    `interval`: between heartbeats; to run late by half of it is a gap, and after
    one nobody is lost for two intervals: a peer with a longer one waits for a
    heartbeat to answer, and answers every second.  `grace`: nor for so long as the socket has
    not been read empty (a flooded one may never be: then this is the limit).
    """

    __slots__ = ("_grace", "_interval", "_last", "_late", "_settled", "until")

    def __init__(self, interval: float, grace: float, now: float) -> None:
        self._interval = interval
        self._late = interval / 2
        self._grace = grace
        self._last = now
        #: Until when nobody is lost.
        self.until = now
        self._settled = now

    def awake(self, now: float, due: float) -> None:
        """Called whenever the owner begins a pass; `due`: when it had to at the latest."""
        if now - self._last > self._late and now - due > self._late:
            self.until = now + self._grace
            self._settled = now + 2 * self._interval
        self._last = now

    def caught_up(self, now: float) -> None:
        """Called when the socket had nothing more to read."""
        if self._settled < self.until:
            self.until = self._settled

    def may_judge(self, now: float) -> bool:
        """True if silence is the peer's and not one's own."""
        return now >= self.until
