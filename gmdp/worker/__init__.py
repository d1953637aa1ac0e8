"""The worker: :class:`gmdp.Worker` and what runs its handlers."""

from .worker import Worker

__all__ = ["Worker"]
