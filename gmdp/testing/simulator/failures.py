"""The error of a simulation that fails, and the check that raises it."""

from __future__ import annotations


class SimulationFailed(AssertionError):
    """An invariant did not hold; the message says which one, when, and in a run of which seed."""


def require(condition: object, *otherwise: object) -> None:
    """Raise AssertionError with the words `otherwise` unless `condition` is true."""
    if not condition:
        raise AssertionError(" ".join(map(str, otherwise)))
