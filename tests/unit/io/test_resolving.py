"""Host names: split from endpoints, looked up, and what becomes of those who ask."""

import os
import socket
import sys
import threading
from time import monotonic

import gevent
import pytest
from gevent.event import Event
from gevent.resolver.thread import Resolver as ThreadResolver
from names import V4, V6, Names, entries, use_resolvers
from waiting import wait_until

from gmdp import Broker, Client, RequestTimeout, State, StateError, Worker
from gmdp.core.peer.connector import Connector
from gmdp.io import resolving
from gmdp.io.resolving import Answer, Lookups, look_up, resolve, split_name


@pytest.fixture
def use(monkeypatch):
    """A function: gives this thread's hub a resolver."""
    yield from use_resolvers(monkeypatch)


def answers_of(host):
    answers = []
    look_up(host, answers.append)
    wait_until(lambda: answers)
    return answers[0]


# What a name is


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("tcp://a.example:5555", ("a.example", "5555")),
        ("tcp://localhost:*", ("localhost", "*")),
        ("tcp://127.0.0.1:1", None),
        ("tcp://127.1:1", None),
        ("tcp://[::1]:1", None),
        ("tcp://[fe80::1%eth0]:*", None),
        ("tcp://*:1", None),
        ("ipc://a:1", None),
        ("inproc://a:1", None),
        ("tcp://m\u00fcller.example:1", ("m\u00fcller.example", "1")),
    ],
)
def test_G11_a_name_is_what_is_no_address_and_no_wildcard(endpoint, name):
    assert split_name(endpoint) == name


def test_G11_interfaces_are_not_looked_up(use):
    names = use(Names())
    assert resolving.is_interface("lo")
    assert not resolving.is_interface("no-such-interface")
    with Broker("tcp://lo:*") as broker:
        assert broker.endpoint.startswith("tcp://127.0.0.1:")
    with Broker("tcp://*:*") as broker:
        assert broker.endpoint.startswith("tcp://0.0.0.0:")
    with Broker("tcp://127.0.0.1:*") as broker, Client(broker.endpoint, timeout=20) as client:
        assert client.request("mmi.service", b"x") == [b"404"]
    assert names.asked == []


# What a resolver says


def test_G11_addresses_come_once_each_and_ipv4_first():
    resolver = Names(it=("::2", "192.0.2.2", "::1", "192.0.2.1", "::2"))
    assert resolve(resolver, "it") == Answer(("192.0.2.2", "192.0.2.1", "[::2]", "[::1]"))
    assert Answer(("192.0.2.2", "[::2]")).endpoints("5") == ("tcp://192.0.2.2:5", "tcp://[::2]:5")


def test_G11_a_scope_is_kept():
    class Local:
        def getaddrinfo(self, *_):
            return [
                (socket.AF_INET6, 1, 6, "", ("fe80::1", 0, 0, 7)),
                (socket.AF_INET6, 1, 6, "", ("fe80::2%eth0", 0, 0, 2)),
            ]

    assert resolve(Local(), "it").addresses == ("[fe80::1%7]", "[fe80::2%eth0]")


def test_G11_a_resolver_may_have_ipv4_only_for_those_who_ask_for_it():
    class Glibc(Names):
        def getaddrinfo(self, host, port, family=0, *rest):
            return entries(V4) if family == socket.AF_INET else entries(V6)

    assert resolve(Glibc(), "it").addresses == ("127.0.0.1", "[::1]")


class Broken(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "try again"), "try again"),
        (Broken(), "Broken"),
        (UnicodeError("label too long"), "UnicodeError"),
        (gevent.Timeout(1), "Timeout"),
        (OSError(), "OSError"),
    ],
)
def test_G11_whatever_a_resolver_raises_is_an_answer(use, error, text):
    use(Names(it=error))
    assert answers_of("it") == Answer((), text)
    assert resolve(Names(it=[("x",)]), "other").addresses == ()


@pytest.mark.parametrize("interrupt", [SystemExit, KeyboardInterrupt])
def test_G4_an_interrupt_during_a_look_up_ends_the_program(use, interrupt):
    """A handler of `signal.signal` raises it in the greenlet that happens to run."""
    use(Names(it=interrupt(7)))
    answers = []
    look_up("it", answers.append)
    with pytest.raises(interrupt, match="7"):
        Event().wait(10)
    wait_until(lambda: answers == [resolving.ENDED])


