"""Faults of processes, sockets and the kernel, played with real ones (rows of the fault table by their number)."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from time import monotonic

import gevent
import peers
import pytest
from links import cuttable
from processes import Gate, Process
from victims import INTERVAL, LIVENESS, TOOLS, broker_process, resident, worker_process
from waiting import wait_until

from gmdp import AsyncClient, Broker, BrokerLost, Client, WorkerLost

pytestmark = pytest.mark.both_ends

EXPIRY = INTERVAL * LIVENESS
#: Bytes of an answer that does not fit into what the system holds for a connection.
LARGE = 15 * 1024 * 1024


@pytest.fixture
def broker():
    broker = Broker("tcp://127.0.0.1:*", heartbeat_interval=INTERVAL, liveness=LIVENESS)
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def client(broker):
    with AsyncClient(broker.endpoint, timeout=60) as client:
        yield client


def registered(broker, count):
    wait_until(lambda: broker.statistics().workers == count)


# Workers


def test_W1_kill_9_in_the_middle_of_requests(broker, client):
    """Twenty sessions of one process: lost within an interval, all requests delivered again, one reply each."""
    with worker_process(broker.endpoint, "slow_at_first", "--concurrency", "20") as first:
        registered(broker, 20)
        futures = [client.submit("it", [b"%d" % number]) for number in range(20)]
        wait_until(lambda: broker.statistics().assigned == 20)
        first.signal(signal.SIGKILL)
        killed = monotonic()
        wait_until(lambda: broker.statistics().workers == 0)
        assert monotonic() - killed < EXPIRY
        assert broker.statistics().lost_workers == {"unreachable": 20}
        with worker_process(broker.endpoint, "slow_at_first", "--concurrency", "20") as second:
            replies = [future.get() for future in futures]
            assert replies == [[b"%d" % second.pid, b"%d" % number] for number in range(20)]
    now = broker.statistics()
    assert (now.requests, now.replies, now.redeliveries, now.queued_bytes) == (20, 20, 20, 0)


def test_W2_frozen_and_thawed(broker, client):
    """Expired, and its request delivered again; after DISCONNECT the thawed worker registers again."""
    with worker_process(broker.endpoint, "slow") as frozen:
        registered(broker, 1)
        future = client.submit("it", [b"0.2", b"first"])
        wait_until(lambda: broker.statistics().assigned == 1)
        frozen.signal(signal.SIGSTOP)
        with worker_process(broker.endpoint, "slow") as other:
            assert future.get() == [b"%d" % other.pid, b"first"]
            lost = broker.statistics().lost_workers
            assert sum(lost.values()) == 1
            assert set(lost) <= {"expired", "unreachable"}
        registered(broker, 0)
        frozen.signal(signal.SIGCONT)
        registered(broker, 1)
        assert client.request("it", [b"0", b"second"]) == [b"%d" % frozen.pid, b"second"]
    assert client.statistics().late_replies == 0


def test_W2_a_late_reply_is_dropped_counted_and_answered_with_disconnect():
    """A bare worker is silent for too long, then sends its FINAL."""
    with (
        Broker("tcp://127.0.0.1:*", heartbeat_interval=0.1, busy_timeout=0.5) as broker,
        AsyncClient(broker.endpoint, timeout=60) as client,
        peers.dealer(broker.endpoint) as frozen,
    ):
        frozen.send(b"MDPW02", b"\x01", b"it")
        future = client.submit("it", b"x")
        token = frozen.recv()[2]
        wait_until(lambda: broker.statistics().lost_workers == {"busy_timeout": 1})
        frozen.send(b"MDPW02", b"\x04", token, b"", b"late")
        wait_until(lambda: broker.statistics().drops == {"unregistered": 1})
        assert frozen.pending()[-1] == [b"MDPW02", b"\x06"]
        assert not future.ready()


def test_W3_a_cut_that_nobody_is_told_of(broker, client):
    """Both sides notice within the expiry; the worker comes back on a new socket."""
    with cuttable(broker.endpoint) as (endpoint, passing), worker_process(endpoint, "slow") as worker:
        registered(broker, 1)
        future = client.submit("it", [b"0.2", b"x"])
        wait_until(lambda: broker.statistics().assigned == 1)
        passing.update({"in": False, "out": False})
        cut = monotonic()
        registered(broker, 0)
        assert monotonic() - cut < 2 * EXPIRY
        passing.update({"in": True, "out": True})
        registered(broker, 1)
        assert future.get() == [b"%d" % worker.pid, b"x"]
        assert broker.statistics().registrations == 2


def test_W15_the_last_answer_of_a_stopped_process_arrives(broker, client):
    """W15: an answer that takes its time to leave is not cut off by the end of the process."""
    with Gate() as gate, worker_process(broker.endpoint, "large") as stopped:
        future = client.submit("it", [gate.port.encode(), b"%d" % LARGE])
        gate.arrived()
        stopped.signal(signal.SIGTERM)
        gate.open()
        assert future.get() == [bytes(LARGE)]
        assert stopped.ended().status == 0
    assert broker.statistics().redeliveries == 0


def test_W4_a_reply_that_never_arrives(broker, client):
    """The request is executed twice, and answered once."""
    with cuttable(broker.endpoint) as (endpoint, passing):
        with worker_process(endpoint, "slow") as first:
            registered(broker, 1)
            future = client.submit("it", [b"0.1", b"x"])
            wait_until(lambda: broker.statistics().assigned == 1)
            passing["in"] = False  # from the worker to the broker
            registered(broker, 0)
            passing["in"] = True
            first.signal(signal.SIGKILL)
        with worker_process(broker.endpoint, "slow") as second:
            assert future.get() == [b"%d" % second.pid, b"x"]
        now = broker.statistics()
        assert (now.redeliveries, now.replies) == (1, 1)


def test_W5_a_request_that_kills_every_process_it_meets(broker, client):
    """Processes of ten sessions each, started again as they die; no other request ends because of them."""
    letters = []
    broker.dead_letter = lambda letter, _: letters.append(letter)
    innocent = [client.submit("it", b"%d" % number) for number in range(15)]
    deadly = client.submit("it", b"die")
    innocent += [client.submit("it", b"%d" % number) for number in range(15, 30)]
    deaths = 0
    while not all(future.ready() for future in [deadly, *innocent]):
        with worker_process(broker.endpoint, "poison", "--concurrency", "10") as worker:
            wait_until(lambda worker=worker: has_died(worker) or all(f.ready() for f in [deadly, *innocent]))
            deaths += has_died(worker)
    with pytest.raises(WorkerLost) as caught:
        deadly.get()
    assert caught.value.deliveries == 3 == deaths
    assert [future.get() for future in innocent] == [[b"%d" % number] for number in range(30)]
    assert [(letter.body, letter.attempts) for letter in letters] == [([b"die"], 3)]


def has_died(worker):
    return worker._process.poll() is not None


def test_W7_a_handler_that_computes_for_longer_than_the_expiry(broker, client, tmp_path):
    """A handler on the hub: its worker is left to it, and a warning names the service and what to do."""
    with worker_process(broker.endpoint, "blocking") as first:
        registered(broker, 1)
        computing = tmp_path / "computing"
        computing.touch()
        future = client.submit("it", bytes(computing))
        wait_until(lambda: broker.statistics().assigned == 1)
        until = monotonic() + 2 * EXPIRY
        wait_until(lambda: monotonic() > until)
        assert broker.statistics().workers == 1
        computing.unlink()
        assert future.get() == [b"%d" % first.pid]
        first.signal(signal.SIGTERM)
        ended = first.ended()
        assert ended.status == 0
        assert b"'it'" in ended.err
        assert b"the hub did not run for" in ended.err
        assert b"gmdp worker --threads N" in ended.err
    assert (broker.statistics().redeliveries, broker.statistics().lost_workers) == (0, {"disconnect": 1})


# A network of its own


def netns(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def may_make_networks():
    if shutil.which("ip") is None:
        return False
    name = f"gmdp-try-{os.getpid()}"
    made = netns("netns", "add", name).returncode == 0
    if made:
        made = netns("-n", name, "link", "add", "here", "type", "veth", "peer", "name", "there").returncode == 0
        netns("netns", "del", name)
    return made


@pytest.fixture
def network():
    """Two hosts with a cable between them.

    Yields the beginning of a command line on each, the broker's endpoint, and a function that sets the cable
    "up" or "down".
    """
    if not may_make_networks():
        pytest.skip("needs `ip netns` and the right to use it")
    names = [f"gmdp-{side}-{os.getpid()}" for side in ("a", "b")]
    try:
        for name in names:
            assert netns("netns", "add", name).returncode == 0
            netns("-n", name, "link", "set", "lo", "up")
        peer = f"veth-{os.getpid() % 100000}"
        netns("-n", names[0], "link", "add", peer, "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, device, number in ((names[0], peer, 1), (names[1], "eth0", 2)):
            netns("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", device)
            netns("-n", name, "link", "set", device, "up")
        yield (
            [["ip", "netns", "exec", name] for name in names],
            "tcp://10.99.0.1:5555",
            lambda state: netns("-n", names[0], "link", "set", peer, state),
        )
    finally:
        for name in names:
            netns("netns", "del", name)


def test_W3_a_cable_that_is_pulled(network):
    """The broker and a client run on one host, a worker on the other."""
    (here, there), endpoint, cable = network
    gmdp = (sys.executable, "-m", "gmdp")
    times = ("--heartbeat-interval", str(INTERVAL), "--liveness", str(LIVENESS))
    with (
        Process("broker", "--bind", endpoint, *times, "-v", command=(*here, *gmdp)) as broker,
        Process(
            "worker", "it", "faulty:slow", "--broker", endpoint, *times, command=(*there, *gmdp), cwd=TOOLS
        ) as worker,
    ):
        broker.listening()
        worker.line()

        def call(timeout):
            arguments = ("call", "it", "0", "hello", "--broker", endpoint, "--timeout", str(timeout))
            with Process(*arguments, command=(*here, *gmdp)) as process:
                return process.ended().status

        assert call(30) == 0
        cable("down")
        cut = monotonic()
        wait_until(lambda: b"lost 'it'" in read(broker).err)
        assert monotonic() - cut < 3 * EXPIRY
        assert call(0.5) == 124
        cable("up")
        assert call(30) == 0


def read(process):
    """Read what `process` has written so far; returns `process`."""
    if process._buffers:
        process._pump(monotonic())
    return process


# The broker


@pytest.mark.parametrize("retries", [0, 5])
def test_B1_a_broker_killed_and_started_again_under_load(unused_endpoint, retries):
    """Every call ends in its own reply or in BrokerLost; with retries, in its own reply."""
    with worker_process(unused_endpoint, "check", "--concurrency", "10", serving=False):
        outcomes = Counter()
        with Client(unused_endpoint, timeout=60, retries=retries) as client:

            def ask(name):
                number = 0
                while not enough:
                    number += 1
                    body = b"%d/%d/%d" % (name, number, len(lives))
                    try:
                        reply = client.request("it", body)
                    except BrokerLost:
                        outcomes["lost"] += 1
                    else:
                        assert reply == [body[::-1]]
                        outcomes["answered"] += 1

            lives, askers, enough = [], [], []
            for _ in range(3):
                with broker_process(unused_endpoint) as broker:
                    before = outcomes["answered"]
                    lives.append(broker.pid)
                    askers = askers or [gevent.spawn(ask, name) for name in range(20)]
                    wait_until(lambda before=before: outcomes["answered"] >= before + 200)
                    if len(lives) < 3:
                        broker.signal(signal.SIGKILL)
                    else:
                        enough.append(True)
                        gevent.joinall(askers, raise_error=True)
                        assert client.statistics().disconnects == 2  # before the third broker ends
        assert outcomes["answered"] >= 600
        if retries:
            assert outcomes["lost"] == 0


def test_B4_floods_of_nonsense_leave_the_broker_s_memory_where_it_was(unused_endpoint):
    """Random, truncated, huge, NUL-filled and frameless messages are dropped and counted; RSS is bounded."""
    with broker_process(unused_endpoint) as process, Client(unused_endpoint) as client:
        kinds = [
            [b"\0" * 1000] * 5,
            [b"MDPW02", b"\x04", b"\xff" * 255, b"", b"x" * 100_000],
            [b"", b"MDPC01", b"\xff\xfe", *[b""] * 2000],
            [b""],
            [b"MDPC02", b"\x01"],
            [os.urandom(10_000)],
            [b"", b"", b""],
        ]

        def flood(rounds):
            with peers.dealer(unused_endpoint) as rude:
                for _ in range(rounds):
                    for frames in kinds:
                        rude.send(*frames)
                    rude.pending()

        flood(20)
        before = resident(process.pid)
        flood(200)
        assert resident(process.pid) < before + 20_000_000
        report = client.request("mmi.statistics", b"")[1]
        for reason in (b'"malformed"', b'"too_many_frames"', b'"unregistered"'):
            assert reason in report


@pytest.mark.parametrize("names", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_B5_a_million_service_names_and_B6_a_flood_without_workers(unused_endpoint, names):
    """Services are capped, refused and counted; the queue is bounded in number and bytes, and so is RSS."""
    options = ("--max-services", "1000", "--max-queue", "10", "--request-ttl", "1", "--max-in-flight", "1000000")
    with broker_process(unused_endpoint, *options) as process, Client(unused_endpoint) as client:
        with peers.dealer(unused_endpoint) as rude:

            def flood(first):
                for number in range(first, first + names):
                    rude.send(b"MDPC02", b"\x01", b"service %d" % number, b"x")
                    if number % 500 == 0:
                        rude.pending()
                rude.pending()

            flood(0)
            before = resident(process.pid)
            flood(names)
            assert resident(process.pid) < before + 200 * names
        report = client.request("mmi.statistics", b"")[1]
        assert b'"services_full"' in report
        wait_until(lambda: b'"total":0' in client.request("mmi.services", b"")[1])
