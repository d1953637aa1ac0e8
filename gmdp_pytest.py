"""The pytest plugin of gmdp: a whole installation for one test, and nothing left after it.

It is there once gmdp is installed, and imports nothing until a test asks for one of its
fixtures::

    import gmdp
    import pytest


    def test_answers(gmdp_worker, gmdp_client):
        gmdp_worker("upper", lambda request: request.body[0].upper())
        assert gmdp_client.request("upper", b"hello") == [b"HELLO"]


    @pytest.mark.gmdp_broker(request_ttl=0.1)
    def test_nobody_is_there(gmdp_client):
        with pytest.raises(gmdp.RequestExpired):
            gmdp_client.request("nobody", b"")

Fixtures: ``gmdp_broker``, a started :class:`gmdp.Broker` on a port of its own;
``gmdp_worker(service, handler, **options)``, which starts a :class:`gmdp.Worker` of that
broker and returns it once it is registered; ``gmdp_client``, a started
:class:`gmdp.AsyncClient` of that broker (more are made with
``AsyncClient(gmdp_broker.endpoint)``); ``gmdp_simulation``, a
:class:`gmdp.testing.Simulation`.  After the test they are closed: the client, the workers,
the broker.

A test that uses one of them

* fails at its teardown if greenlets, descriptors or threads are left that were not there
  before, or requests that nobody has answered: it says which, and where they are
  (:mod:`gmdp.testing.leaks`).  What is about to end is waited for, two seconds at most.
  Fixtures that were set up before gmdp's belong to what was there before, those that were
  set up later have ended by then.  (While gmdp objects of such fixtures are open, sockets
  that are none of Python's may be theirs, and do not count.)  Of a test that has failed,
  whose traceback holds its variables, it is a section of the report, and no second error.
* fails after 30 seconds, and once more if its teardown takes as long, with the stacks of
  all greenlets on stderr (:mod:`gmdp.testing.deadline`); also when the hub is blocked.
  (Where a fixture's teardown blocks it, the run ends: pytest cannot go on from there.)
  What other plugins do between setup, test and teardown takes none of that time; from a
  debugger's first prompt on there is no deadline for that part of the test any more.

Markers: ``gmdp_broker(**options)``, options of that test's broker, ``bind`` included;
``gmdp_deadline(seconds)``; ``gmdp_allow_leaks("greenlets", "descriptors", "threads",
"requests")``, what the test may leave.  In the ini file: ``gmdp_transport``, "tcp" or
"inproc"; ``gmdp_deadline``, in seconds.  ``-p no:gmdp`` switches all of it off.
"""

# This is a module of its own because whatever lies in the package imports gevent and zmq
# with it, and pytest loads plugins in every project, before a conftest.py can monkey-patch.

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gmdp import AsyncClient, Broker, Worker
    from gmdp.testing import Simulation
    from gmdp.testing.fixtures import Installation

_installation: pytest.StashKey[Installation] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("gmdp_transport", 'where gmdp_broker listens: "tcp" (default) or "inproc"', default="tcp")
    parser.addini("gmdp_deadline", "seconds a test with a fixture of gmdp's may take (default 30)", default="30")


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "gmdp_broker(**options): options of the test's gmdp.Broker",
        "gmdp_deadline(seconds): how long the test may take",
        "gmdp_allow_leaks(*kinds): what the test may leave: requests, greenlets, descriptors, threads",
    ):
        config.addinivalue_line("markers", marker)


@pytest.fixture
def gmdp_broker(_gmdp: Installation) -> Broker:
    """A started gmdp.Broker; the marker gmdp_broker(**options) gives it options."""
    return _gmdp.broker


@pytest.fixture
def gmdp_worker(_gmdp: Installation) -> Callable[..., Worker]:
    """gmdp_worker(service, handler, **options): a registered gmdp.Worker of gmdp_broker."""
    return _gmdp.worker


@pytest.fixture
def gmdp_client(_gmdp: Installation) -> AsyncClient:
    """A started gmdp.AsyncClient of gmdp_broker."""
    return _gmdp.client


@pytest.fixture
def gmdp_simulation(_gmdp: Installation) -> Simulation:
    """A gmdp.testing.Simulation: a clock moved by hand, a network in memory."""
    return _gmdp.simulation()


