"""What owners log: made at once, written by a greenlet of its own."""

import contextvars
import logging
import subprocess
import sys
import threading
import time

import gevent
import pytest
import strangers
from gevent.event import Event
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, RequestTimeout, Worker
from gmdp.io import logs

mine = contextvars.ContextVar("mine", default="nothing")


class Handler(logging.Handler):
    """Keeps records, and does what a test wants before that."""

    def __init__(self, act=lambda record: None):
        super().__init__()
        self.records = []
        self.act = act

    def emit(self, record):
        self.act(record)
        self.records.append(record)

    @property
    def texts(self):
        return [record.getMessage() for record in self.records]


@pytest.fixture
def attach():
    """A function: attaches handlers to a logger until the end of the test; returns the QueuedLogger."""
    attached = []

    def attach(name, *handlers, level=logging.DEBUG):
        logger = logging.getLogger(name)
        for handler in handlers:
            logger.addHandler(handler)
            attached.append((logger, handler, logger.level))
        logger.setLevel(level)
        return logs.QueuedLogger(name)

    yield attach
    logs.flush(30)
    for logger, handler, level in reversed(attached):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def _with_a_queue():
    logs.open_queue(gevent.get_hub())
    yield
    logs.flush(30)


def in_greenlet(function, *args):
    return gevent.spawn(function, *args).get()


def test_G3_a_record_is_made_where_it_happens(attach):
    """Time, thread, place, context and arguments are those of the call, although it is written later."""
    values = []
    written = []

    def note(record):
        gevent.sleep(0.05)
        values.append(mine.get())
        written.append(time.time())

    handler = Handler(note)
    log = attach("gmdp.test", handler)
    names = ["first"]

    def call():
        mine.set("the caller's")
        log.warning("names: %r %s %d", names, names, 7, exc_info=ZeroDivisionError("why"))
        names.append("later")
        return time.time(), threading.get_ident()

    now, thread = in_greenlet(call)
    logs.flush(30)
    (record,) = handler.records
    assert record.getMessage() == "names: ['first'] ['first'] 7"
    assert record.created <= now <= written[0] - 0.04
    assert (record.thread, record.funcName, record.levelno) == (thread, "call", logging.WARNING)
    assert record.pathname == __file__
    assert record.exc_info[0] is ZeroDivisionError
    assert "ZeroDivisionError: why" in logging.Formatter().format(record)
    assert values == ["the caller's"]


def test_G3_each_level_and_extra_attributes(attach):
    handler = Handler()
    log = attach("gmdp.test", handler, level=logging.INFO)
    log.debug("no")
    log.info("yes")
    log.error("yes")
    log.critical("yes")
    log.log(logging.WARNING, "yes", extra={"audit": {"kind": "it"}})
    log.log(5, "no")
    try:
        raise ValueError("handled")
    except ValueError:
        log.exception("yes")
    levels = [logging.INFO, logging.ERROR, logging.CRITICAL, logging.WARNING, logging.ERROR]
    assert [record.levelno for record in handler.records] == levels
    assert handler.records[3].audit == {"kind": "it"}
    assert handler.records[4].exc_info[0] is ValueError


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G3_a_handler_that_raises_costs_neither_the_next_record_nor_the_other_handlers(attach, name):
    broken, other = Handler(lambda record: strangers.throw(name)), Handler()
    log = attach("gmdp.test", broken, other)
    for number in range(3):
        in_greenlet(log.warning, "%d", number)
    logs.flush(30)
    assert other.texts == ["0", "1", "2"]


@pytest.mark.parametrize("where", ["logger", "handler"])
def test_G3_a_filter_that_raises_ends_nobody(attach, where):
    handler = Handler()
    log = attach("gmdp.test", handler)

    def refuse(record):
        raise RuntimeError("working outside of request context")

    target = logging.getLogger("gmdp.test") if where == "logger" else handler
    target.addFilter(refuse)
    try:
        in_greenlet(log.warning, "one")
        log.warning("two")
        logs.flush(30)
    finally:
        target.removeFilter(refuse)
    log.warning("three")
    assert handler.texts == ["three"]


