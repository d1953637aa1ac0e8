"""What comes of a client's message."""

import pytest
from brokers import GmdpBroker, SecuredBroker, failed, running_request
from cores import MDP02, ManualBroker

from gmdp.core.broker.access import CALL, REVOKED, Rules
from gmdp.core.broker.decisions import Refusal
from gmdp.core.broker.reasons import DropReason
from gmdp.protocol import extension
from gmdp.protocol.extension import CANCEL, Status


def test_a_request_whose_caller_s_time_is_up_at_its_arrival_is_not_accepted():
    broker = GmdpBroker()
    broker.register(b"W", 1)
    broker.call(b"client", 1, time_left=0.0)
    assert broker.take(b"W") == []
    assert broker.core.counters.requests == 0
    assert broker.core.counters.drops == {"late": 1}


@pytest.mark.parametrize("where", ["queued", "running"])
def test_C9_a_retry_joins(where):
    broker = GmdpBroker()
    if where == "running":
        broker.register(b"W", 1)
    broker.call(b"before", 1, b"work", nonce=b"n" * 16, time_left=5.0)
    broker.advance(3.0)
    broker.call(b"after", 1, b"work", nonce=b"n" * 16, time_left=5.0, attempt=2)
    broker.advance(3.0)  # past the first deadline, not past the second
    if where == "queued":
        broker.register(b"W", 1)
    ((number, (address, _)),) = broker.requests(b"W").items() if where == "queued" else [(1, running_request(broker))]
    broker.session(b"W", number, b"\x04", address, b"", b"done")
    assert broker.answered(b"before") == []
    assert broker.answered(b"after") == [(1, Status.OK, 1, [b"done"])]
    assert broker.core.counters.joins == 1
    assert broker.core.counters.requests == 1


def test_C8_a_client_that_comes_back_on_another_connection_has_one_turn_a_round():
    broker = GmdpBroker()
    for number in (1, 2, 3):
        broker.call(b"before", number, b"%d" % number, nonce=b"n" * 16)
    broker.call(b"after", 4, b"4", nonce=b"n" * 16)
    broker.call(b"other", 1, b"other's")
    for number in (3, 1, 2):
        broker.call(b"after", number, nonce=b"n" * 16, attempt=2)
    broker.register(b"W", *range(1, 6))
    # In the order in which they first came.
    assert [body for _, body in broker.requests(b"W").values()] == [[b"1"], [b"other's"], [b"2"], [b"3"], [b"4"]]


def test_C9_a_user_cannot_join_another_user_s_request_by_guessing_its_id():
    broker = GmdpBroker()
    broker.register(b"W", 1, 2)
    broker.call(b"alice's", 1, b"work", nonce=b"n" * 16, user="alice")
    broker.call(b"mallory's", 1, b"work", nonce=b"n" * 16, user="mallory")
    broker.call(b"mallory's", 1, nonce=b"n" * 16, user="mallory", flags=CANCEL)
    messages = broker.take(b"W")
    addresses = [frames[4] for frames in messages if frames[3] == b"\x02"]
    assert len(addresses) == 2
    broker.session(b"W", 1, b"\x04", addresses[0], b"", b"for alice")
    assert broker.answered(b"alice's") == [(1, Status.OK, 1, [b"for alice"])]
    assert broker.answered(b"mallory's") == []
    assert broker.core.counters.joins == 0


