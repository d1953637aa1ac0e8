"""gmdp's extension, byte by byte, through real sockets in both directions.

What stands here was written by hand after the tables of `gmdp.protocol.extension`;
nothing is taken from the code.  All of it holds in both versions of the extension: a peer of
version 1, as released before, and a broker of version 1.
"""

import json

import gevent
import peers
import pytest
import zmq
from gevent.event import Event
from peers import dealer
from waiting import wait_until

from gmdp import (
    AsyncClient,
    Broker,
    BrokerShuttingDown,
    HandlerFailed,
    MessageTooLarge,
    NotAllowed,
    NoWorker,
    Overloaded,
    RequestCancelled,
    RequestExpired,
    UnsupportedBroker,
    Worker,
    WorkerLost,
)
from gmdp.protocol.extension import to_milliseconds

CLIENT = b"0123456789abcdef"
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNKNOWN = b"\xff\xff\xff\xff"


#: What a peer of version 2 says about itself in its probe.
PROBE = b'{"extension":2,"features":["credits","not-run","leaving","reasons","stated","parts"]}'


class Spoken:
    """The version of the extension in which the test speaks."""

    version = 2


@pytest.fixture(autouse=True, params=[2, 1])
def version(request):
    Spoken.version = request.param
    yield request.param
    Spoken.version = 2


def field(kind, value):
    """An optional field."""
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def call(number, *, status=0, flags=0, priority=1, attempt=1, left=UNKNOWN, trace=b"", fields=b""):
    """A call frame."""
    head = b"\x89MDC" + bytes([Spoken.version, status, flags, priority, attempt])
    head += CLIENT + number.to_bytes(8, "big") + left
    if Spoken.version == 1:
        return head + trace
    if trace:
        fields = b"\x01\x00\x37" + trace + fields
    return head + len(fields).to_bytes(2, "big") + fields


def answer_frame(number, *, taken=1, **more):
    """The call frame of an answer, for the try that was `taken` up."""
    return call(number, flags=taken, **more)


def session(number, flags=0, fields=b""):
    """A session frame."""
    frame = b"\x89MDW" + bytes([Spoken.version, flags]) + number.to_bytes(4, "big")
    return frame if Spoken.version == 1 else frame + len(fields).to_bytes(2, "big") + fields


def test_the_remaining_time_is_rounded_up():
    """The remaining time on the wire never ends before the caller's own."""
    for seconds, left in ((0.0, 0), (0.0001, 1), (0.001, 1), (29.9991, 30_000), (30.0, 30_000), (-1.0, 0)):
        assert to_milliseconds(seconds) == left


# A broker


@pytest.fixture
def broker():
    broker = Broker("tcp://127.0.0.1:*", heartbeat_interval=60.0, request_ttl=60.0, attempts=2)
    broker.start()
    yield broker
    broker.close()


def registered(broker, count):
    wait_until(lambda: broker.statistics().workers == count)


@pytest.mark.parametrize(
    ("question", "head"),
    [
        ([b"MDPC02", b"\x01", b"mmi.gmdp", b""], [b"MDPC02", b"\x03", b"mmi.gmdp"]),
        ([b"", b"MDPC01", b"mmi.gmdp", b""], [b"", b"MDPC01", b"mmi.gmdp"]),
    ],
    ids=["0.2", "0.1"],
)
def test_the_probe_is_answered_with_an_offer(broker, question, head):
    with dealer(broker.endpoint) as peer:
        peer.send(*question)
        *answered, code, offer = peer.recv()
        assert (answered, code) == (head, b"200")
        assert json.loads(offer) == {
            "extension": 2,
            "features": ["credits", "begun", "not-run", "leaving", "reasons", "stated", "parts"],
            "stream_stall_timeout": 30.0,
            "max_in_flight": 10_000,
            "max_sessions": 500,
            "max_frames": 1_000,
            "max_frame_size": 16 * 1024 * 1024,
            "heartbeat_interval": 60.0,
        }


def test_an_answer_carries_the_frame_of_its_request(broker):
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"echo")
        client.send(call(7, priority=2, left=b"\x00\x00\xea\x60"), b"", b"MDPC02", b"\x01", b"echo", b"hello", b"")
        request = worker.recv()
        token = request[2]
        assert request == [b"MDPW02", b"\x02", token, b"", b"hello", b""]
        # Status, time left (a little less than a minute), attempt, typed failures.
        assert token[21] == 0
        assert 59_000 <= int.from_bytes(token[22:26], "big") <= 60_000
        assert token[26:] == b"\x01\x01"
        assert CLIENT not in token
        worker.send(b"MDPW02", b"\x03", token, b"", b"part")
        worker.send(b"MDPW02", b"\x04", token, b"", b"end")
        frame = answer_frame(7, status=1, priority=2, left=b"\x00\x00\xea\x60")
        assert client.recv() == [frame, b"", b"MDPC02", b"\x02", b"echo", b"part"]
        frame = answer_frame(7, status=0, priority=2, left=b"\x00\x00\xea\x60")
        assert client.recv() == [frame, b"", b"MDPC02", b"\x03", b"echo", b"end"]


def test_over_0_1_parts_are_joined(broker):
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"echo")
        client.send(call(1), b"", b"MDPC01", b"echo", b"hello")
        token = worker.recv()[2]
        worker.send(b"MDPW02", b"\x03", token, b"", b"part")
        worker.send(b"MDPW02", b"\x04", token, b"", b"end")
        assert client.recv() == [answer_frame(1), b"", b"MDPC01", b"echo", b"part", b"end"]


def test_many_calls_of_one_connection_are_answered_in_any_order(broker):
    with dealer(broker.endpoint) as first, dealer(broker.endpoint) as second, dealer(broker.endpoint) as client:
        for number, worker in enumerate((first, second), 1):
            worker.send(b"MDPW02", b"\x01", b"echo")
            registered(broker, number)  # who is there first gets the first request
        for number in (1, 2):
            client.send(call(number), b"", b"MDPC02", b"\x01", b"echo", b"%d" % number)
        tokens = [worker.recv()[2] for worker in (first, second)]
        second.send(b"MDPW02", b"\x04", tokens[1], b"", b"two")
        assert client.recv() == [answer_frame(2), b"", b"MDPC02", b"\x03", b"echo", b"two"]
        first.send(b"MDPW02", b"\x04", tokens[0], b"", b"one")
        assert client.recv() == [answer_frame(1), b"", b"MDPC02", b"\x03", b"echo", b"one"]


def test_the_trace_context_is_carried_to_the_worker_untouched(broker):
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"echo")
        client.send(call(1, trace=TRACEPARENT), b"", b"MDPC02", b"\x01", b"echo", b"")
        token = worker.recv()[2]
        assert token[28:] == TRACEPARENT
        worker.send(b"MDPW02", b"\x04", token, b"", b"")
        # In version 2 an answer does not repeat it.
        assert client.recv()[0] == answer_frame(1, trace=TRACEPARENT if Spoken.version == 1 else b"")