@pytest.mark.parametrize("interrupt", strangers.INTERRUPTS)
def test_G2_an_interrupt_in_a_log_handler_reaches_the_program(attach, interrupt):
    def fail(record):
        raise interrupt

    other = Handler()
    log = attach("gmdp.test", Handler(fail), other)
    in_greenlet(log.warning, "one")
    with pytest.raises(interrupt):
        gevent.sleep(60)
    logs.flush(30)
    assert other.texts == ["one"]


def test_G3_the_order_is_kept_while_a_handler_waits(attach):
    """A record of the main greenlet's, too, which would be written at once otherwise."""
    go = Event()
    handler = Handler(lambda record: go.wait())
    log = attach("gmdp.test", handler)
    in_greenlet(log.warning, "%d", 0)
    gevent.sleep(0)
    log.warning("%d", 1)
    in_greenlet(log.warning, "%d", 2)
    assert handler.texts == []
    go.set()
    logs.flush(30)
    assert handler.texts == ["0", "1", "2"]


def test_G3_records_beyond_the_bound_are_dropped_and_counted(attach, monkeypatch):
    monkeypatch.setattr(logs.LogQueue, "bound", 3)
    go, begun = Event(), Event()

    def wait(record):
        begun.set()
        go.wait()

    handler, told = Handler(wait), Handler()
    log = attach("gmdp.test", handler)
    attach("gmdp", told)
    in_greenlet(log.warning, "first")
    begun.wait()
    for number in range(10):
        in_greenlet(log.warning, "%d", number)
    in_greenlet(log.critical, "the end")
    go.set()
    logs.flush(30)
    assert handler.texts == ["first", "0", "1", "2", "the end"]
    assert [text for text in told.texts if "dropped" in text] == [
        "7 log records were dropped, because a log handler is slower than what is logged"
    ]


def test_G3_the_program_s_factory_makes_records_with_the_moment_of_the_call(attach):
    plain = logging.getLogRecordFactory()
    handler = Handler()
    log = attach("gmdp.test", handler)

    def factory(*args, **keywords):
        record = plain(*args, **keywords)
        record.value = mine.get()
        return record

    def call():
        mine.set("the caller's")
        log.log(logging.WARNING, "one %r", [1], extra={"more": 2})
        return time.time()

    logging.setLogRecordFactory(factory)
    try:
        now = in_greenlet(call)
        wait_until(lambda: time.time() > now + 0.05)
        logging.setLogRecordFactory(lambda *args, **keywords: 1 / 0)
        in_greenlet(log.warning, "two")
        logs.flush(30)
    finally:
        logging.setLogRecordFactory(plain)
    record = handler.records[0]
    assert (record.getMessage(), record.value, record.more) == ("one [1]", "the caller's", 2)
    assert record.created <= now
    assert handler.texts == ["one [1]", "two"]


def test_G1_the_text_of_what_is_logged_is_bounded_and_made_at_any_rate(attach):
    handler = Handler()
    log = attach("gmdp.test", handler)
    for name in strangers.ERRORS:
        error = strangers.error(name)
        try:
            raise ValueError("outer") from error
        except ValueError as outer:
            log.warning("%r and %s", error, error, exc_info=outer)
    assert len(handler.records) == len(strangers.ERRORS)
    for record in handler.records:
        assert len(logging.Formatter("%(message)s").format(record)) < 20_000


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("method", ["debug", "info", "warning", "error", "exception", "critical", "log"])
def test_G3_a_call_that_is_disabled_makes_nothing(attach, method, enabled):
    """Neither a record nor the text of an argument; a call that is enabled makes both."""
    shown = []

    class Argument:
        def __repr__(self):
            shown.append(self)
            return "an argument"

    handler, argument = Handler(), Argument()
    log = attach("gmdp.test", handler, level=logging.DEBUG if enabled else logging.CRITICAL + 1)
    levels = [logging.CRITICAL] if method == "log" else []
    in_greenlet(getattr(log, method), *levels, "%r", argument)
    logs.flush(30)
    assert bool(shown) == enabled
    assert handler.texts == ["an argument"] * enabled


