"""What users may do, and how often."""

import pytest
from brokers import KEY, RULES, SecuredBroker

from gmdp.core import rates
from gmdp.core.broker import access
from gmdp.core.broker.access import CALL, INSPECT, REVOKED, SERVE, Access, Rules


def test_rules_allow_what_they_name_and_nothing_else():
    assert RULES("worker1", SERVE, b"report.daily")
    assert not RULES("worker1", SERVE, b"other")
    assert not RULES("worker1", CALL, b"echo")
    assert RULES("other", CALL, b"echo")
    assert not RULES("other", CALL, b"echo2")
    assert not RULES("nobody", CALL, b"echo")
    assert not RULES("", CALL, b"echo")
    assert RULES("client", INSPECT, b"mmi.service")
    assert not RULES("client", INSPECT, b"mmi.workers")
    assert RULES("admin", CALL, b"\xff\x00")
    assert not Rules([])("anybody", CALL, b"echo")


def test_a_key_as_a_user_is_no_pattern():
    """Z85 has the characters that patterns use: a key means itself alone."""
    rules = Rules([{"user": KEY, "call": "*"}])
    assert rules(KEY, CALL, b"echo")
    star = KEY.index("*")
    assert not rules(KEY[:star] + "+" + KEY[star + 1 :], CALL, b"echo")
    assert not rules(KEY + "x", CALL, b"echo")


def test_G21_a_pattern_that_is_as_long_as_a_key_is_a_pattern():
    pattern = "billing.production.eu-central-1.worker-*"
    assert len(pattern) == len(KEY)
    rules = Rules([{"user": pattern, "call": "*"}])
    assert rules("billing.production.eu-central-1.worker-17", CALL, b"echo")
    assert rules(pattern, CALL, b"echo")
    assert not rules("billing.production.eu-central-2.worker-17", CALL, b"echo")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("alice", "must be a list of tables"),
        ({"user": "alice"}, "must be a list of tables"),
        (5, "must be a list of tables"),
        (["alice"], r"access\[0\] must be a table"),
        ([{"user": "a", "call": "*"}, {"call": "*"}], r"access\[1\].user must be a pattern"),
        ([{"user": [], "call": "*"}], "user must be a pattern"),
        ([{"user": "a"}], "allows nothing"),
        ([{"user": "a", "calls": "*"}], "unknown 'calls'; known are: user, serve, call, inspect"),
        ([{"user": "a", "call": 5}], "call must be a pattern"),
        ([{"user": "a", "call": ["*", b"x"]}], "call must be a pattern"),
    ],
)
def test_wrong_rules_are_refused(tables, message):
    with pytest.raises(ValueError, match=message):
        Rules(tables)


def test_a_policy_is_asked_once_for_each_user_action_and_service():
    asked = []

    def policy(user, action, service):
        asked.append((user, action, service))
        return service == b"echo"

    rights = Access(policy, 1.0)
    for _ in range(3):
        assert rights.allows("alice", CALL, b"echo")
        assert not rights.allows("alice", CALL, b"other")
        assert rights.allows("alice", SERVE, b"echo")
        assert not rights.allows(REVOKED, CALL, b"echo")
    assert asked == [("alice", CALL, b"echo"), ("alice", CALL, b"other"), ("alice", SERVE, b"echo")]
    rights.forget()
    assert rights.allows("alice", CALL, b"echo")
    assert len(asked) == 4


def test_the_remembered_answers_are_bounded(monkeypatch):
    monkeypatch.setattr(access, "MAX_REMEMBERED", 10)
    monkeypatch.setattr(rates, "MAX_REMEMBERED", 10)
    rights = Access(None, 1.0)
    for number in range(100):
        assert rights.allows("alice", CALL, b"%d" % number)
        assert rights.take_turn(f"user{number}", 0.0)
        assert len(rights._answers) <= 10
        assert len(rights._rates._full_at) <= 10


def test_a_policy_that_does_not_know_is_asked_again():
    """What failed once is no answer for ever."""
    answers = [None, None, True]
    rights = Access(lambda *_: answers.pop(0), 1.0)
    assert [rights.allows("alice", CALL, b"echo") for _ in range(4)] == [False, False, True, True]


def test_a_user_without_rights_cannot_have_the_policy_asked_without_end():
    """What is not allowed takes from the rate, too, for calls and for registrations."""
    asked = []
    broker = SecuredBroker(lambda *what: bool(asked.append(what)), rate=10.0)
    for number in range(50):
        broker.call(b"c", "eve", number, service=b"s%d" % number)
        broker.ready(b"w", "eve", service=b"s%d" % number)
    assert len(asked) == 10
    assert broker.drops == {"not_allowed": 10, "rate_full": 90}
