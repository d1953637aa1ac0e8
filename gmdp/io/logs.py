"""Log records of owners: made where it happens, written by a greenlet of their own.

The rules of this module:

* A record is made at once: with its time, thread, context (:mod:`contextvars`) and arguments as they are.
* Filters, handlers, formatters and record factories are the program's code.  They run in a *writer*, a
  greenlet that lives while there is something to write.  What they raise is printed where gevent
  prints the errors of greenlets.  While one of them waits cooperatively, owners go on.
* A program's logger class is its code, too: it is asked through the gate (:mod:`.guarded`) whether it is enabled.
* Each hub with an owner has a queue, so the records of one logger keep their order.  Any other thread writes at
  once, since its hub may not run; so does a main greenlet that finds the queue empty, but not in the middle of
  a start (:func:`queue_all`).  A ``gevent.Timeout`` or GreenletExit that ends a wait there is the caller's, and
  is raised.
* The queue has :attr:`LogQueue.bound` records.  A record that finds no room is dropped and counted, and the
  next that is written says so.  What an owner says of its end always finds room.
* An owner that ends waits until the queue is empty, for :data:`FLUSH_TIMEOUT` at most; so does the
  interpreter's end.  The child of a fork begins with an empty queue: the parent writes its records.
* A thread must not end while its writer is in a handler: the handler's lock would never be released, and the
  interpreter's end would wait for it.  So where an owner ends in another thread than the main one, and at the
  interpreter's end, a writer that is not done in time is stopped, and its record counts as dropped.  A thread that
  ended nevertheless (nothing was closed in it) leaves a lock behind: at the interpreter's end its handler gets another.
* A call below the logger's level makes no record: it costs as much as the same call of a plain logger.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import logging
import os
import sys
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import gevent

from .. import tracing
from ..core.rates import Rates
from . import guarded
from .descriptors import get_hub
from .slots import get_hub_if_exists, get_ident

#: Seconds for which an end waits for records that are not yet written.
FLUSH_TIMEOUT = 1.0

#: Types whose objects never change, and whose text is not a stranger's.
_PLAIN = frozenset([str, bytes, int, float, bool, type(None)])

#: The attributes of a record that tell of the moment at which it was made.
_MOMENT = ("created", "msecs", "relativeCreated", "thread", "threadName", "process", "processName", "taskName")

_ExcInfo = Any

T = TypeVar("T")


class _Shown(str):
    """The text of an object as it was when a record was made: what ``%s`` shows; ``%r`` shows `shown`."""

    __slots__ = ("shown",)

    shown: str

    def __repr__(self) -> str:
        return self.shown


def _as_it_is(value: Any) -> Any:
    """Return what a record shows of `value`: the object may change, or be a stranger's."""
    if type(value) in _PLAIN:
        return value
    shown = _Shown(guarded.text_of(value))
    shown.shown = guarded.repr_of(value)
    return shown


class Entry(NamedTuple):
    """A record that waits to be written."""

    logger: logging.Logger
    record: logging.LogRecord
    extra: Mapping[str, Any] | None
    context: contextvars.Context


class _Stopped(gevent.GreenletExit):  # type: ignore[misc]
    """Raised in a writer that must leave its handler."""


class _Writer(gevent.Greenlet):  # type: ignore[misc]
    """Writes records; a handler that raises GreenletExit cannot be told from a program that kills the writer."""

    killed = False