def test_G3_a_writer_that_is_killed_leaves_what_waits_to_the_next(attach):
    go = Event()
    handler = Handler(lambda record: go.wait())
    log = attach("gmdp.test", handler)
    for number in range(3):
        in_greenlet(log.warning, "%d", number)
    gevent.sleep(0)
    queue = logs._queues[gevent.get_hub()]
    killed = queue._writer
    killed.kill(timeout=20)
    assert killed.dead
    assert queue._writer not in (None, killed)
    go.set()
    logs.flush(30)
    assert handler.texts[-2:] == ["1", "2"]


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G3_a_logger_class_of_the_program_may_fail(name):
    class Broken(logging.Logger):
        def isEnabledFor(self, level):
            if level == logging.ERROR:
                strangers.throw(name)
            return level == logging.CRITICAL

    plain = logging.getLoggerClass()
    logging.setLoggerClass(Broken)
    try:
        log = logs.QueuedLogger(f"gmdp.test.broken {name}")
    finally:
        logging.setLoggerClass(plain)
    handler = Handler()
    logging.getLogger(f"gmdp.test.broken {name}").addHandler(handler)
    for method in (log.debug, log.error, log.critical):
        in_greenlet(method, method.__name__)
    logs.flush(30)
    assert handler.texts == ["critical"]


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G3_the_caller_s_own_timeout_or_end_arrives_where_it_writes_at_once(attach, name):
    """Other errors are the handler's, and spare the other handlers."""
    error = strangers.error(name)

    def fail(record):
        raise error

    other = Handler()
    log = attach("gmdp.test", Handler(fail), other)
    if isinstance(error, Exception):
        log.warning("one")
        assert other.texts == ["one"]
    else:
        with pytest.raises(BaseException) as caught:
            log.warning("one")
        assert caught.value is error


@pytest.mark.parametrize("threaded", [True, False])
def test_G3_a_thread_that_ends_lets_go_of_a_handler_that_waits(attach, monkeypatch, unused_endpoint, threaded):
    """The next greenlet that logs would wait for the handler's lock for ever; so would the interpreter's end."""
    monkeypatch.setattr(logs, "FLUSH_TIMEOUT", 0.05)
    main, waited = threading.get_ident(), []

    def wait(record):
        if record.thread != main:
            waited.append(record)
            gevent.sleep(600)

    handler = Handler(wait)
    attach("gmdp", handler, level=logging.WARNING)

    def call():
        with Client(unused_endpoint, timeout=0.1, threaded=threaded) as client, pytest.raises(RequestTimeout):
            client.request("it", b"")
        if not threaded:
            gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: not thread.is_alive())
    assert waited
    free = handler.lock.acquire(timeout=5)
    handler.createLock()  # the end of this process would wait for the other one
    assert free


def test_G3_a_record_that_is_cut_off_is_counted_and_those_behind_it_are_kept(attach):
    handler, told = Handler(lambda record: gevent.sleep(600) if "0" in record.getMessage() else None), Handler()
    log = attach("gmdp.test", handler)
    attach("gmdp", told)
    for number in range(3):
        in_greenlet(log.warning, "%d", number)
    gevent.sleep(0)
    logs._queues[gevent.get_hub()].stop_writer()
    assert handler.texts == []
    in_greenlet(log.warning, "%d", 3)
    logs.flush(30)
    assert handler.texts == ["1", "2", "3"]
    assert any(text.startswith("1 log records were dropped") for text in told.texts)


def test_G3_many_records_let_other_greenlets_run(attach):
    handler = Handler()
    log = attach("gmdp.test", handler)
    turns = []

    def log_many():
        for number in range(4 * logs.LogQueue.burst):
            log.warning("%d", number)

    in_greenlet(log_many)
    while not logs._queues[gevent.get_hub()].is_idle:
        turns.append(len(handler.records))
        gevent.sleep(0)
    assert len(set(turns)) >= 4


