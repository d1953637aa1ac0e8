"""What comes of a worker's message."""

import pytest
from brokers import DIALECTS, GmdpBroker, counters, every_dialect
from cores import MDP01, MDP02, Majortomo, ManualBroker, answers

from gmdp.protocol import extension, token
from gmdp.protocol.extension import Status


def test_W8_second_ready_is_the_end_of_the_first_registration():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1", b"W2")
    broker.ask(MDP02, b"client", b"x")
    broker.take(b"W1")
    broker.feed(b"W1", MDP02.ready(b"echo"))
    assert broker.take(b"W1") == [MDP02.disconnect]
    assert broker.assignment(MDP02, b"W2")[1] == [b"x"]
    assert counters(broker).redeliveries == 1
    assert len(broker.workers) == 1


@every_dialect
@pytest.mark.parametrize("when", ["idle", "busy", "stranger"])
def test_W10_disconnect_is_a_clean_removal(mdp, when):
    broker = ManualBroker()
    if when != "stranger":
        broker.ready(mdp, b"W1")
    if when == "busy":
        broker.ask(mdp, b"client", b"x")
        broker.take(b"W1")
    broker.feed(b"W1", mdp.disconnect)
    broker.feed(b"W1", mdp.heartbeat)
    assert broker.take(b"W1") == []
    assert broker.workers == {}
    broker.ready(mdp, b"W2")
    assert len(broker.take(b"W2")) == (when == "busy")


@every_dialect
@pytest.mark.parametrize("forged", ["the client's identity", "another worker's token", "an earlier token", "a guess"])
def test_W12_a_reply_to_another_request_reaches_no_client(mdp, forged):
    broker = ManualBroker()
    broker.ready(mdp, b"W1", b"W2")
    broker.ask(mdp, b"victim", b"x")
    address, _ = broker.assignment(mdp, b"W1")
    broker.ask(mdp, b"other", b"y")
    mine, _ = broker.assignment(mdp, b"W2")
    if forged == "an earlier token":
        broker.feed(b"W2", mdp.final(mine, b"fine"))
        broker.answers(mdp, b"other")
        broker.ask(mdp, b"other", b"z")
        broker.take(b"W2")
    guess = mine[:20] + bytes([mine[20] ^ 1]) + mine[21:]
    wrong = {"the client's identity": b"victim", "another worker's token": address, "an earlier token": mine}
    broker.feed(b"W2", mdp.final(wrong.get(forged, guess), b"forged"))
    assert broker.take(b"W2") == [mdp.disconnect]
    assert broker.take(b"victim") == []
    assert broker.take(b"other") == []
    assert counters(broker).drops == {"stray_reply": 1}
    broker.feed(b"W1", mdp.final(address, b"right"))
    assert broker.answers(mdp, b"victim") == [[b"right"]]


@every_dialect
def test_W13_the_same_reply_twice_counts_once(mdp):
    broker = ManualBroker()
    broker.ready(mdp, b"W1")
    broker.ask(mdp, b"client", b"x")
    address, _ = broker.assignment(mdp, b"W1")
    for _ in range(2):
        broker.feed(b"W1", mdp.final(address, b"answer"))
    assert broker.answers(mdp, b"client") == [[b"answer"]]
    assert broker.take(b"W1") == [mdp.disconnect]
    assert broker.core.services == {}


def test_W9_W10_a_session_is_retired_for_ever_and_hears_nothing_more():
    broker = GmdpBroker()
    broker.register(b"W", 1, 2)
    broker.session(b"W", 1, b"\x06")
    for _ in range(3):
        broker.session(b"W", 1, b"\x01", b"echo")
        broker.session(b"W", 1, b"\x04", b"address", b"", b"x")
        broker.session(b"W", 1, b"\x06")
    broker.session(b"W", 7, b"\x06")
    assert broker.take(b"W") == []
    assert broker.core.worker_count == 1


def test_W12_a_session_s_token_is_no_use_to_its_neighbour():
    broker = GmdpBroker()
    broker.register(b"W", 1, 2)
    for number in (1, 2):
        broker.call(b"client", number, b"%d" % number)
    requests = broker.requests(b"W")
    broker.session(b"W", 1, b"\x04", requests[2][0], b"", b"forged")
    assert broker.take(b"W")[0] == [extension.session_frame(1), b"", b"MDPW02", b"\x06"]
    assert broker.answered(b"client") == []
    broker.session(b"W", 2, b"\x04", requests[2][0], b"", b"right")
    assert broker.answered(b"client") == [(2, Status.OK, 1, [b"right"])]


