"""RFC 18 (MDP/0.2) by itself: the layout of its commands, byte by byte, and what only it says.

The majortomo package's reading of MDP/0.2 is here, too: it differs in layout alone.
"""

import pytest
from cores import EXPIRY, INTERVAL, MDP01, MDP02, Majortomo, ManualBroker, ManualClient, ManualWorker, refuses

from gmdp.core.peer.calls import CallState, Part

# The commands, from both ends


def test_request_of_a_client():
    """RFC 18, MDP/Client: "A REQUEST command consists of a multipart message of 4 or more frames" """
    _, _, frames = ManualClient(MDP02).call(b"echo", b"one", b"", b"\x00three")
    assert frames == [b"MDPC02", b"\x01", b"echo", b"one", b"", b"\x00three"]
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.feed(b"client", [b"MDPC02", b"\x01", b"echo", b"one", b"", b"\x00three"])
    assert broker.assignment(MDP02, b"worker")[1] == [b"one", b"", b"\x00three"]


@pytest.mark.parametrize(
    "frames",
    [
        [b"MDPC02", b"\x01"],
        [b"MDPC02", b"\x01", b"echo"],
        [b"MDPC02", b"\x01", b"", b"body"],
        [b"MDPC02", b"\x02", b"echo", b"body"],
        [b"MDPC02", b"\x03", b"echo", b"body"],
        [b"MDPC02", b"echo", b"body", b"more"],
        [b"MDPC02", b"\x01\x01", b"echo", b"body"],
    ],
    ids=["2 frames", "3 frames", "empty service", "partial", "final", "no command", "command of 2 bytes"],
)
def test_request_of_a_client_in_another_layout_is_dropped(frames):
    """RFC 18, MDP/Client: "A REQUEST command consists of a multipart message of 4 or more frames" """
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.feed(b"client", frames)
    assert broker.core.counters.drops == {"malformed": 1}
    assert broker.log == []


def test_partial_to_a_client():
    """RFC 18, MDP/Client: "A PARTIAL command consists of a multipart message of 4 or more frames" """
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.ask(MDP02, b"client", b"question")
    address, _ = broker.assignment(MDP02, b"worker")
    broker.feed(b"worker", MDP02.partial(address, b"one", b"", b"\x00three"))
    assert broker.take(b"client") == [[b"MDPC02", b"\x02", b"echo", b"one", b"", b"\x00three"]]
    caller = ManualClient(MDP02)
    call, connection, _ = caller.call(b"echo", b"question")
    caller.feed(connection, [b"MDPC02", b"\x02", b"echo", b"one", b"", b"\x00three"])
    assert caller.events() == [Part(call, [b"one", b"", b"\x00three"], False)]


def test_final_to_a_client():
    """RFC 18, MDP/Client: "A FINAL command consists of a multipart message of 4 or more frames" """
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.ask(MDP02, b"client", b"question")
    address, _ = broker.assignment(MDP02, b"worker")
    broker.feed(b"worker", MDP02.final(address, b"one", b"", b"\x00three"))
    assert broker.take(b"client") == [[b"MDPC02", b"\x03", b"echo", b"one", b"", b"\x00three"]]
    caller = ManualClient(MDP02)
    call, connection, _ = caller.call(b"echo", b"question")
    caller.feed(connection, [b"MDPC02", b"\x03", b"echo", b"one", b"", b"\x00three"])
    assert caller.events() == [Part(call, [b"one", b"", b"\x00three"], True)]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"MDPC02"],
        [b"MDPC02", b"\x03"],
        [b"MDPC02", b"\x03", b"echo"],
        [b"MDPC02", b"\x02", b"echo"],
        [b"MDPC02", b"\x03", b"other", b"body"],
        [b"MDPC02", b"\x01", b"echo", b"body"],
        [b"MDPC02", b"\x04", b"echo", b"body"],
    ],
    ids=["0", "1", "2", "final of 3", "partial of 3", "another service", "request", "unknown command"],
)
def test_an_answer_in_another_layout_is_none(frames):
    """RFC 18, MDP/Client: "A PARTIAL command consists of a multipart message of 4 or more frames"
    RFC 18, MDP/Client: "A FINAL command consists of a multipart message of 4 or more frames"
    """
    caller = ManualClient(MDP02)
    _, connection, _ = caller.call(b"echo", b"question")
    caller.feed(connection, frames)
    assert caller.events() == []
    assert caller.core.counters.malformed == 1