def test_a_return_address_may_stand_before_the_frame(broker):
    """A gmdp client behind a proxy."""
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as proxy:
        worker.send(b"MDPW02", b"\x01", b"echo")
        proxy.send(b"hop", call(1), b"", b"MDPC02", b"\x01", b"echo", b"x")
        token = worker.recv()[2]
        worker.send(b"MDPW02", b"\x04", token, b"", b"y")
        assert proxy.recv() == [b"hop", answer_frame(1), b"", b"MDPC02", b"\x03", b"echo", b"y"]


def test_what_only_looks_like_a_call_frame_is_a_return_address(broker):
    """A frame is an extension frame only if its magic, version and length are right."""
    longer = call(1)[:-2] + b"\x00\x03" + field(9, b"x")  # says 3 bytes and has 4
    for frame in (call(1)[:-1], call(1) + b"x", b"\x89MDC\x03" + call(1)[5:], longer):
        with dealer(broker.endpoint) as client:
            client.send(frame, b"", b"MDPC01", b"mmi.service", b"echo")
            assert client.recv() == [frame, b"", b"MDPC01", b"mmi.service", b"404"]


def test_management_is_answered_in_the_extension_too(broker):
    with dealer(broker.endpoint) as client:
        client.send(call(3), b"", b"MDPC02", b"\x01", b"mmi.service", b"echo")
        assert client.recv() == [answer_frame(3, attempt=0), b"", b"MDPC02", b"\x03", b"mmi.service", b"404"]


def test_failures_that_a_broker_reports(broker):
    def failure(number, status, attempts):
        return [answer_frame(number, status=status, attempt=attempts), b"", b"MDPC02", b"\x03", b"echo", b""]

    request = [b"", b"MDPC02", b"\x01", b"echo", b"x"]
    with dealer(broker.endpoint) as client, dealer(broker.endpoint) as worker:
        # No worker.
        client.send(call(1, flags=1), *request)
        assert client.recv() == failure(1, 2, 0)
        # Workers lost, twice.
        client.send(call(2), *request)
        for _ in range(2):
            worker.send(b"MDPW02", b"\x01", b"echo")
            assert worker.recv()[:2] == [b"MDPW02", b"\x02"]
            worker.send(b"MDPW02", b"\x06")
        assert client.recv() == failure(2, 5, 2)
        # A worker lost after a PARTIAL.
        client.send(call(3), *request)
        worker.send(b"MDPW02", b"\x01", b"echo")
        token = worker.recv()[2]
        worker.send(b"MDPW02", b"\x03", token, b"", b"part")
        worker.send(b"MDPW02", b"\x06")
        assert client.recv()[0] == answer_frame(3, status=1)
        assert client.recv() == failure(3, 5, 1)
        # A handler that failed, as a gmdp worker tells it.
        worker.send(b"MDPW02", b"\x01", b"echo")
        client.send(call(4), *request)
        token = worker.recv()[2]
        worker.send(b"MDPW02", b"\x04", token[:21] + b"\x01" + token[22:], b"", b"ValueError", b"wrong")
        expected = [answer_frame(4, status=6), b"", b"MDPC02", b"\x03", b"echo", b"ValueError", b"wrong"]
        assert client.recv() == expected
        # The broker stops.
        client.send(call(5), *request)
        worker.recv()
        broker.close()
        assert client.recv() == failure(5, 9, 1)


def test_failures_of_bounds():
    options = {
        "request_ttl": 0.05,
        "max_queue": 2,
        "max_in_flight": 3,
        "max_frame_size": 5_000,
        "max_queue_bytes": 7_000,
    }
    with Broker("tcp://127.0.0.1:*", **options) as broker, dealer(broker.endpoint) as client:

        def ask(number, *body, service=b"echo"):
            client.send(call(number), b"", b"MDPC02", b"\x01", service, *body)

        def answered():
            frames = client.recv()
            return int.from_bytes(frames[0][25:33], "big"), frames[0][5]

        # Too large in frames of allowed size, for all the bytes there are.
        ask(1, b"x" * 5_000, b"x" * 5_000)
        assert answered() == (1, 8)
        # Too many bytes, for what is free.
        ask(2, b"x" * 2_000)
        ask(3, b"x" * 2_000)
        assert answered() == (3, 4)
        assert answered() == (2, 3)  # its time in the queue was over
        # The queue is full: the newest of the longest backlog, its own, gives way.
        for number in (4, 5, 6):
            ask(number, b"x")
        assert answered() == (6, 4)
        # Too many open calls: two of another service come with them.
        ask(7, b"x", service=b"other")
        ask(8, b"x", service=b"other")
        assert answered() == (8, 4)
        assert broker.statistics().drops == {"bytes_full": 2, "in_flight_full": 1}


def test_inproc_frames_that_are_too_large_are_answered(tmp_path):
    endpoint = f"inproc://{tmp_path}"
    with Broker(endpoint, max_frame_size=100, max_frames=10) as broker, dealer(endpoint) as client:
        for number, body in ((1, [b"x" * 101]), (2, [b""] * 10)):
            client.send(call(number), b"", b"MDPC02", b"\x01", b"echo", *body)
            assert client.recv() == [answer_frame(number, status=8, attempt=0), b"", b"MDPC02", b"\x03", b"echo", b""]
        assert broker.statistics().drops == {"frame_too_large": 1, "too_many_frames": 1}


@pytest.mark.parametrize("limit", [9, 30, 40, 91])
def test_B7_an_extension_s_frame_above_the_limit_is_dropped_and_counted(tmp_path, limit):
    endpoint = f"inproc://{tmp_path}"
    with Broker(endpoint, max_frame_size=limit) as broker, dealer(endpoint) as client:
        client.send(b"hop", call(1, trace=TRACEPARENT), b"", b"MDPC02", b"\x01", b"echo", b"x")
        client.send(b"hop", session(1, fields=field(200, b"x" * limit)), b"", b"MDPW02", b"\x01", b"echo")
        client.send(b"MDPC02", b"\x01", b"mmi.none", b"")
        assert client.recv() == [b"MDPC02", b"\x03", b"mmi.none", b"501"]
        drops = broker.statistics().drops
        assert drops["frame_too_large"] == (2 if Spoken.version == 2 or limit == 9 else 1)


def test_a_cancelled_request_leaves_the_queue_and_the_reply_of_a_running_one_is_dropped(broker):
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"echo")
        for number in (1, 2):
            client.send(call(number), b"", b"MDPC02", b"\x01", b"echo", b"%d" % number)
        token = worker.recv()[2]
        for number in (2, 1, 9):
            client.send(call(number, flags=2), b"", b"MDPC02", b"\x01", b"echo", b"")
        wait_until(lambda: broker.statistics().drops == {"late_cancel": 1})
        worker.send(b"MDPW02", b"\x04", token, b"", b"late")
        client.send(call(3), b"", b"MDPC02", b"\x01", b"echo", b"3")
        assert worker.recv()[4:] == [b"3"]
        assert client.pending() == []
        now = broker.statistics()
        assert now.ended == {"cancelled": 1}
        assert now.drops == {"abandoned": 1, "late_cancel": 1}


