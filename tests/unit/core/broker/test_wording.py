"""Texts for clients that name the feature `reasons`; each case in virtual time."""

import pytest
from brokers import GmdpBroker, SlowBroker
from cores import MDP02

from gmdp.core.broker.access import Access
from gmdp.core.broker.options import BrokerOptions
from gmdp.core.broker.reasons import DropReason
from gmdp.core.broker.wording import describe_refusal
from gmdp.protocol import extension
from gmdp.protocol.extension import Status

PROBE = [b"MDPC02", b"\x01", b"mmi.gmdp", b'{"extension":2,"features":["reasons"]}']
FAIL, STATED = extension.FAIL_WITHOUT_WORKER, extension.TIME_STATED


def told(broker, peer=b"client"):
    """What `peer` was told: (call's number, status, words)."""
    heard = []
    for frame, *_ in broker.take(peer):
        call = extension.read_call(frame)
        heard.append((int.from_bytes(call.id[16:], "big"), Status(call.status), extension.read_reason(call.fields)))
    return heard


def knowing(broker, *peers):
    """The broker, after these peers have named the feature."""
    for peer in peers or (b"client",):
        broker.feed(peer, PROBE)
        broker.take(peer)
    return broker


def test_no_worker_is_registered():
    broker = knowing(GmdpBroker())
    broker.call(b"client", 1, flags=FAIL, service=b"porg")
    broker.call(b"client", 2, flags=FAIL, service=b"\x1b[2J\xff")
    assert told(broker) == [
        (1, Status.NO_WORKER, "no worker is registered for 'porg'"),
        (2, Status.NO_WORKER, r"no worker is registered for b'\x1b[2J\xff'"),
    ]


@pytest.mark.parametrize(
    ("others", "flags", "options", "words"),
    [
        (0, 0, {}, "it was queued for request_ttl=30 s"),
        (1, 0, {}, "it was queued for request_ttl=30 s behind 1 other"),
        (12, 0, {}, "it was queued for request_ttl=30 s behind 12 others"),
        (0, STATED, {"max_request_ttl": 45.5}, "it was queued for max_request_ttl=45.5 s"),
        (2, STATED, {"services": {"echo": {"request_ttl": 7.0}}}, "it was queued for request_ttl=7 s behind 2 others"),
    ],
)
@pytest.mark.parametrize(("worker", "state"), [(True, "free"), (False, "registered")])
def test_L4_a_request_that_expires_says_how_long_behind_how_many_and_whether_a_worker_was_there(
    others, flags, options, words, worker, state
):
    broker = knowing(GmdpBroker(**options))
    if worker:
        broker.register(b"W", 1)
        broker.ask(MDP02, b"first", b"keeps the worker busy")
    for number in range(others):
        broker.ask(MDP02, b"other", b"%d" % number)
    broker.call(b"client", 1, flags=flags)
    broker.ask(MDP02, b"late", b"comes later, and does not count")
    for _ in range(20):
        broker.advance(2.5)
        broker.session(b"W", 1, b"\x05")
    assert told(broker) == [(1, Status.EXPIRED, f"{words}, and no worker was {state}")]


def test_a_request_that_waits_for_a_further_attempt_is_first_in_line():
    broker = knowing(GmdpBroker(request_ttl=10.0))
    broker.register(b"W", 1)
    broker.call(b"client", 1)
    broker.ask(MDP02, b"other", b"1")
    broker.feed(b"W", [b"MDPW02", b"\x06"])
    broker.advance(10.0)
    assert told(broker) == [(1, Status.EXPIRED, "it was queued for request_ttl=10 s, and no worker was registered")]


def test_what_waits_on_after_its_client_has_connected_anew_keeps_its_place():
    broker = knowing(GmdpBroker(), b"client", b"again")
    for number in range(3):
        broker.ask(MDP02, b"other", b"%d" % number)
    broker.call(b"client", 1, nonce=b"n" * 16)
    broker.ask(MDP02, b"late", b"comes later")
    broker.call(b"again", 1, nonce=b"n" * 16, attempt=2)
    broker.advance(31.0)
    (heard,) = told(broker, b"again")
    assert heard[2].startswith("it was queued for request_ttl=30 s behind 3 others")


