"""Where brokers listen: names, wildcards, ports of the last start, and endpoints that are in use."""

import errno
import os
import socket

import gevent
import pytest
from gevent.event import Event
from names import V4, V6, Names, use_resolvers
from waiting import wait_until

from gmdp import AuthenticationFailed, BindError, Broker, Client, State, StateError, Worker
from gmdp.broker.binding import bind, look_up
from gmdp.io.contexts import SocketError


def echo(request):
    return request.body


@pytest.fixture
def use(monkeypatch):
    """A function: gives this thread's hub a resolver."""
    yield from use_resolvers(monkeypatch)


def test_wildcard_ports_are_resolved():
    broker = Broker("tcp://127.0.0.1:*")
    assert broker.endpoint == "tcp://127.0.0.1:*"
    with broker:
        assert broker.endpoint.startswith("tcp://127.0.0.1:")
        assert int(broker.endpoint.rpartition(":")[2]) > 0
        assert broker.endpoints == (broker.endpoint,)


@pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc"])
def test_B10_an_endpoint_in_use_is_a_clear_error_and_nothing_remains(tmp_path, nothing_left, transport):
    endpoint = {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{tmp_path}/b", "inproc": f"inproc://{tmp_path}"}[transport]
    with Broker(endpoint) as first:
        second = Broker(["tcp://127.0.0.1:*", first.endpoint])
        with pytest.raises(BindError, match=f"cannot bind {first.endpoint}: Address already in use") as caught:
            second.start()
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == errno.EADDRINUSE
        assert (second.state, second.started, second.closed) == (State.CLOSED, False, True)
        with Worker(first.endpoint, "echo", echo), Client(first.endpoint) as client:
            assert client.request("echo", b"x") == [b"x"]
    second.start()  # it is free now
    second.stop()
    nothing_left()


@pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc"])
def test_what_was_stopped_can_be_bound_again_at_once(unused_endpoint, tmp_path, transport):
    endpoint = {"tcp": unused_endpoint, "ipc": f"ipc://{tmp_path}/b", "inproc": f"inproc://{tmp_path}"}[transport]
    broker = Broker(endpoint)
    for _ in range(30):
        with broker, Client(endpoint) as client:
            assert client.request("mmi.nothing", b"") == [b"501"]
        with Broker(endpoint) as another:
            assert another.started


def test_a_broker_that_is_started_again_is_where_it_was(tmp_path):
    """The broker binds the same ports again, so that its peers find it."""
    broker = Broker(["tcp://127.0.0.1:*", "ipc://*", f"ipc://{tmp_path}/named"])
    seen = []
    for _ in range(2):
        with broker, Client(broker.endpoints, timeout=20) as client:
            assert client.request("mmi.nothing", b"") == [b"501"]
            seen.append(broker.endpoints)
    assert seen[0][0] == seen[1][0] != "tcp://127.0.0.1:*"
    assert seen[0][2] == seen[1][2] == f"ipc://{tmp_path}/named"
    with Broker(broker.endpoint) as another, broker:
        assert another.endpoint == seen[0][0] != broker.endpoint


# Host names


def test_G11_a_broker_binds_every_address_of_a_name_at_one_port(use):
    names = use(Names(both=(V6, V4)))
    broker = Broker("tcp://both:*", allow=[V4])
    for _ in range(2):
        with broker:
            four, six = bound = broker.endpoints
            port = four.rpartition(":")[2]
            assert bound == (f"tcp://127.0.0.1:{port}", f"tcp://[::1]:{port}")
            assert broker.endpoint == four
            with Client(four, timeout=20) as client:
                assert client.request("mmi.service", b"x") == [b"404"]
            with Client(six, timeout=20) as client, pytest.raises(AuthenticationFailed):
                client.request("mmi.service", b"x")
            assert broker.statistics().refused_connections["address"] > 0
    assert broker.endpoints == bound  # the port of the last start
    assert names.asked == ["both"] * len(names.asked)


def test_G11_addresses_of_other_machines_are_left_out(use):
    use(Names(elsewhere=("203.0.113.1", V4), nowhere=("203.0.113.1", "198.51.100.1")))
    with Broker("tcp://elsewhere:*") as broker:
        (endpoint,) = broker.endpoints
        assert endpoint.startswith("tcp://127.0.0.1:")
    with pytest.raises(BindError) as raised:
        Broker("tcp://nowhere:*").start()
    assert raised.value.errno in (errno.EADDRNOTAVAIL, errno.ENODEV)


def test_G11_a_port_that_is_taken_at_one_address_is_taken(use):
    use(Names(both=(V6, V4)))
    with Broker(f"tcp://[{V6}]:*") as other:
        port = other.endpoint.rpartition(":")[2]
        with pytest.raises(BindError) as raised:
            Broker(f"tcp://both:{port}").start()
        assert raised.value.errno == errno.EADDRINUSE
        wait_until(lambda: _is_free(V4, port))


def _is_free(host, port):
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_G11_a_broker_that_is_bound_by_an_unknown_name_says_so(use):
    use(Names())
    broker = Broker("tcp://nosuch.example:*")
    with pytest.raises(
        BindError, match=r"nosuch\.example is not an interface, and the host name could not be resolved: Name"
    ):
        broker.start()
    assert broker.closed


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:*", "tcp://*:5", "tcp://lo:5", "ipc:///tmp/made-up", "inproc://it"]
)
def test_what_is_no_name_is_not_looked_up(use, endpoint):
    names = use(Names())
    waits = []
    assert look_up(endpoint, waits.append) == (endpoint,)
    assert names.asked == waits == []


