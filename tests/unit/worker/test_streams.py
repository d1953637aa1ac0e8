"""Handlers that wait in their ``yield`` until their reader reads: greenlets and threads, and what wakes them."""

import threading

import gevent
import pytest
from gevent.event import Event
from waiting import wait_until

from gmdp import Broker, BrokerShuttingDown, Client, RequestCancelled, StreamStalled, Worker

SIZE = 30_000
#: Parts that a handler has sent when it waits for the reader of the first 64 KiB.
AHEAD = 3


class Endless:
    """A handler that yields without end, and what became of it."""

    def __init__(self):
        self.sent = 0
        self.ended = []
        self.threads = set()

    def __call__(self, request):
        self.threads.add(threading.get_ident())
        try:
            while True:
                self.sent += 1
                yield b"x" * SIZE
        except BaseException as error:
            self.ended.append(type(error))
            raise


@pytest.fixture
def endless():
    return Endless()


@pytest.fixture(params=["greenlet", "thread"])
def spawn(request, thread_pool):
    """Handlers run in greenlets, or in a pool of threads."""
    return None if request.param == "greenlet" else thread_pool(4)


def waits(endless, client):
    """Wait until the handler waits in its `yield`."""
    wait_until(lambda: client.statistics().partials == AHEAD and endless.sent == AHEAD)


def test_X9_a_handler_waits_in_its_yield_and_goes_on_as_its_reader_reads(broker, endless, spawn):
    with Worker(broker.endpoint, "it", endless, spawn=spawn), Client(broker.endpoint) as client:
        stream = client.stream("it", b"")
        waits(endless, client)
        assert (threading.get_ident() in endless.threads) is (spawn is None)
        for _ in range(200):
            assert len(next(stream)[0]) == SIZE
        assert endless.sent <= 200 + client.stream_window // SIZE + 2
        stream.close()
        wait_until(lambda: endless.ended == [GeneratorExit])


@pytest.mark.parametrize("enforce", [False, True])
def test_X9_a_cancel_wakes_a_handler_that_waits_in_its_yield(broker, endless, spawn, enforce):
    worker = Worker(broker.endpoint, "it", endless, spawn=spawn, enforce_deadline=enforce)
    with worker, Client(broker.endpoint, timeout=60) as client:
        stream = client.stream("it", b"")
        waits(endless, client)
        stream.close()
        wait_until(lambda: endless.ended)
        assert endless.sent == AHEAD
        wait_until(lambda: worker.statistics().busy == 0)
        # The session is free.
        again = client.stream("it", b"")
        assert next(again)
        again.close()


def test_X9_a_stalled_stream_ends_on_both_sides_and_frees_its_session(endless, spawn, caplog):
    caplog.set_level("INFO", "gmdp.worker")
    with Broker("tcp://127.0.0.1:*", stream_stall_timeout=0.2) as broker:
        worker = Worker(broker.endpoint, "it", endless, spawn=spawn)
        with worker, Client(broker.endpoint, timeout=60) as client:
            stream = client.stream("it", b"")
            wait_until(lambda: endless.ended == [StreamStalled])
            assert [len(next(stream)[0]) for _ in range(AHEAD)] == [SIZE] * AHEAD
            with pytest.raises(StreamStalled, match="took nothing for the broker's stream_stall_timeout"):
                next(stream)
            assert list(stream) == []
            wait_until(lambda: broker.statistics().assigned == 0)
            assert broker.statistics().stalled_streams == 1
            assert worker.statistics().callers_gone == 1
    (record,) = [record for record in caplog.records if "StreamStalled" in record.getMessage()]
    assert record.levelname == "INFO"