def test_C9_a_retry_joins_the_request_that_runs_and_is_answered_where_it_came_from(broker):
    request = [b"", b"MDPC02", b"\x01", b"echo", b"x"]
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as first, dealer(broker.endpoint) as second:
        worker.send(b"MDPW02", b"\x01", b"echo")
        first.send(call(1), *request)
        token = worker.recv()[2]
        second.send(call(1, attempt=2), *request)
        wait_until(lambda: broker.statistics().joins == 1)
        worker.send(b"MDPW02", b"\x04", token, b"", b"y")
        assert second.recv() == [answer_frame(1, attempt=1), b"", b"MDPC02", b"\x03", b"echo", b"y"]
        assert first.pending() == []
        assert broker.statistics().requests == 1


# Sessions of a worker, at the broker


@pytest.mark.parametrize("streams", [True, False])
def test_F6_a_session_of_01_sends_parts_with_the_code_6(broker, streams):
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(session(1), b"", b"MDPW01", b"\x01", b"echo")
        head = [b"MDPC02"] if streams else [b"", b"MDPC01"]
        client.send(*head, *([b"\x01"] if streams else []), b"echo", b"question")
        address = worker.recv()[4]
        for number in range(3):
            worker.send(session(1), b"", b"MDPW01", b"\x06", address, b"", b"part %d" % number)
        worker.send(session(1), b"", b"MDPW01", b"\x03", address, b"", b"end")
        parts = [b"part 0", b"part 1", b"part 2", b"end"]
        if streams:
            for part in parts[:-1]:
                assert client.recv() == [b"MDPC02", b"\x02", b"echo", part]
            assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"end"]
        else:
            assert client.recv() == [b"", b"MDPC01", b"echo", *parts]


def test_F6_a_worker_of_01_joins_its_parts_unless_the_broker_takes_them():
    """A strict broker, and one of version 1, get one REPLY."""

    def handler(request):
        yield b"one"
        yield b"two"
        return b"end"

    with (
        PlayedBroker({**OFFER, "features": ["parts"]}) as played,
        Worker(played.endpoint, "echo", handler, version="0.1", heartbeat_interval=60.0),
    ):
        sender, ready, *_ = played.recv()
        played.send(sender, ready, b"", b"MDPW01", b"\x02", b"address", b"", b"question")
        head = [sender, ready, b"", b"MDPW01"]
        if Spoken.version == 2:
            assert played.recv() == [*head, b"\x06", b"address", b"", b"one"]
            assert played.recv() == [*head, b"\x06", b"address", b"", b"two"]
            assert played.recv() == [*head, b"\x03", b"address", b"", b"end"]
        else:
            assert played.recv() == [*head, b"\x03", b"address", b"", b"one", b"two", b"end"]


@pytest.mark.parametrize(
    ("head", "codes"),
    [(b"MDPW02", (1, 2, 4, 5, 6)), (b"MDPW01", (1, 2, 3, 4, 5))],
    ids=["0.2", "0.1"],
)
def test_each_session_is_a_worker_of_its_own(broker, head, codes):
    ready, request, final, heartbeat, disconnect = (bytes([code]) for code in codes)
    plain = [head] if head == b"MDPW02" else [b"", head]
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        for number in (1, 2):
            worker.send(session(number), b"", head, ready, b"echo")
        registered(broker, 2)
        for number in (1, 2, 3):
            client.send(call(number), b"", b"MDPC02", b"\x01", b"echo", b"%d" % number)
        one, two = worker.recv(), worker.recv()
        assert one == [session(1), b"", head, request, one[4], b"", b"1"]
        assert two == [session(2), b"", head, request, two[4], b"", b"2"]
        # The second is free first, and gets what waits.
        worker.send(session(2), b"", head, final, two[4], b"", b"zwei")
        assert client.recv() == [answer_frame(2), b"", b"MDPC02", b"\x03", b"echo", b"zwei"]
        three = worker.recv()
        assert (three[0], three[-1]) == (session(2), b"3")
        # Liveness is the connection's: a HEARTBEAT of either kind is answered without a session.
        for beat in ([session(1), b"", head, heartbeat], [*plain, heartbeat], [*plain, heartbeat]):
            worker.send(*beat)
        assert worker.recv() == [*plain, heartbeat]
        # One session leaves; its number is never used again, and nothing more is said to it.
        worker.send(session(1), b"", head, disconnect)
        wait_until(lambda: broker.statistics().lost_workers == {"disconnect": 1})
        worker.send(session(1), b"", head, ready, b"echo")
        worker.send(session(1), b"", head, final, one[4], b"", b"late")
        wait_until(lambda: broker.statistics().drops == {"retired_session": 2})
        # A higher one is welcome, and gets the request that was lost.
        worker.send(session(9), b"", head, ready, b"echo")
        again = worker.recv()
        assert (again[0], again[-1]) == (session(9), b"1")
        # DISCONNECT without a session is the connection's.
        worker.send(*plain, disconnect)
        registered(broker, 0)
        assert worker.pending() == []


def test_one_session_that_breaks_the_protocol_goes_alone(broker):
    with dealer(broker.endpoint) as worker:
        for number in (1, 2):
            worker.send(session(number), b"", b"MDPW02", b"\x01", b"echo")
        worker.send(session(1), b"", b"MDPW02", b"\x01", b"echo")
        assert worker.recv() == [session(1), b"", b"MDPW02", b"\x06"]
        assert broker.statistics().workers == 1
        # Nobody registers for the management interface.
        worker.send(session(3), b"", b"MDPW02", b"\x01", b"mmi.mine")
        assert worker.recv() == [session(3), b"", b"MDPW02", b"\x06"]
        # A number that was never registered says something: once DISCONNECT.
        worker.send(session(5), b"", b"MDPW02", b"\x04", b"address", b"", b"x")
        assert worker.recv() == [session(5), b"", b"MDPW02", b"\x06"]
        worker.send(session(5), b"", b"MDPW02", b"\x04", b"address", b"", b"x")
        worker.send(session(4), b"", b"MDPW02", b"\x01", b"echo")
        wait_until(lambda: broker.statistics().drops.get("retired_session") == 2)
        # What is no command ends the connection.
        worker.send(session(2), b"", b"MDPW02", b"\x07")
        worker.send(session(2), b"", b"MDPW02")
        registered(broker, 1)
        worker.send(b"MDPW02", b"\x09")
        assert worker.recv() == [b"MDPW02", b"\x06"]
        registered(broker, 0)


