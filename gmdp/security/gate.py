"""Who may connect to a broker: the answers to libzmq's questions (ZAP, RFC 27).

The rules of this module:

* The questions come on a socket that the broker's owner owns; the answers go out there.
  Where nobody answers, libzmq refuses (``ZAP_ENFORCE_DOMAIN``): so it is before the owner
  runs, and after it has ended.
* A connection must pass in this order: the number of connections, its address, its key
  or password.  What fails to be checked in time is refused.
* A refusal for the moment (too many, a check that failed) is a *300* of ZAP: libzmq lets the
  connection hang until its handshake's time is up, and peers of libzmq's try again.
* What a key or password makes a user is settled here and nowhere else.
* Lists in files are looked at in each interval; whoever is on them no more is *revoked*:
  what such a connection says later, nobody says.
* Callables, and checks of passwords, run as :mod:`~.checks` does it; the latter in threads,
  since they compute for long.  A password that was right once is known to be until the list
  changes.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple, Protocol

import gevent
import zmq
import zmq.green
from gevent.threadpool import ThreadPool
from zmq.auth.base import Authenticator

from ..core.broker.access import REVOKED, is_key
from ..core.rates import Rates
from ..exceptions import ConfigurationError
from .addresses import Addresses
from .checks import Checks
from .keys import Key, secret_key
from .lists import KeyFolder, List, UserFile, credential, is_user
from .passwords import NOBODY, Hash

_log = logging.getLogger("gmdp.security")
#: zmq.auth tells passwords at DEBUG: it tells nobody.
_SILENT = logging.Logger("gmdp.security.zap", logging.CRITICAL + 1)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_DOMAIN = b"gmdp"

#: ``(key) -> user, True or something false``, with the key in Z85.
KeyCheck = Callable[[str], "str | bool | None"]
#: ``(username, password) -> user, True or something false``.
PasswordCheck = Callable[[str, str], "str | bool | None"]

#: Any key, as ``zmq.auth`` writes it.
ANY_KEY = "*"

#: Refused for the moment.
_LATER = frozenset({"connections_full", "busy", "check_failed"})


class Refused(NamedTuple):
    """A connection that was refused."""

    #: "connections_full", "address", "mechanism", "key", "password", "busy" or "check_failed".
    reason: str
    address: str
    #: The key (Z85) or the name given; empty if there was none.
    who: str


class Host(Protocol):
    """What a gate needs of the broker it belongs to; called in the owner."""

    def established(self, now: float) -> int:
        """How many connections have their handshake behind them."""

    def answer(self, frames: list[bytes]) -> None:
        """Send an answer."""

    def refused(self, refused: Refused) -> None:
        """A connection was refused."""

    def later(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the owner call this."""

    def lists_changed(self, revoked: frozenset[str]) -> None:
        """A list was read anew; `revoked`: users of whom a key or password is not valid any more."""