def test_ready():
    """RFC 18, MDP/Worker: "A READY command consists of a multipart message of 3 frames" """
    session = ManualWorker(MDP02)
    session.advance(0)
    session.take()
    session.connected()
    assert session.sent() == [[b"MDPW02", b"\x01", b"echo"]]
    broker = ManualBroker()
    broker.feed(b"worker", [b"MDPW02", b"\x01", b"echo"])
    assert broker.core.services[b"echo"].workers == 1


def test_request_to_a_worker():
    """RFC 18, MDP/Worker: "A REQUEST command consists of a multipart message of 5 or more frames" """
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.ask(MDP02, b"client", b"one", b"", b"\x00three")
    (frames,) = broker.take(b"worker")
    address = frames[2]
    assert frames == [b"MDPW02", b"\x02", address, b"", b"one", b"", b"\x00three"]
    session = ManualWorker(MDP02)
    session.register()
    session.feed([b"MDPW02", b"\x02", b"client", b"", b"one", b"", b"\x00three"])
    (work,) = session.take()
    assert (work.address, work.body) == (b"client", [b"one", b"", b"\x00three"])


def test_partial_of_a_worker():
    """RFC 18, MDP/Worker: "A PARTIAL command consists of a multipart message of 5 or more frames" """
    session = ManualWorker(MDP02)
    session.register()
    session.partial(session.work(b"question"), b"one", b"", b"\x00three")
    assert session.sent() == [[b"MDPW02", b"\x03", b"client", b"", b"one", b"", b"\x00three"]]
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.ask(MDP02, b"client", b"question")
    address, _ = broker.assignment(MDP02, b"worker")
    broker.feed(b"worker", [b"MDPW02", b"\x03", address, b"", b"one", b"", b"\x00three"])
    assert broker.take(b"client") == [MDP02.client_partial(b"echo", b"one", b"", b"\x00three")]


def test_final_of_a_worker():
    """RFC 18, MDP/Worker: "A FINAL command consists of a multipart message of 5 or more frames" """
    session = ManualWorker(MDP02)
    session.register()
    session.final(session.work(b"question"), b"one", b"", b"\x00three")
    assert session.sent() == [[b"MDPW02", b"\x04", b"client", b"", b"one", b"", b"\x00three"]]
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.ask(MDP02, b"client", b"question")
    address, _ = broker.assignment(MDP02, b"worker")
    broker.feed(b"worker", [b"MDPW02", b"\x04", address, b"", b"one", b"", b"\x00three"])
    assert broker.take(b"client") == [MDP02.client_final(b"echo", b"one", b"", b"\x00three")]


def test_a_worker_whose_handler_returns_nothing_sends_one_empty_frame():
    """RFC 18, MDP/Worker: "A FINAL command consists of a multipart message of 5 or more frames" """
    session = ManualWorker(MDP02)
    session.register()
    session.final(session.work(b"question"))
    assert session.sent() == [[b"MDPW02", b"\x04", b"client", b"", b""]]


def test_heartbeat():
    """RFC 18, MDP/Worker: "A HEARTBEAT command consists of a multipart message of 2 frames" """
    session = ManualWorker(MDP02)
    session.register()
    session.advance(INTERVAL)
    assert session.sent() == [[b"MDPW02", b"\x05"]]
    session.feed([b"MDPW02", b"\x05"])
    session.advance(EXPIRY - 0.1)
    assert session.session.registered
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.advance(INTERVAL)
    assert broker.take(b"worker") == [[b"MDPW02", b"\x05"]]
    broker.feed(b"worker", [b"MDPW02", b"\x05"])
    broker.advance(EXPIRY - 0.1)
    assert len(broker.workers) == 1


