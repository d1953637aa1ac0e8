"""One value from one thread to another, or to another greenlet."""

import threading
from time import monotonic

import gevent
import pytest

from gmdp.io.slots import Slot


def in_thread(function):
    """Run `function` in a thread without a hub; returns a function that waits for its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def result():
        while thread.is_alive():
            gevent.sleep(0.001)
        return results[0]

    return result


def test_a_greenlet_waits_for_another():
    slot = Slot()
    gevent.spawn(slot.set, "value")
    assert slot.wait(20)
    assert slot.get() == "value"


def test_a_slot_that_is_set_is_not_waited_for():
    slot = Slot()
    slot.set(None)
    assert slot.wait(0)
    assert slot.get() is None


def test_an_error_is_raised_by_get():
    slot = Slot()
    slot.fail(ZeroDivisionError())
    assert slot.wait()
    with pytest.raises(ZeroDivisionError):
        slot.get()


def test_a_thread_sets_what_a_greenlet_waits_for():
    slot = Slot()
    done = in_thread(lambda: slot.set(5))
    assert slot.wait(20)
    assert slot.get() == 5
    done()


def test_a_greenlet_sets_what_a_thread_waits_for():
    slots = []

    def wait():
        slots.append(Slot())
        return slots[0].wait(20) and slots[0].get()

    result = in_thread(wait)
    while not slots:
        gevent.sleep(0.001)
    slots[0].set(7)
    assert result() == 7


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 0.0001])
@pytest.mark.parametrize("thread", [False, True])
def test_a_wait_takes_any_timeout(thread, timeout, monkeypatch):
    """With libuv, gevent has no timer for some of them."""
    times = []

    class NoTimeout(gevent.Timeout):
        def __init__(self, seconds, exception):
            times.append(seconds)
            super().__init__(min(seconds, 20), exception)

    monkeypatch.setattr(gevent, "Timeout", NoTimeout)

    def wait():
        slot = Slot()
        slot.set("value") if thread else gevent.spawn(slot.set, "value")
        return slot.wait(timeout) and slot.get()

    assert (in_thread(wait)() if thread else wait()) == "value"
    assert all(seconds >= 0.001 and int(seconds * 1000) < 2**64 for seconds in times)


@pytest.mark.parametrize("thread", [False, True])
def test_a_wait_ends_with_its_timeout(thread):
    def wait():
        began = monotonic()
        return Slot().wait(0.02), monotonic() - began

    waited, seconds = in_thread(wait)() if thread else wait()
    assert not waited
    assert seconds >= 0.019