def test_a_session_s_last_final_and_disconnect(broker):
    """A stopping worker gives back requests that never ran; their deliveries do not count as attempts."""
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(session(1), b"", b"MDPW02", b"\x01", b"echo")
        for number in (1, 2):
            client.send(call(number), b"", b"MDPC02", b"\x01", b"echo", b"%d" % number)
        token = worker.recv()[4]
        worker.send(session(1, flags=2), b"", b"MDPW02", b"\x04", token, b"", b"eins")
        assert client.recv() == [answer_frame(1), b"", b"MDPC02", b"\x03", b"echo", b"eins"]
        registered(broker, 0)
        worker.send(session(2), b"", b"MDPW02", b"\x01", b"echo")
        assert worker.recv()[0] == session(2)
        worker.send(session(2, flags=2), b"", b"MDPW02", b"\x06")
        worker.send(session(3), b"", b"MDPW02", b"\x01", b"echo")
        request = worker.recv()
        assert (request[0], request[-1]) == (session(3), b"2")
        assert request[4][26] == 1  # the first attempt
        now = broker.statistics()
        assert (now.redeliveries, now.lost_workers) == (0, {"disconnect": 2})


def test_a_worker_learns_that_its_caller_has_gone(broker):
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(session(4), b"", b"MDPW02", b"\x01", b"echo")
        client.send(call(1), b"", b"MDPC02", b"\x01", b"echo", b"x")
        worker.recv()
        client.send(call(1, flags=2), b"", b"MDPC02", b"\x01", b"echo", b"")
        assert worker.recv() == [session(4, flags=1), b"", b"MDPW02", b"\x05"]


# Version 2


@pytest.mark.parametrize("version", [2], indirect=True)
def test_fields_that_a_broker_does_not_know_are_skipped(broker):
    """In a call frame, and in the session frames of READY, PARTIAL, FINAL, HEARTBEAT and DISCONNECT."""
    more = {"fields": field(200, b"of a later release") + field(201, b"")}
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(session(1, **more), b"", b"MDPW02", b"\x01", b"echo")
        client.send(call(7, trace=TRACEPARENT, **more), b"", b"MDPC02", b"\x01", b"echo", b"hello")
        request = worker.recv()
        token = request[4]
        assert request == [session(1), b"", b"MDPW02", b"\x02", token, b"", b"hello"]
        assert token[28:] == TRACEPARENT
        worker.send(session(1, **more), b"", b"MDPW02", b"\x03", token, b"", b"part")
        assert client.recv() == [answer_frame(7, status=1), b"", b"MDPC02", b"\x02", b"echo", b"part"]
        worker.send(session(1, **more), b"", b"MDPW02", b"\x05")
        worker.send(session(1, **more), b"", b"MDPW02", b"\x04", token, b"", b"end")
        assert client.recv() == [answer_frame(7), b"", b"MDPC02", b"\x03", b"echo", b"end"]
        worker.send(session(1, **more), b"", b"MDPW02", b"\x06")
        wait_until(lambda: broker.statistics().lost_workers == {"disconnect": 1})
        # Two fields of one type: the last counts.  A field that is longer than what is left ends them.
        twice = field(1, b"x" * 55) + field(1, TRACEPARENT) + b"\x01\x00\x38" + b"y" * 55
        worker.send(session(2), b"", b"MDPW02", b"\x01", b"echo")
        client.send(call(8, fields=twice), b"", b"MDPC02", b"\x01", b"echo", b"hello")
        assert worker.recv()[4][28:] == TRACEPARENT


@pytest.mark.parametrize("version", [2], indirect=True)
@pytest.mark.parametrize(("before", "read"), [(63, TRACEPARENT), (64, b"")])
def test_B4_a_broker_reads_no_more_than_64_optional_fields(broker, before, read):
    many = b"\xc8\x00\x00" * before + b"\x01\x00\x37" + TRACEPARENT
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(session(1), b"", b"MDPW02", b"\x01", b"echo")
        client.send(call(7, fields=many), b"", b"MDPC02", b"\x01", b"echo", b"hello")
        assert worker.recv()[4][28:] == read


@pytest.mark.parametrize("version", [2], indirect=True)
def test_a_worker_skips_fields_that_it_does_not_know(played):
    with Worker(played.endpoint, "echo", lambda request: request.body):
        sender = played.recv()[0]
        later = session(1, fields=field(200, b"of a later release"))
        played.send(sender, later, b"", b"MDPW02", b"\x02", b"address", b"", b"go")
        assert played.recv() == [sender, session(1), b"", b"MDPW02", b"\x04", b"address", b"", b"go"]
        played.send(sender, later, b"", b"MDPW02", b"\x06")
        assert played.recv() == [sender, session(2), b"", b"MDPW02", b"\x01", b"echo"]


PROBE_REASONS = [b"MDPC02", b"\x01", b"mmi.gmdp", b'{"extension":2,"features":["reasons"]}']


def test_a_client_that_names_the_feature_hears_in_words_why_there_is_no_answer(broker):
    """Field 2 of the answer's call frame.  Version 1 has no fields, and who has not named the feature gets none."""
    request = [b"", b"MDPC02", b"\x01", b"porg", b"x"]
    words = field(2, b"no worker is registered for 'porg'")
    with dealer(broker.endpoint) as client:
        for number, fields in ((1, b""), (2, words)):
            client.send(call(number, flags=1, trace=TRACEPARENT), *request)
            told = {"trace": TRACEPARENT} if Spoken.version == 1 else {"fields": fields}
            assert client.recv() == [
                answer_frame(number, status=2, attempt=0, **told),
                b"",
                b"MDPC02",
                b"\x03",
                b"porg",
                b"",
            ]
            client.send(*PROBE_REASONS)
            assert client.recv()[:4] == [b"MDPC02", b"\x03", b"mmi.gmdp", b"200"]


def test_a_request_that_is_refused_says_at_which_bound():
    with Broker("tcp://127.0.0.1:*", max_in_flight=1) as broker, dealer(broker.endpoint) as client:
        client.send(*PROBE_REASONS)
        client.recv()
        for number in (1, 2):
            client.send(call(number, trace=TRACEPARENT), b"", b"MDPC02", b"\x01", b"echo", b"x")
        fields = field(2, b"the connection had max_in_flight=1 requests open")
        told = {"trace": TRACEPARENT} if Spoken.version == 1 else {"fields": fields}
        frame = answer_frame(2, status=4, attempt=0, **told)
        assert client.recv() == [frame, b"", b"MDPC02", b"\x03", b"echo", b""]


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"[" * 4_000,
        b'{"extension":2}',
        b'{"extension":2,"features":"credits"}',
        b'{"extension":2,"features":[1,["credits"],{"a":1},"telepathy"]}',
        b'{"extension":"2","features":["credits"]}',
        b'{"extension":1,"features":["credits"]}',
        b'{"extension":2,"features":["credits"],"more":"%s"}' % (b"x" * 5_000),
        b"\xff\xfe",
    ],
)
def test_any_probe_is_answered(broker, body):
    with dealer(broker.endpoint) as peer:
        peer.send(b"MDPC02", b"\x01", b"mmi.gmdp", body)
        assert peer.recv()[3] == b"200"
        peer.send(b"MDPC02", b"\x01", b"mmi.gmdp", body, b"and more")
        assert peer.recv()[3] == b"200"


# A client, towards a bare ROUTER that plays a gmdp broker


OFFER = {
    "extension": 2,
    "features": ["not-run", "leaving"],
    "max_in_flight": 2,
    "max_sessions": 2,
    "max_frames": 20,
    "max_frame_size": 1000,
    "heartbeat_interval": 2.5,
}


