"""Checks that take time: how many run, whose turn it is, and which give way."""

import gevent
import gevent.event
from waiting import wait_until

from gmdp.security.checks import Checks


class Recorder:
    """Makes checks that wait for `go`, and keeps the order in which they begin and are refused."""

    def __init__(self, **options):
        self.checks = Checks(**options)
        self.begun, self.refused = [], []
        self.go = gevent.event.Event()

    def submit(self, address, name):
        self.checks.submit(address, lambda: self._run(name), lambda: self.refused.append(name))

    def _run(self, name):
        self.begun.append(name)
        self.go.wait()


def test_no_more_checks_run_at_once_than_allowed():
    recorder = Recorder(max_running=3, max_waiting=10)
    for number in range(8):
        recorder.submit("one", number)
    wait_until(lambda: len(recorder.begun) == 3)
    gevent.idle()
    assert recorder.begun == [0, 1, 2]
    recorder.go.set()
    wait_until(lambda: recorder.begun == list(range(8)))
    assert recorder.refused == []


def test_addresses_take_turns():
    recorder = Recorder(max_running=1, max_waiting=10)
    for number in range(3):
        recorder.submit("one", f"one {number}")
    recorder.submit("other", "other")
    recorder.go.set()
    wait_until(lambda: len(recorder.begun) == 4)
    assert recorder.begun == ["one 0", "other", "one 1", "one 2"]


def test_a_flood_from_one_address_delays_others_by_a_round():
    """The newest check of the longest lane gives way."""
    recorder = Recorder(max_running=1, max_waiting=10)
    for number in range(50):
        recorder.submit("flooder", number)
    recorder.submit("honest", "honest")
    recorder.go.set()
    wait_until(lambda: len(recorder.begun) + len(recorder.refused) == 51)
    assert recorder.begun.index("honest") <= 1
    assert len(recorder.begun) == 10
    assert recorder.refused == [*range(10, 50), 9]


def test_closing_ends_running_checks_and_drops_waiting_ones():
    recorder = Recorder(max_running=2, max_waiting=10)
    for number in range(5):
        recorder.submit("one", number)
    wait_until(lambda: len(recorder.begun) == 2)
    recorder.checks.close()
    wait_until(lambda: not len(recorder.checks._running))
    assert (recorder.begun, recorder.refused) == ([0, 1], [])
