"""gunicorn, as ``gmdp gateway`` runs it.

An *arbiter* holds the listening socket and watches the *worker processes* that serve it with
gunicorn's gevent worker.  The classes here change what follows from gmdp's own rules:

* SIGTERM and SIGINT both drain, and a second one ends everything at once.
* A connection that waits for a request does not delay the end of its process.
* The client of a worker process is made in it.  The arbiter has neither a hub nor threads.
* The gateway goes on with what it has where files with keys and passwords cannot be read again.
* Log records go to the handlers of the root logger, at its level.
* The standard library is not patched: the gateway and gunicorn's worker need no more than gevent's sockets.
"""

from __future__ import annotations

import errno
import gc
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from logging import INFO, NOTSET
from time import monotonic
from types import FrameType
from typing import Any

import gevent
import gevent.socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from ..client.client import Client
from ..exceptions import BindError, MDPError
from ..http.gateway import Gateway
from .printing import PrintableFormatter

#: Descriptors that connections leave for everything else.  Each of the client's sockets takes two
#: where the broker speaks the RFCs only.
_DESCRIPTORS_KEPT = 50 + 2 * Client.max_sockets

#: Seconds that the arbiter waits for a worker process whose time to drain is up.
_OVERTIME = 3

#: Seconds that a process waits before it ends because it cannot make its gateway.  The arbiter starts another at once.
_RETRY_PAUSE = 1.0

#: Settings that are fixed.  X-Forwarded-… and SCRIPT_NAME are never believed: the gateway needs neither.
#: The first line of a request may be as long as gunicorn allows, for a GET has its body there.
_FIXED: Mapping[str, Any] = {
    "control_socket_disable": True,
    "errorlog": None,
    "forwarded_allow_ips": "",
    "forwarder_headers": "",
    "http_parser": "python",
    "limit_request_line": 8190,
    "secure_scheme_headers": {},
}


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket for the arbiter; BindError if that is impossible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise BindError(error.errno, f"cannot bind {host}:{port}: {error.strerror or error}") from None
    except UnicodeError:  # an empty label, or one of more than 63 letters
        raise BindError(errno.EINVAL, f"cannot bind {host}:{port}: this is no name of a host") from None
    return listener


def run(
    listener: socket.socket,
    make_gateway: Callable[[], Gateway],
    *,
    workers: int,
    stop_timeout: float,
    keep_alive: float,
    max_connections: int,
    access_log: str | None,
) -> None:
    """Serve gateways until a signal, and exit.

    Args:
        listener: A bound socket.  The arbiter takes it over.
        make_gateway: Called in each worker process.
        workers: Worker processes.
        stop_timeout: Seconds that running requests get after a signal to stop.
        keep_alive: Seconds that a connection may wait for a request.
        max_connections: Connections of a worker process at a time, if it has as many descriptors.
        access_log: A file, or "-" for standard output; None logs accesses to the root logger's handlers.
    """
    # All objects made so far stay.  The worker processes share them.
    gc.freeze()
    settings = {
        "accesslog": access_log,
        "bind": f"fd://{listener.detach()}",
        "graceful_timeout": math.ceil(stop_timeout) + _OVERTIME,
        "when_ready": _announce,
        "worker_connections": _limit_to_descriptors(max_connections),
        "workers": workers,
    }
    _Arbiter(Application(settings, make_gateway, stop_timeout, keep_alive)).run()


def _limit_to_descriptors(connections: int) -> int:
    """Return `connections`, or as many as there are descriptors for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if limit == resource.RLIM_INFINITY else max(min(connections, limit - _DESCRIPTORS_KEPT), 1)


def _announce(arbiter: Arbiter) -> None:
    (listener,) = arbiter.LISTENERS
    print(f"listening on {listener}", flush=True)


class Application(BaseApplication):  # type: ignore[misc]
    """The object that gunicorn asks for its settings and for the WSGI application."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        make_gateway: Callable[[], Gateway],
        stop_timeout: float,
        keep_alive: float,
    ) -> None:
        self._settings = settings
        self._make_gateway = make_gateway
        self.stop_timeout = stop_timeout
        self.keep_alive = keep_alive
        super().__init__()

    def load_config(self) -> None:
        """Give gunicorn its settings."""
        self.cfg.set("worker_class", GatewayWorker)
        self.cfg.set("logger_class", _Logger)
        for name, value in {**_FIXED, **self._settings}.items():
            self.cfg.set(name, value)

    def check(self) -> None:
        """Raise what making a gateway raises.  The arbiter may call this: a gateway makes its client later."""
        self._make_gateway()

    def load(self) -> Gateway:
        """Make the gateway, in a worker process."""
        gateway = self._make_gateway()
        # The client starts before connections can take all descriptors.
        gateway.client.start()
        return gateway