class PlayedBroker(peers.Peer):
    """A ROUTER that answers each probe with an offer."""

    def __init__(self, offer=OFFER):
        super().__init__(zmq.ROUTER, peers.ANYWHERE, bind=True)
        if Spoken.version == 1 and offer["extension"] == 2:
            offer = {name: value for name, value in offer.items() if name != "features"} | {"extension": 1}
        self.offer = json.dumps(offer).encode()
        self.probes = []

    def recv(self, timeout=peers.DEADLINE):
        while (message := super().recv(timeout))[-2:-1] == [b"mmi.gmdp"]:
            self.probes.append(message[1:])
            head = [b"MDPC02", b"\x03"] if message[1] == b"MDPC02" else [b"", b"MDPC01"]
            self.send(message[0], *head, b"mmi.gmdp", b"200", self.offer)
        return message


@pytest.fixture
def played():
    with PlayedBroker() as played:
        yield played


def of_client(frame):
    """A call frame, taken apart: (status, flags, priority, attempt, nonce, number, milliseconds, traceparent)."""
    assert frame[:5] == b"\x89MDC" + bytes([Spoken.version])
    left = int.from_bytes(frame[33:37], "big")
    trace = frame[37:]
    if Spoken.version == 2:
        assert int.from_bytes(frame[37:39], "big") == len(frame) - 39
        if trace := frame[39:]:
            assert (len(trace), trace[:3]) == (58, b"\x01\x00\x37")
            trace = trace[3:]
    return (*frame[5:9], frame[9:25], int.from_bytes(frame[25:33], "big"), left, trace)


def answer(played, message, status, *body, partial=False):
    """Answer a message of an extended 0.2 client."""
    sender, frame, *_, service, _ = message
    told = frame[:5] + bytes([status]) + frame[6:8] + b"\x03" + frame[9:]
    played.send(sender, told, b"", b"MDPC02", b"\x02" if partial else b"\x03", service, *body)


@pytest.mark.parametrize(
    ("version", "probe", "head"),
    [
        ("0.2", [b"MDPC02", b"\x01", b"mmi.gmdp", PROBE], [b"", b"MDPC02", b"\x01"]),
        ("0.1", [b"", b"MDPC01", b"mmi.gmdp", PROBE], [b"", b"MDPC01"]),
    ],
    ids=["0.2", "0.1"],
)
def test_client_probes_once_and_sends(played, version, probe, head):
    with AsyncClient(played.endpoint, version=version, timeout=60.0, when_no_worker="fail") as client:
        assert client.extensions is None
        client.submit("echo", [b"one", b""])
        sender, frame, *rest = played.recv()
        assert played.probes == [probe]
        assert rest == [*head, b"echo", b"one", b""]
        status, flags, priority, attempt, nonce, number, left, trace = of_client(frame)
        assert (status, flags, priority, attempt, number, trace) == (0, 1, 1, 1, 1, b"")
        assert 59_000 < left <= 60_000
        assert client.extensions is True
        client.submit("echo", b"two", priority=3, when_no_worker="wait", traceparent=TRACEPARENT.decode())
        again, frame, *_ = played.recv()
        assert again == sender
        _, flags, priority, _, same, number, _, trace = of_client(frame)
        assert (flags, priority, same, number, trace) == (0, 3, nonce, 2, TRACEPARENT)
        # The broker allows two calls at a time: the third waits.
        client.submit("echo", b"three")
        wait_until(lambda: (client.statistics().in_flight, client.statistics().waiting) == (2, 1))
        assert len(played.probes) == 1


@pytest.mark.parametrize("features", [["stated"], []])
def test_L4_a_call_says_whether_its_caller_stated_the_time(features):
    """Flag 4, for a timeout that was given to the call or to the client, if the broker knows the flag."""
    told = 4 if features and Spoken.version == 2 else 0
    with PlayedBroker({**OFFER, "max_in_flight": 9, "features": features}) as played:
        with AsyncClient(played.endpoint) as client:
            for options, expected in (({}, 0), ({"timeout": 40.0}, told), ({"when_no_worker": "fail"}, 1)):
                client.submit("echo", b"x", **options)
                assert played.recv()[1][6] == expected
            client.timeout = 50.0
            client.submit("echo", b"x", priority=2)
            assert played.recv()[1][6] == told
    with PlayedBroker({**OFFER, "max_in_flight": 9, "features": features}) as played:
        with AsyncClient(played.endpoint, timeout=30.0) as client:
            client.submit("echo", b"x")
            assert played.recv()[1][6] == told
            stream = client.stream("echo", b"x", deadline=40.0)
            assert played.recv()[1][6] == told
            stream.close()


def test_a_stream_without_deadline_leaves_the_time_open(played):
    with AsyncClient(played.endpoint) as client:
        stream = client.stream("echo", b"", timeout=60.0)
        message = played.recv()
        assert message[1][33:37] == UNKNOWN
        answer(played, message, 1, b"1", partial=True)
        assert next(stream) == [b"1"]
        stream.close()
        _, frame, *rest = played.recv()
        assert frame[6] == 2  # cancel
        assert frame[9:33] == message[1][9:33]
        assert rest == [b"", b"MDPC02", b"\x01", b"echo", b""]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (2, NoWorker),
        (3, RequestExpired),
        (4, Overloaded),
        (5, WorkerLost),
        (6, HandlerFailed),
        (7, NotAllowed),
        (8, MessageTooLarge),
        (9, BrokerShuttingDown),
    ],
)
def test_each_status_is_an_error_with_the_facts(played, status, error):
    with AsyncClient(played.endpoint, timeout=60.0) as client:
        future = client.submit("echo", b"x")
        answer(played, played.recv(), status, b"")
        with pytest.raises(error) as caught:
            future.get(timeout=peers.DEADLINE)
        facts = caught.value
        assert (facts.service, facts.attempt, facts.deliveries) == (b"echo", 1, 3)
        assert 0 < facts.elapsed < 60
        assert "service 'echo'," in str(facts)


@pytest.mark.parametrize("version", [2], indirect=True)
@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (field(2, b"queued for 30 s behind 12 others"), ": queued for 30 s behind 12 others"),
        (field(200, b"?") + field(2, b"first") + field(2, "größe".encode()), ": größe"),
        (field(2, b"\x1b[2Jgone\n\xff\xc3"), r": \x1b[2Jgone\n\xff\xc3"),
        (field(2, "a\u202eb".encode()), r": a\u202eb"),
        (field(2, b"x" * 1_000), ": " + "x" * 1_000),
        (field(2, b"x" * 60_000), ": " + "x" * 1_000 + "…"),
        (field(2, b""), ": the broker reached one of its bounds"),
        (b"\x02\xff\xffcut off", ": the broker reached one of its bounds"),
        (b"\x02", ": the broker reached one of its bounds"),
    ],
)
def test_an_error_shows_the_broker_s_words_whatever_they_are(played, fields, shown):
    with AsyncClient(played.endpoint, timeout=60.0) as client:
        future = client.submit("echo", b"x")
        sender, frame, *_ = played.recv()
        told = frame[:5] + b"\x04" + frame[6:37] + len(fields).to_bytes(2, "big") + fields
        played.send(sender, told, b"", b"MDPC02", b"\x03", b"echo", b"")
        with pytest.raises(Overloaded) as caught:
            future.get(timeout=peers.DEADLINE)
        assert str(caught.value).endswith(shown)