def test_bounds_are_named_with_their_values():
    broker = knowing(GmdpBroker(max_in_flight=2))
    for number in (1, 2, 3):
        broker.call(b"client", number)
    assert told(broker) == [(3, Status.OVERLOADED, "the connection had max_in_flight=2 requests open")]
    broker = knowing(GmdpBroker(max_queue=1, max_services=1, max_queue_bytes=9_000))
    for number in (1, 2):
        broker.call(b"client", number)
    broker.call(b"client", 3, service=b"other")
    broker.call(b"client", 4, b"x" * 8_000)
    broker.call(b"client", 5, b"x" * 10_000)
    held = "the client held as many bytes as max_queue_bytes=9000 and max_user_bytes=268435456 allow"
    assert told(broker) == [
        (2, Status.OVERLOADED, "max_queue=1 requests waited for the service"),
        (3, Status.OVERLOADED, "there were max_services=1 services"),
        (4, Status.OVERLOADED, held),
        (5, Status.TOO_LARGE, "the request is larger than max_queue_bytes=9000"),
    ]


def test_messages_that_are_too_large():
    broker = knowing(GmdpBroker(max_frame_size=100, max_frames=10))
    broker.call(b"client", 1, b"x" * 101)
    broker.call(b"client", 2, *[b""] * 10)
    assert told(broker) == [
        (1, Status.TOO_LARGE, "a frame was larger than max_frame_size=100"),
        (2, Status.TOO_LARGE, "the message had more frames than max_frames=10"),
    ]


def test_what_the_policy_forbids():
    broker = knowing(GmdpBroker(access=Access(lambda user, action, service: False, 1.0)))
    broker.call(b"client", 1, user="")
    assert told(broker) == [(1, Status.NOT_ALLOWED, "the policy did not allow it")]


@pytest.mark.parametrize("attempts", [1, 2])
def test_lost_workers_are_counted_and_the_last_loss_is_told(attempts):
    broker = knowing(GmdpBroker(attempts=attempts))
    broker.call(b"client", 1)
    for number in range(attempts):
        broker.register(b"W%d" % number, 1)
        broker.advance(8.0)  # silent for longer than the expiry, on a connection whose process is not known
        broker.core.on_connection_closed(b"W%d" % number, broker.now)
        broker.collect()
    times = {1: "1 time", 2: "2 times"}[attempts]
    last = "the worker's connection was closed, or took no more messages"
    assert told(broker) == [(1, Status.WORKER_LOST, f"its worker was lost {times} (attempts={attempts}): {last}")]


def test_a_worker_that_is_silent_for_too_long_is_told_with_the_service_s_own_option():
    broker = knowing(GmdpBroker(attempts=1, services={"echo": {"busy_timeout": 20.0, "attempts": 1}}))
    broker.call(b"client", 1)
    broker.register(b"W", 1)
    broker.advance(21.0)
    silent = "the worker was silent for busy_timeout=20 while it worked"
    assert told(broker) == [(1, Status.WORKER_LOST, f"its worker was lost 1 time (attempts=1): {silent}")]


def test_a_stream_that_stalls():
    broker = GmdpBroker(stream_stall_timeout=5.0)
    broker.feed(b"W", [b"MDPC02", b"\x01", b"mmi.gmdp", b'{"extension":2,"features":["credits"]}'])
    knowing(broker)
    broker.register(b"W", 1)
    broker.call(b"client", 1, flags=extension.GRANTS_CREDITS)
    (address,) = [frames[4] for frames in broker.take(b"W") if len(frames) > 4 and frames[3] == b"\x02"]
    broker.session(b"W", 1, b"\x03", address, b"", b"x" * extension.INITIAL_CREDIT)
    broker.take(b"client")
    broker.advance(5.0)
    stalled = "the reader of the stream granted nothing for stream_stall_timeout=5"
    assert told(broker) == [(1, Status.STALLED, stalled)]


def test_a_client_that_reads_too_slowly():
    broker = knowing(SlowBroker(max_queue_bytes=10_000))
    broker.register(b"W", 1)
    broker.call(b"client", 1)
    broker.socket.room[b"client"] = 0
    broker.answer_all(b"W", b"x" * 11_000)
    broker.socket.room[b"client"] = 9
    broker.advance(1.0)
    assert told(broker) == [(1, Status.OVERLOADED, "the client reads its answers too slowly")]


