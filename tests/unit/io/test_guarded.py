"""The gate for code that is not gmdp's: what it raises, and what it says of itself."""

import subprocess
import sys

import gevent
import pytest
import strangers

from gmdp.io import guarded


def fail(error):
    raise error


@pytest.mark.parametrize("name", strangers.ERRORS)
def test_G2_an_error_becomes_the_default_decision(name):
    caught = []
    assert guarded.call(strangers.throw, name, default="denied", on_error=caught.append) == "denied"
    assert len(caught) == 1


def test_G2_what_does_not_fail_is_passed_on():
    assert guarded.call(divmod, 7, 2, default=None, on_error=fail) == (3, 1)


@pytest.mark.parametrize("interrupt", strangers.INTERRUPTS)
def test_G2_an_interrupt_reaches_the_program_once_the_greenlet_waits(interrupt):
    steps = []

    def run():
        steps.append(guarded.call(fail, interrupt("7"), default="denied", on_error=steps.append))
        steps.append("the pass is finished")

    greenlet = gevent.spawn(run)
    with pytest.raises(interrupt, match="7"):
        gevent.sleep(60)
    assert steps == ["denied", "the pass is finished"]
    assert greenlet.ready()


def test_G2_without_a_hub_an_interrupt_is_printed():
    script = """
from gmdp.io import guarded
import _thread, gevent, sys
threads = gevent.get_hub().threadpool
def interrupted(): raise SystemExit("seven")
print(threads.apply(lambda: guarded.call(interrupted, default="denied", on_error=print)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("denied\n", 0), done.stderr
    assert "SystemExit: seven" in done.stderr


def test_G1_text_is_cut_and_made_whatever_the_object_does():
    assert guarded.text_of(ValueError("plain")) == "plain"
    assert guarded.repr_of(ValueError("plain")) == "ValueError('plain')"
    assert guarded.text_of(strangers.Wordless()) == "<str() failed>"
    assert guarded.repr_of(strangers.Wordless()) == "<Wordless: repr() failed>"
    assert guarded.type_name(strangers.Nameless()) == "an object without a type's name"
    for make in (guarded.text_of, guarded.repr_of):
        assert make(strangers.Huge()) == "x" * guarded.MAX_TEXT
        text = make(strangers.OddText())
        assert (type(text), text) == (str, "odd text")
