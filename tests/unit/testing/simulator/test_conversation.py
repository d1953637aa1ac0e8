"""What a broker may send: hand-written bytes that are allowed, and such as are not."""

import pytest

from gmdp.protocol.extension import CANCEL, Status, answer_frame, call_frame, request_id, session_frame
from gmdp.testing.simulator.conversation import Conversation, is_request, parse_outgoing

ID = request_id(b"n" * 16, 1)
CALL = call_frame(ID)
FINAL = answer_frame(CALL, Status.OK, 1, 1)
PARTIAL = answer_frame(CALL, Status.PARTIAL, 1, 1)
EXPIRY = 10.0


class Broker(Conversation):
    """A conversation whose time goes on by a second with each message."""

    def __init__(self):
        super().__init__(1)
        self.clock = 0.0

    def hears(self, *frames):
        self.clock += 1
        self.on_received(list(frames), self.clock, EXPIRY)

    def sends(self, *frames, slow=False):
        self.clock += 1
        self.now = self.clock
        self.on_sent(list(frames), slow)


@pytest.fixture
def broker():
    return Broker()


def test_the_parts_of_a_message():
    assert parse_outgoing([b"id", b"", b"MDPW01", b"\x02", b"x"]) == (1, b"", b"MDPW01", b"\x02")
    assert parse_outgoing([b"id", b"MDPW02", b"\x02"]) == (1, b"", b"MDPW02", b"\x02")
    assert parse_outgoing([b"id", b"hop", b"", b"MDPC02", b"\x02"]) == (2, b"hop", b"MDPC02", b"\x02")
    assert is_request([b"id", b"MDPW02", b"\x02", b"address", b"", b"x"])
    assert not is_request([b"id", b"MDPW02", b"\x05"])
    assert not is_request([b"id", b"MDPC02", b"\x02"])


def test_a_strict_client_gets_one_final_for_each_request(broker):
    broker.hears(b"id", b"MDPC02", b"\x01", b"service", b"x")
    broker.sends(b"id", b"MDPC02", b"\x02", b"service", b"part")
    broker.sends(b"id", b"MDPC02", b"\x03", b"service", b"end")
    with pytest.raises(AssertionError, match="follows a FINAL"):
        broker.sends(b"id", b"MDPC02", b"\x03", b"service", b"again")


def test_an_answer_without_a_request_is_wrong(broker):
    with pytest.raises(AssertionError, match="answers no request"):
        broker.sends(b"id", b"", b"MDPC01", b"service", b"x")


def test_a_gmdp_client_gets_one_final_for_each_request(broker):
    broker.hears(b"id", CALL, b"", b"MDPC02", b"\x01", b"service", b"x")
    broker.sends(b"id", PARTIAL, b"", b"MDPC02", b"\x02", b"service", b"part")
    broker.sends(b"id", FINAL, b"", b"MDPC02", b"\x03", b"service", b"end")
    with pytest.raises(AssertionError, match="follows a FINAL"):
        broker.sends(b"id", FINAL, b"", b"MDPC02", b"\x03", b"service", b"again")


def test_the_status_must_fit_the_command(broker):
    broker.hears(b"id", CALL, b"", b"MDPC02", b"\x01", b"service", b"x")
    with pytest.raises(AssertionError, match="status and command"):
        broker.sends(b"id", PARTIAL, b"", b"MDPC02", b"\x03", b"service", b"end")


def test_an_answer_goes_to_the_address_of_the_last_request(broker):
    broker.hears(b"one", CALL, b"", b"MDPC02", b"\x01", b"service", b"x")
    broker.hears(b"two", CALL, b"", b"MDPC02", b"\x01", b"service", b"x")
    broker.sends(b"one", PARTIAL, b"", b"MDPC02", b"\x02", b"service", b"part", slow=True)
    with pytest.raises(AssertionError, match="an answer goes to"):
        broker.sends(b"one", PARTIAL, b"", b"MDPC02", b"\x02", b"service", b"part")
    with pytest.raises(AssertionError, match="an answer goes to"):
        broker.on_unsent([b"one", FINAL, b"", b"MDPC02", b"\x03", b"service"], slow=False)
    broker.on_unsent([b"two", FINAL, b"", b"MDPC02", b"\x03", b"service"], slow=False)
    broker.on_unsent([b"two", b"", b"MDPC01", b"service"], slow=False)