def test_the_broker_holds_the_wait_for_a_name_as_long_as_it_lasts(use):
    use(Names(both=(V6, V4), silent=Event()))
    waits = []
    assert look_up("tcp://both:5", waits.append) == ("tcp://127.0.0.1:5", "tcp://[::1]:5")
    assert [wait is None for wait in waits] == [False, True]
    looking = gevent.spawn(look_up, "tcp://silent:5", waits.append)
    wait_until(lambda: len(waits) == 3)
    waits[2].end()
    with pytest.raises(StateError, match="the broker was closed while it looked up silent"):
        looking.get(timeout=20)
    assert waits[3] is None


def _start_three_times(broker):
    """Start by three greenlets, the last of which serves; the name is waited for."""
    first = gevent.spawn(broker.start)
    wait_until(lambda: broker._name_wait is not None)
    second, serving = gevent.spawn(broker.start), gevent.spawn(broker.serve_forever)
    wait_until(lambda: len(broker._start_waiters) == 2 or second.ready() or serving.ready())
    return first, second, serving


def test_a_start_that_another_greenlet_has_begun_is_waited_for(use):
    """The others returned at once, and the broker did not listen yet."""
    released = Event()
    use(Names(slow=released))
    broker = Broker("tcp://slow:*")
    first, second, serving = _start_three_times(broker)
    assert not second.ready()
    assert not serving.ready()
    released.set()
    second.get(timeout=20)
    assert broker.state is State.RUNNING
    assert first.successful()
    assert not serving.ready()
    broker.stop()
    serving.get(timeout=20)


def test_a_start_that_is_waited_for_and_fails_is_an_error(use):
    use(Names(silent=Event()))
    broker = Broker("tcp://silent:*")
    greenlets = _start_three_times(broker)
    broker.close()
    for greenlet in greenlets:
        with pytest.raises(StateError, match="the broker was closed while it looked up silent"):
            greenlet.get(timeout=20)
    assert broker.closed


# Several addresses, and the ports of the last start


