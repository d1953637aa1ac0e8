"""Workers that compute, are frozen or are cut off, in real processes: who is alive, and for how long (rows L and F)."""

import math
import signal
import threading
import time
from time import monotonic

import gevent
import peers
import pytest
import zmq.green
from gevent.event import Event
from links import cuttable, slow
from processes import Process
from victims import worker_process
from waiting import wait_until
from zmtp import Zmtp, ZmtpServer

from gmdp import AsyncClient, Broker, BrokerLost, Client, State, Worker, WorkerLost

pytestmark = pytest.mark.both_ends

#: The heartbeats of the short tests.
INTERVAL = 0.2
EXPIRY = 3 * INTERVAL
TIMES = ("--heartbeat-interval", str(INTERVAL), "--liveness", "3")


@pytest.fixture
def broker():
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=INTERVAL) as broker:
        yield broker


@pytest.fixture
def runs(tmp_path):
    """A file that has a line for each run of a handler of `faulty.computing`."""
    file = tmp_path / "runs"
    file.touch()
    return file


def started(runs, count=1):
    wait_until(lambda: len(runs.read_bytes().splitlines()) == count)


def check_computes(bind, runs, seconds, version, *options, **times):
    """A worker process computes for some seconds: the request is run once, and answered."""
    with (
        Broker(bind, **times) as broker,
        worker_process(broker.endpoint, "computing", "--mdp", version, *options, times=False) as worker,
        AsyncClient(broker.endpoint, version=version, timeout=10 * seconds) as client,
    ):
        assert client.request("it", [bytes(runs), b"%g" % seconds]) == [b"%d" % worker.pid]
        started(runs)
        now = broker.statistics()
        assert (now.redeliveries, now.lost_workers, now.registrations) == (0, {}, 1)


@pytest.mark.parametrize(("transport", "version"), [("tcp://127.0.0.1:*", "0.2"), ("ipc://*", "0.1")])
def test_L1_L2_a_handler_that_computes_for_longer_than_the_expiry_is_run_once(runs, transport, version):
    check_computes(transport, runs, 2.5 * EXPIRY, version, *TIMES, heartbeat_interval=INTERVAL)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.1", "0.2"])
@pytest.mark.parametrize("transport", ["tcp://127.0.0.1:*", "ipc://*"])
def test_L1_L2_with_all_defaults_ten_seconds_of_computing_are_run_once(runs, transport, version):
    check_computes(transport, runs, 10.0, version)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_L2_on_inproc_in_two_threads_a_handler_that_blocks_its_hub_is_run_once(version):
    """The process is the broker's own: nothing but the busy_timeout ends the work."""
    began, ended = [], []

    def handler(request):
        began.append(request.attempt)
        _sleep(3 * EXPIRY)
        return b"done"

    def serve(endpoint):
        worker = Worker(endpoint, "it", handler, version=version, heartbeat_interval=INTERVAL, context=context)
        worker.start()
        while not ended:
            gevent.sleep(0.01)
        worker.close()
        gevent.get_hub().destroy(destroy_loop=True)

    with (
        zmq.green.Context() as context,
        Broker("inproc://long-work", heartbeat_interval=INTERVAL, context=context) as broker,
    ):
        thread = threading.Thread(target=serve, args=(broker.endpoint,))
        thread.start()
        try:
            with Client(broker.endpoint, version=version, timeout=60, context=context) as client:
                wait_until(lambda: broker.statistics().workers == 1)
                assert client.request("it", b"x") == [b"done"]
                assert (began, broker.statistics().lost_workers) == ([1], {})
        finally:
            ended.append(True)
            thread.join()


#: Blocks the thread, whatever is patched: what a handler that computes does to its hub.
_sleep = time.sleep


def test_L1_a_mute_worker_gets_nothing_new_and_an_idle_one_all(broker, runs):
    with (
        worker_process(broker.endpoint, "computing", *TIMES, times=False) as mute,
        AsyncClient(broker.endpoint, timeout=60) as client,
    ):
        first = client.submit("it", [bytes(runs), b"%g" % (4 * EXPIRY)])
        started(runs)
        wait_until(lambda: broker._core.awaits_mute)
        with worker_process(broker.endpoint, "computing", *TIMES, times=False) as idle:
            for _ in range(3):
                assert client.request("it", [bytes(runs), b"0"]) == [b"%d" % idle.pid]
        assert first.get() == [b"%d" % mute.pid]
        assert client.request("it", [bytes(runs), b"0"]) == [b"%d" % mute.pid]
    assert broker.statistics().redeliveries == 0


