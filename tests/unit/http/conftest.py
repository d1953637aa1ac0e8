"""Fixtures of the gateway's tests."""

from gateways import client, connect, gated, gateway, stack

__all__ = ["client", "connect", "gated", "gateway", "stack"]
