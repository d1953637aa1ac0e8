"""Fixtures for the tests of commands: a folder with files for them, and a port that is taken."""

import socket

import pytest
from gateways import client, connect, gated, gateway, stack
from processes import HANDLERS

#: For the tests of ``gmdp gateway``.
__all__ = ["client", "connect", "gated", "gateway", "stack"]

FILES = {
    "syntax.toml": "liveness = 3\nattempts = = 3\n",
    "name.toml": "heartbeat_intervall = 3\n",
    "service.toml": '[services."a.*"]\nrequest_tttl = 3\n',
    "value.toml": "attempts = 0\n",
    "service_value.toml": '[services."a.*"]\nattempts = "many"\n',
    "bind.toml": 'bind = "udp://127.0.0.1:1"\n',
    "inproc.toml": 'bind = ["tcp://127.0.0.1:*", "inproc://x"]\n',
    "context.toml": 'context = "mine"\n',
    "endless.toml": "max_queue = 1" + "0" * 400 + "\n",
    "raises.py": "def half(:\n",
    "wants.py": "import nothing_of_this_name\n",
    "exits.py": "import sys\nsys.exit(0)\n",
}


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """A folder with a blank in its name: handlers, and files that commands read."""
    folder = tmp_path_factory.mktemp("command line")
    (folder / "handlers.py").write_text(HANDLERS)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="package")
def busy():
    """An endpoint on which another socket listens: a broker that tries to bind it ends at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