def test_answers_come_in_any_order_and_late_ones_are_dropped(played):
    with AsyncClient(played.endpoint, timeout=60.0) as client:
        first, second = client.submit("echo", b"1"), client.submit("echo", b"2")
        messages = [played.recv(), played.recv()]
        for message in reversed(messages):
            answer(played, message, 0, b"answer to " + message[-1])
        assert (first.get(), second.get()) == ([b"answer to 1"], [b"answer to 2"])
        answer(played, messages[0], 0, b"once more")
        third = client.submit("echo", b"3")
        answer(played, played.recv(), 0, b"answer to 3")
        assert third.get() == [b"answer to 3"]
        assert client.statistics().late_replies == 1


def test_what_is_no_answer_is_dropped_and_counted(played):
    with AsyncClient(played.endpoint, timeout=60.0) as client:
        future = client.submit("echo", b"x")
        message = played.recv()
        sender, frame = message[:2]
        wrong = [
            [b""],
            [frame],
            [frame, b"", b"MDPC02", b"\x03", b"other", b"x"],
            [frame, b"", b"MDPC02", b"\x03", b"echo"],
            [frame, b"", b"MDPC02", b"\x02", b"echo", b"status ok, command PARTIAL"],
            [frame[:5] + b"\x01" + frame[6:], b"", b"MDPC02", b"\x03", b"echo", b"status partial, command FINAL"],
            [frame[:5] + b"\x05" + frame[6:], b"", b"MDPC02", b"\x02", b"echo", b"a failure is no part"],
            [frame[:5] + b"\x63" + frame[6:], b"", b"MDPC02", b"\x03", b"echo", b"no such status"],
            [frame, b"MDPC02", b"\x03", b"echo", b"no delimiter"],
            [b"MDPC02", b"\x03", b"echo", b"no frame"],
        ]
        for frames in wrong:
            played.send(sender, *frames)
        played.send(sender, frame[:9] + bytes(16) + frame[25:], b"", b"MDPC02", b"\x03", b"echo", b"another client's")
        answer(played, message, 0, b"right")
        assert future.get(timeout=peers.DEADLINE) == [b"right"]
        assert client.statistics().malformed == len(wrong)
        assert client.statistics().late_replies == 1


def test_a_retry_has_the_same_id_and_says_which_it_is(played):
    with AsyncClient(played.endpoint) as client:
        future = client.submit("echo", b"x", timeout=4, retries=1)
        first = played.recv()
        second = played.recv()
        assert second[0] == first[0]
        assert second[1][9:33] == first[1][9:33]
        assert (first[1][8], second[1][8]) == (1, 2)
        assert second[2:] == first[2:]
        answer(played, second, 0, b"y")
        assert future.get(timeout=peers.DEADLINE) == [b"y"]


def played_worker(features, concurrency, handler=lambda request: request.body):
    """A broker that offers these features, and a worker that is registered there: (broker, worker, routing id)."""
    Spoken.version = 2
    played = PlayedBroker({**OFFER, "features": features})
    worker = Worker(played.endpoint, "echo", handler, concurrency=concurrency)
    worker.start()
    senders = {played.recv()[0] for _ in range(concurrency)}
    return played, worker, senders.pop()


def test_L2_a_worker_of_several_sessions_says_what_it_is_about_to_begin_beside_other_work():
    go = Event()
    played, worker, sender = played_worker(["begun"], 2, lambda request: go.wait(30) and request.body)
    with played, worker:
        played.send(sender, session(1), b"", b"MDPW02", b"\x02", b"address 1", b"", b"go")
        wait_until(lambda: worker.statistics().busy == 1)
        played.send(sender, session(2), b"", b"MDPW02", b"\x02", b"address 2", b"", b"go")
        while (told := played.recv()[1:]) == [b"MDPW02", b"\x05"]:
            pass  # the connection's HEARTBEAT
        assert told == [session(0, fields=field(4, b"\0\0\0\2")), b"", b"MDPW02", b"\x05"]
        go.set()
        finals = 0
        while finals < 2:
            finals += b"\x04" in played.recv()


@pytest.mark.parametrize(("features", "concurrency"), [(["begun"], 1), (["begun"], 2), ([], 2)])
def test_L2_one_request_alone_and_a_broker_that_does_not_ask_need_no_such_message(features, concurrency):
    played, worker, sender = played_worker(features, concurrency)
    with played, worker:
        played.send(sender, session(1), b"", b"MDPW02", b"\x02", b"address", b"", b"go")
        assert played.recv() == [sender, session(1), b"", b"MDPW02", b"\x04", b"address", b"", b"go"]


def request_to(worker):
    """The frames of the next REQUEST to a bare worker, from the code on; HEARTBEATs may come before it."""
    while True:
        frames = worker.recv()
        at = frames.index(b"MDPW02") + 1
        if frames[at] != b"\x05":
            assert frames[at] == b"\x02"
            return frames[at:]


@pytest.mark.parametrize(("begun", "kept"), [(b"", 1), (b"\0\0\0\1", 1), (b"\0\0\0\2", 2), (b"\0\0\0\1\0\0\0\2", 2)])
def test_L2_a_broker_takes_back_what_a_silent_worker_has_not_begun(begun, kept):
    """What it was given first counts as begun."""
    Spoken.version = 2
    # The connection lives for many intervals, however late ZeroMQ's own thread is.
    options = {"heartbeat_interval": 0.15, "liveness": 60, "attempts": 2, "busy_timeout": 60.0}
    with (
        Broker("tcp://127.0.0.1:*", **options) as broker,
        dealer(broker.endpoint) as worker,
        AsyncClient(broker.endpoint) as client,
    ):
        futures = [client.submit("echo", b"%d" % number) for number in (1, 2)]
        wait_until(lambda: broker.statistics().queued == 2)
        worker.send(b"MDPC02", b"\x01", b"mmi.gmdp", PROBE.replace(b'"not-run"', b'"begun","not-run"'))
        assert worker.recv()[3] == b"200"
        for number in (1, 2):
            worker.send(session(number), b"", b"MDPW02", b"\x01", b"echo")
        assert [request_to(worker)[1][26] for _ in range(2)] == [1, 1]
        if begun:
            worker.send(session(0, fields=field(4, begun)), b"", b"MDPW02", b"\x05")
        if kept == 2:
            for _ in range(5):  # it would be mute by now
                assert worker.recv() == [b"MDPW02", b"\x05"]
        wait_until(lambda: broker.statistics().queued == 2 - kept)
        taken_back = [message for message in worker.pending() if message[-1] == b"\x06"]
        assert taken_back == [[session(number), b"", b"MDPW02", b"\x06"] for number in range(kept + 1, 3)]
        assert broker.statistics().lost_workers == ({"recalled": 2 - kept} if kept < 2 else {})
        assert broker.statistics().workers == kept
        # The next delivery is no further attempt.
        with dealer(broker.endpoint) as other:
            if kept < 2:
                other.send(b"MDPW02", b"\x01", b"echo")
            for _ in range(2 - kept):
                _, token, *_ = request_to(other)
                assert token[26] == 1
                other.send(b"MDPW02", b"\x04", token, b"", b"done")
        assert [future.get() for future in futures[kept:]] == [[b"done"]] * (2 - kept)