class Lacking:
    """Stands for a hub whose resolver cannot be made."""

    @property
    def resolver(self):
        raise ImportError("No module named 'dns'")


def test_G11_no_resolver_is_an_answer(monkeypatch):
    answers = []
    monkeypatch.setattr(resolving, "get_hub", Lacking)
    look_up("it", answers.append)
    assert answers == [Answer((), "gevent's resolver cannot be made: No module named 'dns'")]


# Who asks, and how often


def test_G11_a_name_is_looked_up_once_for_all_who_ask_and_then_once_a_second(use, monkeypatch):
    gate = Event()
    names = use(Names(it=gate))
    answers = []
    for _ in range(50):
        look_up("it", answers.append)
    gevent.sleep(0)
    assert (names.asked, answers) == (["it"], [])
    gate.set()
    wait_until(lambda: len(answers) == 50)
    look_up("it", answers.append)
    assert (names.asked, len(answers)) == (["it"], 51)
    later = monotonic() + resolving.FRESH_TIME
    monkeypatch.setattr(resolving, "monotonic", lambda: later)
    assert answers_of("it") == Answer((V4,))
    assert names.asked == ["it", "it"]


def test_G11_two_names_are_looked_up_at_a_time_and_the_others_in_order(use):
    gates = {name: Event() for name in "abcd"}
    names = use(Names(**gates))
    answered = []
    for name in "abcd":
        look_up(name, lambda answer, name=name: answered.append(name))
    wait_until(lambda: len(names.asked) == 2)
    for number, name in enumerate("abcd"):
        gevent.sleep(0)
        assert names.asked == list("abcd"[: number + 2])
        gates[name].set()
        wait_until(lambda number=number: len(answered) == number + 1)
    assert answered == list("abcd")


def test_G11_what_nobody_waits_for_is_not_begun_or_ended(use):
    gates = {name: Event() for name in "abc"}
    names = use(Names(**gates))
    answered = []
    cancels = [look_up(name, answered.append) for name in "abc"]
    wait_until(lambda: len(names.asked) == 2)
    cancels[2]()  # in line
    cancels[0]()  # its greenlet is killed, or the census of this test would find it
    cancels[0]()
    gates["b"].set()
    wait_until(lambda: answered)
    gates["a"] = names.names["a"] = Event()
    look_up("a", answered.append)
    wait_until(lambda: names.asked == ["a", "b", "a"])  # a look-up that was ended is no answer
    gates["a"].set()
    wait_until(lambda: len(answered) == 2)


def test_G11_who_asks_again_before_an_ended_look_up_is_dead_gets_an_answer(use):
    gates = [Event(), Event()]
    names = use(Names(it=gates[0]))
    answered = []
    cancel = look_up("it", answered.append)
    wait_until(lambda: names.asked == ["it"])
    cancel()
    names.names["it"] = gates[1]
    look_up("it", answered.append)
    gates[1].set()
    wait_until(lambda: answered)
    assert answered == [Answer((V4,))]


def test_G11_one_of_two_who_ask_may_leave(use):
    gate = Event()
    use(Names(it=gate))
    answered = []
    cancel = look_up("it", lambda _: answered.append(1))
    look_up("it", lambda _: answered.append(2))
    cancel()
    gate.set()
    wait_until(lambda: answered == [2])


class Threads(ThreadResolver):
    """gevent's own resolver, with names of a test: it is used in threads of gmdp's own."""

    def __init__(self, hub=None):
        super().__init__(hub)
        self.released = threading.Event()
        self.used = []
        self.theirs = self.pool

    def getaddrinfo(self, *arguments):
        return self.pool.apply(self._wait, arguments)

    def _wait(self, *_):
        self.used.append(threading.get_ident())
        self.released.wait(60)
        return entries(V4)


def test_G11_silent_names_use_two_threads_and_none_of_the_hubs(use):
    resolver = use(Threads())
    answered = []
    for number in range(20):
        look_up(f"silent{number}", answered.append)
    wait_until(lambda: len(resolver.used) == 2)
    assert len(resolving.threads) == 2
    assert gevent.get_hub().threadpool.apply(lambda: 7) == 7
    gevent.get_hub().threadpool.kill()
    assert len(resolver.used) == 2
    resolver.released.set()
    wait_until(lambda: len(answered) == 20)
    wait_until(lambda: not resolving.threads)
    assert set(answered) == {Answer((V4,))}


