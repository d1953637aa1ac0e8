"""Flow control of streams in the broker: credits are passed on, and stalled streams end."""

import pytest
from brokers import GmdpBroker, SlowBroker, counters
from cores import MDP02

from gmdp.core.broker.decisions import Outgoing
from gmdp.core.broker.flows import LOW
from gmdp.protocol import extension, token
from gmdp.protocol.extension import CALLER_GONE, GRANT, GRANTS_CREDITS, INITIAL_CREDIT, STALLED, Feature, Status

#: A part of this size, with its frame, weighs 20,000.
SIZE = 20_000 - 64


def stream(features=Feature.CREDITS, flags=GRANTS_CREDITS, broker_class=GmdpBroker, service=b"echo", **options):
    """A broker whose worker W has a request of the client c: (broker, address)."""
    broker = broker_class(stream_stall_timeout=3.0, liveness=1_000, **options)
    broker.feed(b"W", MDP02.client_request(b"mmi.gmdp", *extension.probe_body(2, features)))
    broker.take(b"W")
    broker.register(b"W", 1, service=service)
    broker.call(b"c", 1, flags=flags, service=service)
    (address, _) = broker.requests(b"W")[1]
    return broker, address


def send_part(broker, address, size=SIZE):
    broker.session(b"W", 1, b"\x03", address, b"", b"x" * size)


def grant(broker, credit, number=1):
    """The client c grants so much in all."""
    fields = [(extension.Field.CREDIT, credit.to_bytes(8, "big"))]
    broker.call(b"c", number, flags=GRANT, fields=fields)


def told(broker):
    """What was said to the session since the last time: (flags, credit) each."""
    said = []
    for frame, *rest in broker.take(b"W"):
        if len(rest) > 1 and extension.is_session(frame):
            assert rest == [b"", b"MDPW02", b"\x05"]
            flags, number = extension.read_session(frame)
            assert number == 1
            said.append((flags, extension.read_credit(extension.session_fields(frame))))
    return said


def statuses(broker):
    return [status for _, status, _, _ in broker.answered(b"c")]


@pytest.mark.parametrize(
    ("features", "flags", "credits"),
    [
        (Feature.CREDITS, GRANTS_CREDITS, True),
        (0, GRANTS_CREDITS, False),
        (Feature.CREDITS, 0, False),
    ],
    ids=["both", "an older worker", "an older client"],
)
def test_the_token_says_whether_the_caller_grants_credits(features, flags, credits):
    _, address = stream(features, flags)
    assert token.read(address).credits is credits
    assert token.read(address).typed_failures


def test_X9_a_grant_is_passed_on_once_the_last_credit_is_nearly_used_up():
    broker, address = stream()
    send_part(broker, address)
    grant(broker, 200_000)
    assert told(broker) == []  # the worker has 45,536 left
    send_part(broker, address)
    assert told(broker) == [(0, 200_000)]
    # A smaller grant, and one for another call, change nothing.
    grant(broker, 150_000)
    grant(broker, 10**6, number=2)
    assert told(broker) == []


def test_X9_many_grants_of_a_client_are_few_messages_to_its_worker():
    broker, address = stream()
    for _ in range(3):
        send_part(broker, address)
    for number in range(1_000):
        grant(broker, INITIAL_CREDIT + 100_000 * (number + 1))
    assert told(broker) == [(0, 165_536)]


@pytest.mark.parametrize("step", [1, 7_000])
def test_X9_small_grants_of_a_client_are_few_messages_to_its_worker(step):
    """However little each grants: a worker's socket must have room for requests."""
    broker, address = stream()
    send_part(broker, address, INITIAL_CREDIT)
    messages = 0
    credit = sent = INITIAL_CREDIT + 64
    for parts in range(1, 10):
        for _ in range(100):
            credit += step
            grant(broker, credit)
        news = told(broker)
        messages += len(news)
        # The worker may go on, and knows all but little of what it may send.
        assert messages <= 2 * parts
        if news:
            known = news[-1][1]
        assert sent < known
        assert credit - known < LOW or known - sent >= LOW
        send_part(broker, address, 100 * step - 64)
        sent += 100 * step


