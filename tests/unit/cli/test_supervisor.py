"""When a process is started again, and a reload at the same time; in this process."""

import gevent
from gevent.event import Event
from waiting import wait_until

from gmdp.cli.supervisor import FIRST_DELAY, MAX_DELAY, STEADY_AFTER, Backoff, Supervisor, _Place


def test_backoff_begins_at_once_doubles_up_to_a_bound_and_forgets():
    backoff = Backoff()
    delays = [backoff.after(0.5) for _ in range(14)]
    assert delays[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays == sorted(delays)
    assert delays[-2:] == [MAX_DELAY, MAX_DELAY]
    assert [backoff.after(STEADY_AFTER), backoff.after(0.5)] == [0.0, FIRST_DELAY]


def test_a_process_that_ends_at_once_each_time_is_started_some_fifteen_times_in_five_minutes():
    """In virtual time."""
    backoff, now, starts = Backoff(), 0.0, 0
    while now < 300:
        starts += 1
        now += 1.0 + backoff.after(1.0)
    assert 10 < starts < 20


class Child:
    """As the parent sees a process."""

    pid, end_description, ran, status, registered = 1, "ended with status 1", 0.0, 1, False

    def __init__(self, ended=False):
        self.ended, self.stopped = Event(), False
        if ended:
            self.ended.set()

    def stop(self):
        self.stopped = True


def test_a_process_that_starts_while_a_reload_fills_its_place_is_one_too_many():
    supervisor = Supervisor([], 1, 10.0)
    place = _Place(Child(ended=True))
    starting, go_on = Event(), Event()
    late, reloaded = Child(), Child()

    def start():
        starting.set()
        go_on.wait()
        return late

    supervisor._start = start
    keeper = gevent.spawn(supervisor._keep_running, place)
    starting.wait()
    place.replace(reloaded)
    go_on.set()
    wait_until(lambda: late.stopped)
    assert place.child is reloaded
    assert not reloaded.stopped
    supervisor._stop_wanted.set()
    assert gevent.joinall([keeper], timeout=20) == [keeper]


def test_a_process_in_its_backoff_is_no_reason_to_wait_with_the_end(caplog):
    supervisor = Supervisor([], 1, 10.0)
    place = _Place(Child(ended=True))
    while place.backoff.after(0.0) < MAX_DELAY:
        pass
    keeper = gevent.spawn(supervisor._keep_running, place)
    wait_until(lambda: f"starting another in {MAX_DELAY:g} s" in caplog.text)
    supervisor._stop_wanted.set()
    assert gevent.joinall([keeper], timeout=MAX_DELAY / 3) == [keeper]


def test_a_reload_has_a_backoff_of_its_own():
    place = _Place(Child(ended=True))
    assert [place.backoff.after(0.0) for _ in range(3)][-1] > 0
    place.replace(Child())
    assert place.backoff.after(0.0) == 0