@pytest.mark.parametrize(
    "reply",
    [
        [b"501"],
        [b"200"],
        [b"200", b"{}"],
        [b"200", b"not JSON"],
        [b"200", b"[1]"],
        [b"200", b'{"extension":1}'],
        [b"200", json.dumps({**OFFER, "max_in_flight": 0}).encode()],
        [b"200", json.dumps({**OFFER, "max_sessions": "many"}).encode()],
        [b"200", json.dumps({**OFFER, "extension": 0}).encode()],
        [b"200", json.dumps({**OFFER, "heartbeat_interval": -1}).encode()],
        [b"200", b"[" * 100_000],
        None,
    ],
)
def test_any_other_answer_or_none_means_strict(reply):
    with peers.Peer(zmq.ROUTER, peers.ANYWHERE, bind=True) as bare, AsyncClient(bare.endpoint) as client:
        future = client.submit("echo", b"x")
        sender, *probe = bare.recv()
        assert probe == [b"MDPC02", b"\x01", b"mmi.gmdp", PROBE]
        if reply is not None:
            bare.send(sender, b"MDPC02", b"\x03", b"mmi.gmdp", *reply)
        # Without another question; on the same connection if its broker has answered.
        again, *request = bare.recv()
        assert request == [b"MDPC02", b"\x01", b"echo", b"x"]
        assert (again == sender) is (reply is not None)
        sender = again
        bare.send(sender, b"MDPC02", b"\x03", b"echo", b"y")
        assert future.get() == [b"y"]
        assert client.extensions is False
        assert " strict " in repr(client)


def test_a_later_version_of_the_extension_still_speaks_this_one():
    Spoken.version = 2
    offer = {**OFFER, "extension": 7, "features": ["telepathy"], "more": True}
    with PlayedBroker(offer) as played, AsyncClient(played.endpoint) as client:
        future = client.submit("echo", b"x")
        answer(played, played.recv(), 0, b"y")
        assert future.get() == [b"y"]


def test_extensions_may_be_required():
    with peers.router() as bare:
        client = AsyncClient([bare.endpoint, bare.endpoint], require_extensions=True, timeout=60.0)
        with client:
            future = client.submit("echo", b"x")
            reader = gevent.spawn(bare.recv)
            with pytest.raises(UnsupportedBroker, match="does not speak gmdp's extension"):
                future.get(timeout=peers.DEADLINE)
            reader.kill()


# A worker, towards the same


def test_worker_probes_once_and_registers_its_sessions(played):
    """A worker with three sessions, where the broker allows two on a connection."""
    go_on = Event()

    def handler(request):
        if request.body[0] == b"wait":
            go_on.wait()
        return [request.body[0], repr(dict(request.metadata)).encode()]

    with Worker(played.endpoint, "echo", handler, concurrency=3) as worker:
        messages = [played.recv() for _ in range(3)]
        # A worker of several sessions also names the feature *begun*.
        probe = PROBE.replace(b'"not-run"', b'"begun","not-run"')
        assert played.probes == [[b"MDPC02", b"\x01", b"mmi.gmdp", probe]] * 2
        first = messages[0][0]
        assert messages[0] == [first, session(1), b"", b"MDPW02", b"\x01", b"echo"]
        assert messages[1] == [first, session(2), b"", b"MDPW02", b"\x01", b"echo"]
        other = messages[2][0]
        assert messages[2] == [other, session(1), b"", b"MDPW02", b"\x01", b"echo"]
        assert worker.extensions is True
        assert worker.statistics().sockets == 2
        token = b"\x89MDT\x01NONCENCE" + b"\x00" * 8 + b"\x00" + UNKNOWN + b"\x01\x01" + TRACEPARENT
        played.send(first, session(1), b"", b"MDPW02", b"\x02", token, b"", b"wait")
        played.send(first, session(2), b"", b"MDPW02", b"\x02", b"plain address", b"", b"go")
        assert played.recv() == [first, session(2), b"", b"MDPW02", b"\x04", b"plain address", b"", b"go", b"{}"]
        # A heartbeat without a session is answered without one.
        played.send(first, b"MDPW02", b"\x05")
        played.send(first, b"MDPW02", b"\x05")
        assert played.recv() == [first, b"MDPW02", b"\x05"]
        # A session that is told DISCONNECT comes back under another number.
        played.send(first, session(2), b"", b"MDPW02", b"\x06")
        assert played.recv() == [first, session(3), b"", b"MDPW02", b"\x01", b"echo"]
        played.send(first, session(2), b"", b"MDPW02", b"\x02", b"too late", b"", b"go")
        go_on.set()
        metadata = repr({"traceparent": TRACEPARENT.decode()}).encode()
        assert played.recv() == [first, session(1), b"", b"MDPW02", b"\x04", token, b"", b"wait", metadata]
        # The socket that is told DISCONNECT is closed: one session finds room on the other, one on a new one.
        played.send(first, b"MDPW02", b"\x06")
        assert played.recv() == [other, session(2), b"", b"MDPW02", b"\x01", b"echo"]
        again = played.recv()
        assert again[0] not in (first, other)
        assert again[1:] == [session(1), b"", b"MDPW02", b"\x01", b"echo"]


def test_worker_says_which_message_is_its_last(played):
    go_on = Event()
    worker = Worker(played.endpoint, "echo", lambda request: go_on.wait() and b"done", concurrency=2)
    worker.start()
    sender = played.recv()[0]
    played.recv()
    played.send(sender, session(1), b"", b"MDPW02", b"\x02", b"address", b"", b"x")
    wait_until(lambda: worker.statistics().busy == 1)
    stopper = gevent.spawn(worker.stop)
    assert played.recv() == [sender, session(2, flags=2), b"", b"MDPW02", b"\x06"]
    go_on.set()
    assert played.recv() == [sender, session(1, flags=2), b"", b"MDPW02", b"\x04", b"address", b"", b"done"]
    assert played.recv() == [sender, b"MDPW02", b"\x06"]
    stopper.get()


@pytest.mark.parametrize("reveal", [False, True])
def test_a_failure_is_described_to_peers_that_understand_it(played, reveal):
    def handler(request):
        raise ValueError("a secret")

    with Worker(played.endpoint, "echo", handler, reveal_errors=reveal, error_reply=b"oops"):
        sender = played.recv()[0]
        for flags, body in ((b"\x01", [b"ValueError", b"a secret"] if reveal else [b"", b""]), (b"\x00", [b"oops"])):
            token = b"\x89MDT\x01NONCENCE" + b"\x00" * 8 + b"\x00" + UNKNOWN + b"\x01" + flags
            failed = token[:21] + b"\x01" + token[22:]
            played.send(sender, session(1), b"", b"MDPW02", b"\x02", token, b"", b"x")
            assert played.recv() == [sender, session(1), b"", b"MDPW02", b"\x04", failed, b"", *body]