def test_X9_a_stream_whose_reader_grants_nothing_ends_on_both_sides():
    broker, address = stream()
    for _ in range(4):
        send_part(broker, address)
    broker.advance(2.9)
    assert statuses(broker) == [Status.PARTIAL] * 4
    assert told(broker) == []
    broker.advance(0.2)
    assert statuses(broker) == [Status.STALLED]
    assert told(broker) == [(CALLER_GONE | STALLED, 0)]
    assert counters(broker).stalled_streams == 1
    # Later parts of the handler are dropped, and its session is free again.
    broker.session(b"W", 1, b"\x04", address, b"", b"")
    assert statuses(broker) == []
    broker.call(b"c", 2, flags=GRANTS_CREDITS)
    assert 1 in broker.requests(b"W")


def test_X9_a_reader_that_is_slow_but_reads_keeps_its_stream():
    """Each grant begins the time anew, however small it is."""
    broker, address = stream()
    for _ in range(4):
        send_part(broker, address)
    credit = 80_000
    for _ in range(20):
        broker.advance(2.5)
        credit += 1
        grant(broker, credit)
        assert told(broker) == [(0, credit)]
        send_part(broker, address)
        credit += 20_000 - 1
    assert statuses(broker) == [Status.PARTIAL] * 24


def test_X9_a_handler_that_takes_its_time_is_no_stalled_stream():
    """The worker has credit, so it does not wait for the reader."""
    broker, address = stream()
    for _ in range(3):
        send_part(broker, address)
    broker.advance(100.0)
    send_part(broker, address)
    grant(broker, 10**6)
    broker.advance(100.0)
    assert statuses(broker) == [Status.PARTIAL] * 4
    assert counters(broker).stalled_streams == 0


@pytest.mark.parametrize(
    ("features", "flags"), [(0, GRANTS_CREDITS), (Feature.CREDITS, 0)], ids=["an older worker", "an older client"]
)
def test_X9_without_credits_the_broker_is_the_reader(features, flags):
    broker, address = stream(features, flags)
    for _ in range(10):
        send_part(broker, address)
    grant(broker, 10**6)
    broker.advance(100.0)
    assert statuses(broker) == [Status.PARTIAL] * 10
    assert told(broker) == []


def test_X9_a_grant_below_what_was_sent_begins_the_reader_s_time_anew():
    """The handler waits on: nothing is to be passed on."""
    broker, address = stream()
    send_part(broker, address, 200_000)
    for credit in (100_000, 150_000):
        broker.advance(2.9)
        grant(broker, credit)
        assert told(broker) == []
    broker.advance(2.9)
    assert counters(broker).stalled_streams == 0
    broker.advance(0.2)
    assert counters(broker).stalled_streams == 1
    assert statuses(broker) == [Status.PARTIAL, Status.STALLED]


def test_X9_parts_that_were_on_their_way_give_a_reader_no_more_time():
    broker, address = stream()
    for _ in range(4):
        send_part(broker, address)
    broker.advance(2.0)
    send_part(broker, address)
    broker.advance(1.1)
    assert counters(broker).stalled_streams == 1


def test_X9_a_reader_has_its_time_also_while_a_credit_waits_to_be_passed_on():
    broker, address = stream(broker_class=SlowBroker)
    for _ in range(4):
        send_part(broker, address)
    broker.socket.room[b"W"] = 0
    grant(broker, 200_000)
    broker.advance(0.05)
    send_part(broker, address, 300_000)
    broker.advance(2.9)
    assert counters(broker).stalled_streams == 0
    grant(broker, 500_000)
    broker.socket.room[b"W"] = 10
    broker.advance(0.2)
    assert told(broker) == [(0, 500_000)]
    broker.advance(10.0)
    assert counters(broker).stalled_streams == 0


def test_X9_parts_after_the_end_of_a_call_are_no_stream_of_which_a_reader_must_grant():
    broker, address = stream()
    send_part(broker, address)
    broker.call(b"c", 1, flags=extension.CANCEL)
    for _ in range(4):
        send_part(broker, address)  # they were on their way
    broker.advance(10.0)
    assert counters(broker).stalled_streams == 0
    assert told(broker) == [(CALLER_GONE, 0)]


