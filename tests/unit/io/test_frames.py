"""Whole messages, and large frames that are not copied: whatever reads such a frame gets bytes."""

import itertools

import peers
import pytest
import zmq
import zmq.green
from cores import MDP01, MDP02, Majortomo, ManualBroker
from waiting import wait_until

from gmdp import Broker, Client, Worker
from gmdp.io.frames import LARGE, Large
from gmdp.io.owner import Owner
from gmdp.protocol import extension

BIG = bytes(range(256)) * (2 * LARGE // 256)


def test_a_large_frame_is_like_its_bytes():
    large = Large(zmq.Frame(BIG))
    assert len(large) == len(BIG)
    assert bytes(large) == BIG
    assert (large[7], large[-1], large[:5], large[3:-3]) == (BIG[7], BIG[-1], BIG[:5], BIG[3:-3])
    assert large == large
    assert large not in (Large(BIG), BIG)
    assert {large: 1}.get(BIG) is None


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, 1_000_000])
@pytest.mark.parametrize("kept", [True, False])
def test_large_frames_are_not_copied_where_a_link_asks_for_it(size, kept):
    owner = Owner(None, "none")
    context = zmq.green.Context.instance()
    with context.socket(zmq.DEALER) as peer:
        link = owner.add_link(context.socket(zmq.ROUTER), 100)
        if kept:
            link.large = LARGE
        peer.connect(link.listen("tcp://127.0.0.1:*"))
        body = BIG[:1] * size
        peer.send_multipart([b"small", body, b"small", body])
        wait_until(lambda: link.events() & zmq.POLLIN)
        frames = link.receive()
        large = kept and size >= LARGE
        assert [isinstance(frame, Large) for frame in frames] == [False, False, large, False, large]
        assert link.send([frames[0], frames[2], b"x", frames[2]]) is None
        assert link.send([frames[0], frames[2], b"x"]) is None  # a frame may be sent again
        assert peer.recv_multipart() == [body, b"x", body]
        assert peer.recv_multipart() == [body, b"x"]
        link.close()


@pytest.fixture
def pair():
    """A ROUTER's link, and a DEALER that is connected to it; either holds few messages."""
    context = zmq.green.Context.instance()
    link = Owner(None, "none").add_link(context.socket(zmq.ROUTER), 3)
    link.socket.set(zmq.SNDHWM, 10)
    with context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.LINGER, 0)
        dealer.set(zmq.RCVHWM, 10)
        dealer.connect(link.listen("tcp://127.0.0.1:*"))
        yield link, dealer
    link.close()


def received(link):
    """The next message, with what ZeroMQ calls its sender left out."""
    return wait_until(link.receive)[1:]


def test_of_a_message_with_too_many_frames_one_more_is_kept_than_allowed(pair):
    link, dealer = pair
    for count in (1, 2, 3, 10):
        dealer.send_multipart([b"%d" % number for number in range(count)])
        # With the routing id: three are allowed, four show that there were more.
        assert received(link) == [b"%d" % number for number in range(min(count, 3))]
    dealer.send(b"next")
    assert received(link) == [b"next"]
    assert link.receive() is None


def test_sending_says_why_it_failed_and_leaves_the_frames_as_they_were(pair):
    link, dealer = pair
    link.socket.set(zmq.ROUTER_MANDATORY, 1)
    frames = [b"nobody", b"a", b"b"]
    assert link.send(frames) == "gone"
    assert frames == [b"nobody", b"a", b"b"]
    dealer.send(b"x")
    routing_id = wait_until(link.receive)[0]
    frames = [routing_id, bytes(100_000)]
    wait_until(lambda: link.send(frames) == "full", timeout=60)
    assert frames == [routing_id, bytes(100_000)]
    assert link.blocked


def test_a_message_to_a_router_has_a_descriptor_and_an_address(pair):
    link, dealer = pair
    assert (link.user_id, link.address, link.descriptor) == ("", "", -1)
    dealer.send(b"y")
    received(link)
    assert (link.user_id, link.address) == ("", "127.0.0.1")
    assert link.descriptor > 0


def shapes():
    """Messages of each kind that clients and workers send, by the RFCs and in the extension."""
    call = extension.call_frame(bytes(24))
    session = extension.session_frame(1)
    for mdp in (MDP01, MDP02, Majortomo):
        yield mdp.client_request(b"echo", b"body", b"more")
        yield mdp.client_request(b"mmi.service", b"echo")
        yield mdp.ready(b"echo")
        yield mdp.final(b"address", b"body")
        yield mdp.heartbeat
    for head in (b"MDPC01", b"MDPC02"):
        yield [call, b"", head, *([b"\x01"] if head == b"MDPC02" else []), b"echo", b"body"]
        yield [b"hop", call, b"", head, *([b"\x01"] if head == b"MDPC02" else []), b"mmi.gmdp", b""]
    yield [session, b"", b"MDPW02", b"\x04", b"address", b"", b"body"]
    yield [b"hop", session, b"", b"MDPW02", b"\x01", b"echo"]


