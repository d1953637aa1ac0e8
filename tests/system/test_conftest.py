"""What the conftest of these tests does: a test that hangs fails, and so does one that leaves something."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parents[1]


@pytest.fixture
def run(pytester, monkeypatch):
    """A function: runs tests under the conftest of these tests, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS / "tools")]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\nmarkers = deadline(seconds): how long\n  gmdp_allow_leaks(kinds): what may be left\n")

    def run(source):
        pytester.makeconftest(
            (TESTS / "conftest.py").read_text(encoding="utf-8")
            + "\nimport gmdp.testing.deadline\ngmdp.testing.deadline.GRACE = leaks.PATIENCE = 0.1\n"
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
    result.stdout.fnmatch_lines(["*DeadlinePassed: the deadline of 0.2 s passed*"])


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
