"""The greenlet that owns sockets: its turns, its end, its mailbox."""

import itertools
import subprocess
import sys

import gevent
import pytest
import zmq
import zmq.green
from waiting import wait_until

from gmdp import AsyncClient


def test_the_embedding_programs_greenlets_run_while_the_broker_is_flooded(broker):
    """Bounded bursts: a flooded broker yields."""
    turns = []

    def somebody():
        while True:
            turns.append(broker.statistics().requests)
            gevent.sleep(0)

    context = zmq.green.Context.instance()
    flood = context.socket(zmq.DEALER)
    flood.set(zmq.LINGER, 0)
    flood.set(zmq.SNDHWM, 0)
    flood.connect(broker.endpoint)
    other = gevent.spawn(somebody)
    for _ in range(5000):
        flood.send_multipart([b"MDPC02", b"\x01", b"nobody", b"x"])
    wait_until(lambda: broker.statistics().requests == 5000)
    other.kill()
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= 2 * broker._engine.owner.burst
    flood.close()


def test_the_owner_killed_by_a_stranger_closes_what_it_owned(broker, nothing_left):
    """No greenlet dies in silence: state says closed, waiting callers hear of it."""
    client = AsyncClient(broker.endpoint)
    future = client.submit("nobody", b"")
    wait_until(lambda: broker.statistics().queued)
    client._owner.greenlet.kill()
    with pytest.raises(Exception, match="owner") as caught:
        future.get(timeout=30)
    assert type(caught.value).__name__ == "OwnerDied"
    assert client.closed
    client.start()
    assert client.request("mmi.nothing", b"") == [b"501"]
    client.close()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_that_hits_the_owner_reaches_the_main_greenlet(interrupt):
    """The program sees the interrupt as it would anyway, and the log says nothing of a bug."""
    script = f"""
import gmdp
def interrupt(): raise {interrupt.__name__}
with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.AsyncClient(broker.endpoint) as client:
    future = client.submit("nobody", b"")
    client._owner.post(interrupt)
    try:
        future.get()
    except {interrupt.__name__}:
        print("as it should be", client.closed)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("as it should be True\n", 0), done.stderr
    assert "bug" not in done.stderr