def test_X9_a_credit_for_a_worker_whose_connection_is_a_lost_client_s_too_goes_out():
    """An answer cannot be sent: that is the end of the client on this connection, and of no worker."""
    broker, address = stream()
    for _ in range(4):
        send_part(broker, address)
    broker.call(b"W", 1)
    broker.take(b"W")
    grant_of_c = extension.call_frame(
        extension.request_id(b"c".ljust(16, b"."), 1),
        flags=GRANT,
        fields=[(extension.Field.CREDIT, (200_000).to_bytes(8, "big"))],
    )
    broker.core.feed([b"c", grant_of_c, b"", *MDP02.client_request(b"echo", b"")], broker.now)
    lost = Outgoing([b"W", b"an answer"], None, True)
    broker.core.send_failed(lost, False, broker.now)
    broker.collect()
    assert told(broker) == [(0, 200_000)]
    assert counters(broker).drops == {"client_gone": 1}


@pytest.mark.parametrize("how", ["final", "cancel", "lost"])
def test_the_time_of_a_stream_that_has_ended_does_not_run(how):
    broker, address = stream()
    for _ in range(4):
        send_part(broker, address)
    if how == "final":
        broker.session(b"W", 1, b"\x04", address, b"", b"end")
    elif how == "cancel":
        broker.call(b"c", 1, flags=extension.CANCEL)
        assert told(broker) == [(CALLER_GONE, 0)]
    else:
        broker.session(b"W", 1, b"\x06")
    ends = {"final": [Status.OK], "cancel": [], "lost": [Status.WORKER_LOST]}
    assert statuses(broker) == [Status.PARTIAL] * 4 + ends[how]
    broker.advance(10.0)
    assert statuses(broker) == []
    assert counters(broker).stalled_streams == 0
    grant(broker, 10**6)  # a late one
    assert told(broker) == []


def test_a_credit_for_which_the_worker_s_socket_has_no_room_is_passed_on_again():
    broker, address = stream(broker_class=SlowBroker)
    for _ in range(4):
        send_part(broker, address)
    broker.socket.room[b"W"] = 0
    grant(broker, 200_000)
    broker.advance(0.35)
    assert told(broker) == []
    assert len(broker.core.services[b"echo"].members) == 1  # the worker is not lost for that
    broker.socket.room[b"W"] = 10
    broker.advance(0.1)
    assert told(broker) == [(0, 200_000)]
    broker.advance(2.0)
    assert told(broker) == []


def test_a_credit_for_a_worker_that_is_gone_loses_the_worker():
    broker, address = stream(broker_class=SlowBroker)
    for _ in range(4):
        send_part(broker, address)
    broker.socket.room[b"W"] = "gone"
    grant(broker, 200_000)
    broker.advance(0.0)
    assert counters(broker).lost_workers == {"unreachable": 1}
    assert statuses(broker)[-1] is Status.WORKER_LOST


def test_an_answer_that_is_joined_needs_no_credit():
    """MDP/0.1: whatever the client says, the broker is the reader."""
    broker = GmdpBroker(stream_stall_timeout=3.0, liveness=1_000)
    broker.feed(b"W", MDP02.client_request(b"mmi.gmdp", *extension.probe_body(2, Feature.CREDITS)))
    broker.take(b"W")
    broker.register(b"W", 1)
    frame = extension.call_frame(extension.request_id(b"c" * 16, 1), flags=GRANTS_CREDITS)
    broker.feed(b"c", [frame, b"", b"MDPC01", b"echo", b"x"])
    (address, _) = broker.requests(b"W")[1]
    assert not token.read(address).credits
    for _ in range(10):
        send_part(broker, address)
    broker.advance(10.0)
    broker.session(b"W", 1, b"\x04", address, b"", b"end")
    ((_, *answer),) = broker.take(b"c")
    assert len(answer) == 3 + 11
