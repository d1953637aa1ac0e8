"""Requests and where they may be."""

import pytest
from cores import MDP01, MDP02, Majortomo, ManualBroker

from gmdp.core.broker.options import ServiceOptions
from gmdp.core.broker.records import CallTerms, Connection, Place, Request, Service, Worker, charged_bytes
from gmdp.protocol import extension
from gmdp.protocol.dialects import EXTENDED, MAJORTOMO, RFC7, RFC18, Command
from gmdp.protocol.extension import Status


def test_a_request_moves_only_where_it_may():
    """What was answered or has ended stays there; nothing is answered that no worker has."""
    allowed = {
        None: {Place.QUEUED, Place.ASSIGNED},
        Place.QUEUED: {Place.ASSIGNED, Place.ENDED},
        Place.ASSIGNED: {Place.QUEUED, Place.ASSIGNED, Place.ANSWERED, Place.ENDED},
        Place.ANSWERED: set(),
        Place.ENDED: set(),
    }
    broker = ManualBroker()
    broker.ask(MDP02, b"client", b"x")
    (request,) = broker.core.services[b"echo"].queue
    for start in allowed:
        for place in Place:
            request.place = start
            if place in allowed[start]:
                request.move(place)
                assert request.place is place
            else:
                with pytest.raises(ValueError, match="no move from"):
                    request.move(place)
                assert request.place is start


@pytest.mark.parametrize(
    ("mdp", "dialect"), [(MDP01, RFC7), (MDP02, RFC18), (Majortomo, MAJORTOMO)], ids=["RFC 7", "RFC 18", "majortomo"]
)
def test_an_answer_is_written_in_the_dialect_of_its_request(mdp, dialect):
    request = Request(Service(b"echo", ServiceOptions(), ""), (b"id", b"hop"), dialect, [b"x"], b"id", 0.0)
    assert request.answer_frames([b"y"], Status.OK) == [b"id", b"hop", *mdp.client_final(b"echo", b"y")]
    if dialect.streams:
        assert request.answer_frames([b"y"], Status.PARTIAL) == [b"id", b"hop", *mdp.client_partial(b"echo", b"y")]


def test_an_answer_to_a_gmdp_client_carries_its_call_frame():
    request = Request(Service(b"echo", ServiceOptions(), ""), (b"id",), EXTENDED[RFC18], [b"x"], b"id", 0.0)
    frame = extension.call_frame(extension.request_id(b"n" * 16, 5), attempt=2)
    request.terms = CallTerms(frame, ("", frame[9:33]), False, b"", 2)
    request.attempts = 3
    routing_id, answered, *rest = request.answer_frames([b""], Status.OVERLOADED)
    assert (routing_id, rest) == (b"id", [b"", b"MDPC02", b"\x03", b"echo", b""])
    call = extension.read_call(answered)
    assert (call.status, call.flags, call.attempt, call.id) == (Status.OVERLOADED, 2, 3, frame[9:33])


def test_a_request_knows_its_user_where_there_is_one():
    service = Service(b"echo", ServiceOptions(), "")
    assert Request(service, (b"id",), RFC18, [b"x"], "user", 0.0).user == "user"
    assert Request(service, (b"id",), RFC18, [b"x"], b"id", 0.0).user == ""


@pytest.mark.parametrize(("body", "size"), [([b""], 0), ([b"abc"], 3), ([b"abc", b"", b"d"], 4 + 2 * 64)])
def test_frames_beyond_the_first_cost_more_than_their_bytes(body, size):
    assert charged_bytes(body) == size


def test_messages_to_a_session_and_to_its_connection():
    connection = Connection(b"w", (b"w",), EXTENDED[RFC18], RFC18, 0.0, "")
    session = extension.session_frame(3)
    worker = Worker(connection, session, Service(b"echo", ServiceOptions(), ""), 0.0)
    assert worker.command_frames(Command.DISCONNECT) == [b"w", session, b"", b"MDPW02", b"\x06"]
    assert connection.command_frames(Command.HEARTBEAT) == [b"w", b"MDPW02", b"\x05"]


def test_a_service_describes_itself():
    service = Service(b"echo", ServiceOptions(), "")
    connection = Connection(b"w", (b"w",), RFC18, RFC18, 0.0, "")
    idle, busy = Worker(connection, b"", service, 0.0), Worker(connection, b"1", service, 0.0)
    service.members.update({idle: None, busy: None})
    service.idle[idle] = 0.0
    service.queue.push(Request(service, (b"id",), RFC18, [b"x"], b"id", 5.0))
    statistics = service.statistics(8.0)
    assert (statistics.workers, statistics.idle, statistics.busy) == (2, 1, 1)
    assert (statistics.queued, statistics.oldest) == (1, 3.0)
