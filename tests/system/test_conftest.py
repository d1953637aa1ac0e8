"""What the conftest of these tests does: a test that hangs fails, and so does one that leaves something."""

import os
from pathlib import Path

import pytest
import skips

pytestmark = pytest.mark.once

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parents[1]


@pytest.fixture
def run(pytester, monkeypatch):
    """A function: runs tests under the conftest of these tests, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS / "tools")]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    pytester.makeini("[pytest]\nmarkers = deadline(seconds): how long\n  gmdp_allow_leaks(kinds): what may be left\n")

    def run(source, more=""):
        pytester.makeconftest(
            (TESTS / "conftest.py").read_text(encoding="utf-8")
            + "\nimport gmdp.testing.deadline\ngmdp.testing.deadline.GRACE = leaks.PATIENCE = 0.1\n"
            + more
        )
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=60)

    return run


@pytest.mark.parametrize(
    "hang",
    ["time.sleep(1000)", "while True: pass", "gevent.sleep(1000)"],
    ids=["blocked hub", "busy hub", "waiting greenlet"],
)
@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_a_test_that_hangs_fails_and_the_run_goes_on(run, phase, hang):
    bodies = {name: hang if name == phase else "pass" for name in ("setup", "call", "teardown")}
    result = run(
        f"""
        import signal, time
        import gevent, pytest

        @pytest.fixture
        def around():
            {bodies["setup"]}
            yield
            {bodies["teardown"]}

        @pytest.mark.deadline(0.2)
        def test_hangs(around):
            {bodies["call"]}

        def test_goes_on():
            pass
        """
    )
    failed = {"setup": {"errors": 1}, "call": {"failed": 1}, "teardown": {"errors": 1, "passed": 1}}[phase]
    result.assert_outcomes(**{**failed, "passed": failed.get("passed", 0) + 1})
    error = "DeadlinePassed" if phase == "call" else "Failed"
    result.stdout.fnmatch_lines([f"*{error}: the deadline of 0.2 s passed*"])


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_after_a_deadline_the_other_fixtures_are_torn_down(run, phase):
    hang = "gevent.sleep(1000)"
    bodies = {name: hang if name == phase else "pass" for name in ("setup", "call", "teardown")}
    result = run(
        f"""
        import gevent, pytest

        events = []

        @pytest.fixture(scope="module")
        def lowest():
            yield
            events.append("lowest")

        @pytest.fixture
        def below(lowest):
            yield
            events.append("below")

        @pytest.fixture
        def around(below):
            {bodies["setup"]}
            yield
            {bodies["teardown"]}

        @pytest.mark.deadline(0.2)
        def test_hangs(around):
            {bodies["call"]}

        def test_goes_on(lowest):
            assert events == ["below"]
        """
    )
    failed = {"setup": {"errors": 1}, "call": {"failed": 1}, "teardown": {"errors": 1, "passed": 1}}[phase]
    result.assert_outcomes(**{**failed, "passed": failed.get("passed", 0) + 1})


def test_a_test_of_hypothesis_has_time_to_shrink(run):
    result = run(
        """
        import gevent, pytest

        @pytest.mark.hypothesis
        def test_shrinks():
            gevent.sleep(0.5)

        def test_hangs():
            gevent.sleep(0.5)
        """,
        "DEADLINE, DEADLINE_WITH_SHRINKING = 0.2, 60",
    )
    result.assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize("kind", ["function", "state machine"])
def test_tests_of_hypothesis_have_the_marker(request, pytester, kind):
    """What the longer deadline depends on."""
    source = {
        "function": "@given(strategies.none())\ndef test_one(value): pass",
        "state machine": "class Machine(stateful.RuleBasedStateMachine): pass\ntest_one = Machine.TestCase",
    }[kind]
    items = pytester.getitems(f"from hypothesis import given, stateful, strategies\n{source}")
    request.config.pluginmanager.get_plugin("hypothesispytest").pytest_collection_modifyitems(items)
    assert [item.get_closest_marker("hypothesis") is not None for item in items] == [True]


@pytest.mark.parametrize(
    ("leak", "kind"),
    [
        ("gevent.spawn(gevent.sleep, 1000)", "greenlets"),
        ("os.pipe()", "descriptors"),
        ("threading.Thread(target=time.sleep, args=(2,), daemon=True).start()", "threads"),
    ],
)
def test_a_test_that_leaves_something_fails(run, leak, kind):
    result = run(
        f"""
        import os, threading, time
        import gevent, pytest

        def test_leaves():
            {leak}
            gevent.sleep(0)

        @pytest.mark.gmdp_allow_leaks("{kind}")
        def test_may_leave():
            {leak}
            gevent.sleep(0)

        def test_goes_on():
            pass
        """
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*Leaked: left behind:*", f"*{kind}:*"])


SKIPPING = """
import pytest

def test_is_not_here():
    pytest.skip("the reason")

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.skipif(True, reason="another reason")
def test_is_never_here(number):
    pass

@pytest.mark.xfail(strict=True)
def test_is_known_to_fail():
    assert False
"""


@pytest.mark.parametrize(
    ("environment", "outcomes"),
    [
        ({}, {"skipped": 3, "xfailed": 1}),
        ({"CI": "1"}, {"failed": 1, "errors": 2, "xfailed": 1}),
        ({"CI": "1", "TOX_ENV_NAME": "here"}, {"skipped": 3, "xfailed": 1}),
        ({"CI": "1", "TOX_ENV_NAME": "there"}, {"failed": 1, "skipped": 2, "xfailed": 1}),
    ],
)
def test_a_skip_fails_unless_it_is_listed(run, pytester, monkeypatch, environment, outcomes):
    pytester.path.joinpath("SKIPS.md").write_text(
        "| `test_a_skip_fails_unless_it_is_listed.py::test_is_not_here` | elsewhere, here | no reason |\n"
        "| `test_a_skip_fails_unless_it_is_listed.py::test_is_never_here` | any | no reason |\n",
        encoding="utf-8",
    )
    if environment == {"CI": "1"}:
        pytester.path.joinpath("SKIPS.md").write_text("", encoding="utf-8")
    monkeypatch.delenv("TOX_ENV_NAME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = run(SKIPPING)
    result.assert_outcomes(**outcomes)
    if "failed" in outcomes:
        result.stdout.fnmatch_lines(["*a skip that SKIPS.md does not list*the reason*"])


@pytest.mark.parametrize(("listed", "outcomes"), [("there", {"errors": 1}), ("here", {"skipped": 1})])
def test_a_module_that_is_skipped_fails_unless_it_is_listed(run, pytester, monkeypatch, listed, outcomes):
    name = "test_a_module_that_is_skipped_fails_unless_it_is_listed.py"
    pytester.path.joinpath("SKIPS.md").write_text(f"| `{name}` | {listed} | no reason |\n", encoding="utf-8")
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("TOX_ENV_NAME", "here")
    run("import pytest\npytest.skip('too old', allow_module_level=True)").assert_outcomes(**outcomes)


def test_every_skip_that_is_listed_names_a_test_and_a_reason():
    rows = skips.listed(TESTS / "SKIPS.md")
    text = (TESTS / "SKIPS.md").read_text(encoding="utf-8")
    assert len(rows) == sum(line.startswith("| `") for line in text.splitlines())
    for row in rows:
        path, _, name = row.what.partition("::")
        if "/" in path:
            assert f"def {name}(" in (TESTS.parent / path).read_text(encoding="utf-8") or not name
