"""Majordomo Protocol for gevent: broker, workers and clients.

Reliable service-oriented request-reply over ZeroMQ (RFC 7 MDP/0.1, RFC 18
MDP/0.2, RFC 8 MMI), to embed in gevent programs::

    from gmdp import Broker, Client, Worker

    with Broker("tcp://127.0.0.1:*") as broker:
        with Worker(broker.endpoint, "echo", lambda request: request.body):
            with Client(broker.endpoint, timeout=2.5) as client:
                print(client.request("echo", b"hello"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *  # noqa: F403
    from .public import __all__ as __all__

#: Modules that are attributes of the package without an import of their own.
_MODULES = (
    *("broker", "client", "config", "core", "exceptions", "interfaces", "io"),
    *("protocol", "security", "tracing", "validation", "version", "worker"),
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Return a module, or a public name.

        The first public name (``from gmdp import Client``) imports all of them.  A command uses
        none: it imports the modules that it needs.
        """
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name in ("__all__", "__version__") or not name.startswith("__"):
            public = import_module(".public", __name__)
            if hasattr(public, name):
                return getattr(public, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__"), *_MODULES})
