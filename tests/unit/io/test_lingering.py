"""Closed sockets, until their last messages have arrived."""

import errno
import os
import resource
import socket
import threading
from time import monotonic

import gevent
import pytest
import zmq
import zmq.green
from waiting import wait_until

from gmdp.io import lingering as module
from gmdp.io.lingering import Lingering, copy_connections
from gmdp.io.monitor import ConnectionMonitor


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_copy_keeps_a_connection_that_is_closed(pair):
    ours, theirs = pair
    (copy,) = copy_connections([ours.fileno()], set)
    ours.close()
    copy.send(b"still here")
    copy.close()
    assert theirs.recv(100) == b"still here"
    assert theirs.recv(100) == b""


def test_descriptors_that_were_freed_or_are_no_sockets_have_no_copy(pair):
    ours, _ = pair
    before = len(os.listdir("/proc/self/fd"))
    assert copy_connections([ours.fileno()], lambda: {ours.fileno()}) == []  # it may be another's by now
    reader, writer = os.pipe()
    os.close(writer)
    assert copy_connections([reader, writer], set) == []
    os.close(reader)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_last_descriptors_are_left_to_others(pair, monkeypatch):
    ours, _ = pair
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 64))
    assert copy_connections([ours.fileno()], set) == []


class Socket:
    """A ROUTER that lingers, and its one peer, a bare socket that has finished the handshake."""

    def __init__(self):
        context = zmq.green.Context.instance()
        self.router = context.socket(zmq.ROUTER)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.peer = socket.create_connection(("127.0.0.1", port))
        self.peer.setblocking(False)
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.woken = []

    def linger(self, until, listeners=0, messages=True):
        connections = [self.ours] if messages else None
        loop = gevent.get_hub().loop
        return Lingering(
            self.router, connections, listeners, 1.0, until, loop=loop, wake=lambda: self.woken.append(True)
        )

    def close(self):
        for held in (self.peer, self.ours, self.theirs):
            held.close()


@pytest.fixture
def held():
    held = Socket()
    yield held
    held.close()
    held.router.close(0)


def test_it_ends_when_the_peer_has_closed_its_end(held):
    lingering = held.linger(monotonic() + 60)
    held.theirs.send(b"thrown away")
    wait_until(lambda: not lingering.poll(monotonic()) and lingering._sent)
    assert held.theirs.recv(100) == b""  # nothing more will be sent
    held.theirs.send(b"and this, too")
    assert not lingering.poll(monotonic())
    held.woken.clear()
    held.theirs.close()
    wait_until(lambda: held.woken)
    assert lingering.poll(monotonic())
    assert lingering.poll(monotonic())  # no effect


@pytest.mark.parametrize("slow", [False, True])
def test_a_peer_that_has_everything_is_waited_for_for_a_moment_a_slow_one_until_the_end(held, slow):
    until = monotonic() + 60
    if slow:
        held.ours.send(b"unread")
    lingering = held.linger(until)
    wait_until(lambda: not lingering.poll(monotonic()) and lingering._sent)
    now = monotonic()
    assert (lingering.due_at == until) is slow
    assert lingering.poll(now + module.PATIENCE) is not slow
    assert lingering.poll(until)


def test_where_the_system_cannot_tell_what_has_arrived_no_peer_is_slow(pair, monkeypatch):
    ours, _ = pair
    ours.send(b"unread")
    assert module._count_unsent(ours) > 0
    monkeypatch.setattr(module, "TIOCOUTQ", 0)
    assert module._count_unsent(ours) == 0


def test_a_peer_that_sends_for_ever_does_not_stop_the_owner():
    chunks = []

    class Endless:
        def recv(self, size, flags):
            chunks.append(size)
            return b"more"

    assert not module._has_ended(Endless())
    assert len(chunks) < 100


def test_without_messages_it_waits_for_the_endpoints_only(held):
    address = held.peer.getpeername()
    lingering = held.linger(monotonic() + 60, listeners=1, messages=False)
    wait_until(lambda: lingering.poll(monotonic()))
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(address)


@pytest.mark.parametrize("end", ["close", "limit"])
def test_its_end_is_at_once_and_ends_the_connections(held, end):
    lingering = held.linger(monotonic() + 60)
    if end == "close":
        lingering.close()
        lingering.close()  # no effect
    else:
        lingering.limit(monotonic())
        assert lingering.poll(monotonic())
    assert lingering.finished
    assert held.theirs.recv(100) == b""
    with pytest.raises(BrokenPipeError):
        held.theirs.send(b"")


def test_an_abandoned_one_leaves_the_connections_to_the_parent(held, monkeypatch):
    abandoned = []
    # This process goes on to use the monitor.
    monkeypatch.setattr(module.Monitor, "abandon", lambda monitor: abandoned.append(monitor))
    with held.ours.dup():
        lingering = held.linger(monotonic() + 60)
        lingering.abandon()
        assert lingering.poll(monotonic())
        assert len(abandoned) == 1
        held.theirs.send(b"the parent reads this")
        with pytest.raises(BlockingIOError):
            held.theirs.recv(100)


