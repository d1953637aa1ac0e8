"""The clients: :class:`gmdp.Client` and :class:`gmdp.AsyncClient`."""

from .async_client import AsyncClient
from .client import Client

__all__ = ["AsyncClient", "Client"]