def test_G11_several_hubs_share_a_look_up(use):
    resolver = use(Threads())
    answered = []
    look_up("shared", answered.append)

    def other():
        gevent.get_hub().resolver = resolver
        look_up("shared", answered.append)
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=other)
    thread.start()
    wait_until(lambda: not thread.is_alive())
    resolver.released.set()
    wait_until(lambda: len(answered) == 2)
    assert len(resolver.used) == 1
    wait_until(lambda: not resolving.threads)


def test_G11_no_further_thread_is_an_answer():
    def run(lookup, finish):
        raise RuntimeError("can't start new thread")

    answered = []
    lookups = Lookups(run)
    for name in "abc":
        lookups.ask(None, name, answered.append)
    assert answered == 3 * [Answer((), "can't start new thread")]


def test_G11_any_number_of_names_in_line_may_find_no_thread():
    held = []
    lookups = Lookups(lambda lookup, finish: held.append((lookup, finish)))
    answered = []
    for number in range(2 + 3 * sys.getrecursionlimit()):
        lookups.ask(None, f"n{number}", answered.append)

    def fail(lookup, finish):
        raise RuntimeError("can't start new thread")

    lookups._run = fail
    (lookup, finish), _ = held
    finish(lookup, Answer((V4,)))
    assert len(answered) == 1 + 3 * sys.getrecursionlimit()
    assert lookups._running == 1


class Uncopied(Threads):
    def __copy__(self):
        raise TypeError("it cannot be copied")


def test_G11_a_resolver_that_cannot_be_copied_takes_no_thread_for_ever(use):
    use(Uncopied())
    answered = []
    for number in range(5):
        look_up(f"n{number}", answered.append)
    wait_until(lambda: len(answered) == 5)
    assert set(answered) == {Answer((), "TypeError")}
    wait_until(lambda: not resolving.threads)


def test_G11_the_child_of_a_fork_begins_anew(use, monkeypatch):
    use(ThreadResolver())
    earlier = resolving._process
    monkeypatch.setattr(resolving, "_process", earlier)
    earlier.in_threads._lock.acquire()  # by a thread that is not in the child
    monkeypatch.setattr(os, "getpid", lambda: -1)
    hub = gevent.get_hub()
    assert resolving._lookups_of(hub, hub.resolver) is not earlier.in_threads
    earlier.in_threads._lock.release()


def test_G11_gevents_own_resolver_finds_this_machine(use):
    use(ThreadResolver())
    answer = answers_of("localhost")
    assert "127.0.0.1" in answer.addresses
    wait_until(lambda: not resolving.threads)


# Clients, workers and brokers


def echo(request):
    return request.body


@pytest.mark.both_ends
def test_G11_nobody_waits_for_a_silent_name(use):
    gate = Event()
    use(Names(silent=gate))
    with Broker("tcp://127.0.0.1:*") as broker, Worker(broker.endpoint, "it", echo), Client(broker.endpoint) as client:
        port = broker.endpoint.rpartition(":")[2]
        with Client([f"tcp://silent:{port}"], timeout=30) as other, Worker(f"tcp://silent:{port}", "other", echo):
            call = gevent.spawn(other.request, "it", b"y")
            for _ in range(20):
                assert client.request("it", b"x", timeout=20) == [b"x"]
            assert not call.ready()
            gate.set()
            assert call.get(timeout=30) == [b"y"]
            assert client.request("other", b"z", timeout=20) == [b"z"]


@pytest.mark.parametrize("kind", ["client", "worker", "threaded client"])
def test_G11_close_does_not_wait_for_a_name(use, kind):
    """The census of this test finds whatever is left of it."""
    resolver = use(Threads() if kind == "threaded client" else Names(silent=Event()))
    if kind == "worker":
        peer = Worker("tcp://silent:1", "it", echo)
        peer.start()
    else:
        peer = Client("tcp://silent:1", timeout=0.05, threaded=kind == "threaded client")
        with pytest.raises(RequestTimeout):
            peer.request("it", b"x")
    gevent.sleep(0)
    began = monotonic()
    peer.close()
    assert monotonic() - began < 5
    if kind == "threaded client":
        resolver.released.set()


