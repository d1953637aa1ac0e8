"""What clients are told."""

from brokers import GmdpBroker, SecuredBroker, counters
from cores import MDP01, MDP02, ManualBroker

from gmdp.core.broker.access import Rules
from gmdp.protocol import extension
from gmdp.protocol.extension import Status


def test_parts_that_wait_to_be_joined_are_bounded():
    broker = ManualBroker(max_queue_bytes=3_000)
    broker.ready(MDP02, b"W1")
    broker.ask(MDP01, b"client", b"x")
    address, _ = broker.assignment(MDP02, b"W1")
    for _ in range(20):
        broker.feed(b"W1", MDP02.partial(address, b"y" * 150))
    assert broker.core.held_bytes == 0  # what is not wanted any more is not kept
    broker.feed(b"W1", MDP02.final(address, b"end"))
    assert broker.take(b"client") == []  # not with a hole in it
    assert counters(broker).drops == {"reply_too_large": 1, "abandoned": 17}
    assert broker.core.held_bytes == 0
    broker.ask(MDP01, b"client", b"next")
    assert broker.assignment(MDP02, b"W1")[1] == [b"next"]


def test_a_gmdp_client_of_01_hears_that_the_parts_of_its_answer_are_too_large():
    """At once, and not only by its own timeout; the rest of the answer is dropped, the worker goes on."""
    broker = GmdpBroker(max_queue_bytes=3_000)
    broker.ready(MDP02, b"w")
    identity = extension.request_id(b"c".ljust(16, b"."), 1)
    broker.feed(b"c", [extension.call_frame(identity), b"", b"MDPC01", b"echo", b"x"])
    address, _ = broker.assignment(MDP02, b"w")
    for _ in range(3):
        broker.feed(b"w", MDP02.partial(address, b"x" * 300))
    ((frame, *rest),) = broker.take(b"c")
    assert (extension.read_call(frame).status, rest) == (Status.TOO_LARGE, [b"", b"MDPC01", b"echo", b""])
    broker.feed(b"w", MDP02.final(address, b"rest"))
    assert broker.take(b"c") == []
    broker.ask(MDP02, b"d", b"next")
    assert broker.assignment(MDP02, b"w")[1] == [b"next"]


def test_S8_no_answer_goes_to_another_user_under_a_clients_routing_id():
    """Queued, assigned, decided but not sent, waiting for a slow reader: all are void."""
    broker = SecuredBroker(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    for number in range(3):
        broker.ask(b"c", "client", b"%d" % number)
    broker.ready(b"w", "worker")
    ((*_, token, _, _),) = broker.take(b"w")
    # Decided, but not sent when the other one's message is read.
    broker.core.feed([b"w", *MDP02.final(token, b"answer 0")], broker.now, "worker")
    assert [outgoing.frames[0] for outgoing in broker.core._state.outbox] == [b"c", b"w"]
    broker.feed(b"c", MDP02.client_request(b"other", b"x"), "thief")
    assert broker.take(b"c") == []
    ((*_, token, _, body),) = broker.take(b"w")
    assert body == b"1"
    broker.feed(b"w", MDP02.final(token, b"answer 1"), "worker")
    assert (broker.take(b"c"), broker.take(b"w")) == ([], [])
    counters = broker.core.counters
    assert counters.drops == {"other_user": 1, "abandoned": 1}
    assert counters.ended == {"client_gone": 1}
    assert broker.core.held_bytes == 1001
    broker.advance(40.0)
    assert (broker.core.held_bytes, broker.core._accounts.clients, broker.core._accounts.users) == (0, {}, {})
