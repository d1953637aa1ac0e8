"""Requests as handlers get them."""

import copy
import pickle
from time import monotonic

import pytest

from gmdp import Request, Worker
from gmdp.core.peer.sessions import Session, Work
from gmdp.core.snapshots import FrozenDict
from gmdp.protocol import token
from gmdp.worker.request import make_request


def test_the_request_tells_what_is_known(broker, client):
    seen = []

    def handler(request):
        seen.append(request)
        return b""

    before = monotonic()
    with Worker(broker.endpoint, "it", handler):
        client.request("it", [b"a", b"b"])
    (request,) = seen
    assert (request.service, request.body, request.attempt) == (b"it", [b"a", b"b"], 1)
    assert 0 < request.remaining() <= client.timeout
    assert dict(request.metadata) == {}
    assert before <= request.received <= monotonic()
    assert 0 <= request.age <= monotonic() - before
    assert repr(request) == "<Request 'it' attempt=1 frames=2 bytes=2>"


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self):
        return self.now


def test_the_time_left_runs_down_and_never_below_zero():
    clock = Clock()
    request = Request(b"it", [b"x"], time_left=2.0, clock=clock)
    assert (request.received, request.age, request.remaining()) == (100.0, 0.0, 2.0)
    clock.now = 101.5
    assert (request.age, request.remaining()) == (1.5, 0.5)
    clock.now = 105.0
    assert request.remaining() == 0.0


def test_nothing_remains_once_the_caller_has_gone():
    for time_left in (None, 2.0):
        request = Request(b"it", [b"x"], time_left=time_left, clock=Clock())
        assert request.remaining() == time_left
        request.give_up()
        assert request.remaining() == 0.0


@pytest.mark.parametrize("traceparent", [b"", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01", b"not one"])
def test_a_gmdp_broker_says_more_of_a_request(traceparent):
    reading = token.Reading(3, 2.0, False, False, traceparent)
    request = make_request(b"it", Work(Session(), b"address", [b"x"], reading), Clock())
    assert (request.service, request.body, request.attempt, request.remaining()) == (b"it", [b"x"], 3, 2.0)
    valid = traceparent.startswith(b"00-")
    assert dict(request.metadata) == ({"traceparent": traceparent.decode()} if valid else {})


def test_a_strict_broker_says_nothing_more():
    request = make_request(b"it", Work(Session(), b"address", [b"x"], None), Clock())
    assert (request.attempt, request.remaining(), dict(request.metadata)) == (1, None, {})


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda request: pickle.loads(pickle.dumps(request))])
def test_G14_a_request_can_be_copied_and_pickled(duplicate):
    request = Request(b"it", [b"a", b"b"], attempt=2, time_left=60.0, metadata=FrozenDict(traceparent="00-1"))
    copied = duplicate(request)
    assert (copied.service, copied.body, copied.attempt) == (b"it", [b"a", b"b"], 2)
    assert copied.metadata == {"traceparent": "00-1"}
    assert copied.received == request.received
    assert 0 < request.remaining() <= 60
    assert 0 < copied.remaining() <= 60


def test_G14_the_request_that_a_handler_gets_can_go_to_another_process(broker, client):
    with Worker(broker.endpoint, "it", lambda request: pickle.dumps(request)):
        (pickled,) = client.request("it", b"x", traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    request = pickle.loads(pickled)
    assert (request.service, request.body, list(request.metadata)) == (b"it", [b"x"], ["traceparent"])