def test_L2_what_a_worker_of_four_sessions_has_not_begun_goes_to_an_idle_one(broker, runs):
    """One session computes, three others have requests not yet begun."""
    with (
        worker_process(broker.endpoint, "computing", "--concurrency", "4", *TIMES, times=False) as mute,
        AsyncClient(broker.endpoint, timeout=60) as client,
    ):
        wait_until(lambda: broker.statistics().workers == 4)
        first = client.submit("it", [bytes(runs), b"%g" % (6 * EXPIRY)])
        started(runs)
        others = [client.submit("it", [bytes(runs), b"0"]) for _ in range(3)]
        wait_until(lambda: broker.statistics().assigned == 4)
        with worker_process(broker.endpoint, "computing", "--concurrency", "3", *TIMES, times=False) as idle:
            assert [future.get() for future in others] == [[b"%d" % idle.pid]] * 3
            assert not first.ready()
            assert first.get() == [b"%d" % mute.pid]
            wait_until(lambda: broker.statistics().workers == 7)
        assert len(runs.read_bytes().splitlines()) == 4
    now = broker.statistics()
    assert (now.redeliveries, now.lost_workers["recalled"]) == (0, 3)


def test_L1_who_is_silent_for_the_busy_timeout_is_lost_and_the_error_and_the_log_name_the_option(caplog):
    with (
        Broker("tcp://127.0.0.1:*", heartbeat_interval=0.05, busy_timeout=0.3, attempts=1) as broker,
        peers.dealer(broker.endpoint) as worker,
        AsyncClient(broker.endpoint, timeout=60) as client,
        caplog.at_level("INFO", "gmdp.broker"),
    ):
        worker.send(b"MDPW02", b"\x01", b"it")
        future = client.submit("it", b"x")
        with pytest.raises(WorkerLost, match=r"the worker was silent for busy_timeout=0\.3 while it worked"):
            future.get()
        wait_until(lambda: ": busy_timeout" in caplog.text)
        assert broker.statistics().lost_workers == {"busy_timeout": 1}


# How soon a process that has ended is found out, while its worker computes


def end_by_signal(number):
    def end(worker, passing):
        worker.signal(number)

    return end


def cut(worker, passing):
    passing.update({"in": False, "out": False})


@pytest.mark.parametrize("state", ["idle", "computing"])
@pytest.mark.parametrize(
    ("end", "within"),
    [(end_by_signal(signal.SIGKILL), INTERVAL), (end_by_signal(signal.SIGSTOP), EXPIRY), (cut, EXPIRY)],
    ids=["SIGKILL", "SIGSTOP", "cut"],
)
def test_L1_a_process_that_has_ended_is_found_out_as_fast_as_before(broker, runs, end, within, state):
    with (
        cuttable(broker.endpoint) as (endpoint, passing),
        worker_process(endpoint, "computing", *TIMES, times=False) as worker,
        AsyncClient(broker.endpoint, timeout=60) as client,
    ):
        wait_until(lambda: broker.statistics().workers == 1)
        if state == "computing":
            client.submit("it", [bytes(runs), b"60"])
            started(runs)
            wait_until(lambda: broker._core.awaits_mute)  # it is mute, and its process lives
        end(worker, passing)
        ended = monotonic()
        wait_until(lambda: broker.statistics().workers == 0)
        assert monotonic() - ended < within + INTERVAL
        assert broker.statistics().queued == (state == "computing")


# Brokers that are silent, and brokers that are frozen


class GuideBroker(peers.StrictBroker):
    """The loop of the ZeroMQ guide's broker (mdbroker.py), for one worker: it heartbeats idle workers only."""

    def serve(self, interval, expiry, answers):
        waiting, expires_at, beat_at = None, math.inf, monotonic() + interval
        while True:
            try:
                sender, empty, header, *rest = self.recv(timeout=max(0.001, beat_at - monotonic()))
            except AssertionError:
                pass
            else:
                assert (empty, header) == (b"", b"MDPW01")
                command, *body = rest
                if command == b"\x05":
                    waiting = None
                elif command == b"\x04":
                    expires_at = monotonic() + expiry
                else:
                    if command == b"\x03":
                        answers.append(body[2:])
                    waiting, expires_at = sender, monotonic() + expiry
                    request = answers.next_request()
                    if request is not None:
                        self.send(sender, b"", b"MDPW01", b"\x02", b"client", b"", request)
                        waiting = None
            if monotonic() > beat_at:
                beat_at = monotonic() + interval
                if waiting is not None and monotonic() > expires_at:
                    answers.purged += 1
                    waiting = None
                if waiting is not None:
                    self.send(waiting, b"", b"MDPW01", b"\x04")