class _LoggerOfTheProgram:
    """Asks a logger of the program's own class, through the gate, whether it is enabled."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def isEnabledFor(self, level: int) -> bool:
        """Return whether the logger is enabled for `level`; False if it fails."""
        return guarded.call(lambda: bool(self._logger.isEnabledFor(level)), default=False, on_error=_show)


class QueuedLogger:
    """A logger for code that runs in owners, and in greenlets on which owners depend.  Any greenlet, any thread.

    Its methods are those of :class:`logging.Logger`; what they log is the program's to configure as ever.

    Args:
        name: the logger's name.
    """

    __slots__ = ("_logger", "_target")

    def __init__(self, name: str) -> None:
        self._target = target = logging.getLogger(name)
        #: Tells whether a level is enabled.
        self._logger = target if type(target) is logging.Logger else _LoggerOfTheProgram(target)

    def debug(self, message: str, *args: Any, exc_info: _ExcInfo = None) -> None:
        """Log at level DEBUG."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._make(logging.DEBUG, message, args, exc_info)

    def info(self, message: str, *args: Any, exc_info: _ExcInfo = None) -> None:
        """Log at level INFO."""
        if self._logger.isEnabledFor(logging.INFO):
            self._make(logging.INFO, message, args, exc_info)

    def warning(self, message: str, *args: Any, exc_info: _ExcInfo = None) -> None:
        """Log at level WARNING."""
        if self._logger.isEnabledFor(logging.WARNING):
            self._make(logging.WARNING, message, args, exc_info)

    def error(self, message: str, *args: Any, exc_info: _ExcInfo = None) -> None:
        """Log at level ERROR."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._make(logging.ERROR, message, args, exc_info)

    def exception(self, message: str, *args: Any, exc_info: _ExcInfo = True) -> None:
        """Log at level ERROR, with the traceback of the exception that is being handled."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._make(logging.ERROR, message, args, exc_info)

    def critical(self, message: str, *args: Any, exc_info: _ExcInfo = None) -> None:
        """Log at level CRITICAL."""
        if self._logger.isEnabledFor(logging.CRITICAL):
            self._make(logging.CRITICAL, message, args, exc_info)

    def log(
        self,
        level: int,
        message: str,
        *args: Any,
        exc_info: _ExcInfo = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Log at `level`; `extra` has further attributes of the record."""
        if self._logger.isEnabledFor(level):
            self._make(level, message, args, exc_info, extra)

    def _make(
        self,
        level: int,
        message: str,
        args: tuple[Any, ...],
        exc_info: _ExcInfo,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a record of what the caller's caller logs, and have it written."""
        if isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        elif exc_info:
            exc_info = sys.exc_info()
        method = sys._getframe(1)
        frame = method.f_back or method
        record = logging.LogRecord(
            self._target.name,
            level,
            frame.f_code.co_filename,
            frame.f_lineno,
            message,
            tuple(map(_as_it_is, args)),
            exc_info or None,
            frame.f_code.co_name,
        )
        if extra is not None:
            record.__dict__.update(extra)
        entry = Entry(self._target, record, extra, contextvars.copy_context())
        queue = _queue()
        if queue is None or (queue.is_idle and not queue.starts and gevent.getcurrent() is gevent.get_hub().parent):
            _write_at_once(entry)
        else:
            queue.put(entry)


class LogQueue:
    """The records of one thread that are not yet written.  For the greenlets of that thread."""

    #: Records that may wait to be written.
    bound = 1_000
    #: Records written before other greenlets get their turn.
    burst = 50

    def __init__(self) -> None:
        #: Starts that are under way, in which no record is written at once.
        self.starts = 0
        self._reset()

    def _reset(self) -> None:
        self.entries: deque[Entry] = deque()
        #: Records that found no room.
        self.dropped = 0
        #: Dropped records of which a written one has told.
        self._dropped_told = 0
        self._writer: _Writer | None = None
        self._pid = os.getpid()

    def put(self, entry: Entry) -> None:
        """Have a record written after those before it, unless there is no room for it."""
        if self._pid != os.getpid():
            self.abandon()  # a fork that Python did not see
        if len(self.entries) >= self.bound and entry.record.levelno < logging.CRITICAL:
            self.dropped += 1
            return
        self.entries.append(entry)
        self._ensure_writer()

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Wait until all records are written, or for `timeout` seconds.

        A writer, whose handler closes a client for instance, does not wait for itself.
        """
        writer = self._writer
        if writer is not None and writer is not gevent.getcurrent() and gevent.getcurrent() is not gevent.get_hub():
            writer.join(timeout)

    def abandon(self) -> None:
        """In the child of a fork: forget the records, which the parent writes."""
        writer = self._writer
        self._reset()
        if writer is not None and writer is not gevent.getcurrent():
            writer.kill(_Stopped, block=False)  # it may wait in the middle of one of the parent's records

    def stop_writer(self) -> None:
        """Have the writer leave the handler that it is in; the records behind it wait for a further one."""
        writer, self._writer = self._writer, None
        if writer is not None and writer is not gevent.getcurrent():
            writer.kill(_Stopped, timeout=FLUSH_TIMEOUT)

    def write_rest(self) -> None:
        """In a writer of another thread than the queue's, which need not run any more: write all records."""
        while True:
            try:
                entry = self.entries.popleft()
            except IndexError:
                return
            _write(entry)

    @property
    def is_idle(self) -> bool:
        """True if no record waits, and none is being written."""
        return self._writer is None and not self.entries

    def _ensure_writer(self) -> None:
        if self._writer is None:
            self._writer = _Writer(self._run)
            self._writer.name = "gmdp-log-writer"
            self._writer.start()

    def _run(self) -> None:
        writer, entries = cast(_Writer, gevent.getcurrent()), self.entries
        written, interrupts = 0, guarded.interrupts
        try:
            while entries and self._writer is writer and not writer.killed:
                entry = entries.popleft()
                if self.dropped != self._dropped_told:
                    self._tell_dropped(entry)
                _write(entry)
                written += 1
                if written % self.burst == 0 or guarded.interrupts != interrupts:
                    interrupts = guarded.interrupts
                    gevent.sleep(0)
        except _Stopped:
            if self.entries is entries:  # no fork has reset the queue
                self.dropped += 1
        finally:
            if self._writer is writer:
                self._writer = None
                if self.entries:  # the program killed the writer
                    self._ensure_writer()

    def _tell_dropped(self, entry: Entry) -> None:
        count, self._dropped_told = self.dropped - self._dropped_told, self.dropped
        logger = logging.getLogger("gmdp")
        if _LoggerOfTheProgram(logger).isEnabledFor(logging.WARNING):
            text = "%d log records were dropped, because a log handler is slower than what is logged"
            record = logging.LogRecord(logger.name, logging.WARNING, __file__, 0, text, (count,), None, "put")
            _write(Entry(logger, record, None, entry.context))


_queues: weakref.WeakKeyDictionary[Any, LogQueue] = weakref.WeakKeyDictionary()
_print_rate = Rates(1)
#: The handlers in which writers are, by thread.
_handling: dict[int, logging.Handler] = {}


def open_queue(hub: Any) -> None:
    """Have what is logged in the thread of `hub` written by a greenlet, from now on: an owner needs that."""
    if hub not in _queues:
        _queues[hub] = LogQueue()


@contextlib.contextmanager
def queue_all() -> Iterator[None]:
    """Have each record of this thread queued: a handler that waits would show other greenlets half a start."""
    open_queue(get_hub())
    queue = _queue()
    assert queue is not None
    queue.starts += 1
    try:
        yield
    finally:
        queue.starts -= 1


def _queue() -> LogQueue | None:
    """Return the queue of this thread's hub, if it has one."""
    hub = get_hub_if_exists()
    return None if hub is None else _queues.get(hub)


def flush(timeout: float = FLUSH_TIMEOUT) -> None:
    """Wait until all records of this thread are written, or for `timeout` seconds; returns at once in the hub."""
    queue = _queue()
    if queue is not None:
        queue.flush(timeout)


def finish() -> None:
    """Wait as :func:`flush` does, and then have the writer of a thread that may end leave its handler."""
    queue = _queue()
    if queue is not None:
        queue.flush(FLUSH_TIMEOUT)
        if not gevent.get_hub().loop.default:  # that is the main thread's
            queue.stop_writer()


def after_flush(function: Callable[..., object], *args: Any) -> None:
    """Call `function(*args)` once all records of this thread are written, or after :data:`FLUSH_TIMEOUT`."""
    queue = _queue()
    if queue is None or queue.is_idle:
        function(*args)
    else:
        gevent.spawn(_flush_and_call, queue, function, args)


def _flush_and_call(queue: LogQueue, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    queue.flush()
    function(*args)


class _Gate(Protocol):
    """Calls code of the program; what it raises costs the record, or a part of it."""

    def __call__(self, function: Callable[..., T], *args: Any, default: T) -> T:
        """Return `function(*args)`, or `default` if it raises."""


def _call_in_writer(function: Callable[..., T], *args: Any, default: T) -> T:
    return guarded.call(function, *args, default=default, on_error=_note_error)


def _note_error(error: BaseException) -> None:
    """In a writer: show an error.  A writer that was killed ends, once the other handlers have the record."""
    if isinstance(error, _Stopped):
        raise error
    if isinstance(error, gevent.GreenletExit):
        gevent.getcurrent().killed = True
    _show(error)


def _call_at_once(function: Callable[..., T], *args: Any, default: T) -> T:
    try:
        return function(*args)
    except Exception as error:
        _show(error)
        return default


def _write(entry: Entry) -> None:
    """In a writer: give a record to the program's filters and handlers."""
    _call_in_writer(entry.context.run, _handle, entry, _call_in_writer, default=None)


def _write_at_once(entry: Entry) -> None:
    """Give a record to the program's filters and handlers in the program's own greenlet or thread.

    The ``gevent.Timeout`` that a caller began may fire in a handler that waits: it is the caller's.
    """
    _call_at_once(entry.context.run, _handle, entry, _call_at_once, default=None)


def _handle(entry: Entry, call: _Gate) -> None:
    logger, record, extra, _ = entry
    kind = type(logger)
    if logging.getLogRecordFactory() is not logging.LogRecord or kind.makeRecord is not logging.Logger.makeRecord:
        record = call(_made_by_the_program, logger, record, extra, default=record)
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        record.exc_text = _text_in_place_of(record.exc_info[1])
    if kind.handle is not logging.Logger.handle or kind.callHandlers is not logging.Logger.callHandlers:
        logger.handle(record)
    elif not logger.disabled:
        kept = logger.filter(record)
        if kept:
            _call_handlers(logger, kept if isinstance(kept, logging.LogRecord) else record, call)


def _call_handlers(logger: logging.Logger, record: logging.LogRecord, call: _Gate) -> None:
    """Give a record to each handler, as :meth:`logging.Logger.callHandlers` does; one that fails spares the others."""
    handlers = []
    level: logging.Logger | None = logger
    while level is not None:
        handlers += level.handlers
        level = level.parent if level.propagate else None
    if not handlers:
        logger.callHandlers(record)  # logging's last resort
    ident = get_ident()
    for handler in handlers:
        if record.levelno >= handler.level:
            if call is _call_in_writer:
                _handling[ident] = handler
            call(handler.handle, record, default=None)
    _handling.pop(ident, None)


def _made_by_the_program(
    logger: logging.Logger, record: logging.LogRecord, extra: Mapping[str, Any] | None
) -> logging.LogRecord:
    """Have the program's factory make the record again, and put the moment of the first one into it."""
    facts = (record.levelno, record.pathname, record.lineno, record.msg, record.args or (), record.exc_info)
    made = logger.makeRecord(record.name, *facts, func=record.funcName, extra=extra)
    for name in _MOMENT:
        if name in record.__dict__:
            made.__dict__[name] = record.__dict__[name]
    return made


def _text_in_place_of(error: BaseException) -> str | None:
    """Return a traceback if the usual one has no bound or cannot be made; else None, and the formatter makes it."""
    seen: list[BaseException] = []
    chained = [error]
    while chained:
        other = chained.pop()
        if any(other is one for one in seen):
            continue
        seen.append(other)
        if len(guarded.text_of(other)) >= guarded.MAX_TEXT or guarded.type_name(other) == guarded.NAMELESS:
            return _bounded_traceback(error)
        chained += [cause for cause in (other.__cause__, other.__context__) if cause is not None]
    return None


def _bounded_traceback(error: BaseException) -> str:
    lines = traceback.format_tb(error.__traceback__)
    return "".join([*lines, f"{guarded.type_name(error)}: {guarded.text_of(error)}"])


def _show(error: BaseException) -> None:
    """Print what a filter or handler raised, once a second at most, where gevent prints errors of greenlets."""
    if not _print_rate.take(None, monotonic()):
        return
    hub = get_hub_if_exists()
    stream = sys.stderr if hub is None else hub.exception_stream
    if stream is not None and logging.raiseExceptions:
        text = _text_in_place_of(error) or "".join(traceback.format_exception(error)).rstrip("\n")
        guarded.call(stream.write, f"{text}\nA log handler, or a filter, failed.\n", default=0, on_error=_ignore)


def _ignore(error: BaseException) -> None:
    """Say nothing: there is no place left to say it."""


tracing.log = QueuedLogger("gmdp.tracing")


@atexit.register
def _flush_at_exit() -> None:
    """Write what waits, in :data:`FLUSH_TIMEOUT` seconds at most; the hubs of other threads do not run any more."""
    _free_handlers()
    own = _queue()
    rest = [_Writer(queue.write_rest) for queue in list(_queues.values()) if queue is not own and queue.entries]
    if rest:
        get_hub()
    for writer in rest:
        writer.start()
    until = monotonic() + FLUSH_TIMEOUT
    if own is not None:
        own.flush(FLUSH_TIMEOUT)
        own.stop_writer()
    if rest:
        gevent.joinall(rest, until - monotonic())
        gevent.killall(rest, _Stopped, timeout=FLUSH_TIMEOUT)


def _free_handlers() -> None:
    """Give a new lock to each handler in which a writer was when its thread ended: nobody releases the old one."""
    alive = sys._current_frames()
    for ident, handler in list(_handling.items()):
        if ident not in alive:
            _call_at_once(handler.createLock, default=None)


def after_fork() -> None:
    """In the child of a fork: have every queue empty."""
    for queue in list(_queues.values()):
        queue.abandon()
