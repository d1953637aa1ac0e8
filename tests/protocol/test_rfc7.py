"""RFC 7 (MDP/0.1) by itself: the layout of its commands, byte by byte, and what only it says."""

import pytest
from cores import EXPIRY, INTERVAL, MDP01, MDP02, ManualBroker, ManualClient, ManualWorker, refuses

from gmdp.core.peer.calls import Part
from gmdp.core.peer.connector import Send

# The commands, from both ends


def test_request_of_a_client():
    """RFC 7, MDP/Client: "A REQUEST command consists of a multipart message of 4 or more frames" """
    _, _, frames = ManualClient(MDP01).call(b"echo", b"one", b"", b"\x00three")
    assert frames == [b"", b"MDPC01", b"echo", b"one", b"", b"\x00three"]
    broker = ManualBroker()
    broker.ready(MDP01, b"worker")
    broker.feed(b"client", [b"", b"MDPC01", b"echo", b"one", b"", b"\x00three"])
    assert broker.assignment(MDP01, b"worker")[1] == [b"one", b"", b"\x00three"]


@pytest.mark.parametrize(
    "frames", [[b"", b"MDPC01"], [b"", b"MDPC01", b"echo"], [b"", b"MDPC01", b"", b"body"]], ids=len
)
def test_request_of_a_client_with_fewer_frames_is_dropped(frames):
    """RFC 7, MDP/Client: "A REQUEST command consists of a multipart message of 4 or more frames" """
    broker = ManualBroker()
    broker.ready(MDP01, b"worker")
    broker.feed(b"client", frames)
    assert broker.core.counters.drops == {"malformed": 1}
    assert broker.log == []


def test_reply_to_a_client():
    """RFC 7, MDP/Client: "A REPLY command consists of a multipart message of 4 or more frames" """
    broker = ManualBroker()
    broker.ready(MDP01, b"worker")
    broker.ask(MDP01, b"client", b"question")
    address, _ = broker.assignment(MDP01, b"worker")
    broker.feed(b"worker", MDP01.final(address, b"one", b"", b"\x00three"))
    assert broker.take(b"client") == [[b"", b"MDPC01", b"echo", b"one", b"", b"\x00three"]]
    caller = ManualClient(MDP01)
    call, connection, _ = caller.call(b"echo", b"question")
    caller.feed(connection, [b"", b"MDPC01", b"echo", b"one", b"", b"\x00three"])
    assert caller.events() == [Part(call, [b"one", b"", b"\x00three"], True)]


@pytest.mark.parametrize(
    "frames",
    [[], [b""], [b"", b"MDPC01"], [b"", b"MDPC01", b"echo"], [b"", b"MDPC01", b"other", b"body"]],
    ids=["0", "1", "2", "3", "another service"],
)
def test_reply_to_a_client_with_fewer_frames_is_no_answer(frames):
    """RFC 7, MDP/Client: "A REPLY command consists of a multipart message of 4 or more frames" """
    caller = ManualClient(MDP01)
    _, connection, _ = caller.call(b"echo", b"question")
    caller.feed(connection, frames)
    assert caller.events() == []
    assert caller.core.counters.malformed == 1


def test_ready():
    """RFC 7, MDP/Worker: "A READY command consists of a multipart message of 4 frames" """
    session = ManualWorker(MDP01)
    session.advance(0)
    session.take()
    session.connected()
    assert session.sent() == [[b"", b"MDPW01", b"\x01", b"echo"]]
    broker = ManualBroker()
    broker.feed(b"worker", [b"", b"MDPW01", b"\x01", b"echo"])
    assert broker.core.services[b"echo"].workers == 1