@pytest.mark.parametrize("messages", [True, False])
def test_the_thread_that_closes_sockets_goes_on_when_nobody_waits_for_it(held, messages):
    """It reports the end of a socket, and would wait for ever for a reader that is gone."""
    lingering = held.linger(monotonic() + 60, listeners=1, messages=messages)
    lingering.close()
    another = zmq.green.Context.instance().socket(zmq.DEALER)
    monitor = module.Monitor(another, module.SOCKET_CLOSED)
    another.close(0)
    wait_until(monitor.read, 10)
    monitor.close()


def test_without_descriptors_the_connections_are_closed_and_the_error_is_raised(held, monkeypatch):
    def monitor(*_):
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr(module, "Monitor", monitor)
    with pytest.raises(zmq.ZMQError):
        held.linger(monotonic() + 60)
    assert held.theirs.recv(100) == b""
    assert not held.router.closed


class Dealer:
    """A connecting socket with 20 MB to send, in a context of its own, to a ROUTER that reads one message at a time."""

    count, size = 20, 1_000_000

    def __init__(self):
        self.context = zmq.green.Context()
        self.reader = zmq.green.Context.instance().socket(zmq.ROUTER)
        self.reader.set(zmq.RCVHWM, 1)
        port = self.reader.bind_to_random_port("tcp://127.0.0.1")
        dealer = self.context.socket(zmq.DEALER)
        dealer.set(zmq.LINGER, 0)
        dealer.set(zmq.RECONNECT_IVL, 24 * 3600 * 1000)
        monitor = ConnectionMonitor(dealer, 1.0)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        wait_until(monitor.descriptors)
        connections = copy_connections(monitor.descriptors(), monitor.read_ended)
        monitor.close()
        for number in range(self.count):
            dealer.send(number.to_bytes(1, "big") * self.size)
        (connection,) = connections
        wait_until(lambda: module._count_unsent(connection))
        loop = gevent.get_hub().loop
        self.lingering = Lingering(
            dealer, connections, 0, 300.0, monotonic() + 300, connects=True, loop=loop, wake=lambda: None
        )

    def begin_to_end_context(self):
        """Have a thread end the context, and return the thread."""
        thread = threading.Thread(target=zmq.Context.term, args=(self.context,), daemon=True)
        thread.start()
        return thread

    def end_context(self):
        """Wait until the context has ended, for seconds at most."""
        thread = self.begin_to_end_context()
        wait_until(lambda: not thread.is_alive(), 5)


@pytest.fixture
def dealer():
    dealer = Dealer()
    yield dealer
    dealer.reader.close(0)


@pytest.mark.parametrize("end", ["close", "limit"])
def test_L7_a_long_wait_for_a_reader_can_be_cut_short_and_the_context_ends(dealer, end):
    lingering = dealer.lingering
    assert not lingering.poll(lingering.due_at)
    if end == "close":
        lingering.close()
    else:
        lingering.limit(monotonic())
        assert lingering.poll(monotonic())
    dealer.end_context()


def test_L7_a_context_that_is_terminated_ends_although_the_last_report_cannot_be_read(dealer):
    thread = dealer.begin_to_end_context()
    wait_until(lambda: has_terminated(dealer.lingering._watched))
    dealer.lingering.close()
    wait_until(lambda: not thread.is_alive(), 5)


def has_terminated(socket):
    try:
        socket.get(zmq.EVENTS)
    except zmq.ContextTerminated:
        return True
    return False


def test_L7_a_slow_reader_gets_everything_in_a_long_time(dealer):
    lingering = dealer.lingering

    def poll():
        return lingering.poll(monotonic())

    for number in range(dealer.count):
        assert not poll() or number > dealer.count // 2  # its reader's ZeroMQ may hold the last ones
        _, body = dealer.reader.recv_multipart()
        assert body == number.to_bytes(1, "big") * dealer.size
    wait_until(poll)
    dealer.end_context()


def test_L7_nobody_is_waited_for_whose_connection_has_ended(dealer):
    dealer.reader.close(0)
    wait_until(lambda: dealer.lingering.poll(monotonic()), 5)
    dealer.end_context()


def test_an_abandoned_one_keeps_the_open_socket_of_the_parent(dealer, monkeypatch):
    monkeypatch.setattr(module, "_inherited", [])
    monkeypatch.setattr(module.Monitor, "abandon", lambda monitor: monitor.close())  # this process goes on
    dealer.lingering.abandon()
    (socket,) = module._inherited
    assert not socket.closed
    socket.close(0)
    dealer.end_context()
