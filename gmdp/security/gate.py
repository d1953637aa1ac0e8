"""Which connections a broker allows: the decisions behind the replies to libzmq (ZAP, RFC 27).

The rules of this module:

* The requests come on a socket of the broker's owner, and the replies go out there.  While
  nobody replies, libzmq allows no connection (``ZAP_ENFORCE_DOMAIN``): before the owner
  runs, and after it has ended.
* A connection must pass in this order: the form of its request, the number of connections,
  its address, its mechanism, its key or password.  A check that does not end in time refuses.
* A refusal that may pass (too many connections or checks, a check that failed) is a *300* of
  ZAP: libzmq lets the connection hang until the time for its handshake is up, and peers that
  use libzmq try again.
* This module alone decides which user a key or password stands for.  libzmq knows a
  connection by its *credential*; :meth:`Gate.user_of` makes that the user.
* Lists in files are looked at twice in each heartbeat interval.  A credential that is not listed any
  more is *revoked*: later messages on its connections belong to the user REVOKED, who may do nothing.
* Callables and password checks run as :class:`~.checks.Checks` runs them.  Passwords are
  hashed in threads, because hashing is slow.  Until the list changes, the gate remembers which
  passwords were right.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Protocol

import gevent
import zmq
import zmq.green
from gevent.threadpool import ThreadPool

from ..core.broker.access import REVOKED, is_key
from ..core.rates import Rates
from ..exceptions import ConfigurationError
from . import zap
from .addresses import Addresses
from .checks import Checks
from .keys import Key, secret_key
from .lists import KeyFolder, UserFile, UserList, is_user, password_credential
from .passwords import NOBODY, Hash
from .zap import ZapRequest

#: ``(key) -> user, True or something false``, with the key in Z85.
KeyCheck = Callable[[str], "str | bool | None"]
#: ``(username, password) -> user, True or something false``.
PasswordCheck = Callable[[str, str], "str | bool | None"]

#: The value of `curve_clients` that allows any key, as in ``zmq.auth``.
ANY_KEY = "*"

#: Characters of a user's name that audit records show.
_SHOWN = 100


class RefusalReason(enum.Enum):
    """Why a connection was refused.

    The value is the reason's key in statistics and audit records.

    Attributes:
        text: The reason in words.
        temporary: Whether the peer may try again (status 300 of ZAP).
    """

    text: str
    temporary: bool

    MALFORMED = "malformed", "the request breaks RFC 27"
    CONNECTIONS_FULL = "connections_full", "the broker has as many connections as it takes", True
    ADDRESS = "address", "the address is not allowed"
    MECHANISM = "mechanism", "the broker uses another security mechanism"
    KEY = "key", "the key is not allowed"
    PASSWORD = "password", "the name or the password is wrong"
    BUSY = "busy", "too many checks are waiting", True
    CHECK_FAILED = "check_failed", "the check failed, or did not end in time", True

    def __new__(cls, value: str, text: str, temporary: bool = False) -> RefusalReason:
        """Make a reason from its value, its words, and whether it is temporary."""
        reason = object.__new__(cls)
        reason._value_ = value
        reason.text = text
        reason.temporary = temporary
        return reason


class RefusedConnection(NamedTuple):
    """A connection that was refused."""

    reason: RefusalReason
    address: str
    #: The key (Z85) or the name that was shown; empty if none was checked.
    claimed_user: str


class Host(Protocol):
    """What a gate needs of its broker.  The broker's owner runs all of the methods but `post`."""

    def count_established(self, now: float) -> int:
        """Return the number of connections whose handshake is complete."""

    def send_zap_reply(self, frames: list[bytes]) -> None:
        """Send a reply to libzmq."""

    def on_connection_refused(self, refused: RefusedConnection) -> None:
        """A connection was refused."""

    def post(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the owner call `function`; from any greenlet."""

    def on_lists_changed(self, revoked: frozenset[str]) -> None:
        """A list was read again.  `revoked`: the users who lost a key or password."""


class Gate:
    """Decides which connections one broker allows.

    Args:
        curve_key: The broker's own secret key.
        curve_clients: The allowed keys: a folder, a callable, or :data:`ANY_KEY`.
        plain_users: The allowed names and passwords: a file, or a callable.
        allow: Addresses to allow: IP addresses, networks, or "ipc".
        deny: Addresses to refuse, in the same form.
        max_connections: Connections the broker takes.
        check_timeout: Seconds that one check may take.

    Raises:
        ConfigurationError: An option is wrong, or they do not go together.
    """

    #: Where the gate logs.  A broker gives it a logger that never waits.
    log: Any = logging.getLogger("gmdp.security")
    #: Password checks that run at once.
    max_password_checks = 2
    #: Calls of a callable that run at once.
    max_calls = 20
    #: Checks that may wait for their turn.
    max_waiting = 200
    #: Seconds that :meth:`close` waits for threads.
    close_timeout = 1.0
    #: Passwords that are remembered as right.
    max_verified = 10_000
    #: Seconds that reading a list may take; after that, nobody is allowed.
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
        self._mechanism = zap.NULL
        self._secret_key = b""
        self._any_key = False
        self._key_check: KeyCheck | None = None
        self._password_check: PasswordCheck | None = None
        self._list: UserList | None = None
        if curve_key is not None:
            if plain_users is not None:
                raise ConfigurationError("a broker takes either keys or passwords: leave out curve_key or plain_users")
            self._set_up_curve(curve_key, curve_clients)
        elif curve_clients is not None:
            raise ConfigurationError("curve_clients needs curve_key, the broker's own secret key")
        elif plain_users is not None:
            self._set_up_plain(plain_users)
        #: The list as the owner knows it: users by credential, hashes by user.
        self._users: Mapping[str, str] | None = None
        self._hashes: Mapping[str, Hash] = {}
        self._copy_list()
        self._host: Host | None = None
        #: Right passwords, by name: the hash, and a digest of the password keyed with `_digest_key`.
        self._verified: dict[str, tuple[Hash, bytes]] = {}
        self._digest_key = os.urandom(32)
        self._log_rate = Rates(1)
        self._checks: Checks | None = None
        self._watcher: gevent.Greenlet | None = None
        self._pools: dict[str, ThreadPool] = {}

    def _set_up_curve(self, curve_key: Key, curve_clients: str | os.PathLike[str] | KeyCheck | None) -> None:
        if curve_clients is None:
            raise ConfigurationError(
                "curve_key needs curve_clients: a folder of the allowed keys, a callable, or "
                f"{ANY_KEY!r} to allow any key"
            )
        if not zmq.has("curve"):
            raise ConfigurationError("this libzmq was built without CURVE")
        self._mechanism = zap.CURVE
        self._secret_key = secret_key("curve_key", curve_key)[1]
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
                f"curve_clients must be a folder, a callable or {ANY_KEY!r}, not of type {type(curve_clients).__name__}"
            )

    def _set_up_plain(self, plain_users: str | os.PathLike[str] | PasswordCheck) -> None:
        self._mechanism = zap.PLAIN
        if plain_users == "":
            raise ConfigurationError("plain_users is empty: it must name a file")
        if isinstance(plain_users, (str, os.PathLike)):
            self._list = UserFile(plain_users)
        elif callable(plain_users):
            self._password_check = plain_users
        else:
            raise ConfigurationError(
                f"plain_users must be a file or a callable, not of type {type(plain_users).__name__}"
            )

    @property
    def authenticates(self) -> bool:
        """Whether connections have users."""
        return self._mechanism != zap.NULL

    def __repr__(self) -> str:
        kind = "addresses" if self._mechanism == zap.NULL else self._mechanism.decode().lower()
        return f"<{type(self).__name__} {kind}>"

    # What the broker calls

    def secure(self, socket: zmq.Socket[Any], context: zmq.green.Context[Any]) -> zmq.green.Socket[bytes]:
        """Set the options of a socket that has not been bound yet.

        Returns the socket that the ZAP requests come on.  Raises ZMQError if there are no
        descriptors left.
        """
        handler: zmq.green.Socket[bytes] = context.socket(zmq.ROUTER)
        handler.set(zmq.LINGER, 0)
        try:
            handler.bind(zap.ENDPOINT)
            socket.set(zmq.ZAP_DOMAIN, zap.DOMAIN)
            socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
            if self._mechanism == zap.CURVE:
                socket.set(zmq.CURVE_SERVER, 1)
                socket.set(zmq.CURVE_SECRETKEY, self._secret_key)
            elif self._mechanism == zap.PLAIN:
                socket.set(zmq.PLAIN_SERVER, 1)
        except zmq.ZMQError:
            handler.close(0)
            raise
        return handler

    def open(self, host: Host, interval: float) -> None:
        """Begin to decide for `host`.  A change of a list takes effect within `interval` seconds."""
        self._host = host
        in_threads = self._mechanism == zap.PLAIN and self._password_check is None
        self._checks = Checks(self.max_password_checks if in_threads else self.max_calls, self.max_waiting)
        if self._list is not None:
            self._list.load_now()  # it may have changed since this broker ran last
            self._copy_list()
            self._log_notes(self._list)
            # Twice in an interval: a change is loaded when it is seen for the second time.
            self._watcher = gevent.spawn(self._watch_list, self._list, interval / 2)

    def close(self) -> None:
        """End at once; running checks are not waited for."""
        self._host = None
        if self._checks is not None:
            self._checks.close()
        if self._watcher is not None:
            self._watcher.kill(block=False)
        killers = [gevent.spawn(pool.kill) for pool in self._pools.values()]
        self._pools.clear()
        gevent.joinall(killers, timeout=self.close_timeout)
        if not all(killer.ready() for killer in killers):
            # A disk that hangs holds its thread for as long as it likes.
            self.log.warning("%r is closed; a thread still reads its list or checks a password", self)

    def abandon(self) -> None:
        """In the child of a fork: end.  The parent replies to the requests that were read before the fork."""
        if self._checks is not None:
            self._checks.close()
        self._host = self._checks = None
        if self._watcher is not None:
            self._watcher.kill(block=False)
            self._watcher = None

    def user_of(self, credential: str) -> str:
        """Return the user of a connection that libzmq knows by `credential`."""
        return (credential or REVOKED) if self._users is None else self._users.get(credential, REVOKED)

    def on_zap_request(self, frames: list[bytes], now: float) -> None:
        """Reply to one request of libzmq, at once or when its check has ended."""
        host, checks = self._host, self._checks
        if host is None or checks is None:
            return
        request = zap.read_request(frames)
        if request.malformed or request.domain != zap.DOMAIN:
            self._refuse(request, RefusalReason.MALFORMED)
        elif host.count_established(now) >= self._max_connections:
            self._refuse(request, RefusalReason.CONNECTIONS_FULL)
        elif not self._addresses.allow(request.address):
            self._refuse(request, RefusalReason.ADDRESS)
        elif request.mechanism != self._mechanism:
            self._refuse(request, RefusalReason.MECHANISM)
        elif self._mechanism == zap.CURVE:
            self._start_key_check(request, checks)
        elif self._mechanism == zap.PLAIN:
            self._start_password_check(request, checks)
        elif request.credentials:  # RFC 27, NULL: "There SHALL be no credentials frames."
            self._refuse(request, RefusalReason.MALFORMED)
        else:
            self._allow(request, "")

    # Keys and passwords

    def key_credential(self, key: str) -> str:
        """Return the credential of a connection with this key; empty if the key is not allowed."""
        if self._any_key:
            return key
        if self._key_check is not None:
            return _user_named_by(self._key_check(key), key)
        return key if self._users is not None and key in self._users else ""

    def password_credential(self, username: str, password: str) -> str:
        """Return the credential of a connection with this name and password; empty if they are wrong.

        Hashing takes tens of milliseconds, in a thread; the greenlet waits.
        """
        # An empty password, which some directories accept for any user, is wrong.  So is U+FFFD: a
        # peer whose text could not be decoded may have sent it, and different texts become one.
        if not is_user(username) or not password or any(odd in username + password for odd in "\0\ufffd"):
            return ""
        if self._password_check is not None:
            return _user_named_by(self._password_check(username, password), username)
        password_hash = self._hashes.get(username)
        credential = self._remembered_credential(username, password)
        if not credential:
            # An unknown name takes as long as a known one.
            matches = (password_hash or NOBODY).matches
            is_right = self._pool("passwords", self.max_password_checks).apply(matches, (password,))
            if not is_right or password_hash is None:
                return ""
            if len(self._verified) >= self.max_verified:
                self._verified.clear()
            self._verified[username] = (password_hash, self._digest(password))
            credential = password_credential(username, password_hash)
        return credential

    def _remembered_credential(self, username: str, password: str) -> str:
        """Return the credential of a name whose password was right before; empty if it was not, or has changed."""
        password_hash, verified = self._hashes.get(username), self._verified.get(username)
        if password_hash is None or verified is None or verified[0] is not password_hash:
            return ""
        is_right = hmac.compare_digest(verified[1], self._digest(password))
        return password_credential(username, password_hash) if is_right else ""

    def _digest(self, password: str) -> bytes:
        return hashlib.blake2b(password.encode("utf-8", "surrogatepass"), key=self._digest_key).digest()

    def _start_key_check(self, request: ZapRequest, checks: Checks) -> None:
        key = zap.read_key(request.credentials)
        if key is None:
            self._refuse(request, RefusalReason.MALFORMED)
        elif self._key_check is None:
            self._decide(request, key, self.key_credential(key), RefusalReason.KEY)
        else:
            check = partial(self._check, request, key, partial(self.key_credential, key), RefusalReason.KEY)
            checks.submit(request.address, check, partial(self._refuse, request, RefusalReason.BUSY))

    def _start_password_check(self, request: ZapRequest, checks: Checks) -> None:
        name_and_password = zap.read_password(request.credentials)
        if name_and_password is None:
            self._refuse(request, RefusalReason.MALFORMED)
        else:
            username, password = name_and_password
            if self._password_check is None and (credential := self._remembered_credential(username, password)):
                self._allow(request, credential)  # it need not wait behind strangers
                return
            find_credential = partial(self.password_credential, username, password)
            check = partial(self._check, request, username[:_SHOWN], find_credential, RefusalReason.PASSWORD)
            # A user of the list does not wait behind the strangers of an address.
            lane = f"{request.address} {username}" if username in self._hashes else request.address
            checks.submit(lane, check, partial(self._refuse, request, RefusalReason.BUSY))

    def _check(
        self, request: ZapRequest, claimed_user: str, find_credential: Callable[[], str], refusal: RefusalReason
    ) -> None:
        """Check a key or password in a greenlet of its own, and have the owner reply."""
        host = self._host
        credential = ""
        reason = RefusalReason.CHECK_FAILED
        try:
            with gevent.Timeout(self._check_timeout, False):
                credential = find_credential()
                reason = refusal
        except (KeyboardInterrupt, SystemExit):
            raise  # the hub gets it
        except BaseException as error:
            # If the gate was closed, it has killed this greenlet.  Otherwise a callable raises what it likes.
            if self._host is host is not None and self._log_rate.take("", monotonic()):
                # An error of a password check may quote the password.
                details = None if self._mechanism == zap.PLAIN else error
                message = "checking a connection from %.100s failed with %s: the connection is refused"
                self.log.error(message, request.address, type(error).__name__, exc_info=details)
        finally:
            if self._host is host is not None:
                host.post(self._decide, request, claimed_user, credential, reason)

    # Replies; the owner calls these

    def _decide(self, request: ZapRequest, claimed_user: str, credential: str, refusal: RefusalReason) -> None:
        if credential:
            self._allow(request, credential)
        else:
            self._refuse(request, refusal, claimed_user)

    def _allow(self, request: ZapRequest, credential: str) -> None:
        if self._host is not None:
            self._host.send_zap_reply(zap.reply(request, zap.SUCCESS, "OK", credential))

    def _refuse(self, request: ZapRequest, reason: RefusalReason, claimed_user: str = "") -> None:
        if self._host is not None:
            self._host.on_connection_refused(RefusedConnection(reason, request.address, claimed_user))
            code = zap.TEMPORARY if reason.temporary else zap.FAILURE
            self._host.send_zap_reply(zap.reply(request, code, reason.text))

    # Lists

    def _pool(self, purpose: str, size: int) -> ThreadPool:
        """Return a pool of our own: the hub's threads may all be busy with the application's work."""
        pool = self._pools.get(purpose)
        if pool is None:
            pool = self._pools[purpose] = ThreadPool(size)
        return pool

    def _watch_list(self, watched: UserList, pause: float) -> None:
        """Look at a list every `pause` seconds, in a greenlet of its own."""
        while True:
            gevent.sleep(pause)
            if self._host is None:
                return  # the gate was closed while this greenlet was about to wake: its pools are gone
            loaded: bool | None = None
            try:
                with gevent.Timeout(self.read_timeout, False):
                    loaded = self._pool("lists", 1).apply(watched.poll)
            except Exception:
                self.log.exception("cannot read %s: nobody is allowed", watched.path)
            if loaded is None:  # it failed, or took too long
                watched.clear()
            self._log_notes(watched)
            if watched.users is not self._users and self._host is not None:
                self._host.post(self._adopt_list)

    def _log_notes(self, watched: UserList) -> None:
        notes, watched.notes = watched.notes, []
        for note in notes:
            self.log.warning("%s", note)

    def _copy_list(self) -> None:
        """Copy the list as it was last loaded."""
        if self._list is not None:
            self._users, hashes = self._list.users, self._list.hashes
            self._hashes = {user: hashes[user] for user in self._users.values() if user in hashes}

    def _adopt_list(self) -> None:
        """In the owner: copy a changed list, and tell the host which users lost a credential."""
        old = self._users or {}
        self._copy_list()
        new = self._users or {}
        if self._host is not None and new != old:
            revoked = frozenset(user for credential, user in old.items() if new.get(credential) != user)
            self._host.on_lists_changed(revoked)


def _user_named_by(answer: object, default: str) -> str:
    """Return the user that a callable's answer names; empty if the callable refuses."""
    name = default if answer is True else answer
    if not name:
        return ""
    if not is_user(name):
        raise ValueError("the check must return a user's name, True, or something false")
    return str(name)


def credential_owner(credential: str) -> str:
    """Return the key or the name in a credential."""
    return credential if is_key(credential) else credential.rpartition(":")[2]