# Brokers, workers and clients


def requests_go_on(client):
    assert [client.request("echo", b"%d" % number) for number in range(20)] == [[b"%d" % n] for n in range(20)]


@pytest.fixture
def echo(broker):
    """A client of a service that echoes."""
    with Worker(broker.endpoint, "echo", lambda request: request.body), Client(broker.endpoint, timeout=20) as client:
        yield client


def failing_worker(broker):
    def fail(request):
        raise ValueError("logged")

    return Worker(broker.endpoint, "fails", fail)


def test_G3_a_log_handler_that_waits_delays_no_owner(attach, broker, echo):
    go = Event()
    handler = Handler(lambda record: go.wait())
    for name in ("gmdp.worker", "gmdp.broker", "gmdp.connections"):
        attach(name, handler)
    with failing_worker(broker) as worker:
        for _ in range(3):
            with pytest.raises(Exception, match="handler failed"):
                echo.request("fails", b"")
        requests_go_on(echo)
        assert worker.statistics().errors == 3
        assert handler.records == []
        go.set()
        wait_until(lambda: sum("failed" in text for text in handler.texts) == 3)


def test_G3_a_log_handler_may_call_the_client_that_logs(attach, broker, echo):
    answers = []

    def ask(record):
        answers.append(echo.request("echo", b"from the log"))

    attach("gmdp.worker", Handler(ask), level=logging.WARNING)
    with failing_worker(broker):
        with pytest.raises(Exception, match="handler failed"):
            echo.request("fails", b"")
        wait_until(lambda: answers == [[b"from the log"]])
        requests_go_on(echo)


def test_G3_a_log_handler_may_close_the_client(attach, broker):
    client = AsyncClient(broker.endpoint)
    closed = []

    def close(record):
        if not closed:
            closed.append(True)
            client.close()

    attach("gmdp.worker", Handler(close), level=logging.WARNING)
    with failing_worker(broker):
        future = client.submit("fails", b"")
        wait_until(lambda: client.closed)
        assert future.ready()


def test_G3_a_stop_waits_for_the_log_but_not_for_long(attach, monkeypatch):
    go = Event()
    handler = Handler(lambda record: go.wait())
    attach("gmdp", handler)
    broker = Broker("tcp://127.0.0.1:*")
    in_greenlet(broker.start)
    gevent.spawn_later(0.02, go.set)
    broker.stop()
    assert any("closed" in text for text in handler.texts)
    go.clear()
    in_greenlet(broker.start)
    monkeypatch.setattr(logs.LogQueue.flush, "__defaults__", (0.02,))
    broker.stop()
    assert broker.closed
    go.set()


def test_G3_a_thread_that_stops_an_owner_finds_its_log_written(attach, broker):
    """So does one that asks an owner for something."""
    handler = Handler(lambda record: gevent.sleep(0.01))
    attach("gmdp", handler)
    found = []

    def ask():
        broker._owner.call(logs.QueuedLogger("gmdp").warning, "asked", timeout=20)
        found.append("asked" in handler.texts)
        broker.stop()
        found.append(any("closed" in text for text in handler.texts))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: not thread.is_alive())
    assert found == [True, True]


def test_G3_the_thread_of_a_client_writes_its_log_before_it_ends(attach, broker):
    handler = Handler(lambda record: gevent.sleep(0.001))
    attach("gmdp", handler)
    client = Client(broker.endpoint, threaded=True)
    assert client.request("mmi.nothing", b"") == [b"501"]
    client.close()
    closing = [record for record in handler.records if "draining -> closed" in record.getMessage()]
    assert len(closing) == 1
    assert closing[0].thread != threading.get_ident()


EXIT = """
import gevent, logging, sys, gmdp
from gmdp.io import logs

class Slow(logging.StreamHandler):
    def emit(self, record):
        gevent.sleep(0.001)
        super().emit(record)

logging.getLogger("gmdp.test").addHandler(Slow(sys.stdout))
broker = gmdp.Broker("tcp://127.0.0.1:*")
broker.start()
log = logs.QueuedLogger("gmdp.test")
gevent.spawn(lambda: [log.warning("%d", number) for number in range(20)]).join()
"""


