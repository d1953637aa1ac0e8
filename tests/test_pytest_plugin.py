"""The pytest plugin, and what it is made of: leaks and deadlines."""

import gc
import os
import re
import signal
import threading
import time
from pathlib import Path

import gevent
import pytest
from gevent.threadpool import ThreadPool

import gmdp
from gmdp.testing import deadline
from gmdp.testing.deadline import DeadlinePassed
from gmdp.testing.fixtures import Installation
from gmdp.testing.leaks import Census, Leaked, no_leaks

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent

#: In the runs below: what is left for good need not be waited for long.
CONFTEST = "from gmdp.testing import deadline, leaks\nleaks.PATIENCE = 0.3\ndeadline.GRACE = 0.3\n"


@pytest.fixture(autouse=True)
def _interrupts():
    """Here, and in what is started here; a shell's job in the background ignores them, and hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(pytester, monkeypatch):
    """A function: runs pytest with the plugin, and no other one, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.plugins = ["gmdp_pytest"]

    def run(source, *args, conftest=CONFTEST):
        pytester.makeconftest(conftest)
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider", *args, timeout=60)

    return run


def sections(result):
    """What a run says of each test, and in each phase."""
    parts = re.split(r"^_{3,} (.*?) _{3,}$", result.stdout.str(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# With pytest


def test_where_no_fixture_is_used_nothing_is_imported(run):
    result = run(
        """
        import sys

        def test_nothing(request):
            assert request.config.pluginmanager.hasplugin("gmdp_pytest")
            assert {"gevent", "greenlet", "zmq", "zope.interface", "gmdp"} & set(sys.modules) == set()
        """,
        conftest="",
    )
    result.assert_outcomes(passed=1)


SERVED = """
import os, gevent, pytest, gmdp
from gmdp.testing import Simulation

def upper(request):
    return request.body[0].upper()

def test_request(gmdp_broker, gmdp_worker, gmdp_client):
    worker = gmdp_worker("upper", upper, concurrency=3)
    assert worker.state is gmdp.State.RUNNING
    assert gmdp_broker.endpoint.startswith("TRANSPORT")
    assert gmdp_broker.statistics().services[b"upper"].workers == 3
    assert gmdp_client.request("upper", b"hello", when_no_worker="fail") == [b"HELLO"]
    assert gmdp_client.submit("upper", b"later").get() == [b"LATER"]

def test_two_workers_and_a_second_client(gmdp_broker, gmdp_worker, gmdp_client):
    gmdp_worker("upper", upper)
    gmdp_worker("upper", upper, version="0.1")
    assert gmdp_broker.statistics().services[b"upper"].workers == 2
    with gmdp.Client(gmdp_broker.endpoint) as other:
        assert other.request("upper", b"x") == gmdp_client.request("upper", b"x")

@pytest.mark.gmdp_broker(request_ttl=0.05, attempts=1)
class TestOptions:
    def test_of_the_class(self, gmdp_broker, gmdp_client):
        with pytest.raises(gmdp.RequestExpired):
            gmdp_client.request("nobody", b"")

    @pytest.mark.gmdp_broker(attempts=2, bind="inproc://here")
    def test_the_nearest_goes_first(self, gmdp_broker):
        assert (gmdp_broker.options.request_ttl, gmdp_broker.options.attempts) == (0.05, 2)
        assert gmdp_broker.endpoint == "inproc://here"

def test_simulation(gmdp_simulation):
    assert type(gmdp_simulation) is Simulation
    gmdp_simulation.broker()
    gmdp_simulation.worker("upper", upper)
    call = gmdp_simulation.client().request("upper", b"hello", timeout=10.0)
    gmdp_simulation.run(20)
    assert call.reply == [b"HELLO"]

def test_what_ends_soon_is_no_leak(gmdp_client):
    gevent.spawn(gevent.sleep, 0.05)
    gevent.spawn_later(0.05, gmdp_client.submit("nobody", b"").cancel)
    with pytest.raises(gmdp.RequestTimeout):
        gmdp_client.request("nobody", b"", timeout=0.01)
    gevent.get_hub().threadpool.spawn(int).get()

@pytest.fixture
def held():
    there = gevent.spawn(gevent.sleep, 1000)
    with open(os.devnull) as file:
        yield file
    there.kill()

def test_fixtures_before(held, gmdp_broker):
    pass

def test_fixtures_after(gmdp_broker, held):
    pass

KEPT = []

@pytest.mark.gmdp_allow_leaks("greenlets", "descriptors")
@pytest.mark.gmdp_allow_leaks("requests")
def test_allowed(gmdp_client):
    KEPT.append(gevent.spawn(gevent.sleep, 1000))
    KEPT.append(open(os.devnull))
    gmdp_client.submit("nobody", b"")

def test_of_those_before_nothing_is_said(gmdp_broker):
    assert not KEPT[0].dead
    assert gmdp_broker.state is gmdp.State.RUNNING
"""


@pytest.mark.parametrize("transport", ["tcp", "inproc"])
def test_the_fixtures_serve_and_clean_up(run, transport):
    result = run(
        SERVED.replace("TRANSPORT", transport), "-W", "error", "-o", f"gmdp_transport={transport}", conftest=""
    )
    result.assert_outcomes(passed=10)


def test_the_fixtures_work_in_a_monkey_patched_program(run):
    result = run(
        """
        import threading, time, pytest

        def test_served(gmdp_worker, gmdp_client):
            gmdp_worker("upper", lambda request: request.body[0].upper())
            assert gmdp_client.request("upper", b"hello") == [b"HELLO"]
            done = threading.Thread(target=time.sleep, args=(0.01,))
            done.start()

        def test_thread(gmdp_broker):
            threading.Thread(target=time.sleep, args=(1000,), name="sleeper", daemon=True).start()

        @pytest.mark.gmdp_deadline(0.5)
        def test_deadline(gmdp_broker):
            time.sleep(1000)
        """,
        conftest="from gevent import monkey\nmonkey.patch_all()\n" + CONFTEST,
    )
    result.assert_outcomes(passed=2, failed=1, errors=1)
    told = sections(result)
    assert re.search(r"greenlets:\n +<Greenlet.*sleeper", told["ERROR at teardown of test_thread"])
    assert "Failed: the deadline of 0.5 s passed" in told["test_deadline"]


LEAKY = """
import os, threading, gevent, pytest, gmdp

KEPT = []

def wait_for_godot():
    gevent.sleep(1000)

def test_greenlet(gmdp_broker):
    KEPT.append(gevent.spawn(wait_for_godot))
    gevent.sleep(0)

def test_raw_greenlet(gmdp_simulation):
    KEPT.append(gevent.spawn_raw(wait_for_godot))
    gevent.sleep(0)

def test_unbegun_greenlet(gmdp_broker):
    KEPT.append(gevent.spawn_later(1000, wait_for_godot))

def test_descriptor(gmdp_broker):
    os.open(os.devnull, os.O_RDONLY)

def test_thread(gmdp_broker):
    threading.Thread(target=threading.Event().wait, args=(60,), name="sleeper", daemon=True).start()

def test_pool(gmdp_broker):
    KEPT.append(gevent.threadpool.ThreadPool(1))
    KEPT[-1].spawn(int).get()

def test_queued(gmdp_client):
    gmdp_client.request("mmi.service", b"connected")
    gmdp_client.submit("no{body}", b"")
    gmdp_client.submit("no{body}", b"")

def test_assigned(gmdp_worker, gmdp_client):
    gmdp_worker("slow", lambda request: gevent.sleep(1000))
    gmdp_client.request("mmi.service", b"connected")
    gmdp_client.submit("slow", b"")

def test_call(gmdp_broker):
    KEPT.append(gmdp.AsyncClient("tcp://127.0.0.1:1"))
    KEPT[-1].submit("far", b"")

@pytest.mark.gmdp_allow_leaks("greenlets")
def test_another_kind_is_allowed(gmdp_broker):
    KEPT.append(gevent.spawn(wait_for_godot))
    os.open(os.devnull, os.O_RDONLY)

def test_failed(gmdp_client):
    gmdp_client.submit("nobody", b"")
    assert False, "on its own account"

def test_clean(gmdp_broker):
    pass
"""


def test_what_a_test_leaves_is_told_at_its_teardown(run):
    result = run(LEAKY)
    told = sections(result)
    here = r"test_what_a_test_leaves_is_told_at_its_teardown\.py:\d+ in"

    def kinds(name):
        return re.findall(r"^  (\w+):$", told[f"ERROR at teardown of {name}"], re.M)

    def says(name, *patterns):
        for pattern in patterns:
            assert re.search(pattern, told[f"ERROR at teardown of {name}"]), told[f"ERROR at teardown of {name}"]

    result.assert_outcomes(passed=11, failed=1, errors=11)
    assert kinds("test_greenlet") == kinds("test_raw_greenlet") == kinds("test_unbegun_greenlet") == ["greenlets"]
    says(
        "test_greenlet",
        r"test_greenlet has left behind:",
        r"<Greenlet.*: wait_for_godot>",
        rf"at .*{here} wait_for_godot: gevent\.sleep\(1000\)",
        rf"spawned at .*{here} test_greenlet: KEPT.append",
    )
    says("test_raw_greenlet", rf"at .*{here} wait_for_godot: gevent\.sleep")
    says("test_unbegun_greenlet", "not yet begun", rf"spawned at .*{here} test_unbegun_greenlet")
    assert kinds("test_descriptor") == kinds("test_another_kind_is_allowed") == ["descriptors"]
    says("test_descriptor", r"\n    \d+ -> /dev/null\n")
    assert kinds("test_thread") == kinds("test_pool") == ["threads"]
    says("test_thread", r"<Thread\(sleeper, started daemon", r"threading\.py:\d+ in wait")
    says("test_pool", "an idle one of a gevent ThreadPool")
    assert kinds("test_queued") == kinds("test_assigned") == ["requests"]
    says("test_queued", r"service b'no\{body\}': 2 queued", "<Broker running", r"calls in flight: 2\n +<AsyncClient")
    says("test_assigned", "service b'slow': 1 assigned", r"calls in flight: 1\n")
    assert kinds("test_call")[:2] == ["requests", "greenlets"]  # and what it tries to connect with
    says("test_call", r"calls not yet sent: 1\n", "gmdp-client of tcp://127.0.0.1:1", rf"{here} test_call: KEPT")
    assert kinds("test_failed") == ["requests"]
    assert "on its own account" in told["test_failed"]


def test_a_test_that_hangs_fails_and_tells_what_everybody_did(run):
    result = run(
        """
        import gevent, pytest, time

        def nothing_happens():
            gevent.sleep(1000)

        @pytest.mark.gmdp_deadline(1)
        def test_waits(gmdp_worker, gmdp_client):
            gmdp_worker("slow", lambda request: nothing_happens())
            gmdp_client.request("slow", b"")

        def test_swallows(gmdp_broker):
            while True:
                try:
                    gevent.sleep(0.01)
                    gevent.sleep(1000)
                except Exception:
                    pass

        @pytest.mark.gmdp_deadline(1)
        def test_handler_blocks(gmdp_worker, gmdp_client):
            def compute(request):
                while True: pass
            gmdp_worker("busy", compute)
            gmdp_client.request("busy", b"")

        def test_sleeps(gmdp_broker):
            time.sleep(1000)

        @pytest.fixture
        def hangs(gmdp_broker):
            yield
            gevent.sleep(1000)

        def test_fixture_hangs(hangs):
            pass

        @pytest.mark.gmdp_deadline(30)
        def test_in_time(gmdp_broker):
            gevent.sleep(0.3)

        @pytest.fixture
        def blocks(gmdp_broker):
            yield
            time.sleep(1000)

        def test_fixture_blocks(blocks):
            pass

        def test_never_begun():
            pass
        """,
        "-o",
        "gmdp_deadline=0.2",
    )
    result.assert_outcomes(passed=3, failed=4, errors=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    told = sections(result)
    waits, errors = told["test_waits"], {name for name in told if name.startswith("ERROR")}
    assert "Failed: the deadline of 1 s passed; greenlets alive: " in waits
    assert re.search(r"at .* in nothing_happens: gevent.sleep\(1000\)", waits)
    assert re.search(r'File ".*", line \d+, in nothing_happens', waits.partition("Captured stderr")[2])
    assert '<Greenlet "gmdp-broker' in waits.partition("Captured stderr")[2]
    assert "service b'slow': 1 assigned" in told["ERROR at teardown of test_waits"]
    assert "the deadline of 0.2 s passed" in told["test_swallows"]
    for name, what in (("test_handler_blocks", "while True"), ("test_sleeps", r"time\.sleep")):
        assert re.search(rf">  .*{what}.*\n(?: +\^+\n)?E +KeyboardInterrupt", told[name])
        assert re.search(r"Failed: the deadline of (1|0\.2) s passed, and the hub was blocked", told[name])
        assert "the hub has not run for 0.3 s since" in told[name]
    assert errors == {f"ERROR at teardown of {name}" for name in ("test_waits", "test_fixture_hangs")}
    assert "Failed: the deadline of 0.2 s passed; " in told["ERROR at teardown of test_fixture_hangs"]
    ended = r"Exit: in the teardown of .*::test_fixture_blocks, the deadline of 0\.2 s passed, and the hub was blocked"
    assert re.search(ended, result.stdout.str())


def test_what_is_told_wrongly_is_an_error_that_says_so(run):
    result = run(
        """
        import pytest

        @pytest.mark.gmdp_broker(request_til=1)
        def test_option(gmdp_broker): pass

        @pytest.mark.gmdp_broker("tcp://127.0.0.1:*")
        def test_position(gmdp_broker): pass

        @pytest.mark.gmdp_allow_leaks("greenlet")
        def test_kind(gmdp_broker): pass

        @pytest.mark.gmdp_deadline()
        def test_no_seconds(gmdp_broker): pass

        @pytest.mark.gmdp_deadline(-1)
        def test_negative(gmdp_broker): pass

        def test_service(gmdp_worker):
            with pytest.raises(ValueError):
                gmdp_worker("", print)

        def test_afterwards(gmdp_broker): pass
        """,
    )
    told = sections(result)
    result.assert_outcomes(passed=2, errors=5)
    assert "unknown option 'request_til'" in told["ERROR at setup of test_option"]
    assert "takes keywords only" in told["ERROR at setup of test_position"]
    kinds = "'greenlet' is no kind of leak; there are requests, greenlets, descriptors, threads"
    assert kinds in told["ERROR at setup of test_kind"]
    assert "takes seconds, and nothing else" in told["ERROR at setup of test_no_seconds"]
    assert "must be above 0 seconds, not -1.0" in told["ERROR at setup of test_negative"]


def test_an_unknown_transport_is_refused():
    with pytest.raises(gmdp.ConfigurationError, match="tcp or inproc, not 'udp'"):
        Installation(transport="udp", options={}, seconds=1)


def test_a_worker_that_cannot_register_is_told(monkeypatch):
    monkeypatch.setattr("gmdp.testing.fixtures.REGISTRATION", 0.2)
    installation = Installation(options={"max_workers": 1}, seconds=30)
    installation.begin()
    installation.worker("echo", bytes)
    with pytest.raises(AssertionError, match=r"not registered within 0\.2 s: <Worker .*b'echo'"):
        installation.worker("echo", bytes)
    assert installation.end() == []


# Without pytest


def test_no_leaks_raises_what_was_left():
    with pytest.raises(Leaked) as raised, no_leaks(patience=0.05):
        left = gevent.spawn(gevent.sleep, 1000)
    (leak,) = raised.value.leaks
    assert leak.kind == "greenlets"
    assert re.search(r"spawned at .*test_pytest_plugin\.py:\d+ in test_no_leaks_raises", leak.what)
    assert isinstance(raised.value, AssertionError)
    left.kill()


def test_no_leaks_looks_at_nothing_after_an_error_and_at_nothing_allowed():
    kept = []

    def fail():
        kept.append(gevent.spawn(gevent.sleep, 1000))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), no_leaks(patience=0.05):
        fail()
    with no_leaks(allowed=["greenlets"], patience=0.05), no_leaks(allowed="greenlets", patience=0.05):
        kept.append(gevent.spawn(gevent.sleep, 1000))
    with pytest.raises(gmdp.ConfigurationError, match="'sockets' is no kind of leak"), no_leaks(allowed=["sockets"]):
        pass
    gevent.killall(kept)


def test_what_only_the_garbage_collector_frees_is_not_left():
    gc.collect()
    with no_leaks():
        cycle = [os.fdopen(os.open(os.devnull, os.O_RDONLY))]
        cycle.append(cycle)
        del cycle


def test_a_closed_descriptor_whose_number_is_used_again_is_told():
    old = os.open(os.devnull, os.O_RDONLY)
    census = Census()
    os.close(old)
    new = os.open("/dev/zero", os.O_RDONLY)
    assert new == old
    assert [leak.what for leak in census.leaks(["descriptors"])] == [f"{new} -> /dev/zero"]
    os.close(new)


def test_the_idle_threads_of_the_hubs_own_pool_are_no_leak_but_busy_ones_are():
    pool, go_on = gevent.get_hub().threadpool, threading.Event()
    with no_leaks():
        pool.spawn(int).get()
    census = Census()
    task = pool.spawn(go_on.wait, 60)
    gevent.sleep(0.05)
    (leak,) = census.leaks()
    assert leak.kind == "threads"
    assert "in wait" in leak.what
    go_on.set()
    task.get()
    census.check()


def test_a_pool_that_is_killed_leaves_nothing():
    with no_leaks():
        pool = ThreadPool(2)
        pool.spawn(int).get()
        pool.kill()


def test_requests_that_were_there_before_do_not_count():
    with gmdp.Broker("inproc://before") as broker, gmdp.AsyncClient(broker.endpoint) as client:
        client.submit("nobody", b"")
        gevent.sleep(0.05)
        with no_leaks():
            pass
        with pytest.raises(Leaked, match=r"service b'nobody': 2 queued(.|\n)*calls in flight: 2"):
            with no_leaks(patience=0.05):
                client.submit("nobody", b"")


def test_greenlets_of_other_threads_count_without_their_place():
    def run():
        there = gevent.spawn(gevent.sleep, 60)
        until.wait(60)
        there.kill()
        gevent.get_hub().destroy(destroy_loop=True)

    until = threading.Event()
    census = Census()
    thread = threading.Thread(target=run)
    thread.start()
    while not census.leaks(["greenlets"]):
        gevent.sleep(0.001)
    assert "in another thread" in census.leaks(["greenlets"])[0].what
    until.set()
    thread.join()
    census.check()


def test_a_deadline_that_is_met_leaves_nothing(capsys):
    with no_leaks(), deadline.deadline(60):
        gevent.sleep(0.01)
    assert capsys.readouterr().err == ""


def test_a_deadline_raises_again_while_cleaning_up_and_through_except_exception(capsys):
    def work():
        try:
            try:
                gevent.sleep(60)
            except Exception:
                raise AssertionError("swallowed") from None
        finally:
            cleaning.append(True)
            gevent.sleep(60)

    cleaning = []
    with no_leaks():
        with pytest.raises(DeadlinePassed, match=r"the deadline of 0\.05 s passed; greenlets alive: \d"):
            with deadline.deadline(0.05):
                work()
    assert cleaning
    assert capsys.readouterr().err.count("The deadline of 0.05 s passed.\n") == 2


def test_a_deadline_ends_the_greenlet_it_was_set_in():
    def work():
        with deadline.deadline(0.05):
            gevent.sleep(60)

    working = gevent.spawn(work)
    with pytest.raises(DeadlinePassed):
        working.get()


def test_a_blocked_hub_is_interrupted_and_a_users_interrupt_is_left_alone(monkeypatch, capsys):
    monkeypatch.setattr(deadline, "GRACE", 0.1)
    with pytest.raises(DeadlinePassed, match="the hub was blocked") as raised, deadline.deadline(0.05):
        time.sleep(60)
    assert isinstance(raised.value.__cause__, KeyboardInterrupt)
    told = capsys.readouterr().err
    assert "the hub has not run for 0.1 s since" in told
    assert "time.sleep(60)" in told
    with pytest.raises(KeyboardInterrupt), deadline.deadline(60):
        raise KeyboardInterrupt


def test_another_threads_deadline_interrupts_nobody(monkeypatch, capsys):
    monkeypatch.setattr(deadline, "GRACE", 0.05)
    ended = []

    def run():
        with deadline.deadline(0.05):
            time.sleep(0.3)
        ended.append(True)
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended
    assert "the hub has not run" in capsys.readouterr().err


def test_where_nothing_can_ever_happen_a_deadline_does_not_hide_it():
    done = []

    def run():
        with deadline.deadline(60), pytest.raises(gevent.exceptions.LoopExit):
            gevent.event.Event().wait()
        done.append(True)
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done


def test_the_library_never_imports_pytest():
    for path in (ROOT / "gmdp").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) _?pytest\b", path.read_text(encoding="utf-8"), re.M), path
