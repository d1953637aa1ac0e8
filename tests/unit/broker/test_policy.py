"""The hooks that a broker makes of what its user gives."""

import pytest

from gmdp import ForwardDeadLetters, LogDeadLetters
from gmdp.broker.policy import GuardedPolicy, make_dead_letter_hook, make_policy
from gmdp.core.broker.access import Rules
from gmdp.exceptions import ConfigurationError


def test_dead_letters_are_logged_forwarded_or_given_to_a_callable():
    assert type(make_dead_letter_hook(None)) is LogDeadLetters
    for name in ("morgue", b"morgue"):
        hook = make_dead_letter_hook(name)
        assert isinstance(hook, ForwardDeadLetters)
        assert hook.service == b"morgue"
    assert make_dead_letter_hook(print) is print
    for wrong in (3, "", []):
        with pytest.raises(ConfigurationError):
            make_dead_letter_hook(wrong)


def test_a_policy_is_none_rules_or_a_guarded_callable():
    assert make_policy(None) is None
    assert isinstance(make_policy([{"user": "a", "serve": "*"}]), Rules)
    assert isinstance(make_policy(lambda user, action, service: True), GuardedPolicy)
    with pytest.raises(ConfigurationError):
        make_policy([{"nonsense": 1}])


@pytest.mark.parametrize("answer", [True, False])
def test_a_guarded_policy_gives_the_policys_answer(answer):
    asked = []
    policy = GuardedPolicy(lambda *arguments: asked.append(arguments) or answer)
    assert policy("user", "call", b"service") is answer
    assert asked == [("user", "call", b"service")]


async def coroutine(*_):
    """Never awaited: it is closed."""


def failing(*_):
    raise ZeroDivisionError


@pytest.mark.parametrize("policy", [coroutine, failing, lambda *_: None, lambda *_: 1, lambda: True])
def test_any_other_answer_denies_and_is_logged_once_a_second(policy, caplog):
    guarded = GuardedPolicy(policy)
    assert [guarded("user", "call", b"service") for _ in range(100)] == [None] * 100
    assert 1 <= len(caplog.records) <= 2
    assert caplog.records[0].exc_info is not None
