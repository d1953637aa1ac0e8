"""The pytest plugin, in runs of pytest of their own."""

import importlib.util
import re
import signal
import types
from pathlib import Path

import pytest

import gmdp_pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]

#: The runs below need not wait long for a leak that stays, or for a hub that is blocked.
#: Their tests call `soon` once everything is set up: then the deadline passes in 0.2 s.
CONFTEST = """if True:
    import gmdp_pytest, pytest
    from gmdp.testing import deadline, leaks

    leaks.PATIENCE = deadline.GRACE = 0.3

    @pytest.fixture
    def soon(request):
        return lambda: request.config.stash[gmdp_pytest._installation].deadline.start(0.2)
"""


@pytest.fixture(autouse=True)
def _sigint_raises():
    """Let SIGINT raise, here and in children: in a background job of a shell it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(pytester, monkeypatch):
    """A function that runs pytest in a process of its own, with this plugin as the only one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("CI", raising=False)  # pytest reports at length there
    pytester.plugins = ["gmdp_pytest"]

    def run(source, *args, conftest=CONFTEST):
        pytester.makeconftest(conftest)
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider", *args, timeout=60)

    return run


def sections(result):
    """The sections of a run's output, by title: one for each test and phase that failed."""
    parts = re.split(r"^_{3,} (.*?) _{3,}$", result.stdout.str(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_without_its_fixtures_the_plugin_imports_nothing(run):
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

def test_things_that_end_soon_are_no_leaks(gmdp_client):
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

def test_leaks_of_earlier_tests_are_not_reported(gmdp_broker):
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

        def test_deadline(gmdp_broker, soon):
            soon()
            time.sleep(1000)
        """,
        conftest="from gevent import monkey\nmonkey.patch_all()\n" + CONFTEST,
    )
    result.assert_outcomes(passed=2, failed=1, errors=1)
    reports = sections(result)
    assert re.search(r"greenlets:\n +<Greenlet.*sleeper", reports["ERROR at teardown of test_thread"])
    assert "Failed: the deadline of 0.2 s passed" in reports["test_deadline"]


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


def test_leaks_are_reported_at_the_teardown(run):
    result = run(LEAKY)
    reports = sections(result)
    here = r"test_leaks_are_reported_at_the_teardown\.py:\d+ in"

    def kinds(name):
        return re.findall(r"^  (\w+):$", reports[f"ERROR at teardown of {name}"], re.M)

    def says(name, *patterns):
        for pattern in patterns:
            assert re.search(pattern, reports[f"ERROR at teardown of {name}"]), reports[f"ERROR at teardown of {name}"]

    result.assert_outcomes(passed=11, failed=1, errors=10)
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
    says("test_pool", "gevent ThreadPool that was not killed")
    assert kinds("test_queued") == kinds("test_assigned") == ["requests"]
    says("test_queued", r"service 'no\{body\}': 2 queued", "<Broker running", r"calls in flight: 2\n +<AsyncClient")
    says("test_assigned", "service 'slow': 1 assigned", r"calls in flight: 1\n")
    assert kinds("test_call")[:2] == ["requests", "greenlets"]  # and what it tries to connect with
    says("test_call", r"calls not yet sent: 1\n", "gmdp-client of tcp://127.0.0.1:1", rf"{here} test_call: KEPT")
    assert "on its own account" in reports["test_failed"]
    assert re.findall(r"^  (\w+):$", reports["test_failed"].partition("Captured leaks teardown")[2], re.M) == [
        "requests"
    ]


def test_a_test_that_hangs_fails_with_all_stacks(run):
    result = run(
        """
        import gevent, pytest, time

        def nothing_happens():
            gevent.sleep(1000)

        def test_waits(gmdp_worker, gmdp_client, soon):
            gmdp_worker("slow", lambda request: nothing_happens())
            soon()
            gmdp_client.request("slow", b"now")

        def test_swallows(gmdp_broker, soon):
            soon()
            while True:
                try:
                    gevent.sleep(0.01)
                    gevent.sleep(1000)
                except Exception:
                    pass

        def test_handler_blocks(gmdp_worker, gmdp_client, soon):
            def compute(request):
                while True: pass
            gmdp_worker("busy", compute)
            soon()
            gmdp_client.request("busy", b"")

        def test_sleeps(gmdp_broker, soon):
            soon()
            time.sleep(1000)

        @pytest.fixture
        def hangs(gmdp_broker, soon):
            yield
            soon()
            gevent.sleep(1000)

        def test_fixture_hangs(hangs):
            pass

        def test_in_time(gmdp_broker):
            gevent.sleep(0.3)

        @pytest.fixture
        def blocks(gmdp_broker, soon):
            yield
            soon()
            time.sleep(1000)

        def test_fixture_blocks(blocks):
            pass

        def test_never_begun():
            pass
        """
    )
    result.assert_outcomes(passed=3, failed=4, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    reports = sections(result)
    waits, errors = reports["test_waits"], {name for name in reports if name.startswith("ERROR")}
    assert "Failed: the deadline of 0.2 s passed; greenlets alive: " in waits
    assert re.search(r"at .* in nothing_happens: gevent.sleep\(1000\)", waits)
    assert re.search(r'File ".*", line \d+, in nothing_happens', waits.partition("Captured stderr")[2])
    assert '<OwnerGreenlet "gmdp-broker' in waits.partition("Captured stderr")[2]
    assert "service 'slow': 1 assigned" in waits.partition("Captured leaks teardown")[2]
    assert "the deadline of 0.2 s passed" in reports["test_swallows"]
    for name, what in (("test_handler_blocks", "while True"), ("test_sleeps", r"time\.sleep")):
        assert re.search(rf">  .*{what}.*\n(?: +\^+\n)?E +KeyboardInterrupt", reports[name])
        assert re.search(r"Failed: the deadline of 0\.2 s passed, and the hub was blocked", reports[name])
        assert "the hub has not run for 0.3 s since" in reports[name]
    assert errors == {"ERROR at teardown of test_fixture_hangs"}
    assert "Failed: the deadline of 0.2 s passed; " in reports["ERROR at teardown of test_fixture_hangs"]
    ended = r"Exit: in the teardown of .*::test_fixture_blocks, the deadline of 0\.2 s passed, and the hub was blocked"
    assert re.search(ended, result.stdout.str())


def test_wrong_options_and_markers_are_errors_that_name_them(run):
    result = run(
        """
        import pytest

        known = pytest.mark.gmdp_deadline(30)

        def test_ini(gmdp_broker): pass

        @known
        @pytest.mark.gmdp_broker(request_til=1)
        def test_option(gmdp_broker): pass

        @pytest.mark.gmdp_broker("tcp://127.0.0.1:*")
        def test_position(gmdp_broker): pass

        @known
        @pytest.mark.gmdp_allow_leaks("greenlet")
        def test_kind(gmdp_broker): pass

        @pytest.mark.gmdp_deadline()
        def test_no_seconds(gmdp_broker): pass

        @pytest.mark.gmdp_deadline("soon")
        def test_no_number(gmdp_broker): pass

        @pytest.mark.gmdp_deadline(-1)
        def test_negative(gmdp_broker): pass

        @known
        def test_service(gmdp_worker):
            with pytest.raises(ValueError):
                gmdp_worker("", print)

        @known
        def test_afterwards(gmdp_broker): pass
        """,
        *("-o", "gmdp_deadline=abc"),
    )
    reports = sections(result)
    result.assert_outcomes(passed=2, errors=7)
    assert "unknown option 'request_til'" in reports["ERROR at setup of test_option"]
    assert "takes keywords only" in reports["ERROR at setup of test_position"]
    assert "'greenlet' is no kind of leak" in reports["ERROR at setup of test_kind"]
    assert "the marker gmdp_deadline takes" in reports["ERROR at setup of test_no_seconds"]
    assert re.search("gmdp_deadline.*not 'soon'", reports["ERROR at setup of test_no_number"])
    assert "0 seconds, not -1.0" in reports["ERROR at setup of test_negative"]


def test_an_interrupt_of_a_phase_ends_no_other_test(run):
    """Under asyncio, which has its own handler for SIGINT, and in a TestCase, too."""
    result = run(
        """
        import asyncio, time, unittest, gevent, pytest, gmdp, gmdp_pytest

        @pytest.fixture
        def blocks(gmdp_broker, soon):
            soon()
            time.sleep(1000)

        def test_setup_blocks(blocks):
            pass

        def test_coroutine_blocks(gmdp_broker, soon):
            async def block():
                soon()
                time.sleep(1000)
            asyncio.run(block())

        def test_coroutine_waits(gmdp_broker, soon):
            soon()
            asyncio.run(asyncio.sleep(1000))

        class TestOld(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _there(self, gmdp_client, soon):
                self.client, self.soon = gmdp_client, soon

            def test_hangs(self):
                self.soon()
                gevent.sleep(1000)

            def test_blocks(self):
                self.soon()
                time.sleep(1000)

        class TestLast:
            kept = []

            @pytest.fixture
            def ends_badly(self, gmdp_broker):
                yield
                raise SystemExit

            def test_torn_down_no_further(self, request, ends_badly, gmdp_broker):
                self.kept.append(request.config.stash[gmdp_pytest._installation])

            def test_closed_all_the_same(self):
                (installation,) = self.kept
                assert installation.broker.state is gmdp.State.CLOSED
                assert not installation.deadline.running
        """,
    )
    reports = sections(result)
    result.assert_outcomes(passed=2, failed=4, errors=2)
    blocked = r"Failed: the deadline of 0\.2 s passed, and the hub was blocked"
    assert re.search(blocked, reports["ERROR at setup of test_setup_blocks"])
    for name in ("test_coroutine_blocks", "test_coroutine_waits", "TestOld.test_blocks"):
        assert re.search(blocked, reports[name]), name
        assert reports[name].count("the hub has not run for") == 1
    assert "Failed: the deadline of 0.2 s passed; " in reports["TestOld.test_hangs"]
    assert "SystemExit" in reports["ERROR at teardown of TestLast.test_torn_down_no_further"]


def test_between_the_phases_of_a_test_its_deadline_does_not_run(run):
    result = run(
        """
        import pytest, gmdp_pytest

        def test_by_ini(request, gmdp_broker):
            assert request.config.stash[gmdp_pytest._installation].deadline.seconds == 20
            assert request.config.stash[gmdp_pytest._installation].deadline.running

        @pytest.mark.gmdp_deadline(10)
        def test_by_marker(request, gmdp_broker):
            assert request.config.stash[gmdp_pytest._installation].deadline.seconds == 10
            assert request.config.stash[gmdp_pytest._installation].deadline.running
        """,
        *("-o", "gmdp_deadline=20"),
        conftest=CONFTEST
        + """
    def pytest_runtest_makereport(item, call):
        assert (installation := item.stash.get(gmdp_pytest._installation, None)) or call.when == "teardown"
        assert installation is None or not installation.deadline.running
""",
    )
    result.assert_outcomes(passed=2)


def test_under_a_debugger_a_test_has_unlimited_time(run, pytester):
    pytester.makepyfile(
        patient="""
        import pdb, gmdp_pytest

        class Patient(pdb.Pdb):
            config = None

            def interaction(self, *args, **keywords):
                assert not self.config.stash[gmdp_pytest._installation].deadline.running
                print("had its time")
                self.set_continue()
        """
    )
    result = run(
        """
        import gmdp_pytest

        def test_breakpoint(request, gmdp_broker):
            assert request.config.stash[gmdp_pytest._installation].deadline.running
            breakpoint()
            assert not request.config.stash[gmdp_pytest._installation].deadline.running

        def test_fails(gmdp_broker):
            assert False, "on its own account"
        """,
        *("-s", "--pdb", "--pdbcls=patient:Patient"),
        conftest=CONFTEST
        + """
    def pytest_configure(config):
        import patient
        patient.Patient.config = config
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.stdout.str().count("had its time") == 2
    assert "deadline" not in result.stdout.str() + result.stderr.str()


def test_leaks_of_a_failed_test_are_no_second_error_and_cost_no_wait(run):
    result = run(
        """
        import os, socket, unittest, pytest

        def test_fails(gmdp_broker):
            file, there = open(os.devnull), socket.socket()
            assert False, "on its own account"

        @pytest.mark.xfail
        def test_is_known_to_fail(gmdp_broker):
            file = open(os.devnull)
            assert False

        class TestOld(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _there(self, gmdp_broker): pass

            def test_fails(self):
                file = open(os.devnull)
                self.assertTrue(False)

        @pytest.fixture
        def fails(gmdp_broker):
            file = open(os.devnull)
            assert False, "in the setup"

        def test_setup_fails(fails): pass

        def test_skips(gmdp_broker):
            file = open(os.devnull)
            pytest.skip("for no reason")

        def test_passes(gmdp_broker):
            file = open(os.devnull)
        """,
        conftest="from gmdp.testing import leaks\nleaks.PATIENCE = 50\n",
    )
    result.assert_outcomes(passed=1, failed=2, skipped=1, xfailed=1, errors=1)
    reports = sections(result)
    assert "on its own account" in reports["test_fails"]
    assert re.search(
        r"- Captured leaks teardown -+\nleft behind:\n  descriptors:\n    \d+ -> /dev/null\n", reports["test_fails"]
    )
    assert "in the setup" in reports["ERROR at setup of test_setup_fails"]
    assert result.duration < 40


def test_earlier_fixtures_may_make_and_accept_connections(run):
    result = run(
        """
        import asyncio, os, socket, threading, pytest, gmdp

        @pytest.fixture(scope="module")
        def endpoint():
            with gmdp.Broker("tcp://127.0.0.1:*") as broker:
                with gmdp.Worker(broker.endpoint, "echo", lambda request: request.body):
                    yield broker.endpoint

        @pytest.fixture(scope="class", params=["unstarted", "started", "threaded"])
        def client(request, endpoint):
            client = gmdp.Client(endpoint, threaded=request.param == "threaded")
            if request.param == "started":
                client.start()
            yield client
            client.close()

        class TestOne:
            def test_one_call(self, client, gmdp_broker):
                assert client.request("echo", b"x") == [b"x"]

            def test_another(self, client, gmdp_broker):
                assert client.request("echo", b"x") == [b"x"]

        KEPT = []

        def test_pythons_own_sockets_count(endpoint, gmdp_broker):
            KEPT.append(socket.socket())

        def test_files_count(endpoint, gmdp_broker):
            KEPT.append(os.open(os.devnull, os.O_RDONLY))

        def test_clients_of_the_test_count(endpoint, gmdp_broker):
            KEPT.append(gmdp.Client(endpoint))
            KEPT[-1].request("echo", b"x")
        """
    )
    result.assert_outcomes(passed=9, errors=3)
    reports = sections(result)
    assert re.search(r"descriptors:\n +\d+ -> socket", reports["ERROR at teardown of test_pythons_own_sockets_count"])
    assert re.search(r"descriptors:\n +\d+ -> /dev/null", reports["ERROR at teardown of test_files_count"])
    kept = reports["ERROR at teardown of test_clients_of_the_test_count"]
    assert re.search(r'greenlets:\n +<OwnerGreenlet "gmdp-client', kept)
    assert "descriptors:" not in kept


def test_under_xdist(run):
    pytest.importorskip("xdist")
    result = run(
        """
        import os, time, pytest

        @pytest.mark.parametrize("number", range(2))
        def test_served(gmdp_worker, gmdp_client, number):
            assert "PYTEST_XDIST_WORKER" in os.environ
            gmdp_worker("upper", lambda request: request.body[0].upper())
            assert gmdp_client.request("upper", b"hello") == [b"HELLO"]

        def test_leaks(gmdp_broker):
            os.open(os.devnull, os.O_RDONLY)

        def test_blocks(gmdp_broker, soon):
            soon()
            time.sleep(1000)
        """,
        *("-p", "xdist", "-n", "2"),
    )
    reports = sections(result)
    result.assert_outcomes(passed=3, failed=1, errors=1)
    assert "-> /dev/null" in reports["ERROR at teardown of test_leaks"]
    assert "Failed: the deadline of 0.2 s passed, and the hub was blocked" in reports["test_blocks"]


def test_the_plugin_loads_with_an_old_pluggy(monkeypatch):
    def hookimpl(function=None, hookwrapper=False, optionalhook=False, tryfirst=False, trylast=False):
        return (lambda function: function) if function is None else function

    monkeypatch.setattr(pytest, "hookimpl", hookimpl)
    spec = importlib.util.spec_from_file_location("loaded_anew", gmdp_pytest.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    error, cause = ValueError(), KeyboardInterrupt()
    with pytest.raises(ValueError) as raised:
        gmdp_pytest._end_with(types.SimpleNamespace(), error, cause)
    assert raised.value.__cause__ is cause


def test_the_library_never_imports_pytest():
    for path in (ROOT / "gmdp").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) _?pytest\b", path.read_text(encoding="utf-8"), re.M), path
