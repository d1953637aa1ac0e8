"""A WSGI layer for gunicorn's gevent worker: it bounds what gunicorn waits for without a limit.

gunicorn waits for ever for a client that stops in the middle of its body, and for one that stops
reading its answer.  The layer ends both waits.  `patience` is a number of seconds:

* Each read from a body may take `patience`, and one second more for each `PACE` bytes that it asks
  for.  If it takes longer, the answer is 408 and the connection ends.
* An answer is written in pieces of 64 KiB at most.  Writing a piece may take `patience`, and one
  second more for each `PACE` bytes of it.  If it takes longer, the connection is reset.

Three more rules concern the connection:

* An answer that leaves much of a body unread ends the connection.  Before that, the layer reads and
  drops what still arrives, so that the client can read the answer (RFC 9112, 9.6).
* A body with a transfer coding other than chunked ends the connection.
* An answer that breaks off must not look complete: without chunks, the connection is reset.

gevent switches where a connection has nothing to receive, or takes nothing more.  A fast client makes
neither happen.  So the layer lets other greenlets run once for each request, and while it reads a body.

Other servers' requests pass through unchanged.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import gevent
import gevent.socket

from ..exceptions import MDPError
from .answers import RequestRefused

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger("gmdp.wsgi")

#: Bytes of a body or of an answer for which a client gets one more second.
PACE = 10_000.0
#: Bytes of an unread body that gunicorn may read and drop, so that the connection can be used again.
MOST_TO_DROP = 65_536
#: Seconds in which a client that still sends an unwanted body may read the answer.
LINGER = 2.0
#: Bytes of an unwanted body that are read and dropped meanwhile.
MOST_TO_LINGER = 256 * 1024 * 1024

#: Bytes of an answer that are written at a time.  Each such piece has its own time.
MOST_AT_A_TIME = 65_536
#: Chunks of a body that are read in a row.
CHUNKS_IN_A_ROW = 64

_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)


def serve(
    application: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse, patience: float
) -> Iterable[bytes]:
    """Let `application` answer a request, within the bounds above if gunicorn's gevent worker serves it."""
    connection = environ.get("gunicorn.socket")
    if not isinstance(connection, gevent.socket.socket):
        return application(environ, start_response)
    exchange = _Exchange(connection, environ, start_response, patience)
    exchange.run(application)
    return exchange


class _RequestBody:
    """The body of a request, as far as the gateway reads one: by ``read`` with a size."""

    def __init__(self, environ: WSGIEnvironment, patience: float) -> None:
        self._input = environ["wsgi.input"]
        self._patience = patience
        #: None for a chunked body.
        self._missing = None if "HTTP_TRANSFER_ENCODING" in environ else int(environ.get("CONTENT_LENGTH") or 0)
        self._ended = False
        self._failed = False
        # gunicorn's reader of chunked bodies takes them from a generator, as many as a read asks for.
        reader = getattr(self._input, "reader", None)
        chunks = getattr(reader, "parser", None)
        if reader is not None and chunks is not None:
            reader.parser = _read_in_turns(chunks)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; RequestRefused if they do not come in time."""
        late = TimeoutError(errno.ETIMEDOUT, "the body did not come in time")
        try:
            # gunicorn sees this exception, and does not use the connection again.
            with gevent.Timeout(self._patience + size / PACE, late):
                piece: bytes = self._input.read(size)
        except Exception as error:
            self._failed = True
            if error is not late:
                raise
            raise RequestRefused(408, "BodyTimeout", str(late.strerror)) from None
        if self._missing is None:
            self._ended = not piece
        else:
            self._missing -= len(piece)
            if self._missing > 0:
                gevent.sleep(0)
        return piece

    def should_end_connection(self) -> bool:
        """Return whether to end the connection rather than read the rest of the body."""
        if self._failed or self._missing is None:
            return self._failed or not self._ended
        return self._missing > MOST_TO_DROP


def _read_in_turns(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass chunks on, and let other greenlets run now and then: a chunk may be a single byte."""
    for number, chunk in enumerate(chunks, 1):
        yield chunk
        if number % CHUNKS_IN_A_ROW == 0:
            gevent.sleep(0)