def test_a_retry_does_not_join_once_a_part_went_elsewhere():
    """The retry's connection has not seen it: that answer is given up, and the request runs from the start."""
    broker = GmdpBroker()
    broker.register(b"W", 1, 2)
    broker.call(b"before", 1, nonce=b"n" * 16)
    ((address, _),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.call(b"after", 1, nonce=b"n" * 16, attempt=2)
    gone, request = broker.take(b"W")
    assert gone == [extension.session_frame(1, extension.CALLER_GONE), b"", b"MDPW02", b"\x05"]
    broker.session(b"W", 1, b"\x04", address, b"", b"rest")
    broker.session(b"W", 2, b"\x04", request[4], b"", b"whole")
    assert broker.answered(b"before") == [(1, Status.PARTIAL, 1, [b"part"])]
    assert broker.answered(b"after") == [(1, Status.OK, 1, [b"whole"])]


def test_an_answer_says_which_try_was_accepted():
    """Of a retry that joined, that which it joined; of one that came too late for it, itself."""
    broker = GmdpBroker()
    broker.register(b"W", 1)
    broker.call(b"client", 1)
    broker.call(b"client", 1, attempt=2)
    (address, _) = broker.requests(b"W")[1]
    broker.session(b"W", 1, b"\x04", address, b"", b"first")
    broker.call(b"client", 1, attempt=3)
    (address, _) = broker.requests(b"W")[1]
    broker.session(b"W", 1, b"\x04", address, b"", b"second")
    broker.call(b"client", 2, service=b"mmi.service", attempt=4)
    answers = [(frame[6], body) for frame, _, _, _, _, *body in broker.take(b"client")]
    assert answers == [(1, [b"first"]), (3, [b"second"]), (4, [b"404"])]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_late_message_of_an_earlier_try_does_not_call_the_answer_back(streamed):
    broker = GmdpBroker()
    broker.call(b"after", 1, nonce=b"n" * 16, attempt=2)
    broker.register(b"W", 1)
    ((address, _),) = broker.requests(b"W").values()
    if streamed:
        broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.call(b"before", 1, nonce=b"n" * 16, attempt=1)
    broker.session(b"W", 1, b"\x04", address, b"", b"done")
    parts = [(1, Status.PARTIAL, 1, [b"part"])] if streamed else []
    assert broker.answered(b"after") == [*parts, (1, Status.OK, 1, [b"done"])]
    assert broker.core.counters.drops == {"late_retry": 1}


def test_an_id_in_use_asks_no_other_service():
    broker = GmdpBroker()
    broker.call(b"client", 1)
    broker.call(b"client", 1, service=b"other")
    assert broker.core.counters.drops == {"id_reused": 1}
    assert broker.core.counters.requests == 1


def test_a_cancelled_request_that_runs_frees_its_client_s_account_at_once():
    broker = GmdpBroker(max_in_flight=1)
    broker.register(b"W", 1)
    broker.call(b"client", 1, b"x" * 100)
    broker.call(b"client", 1, flags=CANCEL)
    assert broker.core.held_bytes == 0
    broker.call(b"client", 2)
    assert broker.core.counters.drops == {}
    # Its worker heard so, and gets no other request before it answers.
    request, gone = broker.take(b"W")
    assert gone == [extension.session_frame(1, extension.CALLER_GONE), b"", b"MDPW02", b"\x05"]
    assert broker.core.queued == 1
    # If the worker is lost now, no caller wants the request any more.
    broker.feed(b"W", MDP02.disconnect)
    assert broker.core.counters.ended == {"cancelled": 1}
    assert broker.core.counters.redeliveries == 0
    assert request[-1] == b"x" * 100


def test_the_broker_s_own_request_is_worked_on_and_its_answer_is_dropped():
    broker = GmdpBroker(max_queue_bytes=3_000)
    broker.register(b"W", 1)
    assert broker.core.inject(b"echo", [b"own", b"request"], broker.now)
    broker.collect()
    ((address, body),) = broker.requests(b"W").values()
    assert body == [b"own", b"request"]
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.session(b"W", 1, b"\x04", address, b"", b"end")
    assert broker.take(b"") == []
    assert broker.core.counters.replies == 1
    assert broker.core.held_bytes == 0
    assert not broker.core.inject(b"echo", [b"x" * 2001], broker.now)
    broker.core.drain()
    assert not broker.core.inject(b"echo", [b"x"], broker.now)


def test_each_gmdp_client_s_connection_has_so_many_open_calls_and_no_more():
    broker = GmdpBroker(max_in_flight=3)
    for number in range(5):
        broker.call(b"client", number)
    assert broker.answered(b"client") == [failed(3, Status.OVERLOADED), failed(4, Status.OVERLOADED)]
    assert broker.core.counters.drops == {"in_flight_full": 2}
    broker.call(b"client", 0, flags=CANCEL)
    broker.call(b"client", 6)
    assert broker.core.counters.drops == {"in_flight_full": 2}


def test_F1_a_strict_client_cannot_be_told_so_only_queue_and_bytes_bound_its_open_requests():
    broker = GmdpBroker(max_in_flight=3, max_queue=100)
    for number in range(110):
        broker.ask(MDP02, b"strict", b"%d" % number)
    assert (broker.core.counters.drops, broker.core.queued) == ({}, 100)
    assert broker.core.counters.ended == {"overloaded": 10}


def test_S3_a_gmdp_client_that_may_not_call_hears_so_and_a_strict_one_nothing():
    broker = SecuredBroker()
    broker.ready(b"w", "worker1")
    broker.call(b"c", "stranger")
    assert broker.statuses(b"c") == [Status.NOT_ALLOWED]
    broker.ask(b"d", "stranger")
    assert broker.take(b"d") == []
    broker.call(b"c", "client")
    assert len(broker.take(b"w")) == 1
    assert broker.refused() == [Refusal(CALL, "stranger", b"echo", DropReason.NOT_ALLOWED)] * 2
    assert broker.drops == {"not_allowed": 2}
    assert list(broker.core.services) == [b"echo"]


def test_S3_a_client_that_may_not_inspect_hears_403():
    """The probe is open to all: without it gmdp peers could not hear what is not allowed."""
    broker = SecuredBroker()
    broker.ask(b"c", "client", b"echo", service=b"mmi.service")
    broker.ask(b"c", "client", service=b"mmi.workers")
    broker.ask(b"c", "client", service=b"mmi.gmdp")
    assert [frames[3] for frames in broker.take(b"c")] == [b"404", b"403", b"200"]
    broker.call(b"c", "client", service=b"mmi.workers")
    assert broker.statuses(b"c") == [Status.NOT_ALLOWED]
    broker.ask(b"a", "admin", service=b"mmi.workers")
    broker.ask(b"a", "admin", service=b"mmi.unknown")
    assert [frames[3] for frames in broker.take(b"a")] == [b"200", b"501"]


def test_without_a_policy_users_may_do_everything_unless_they_are_revoked():
    broker = SecuredBroker(policy=None)
    broker.ready(b"w", "anybody")
    broker.ask(b"c", "else")
    assert len(broker.take(b"w")) == 1
    broker.ready(b"v", REVOKED)
    assert broker.take(b"v") == [MDP02.disconnect]
    broker.call(b"d", REVOKED)
    assert broker.statuses(b"d") == [Status.NOT_ALLOWED]
    assert {refusal.reason for refusal in broker.refused()} == {DropReason.REVOKED}


def test_a_users_requests_are_limited_to_a_rate():
    """A bucket of a second's worth; others are not touched; time refills it."""
    broker = SecuredBroker(policy=None, rate=10.0)
    for number in range(15):
        broker.call(b"c", "greedy", number)
    assert broker.statuses(b"c") == [Status.OVERLOADED] * 5
    assert broker.drops == {"rate_full": 5}
    assert broker.refused()[0] == Refusal(CALL, "greedy", b"echo", DropReason.RATE_FULL)
    broker.call(b"d", "modest")
    assert broker.statuses(b"d") == []
    broker.advance(0.5)
    for number in range(20, 30):
        broker.call(b"e", "greedy", number)
    assert len(broker.statuses(b"e")) == 5


def test_requests_of_no_known_user_have_no_rate():
    broker = SecuredBroker(policy=None, rate=1.0)
    for number in range(50):
        broker.call(b"c", "", number)
    assert broker.statuses(b"c") == []


def test_C9_a_retry_joins_its_own_users_request_only():
    """Whoever guesses a request id gets no answer of another user's."""
    broker = SecuredBroker(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    broker.ready(b"w", "worker")
    broker.call(b"c", "client", 1)
    frames = broker.take(b"w")[0]
    identity = extension.request_id(b"c".ljust(16, b"."), 1)
    for flags in (0, extension.CANCEL):
        call = extension.call_frame(identity, flags=flags, attempt=2)
        broker.feed(b"t", [call, b"", b"MDPC02", b"\x01", b"echo", b"x"], "thief")
    broker.feed(b"w", MDP02.final(frames[2], b"answer"), "worker")
    assert broker.statuses(b"c") == [Status.OK]
    assert broker.take(b"t") == []


def test_the_broker_s_own_requests_need_no_right():
    broker = SecuredBroker()
    assert broker.core.inject(b"echo", [b"x"], broker.now)
    broker.core.reconsider(broker.now)
    broker.ready(b"w", "worker1")
    assert len(broker.take(b"w")) == 1


def test_F3_behind_a_delimiter_rfc_18_s_own_code_is_answered_in_kind():
    # REQ sockets speak so: REQUEST 0x01, PARTIAL 0x02, FINAL 0x03, the service named.
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    for stack in ([], [b"hop one", b"hop two"]):
        broker.feed(b"client", [*stack, b"", b"MDPC02", b"\x01", b"echo", b"one", b""])
        address, body = broker.assignment(MDP02, b"worker")
        assert body == [b"one", b""]
        broker.feed(b"worker", MDP02.partial(address, b"eins"))
        broker.feed(b"worker", MDP02.final(address, b"zwei", b""))
        assert broker.take(b"client") == [
            [*stack, b"", b"MDPC02", b"\x02", b"echo", b"eins"],
            [*stack, b"", b"MDPC02", b"\x03", b"echo", b"zwei", b""],
        ]
    broker.feed(b"client", [b"", b"MDPC02", b"\x01", b"mmi.service", b"echo"])
    assert broker.take(b"client") == [[b"", b"MDPC02", b"\x03", b"mmi.service", b"200"]]


@pytest.mark.parametrize("fields", [extension.field_bytes([(200, bytes(60_000))]), b"\xea\x60" + b"\xff" * 60_000])
def test_B4_the_optional_fields_of_a_request_are_not_kept(fields):
    """Fields that nobody knows, and such as nobody can read."""
    broker = GmdpBroker()
    frame = extension.call_frame(extension.request_id(b"n" * 16, 1))[:-2] + fields
    broker.feed(b"client", [frame, b"", *MDP02.client_request(b"echo", b"x")])
    (request,) = broker.core._accounts.calls.values()
    assert len(request.terms.frame) == extension.BARE_SIZE
    broker.register(b"W", 1)
    ((address, _),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x04", address, b"", b"done")
    (answer,) = broker.take(b"client")
    assert len(answer[0]) == extension.BARE_SIZE


class Uncopied:
    """A frame of which no more than a little may be copied."""

    def __init__(self, content):
        self.content = content

    def __len__(self):
        return len(self.content)

    def __getitem__(self, index):
        part = self.content[index]
        assert len(part) < 5_000
        return part

    def __bytes__(self):
        raise AssertionError("the whole frame was copied")


@pytest.mark.parametrize(
    ("service", "status"),
    [("service", b"404"), ("services", b"200"), ("workers", b"200"), ("gmdp", b"200"), ("nothing", b"501")],
)
@pytest.mark.parametrize("extended", [False, True])
def test_B4_of_a_large_request_for_a_report_only_the_beginning_is_read(service, status, extended):
    broker = GmdpBroker()
    broker.register(b"W", 1)  # of the service echo
    frames = MDP02.client_request(b"mmi." + service.encode(), Uncopied(b"echo" * 5_000), Uncopied(b"echo"), b"echo")
    if extended:
        frames = [extension.call_frame(extension.request_id(b"n" * 16, 1)), b"", *frames]
    broker.feed(b"client", frames)
    (answer,) = broker.take(b"client")
    body = answer[answer.index(b"MDPC02") + 3 :]
    assert body[0] == status
    if service in ("services", "workers"):
        assert body[1].startswith(b'{"total":0,')  # a name that no service can have, not its beginning


def test_a_probe_that_is_too_large_names_no_features():
    """It is cut only where it is too large anyway."""
    broker = GmdpBroker()
    (probe,) = extension.probe_body(2, extension.SUPPORTED)
    for size, features in ((extension.MAX_PROBE, extension.SUPPORTED), (extension.MAX_PROBE + 1, 0)):
        broker.feed(b"client", MDP02.client_request(b"mmi.gmdp", Uncopied(probe.ljust(size))))
        assert broker.state.peers.features_of((b"client",), extension.session_frame(1)) == features
