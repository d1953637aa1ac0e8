"""Majordomo Protocol for gevent: broker, workers and clients.

Reliable service-oriented request-reply over ZeroMQ (RFC 7 MDP/0.1, RFC 18
MDP/0.2, RFC 8 MMI), to embed in gevent programs::

    from gmdp import Broker, Client, Worker

    with Broker("tcp://127.0.0.1:*") as broker:
        with Worker(broker.endpoint, "echo", lambda request: request.body):
            with Client(broker.endpoint, timeout=2.5) as client:
                print(client.request("echo", b"hello"))
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

#: True in the process of the command ``gmdp``, which imports the modules that it needs.
_LEAN = getattr(sys.modules.get("gmdp_command"), "lean", False)

if TYPE_CHECKING or not _LEAN:
    # All of it at once: a name that is first used in several threads must not be imported there.
    from .public import *  # noqa: F403
    from .public import __all__ as __all__

if not TYPE_CHECKING and _LEAN:

    def __getattr__(name: str) -> Any:
        """Return a module, or a public name: the first one, as in ``from gmdp import Client``, imports all of them."""
        if name == "__all__" or not name.startswith("__"):
            if find_spec(f".{name}", __name__) is not None:
                return import_module(f".{name}", __name__)
            public = import_module(".public", __name__)
            if hasattr(public, name):
                return getattr(public, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