def test_a_worker_that_says_final_and_disconnect_in_one_breath_was_given_nothing():
    """A strict worker that is stopped: both come before the broker sends what it had decided in between."""
    broker = ManualBroker(attempts=1)
    broker.ready(MDP02, b"W1")
    for body in (b"first", b"second"):
        broker.ask(MDP02, b"client", body)
    address, _ = broker.assignment(MDP02, b"W1")
    broker.core.feed([b"W1", *MDP02.final(address, b"done")], broker.now)
    broker.core.feed([b"W1", *MDP02.disconnect], broker.now)
    broker.collect()
    assert broker.take(b"W1") == []
    assert broker.core.counters.ended == {}
    broker.ready(MDP02, b"W2")
    address, body = broker.assignment(MDP02, b"W2")
    assert (body, token.read(address).attempt) == ([b"second"], 1)


# What a registered worker may say: the table of the module


def said_by(mdp, command, address):
    """The frames of `command`; `address` is that of its request, or of none."""
    commands = {
        "ready": mdp.ready(b"echo"),
        "final": mdp.final(address, b"answer"),
        "heartbeat": mdp.heartbeat,
        "disconnect": mdp.disconnect,
        "malformed": [*mdp.heartbeat, b"a frame too many"],
        "another dialect": (MDP01 if mdp is not MDP01 else MDP02).heartbeat,
    }
    if mdp is not MDP01:
        commands["partial"] = mdp.partial(address, b"part")
    return commands[command]


#: Why the worker is lost, and whether it hears DISCONNECT.
LOST = {
    "ready": ("second_ready", True),
    "partial": ("stray_reply", True),
    "final": ("stray_reply", True),
    "disconnect": ("disconnect", False),
    "malformed": ("malformed", True),
    "another dialect": ("other_dialect", True),
}
pairs = pytest.mark.parametrize(
    ("mdp", "command"), [(mdp, command) for mdp in DIALECTS for command in LOST if (mdp, command) != (MDP01, "partial")]
)


@pairs
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_worker_that_says_what_it_may_not_is_lost(mdp, command, busy):
    broker = ManualBroker()
    broker.ready(mdp, b"W1")
    if busy:
        broker.ask(mdp, b"client", b"x")
        broker.assignment(mdp, b"W1")
    broker.feed(b"W1", said_by(mdp, command, b"no token of this request"))
    reason, hears_disconnect = LOST[command]
    assert counters(broker).lost_workers == {reason: 1}
    assert broker.take(b"W1") == ([mdp.disconnect] if hears_disconnect else [])
    broker.ready(mdp, b"W2")
    assert len(broker.take(b"W2")) == busy  # the redelivery


@every_dialect
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_heartbeat_is_answered_and_nothing_else(mdp, busy):
    broker = ManualBroker()
    broker.ready(mdp, b"W1")
    if busy:
        broker.ask(mdp, b"client", b"x")
        broker.assignment(mdp, b"W1")
        broker.feed(b"W1", mdp.heartbeat)  # the request was sent since the last one
    broker.feed(b"W1", mdp.heartbeat)
    assert broker.take(b"W1") == [mdp.heartbeat]
    assert counters(broker).lost_workers == {}


@pytest.mark.parametrize("mdp", [MDP02, Majortomo], ids=lambda mdp: mdp.dialect.name)
@pytest.mark.parametrize("client", DIALECTS, ids=lambda mdp: mdp.dialect.name)
def test_parts_of_the_right_request_are_forwarded_or_joined(mdp, client):
    broker = ManualBroker()
    broker.ready(mdp, b"W1")
    broker.ask(client, b"client", b"x")
    address, _ = broker.assignment(mdp, b"W1")
    broker.feed(b"W1", mdp.partial(address, b"1"))
    broker.feed(b"W1", mdp.final(address, b"2"))
    if client is MDP01:
        assert broker.take(b"client") == [client.client_final(b"echo", b"1", b"2")]
    else:
        assert broker.take(b"client") == [client.client_partial(b"echo", b"1"), client.client_final(b"echo", b"2")]
    assert (counters(broker).partials, counters(broker).replies) == (1, 1)