class Gate:
    """All that decides who may connect to one broker.

    `curve_key`: the broker's own secret key; `curve_clients`: whose keys are allowed, a
    folder, a callable, or :data:`ANY_KEY`.  `plain_users`: a file, or a callable.  `allow`,
    `deny`: addresses, as IP addresses or networks, or "ipc".  ConfigurationError for what
    makes no sense.
    """

    #: Checks of passwords that run at once, calls of callables, and how many of them may wait.
    passwords_at_once = 2
    calls_at_once = 20
    may_wait = 200
    #: Passwords that are known to be right.
    max_known = 10_000
    #: Seconds that reading a list may take: then nobody is on it.
    read_timeout = 10.0

    def __init__(
        self,
        *,
        curve_key: Key | None,
        curve_clients: str | os.PathLike[str] | KeyCheck | None,
        plain_users: str | os.PathLike[str] | PasswordCheck | None,
        allow: str | Sequence[str] | None,
        deny: str | Sequence[str] | None,
        max_connections: int,
        check_timeout: float,
    ) -> None:
        self._addresses = Addresses(allow, deny)
        self._max_connections = max_connections
        self._check_timeout = check_timeout
        self._keys: tuple[bytes, bytes] | None = None
        self._any_key = False
        self._key_check: KeyCheck | None = None
        self._password_check: PasswordCheck | None = None
        self._list: List | None = None
        if curve_key is None:
            if curve_clients is not None:
                raise ConfigurationError("curve_clients needs curve_key, the broker's own secret key")
        else:
            if plain_users is not None:
                raise ConfigurationError("a socket has either keys or passwords: leave out curve_key or plain_users")
            if curve_clients is None:
                raise ConfigurationError(
                    "curve_key needs curve_clients: a folder of the keys that are allowed, a callable, "
                    f"or {ANY_KEY!r} for any key"
                )
            if not zmq.has("curve"):
                raise ConfigurationError("this libzmq was built without CURVE")
            self._keys = secret_key("curve_key", curve_key)
            if curve_clients == ANY_KEY:
                self._any_key = True
            elif curve_clients == "":
                raise ConfigurationError("curve_clients is empty: it must name a folder")
            elif isinstance(curve_clients, (str, os.PathLike)):
                self._list = KeyFolder(curve_clients)
            elif callable(curve_clients):
                self._key_check = curve_clients
            else:
                raise ConfigurationError(
                    f"curve_clients must be a folder, a callable or {ANY_KEY!r}, "
                    f"not of type {type(curve_clients).__name__}"
                )
        if plain_users == "":
            raise ConfigurationError("plain_users is empty: it must name a file")
        if isinstance(plain_users, (str, os.PathLike)):
            self._list = UserFile(plain_users)
        elif callable(plain_users):
            self._password_check = plain_users
        elif plain_users is not None:
            raise ConfigurationError(
                f"plain_users must be a file or a callable, not of type {type(plain_users).__name__}"
            )
        self._plain = plain_users is not None
        #: What the list said, as far as it was taken over: users by credential, hashes by user.
        self._names: Mapping[str, str] | None = None
        self._hashes: Mapping[str, Hash] = {}
        self._take_over()
        self._host: Host | None = None
        self._computes = plain_users is not None and self._password_check is None
        self._mechanism = b"CURVE" if self._keys is not None else b"PLAIN" if self._plain else b"NULL"
        #: Right passwords: by name, the hash and a digest of the password with a key of ours.
        self._known: dict[str, tuple[Hash, bytes]] = {}
        self._known_key = os.urandom(32)
        self._logged = Rates(1)
        self._checks: Checks | None = None
        self._watcher: gevent.Greenlet | None = None
        self._pools: dict[str, ThreadPool] = {}
        self.context: zmq.green.Context[Any] | None = None

    @property
    def authenticates(self) -> bool:
        """Do connections have users?"""
        return self._keys is not None or self._plain

    def __repr__(self) -> str:
        kind = "curve" if self._keys is not None else "plain" if self._plain else "addresses"
        return f"<{type(self).__name__} {kind}>"

    # What the broker calls

    def secure(self, socket: zmq.Socket[Any], context: zmq.green.Context[Any]) -> zmq.green.Socket[bytes]:
        """Set the options of a socket that is to be bound; returns the one on which the
        questions come.  ZMQError if there are no descriptors left."""
        self.context = context
        asked: zmq.green.Socket[bytes] = context.socket(zmq.ROUTER)
        asked.set(zmq.LINGER, 0)
        try:
            asked.bind(ZAP_ENDPOINT)
            socket.set(zmq.ZAP_DOMAIN, _DOMAIN)
            socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
            if self._keys is not None:
                socket.set(zmq.CURVE_SERVER, 1)
                socket.set(zmq.CURVE_SECRETKEY, self._keys[1])
            elif self._plain:
                socket.set(zmq.PLAIN_SERVER, 1)
        except zmq.ZMQError:
            asked.close(0)
            raise
        return asked

    def open(self, host: Host, interval: float) -> None:
        """Begin; what changes in a list is taken up within `interval` seconds."""
        self._host = host
        self._checks = Checks(self.passwords_at_once if self._computes else self.calls_at_once, self.may_wait)
        if self._list is not None:
            self._list.settle()  # it may have changed since this broker ran last
            self._take_over()
            self._tell_notes(self._list)
            # Twice in an interval: a change is taken up when it is seen for the second time.
            self._watcher = gevent.spawn(self._watch, self._list, interval / 2)

    def close(self) -> None:
        """End, without waiting for what runs."""
        self._host = None
        if self._checks is not None:
            self._checks.close()
        if self._watcher is not None:
            self._watcher.kill(block=False)
        for pool in self._pools.values():
            pool.kill()
        self._pools.clear()

    def abandon(self) -> None:
        """In the child of a fork: nobody asks here, and who has asked is told by the parent."""
        if self._checks is not None:
            self._checks.close()
        self._host = self._checks = None
        if self._watcher is not None:
            self._watcher.kill(block=False)
            self._watcher = None

    def _pool(self, purpose: str, size: int) -> ThreadPool:
        """Threads of its own: those of the hub may all be at somebody else's work."""
        pool = self._pools.get(purpose)
        if pool is None:
            pool = self._pools[purpose] = ThreadPool(size)
        return pool

    def user_of(self, known_by: str) -> str:
        """The user of a connection that ZeroMQ knows by this credential."""
        return (known_by or REVOKED) if self._names is None else self._names.get(known_by, REVOKED)

    def asked(self, frames: list[bytes], now: float) -> None:
        """One question (RFC 27): is this connection allowed?"""
        host, checks = self._host, self._checks
        if host is None or checks is None or len(frames) < 8:
            return  # libzmq sends no such thing
        question = _Question(self, frames)
        if host.established(now) >= self._max_connections:
            question.refuse("connections_full")
        elif not self._addresses.allow(question.address):
            question.refuse("address")
        elif question.mechanism != self._mechanism:
            question.refuse("mechanism")
        elif self._plain or self._key_check is not None:
            checks.submit(question.address, lambda: self._check(question), lambda: self._reply(question, "busy"))
            return
        else:
            question.ask()
        self._reply(question)

    # Decisions

    def _reply(self, question: _Question, refusal: str = "") -> None:
        if refusal:
            question.refuse(refusal)
        host = self._host
        if host is None:
            return
        if question.refusal:
            host.refused(Refused(question.refusal, question.address, question.who))
        host.answer(question.reply)

    def key(self, key: str) -> str:
        """What a connection with this key is known by; empty if it is refused."""
        if self._any_key:
            return key
        if self._key_check is not None:
            return _user(self._key_check(key), key)
        return key if self._names is not None and key in self._names else ""

    def password(self, username: str, password: str) -> str:
        """What a connection with this name and password is known by; empty if it is refused."""
        # pyzmq replaces what is no UTF-8.
        if not is_user(username) or not password or any(odd in username + password for odd in "\0\ufffd"):
            return ""
        if self._password_check is not None:
            return _user(self._password_check(username, password), username)
        hashed = self._hashes.get(username)
        digest = hashlib.blake2b(password.encode(), key=self._known_key).digest()
        known = self._known.get(username)
        if known is None or known[0] is not hashed or not hmac.compare_digest(known[1], digest):
            right = self._pool("passwords", self.passwords_at_once).apply((hashed or NOBODY).matches, (password,))
            if not right or hashed is None:
                return ""
            if len(self._known) >= self.max_known:
                self._known.clear()
            self._known[username] = (hashed, digest)
        return credential(username, hashed) if hashed is not None else ""

    def _check(self, question: _Question) -> None:
        """A check that takes its time, in a greenlet of its own."""
        try:
            with gevent.Timeout(self._check_timeout, False):
                question.ask()
        except gevent.GreenletExit:
            raise
        except BaseException as error:
            if self._logged.take("", monotonic()):
                # What it says of a password may be the password.
                details = None if self._plain else error
                message = "the check of a connection from %.100s failed (%s): it is refused"
                _log.error(message, question.address, type(error).__name__, exc_info=details)
        if not question.reply:
            question.refuse("check_failed")
        if self._host is not None:
            self._host.later(self._reply, question)

    def _watch(self, watched: List, pause: float) -> None:
        """Look at a list again and again."""
        while True:
            gevent.sleep(pause)
            read = None
            try:
                with gevent.Timeout(self.read_timeout, False):
                    read = self._pool("lists", 1).apply(watched.read)
            except Exception:
                _log.exception("a list of those who may connect could not be read: nobody is allowed")
            if read is None:
                watched.forget()
            self._tell_notes(watched)
            if watched.users is not self._names and self._host is not None:
                self._host.later(self._take)

    @staticmethod
    def _tell_notes(watched: List) -> None:
        notes, watched.notes = watched.notes, []
        for note in notes:
            _log.warning("%s", note)

    def _take_over(self) -> None:
        if self._list is not None:
            self._names, hashes = self._list.users, self._list.hashes
            self._hashes = {user: hashes[user] for user in self._names.values() if user in hashes}

    def _take(self) -> None:
        """In the owner: a list has changed."""
        old = self._names or {}
        self._take_over()
        new = self._names or {}
        if self._host is not None and new != old:
            self._host.lists_changed(frozenset(user for known_by, user in old.items() if new.get(known_by) != user))