def test_a_broker_that_stops():
    broker = knowing(GmdpBroker())
    broker.register(b"W", 1)
    broker.call(b"client", 1)
    broker.core.drain(broker.now + 1.0)
    broker.call(b"client", 2)
    broker.advance(2.0)
    assert told(broker) == [
        (2, Status.SHUTTING_DOWN, "the broker was stopping"),
        (1, Status.SHUTTING_DOWN, "the broker stopped"),
    ]


@pytest.mark.parametrize("probe", [None, b"", b'{"extension":2,"features":["stated"]}'])
def test_clients_that_do_not_name_the_feature_get_no_words(probe):
    broker = GmdpBroker(max_in_flight=1)
    if probe is not None:
        broker.feed(b"client", [b"MDPC02", b"\x01", b"mmi.gmdp", probe])
        broker.take(b"client")
    broker.call(b"client", 1)
    broker.call(b"client", 2)
    broker.advance(31.0)
    assert told(broker) == [(2, Status.OVERLOADED, ""), (1, Status.EXPIRED, "")]


def test_a_peer_of_version_1_on_a_connection_that_named_the_feature_gets_no_words():
    broker = knowing(GmdpBroker())
    broker.call(b"client", 1, flags=FAIL, version=1)
    (frames,) = broker.take(b"client")
    assert len(frames[0]) == extension.CALL_SIZE


def test_answers_carry_no_words():
    broker = knowing(GmdpBroker())
    broker.register(b"W", 1)
    broker.call(b"client", 1)
    ((address, _),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.session(b"W", 1, b"\x04", address, b"", b"end")
    assert told(broker) == [(1, Status.PARTIAL, ""), (1, Status.OK, "")]


@pytest.mark.parametrize("reason", DropReason)
def test_every_bound_in_a_text_has_its_value(reason):
    words = describe_refusal(BrokerOptions(), reason)
    assert words.count("max_") == words.count("=")


@pytest.mark.parametrize(("time_left", "before"), [(2.0, 0.1), (60.0, 0.25)])
@pytest.mark.parametrize(("others", "behind"), [(0, ""), (1, " behind 1 other"), (12, " behind 12 others")])
def test_L4_a_caller_whose_request_still_waits_hears_so_shortly_before_it_gives_up(time_left, before, others, behind):
    broker = knowing(GmdpBroker(request_ttl=100.0))
    for number in range(others):
        broker.ask(MDP02, b"other", b"%d" % number)
    broker.call(b"client", 1, time_left=time_left)
    broker.advance(time_left - before - 0.001)
    assert told(broker) == []
    broker.advance(0.002)
    assert told(broker) == [
        (1, Status.EXPIRED, f"it was queued all that time{behind}, and no worker was registered"),
    ]
    assert broker.core.counters.ended == {"deadline": 1}


def test_L4_a_caller_that_understands_no_words_hears_nothing_when_its_time_is_up():
    broker = GmdpBroker()
    broker.call(b"client", 1, time_left=2.0)
    broker.advance(1.99)
    assert broker.core.queued == 1
    broker.advance(0.02)
    assert (told(broker), broker.core.counters.ended) == ([], {"deadline": 1})


def test_L4_a_request_that_runs_when_its_caller_s_time_is_nearly_up_may_still_be_answered():
    broker = knowing(GmdpBroker())
    broker.register(b"W", 1)
    broker.call(b"client", 1, time_left=2.0)
    ((address, _),) = broker.requests(b"W").values()
    broker.advance(1.99)
    broker.session(b"W", 1, b"\x04", address, b"", b"done")
    assert broker.answered(b"client") == [(1, Status.OK, 1, [b"done"])]


def test_L4_a_retry_has_its_own_notice():
    broker = knowing(GmdpBroker())
    broker.call(b"client", 1, time_left=2.0)
    broker.advance(1.0)
    broker.call(b"client", 1, time_left=3.0, attempt=2)
    broker.advance(1.5)
    assert told(broker) == []
    broker.advance(1.4)
    assert [status for _, status, _ in told(broker)] == [Status.EXPIRED]
