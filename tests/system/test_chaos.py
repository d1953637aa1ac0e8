"""Chaos: for two minutes, processes are killed and started again at random, under load."""

import gc
import os
import random
import signal
from collections import Counter
from time import monotonic

import gevent
import peers
import pytest
from victims import broker_process, resident, worker_process
from waiting import wait_until

from gmdp import AsyncClient, CallError, RequestTimeout

SECONDS = float(os.environ.get("GMDP_CHAOS_SECONDS", "120"))
WORKERS = 4
CALLERS = 60


class Supervisor:
    """Keeps worker processes up, and kills one of them now and then."""

    def __init__(self, endpoint, chance):
        self.endpoint = endpoint
        self.chance = chance
        self.workers = [self._start() for _ in range(WORKERS)]
        self.killed = Counter()

    def _start(self):
        return worker_process(self.endpoint, "check", "--concurrency", str(self.chance.choice([1, 5, 20])))

    def run(self, until):
        while monotonic() < until:
            gevent.sleep(self.chance.uniform(0.5, 3))
            victim = self.chance.randrange(WORKERS)
            how = self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
            self.killed[how.name] += 1
            self.workers[victim].signal(how)
            gevent.sleep(self.chance.uniform(0, 2))
            self.workers[victim].__exit__()
            self.workers[victim] = self._start()

    def stop(self):
        for worker in self.workers:
            worker.__exit__()


@pytest.mark.slow
@pytest.mark.deadline(SECONDS + 300)
def test_chaos_every_call_is_answered_rightly_or_ends_in_a_typed_error(unused_endpoint, nothing_left):
    """W1, W2 and B1 together: four workers are killed and started again at random, the broker twice."""
    seed = int(os.environ.get("GMDP_CHAOS_SEED", random.randrange(10**6)))
    print(f"GMDP_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    outcomes = Counter()
    slowest = 0.0
    endpoint = unused_endpoint
    begun = monotonic()
    until = begun + SECONDS
    memory = []

    def call_in_a_loop(client, name):
        nonlocal slowest
        number = 0
        while monotonic() < until:
            number += 1
            body = b"%s/%d" % (name, number)
            began = monotonic()
            try:
                reply = client.request("it", [body, b"x" * chance.choice([0, 10, 1000])], timeout=20.0)
            except CallError as error:
                outcomes[type(error).__name__] += 1
            else:
                assert reply[0] == body[::-1], (body, reply)
                outcomes["answered"] += 1
                slowest = max(slowest, monotonic() - began)

    with (
        AsyncClient(endpoint, retries=3) as first,
        AsyncClient(endpoint, retries=3, version="0.1") as second,
        AsyncClient(endpoint, retries=0) as third,
    ):
        broker = broker_process(endpoint, "--request-ttl", "15")
        process = broker.__enter__()
        supervisor = Supervisor(endpoint, chance)
        try:
            callers = [
                gevent.spawn(call_in_a_loop, client, b"%d" % number)
                for number, client in enumerate([first, second, third] * (CALLERS // 3))
            ]
            monkey = gevent.spawn(supervisor.run, until)
            for third_of_time in (1, 2):
                gevent.sleep(max(0.0, begun + SECONDS * third_of_time / 3 - monotonic()))
                gc.collect()
                memory.append(resident(os.getpid()))
                process.signal(signal.SIGKILL)
                broker.__exit__(None, None, None)
                gevent.sleep(chance.uniform(0, 2))
                broker = broker_process(endpoint, "--request-ttl", "15")
                process = broker.__enter__()
            gevent.joinall([*callers, monkey], raise_error=True)
            memory.append(resident(os.getpid()))
            for client in (first, second, third):
                now = client.statistics()
                assert (now.in_flight, now.waiting) == (0, 0)
                # A client works again once the broker and the workers do.
                assert client.request("it", b"after all", timeout=30.0, retries=3) == [b"lla retfa"]
            with peers.dealer(endpoint) as bare:
                assert bare.pending() == []
        finally:
            supervisor.stop()
            broker.__exit__(None, None, None)
    print(dict(outcomes), dict(supervisor.killed), f"slowest {slowest:.2f} s", [size // 1_000_000 for size in memory])
    assert outcomes["answered"] >= 200 * SECONDS
    # A call without retries may be lost with its broker; a call with retries is answered or times out.
    allowed = {"answered", "BrokerLost", "WorkerLost", "RequestExpired", RequestTimeout.__name__}
    assert set(outcomes) <= allowed
    assert sum(count for name, count in outcomes.items() if name != "answered") < outcomes["answered"] / 20
    assert memory[-1] < memory[0] + 50_000_000
    nothing_left()
    wait_until(lambda: not os.path.exists(f"/proc/{process.pid}"))
