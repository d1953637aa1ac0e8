"""Token buckets: a rate for each key."""

from gmdp.core import rates
from gmdp.core.rates import Rates


def test_a_second_s_worth_at_once_and_then_the_rate():
    buckets = Rates(4)
    assert [buckets.take("key", 10.0) for _ in range(5)] == [True] * 4 + [False]
    assert [buckets.take("key", 10.25) for _ in range(2)] == [True, False]
    assert [buckets.take("key", 20.0) for _ in range(5)] == [True] * 4 + [False]


def test_keys_have_buckets_of_their_own():
    buckets = Rates(1)
    assert [buckets.take(key, 0.0) for key in ("one", "two", "one")] == [True, True, False]


def test_a_charge_is_paid_for_whatever_the_bucket_holds():
    buckets = Rates(10)
    assert buckets.take("key", 5.0, 10)
    buckets.charge("key", 5.0, 20)
    assert not buckets.take("key", 6.9)  # paid for at 7.0, and a token needs 0.1 s
    assert buckets.take("key", 7.2)
    assert buckets.take("other", 5.0)
    buckets.charge("other", 20.0, 5)  # a full bucket pays, too
    assert buckets._full_at["other"] == 20.5


def test_full_buckets_are_forgotten_first_and_then_all(monkeypatch):
    monkeypatch.setattr(rates, "MAX_REMEMBERED", 3)
    buckets = Rates(1)
    for key in ("one", "two", "three"):
        buckets.take(key, 0.0)
    assert buckets.take("four", 0.5)
    assert buckets.take("one", 0.5)  # all were in use: each begins anew
    assert len(buckets._full_at) == 2
    buckets.take("five", 1.2)
    buckets.take("six", 1.6)  # those of 0.5 are full again by now
    assert set(buckets._full_at) == {"five", "six"}