class _Exchange:
    """One request and its answer.  The server iterates over the pieces of the answer, and closes it."""

    def __init__(
        self, connection: Any, environ: WSGIEnvironment, start_response: StartResponse, patience: float
    ) -> None:
        self._connection = connection
        self._environ = environ
        self._start_response = start_response
        self._patience = patience
        self._body = _RequestBody(environ, patience)
        self._answer: Iterable[bytes] = ()
        self._pieces: Iterator[bytes] = iter(())
        #: The rest of the present piece.
        self._rest = memoryview(b"")
        #: Whether the end of the connection is the end of the answer, and whether its last piece was taken.
        self._ends_with_connection = False
        self._is_complete = False
        self._lingers = False
        #: Runs while the server writes.
        self._timer: gevent.Timeout | None = None

    def run(self, application: WSGIApplication) -> None:
        """Call `application`."""
        gevent.sleep(0)  # between requests that arrive together, gunicorn never waits
        self._answer = application({**self._environ, "wsgi.input": self._body}, self._begin_answer)
        self._pieces = iter(self._answer)

    def _begin_answer(self, *status_and_headers: Any) -> Any:
        self._lingers = self._body.should_end_connection()
        if self._environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            names = {name.lower() for name, _ in status_and_headers[1]}
            self._ends_with_connection = "content-length" not in names
        coding = self._environ.get("HTTP_TRANSFER_ENCODING", "chunked")
        if self._lingers or coding.strip().lower() != "chunked":
            # A method of gunicorn's Response.  Only a middleware between the two hides it.
            response = getattr(self._start_response, "__self__", None)
            end_connection = getattr(response, "force_close", None)
            if end_connection is not None:
                end_connection()
        return self._start_response(*status_and_headers)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._stop_timer()
        if self._rest:
            gevent.sleep(0)  # a client that reads fast never makes the server wait
            return self._write_slice(self._rest)
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._is_complete = True
            self._start_timer(0)  # gunicorn writes the end of a chunked body
            raise
        except Exception as error:
            self._break_off(error)
        if len(piece) > MOST_AT_A_TIME:
            return self._write_slice(memoryview(piece))
        self._start_timer(len(piece))
        return piece

    def _write_slice(self, piece: memoryview) -> bytes:
        """Return the first bytes of `piece`; the rest comes next."""
        self._rest = piece[MOST_AT_A_TIME:]
        written = bytes(piece[:MOST_AT_A_TIME])
        self._start_timer(len(written))
        return written

    def _start_timer(self, size: int) -> None:
        seconds = self._patience + size / PACE
        # gunicorn takes this error for a client that has gone.
        late = BrokenPipeError(errno.EPIPE, f"the client did not read {size} bytes in {seconds:.0f} s")
        self._timer = gevent.Timeout.start_new(seconds, late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _break_off(self, error: Exception) -> None:
        """End an answer that failed after its first piece, so that the client does not take it for a whole one."""
        if isinstance(error, MDPError):
            _log.info("%s: %s: %s", self._environ.get("REMOTE_ADDR"), type(error).__name__, error)
        else:
            _log.error("an answer failed", exc_info=error)
        raise BrokenPipeError(errno.EPIPE, "the answer broke off") from error

    def _reset(self) -> None:
        try:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
        except OSError:
            pass
        self._connection.close()

    def close(self) -> None:
        """End the answer: cancel its call if it still runs.  The server has written what it wanted to."""
        timer = self._timer
        was_late = timer is not None and not timer.pending
        if timer is not None and was_late:
            _log.info("%s: %s", self._environ.get("REMOTE_ADDR"), timer.exception)
        self._stop_timer()
        close = getattr(self._answer, "close", None)
        if close is not None:
            close()
        # The end of the server's time kills this greenlet, wherever it waits.
        if was_late or (self._ends_with_connection and not self._is_complete):
            self._reset()
        elif self._lingers:
            self._linger()

    def _linger(self) -> None:
        """Read and drop what still arrives, for a while.

        A connection that is closed with something unread is reset, and the client loses the answer.
        """
        left = MOST_TO_LINGER
        try:
            with gevent.Timeout(LINGER, False):
                self._connection.shutdown(socket.SHUT_WR)
                while left > 0 and (piece := self._connection.recv(MOST_TO_DROP)):
                    left -= len(piece)
                    gevent.sleep(0)  # a client that sends fast never makes `recv` wait
        except OSError:
            pass
