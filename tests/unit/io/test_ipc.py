"""An ipc endpoint that is in use, one that is not, and files that are not sockets."""

import errno
import os
import socket
import tempfile

import pytest

from gmdp import BindError, Broker, Client, Worker
from gmdp.io.ipc import refusal


@pytest.mark.parametrize("abstract", [False, True])
def test_an_endpoint_is_refused_while_a_process_listens(tmp_path, abstract):
    name = f"gmdp-test-{os.getpid()}" if abstract else str(tmp_path / "socket")
    endpoint = f"ipc://@{name}" if abstract else f"ipc://{name}"
    assert refusal(endpoint) == 0
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name if abstract else name)
        assert refusal(endpoint) == 0  # bound only: connections are refused
        listener.listen(0)
        assert refusal(endpoint) == errno.EADDRINUSE
        assert refusal(endpoint) == errno.EADDRINUSE  # its backlog is full by now
    assert refusal(endpoint) == 0


def test_no_descriptor_for_the_look_is_an_error_number(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "socket"))

    def no_descriptors(*_):
        raise OSError(errno.EMFILE, "none")

    monkeypatch.setattr(socket, "socket", no_descriptors)
    assert refusal(f"ipc://{tmp_path}/socket") == errno.EMFILE


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link", "below a file"])
def test_G12_what_is_no_socket_is_left_alone(tmp_path, kind):
    path, content = tmp_path / "precious", tmp_path / "content"
    content.write_text("of value")
    match kind:
        case "file":
            path.write_text("of value")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(content)
        case "dangling link":
            path.symlink_to("nowhere")
        case "below a file":
            path = content / "socket"
    with pytest.raises(BindError) as raised:
        Broker(f"ipc://{path}").start()
    assert raised.value.errno == (errno.ENOTDIR if kind == "below a file" else errno.EEXIST)
    assert str(path) in str(raised.value)
    if kind != "below a file":
        assert str(raised.value).endswith("a file that is not a socket has this name, and is not replaced")
    assert content.read_text() == "of value"
    if kind != "below a file":
        assert path.is_symlink() == ("link" in kind)
        assert os.path.lexists(path)
        assert not path.is_socket()


def test_G12_a_socket_of_another_kind_is_not_taken_over(tmp_path):
    """/dev/log is one: a datagram socket whose listener is alive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        with pytest.raises(BindError) as raised:
            Broker(f"ipc://{tmp_path}/log").start()
        assert raised.value.errno == errno.EADDRINUSE
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"still here", str(tmp_path / "log"))
        assert log.recv(100) == b"still here"


def test_G12_a_socket_that_nobody_may_connect_to_is_not_taken_over(tmp_path, monkeypatch):
    """Its owner is somebody else, so it cannot be told from a live one."""
    with socket.socket(socket.AF_UNIX) as others:
        others.bind(str(tmp_path / "socket"))

    class Denied(socket.socket):
        def connect(self, address):
            raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(socket, "socket", Denied)
    assert refusal(f"ipc://{tmp_path}/socket") == errno.EACCES


def test_G12_a_stale_socket_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "socket"))
        stale.listen(1)
    with Broker(f"ipc://{tmp_path}/socket") as broker, Client(broker.endpoint, timeout=20) as client:
        assert client.request("mmi.service", b"none") == [b"404"]


def test_G12_a_wildcard_tells_an_absolute_path(tmp_path, monkeypatch):
    """The working directory may change while the broker runs, and nothing of the endpoint is left afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Broker(["ipc://*", "ipc://*"]) as broker:
        assert len(list(tmp_path.iterdir())) == 2
        assert all(endpoint.startswith(f"ipc://{tmp_path}/") for endpoint in broker.endpoints)
        monkeypatch.chdir("/")
        with Worker(broker.endpoints[0], "echo", lambda r: r.body), Client(broker.endpoints[1], timeout=20) as client:
            assert client.request("echo", b"x") == [b"x"]
    assert list(tmp_path.iterdir()) == []


def test_G12_a_wildcard_without_a_folder_for_it_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(BindError) as raised:
        Broker("ipc://*").start()
    assert raised.value.errno == errno.ENOENT