def test_a_handler_may_end_its_stalled_stream_in_its_own_way(broker):
    """Later parts and the answer are dropped."""
    seen = []

    def stubborn(request):
        for _ in range(2):
            try:
                while True:
                    yield b"x" * SIZE
            except StreamStalled as error:
                seen.append(error.service)
        return b"end"

    def orderly(request):
        try:
            while True:
                yield b"x" * SIZE
        except StreamStalled:
            return b"end"

    def iterator(request):
        return iter(lambda: b"x" * SIZE, b"")

    for handler in (stubborn, orderly, iterator):
        with Broker("tcp://127.0.0.1:*", stream_stall_timeout=0.2) as broker:
            with Worker(broker.endpoint, "it", handler) as worker, Client(broker.endpoint, timeout=60) as client:
                stream = client.stream("it", b"")
                wait_until(lambda broker=broker: broker.statistics().stalled_streams == 1)
                wait_until(lambda worker=worker: worker.statistics().busy == 0)
                assert worker.statistics().errors == (handler is iterator)  # which cannot be told
                stream.close()
    assert seen == [b"it"]


def test_X9_a_client_that_dies_frees_the_handler(broker, endless, spawn):
    with Worker(broker.endpoint, "it", endless, spawn=spawn), Client(broker.endpoint) as client:
        stream = client.stream("it", b"")
        waits(endless, client)
        client.close()  # as the end of its process: the broker hears that the connection is gone
        wait_until(lambda: endless.ended == [GeneratorExit])
        del stream


def test_X9_a_broker_that_goes_frees_the_handler(endless, spawn):
    with Broker("tcp://127.0.0.1:*") as broker:
        worker = Worker(broker.endpoint, "it", endless, spawn=spawn)
        with worker, Client(broker.endpoint, timeout=60) as client:
            stream = client.stream("it", b"")
            waits(endless, client)
            broker.close()
            wait_until(lambda: endless.ended == [GeneratorExit])
            with pytest.raises(BrokerShuttingDown):
                list(stream)
            broker.start()
            again = client.stream("it", b"")
            assert next(again)
            again.close()


def test_X9_a_worker_that_closes_frees_the_handler(broker, endless, spawn):
    with Client(broker.endpoint, timeout=60) as client:
        worker = Worker(broker.endpoint, "it", endless, spawn=spawn)
        worker.start()
        stream = client.stream("it", b"")
        waits(endless, client)
        worker.close()
        wait_until(lambda: endless.ended)
        stream.close()


def test_X9_two_streams_read_one_after_the_other_do_not_dead_lock(broker, spawn):
    """Whichever is read first, the other waits with what its reader has granted, and is whole then."""

    def handler(request):
        for _ in range(40):
            yield b"x" * 50_000

    class Small(Client):
        stream_bytes = 100_000
        stream_window = 500_000

    worker = Worker(broker.endpoint, "it", handler, spawn=spawn, concurrency=3)
    with worker, Small(broker.endpoint, timeout=60) as client:
        streams = [client.stream("it", b"") for _ in range(3)]
        for stream in streams:
            next(stream)
        for stream in reversed(streams):
            assert sum(1 for _ in stream) == 39


def test_an_answer_that_nobody_reads_part_by_part_needs_no_reader(broker, spawn):
    """Replies that are joined: of `request`, of futures, and of a client of MDP/0.1."""

    def handler(request):
        for _ in range(100):
            yield b"x" * SIZE

    with Worker(broker.endpoint, "it", handler, spawn=spawn):
        for version in ("0.2", "0.1"):
            with Client(broker.endpoint, version=version, timeout=60) as client:
                assert client.request("it", b"")[:100] == [b"x" * SIZE] * 100


def test_a_handler_in_its_own_wait_is_cancelled_as_before(broker):
    """With `enforce_deadline`, where it waits next; not only in its `yield`."""
    seen, entered = [], Event()

    def handler(request):
        yield b"first"
        try:
            entered.set()
            gevent.sleep(60)
        except RequestCancelled as error:
            seen.append(error)
            raise

    worker = Worker(broker.endpoint, "it", handler, enforce_deadline=True)
    with worker, Client(broker.endpoint, timeout=60) as client:
        stream = client.stream("it", b"")
        next(stream)
        entered.wait()
        stream.close()
        wait_until(lambda: len(seen) == 1)
