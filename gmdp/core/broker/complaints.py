"""Warnings about messages that are dropped and whose peers cannot be told why.

The rules of this module:

* A gmdp peer hears a status.  A strict peer has no message for a refusal, so the log says what came and what
  would be right.
* A warning is given once per kind and peer, and again after :data:`QUIET` seconds at the earliest.  In that time
  all peers together cause at most :data:`MAX_PER_KIND` warnings of a kind.
* A warning that concerns the whole broker, such as a full table, is given once for all peers.
* Warnings that are left out are counted.  The next one of the kind and peer, or of the kind, says how many there were.
* The table of peers is bounded by :data:`MAX_REMEMBERED`; the peer that was noted first is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

#: Seconds until a further warning of the same kind about the same peer.
QUIET = 60.0
#: Warnings of one kind within QUIET seconds.
MAX_PER_KIND = 10
#: Kinds and peers that are remembered.
MAX_REMEMBERED = 1_000


class Complaint(NamedTuple):
    """A warning for the log.  It names no routing id: those are secrets."""

    #: The key of the reason in the broker's statistics.
    kind: str
    #: What came, and what would be right.
    text: str
    #: The user of the connection; empty if no user is known.
    user: str
    #: How many of its kind were left out before it: of the same peer, and of other peers.
    same_peer: int
    other_peers: int


class _Note:
    """The warnings of a kind and peer, or of a kind."""

    __slots__ = ("count", "left_out", "quiet_until")

    def __init__(self, quiet_until: float) -> None:
        self.quiet_until = quiet_until
        #: Warnings since the note was made, and those that were left out.
        self.count = 0
        self.left_out = 0


class Complaints:
    """Decides which warnings are given.

    Args:
        sink: Where complaints go.
    """

    def __init__(self, sink: list[Any]) -> None:
        self._sink = sink
        self._peers: OrderedDict[tuple[str, bytes], _Note] = OrderedDict()
        self._kinds: dict[str, _Note] = {}

    def complain(self, kind: str, peer: bytes, user: str, now: float, describe: Callable[..., str], *args: Any) -> None:
        """Give a warning, unless there was one of this kind lately.

        Args:
            kind: The key of the reason in the broker's statistics.
            peer: The peer's routing id; empty if the warning concerns the whole broker.
            user: The peer's user; empty if no user is known.
            now: Monotonic seconds.
            describe: Makes the text of the warning; called only if it is given.
            *args: The arguments of `describe`.
        """
        peers = self._peers
        if len(self._sink) >= MAX_REMEMBERED:
            return  # the engine has not taken those before it
        key = (kind, peer)
        note = peers.get(key)
        if note is not None and now < note.quiet_until:
            note.left_out += 1
            return
        general = self._kinds.get(kind)
        if general is None:
            general = self._kinds[kind] = _Note(now + QUIET)
        elif now >= general.quiet_until:
            general.quiet_until = now + QUIET
            general.count = 0
        if general.count >= MAX_PER_KIND:
            general.left_out += 1
            return
        general.count += 1
        same_peer, other_peers = note.left_out if note is not None else 0, general.left_out
        if not peer:
            same_peer, other_peers = 0, same_peer + other_peers
        self._sink.append(Complaint(kind, describe(*args), user, same_peer, other_peers))
        general.left_out = 0
        peers.pop(key, None)
        peers[key] = _Note(now + QUIET)
        if len(peers) > MAX_REMEMBERED:
            peers.popitem(last=False)
