"""How a simulation fails: something did not hold."""

from __future__ import annotations


class SimulationFailed(AssertionError):
    """Something did not hold; the message says what, when, and from which seed."""


def require(condition: object, *what: object) -> None:
    """Raise AssertionError unless `condition`."""
    if not condition:
        raise AssertionError(" ".join(map(str, what)))
