"""The broker: :class:`gmdp.Broker` and its hooks."""

from .broker import Broker

__all__ = ["Broker"]