class Machine:
    """Stands in for a link: listens at endpoints of this machine that are free."""

    def __init__(self, taken=(), elsewhere=(), ports=()):
        self.taken = set(taken)
        self.elsewhere = elsewhere
        self.ports = iter(ports)
        self.bound = []
        self.tried = []

    def listen(self, endpoint):
        """Bind to an endpoint; port * is the next one of `ports`."""
        self.tried.append(endpoint)
        host, _, port = endpoint.rpartition(":")
        if host.rpartition("/")[2] in self.elsewhere:
            raise SocketError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        if port == "*":
            endpoint = f"{host}:{next(self.ports)}"
        if endpoint in self.taken:
            raise SocketError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.bound.append(endpoint)
        return endpoint

    def stop_listening(self, endpoint):
        """Unbind."""
        self.bound.remove(endpoint)


ANY = "tcp://127.0.0.1:*"
#: A host name, and the endpoints of its addresses.
NAME, BOTH = "tcp://both:*", ("tcp://1.1.1.1:*", "tcp://2.2.2.2:*")


def test_the_port_of_the_last_start_is_tried_first():
    machine = Machine(ports=[7])
    assert bind(machine, ANY, (ANY,), ["tcp://127.0.0.1:5"]) == ("tcp://127.0.0.1:5",)
    assert machine.tried == ["tcp://127.0.0.1:5"]
    machine = Machine(ports=[7], taken=["tcp://127.0.0.1:5"])
    assert bind(machine, ANY, (ANY,), ["tcp://127.0.0.1:5"]) == ("tcp://127.0.0.1:7",)


@pytest.mark.parametrize("last", [(), ("ipc:///tmp/made-up",), ("tcp://127.0.0.1:9",)])
def test_an_endpoint_without_a_wildcard_is_bound_as_it_is(last):
    machine = Machine()
    assert bind(machine, "tcp://127.0.0.1:9", ("tcp://127.0.0.1:9",), last) == ("tcp://127.0.0.1:9",)
    assert machine.tried == ["tcp://127.0.0.1:9"]


def test_all_addresses_of_a_name_have_one_port_that_is_free_at_each():
    machine = Machine(ports=[5, 6, 7], taken=["tcp://2.2.2.2:5", "tcp://2.2.2.2:6"])
    assert bind(machine, NAME, BOTH, ()) == ("tcp://1.1.1.1:7", "tcp://2.2.2.2:7")
    assert machine.bound == ["tcp://1.1.1.1:7", "tcp://2.2.2.2:7"]  # and nowhere else


def test_a_name_s_addresses_have_the_port_of_the_last_start():
    """Also an address that the name did not have then."""
    machine = Machine(ports=[7])
    assert bind(machine, NAME, BOTH, ("tcp://1.1.1.1:5",)) == ("tcp://1.1.1.1:5", "tcp://2.2.2.2:5")


def test_a_name_without_a_port_that_is_free_everywhere_is_in_use():
    machine = Machine(ports=range(1, 100), taken=[f"tcp://2.2.2.2:{port}" for port in range(1, 100)])
    with pytest.raises(BindError, match=r"cannot bind tcp://both:\*: Address already in use") as raised:
        bind(machine, NAME, BOTH, ())
    assert raised.value.errno == errno.EADDRINUSE
    assert machine.bound == []
    assert len(machine.tried) == 2 * 10


def test_an_error_other_than_a_port_in_use_is_not_tried_again():
    machine = Machine(elsewhere=["1.1.1.1", "2.2.2.2"])
    with pytest.raises(BindError) as raised:
        bind(machine, NAME, BOTH, ())
    assert raised.value.errno == errno.EADDRNOTAVAIL
    assert machine.tried == list(BOTH)


def test_an_address_of_another_machine_is_left_out_if_there_are_others(caplog):
    caplog.set_level("INFO", "gmdp.broker")
    machine = Machine(ports=[5], elsewhere=["1.1.1.1"])
    assert bind(machine, NAME, BOTH, ()) == ("tcp://2.2.2.2:5",)
    (record,) = caplog.records
    assert record.getMessage().startswith("not bound to tcp://1.1.1.1:*: ")
    with pytest.raises(BindError):
        bind(machine, BOTH[0], BOTH[:1], ())