class Answers(list):
    """The answers so far, and what is asked."""

    def __init__(self, *requests):
        super().__init__()
        self._requests = list(requests)
        self.purged = 0

    def next_request(self):
        """The next request; None if there is none."""
        return self._requests.pop(0) if self._requests else None


def check_guide_broker(interval, seconds, **times):
    answers, work = Answers(b"1", b"2"), []

    def handler(request):
        work.append(request.body)
        gevent.sleep(seconds)
        return [b"done", *request.body]

    with GuideBroker(zmq.ROUTER, peers.ANYWHERE, bind=True) as guide:
        serving = gevent.spawn(guide.serve, interval, 3 * interval, answers)
        with Worker(guide.endpoint, "it", handler, version="0.1", **times) as worker:
            wait_until(lambda: len(answers) == 2 or serving.dead)
            # It goes on as an idle worker.
            until = monotonic() + 4 * interval
            wait_until(lambda: monotonic() > until)
            assert worker.state is State.RUNNING
            assert worker.statistics().reconnects == 0
        serving.kill()
    assert (list(answers), work, answers.purged) == ([[b"done", b"1"], [b"done", b"2"]], [[b"1"], [b"2"]], 0)


def test_L3_work_for_a_broker_that_heartbeats_idle_workers_only_is_answered():
    check_guide_broker(0.1, 0.6, heartbeat_interval=0.1)


@pytest.mark.slow
@pytest.mark.once
def test_L3_twelve_seconds_of_work_for_the_guide_s_broker_are_answered():
    check_guide_broker(2.5, 12.0)


def test_F11_a_busy_worker_sends_an_rfc_only_broker_heartbeats():
    """A broker that takes nothing else for a sign of life keeps a worker that answers all the time."""
    with peers.StrictBroker(zmq.ROUTER, peers.ANYWHERE, bind=True) as strict:
        with Worker(strict.endpoint, "it", lambda request: b"", version="0.1", heartbeat_interval=INTERVAL):
            sender, *_ = strict.recv()
            heard, until, heartbeats = monotonic(), monotonic() + 5 * EXPIRY, 0
            while monotonic() < until:
                strict.send(sender, b"", b"MDPW01", b"\x02", b"client", b"", b"x")
                while strict.recv()[3] == b"\x04":
                    heartbeats += 1
                    assert monotonic() - heard < EXPIRY
                    heard = monotonic()
            assert heartbeats >= 13  # of 15


def test_L3_a_frozen_broker_is_noticed_while_its_worker_has_work(unused_endpoint, runs):
    """The trust in a socket ends with the process at its other end: SIGSTOP is found out within the expiry."""
    with Process("broker", "--bind", unused_endpoint, *TIMES) as process:
        process.listening()
        release = Event()
        worker = Worker(unused_endpoint, "it", lambda r: release.wait() and b"", heartbeat_interval=INTERVAL)
        client = AsyncClient(unused_endpoint, timeout=60)
        client.heartbeat_interval = INTERVAL
        with worker, client:
            future = client.submit("it", b"")
            wait_until(lambda: worker.statistics().busy == 1)
            process.signal(signal.SIGSTOP)
            frozen = monotonic()
            wait_until(lambda: worker.state is State.CONNECTING)
            assert monotonic() - frozen < EXPIRY + INTERVAL
            with pytest.raises(BrokerLost):
                future.get()
            release.set()


# Slow links, and peers that know no PING


