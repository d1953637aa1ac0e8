"""A broker's hooks, made from the user's options: the access policy and the dead-letter hook."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar

from ..core.broker.access import Policy, Rules
from ..core.rates import Rates
from ..exceptions import ConfigurationError
from ..io import guarded, logs
from ..protocol.text import show_name
from .deadletters import ForwardDeadLetters, LogDeadLetters

_log = logs.QueuedLogger("gmdp.broker")

H = TypeVar("H")


def make_dead_letter_hook(hook: H | str | bytes | None) -> H | LogDeadLetters:
    """Return the dead-letter hook that `hook` stands for.

    None stands for logging; the name of a service stands for forwarding to that service.
    ConfigurationError if `hook` is neither of these nor callable.
    """
    if hook is None:
        return LogDeadLetters()
    if isinstance(hook, (str, bytes)):
        return ForwardDeadLetters(hook)
    if not callable(hook):
        raise ConfigurationError(f"dead_letter must be callable or the name of a service, not {hook!r}")
    return hook


def make_policy(access: Policy | Sequence[Mapping[str, Any]] | None) -> Policy | None:
    """Return the policy that `access` stands for; None where everything is allowed.

    A callable is guarded; anything else must be rules as in the TOML file, or ConfigurationError
    is raised.
    """
    if access is None:
        return None
    if callable(access):
        return GuardedPolicy(access)
    try:
        return Rules(access)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


class GuardedPolicy:
    """Wraps a user's policy, so that a bug in it neither ends the broker nor permits anything.

    True and False are passed on.  Any other answer, and any exception, becomes None: access is
    denied, nothing is remembered, and the error is logged, at most once a second.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._log_rate = Rates(1)

    def __call__(self, user: str, action: str, service: bytes) -> bool | None:
        def log_failure(error: BaseException) -> None:
            if self._log_rate.take("", monotonic()):
                _log.exception("the access policy failed: %.100r may not %s %s", user, action, show_name(service))

        return guarded.call(self._ask, user, action, service, default=None, on_error=log_failure)

    def _ask(self, user: str, action: str, service: bytes) -> bool:
        answer: Any = self._policy(user, action, service)
        if isinstance(answer, bool):
            return answer
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(f"a policy must return True or False, not {type(answer).__name__}")