def test_a_connection_speaks_for_all_its_sessions_in_the_rfc_s_own_dialect():
    broker = GmdpBroker()
    broker.register(b"W", 1, 2)
    broker.take(b"W")
    broker.feed(b"W", MDP02.heartbeat)
    assert broker.take(b"W") == [MDP02.heartbeat]
    broker.feed(b"W", MDP02.disconnect)
    assert (broker.core.worker_count, counters(broker).lost_workers) == (0, {"disconnect": 2})


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([extension.session_frame(1, extension.LAST), b"", b"MDPW02", b"\x05"], "malformed"),
        ([extension.session_frame(7, 64), b"", b"MDPW02", b"\x05"], "malformed"),
    ],
    ids=["LAST on a HEARTBEAT", "an unknown flag"],
)
def test_a_session_frame_with_flags_that_it_may_not_have_ends_the_connection(frames, reason):
    broker = GmdpBroker()
    broker.register(b"W", 1, 2)
    broker.feed(b"W", frames)
    assert counters(broker).lost_workers == {reason: 2}
    assert counters(broker).drops == {reason: 1}


def no_delimiter(frames, at):
    return [*frames[: at + 1], *frames[at + 2 :]]


def full_delimiter(frames, at):
    return [*frames[: at + 1], b"\x00", *frames[at + 2 :]]


@pytest.mark.parametrize("spoil", [no_delimiter, full_delimiter], ids=lambda one: one.__name__)
@pytest.mark.parametrize("mdp", [MDP01, MDP02], ids=["0.1", "0.2"])
def test_F10_a_reply_without_the_empty_frame_is_served_since_its_token_is_proof(mdp, spoil):
    # The guide's PHP worker sends such replies; the log says once what was missing.
    for which in range(len(answers(mdp, b""))):
        broker = ManualBroker()
        broker.ready(mdp, b"worker")
        broker.ask(mdp, b"client", b"question")
        address, _ = broker.assignment(mdp, b"worker")
        reply = answers(mdp, address)[which]
        body = reply[mdp.address_at + 2 :] if spoil is no_delimiter else [b"\x00", *reply[mdp.address_at + 2 :]]
        broker.feed(b"worker", spoil(reply, mdp.address_at))
        assert broker.core.counters.drops == {}
        ((*_, answered),) = broker.take(b"client")
        assert answered == body[-1]
        (complaint,) = broker.core.take_refusals()
        assert complaint.kind == "no_delimiter"
        assert "the empty frame between the client address and the body" in complaint.text
        assert broker.take(b"worker") == []


@pytest.mark.parametrize("spoil", [no_delimiter, full_delimiter], ids=lambda one: one.__name__)
@pytest.mark.parametrize("mdp", [MDP01, MDP02], ids=["0.1", "0.2"])
def test_F10_without_the_right_token_such_a_reply_is_invalid(mdp, spoil):
    for which in range(len(answers(mdp, b""))):
        broker = ManualBroker()
        broker.ready(mdp, b"worker")
        broker.ask(mdp, b"client", b"question")
        broker.assignment(mdp, b"worker")
        broker.feed(b"worker", spoil(answers(mdp, b"forged")[which], mdp.address_at))
        assert broker.core.counters.drops == {"malformed": 1}
        assert broker.take(b"client") == []
        assert broker.take(b"worker") == [mdp.disconnect]


def test_X2_sessions_that_a_connection_does_not_have_take_no_memory():
    """A worker may say that any session begins, and register a session of any number."""
    broker = GmdpBroker()
    broker.feed(b"W", MDP02.client_request(b"mmi.gmdp", *extension.probe_body(2, extension.SUPPORTED)))
    broker.register(b"W", 1, 2, 3, 1_000_000)
    (connection,) = broker.core._registry.connections.values()
    for numbers in ((1, 3), range(5, 1_000), range(1_000_001, 1_002_000)):
        (frame,) = extension.begun_frames(map(extension.session_frame, numbers))
        broker.feed(b"W", [frame, b"", *MDP02.heartbeat])
        assert len(connection.begun) <= 20
        # What is known of the connection's own sessions stays.
        assert connection.begun.keys() >= {(1,), (3,)}
