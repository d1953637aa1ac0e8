"""Fixtures of the tests of ``gmdp gateway``."""

from gateways import client, connect, gated, gateway, stack

__all__ = ["client", "connect", "gated", "gateway", "stack"]