class _Logger(Logger):  # type: ignore[misc]
    """gunicorn's loggers, with the level and the handlers of the root logger."""

    def setup(self, cfg: Any) -> None:
        """Configure the two loggers."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.setLevel(NOTSET)
            logger.propagate = True
        if cfg.accesslog is not None:
            self.access_log.setLevel(INFO)
            for handler in self.access_log.handlers:  # headers may hold any bytes
                handler.setFormatter(PrintableFormatter("%(message)s"))
            self.access_log.propagate = False

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log a warning; as information where it is a client's fault, for strangers may cause any number of them."""
        log = self.info if msg.startswith("Invalid request from ") else super().warning
        log(msg, *args, **kwargs)

    def _compute_access_log_enabled(self) -> bool:
        return self.cfg.accesslog is not None or self.access_log.isEnabledFor(INFO)


class _Arbiter(Arbiter):  # type: ignore[misc]
    """The parent process."""

    #: Whether a signal to stop has come.
    _stopping = False

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal: queue it for the main loop, or end at once."""
        if sig in (signal.SIGTERM, signal.SIGINT):
            if os.getpid() != self.pid:
                os._exit(0)  # a child that has just been forked, and serves nothing yet
            if self._stopping:
                self._end_now(sig)
            self._stopping = True
            sig = signal.SIGTERM  # in gunicorn, SIGINT does not drain
        super().signal(sig, frame)

    def _end_now(self, sig: int) -> None:
        for pid in list(self.WORKERS):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os._exit(128 + sig)

    def handle_hup(self) -> None:
        """Replace the processes, unless new ones could not begin."""
        try:
            self.app.check()
        except (MDPError, OSError) as error:
            self.log.error("reload given up: %s", error)
            return
        super().handle_hup()

    def handle_usr2(self) -> None:
        """Refuse to start a second arbiter: the command line would bind its address again."""
        self.log.warning("SIGUSR2 is ignored")


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """A process that serves."""

    app: Application
    sockets: list[Any]
    #: Set once the process is to stop.
    _stopping: Event

    def patch(self) -> None:
        """Give the listening sockets to gevent."""
        self.sockets = [
            gevent.socket.socket(listener.FAMILY, socket.SOCK_STREAM, fileno=listener.sock.detach())
            for listener in self.sockets
        ]

    def init_process(self) -> None:
        """Begin the process's life; returns when it is over."""
        self.prepare()
        super().init_process()

    def prepare(self) -> None:
        """Make what only the process that serves may have."""
        self._stopping = Event()
        #: The connection that each greenlet serves; the connections that wait for a request; the running requests.
        self._connections: dict[Any, Any] = {}
        self._waiting: set[Any] = set()
        self._requests: set[Any] = set()

    def init_signals(self) -> None:
        """Handle this process's signals."""
        super().init_signals()
        # A terminal sends SIGINT to all processes.  The arbiter tells this one when to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A terminal that closes sends SIGHUP to all processes.  The arbiter replaces this one.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def load_wsgi(self) -> None:
        """Make the gateway; end the process if that is impossible, so that the arbiter tries again."""
        try:
            super().load_wsgi()
        except (MDPError, OSError) as error:
            self.log.error("a process cannot begin to serve: %s", error)
            self._stopping.wait(_RETRY_PAUSE)
            sys.exit(1)  # any other status would end the arbiter, and the processes that serve

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: stop once the requests that run have been answered."""
        super().handle_exit(sig, frame)
        gevent.get_hub().loop.run_callback_threadsafe(self._stopping.set)

    def run(self) -> None:
        """Serve until the signal to stop, then finish what is being answered."""
        servers = []
        for listener in self.sockets:
            listener.setblocking(True)
            server = StreamServer(listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections))
            if self.cfg.workers > 1:
                server.max_accept = 1
            server.start()
            servers.append(server)
        while not self._stopping.wait(1.0):
            self.notify()
        for server in servers:
            server.close()
        for connection in list(self._waiting):
            _hang_up(connection)
        for request in self._requests:
            request.force_close()  # its answer is the last one of its connection, and says so
        until = monotonic() + self.app.stop_timeout
        for server in servers:
            while len(server.pool) and monotonic() < until:
                server.pool.join(timeout=min(1.0, until - monotonic()))
                self.notify()
            server.stop(timeout=0)
        self.wsgi.client.close()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        greenlet = gevent.getcurrent()
        self._connections[greenlet] = client
        try:
            super().handle(listener, client, addr)
        finally:
            del self._connections[greenlet]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer one request."""
        self._requests.add(req)
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            self._requests.discard(req)

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Limit the time that a connection waits for the header of a request."""
        connection = self._connections[gevent.getcurrent()]
        self._waiting.add(connection)
        if self._stopping.is_set():
            _hang_up(connection)
        try:
            with gevent.Timeout(self.app.keep_alive, False):
                yield
        except OSError:
            if not self._stopping.is_set():
                raise
            # The connection was hung up while gunicorn waited.
        finally:
            self._waiting.discard(connection)


def _hang_up(connection: Any) -> None:
    """Receive nothing more on a connection; what has arrived can still be read."""
    try:
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass
