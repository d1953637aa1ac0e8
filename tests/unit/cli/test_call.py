"""``gmdp call``: what it refuses, and how calls without an answer end."""

import re

import pytest
from processes import gmdp_here
from refusals import Refusal

from gmdp import Worker

REFUSALS = [
    Refusal("call without a service", ["call"], ".*[Mm]issing argument 'SERVICE'.*"),
    Refusal("call of nothing", ["call", "", "x"], "a service name is 1 to 255 bytes long, not 0"),
    Refusal("call of a long name", ["call", "x" * 256, "x"], "a service name is 1 to 255 bytes long, not 256"),
    Refusal("call in no time", ["call", "x", "x", "--timeout", "0"], "--timeout must be a number greater than 0, .*"),
    Refusal(
        "call in any time", ["call", "x", "x", "--timeout", "inf"], "--timeout must be a number of at most .*, not inf"
    ),
    Refusal("call in words", ["call", "x", "x", "--timeout", "soon"], ".*--timeout.*'soon' is not a valid.*"),
    Refusal("call of a bad broker", ["call", "x", "x", "--broker", "x"], "bad endpoint 'x': .*"),
    Refusal("call of half a list", ["call", "x", "x", "--broker", "tcp://127.0.0.1:1,"], "bad endpoint '': .*"),
    Refusal("priority", ["call", "it", "x", "--priority", "7"], "--priority must be .* from 0 to 3, not 7"),
    Refusal("word", ["call", "it", "x", "--when-no-worker", "panic"], "Invalid value for '--when-no-worker'.*"),
    Refusal("retries", ["call", "it", "x", "--retries", "-1"], "--retries must be a whole number of at least 0.*"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refusal_is_one_line(folder, refusal):
    refusal.check(folder)


def test_a_call_without_a_worker_says_what_the_matter_may_be(broker):
    ended = gmdp_here("call", "nobody", "x", "--timeout", "0.2", "--broker", broker.endpoint)
    assert ended.status == 124
    assert re.fullmatch("gmdp: timeout: .*: no worker is registered for it", ended.one_line())


def test_call_may_fail_at_once_without_a_worker(broker):
    ended = gmdp_here("call", "nobody here", "x", "--broker", broker.endpoint, "--when-no-worker", "fail")
    assert ended.status == 1
    assert re.fullmatch(r"gmdp: no worker: service .*: no worker is registered for 'nobody here'", ended.one_line())


def test_call_that_nobody_answers_ends_with_124(broker):
    ended = gmdp_here("call", "nobody here", "x", "--broker", broker.endpoint, "--timeout", "0.2")
    assert ended.status == 124
    assert re.fullmatch(r"gmdp: timeout: service .*nobody here.*after \d+\.\d+ s.*", ended.one_line())


def parts(request):
    yield b"one"
    yield [b"t", b"wo"]
    return b"three"


@pytest.mark.parametrize(
    ("separator", "printed"),
    [
        ((), b"onetwothree"),
        (("--separator", r"\n"), b"one\ntwo\nthree\n"),
        (("--separator", r"\t\\\0"), b"one\t\\\0two\t\\\0three\t\\\0"),
        (("--separator", "☃"), "one☃two☃three☃".encode()),
    ],
)
def test_parts_of_a_stream_end_with_the_separator(broker, separator, printed):
    with Worker(broker.endpoint, "it", parts):
        ended = gmdp_here("call", "it", "x", "--broker", broker.endpoint, *separator)
    assert ended == (0, printed, b"")
