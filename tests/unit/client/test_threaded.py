"""The thread of a threaded client: its start, calls in it, and its end."""

import contextlib
import threading
import weakref

import gevent
import pytest
from waiting import wait_until

import gmdp.client.threaded
import gmdp.io.slots
from gmdp import AsyncClient, Client, ClosedError, HubNotRunning, State, StateError
from gmdp.client.threaded import ClientThread


@pytest.fixture
def echo(echoing):
    """The endpoint of a broker with the service "echo"."""
    return echoing.endpoint


def test_many_greenlets_may_start_and_use_a_threaded_client_at_once(echo, nothing_left):
    client = Client(echo, timeout=20, threaded=True)
    calls = [gevent.spawn(client.request, "echo", b"%d" % n) for n in range(100)]
    gevent.joinall(calls)
    assert [call.value for call in calls] == [[b"%d" % n] for n in range(100)]
    client.close()
    nothing_left()


@pytest.mark.parametrize("where", ["hub", "hook"])
def test_G3_code_that_must_not_wait_starts_no_threaded_client(echoing, where):
    outcomes = []
    post = {"hub": gevent.get_hub().loop.run_callback, "hook": echoing._owner.post}[where]

    def call():
        try:
            outcomes.append(client.submit("echo", b"1"))
        except StateError as error:
            outcomes.append(error)

    with contextlib.closing(AsyncClient(echoing.endpoint, timeout=20, threaded=True)) as client:
        post(call)
        wait_until(lambda: outcomes)
        assert isinstance(outcomes.pop(), StateError)
        client.start()
        post(call)
        wait_until(lambda: outcomes)
        assert outcomes[0].get() == [b"1"]


@pytest.mark.parametrize("where", ["hub", "hook"])
def test_G5_a_threaded_client_is_closed_by_code_that_must_not_wait_for_its_start(echoing, where):
    entered, go, closed = threading.Event(), threading.Event(), []

    class SlowToOpen(Client):
        def _start_here(self):
            entered.set()
            assert go.wait(20)
            return super()._start_here()

    def close():
        client.close()
        closed.append(client.state)

    client = SlowToOpen(echoing.endpoint, timeout=20, threaded=True)
    call = gevent.spawn(client.request, "echo", b"")
    wait_until(entered.is_set)
    {"hub": gevent.get_hub().loop.run_callback, "hook": echoing._owner.post}[where](close)
    wait_until(lambda: closed, timeout=4)
    go.set()
    with pytest.raises(ClosedError):
        call.get()
    wait_until(lambda: client.state is State.CLOSED)
    with pytest.raises(ClosedError):
        client.request("echo", b"")


def test_closing_ends_a_call_that_waits_in_a_thread(echo):
    client = Client(echo, timeout=20, threaded=True)
    errors = []

    def ask():
        try:
            client.request("nobody", b"")
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    wait_until(lambda: client.started and client.statistics().in_flight == 1)
    client.close()
    wait_until(lambda: not thread.is_alive())
    assert len(errors) == 1
    with pytest.raises(ClosedError):
        client.request("echo", b"")


def test_a_call_waits_until_the_client_has_started(echo, monkeypatch):
    """Two threads call at once, before the client has its sockets."""
    go = gmdp.io.slots.allocate_lock()
    go.acquire()
    opened = Client._open

    def open_later(client):
        go.acquire()
        return opened(client)

    monkeypatch.setattr(Client, "_open", open_later)
    client = Client(echo, timeout=20, threaded=True)
    calls = [gevent.spawn(client.request, "echo", b"first")]
    wait_until(lambda: client.started)
    calls.append(gevent.spawn(client.request, "echo", b"second"))
    wait_until(lambda: calls[1].dead or len(client._thread._starters) == 2)
    go.release()
    assert [call.get() for call in calls] == [[b"first"], [b"second"]]
    client.close()


def test_a_client_closed_at_any_moment_of_its_start_is_closed(echo):
    """Another thread closes the client."""
    for number in range(40):
        client = Client(echo, timeout=20, threaded=True)
        thread = threading.Thread(target=client.start)
        thread.start()
        for _ in range(number):
            client.state  # noqa: B018 - so that it comes a little later each time
        client.close()
        thread.join()
        client.close()
        assert client.closed
        assert not client._thread.alive