class _Question(Authenticator):
    """One question of libzmq's, which pyzmq's own handler takes apart."""

    def __init__(self, gate: Gate, frames: list[bytes]) -> None:
        super().__init__(gate.context, log=_SILENT)
        self._gate = gate
        self._head, self._message = frames[:2], frames[2:]
        self.address = frames[5].decode("utf-8", "replace")
        self.mechanism = frames[7]
        #: The answer, once there is one; why it is no; and whom it is about.
        self.reply: list[bytes] = []
        self.refusal = ""
        self.who = ""
        self._known_by = ""
        self.configure_curve_callback(_DOMAIN.decode(), self)

    def ask(self) -> None:
        """Find the answer; takes its time where there is a callable, or a password."""
        answering: Any = self.handle_zap_message(self._message)
        if answering is not None:  # a coroutine that never waits; in older versions no coroutine
            try:
                answering.send(None)
            except StopIteration:
                pass

    def refuse(self, reason: str) -> None:
        """The answer is no."""
        self.refusal = reason
        self._send_zap_reply(self._message[1], b"400", reason.encode())

    # What pyzmq's handler calls

    def callback(self, domain: str, key: bytes) -> bool:
        """Is this key (Z85) allowed?"""
        self.who = key.decode("ascii")
        self._known_by = self._gate.key(self.who)
        self.refusal = "" if self._known_by else "key"
        return bool(self._known_by)

    def curve_user_id(self, client_public_key: bytes) -> str:
        """What a connection with an allowed key is known by."""
        return self._known_by

    def _authenticate_plain(self, domain: str, username: str, password: str) -> tuple[bool, bytes]:
        self.who = username[:100]
        self._known_by = self._gate.password(username, password)
        self.refusal = "" if self._known_by else "password"
        return bool(self._known_by), self.refusal.encode()

    def _send_zap_reply(
        self, request_id: bytes, status_code: bytes, status_text: bytes, user_id: str = "anonymous"
    ) -> None:
        known_by = ""
        if status_code == b"200":
            known_by = self._known_by
        elif self.refusal in _LATER:
            status_code = b"300"
        elif not self.refusal:
            self.refusal = "malformed"
        self.reply = [*self._head, b"1.0", request_id, status_code, status_text, known_by.encode(), b""]


def _user(answer: object, default: str) -> str:
    """What a callable's answer means: a user's name, or nothing."""
    name = default if answer is True else answer
    if not name:
        return ""
    if not is_user(name):
        raise ValueError("the check must return a user's name, True, or something false")
    return str(name)


def who(known_by: str) -> str:
    """Whom a credential is of: a key, or a name."""
    return known_by if is_key(known_by) else known_by.rpartition(":")[2]