def test_a_request_to_another_service_redirects_no_answer(broker):
    broker.hears(b"one", CALL, b"", b"MDPC02", b"\x01", b"service", b"x")
    broker.hears(b"two", CALL, b"", b"MDPC02", b"\x01", b"another", b"x")
    with pytest.raises(AssertionError, match="an answer goes to"):
        broker.sends(b"two", PARTIAL, b"", b"MDPC02", b"\x02", b"service", b"part")
    broker.sends(b"one", PARTIAL, b"", b"MDPC02", b"\x02", b"service", b"part")


def test_a_cancelled_call_is_remembered_until_the_next_try(broker):
    broker.hears(b"id", CALL, b"", b"MDPC02", b"\x01", b"service", b"x")
    broker.hears(b"id", call_frame(ID, flags=CANCEL), b"", b"MDPC02", b"\x01", b"service", b"x")
    assert broker.cancelled == {ID}
    broker.hears(b"id", CALL, b"", b"MDPC02", b"\x01", b"service", b"x")
    assert broker.cancelled == set()


def test_nothing_follows_a_brokers_disconnect_until_the_worker_registers(broker):
    broker.sends(b"id", b"MDPW02", b"\x06")
    broker.hears(b"id", b"MDPW02", b"\x05")
    with pytest.raises(AssertionError, match="after DISCONNECT"):
        broker.sends(b"id", b"MDPW02", b"\x05")
    broker.hears(b"id", b"MDPW02", b"\x01", b"service")
    broker.sends(b"id", b"MDPW02", b"\x05")


def test_a_brokers_disconnect_is_forgotten_after_an_expiry(broker):
    broker.sends(b"id", b"MDPW02", b"\x06")
    with pytest.raises(AssertionError, match="after DISCONNECT"):
        broker.sends(b"id", b"MDPW02", b"\x06")
    broker.clock += EXPIRY
    broker.hears(b"id", b"MDPW02", b"\x05")
    broker.sends(b"id", b"MDPW02", b"\x06")


@pytest.mark.parametrize("session", [None, session_frame(3, 1)])
def test_nothing_follows_a_workers_disconnect_but_what_was_decided_before(broker, session):
    stack = [] if session is None else [session, b""]
    broker.hears(b"id", *stack, b"MDPW02", b"\x06")
    broker.on_sent([b"id", *stack, b"MDPW02", b"\x05"], slow=False)
    with pytest.raises(AssertionError, match="after DISCONNECT"):
        broker.sends(b"id", *stack, b"MDPW02", b"\x05")


def test_bytes_that_are_no_message_change_nothing(broker):
    broker.hears(b"id", b"\xff")
    assert broker.cancelled == set()


def test_a_try_begins_anew_only_after_a_handler_s_answer_was_sent(broker):
    retry = call_frame(ID, attempt=2)
    broker.hears(b"c", CALL, b"", b"MDPC02", b"\x01", b"it", b"x")
    broker.hears(b"c", retry, b"", b"MDPC02", b"\x01", b"it", b"x")
    broker.sends(b"c", answer_frame(retry, Status.SHUTTING_DOWN, 0, 0), b"", b"MDPC02", b"\x03", b"it", b"")
    broker.hears(b"c", retry, b"", b"MDPC02", b"\x01", b"it", b"x")
    assert broker.begun_anew[ID] == 0
    broker.sends(b"c", answer_frame(retry, Status.OK, 1, 0), b"", b"MDPC02", b"\x03", b"it", b"x")
    broker.hears(b"c", retry, b"", b"MDPC02", b"\x01", b"it", b"x")
    broker.hears(b"c", retry, b"", b"MDPC02", b"\x01", b"it", b"x")
    assert broker.begun_anew[ID] == 1