def test_request_to_a_worker():
    """RFC 7, MDP/Worker: "A REQUEST command consists of a multipart message of 6 or more frames" """
    broker = ManualBroker()
    broker.ready(MDP01, b"worker")
    broker.ask(MDP01, b"client", b"one", b"", b"\x00three")
    (frames,) = broker.take(b"worker")
    address = frames[3]
    assert frames == [b"", b"MDPW01", b"\x02", address, b"", b"one", b"", b"\x00three"]
    session = ManualWorker(MDP01)
    session.register()
    session.feed([b"", b"MDPW01", b"\x02", b"client", b"", b"one", b"", b"\x00three"])
    (work,) = session.take()
    assert (work.address, work.body) == (b"client", [b"one", b"", b"\x00three"])


def test_reply_of_a_worker():
    """RFC 7, MDP/Worker: "A REPLY command consists of a multipart message of 6 or more frames" """
    session = ManualWorker(MDP01)
    session.register()
    session.final(session.work(b"question"), b"one", b"", b"\x00three")
    assert session.sent() == [[b"", b"MDPW01", b"\x03", b"client", b"", b"one", b"", b"\x00three"]]
    broker = ManualBroker()
    broker.ready(MDP01, b"worker")
    broker.ask(MDP01, b"client", b"question")
    address, _ = broker.assignment(MDP01, b"worker")
    broker.feed(b"worker", [b"", b"MDPW01", b"\x03", address, b"", b"one", b"", b"\x00three"])
    assert broker.take(b"client") == [MDP01.client_final(b"echo", b"one", b"", b"\x00three")]


def test_a_worker_whose_handler_returns_nothing_replies_with_one_empty_frame():
    """RFC 7, MDP/Worker: "A REPLY command consists of a multipart message of 6 or more frames" """
    session = ManualWorker(MDP01)
    session.register()
    session.final(session.work(b"question"))
    assert session.sent() == [[b"", b"MDPW01", b"\x03", b"client", b"", b""]]


def test_heartbeat():
    """RFC 7, MDP/Worker: "A HEARTBEAT command consists of a multipart message of 3 frames" """
    session = ManualWorker(MDP01)
    session.register()
    session.advance(INTERVAL)
    assert session.sent() == [[b"", b"MDPW01", b"\x04"]]
    session.feed([b"", b"MDPW01", b"\x04"])
    session.advance(EXPIRY - 0.1)
    assert session.session.registered
    broker = ManualBroker()
    broker.ready(MDP01, b"worker")
    broker.advance(INTERVAL)
    assert broker.take(b"worker") == [[b"", b"MDPW01", b"\x04"]]
    broker.feed(b"worker", [b"", b"MDPW01", b"\x04"])
    broker.advance(EXPIRY - 0.1)
    assert len(broker.workers) == 1


def test_disconnect():
    """RFC 7, MDP/Worker: "A DISCONNECT command consists of a multipart message of 3 frames" """
    session = ManualWorker(MDP01)
    session.register()
    session.close()
    assert session.take()[0].frames == [b"", b"MDPW01", b"\x05"]
    told = ManualWorker(MDP01)
    told.register()
    told.feed([b"", b"MDPW01", b"\x05"])
    assert not told.session.registered
    broker = ManualBroker()
    broker.ready(MDP01, b"worker", b"other")
    broker.feed(b"worker", [b"", b"MDPW01", b"\x05"])
    assert list(broker.workers) == [b"other"]
    broker.core.finish(broker.now)
    broker.collect()
    assert broker.take(b"other") == [[b"", b"MDPW01", b"\x05"]]


@pytest.mark.parametrize(
    "frames",
    [[b"", b"MDPW01", b"\x04", b""], [b"", b"MDPW01", b"\x05", b""], [b"", b"MDPW01"], [b"", b"MDPW01", b"\x01", b"x"]],
    ids=["heartbeat of 4 frames", "disconnect of 4 frames", "no command", "ready"],
)
def test_a_worker_takes_no_command_of_another_layout(frames):
    """RFC 7, MDP/Worker: "A HEARTBEAT command consists of a multipart message of 3 frames"
    RFC 7, MDP/Worker: "A DISCONNECT command consists of a multipart message of 3 frames"
    """
    assert refuses(MDP01, frames)


