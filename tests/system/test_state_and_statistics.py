"""States and statistics under load: many readers, one writer.

100,000 concurrent accesses to states, 50,000 concurrent reads of statistics by 500 readers
and 100 transitions of the life cycle, while requests flow.  No update is lost, and every read
shows the present state.
"""

import dataclasses
import threading

import gevent
import pytest
from gevent.pool import Group
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, HandlerFailed, State, StateError, Worker
from gmdp.core.broker.records import REQUEST_COST
from gmdp.core.broker.statistics import BrokerStatistics
from gmdp.core.peer.statistics import ClientStatistics, WorkerStatistics

READERS = 500
CYCLES = 25  # four transitions each


def echo(request):
    return request.body


class Flow:
    """A broker, a worker, and a client that asks until the end of the block."""

    def __init__(self):
        self.broker = Broker("tcp://127.0.0.1:*")
        self.replies = 0
        self.stopping = False

    def __enter__(self):
        self.broker.start()
        self.worker = Worker(self.broker.endpoint, "echo", echo, concurrency=4)
        self.client = AsyncClient(self.broker.endpoint)
        self.worker.start()
        self.askers = Group()
        for _ in range(4):
            self.askers.spawn(self._ask)
        return self

    def _ask(self):
        while not self.stopping:
            body = b"%d" % self.replies
            assert self.client.request("echo", body) == [body]
            self.replies += 1

    def __exit__(self, *exc_info):
        self.stopping = True
        self.askers.join(raise_error=True)
        self.client.close()
        self.worker.stop()
        self.broker.stop()


def test_100_000_concurrent_state_accesses():
    with Flow() as flow:
        wait_until(lambda: flow.replies)
        before = flow.replies
        seen = []

        def access():
            for _ in range(200):
                seen.append((flow.broker.state, flow.worker.state, flow.client.state))
                assert flow.broker.started
                assert not flow.worker.closed
                gevent.sleep(0)

        readers = Group()
        for _ in range(READERS):
            readers.spawn(access)
        readers.join(raise_error=True)
        assert len(seen) == 100_000
        assert set(seen) == {(State.RUNNING,) * 3}
        assert flow.replies > before


def test_50_000_concurrent_statistics_reads_by_500_readers():
    """Each snapshot is consistent in itself, and none is older than one that was read before."""
    with Flow() as flow:
        wait_until(lambda: flow.replies)
        reads = []

        def read():
            last = 0
            for _ in range(100):
                now = flow.broker.statistics()
                assert now.requests == now.replies + sum(now.ended.values()) + now.queued + now.assigned
                assert now.workers == now.idle + now.busy
                # A reply is counted before its caller gets it.
                assert now.replies >= flow.replies
                assert now.requests >= last
                last = now.requests
                of_client = flow.client.statistics()
                assert of_client.requests == (
                    of_client.replies + of_client.in_flight + of_client.waiting + of_client.timeouts
                )
                of_worker = flow.worker.statistics()
                assert of_worker.requests == of_worker.replies + of_worker.busy
                reads.append(last)
                gevent.sleep(0)

        before = flow.replies
        readers = Group()
        for _ in range(READERS):
            readers.spawn(read)
        readers.join(raise_error=True)
        assert len(reads) == 50_000
        assert flow.replies > before
    final = flow.broker.statistics()
    assert final.replies == flow.replies == flow.client.statistics().replies == flow.worker.statistics().replies


def test_100_transitions_of_the_life_cycle_while_requests_flow():
    """Subscribers get every transition, in order; totals go on; other objects notice nothing."""
    with Flow() as flow:
        worker = Worker(flow.broker.endpoint, "other", echo)
        changes = worker.subscribe()
        client = Client(flow.broker.endpoint)
        for number in range(CYCLES):
            worker.start()
            wait_until(lambda: worker.state is State.RUNNING)
            assert client.request("other", b"%d" % number) == [b"%d" % number]
            client.close()
            client.start()
            worker.stop()
        seen = [changes.get() for _ in range(changes.qsize())]
        cycle = [State.STARTING, State.CONNECTING, State.RUNNING, State.DRAINING, State.CLOSED]
        assert [change.new for change in seen] == cycle * CYCLES
        assert len(seen) >= 100
        assert worker.statistics().requests == worker.statistics().replies == CYCLES
        assert client.statistics().requests == client.statistics().replies == CYCLES
        client.close()


