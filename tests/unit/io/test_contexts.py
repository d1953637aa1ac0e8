"""ZeroMQ contexts as the rest of gmdp sees them."""

import errno
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