def test_a_worker_that_requires_extensions_goes_elsewhere(played):
    with peers.router() as bare:
        endpoints = [bare.endpoint, played.endpoint]
        with Worker(endpoints, "echo", lambda request: b"", require_extensions=True, reconnect_interval=0.01):
            reader = gevent.spawn(bare.recv)
            assert played.recv()[1:] == [session(1), b"", b"MDPW02", b"\x01", b"echo"]
            reader.kill()


def test_a_handler_is_stopped_when_the_time_in_its_token_is_up(played):
    """The worker needs no message that the caller has gone."""
    seen = []

    def handler(request):
        try:
            gevent.sleep(peers.DEADLINE)
        except RequestCancelled as error:
            seen.append(str(error))
            raise

    with Worker(played.endpoint, "echo", handler, enforce_deadline=True, error_reply=b"oops") as worker:
        sender = played.recv()[0]
        token = b"\x89MDT\x01NONCENCE" + b"\x00" * 8 + b"\x00" + b"\x00\x00\x00\x64" + b"\x01\x00"
        played.send(sender, session(1), b"", b"MDPW02", b"\x02", token, b"", b"x")
        failed = token[:21] + b"\x01" + token[22:]
        assert played.recv() == [sender, session(1), b"", b"MDPW02", b"\x04", failed, b"", b"oops"]
        assert seen == ["nobody waits for the answer: its caller's time is up"]
        assert worker.statistics().callers_gone == 1


# Flow control of streams


#: The worker's part of this size weighs 65,536, as much as a request grants: 64 for its frame.
FIRST = b"x" * (65_536 - 64)
PROBE_CREDITS = [b"MDPC02", b"\x01", b"mmi.gmdp", b'{"extension":2,"features":["credits"]}']


def credit(number):
    """The optional field of a grant."""
    return field(3, number.to_bytes(8, "big"))


@pytest.fixture
def streaming():
    """A broker, a worker and a client, bare, and the token of a request that runs."""
    with (
        Broker("tcp://127.0.0.1:*", heartbeat_interval=60.0, stream_stall_timeout=0.3) as broker,
        dealer(broker.endpoint) as worker,
        dealer(broker.endpoint) as client,
    ):
        worker.send(*PROBE_CREDITS)
        worker.recv()
        worker.send(session(1), b"", b"MDPW02", b"\x01", b"echo")
        client.send(call(1, flags=8), b"", b"MDPC02", b"\x01", b"echo", b"x")
        yield broker, worker, client, worker.recv()[4]
        broker.close()  # the worker may not have answered


@pytest.mark.parametrize("version", [2], indirect=True)
def test_X9_a_grant_of_a_client_reaches_the_session_of_its_worker(streaming):
    _, worker, client, token = streaming
    assert token[26:] == b"\x01\x03"  # the first attempt; typed failures, credits
    worker.send(session(1), b"", b"MDPW02", b"\x03", token, b"", FIRST)
    assert client.recv() == [answer_frame(1, status=1), b"", b"MDPC02", b"\x02", b"echo", FIRST]
    client.send(call(1, flags=16, fields=credit(200_000)), b"", b"MDPC02", b"\x01", b"echo", b"")
    assert worker.recv() == [session(1, fields=credit(200_000)), b"", b"MDPW02", b"\x05"]
    worker.send(session(1), b"", b"MDPW02", b"\x04", token, b"", b"end")
    assert client.recv() == [answer_frame(1), b"", b"MDPC02", b"\x03", b"echo", b"end"]


@pytest.mark.parametrize("version", [2], indirect=True)
def test_X9_a_stream_that_stalls_ends_on_both_sides(streaming):
    broker, worker, client, token = streaming
    worker.send(session(1), b"", b"MDPW02", b"\x03", token, b"", FIRST)
    assert client.recv()[0] == answer_frame(1, status=1)
    assert client.recv() == [answer_frame(1, status=11), b"", b"MDPC02", b"\x03", b"echo", b""]
    assert worker.recv() == [session(1, flags=5), b"", b"MDPW02", b"\x05"]
    assert broker.statistics().stalled_streams == 1


CREDITS_OFFER = {**OFFER, "features": ["credits"], "max_frame_size": 10**6}


@pytest.mark.parametrize("version", [2], indirect=True)
def test_X9_a_client_grants_as_its_reader_takes_parts():
    with PlayedBroker(CREDITS_OFFER) as played, AsyncClient(played.endpoint) as client:
        stream = client.stream("echo", b"", timeout=60.0)
        message = played.recv()
        assert message[1][6] == 8  # the caller grants credits
        answer(played, message, 1, FIRST, partial=True)
        answer(played, message, 1, b"second", partial=True)
        assert next(stream) == [FIRST]
        assert next(stream) == [b"second"]
        # The first part is taken: so much, and a window of 1 MiB.
        sender, frame, *rest = played.recv()
        assert (sender, rest) == (message[0], [b"", b"MDPC02", b"\x01", b"echo", b""])
        assert frame[:33] == message[1][:6] + b"\x10" + message[1][7:33]
        assert frame[37:] == b"\x00\x0b" + credit(65_536 + 1024 * 1024)
        stream.close()


@pytest.mark.parametrize("version", [2], indirect=True)
def test_X9_a_worker_sends_a_part_when_its_reader_has_room():
    def handler(request):
        yield FIRST
        yield b"second"
        yield b"third"

    with PlayedBroker(CREDITS_OFFER) as played, Worker(played.endpoint, "echo", handler):
        sender = played.recv()[0]
        token = b"\x89MDT\x01NONCENCE" + b"\x00" * 8 + b"\x00" + UNKNOWN + b"\x01\x02"
        played.send(sender, session(1), b"", b"MDPW02", b"\x02", token, b"", b"go")
        head = [sender, session(1), b"", b"MDPW02"]

        def nothing_more():
            for _ in range(2):  # the second is answered, since nothing was sent after the first
                played.send(sender, b"MDPW02", b"\x05")
            assert played.recv() == [sender, b"MDPW02", b"\x05"]

        assert played.recv() == [*head, b"\x03", token, b"", FIRST]
        nothing_more()
        # Room for one byte: a part of any size may follow, and no more.
        played.send(sender, session(1, fields=credit(65_537)), b"", b"MDPW02", b"\x05")
        assert played.recv() == [*head, b"\x03", token, b"", b"second"]
        nothing_more()
        played.send(sender, session(1, fields=credit(10**6)), b"", b"MDPW02", b"\x05")
        assert played.recv() == [*head, b"\x03", token, b"", b"third"]
        assert played.recv() == [*head, b"\x04", token, b"", b""]