def test_disconnect():
    """RFC 18, MDP/Worker: "A DISCONNECT command consists of a multipart message of 2 frames" """
    session = ManualWorker(MDP02)
    session.register()
    session.close()
    assert session.take()[0].frames == [b"MDPW02", b"\x06"]
    told = ManualWorker(MDP02)
    told.register()
    told.feed([b"MDPW02", b"\x06"])
    assert not told.session.registered
    broker = ManualBroker()
    broker.ready(MDP02, b"worker", b"other")
    broker.feed(b"worker", [b"MDPW02", b"\x06"])
    assert list(broker.workers) == [b"other"]
    broker.core.finish(broker.now)
    broker.collect()
    assert broker.take(b"other") == [[b"MDPW02", b"\x06"]]


@pytest.mark.parametrize(
    "frames",
    [
        [b"MDPW02", b"\x05", b""],
        [b"MDPW02", b"\x06", b""],
        [b"MDPW02"],
        [b"MDPW02", b"\x01", b"echo"],
        [b"MDPW02", b"\x03", b"client", b"", b"part"],
        [b"MDPW02", b"\x04", b"client", b"", b"answer"],
    ],
    ids=["heartbeat of 3 frames", "disconnect of 3 frames", "no command", "ready", "partial", "final"],
)
def test_a_worker_takes_no_command_of_another_layout(frames):
    """RFC 18, MDP/Worker: "A HEARTBEAT command consists of a multipart message of 2 frames"
    RFC 18, MDP/Worker: "A DISCONNECT command consists of a multipart message of 2 frames"
    """
    assert refuses(MDP02, frames)


# What only RFC 18 says


@pytest.mark.parametrize("parts", [0, 1, 5])
def test_a_client_handles_zero_or_more_partials(parts):
    """RFC 18, MDP/Client: "The client MUST be prepared to handle zero or more PARTIAL commands from the broker." """
    caller = ManualClient(MDP02)
    call, connection, _ = caller.call(b"echo", b"question", timeout=10.0)
    for number in range(parts):
        caller.advance(9.0)
        caller.feed(connection, MDP02.client_partial(b"echo", b"%d" % number))
        assert call.state is CallState.SENT
    caller.advance(9.0)
    caller.feed(connection, MDP02.client_final(b"echo", b"end"))
    assert call.state is CallState.DONE
    expected = [Part(call, [b"%d" % number], False) for number in range(parts)]
    assert caller.events() == [*expected, Part(call, [b"end"], True)]


@pytest.mark.parametrize("late", [MDP02.partial, MDP02.final], ids=["partial", "final"])
def test_no_command_follows_a_final_to_a_client(late):
    """RFC 18, MDP/Client: "After a FINAL command, the broker SHALL not send any further commands to the client." """
    broker = ManualBroker()
    broker.ready(MDP02, b"worker", b"other")
    broker.ask(MDP02, b"client", b"question")
    address, _ = broker.assignment(MDP02, b"worker")
    broker.feed(b"worker", MDP02.partial(address, b"part"))
    broker.feed(b"worker", MDP02.final(address, b"answer"))
    assert len(broker.take(b"client")) == 2
    for peer in (b"worker", b"other"):
        broker.feed(peer, late(address, b"late"))
    broker.advance(100)
    assert broker.take(b"client") == []


def test_parts_reach_the_client_at_once_and_in_order():
    """RFC 18, Goals: "replacement of REPLY command with PARTIAL and FINAL commands" """
    broker = ManualBroker()
    broker.ready(MDP02, b"worker")
    broker.ask(MDP02, b"client", b"question")
    address, _ = broker.assignment(MDP02, b"worker")
    for part in (b"one", b"two"):
        broker.feed(b"worker", MDP02.partial(address, part))
        assert broker.take(b"client") == [MDP02.client_partial(b"echo", part)]
        assert broker.take(b"worker") == []
    broker.feed(b"worker", MDP02.final(address, b"three"))
    assert broker.take(b"client") == [MDP02.client_final(b"echo", b"three")]


