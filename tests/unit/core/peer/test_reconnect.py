"""Which endpoint is tried next, and when."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmdp.core.peer.reconnect import MAX_FACTOR, Reconnect

STEADY = settings(derandomize=False, deadline=None, database=None)


@settings(STEADY, max_examples=100)
@given(
    count=st.integers(1, 4), interval=st.floats(0.01, 10), jitters=st.lists(st.floats(0, 1), min_size=1, max_size=60)
)
def test_reconnecting_doubles_its_delay_up_to_a_bound(count, interval, jitters):
    """W3: each endpoint in turn, with a wait after each round, with jitter."""
    endpoints = [f"endpoint {number}" for number in range(count)]
    reconnect = Reconnect(endpoints, interval)
    for failures, jitter in enumerate(jitters, 1):
        assert reconnect.endpoint == endpoints[(failures - 1) % count]
        delay = reconnect.on_lost(0.0, jitter)
        rounds, rest = divmod(failures, count)
        if rest:
            assert delay == 0.0
        else:
            longest = interval * min(2 ** (rounds - 1), MAX_FACTOR)
            assert longest / 2 <= delay <= longest
            assert delay == pytest.approx(longest * (0.5 + jitter / 2))


def test_reconnecting_starts_anew_once_a_broker_has_answered():
    reconnect = Reconnect(["one"], 1.0)
    delays = [reconnect.on_lost(0.0, 1.0) for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 16, 16, 16]
    reconnect.on_answer(10.0)
    assert reconnect.on_lost(11.0, 1.0) == 1.0
    assert reconnect.on_lost(11.0, 0.0) == 1.0
    many = Reconnect(["one"], 1.0)
    for _ in range(100_000):
        last = many.on_lost(0.0, 0.0)
    assert last == MAX_FACTOR / 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_brokers_that_answer_and_drop_at_once_are_not_tried_without_end(count):
    reconnect = Reconnect([f"endpoint {number}" for number in range(count)], 1.0)
    now = waited = 0.0
    for _ in range(6 * count):
        reconnect.on_answer(now)
        reconnect.on_answer(now)
        delay = reconnect.on_lost(now + 0.01, 1.0)
        now += 0.01 + delay
        waited += delay
    assert waited == 1 + 2 + 4 + 8 + 16 + 16


def test_the_endpoint_that_answered_is_used_until_it_is_lost():
    reconnect = Reconnect(["one", "two", "three"], 1.0)
    assert reconnect.on_lost(0.0, 0.5) == 0.0
    assert reconnect.endpoint == "two"
    reconnect.on_answer(0.0)
    assert reconnect.endpoint == "two"
    assert [reconnect.on_lost(9.0, 1.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert reconnect.endpoint == "two"


def test_W2_a_disconnect_of_a_broker_that_had_answered_is_no_loss():
    """The broker thought the worker dead and said DISCONNECT; the worker registers there again."""
    reconnect = Reconnect(["one", "two"], 1.0)
    reconnect.on_answer(0.0)
    assert 0.5 <= reconnect.on_disconnect(0.1, 0.3) <= 1.0
    assert reconnect.endpoint == "one"
    # Refused again before it had answered: the next one may have room.
    reconnect.on_disconnect(0.2, 0.3)
    assert reconnect.endpoint == "two"


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_disconnect_at_every_try_makes_the_delay_grow(jitter):
    reconnect = Reconnect(["one"], 1.0)
    delays = [reconnect.on_disconnect(0.0, jitter) for _ in range(8)]
    assert delays == [factor * (0.5 + jitter / 2) for factor in (1, 2, 4, 8, 16, 16, 16, 16)]


def failed(reconnect, now=0.0, jitter=1.0):
    """The address that was tried, and the seconds until the next attempt."""
    tried = reconnect.choose()
    return tried, reconnect.on_lost(now, jitter)


def test_G11_all_addresses_of_a_name_are_tried_before_there_is_a_wait():
    reconnect = Reconnect(["name"], 1.0)
    reconnect.learn("name", ["a", "b", "c"])
    assert [failed(reconnect) for _ in range(3)] == [("a", 0.0), ("b", 0.0), ("c", 1.0)]
    assert [failed(reconnect) for _ in range(3)] == [("a", 0.0), ("b", 0.0), ("c", 2.0)]
    assert reconnect.targets == 3


def test_G11_a_name_that_has_failed_is_followed_by_the_next_endpoint():
    reconnect = Reconnect(["name", "literal"], 1.0)
    reconnect.learn("name", ["a", "b"])
    assert [failed(reconnect), failed(reconnect)] == [("a", 0.0), ("b", 0.0)]
    assert reconnect.endpoint == "literal"
    assert reconnect.address == ""
    assert reconnect.on_lost(0.0, 1.0) == 1.0
    assert (reconnect.endpoint, reconnect.choose()) == ("name", "a")
    assert reconnect.targets == 3


def test_G11_the_connections_of_an_epoch_go_to_one_address():
    reconnect = Reconnect(["name"], 1.0)
    reconnect.learn("name", ["a", "b"])
    assert reconnect.choose() == "a"
    reconnect.learn("name", ["b", "a"])
    assert reconnect.choose() == "a"


def test_G11_addresses_in_another_order_are_tried_once_each():
    """Name servers rotate them."""
    reconnect = Reconnect(["name"], 1.0)
    reconnect.learn("name", ["a", "b"])
    assert failed(reconnect) == ("a", 0.0)
    reconnect.learn("name", ["a", "b", "c"])
    assert failed(reconnect) == ("b", 0.0)
    reconnect.learn("name", ["c", "a", "b"])
    assert failed(reconnect) == ("c", 1.0)


def test_G11_a_name_with_a_new_address_each_time_is_waited_for():
    reconnect = Reconnect(["name"], 1.0)
    for number, delay in enumerate((1.0, 2.0, 4.0)):
        reconnect.learn("name", [f"address {number}"])
        assert failed(reconnect) == (f"address {number}", delay)


def test_G11_an_empty_answer_takes_no_address_away():
    reconnect = Reconnect(["name"], 1.0)
    reconnect.learn("name", ["a"])
    reconnect.learn("name", [])
    assert reconnect.known("name") == ("a",)


def test_G11_after_a_broker_that_stayed_every_address_counts_again():
    reconnect = Reconnect(["name"], 1.0)
    reconnect.learn("name", ["a", "b"])
    assert failed(reconnect) == ("a", 0.0)
    assert reconnect.choose() == "b"
    reconnect.on_answer(10.0)
    assert failed(reconnect, now=20.0) == ("b", 0.0)  # lost
    assert failed(reconnect, now=20.0) == ("a", 1.0)
    assert failed(reconnect, now=21.0) == ("a", 0.0)


def test_G11_a_broker_that_says_disconnect_is_found_at_its_address():
    reconnect = Reconnect(["name", "other"], 1.0)
    reconnect.learn("name", ["a", "b"])
    assert failed(reconnect) == ("a", 0.0)
    assert reconnect.choose() == "b"
    reconnect.on_answer(1.0)
    assert reconnect.on_disconnect(9.0, 1.0) == 1.0
    assert (reconnect.endpoint, reconnect.choose()) == ("name", "b")