def test_all_commands_between_worker_and_broker_start_with_an_empty_frame():
    """RFC 7, MDP/Worker: "MD/Worker commands all start with an empty frame" """
    for command in (MDP01.ready(b"echo"), MDP01.heartbeat, MDP01.disconnect, MDP01.final(b"client", b"answer")):
        broker = ManualBroker()
        broker.ready(MDP01, b"worker")
        broker.feed(b"worker", command[1:])
        assert broker.core.counters.drops == {"malformed": 1}
    for command in (MDP01.heartbeat, MDP01.disconnect, MDP01.request(b"client", b"question")):
        assert refuses(MDP01, command[1:])


# What only RFC 7 says


def test_a_client_with_a_req_socket_is_served():
    """RFC 7, MDP/Client: "Clients SHOULD use a REQ socket when implementing a synchronous request-reply pattern."
    RFC 7, MDP/Client: "The REQ socket will silently create frame 0 for outgoing requests, and remove it for replies"
    """
    broker = ManualBroker()
    broker.ready(MDP01, b"worker")
    application_sends = [b"MDPC01", b"echo", b"question"]
    broker.feed(b"client", [b"", *application_sends])
    address, _ = broker.assignment(MDP01, b"worker")
    broker.feed(b"worker", MDP01.final(address, b"answer"))
    ((delimiter, *application_gets),) = broker.take(b"client")
    assert delimiter == b""
    assert application_gets == [b"MDPC01", b"echo", b"answer"]


def test_a_client_with_a_dealer_socket_makes_the_empty_frame_itself():
    """RFC 7, MDP/Client: "In that case the clients MUST create the empty frame 0 explicitly." """
    caller = ManualClient(MDP01)
    first, connection, frames = caller.call(b"echo", b"question")
    assert frames[:2] == [b"", b"MDPC01"]
    caller.feed(connection, MDP01.client_final(b"echo", b"answer"))
    assert caller.events() == [Part(first, [b"answer"], True)]
    caller.submit(b"echo", b"another")
    (sent,) = [action for action in caller.take() if isinstance(action, Send)]
    assert sent.frames == [b"", b"MDPC01", b"echo", b"another"]


def test_a_client_gets_one_reply_though_its_worker_answered_in_parts():
    """RFC 7, Overall Topology: "will issue exactly one reply for each successful request" """
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.ask(MDP01, b"client", b"question")
    address, _ = broker.assignment(MDP02, b"worker")
    broker.feed(b"worker", MDP02.partial(address, b"one", b"two"))
    broker.feed(b"worker", MDP02.partial(address, b"three"))
    assert broker.take(b"client") == []
    broker.feed(b"worker", MDP02.final(address, b"four"))
    assert broker.take(b"client") == [[b"", b"MDPC01", b"echo", b"one", b"two", b"three", b"four"]]


def test_a_worker_gives_one_reply_though_its_handler_answers_in_parts():
    """RFC 7, Overall Topology: "will issue exactly one reply for each successful request" """
    session = ManualWorker(MDP01)
    session.register()
    work = session.work(b"question")
    assert session.partial(work, b"one", b"two") is True
    assert session.partial(work, b"three") is True
    assert session.sent() == []
    assert session.final(work, b"four") is True
    assert session.sent() == [[b"", b"MDPW01", b"\x03", b"client", b"", b"one", b"two", b"three", b"four"]]
    session.final(session.work(b"question"), b"five")
    assert session.sent() == [[b"", b"MDPW01", b"\x03", b"client", b"", b"five"]]


def test_a_worker_that_answers_in_parts_sends_heartbeats_meanwhile():
    """RFC 7, Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals." """
    session = ManualWorker(MDP01)
    session.register()
    work = session.work(b"question")
    for _ in range(10):
        session.advance(INTERVAL / 2)
        session.partial(work, b"part")
        session.feed(MDP01.heartbeat)
    assert session.sent().count([b"", b"MDPW01", b"\x04"]) >= 5