@pytest.mark.parametrize("kind", ["broker", "worker", "client"])
def test_threads_read_statistics_of_a_running_hub(kind):
    with Flow() as flow:
        wait_until(lambda: flow.replies)
        shell = getattr(flow, kind)
        results, ended = [], []

        def read():
            for _ in range(100):
                results.append(shell.statistics().requests)
            ended.append(1)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(ended) == 8)
        for thread in threads:
            thread.join()
        assert len(results) == 800
        assert max(results) > 0


def test_a_thread_gets_an_error_when_the_hub_does_not_run(monkeypatch):
    monkeypatch.setattr("gmdp.io.lifecycle.OWNER_TIMEOUT", 0.05)
    with Broker("tcp://127.0.0.1:*") as broker:
        errors = []

        def read():
            try:
                broker.statistics()
            except StateError as error:
                errors.append(str(error))

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        assert len(errors) == 1
        assert "did not run" in errors[0]


def test_a_thread_stops_a_broker():
    broker = Broker("tcp://127.0.0.1:*")
    broker.start()
    thread = threading.Thread(target=broker.stop)
    thread.start()
    wait_until(lambda: broker.closed)
    wait_until(lambda: not thread.is_alive())
    assert broker.closed


def test_statistics_answer_in_every_state():
    broker = Broker("tcp://127.0.0.1:*")
    worker, client = Worker("tcp://127.0.0.1:1", "echo", echo), Client("tcp://127.0.0.1:1")
    for shell, kind in ((broker, BrokerStatistics), (worker, WorkerStatistics), (client, ClientStatistics)):
        assert isinstance(shell.statistics(), kind)
        shell.start()
        assert isinstance(shell.statistics(), kind)
        shell.stop()
        assert isinstance(shell.statistics(), kind)


def test_snapshots_are_immutable(broker):
    with Worker(broker.endpoint, "echo", echo) as worker, Client(broker.endpoint) as client:
        client.request("echo", b"")
        snapshot = broker.statistics()
        for frozen in (snapshot, worker.statistics(), client.statistics(), snapshot.services[b"echo"]):
            with pytest.raises(dataclasses.FrozenInstanceError):
                frozen.requests = 0
        for table in (snapshot.services, snapshot.ended, snapshot.drops, snapshot.lost_workers):
            with pytest.raises(TypeError):
                table["x"] = 1
        client.request("echo", b"")
        assert snapshot.requests == 1
        assert broker.statistics().requests == 2


def test_what_the_statistics_show(broker):
    hold = gevent.event.Event()

    def handler(request):
        if request.body == [b"hold"]:
            hold.wait()
        if request.body == [b"fail"]:
            raise ValueError
        if request.body == [b"parts"]:
            return iter([b"1", b"2"])
        return b""

    with Worker(broker.endpoint, "it", handler, concurrency=2) as worker, AsyncClient(broker.endpoint) as client:
        for body in (b"plain", b"parts"):
            client.request("it", body)
        with pytest.raises(HandlerFailed):
            client.request("it", b"fail")
        held = [client.submit("it", b"hold") for _ in range(3)]
        wait_until(lambda: broker.statistics().queued == 1 and worker.statistics().busy == 2)
        now = broker.statistics()
        service = now.services[b"it"]
        assert (service.workers, service.idle, service.busy, service.queued) == (2, 0, 2, 1)
        assert (service.requests, service.replies) == (6, 3)
        assert service.oldest > 0
        assert (now.requests, now.replies, now.partials, now.handler_failures) == (6, 3, 2, 1)
        assert (now.assigned, now.queued, now.queued_bytes) == (2, 1, 3 * REQUEST_COST + 12)
        assert (now.expiries, now.redeliveries) == (0, 0)
        assert now.uptime > 0
        of_client = client.statistics()
        assert (of_client.requests, of_client.replies, of_client.errors) == (6, 2, 1)
        assert (of_client.in_flight, of_client.waiting) == (3, 0)
        hold.set()
        gevent.joinall(held)
        of_worker = worker.statistics()
        assert (of_worker.requests, of_worker.replies, of_worker.errors, of_worker.partials) == (6, 6, 1, 2)
        assert (of_worker.sessions, of_worker.registered, of_worker.reconnects) == (2, 2, 0)
        assert of_worker.busy_time > 0