@pytest.mark.parametrize("shape", list(shapes()))
def test_B4_a_large_frame_in_any_place_is_no_harm(shape):
    """B4: a large frame as header, address, service, command or token, alone and in pairs."""
    places = [*itertools.combinations(range(1, len(shape)), 1), *itertools.combinations(range(1, len(shape)), 2)]
    for at in places:
        broker, plain = ManualBroker(), ManualBroker()
        for one in (broker, plain):
            one.ready(MDP02, b"W")
            one.take(b"W")
        broker.feed(b"peer", [Large(BIG) if place in at else frame for place, frame in enumerate(shape)])
        plain.feed(b"peer", [BIG if place in at else frame for place, frame in enumerate(shape)])
        now, then = broker.core.statistics(broker.now), plain.core.statistics(plain.now)
        assert (now.requests, now.drops, now.queued_bytes) == (then.requests, then.drops, then.queued_bytes)
        for peer in (b"peer", b"W"):
            messages = [[bytes(frame) for frame in message] for message in broker.take(peer)]
            assert messages == plain.take(peer)


FIELD = extension.field_bytes([(200, bytes(9_000))])
IDENTITY = extension.request_id(b"n" * 16, 1)


@pytest.mark.parametrize(
    "message",
    [
        [extension.call_frame(IDENTITY, fields=[(200, bytes(9_000))]), b"", *MDP02.client_request(b"echo", b"body")],
        [extension.session_frame(2, fields=FIELD), b"", *MDP02.ready(b"echo")],
        [extension.session_frame(1, fields=FIELD), b"", *MDP02.heartbeat],
    ],
)
def test_B4_a_large_frame_of_the_extension_is_read_as_any_other(message):
    """B4: later peers may add optional fields of any size."""
    brokers = [ManualBroker(), ManualBroker()]
    for broker, extra in zip(brokers, [Large(message[0]), message[0]], strict=True):
        broker.feed(b"peer", [b"hop", extension.session_frame(1), b"", *MDP02.ready(b"other")])
        broker.feed(b"peer", [b"hop", extra, *message[1:]])
    now, then = (broker.core.statistics(broker.now) for broker in brokers)
    assert (now.requests, now.workers, now.drops) == (then.requests, then.workers, {})
    assert now.requests + now.workers == (1 if message[-1:] == MDP02.heartbeat[-1:] else 2)
    assert brokers[0].take(b"peer") == brokers[1].take(b"peer")


def test_B4_a_large_token_is_no_token():
    broker = ManualBroker()
    broker.ready(MDP02, b"W")
    broker.ask(MDP02, b"client", b"x")
    address, _ = broker.assignment(MDP02, b"W")
    # The broker compares the head of the address alone, and reads the status behind it.
    broker.feed(b"W", MDP02.final(Large(address + bytes(LARGE)), b"answer"))
    assert broker.answers(MDP02, b"client") == [[b"answer"]]
    broker.feed(b"W", MDP02.final(Large(BIG), b"answer"))
    assert broker.core.counters.drops == {"stray_reply": 1}


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_large_frames_come_through_as_they_were_sent(version):
    def parts(request):
        yield request.body
        yield [BIG, b"small"]
        return BIG

    with Broker("tcp://127.0.0.1:*") as broker, Worker(broker.endpoint, "it", parts, version=version):
        with Client(broker.endpoint, version=version) as client:
            assert client.request("it", [BIG, b"", BIG]) == [BIG, b"", BIG, BIG, b"small", BIG]
        # A strict client gets the parts joined.
        with peers.dealer(broker.endpoint) as strict:
            strict.send(b"", b"MDPC01", b"it", BIG)
            assert strict.recv() == [b"", b"MDPC01", b"it", BIG, BIG, b"small", BIG]


def test_a_dead_letter_hook_gets_bytes():
    letters = []

    def dead_letter(letter, broker):
        letters.append(letter)

    broker = Broker("tcp://127.0.0.1:*", attempts=1, dead_letter=dead_letter)
    with broker, peers.dealer(broker.endpoint) as worker, peers.dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"it")
        client.send(b"MDPC02", b"\x01", b"it", BIG, b"small")
        assert worker.recv()[-2:] == [BIG, b"small"]
        worker.send(b"MDPW02", b"\x06")
        wait_until(lambda: letters)
    assert letters[0].body == [BIG, b"small"]
    assert {type(frame) for frame in letters[0].body} == {bytes}