def test_commands_start_with_the_header():
    """RFC 18, Goals: "removal of empty frames at start of commands" """
    for command in (MDP02.heartbeat, MDP02.disconnect, MDP02.request(b"client", b"question")):
        assert refuses(MDP02, [b"", *command])
    caller = ManualClient(MDP02)
    _, connection, _ = caller.call(b"echo", b"question")
    caller.feed(connection, [b"", *MDP02.client_final(b"echo", b"answer")])
    assert caller.events() == []
    assert caller.core.counters.malformed == 1


@pytest.mark.parametrize("parts", [0, 1, 5])
def test_a_worker_sends_partials_and_then_exactly_one_final(parts):
    """RFC 18, Request and Reply Processing: "The worker SHALL send zero or more PARTIAL commands for a single REQUEST,
    followed by exactly one FINAL command."
    """
    session = ManualWorker(MDP02)
    session.register()
    work = session.work(b"question")
    for number in range(parts):
        assert session.partial(work, b"%d" % number) is True
    assert session.final(work, b"end") is True
    assert session.partial(work, b"late") is False
    assert session.final(work, b"late") is False
    expected = [[b"MDPW02", b"\x03", b"client", b"", b"%d" % number] for number in range(parts)]
    assert session.sent() == [*expected, [b"MDPW02", b"\x04", b"client", b"", b"end"]]


def test_partials_act_as_heartbeats():
    """RFC 18, Heartbeating: "Any received command except DISCONNECT acts as a heartbeat." """
    broker = ManualBroker(busy_timeout=EXPIRY)
    broker.ready(MDP02, b"worker")
    broker.ask(MDP02, b"client", b"question")
    address, _ = broker.assignment(MDP02, b"worker")
    for _ in range(5):
        broker.advance(EXPIRY - 0.1)
        broker.feed(b"worker", MDP02.partial(address, b"part"))
    broker.advance(EXPIRY - 0.1)
    assert len(broker.workers) == 1
    broker.advance(0.1)
    assert broker.workers == {}


def test_F11_a_worker_sends_heartbeats_while_it_sends_partials():
    """RFC 18, Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals." """
    session = ManualWorker(MDP02)
    session.register()
    work = session.work(b"question")
    sent = []
    for _ in range(20):
        session.advance(INTERVAL / 2 - 0.01)
        session.partial(work, b"part")
        sent += session.sent()
    assert sent.count(MDP02.partial(b"client", b"part")) == 20
    assert sent.count(MDP02.heartbeat) == 9  # in 9.9 intervals


def test_a_client_gets_a_final_though_its_worker_speaks_the_earlier_version():
    """RFC 18, MDP/Client: "A FINAL command consists of a multipart message of 4 or more frames" """
    broker = ManualBroker()
    broker.ready(MDP01, b"worker")
    broker.ask(MDP02, b"client", b"question")
    address, _ = broker.assignment(MDP01, b"worker")
    broker.feed(b"worker", MDP01.final(address, b"answer"))
    assert broker.take(b"client") == [[b"MDPC02", b"\x03", b"echo", b"answer"]]


# MDP/0.2 as the majortomo package writes it


def test_majortomo_commands_of_a_client_and_to_it():
    """The majortomo package, MDP/Client: "empty frame, MDPC02, REQUEST 0x02, PARTIAL 0x03, FINAL 0x04" """
    broker = ManualBroker()
    broker.ready(Majortomo, b"worker")
    broker.feed(b"client", [b"", b"MDPC02", b"\x02", b"echo", b"one", b"", b"\x00three"])
    address, body = broker.assignment(Majortomo, b"worker")
    assert body == [b"one", b"", b"\x00three"]
    broker.feed(b"worker", Majortomo.partial(address, b"eins", b""))
    broker.feed(b"worker", Majortomo.final(address, b"zwei", b""))
    assert broker.take(b"client") == [
        [b"", b"MDPC02", b"\x03", b"eins", b""],
        [b"", b"MDPC02", b"\x04", b"zwei", b""],
    ]


