"""An ipc endpoint that is in use, and one that is not."""

import os
import socket

import pytest

from gmdp.io.ipc import has_listener


@pytest.mark.parametrize("abstract", [False, True])
def test_an_endpoint_has_a_listener_while_a_process_listens(tmp_path, abstract):
    name = f"gmdp-test-{os.getpid()}" if abstract else str(tmp_path / "socket")
    endpoint = f"ipc://@{name}" if abstract else f"ipc://{name}"
    assert not has_listener(endpoint)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name if abstract else name)
        assert not has_listener(endpoint)  # bound only: connections are refused
        listener.listen(0)
        assert has_listener(endpoint)
        assert has_listener(endpoint)  # its backlog is full by now
    assert not has_listener(endpoint)