def test_G3_what_is_logged_before_the_interpreter_ends_is_written():
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(number) for number in range(20)], done.stderr
    assert done.stderr == ""


FORK = """
import os
go = gevent.event.Event()
child = os.fork()
if child == 0:
    print("child", logs._queues[gevent.get_hub()].is_idle, flush=True)
    gevent.spawn(log.warning, "of the child").join()
    logs.flush(30)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


def test_G3_the_child_of_a_fork_begins_with_an_empty_queue():
    script = EXIT.replace("import gevent,", "import gevent.event, gevent,") + FORK
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["child True", "of the child"], (lines, done.stderr)
    assert lines[2:] == [str(number) for number in range(20)]


FORK_IN_C = """
import ctypes, os
gevent.sleep(0)  # a record is being written
writer = logs._queues[gevent.get_hub()]._writer
child = ctypes.PyDLL(None).fork()
if child == 0:
    if sys.argv[1:] == ["logs"]:
        gevent.spawn(log.warning, "of the child").join()
        gevent.spawn(logs.flush, 30).join()
    else:
        print("of the child" if broker.closed else "")
    writer.join(30)  # the copy of the parent's
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("act", ["logs", "asks"])
def test_G3_the_child_of_a_fork_in_c_does_not_write_the_parent_s_records(act):
    done = subprocess.run([sys.executable, "-c", EXIT + FORK_IN_C, act], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0] == "of the child", (lines, done.stderr)
    assert lines[1:] == [str(number) for number in range(20)]


EXIT_OF_ANOTHER_THREAD = """
import threading
logs.FLUSH_TIMEOUT = 0.1
Slow.emit = lambda self, record: gevent.sleep(600)

def run():
    with gmdp.Broker("tcp://127.0.0.1:*"):
        gevent.spawn(lambda: [log.warning("%d", number) for number in range(3)]).join()

broker.stop()
thread = threading.Thread(target=run)
thread.start()
thread.join()
print(sum(len(queue.entries) for queue in logs._queues.values()), flush=True)
"""


def test_G3_the_interpreter_s_end_waits_for_no_handler_of_another_thread_s_records():
    script = EXIT.partition("gevent.spawn(lambda")[0] + EXIT_OF_ANOTHER_THREAD
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert int(done.stdout) >= 2, done.stderr
    assert done.stderr == ""


EXIT_AFTER_A_THREAD = """
import logging, sys, threading
import gevent
import gmdp
from gmdp.io import logs

class Slow(logging.StreamHandler):
    def emit(self, record):
        if threading.current_thread() is not threading.main_thread():
            entered.append(record)
            gevent.sleep(600)
        super().emit(record)

logging.getLogger("gmdp.test").addHandler(Slow(sys.stdout))
entered, log = [], logs.QueuedLogger("gmdp.test")

def run():
    client = gmdp.Client("tcp://127.0.0.1:1")
    client.start()
    for text in sys.argv[1:]:
        gevent.spawn(log.warning, text).join()
    while not entered:
        gevent.sleep(0.001)

thread = threading.Thread(target=run)
thread.start()
thread.join()
print("ended", flush=True)
"""


@pytest.mark.parametrize("records", [["held"], ["held", "behind it"]], ids=["one record", "two records"])
def test_P6_the_interpreter_ends_though_a_thread_ended_in_a_log_handler(records):
    """Nothing was closed in the thread, and the handler's lock is that thread's for ever."""
    command = [sys.executable, "-c", EXIT_AFTER_A_THREAD, *records]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["ended", *records[1:]]


def test_G3_the_interpreter_s_end_waits_for_no_handler():
    """Where gevent has patched the locks of handlers, the writer holds one, and logging would wait for it."""
    script = "import gevent.monkey; gevent.monkey.patch_all()" + EXIT.replace("0.001", "600")
    script += "logs.FLUSH_TIMEOUT = 0.1"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