@pytest.mark.parametrize("listening", [V4, V6])
def test_G11_every_address_of_a_name_is_tried(use, listening):
    use(Names(both=(V6, V4), other=(V6, "127.0.0.2", V4)))
    with Broker(f"tcp://[{V6}]:*" if listening == V6 else f"tcp://{V4}:*") as broker:
        port = broker.endpoint.rpartition(":")[2]
        for name in ("both", "other"):
            with Client(f"tcp://{name}:{port}", timeout=20) as client:
                assert client.request("mmi.service", b"x") == [b"404"]
                assert client.endpoint == f"tcp://{name}:{port}"


def test_G11_a_name_is_looked_up_again_after_a_loss(use, monkeypatch):
    monkeypatch.setattr(resolving, "FRESH_TIME", 0.0)
    names = use(Names(moves=(V4,)))
    with Broker(f"tcp://{V4}:*") as first:
        port = first.endpoint.rpartition(":")[2]
        with Client(f"tcp://moves:{port}", timeout=30) as client, Broker(f"tcp://127.0.0.2:{port}") as second:
            assert client.request("mmi.service", b"x") == [b"404"]
            assert (first.statistics().replies, second.statistics().replies) == (0, 0)
            names.names["moves"] = ("127.0.0.2",)
            first.close()
            with Worker(second.endpoint, "only there", echo):
                assert client.request("only there", b"x", retries=5) == [b"x"]


def test_G11_a_broker_is_found_again_while_the_name_server_is_silent(use, monkeypatch):
    monkeypatch.setattr(Connector, "lookup_patience", 0.01)
    monkeypatch.setattr(resolving, "FRESH_TIME", 0.0)
    names = use(Names(known=(V4,)))
    broker = Broker("tcp://127.0.0.1:*")
    with broker:
        client = Client(broker.endpoint.replace("127.0.0.1", "known"), timeout=30)
        assert client.request("mmi.service", b"x") == [b"404"]
    names.names["known"] = Event()
    with broker, client:
        assert client.request("mmi.service", b"x", retries=5) == [b"404"]


def test_G11_an_error_says_what_was_not_found(use):
    use(Names())
    with Client("tcp://nosuch.example:5", timeout=0.2) as client:
        with pytest.raises(RequestTimeout, match=r"could not be resolved: nosuch\.example: Name or service not known"):
            client.request("it", b"x")


@pytest.mark.parametrize("from_thread", [False, True])
def test_G11_close_ends_a_start_that_waits_for_a_name(use, from_thread):
    use(Names(silent=Event()))
    broker = Broker("tcp://silent:*")
    starting = gevent.spawn(broker.start)
    wait_until(lambda: broker._name_wait is not None)
    states = []

    def close():
        broker.close()
        states.append(broker.state)

    if from_thread:
        thread = threading.Thread(target=close)
        thread.start()
        wait_until(lambda: not thread.is_alive())
    else:
        close()
    assert states == [State.CLOSED]
    with pytest.raises(StateError, match="closed while it looked up silent"):
        starting.get(timeout=20)
    assert broker.closed


def test_G11_the_greenlet_that_starts_may_be_the_one_that_stops(use):
    """A handler of `signal.signal` runs in the greenlet that happens to run."""
    broker = Broker("tcp://silent:*")

    class Signalled(Names):
        def getaddrinfo(self, *arguments):
            raise AssertionError("the look-up was ended before it began")

    use(Signalled())
    put = broker._set_name_wait

    def set_name_wait(wait):
        put(wait)
        if wait is not None:
            broker.close()

    broker._set_name_wait = set_name_wait
    with pytest.raises(StateError, match="closed while it looked up silent"):
        broker.start()
    assert broker.closed


def test_G11_a_start_whose_hub_is_gone_cannot_be_ended(use):
    hubs = []

    def wait_for_name():
        hub = gevent.get_hub()
        hub.resolver = Names(silent=Event())
        hubs.append((hub, resolving.Wait("silent")))
        hub.destroy(destroy_loop=True)

    thread = threading.Thread(target=wait_for_name)
    thread.start()
    wait_until(lambda: not thread.is_alive())
    broker = Broker("tcp://silent:*")
    broker._name_wait = hubs[0][1]
    with pytest.raises(StateError, match="hub of the thread that looks up a name is gone"):
        broker.close()
    broker._name_wait = None