# A hub that does not run


def ask_in_thread(client):
    """A thread that makes a call, and where its result goes."""
    results = []

    def ask():
        try:
            results.append(client.request("echo", b"hello"))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, results


@pytest.mark.parametrize("start", [False, True])
def test_G8_a_hub_that_has_not_run_is_not_waited_for(monkeypatch, start):
    """The time is that of the call, 600 s, otherwise."""
    monkeypatch.setattr(gmdp.io.slots, "FIRST_PASS_TIME", 0.05)
    client = Client("tcp://127.0.0.1:1", timeout=600)
    if start:
        client.start()
    thread, results = ask_in_thread(client)
    thread.join(5)  # meanwhile, this thread's hub does not run
    (error,) = results
    assert isinstance(error, HubNotRunning)
    assert "threaded=True" in str(error)
    assert "did not run since the client was made" in str(error)
    client.close()


@pytest.mark.parametrize("start", [False, True])
def test_G8_a_busy_hub_is_waited_for(echo, monkeypatch, start):
    monkeypatch.setattr(gmdp.io.slots, "FIRST_PASS_TIME", 0.01)
    with Client(echo, timeout=20) if start else contextlib.nullcontext(Client(echo, timeout=20)) as client:
        gevent.sleep(0)  # the hub has run
        thread, results = ask_in_thread(client)
        thread.join(0.1)
        assert thread.is_alive()
        assert not results
        wait_until(lambda: not thread.is_alive())
        assert results == [[b"hello"]]
    client.close()


def test_G8_two_seconds_are_what_a_hub_gets():
    assert gmdp.io.slots.FIRST_PASS_TIME == 2.0


class Closable:
    """Stands in for a client."""

    closed = False

    def close(self):
        """Record the close."""
        self.closed = True


class Served:
    """Stands in for an owner, and ends at once."""

    def __init__(self):
        self.greenlet = self
        self.joined = []

    def join(self):
        """Record in which thread it runs."""
        self.joined.append(threading.current_thread())


@pytest.fixture
def visible_threads(monkeypatch):
    """Threads that the threading module, and so a measurement of coverage, knows."""

    def start(function, args):
        threading.Thread(target=function, args=args, name="the client's").start()

    monkeypatch.setattr("gmdp.client.threaded.start_thread", start)


def test_the_thread_opens_the_owner_and_serves_it_to_its_end(visible_threads):
    owner, seen = Served(), []

    def open_owner():
        seen.append((thread.alive, threading.current_thread().name))
        return owner

    thread = ClientThread(20)
    assert not thread.alive
    thread.start(Closable(), open_owner, lambda: False)
    thread.join()
    assert seen == [(True, "the client's")]
    assert [one.name for one in owner.joined] == ["the client's"]
    assert not thread.alive


def test_clients_with_threads_are_closed_at_the_interpreters_end(visible_threads, monkeypatch):
    closed_at_exit = weakref.WeakSet()
    monkeypatch.setattr("gmdp.client.threaded._closed_at_exit", closed_at_exit)
    client, thread = Closable(), ClientThread(20)
    thread.start(client, Served, lambda: False)
    thread.join()
    assert list(closed_at_exit) == [client]
    gmdp.client.threaded._close_at_exit()
    assert client.closed


def test_an_error_at_the_start_goes_to_every_caller_that_waits(visible_threads):
    """The thread ends, and may be started again."""
    thread, client = ClientThread(20), Closable()

    def fail():
        raise StateError("it does not start")

    for _ in range(2):
        with pytest.raises(StateError, match="does not start"):
            thread.start(client, fail, lambda: False)
        thread.join()
        assert not thread.starting
        assert not thread.alive


def test_a_thread_that_does_not_start_in_time_is_an_error(monkeypatch):
    monkeypatch.setattr("gmdp.client.threaded.start_thread", lambda function, args: None)
    with pytest.raises(StateError, match=r"0\.01 seconds"):
        ClientThread(0.01).start(Closable(), lambda: None, lambda: False)


def test_an_open_client_needs_no_thread(monkeypatch):
    monkeypatch.setattr("gmdp.client.threaded.start_thread", None)
    ClientThread(20).start(Closable(), lambda: None, lambda: True)
