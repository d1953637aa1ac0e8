"""ZeroMQ contexts as the rest of gmdp sees them."""

import errno
import gc
import resource
from time import monotonic

import gevent
import pytest
import zmq
import zmq.green
from waiting import wait_until

from gmdp import ConfigurationError
from gmdp.io import contexts


def test_the_shared_context_is_that_of_the_process():
    assert contexts.shared_context() is zmq.green.Context.instance()


@pytest.mark.parametrize("context", [zmq.Context.instance(), "context", 1], ids=["blocking", "str", "int"])
def test_a_context_must_be_green(context):
    with pytest.raises(ConfigurationError, match=r"zmq\.green\.Context, not "):
        contexts.check_context(context)
    assert contexts.check_context(None) is None
    assert contexts.check_context(contexts.shared_context()) is contexts.shared_context()


def test_a_new_context_needs_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(contexts.SocketError) as raised:
            contexts.new_context()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.errno == errno.EMFILE
    assert "ulimit -n" in contexts.error_text(raised.value)


def test_G9_the_shared_context_has_as_many_sockets_as_zeromq_allows():
    context = contexts.shared_context()
    assert context.get(zmq.MAX_SOCKETS) == context.get(zmq.SOCKET_LIMIT) > 60_000


def test_G9_a_number_of_sockets_that_the_program_chose_stays(monkeypatch):
    own = zmq.green.Context()
    own.set(zmq.MAX_SOCKETS, 5)
    monkeypatch.setattr(zmq.green.Context, "instance", lambda: own)
    assert contexts.shared_context().get(zmq.MAX_SOCKETS) == 5
    own.term()


def test_G9_the_limit_of_a_context_is_told_and_leaves_no_traceback(monkeypatch):
    unraised = []
    monkeypatch.setattr("sys.unraisablehook", unraised.append)
    context = zmq.green.Context()
    context.set(zmq.MAX_SOCKETS, 2)
    opened = [contexts.open_socket(context, zmq.DEALER) for _ in range(2)]
    with pytest.raises(contexts.LimitReached, match="MAX_SOCKETS") as raised:
        contexts.open_socket(context, zmq.DEALER)
    assert contexts.error_text(raised.value) == raised.value.strerror
    for socket in opened:
        socket.close(0)
    del raised
    gc.collect()
    contexts.terminate(context, 5)
    assert unraised == []


def test_any_other_error_keeps_its_text():
    context = contexts.new_context()
    contexts.open_socket(context, zmq.DEALER).close(0)
    with pytest.raises(contexts.SocketError) as raised:
        contexts.open_socket(context, 999)
    assert not isinstance(raised.value, contexts.LimitReached)
    assert contexts.error_text(raised.value) == zmq.strerror(errno.EINVAL)
    contexts.terminate(context, 5)


def test_a_context_is_terminated_in_another_thread():
    context = contexts.new_context()
    contexts.terminate(context, 5.0)
    assert context.closed


def test_a_context_that_does_not_end_is_left_to_its_thread():
    """term() waits for a socket: the hub goes on, and the wait has an end."""
    context = contexts.new_context()
    socket = context.socket(zmq.DEALER)
    ticks = []
    ticker = gevent.spawn(lambda: [ticks.append(gevent.sleep(0.001)) for _ in range(10)])
    began = monotonic()
    contexts.terminate(context, 0.05)
    assert monotonic() - began < 5
    ticker.join()
    assert len(ticks) == 10
    socket.close(0)
    wait_until(lambda: context.closed)  # the thread has ended