@pytest.mark.parametrize("code", [b"\x03", b"\x04"])
def test_majortomo_client_with_another_code_is_dropped(code):
    """The majortomo package, MDP/Client: "empty frame, MDPC02, REQUEST 0x02, PARTIAL 0x03, FINAL 0x04" """
    broker = ManualBroker()
    broker.ready(Majortomo, b"worker")
    broker.feed(b"client", [b"", b"MDPC02", code, b"echo", b"body"])
    assert broker.core.counters.drops == {"malformed": 1}
    assert broker.log == []


def test_majortomo_commands_of_a_worker_and_to_it():
    """The majortomo package, MDP/Worker: "an empty frame, then as in RFC 18" """
    broker = ManualBroker()
    broker.feed(b"worker", [b"", b"MDPW02", b"\x01", b"echo"])
    broker.advance(INTERVAL)
    broker.ask(MDP02, b"client", b"one", b"", b"\x00three")
    heartbeat, request = broker.take(b"worker")
    address = request[3]
    assert heartbeat == [b"", b"MDPW02", b"\x05"]
    assert request == [b"", b"MDPW02", b"\x02", address, b"", b"one", b"", b"\x00three"]
    broker.feed(b"worker", [b"", b"MDPW02", b"\x03", address, b"", b"eins"])
    broker.feed(b"worker", [b"", b"MDPW02", b"\x04", address, b"", b"zwei"])
    assert broker.take(b"client") == [MDP02.client_partial(b"echo", b"eins"), MDP02.client_final(b"echo", b"zwei")]
    broker.advance(EXPIRY - 0.1)
    broker.feed(b"worker", [b"", b"MDPW02", b"\x05"])
    broker.advance(EXPIRY - 0.1)
    assert len(broker.workers) == 1
    broker.take(b"worker")
    broker.core.finish(broker.now)
    broker.collect()
    assert broker.take(b"worker") == [[b"", b"MDPW02", b"\x06"]]
    broker.ready(Majortomo, b"worker")
    broker.feed(b"worker", [b"", b"MDPW02", b"\x06"])
    assert broker.workers == {}


def test_majortomo_bodies_of_no_frames_are_one_empty_frame():
    """The majortomo package, MDP/Client: "bodies of no frames" """
    broker = ManualBroker()
    broker.ready(Majortomo, b"worker")
    broker.feed(b"client", [b"", b"MDPC02", b"\x02", b"echo"])
    address, body = broker.assignment(Majortomo, b"worker")
    assert body == [b""]
    broker.feed(b"worker", [b"", b"MDPW02", b"\x04", address, b""])
    assert broker.take(b"client") == [[b"", b"MDPC02", b"\x04", b""]]


def test_majortomo_answers_as_its_client_and_worker_read_them():
    """The majortomo package, MDP/Client: "empty frame, MDPC02, REQUEST 0x02, PARTIAL 0x03, FINAL 0x04"
    The majortomo package, MDP/Worker: "an empty frame, then as in RFC 18"
    """
    caller = ManualClient(Majortomo)
    call, connection, frames = caller.call(b"echo", b"one", b"two")
    assert frames == [b"", b"MDPC02", b"\x02", b"echo", b"one", b"two"]
    caller.feed(connection, [b"", b"MDPC02", b"\x03", b"eins"])
    caller.feed(connection, [b"", b"MDPC02", b"\x04", b"zwei", b"drei"])
    assert caller.events() == [Part(call, [b"eins"], False), Part(call, [b"zwei", b"drei"], True)]
    session = ManualWorker(Majortomo)
    session.register()
    session.feed([b"", b"MDPW02", b"\x02", b"client", b"", b"one", b"two"])
    (work,) = session.take()
    assert (work.address, work.body) == (b"client", [b"one", b"two"])
    session.partial(work, b"eins")
    session.final(work, b"zwei")
    assert session.sent() == [
        [b"", b"MDPW02", b"\x03", b"client", b"", b"eins"],
        [b"", b"MDPW02", b"\x04", b"client", b"", b"zwei"],
    ]