@pytest.mark.parametrize("takes", [0.6, 3.0])
def test_L6_a_frame_arrives_that_crosses_its_link_within_the_expiry(takes):
    """Bytes that arrive are no sign of life to ZeroMQ: a frame is one when it is complete."""
    interval, size = 0.5, 1_000_000
    with (
        Broker("tcp://127.0.0.1:*", heartbeat_interval=interval) as broker,
        slow(broker.endpoint, rate=size / (takes * 3 * interval)) as endpoint,
        Client(endpoint, timeout=10) as client,
        Worker(broker.endpoint, "it", lambda request: b"%d" % len(request.body[0])) as worker,
    ):
        wait_until(lambda: worker.state is State.RUNNING)
        if takes < 1:
            assert client.request("it", bytes(size)) == [b"%d" % size]
        else:
            with pytest.raises(
                BrokerLost, match=r"a frame must cross its link in less than .* and the largest one had 1000000 bytes"
            ):
                client.request("it", bytes(size))


@pytest.mark.parametrize("zmtp_heartbeats", [True, False])
def test_F5_a_client_that_knows_no_ping_may_be_silent_while_it_waits(zmtp_heartbeats):
    with (
        Broker("tcp://127.0.0.1:*", heartbeat_interval=INTERVAL, zmtp_heartbeats=zmtp_heartbeats) as broker,
        peers.dealer(broker.endpoint) as worker,
        Zmtp.connect(broker.endpoint, "3.0", "REQ") as client,
    ):
        worker.send(b"MDPW02", b"\x01", b"it")
        client.send(b"", b"MDPC01", b"it", b"question")
        token = worker.recv()[2]
        until = monotonic() + 2.5 * EXPIRY
        wait_until(lambda: monotonic() > until)
        worker.send(b"MDPW02", b"\x04", token, b"", b"answer")
        if zmtp_heartbeats:
            with pytest.raises(EOFError):
                client.recv()
        else:
            assert client.recv() == [b"", b"MDPC01", b"it", b"answer"]
            assert client.commands == []


@pytest.mark.parametrize("zmtp_heartbeats", [True, False])
def test_F5_a_worker_that_knows_no_ping_may_be_silent_while_it_works(zmtp_heartbeats):
    with (
        Broker("tcp://127.0.0.1:*", heartbeat_interval=INTERVAL, zmtp_heartbeats=zmtp_heartbeats) as broker,
        Zmtp.connect(broker.endpoint, "3.0", "DEALER") as worker,
        AsyncClient(broker.endpoint, timeout=60) as client,
    ):
        worker.send(b"", b"MDPW01", b"\x01", b"it")
        future = client.submit("it", b"question")
        token = worker.recv()[3]
        until = monotonic() + 2.5 * EXPIRY
        wait_until(lambda: monotonic() > until)
        if zmtp_heartbeats:
            assert broker.statistics().workers == 0
        else:
            worker.send(b"", b"MDPW01", b"\x03", token, b"", b"answer")
            assert future.get() == [b"answer"]


@pytest.mark.parametrize("zmtp_heartbeats", [True, False])
@pytest.mark.parametrize("which", ["client", "worker"])
def test_F5_a_broker_that_knows_no_ping_is_waited_for(which, zmtp_heartbeats):
    seen = []

    def serve(connection):
        while True:
            message = connection.recv()
            if message[2:3] == [b"mmi.gmdp"]:
                connection.send(b"", b"MDPC01", b"mmi.gmdp", b"501")
                continue
            seen.append(message)
            if which == "client":
                gevent.sleep(2.5 * EXPIRY)
                connection.send(b"", b"MDPC01", b"it", b"answer")
            elif message[2:3] == [b"\x01"]:
                connection.send(b"", b"MDPW01", b"\x02", b"client", b"", b"question")

    with ZmtpServer("3.0", serve) as server:
        if which == "client":
            client = Client(server.endpoint, version="0.1", timeout=60, zmtp_heartbeats=zmtp_heartbeats)
            client.heartbeat_interval = INTERVAL
            with client:
                if zmtp_heartbeats:
                    with pytest.raises(BrokerLost):
                        client.request("it", b"question")
                else:
                    assert client.request("it", b"question") == [b"answer"]
            return
        handler = lambda request: gevent.sleep(2.5 * EXPIRY) or b"answer"  # noqa: E731
        options = {"version": "0.1", "heartbeat_interval": INTERVAL, "zmtp_heartbeats": zmtp_heartbeats}
        with Worker(server.endpoint, "it", handler, **options):
            if zmtp_heartbeats:
                wait_until(lambda: server.accepted == 2)
                assert b"answer" not in [message[-1] for message in seen]
            else:
                wait_until(lambda: b"answer" in [message[-1] for message in seen])
                assert server.accepted == 1
