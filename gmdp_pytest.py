"""The pytest plugin of gmdp: a whole installation for one test, without leaks.

pytest loads the plugin once gmdp is installed.  The plugin imports nothing until a test asks
for one of its fixtures::

    import gmdp
    import pytest


    def test_answers(gmdp_worker, gmdp_client):
        gmdp_worker("upper", lambda request: request.body[0].upper())
        assert gmdp_client.request("upper", b"hello") == [b"HELLO"]


    @pytest.mark.gmdp_broker(request_ttl=0.1)
    def test_nobody_is_there(gmdp_client):
        with pytest.raises(gmdp.RequestExpired):
            gmdp_client.request("nobody", b"")

Fixtures:

* ``gmdp_broker``: a started :class:`gmdp.Broker` on a port of its own.
* ``gmdp_worker(service, handler, **options)``: starts a :class:`gmdp.Worker` of that broker, and
  returns the worker once it is registered.
* ``gmdp_client``: a started :class:`gmdp.AsyncClient` of that broker, whose calls take 0.8 of the test's deadline.
  ``AsyncClient(gmdp_broker.endpoint)`` makes more of them.
* ``gmdp_simulation``: a :class:`gmdp.testing.Simulation`.

After the test the plugin closes the client, then the workers, then the broker.

A test that uses one of these fixtures fails at its teardown if it leaves something behind
(:mod:`gmdp.testing.leaks`): greenlets, descriptors, threads, or requests without an answer.  The
error names them, and says where they are.

* The search waits up to two seconds for things that are about to end.
* Fixtures that were set up before gmdp's existed before the test, so they are no leaks.  Fixtures
  that were set up later have ended by then.  While a broker, worker or client of an earlier fixture
  is open, a socket that no socket of Python holds may belong to it, so it is no leak either.
* The leaks of a test that has failed are a section of its report, and no second error: the
  traceback keeps the test's variables alive.

Such a test also fails after 30 seconds, and its teardown after 30 more, even when the hub is
blocked (:mod:`gmdp.testing.deadline`).  The stacks of all greenlets go to stderr.

* When the teardown of a fixture blocks the hub, the whole run ends, since pytest cannot go on.
* The work of other plugins between setup, test and teardown takes none of the 30 seconds.
* From a debugger's first prompt on, that part of the test has no deadline.

Markers:

* ``gmdp_broker(**options)``: options of the test's broker, ``bind`` included.
* ``gmdp_deadline(seconds)``: how long the test may take.
* ``gmdp_allow_leaks("greenlets", "descriptors", "threads", "requests")``: the leaks that the test
  may have.

In the ini file: ``gmdp_transport``, "tcp" or "inproc"; ``gmdp_deadline``, in seconds.
``-p no:gmdp`` switches the plugin off.
"""

# This module lies outside the package: importing the package imports gevent and zmq, but pytest
# loads plugins in every project, before a conftest.py can monkey-patch.

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
    parser.addini("gmdp_deadline", "seconds that a test with a fixture of gmdp may take (default 30)", default="30")


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "gmdp_broker(**options): options of the test's gmdp.Broker",
        "gmdp_deadline(seconds): how long the test may take",
        "gmdp_allow_leaks(*kinds): leaks that the test may have: requests, greenlets, descriptors, threads",
    ):
        config.addinivalue_line("markers", marker)


@pytest.fixture
def gmdp_broker(_gmdp: Installation) -> Broker:
    """A started gmdp.Broker; the marker gmdp_broker(**options) sets its options."""
    return _gmdp.broker


@pytest.fixture
def gmdp_worker(_gmdp: Installation) -> Callable[..., Worker]:
    """gmdp_worker(service, handler, **options) returns a registered gmdp.Worker of gmdp_broker."""
    return _gmdp.worker


@pytest.fixture
def gmdp_client(_gmdp: Installation) -> AsyncClient:
    """A started gmdp.AsyncClient of gmdp_broker."""
    return _gmdp.client


@pytest.fixture
def gmdp_simulation(_gmdp: Installation) -> Simulation:
    """A gmdp.testing.Simulation: a clock that is moved by hand, and a network in memory."""
    return _gmdp.simulation()


@pytest.fixture
def _gmdp(request: pytest.FixtureRequest) -> Generator[Installation, None, None]:
    """The installation that the other fixtures share, and whose parts are closed in order."""
    from gmdp import ConfigurationError
    from gmdp.testing import leaks
    from gmdp.testing.fixtures import Installation

    try:
        installation = Installation(**_settings(request))
    except (ConfigurationError, TypeError, ValueError) as error:
        pytest.fail(str(error), pytrace=False)
    request.node.stash[_installation] = request.config.stash[_installation] = installation
    installation.begin()
    yield installation
    found = installation.end()
    if found and installation.failed:
        request.node.add_report_section("teardown", "leaks", leaks.report(found))
    elif found:
        pytest.fail(f"{request.node.nodeid} has {leaks.report(found)}", pytrace=False)


def _settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The arguments of Installation, from markers and the ini file; the marker nearest to the test wins."""
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
            raise TypeError("the marker gmdp_deadline takes one argument, the seconds")
        (seconds,) = marker.args
    return {
        "transport": request.config.getini("gmdp_transport"),
        "options": options,
        "seconds": _seconds(seconds),
        # After any other BaseException in a teardown, pytest would not tear down the remaining fixtures.
        "error": pytest.fail.Exception,
        "allowed": [kind for marker in node.iter_markers("gmdp_allow_leaks") for kind in marker.args],
    }


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"gmdp_deadline (marker or ini option) must be a number of seconds, not {value!r}") from None


# Old-style wrappers: those of pluggy 1.2 would keep this module from loading under an older pluggy.


def _run_phase(item: pytest.Item) -> Generator[None, Any, None]:
    """Run one phase of a test under its deadline.

    The interrupt of a blocked hub fails the test, and does not end the run.
    """
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
    yield from _run_phase(item)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    yield from _run_phase(item)


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
    installation.deadline.start()  # the teardown has as many seconds as the test
    outcome = yield
    installation.deadline.cancel()
    del item.stash[_installation], item.config.stash[_installation]
    error = _error(outcome)
    passed = installation.deadline.translate() if isinstance(error, KeyboardInterrupt) else None
    if installation.watched:  # pytest has not torn down its fixture, and will not do so
        installation.abandon()
    if passed is not None:
        # The interrupt has kept pytest from tearing down some fixtures, which the next test would meet.
        reason = f"in the teardown of {item.nodeid}, {passed}"
        _end_with(outcome, pytest.exit.Exception(reason, returncode=pytest.ExitCode.TESTS_FAILED), error)


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Cancel the deadline: the user of a debugger needs time."""
    installation = config.stash.get(_installation, None)
    if installation is not None:
        installation.deadline.cancel()


def _error(outcome: Any) -> BaseException | None:
    """The exception that a hook raised, or None."""
    return None if outcome.excinfo is None else outcome.excinfo[1]


def _end_with(outcome: Any, error: BaseException, cause: BaseException | None) -> None:
    """Have a hook raise `error`, with `cause` as its cause."""
    error.__cause__ = cause
    if not hasattr(outcome, "force_exception"):  # before pluggy 1.1
        raise error
    outcome.force_exception(error)