@pytest.fixture
def _gmdp(request: pytest.FixtureRequest) -> Generator[Installation, None, None]:
    """What the others share: they are closed together, in order."""
    from gmdp import ConfigurationError
    from gmdp.testing import leaks
    from gmdp.testing.fixtures import Installation

    try:
        installation = Installation(**_told(request))
    except (ConfigurationError, TypeError, ValueError) as error:
        pytest.fail(str(error), pytrace=False)
    request.node.stash[_installation] = request.config.stash[_installation] = installation
    installation.begin()
    yield installation
    left = installation.end()
    if left and installation.failed:
        request.node.add_report_section("teardown", "leaks", leaks.report(left))
    elif left:
        pytest.fail(f"{request.node.nodeid} has {leaks.report(left)}", pytrace=False)


def _told(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What markers and the ini file say; the marker that is nearest to the test goes first."""
    node = request.node
    options: dict[str, Any] = {}
    for marker in node.iter_markers("gmdp_broker"):
        if marker.args:
            raise TypeError(f"the marker gmdp_broker takes keywords only, not {marker.args!r}")
        options = {**marker.kwargs, **options}
    seconds: Any = request.config.getini("gmdp_deadline")
    marker = node.get_closest_marker("gmdp_deadline")
    if marker is not None:
        if len(marker.args) != 1 or marker.kwargs:
            raise TypeError("the marker gmdp_deadline takes seconds, and nothing else")
        (seconds,) = marker.args
    return {
        "transport": request.config.getini("gmdp_transport"),
        "options": options,
        "seconds": _seconds(seconds),
        # Of all else, pytest tears down no further what a fixture raises at its end.
        "passed": pytest.fail.Exception,
        "allowed": [kind for marker in node.iter_markers("gmdp_allow_leaks") for kind in marker.args],
    }


def _seconds(given: Any) -> float:
    try:
        return float(given)
    except (TypeError, ValueError):
        raise ValueError(f"gmdp_deadline, a marker and an ini option, must be seconds, not {given!r}") from None


# Old-style wrappers: pluggy has others from 1.2 on, and this is loaded wherever gmdp is installed.


def _watched(item: pytest.Item) -> Generator[None, Any, None]:
    """A phase of a test; what interrupts a blocked hub fails the test, and does not end the run."""
    installation = item.stash.get(_installation, None)
    if installation is not None:
        installation.deadline.resume()
    outcome = yield
    installation = item.stash.get(_installation, None)
    if installation is not None:
        installation.deadline.pause()
        error = _error(outcome)
        passed = installation.deadline.translate() if error is None or isinstance(error, KeyboardInterrupt) else None
        if passed is not None:
            _end_with(outcome, passed, error)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, None]:
    yield from _watched(item)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    yield from _watched(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    outcome = yield
    installation = item.stash.get(_installation, None)
    if installation is not None and call.when != "teardown" and _error(outcome) is None:
        report = outcome.get_result()
        if report.failed or hasattr(report, "wasxfail"):
            installation.failed = True


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, None]:
    installation = item.stash.get(_installation, None)
    if installation is None or not installation.watched:
        yield
        return
    installation.deadline.start()  # what cleans up has its own time
    outcome = yield
    installation.deadline.cancel()
    del item.stash[_installation], item.config.stash[_installation]
    error = _error(outcome)
    passed = installation.deadline.translate() if isinstance(error, KeyboardInterrupt) else None
    if installation.watched:  # its fixture was not torn down, and will not be
        installation.abandon()
    if passed is not None:
        # What an interrupt keeps pytest from tearing down, it would take for the next test's.
        told = f"in the teardown of {item.nodeid}, {passed}"
        _end_with(outcome, pytest.exit.Exception(told, returncode=pytest.ExitCode.TESTS_FAILED), error)


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Who looks at a test has all the time he wants."""
    installation = config.stash.get(_installation, None)
    if installation is not None:
        installation.deadline.cancel()


def _error(outcome: Any) -> BaseException | None:
    """What a hook raised, if it did."""
    return None if outcome.excinfo is None else outcome.excinfo[1]


def _end_with(outcome: Any, error: BaseException, cause: BaseException | None) -> None:
    """Have a hook raise `error`."""
    error.__cause__ = cause
    if not hasattr(outcome, "force_exception"):  # before pluggy 1.1
        raise error
    outcome.force_exception(error)
