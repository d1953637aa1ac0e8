"""What each client holds of the memory."""

from brokers import GmdpBroker, SecuredBroker, counters, running
from cores import MDP02, ManualBroker


def test_B6_bytes_are_bounded_too_and_a_client_may_hold_as_many_as_are_free():
    broker = ManualBroker(max_queue_bytes=1000)
    for _ in range(20):
        broker.ask(MDP02, b"client", b"x" * 100)
    assert (broker.core.held_bytes, broker.core.queued) == (500, 5)
    assert counters(broker).drops == {"bytes_full": 15}
    # Whoever comes later finds room all the same.
    for client, held in ((b"second", 800), (b"third", 900)):
        for _ in range(20):
            broker.ask(MDP02, client, b"x" * 100)
        assert broker.core.held_bytes == held
    broker.ready(MDP02, b"W1")
    address, _ = broker.assignment(MDP02, b"W1")
    assert broker.core.held_bytes == 900  # what is assigned is held, too
    broker.feed(b"W1", MDP02.final(address, b"answer"))
    assert broker.core.held_bytes == 800


def test_a_user_s_connections_share_one_account_of_bytes_and_one_turn():
    broker = GmdpBroker(max_queue_bytes=1000)
    for number in range(10):
        broker.call(b"alice %d" % number, 1, b"x" * 100, user="alice")
    assert broker.core.held_bytes == 500
    broker.call(b"bob", 1, b"x" * 100, user="bob")
    assert broker.core.held_bytes == 600
    broker.register(b"W", 1, 2)
    requests = broker.requests(b"W")
    assert len(requests) == 2
    # One of each: alice's four others wait.
    owners = {request.worker.session: request.user for request in running(broker)}
    assert sorted(owners.values()) == ["alice", "bob"]
    broker.advance(100.0)
    for number, (address, _) in requests.items():
        broker.session(b"W", number, b"\x04", address, b"", b"")
    assert not broker.core._accounts.users or broker.core.held_bytes


def test_a_user_may_have_so_many_bytes_queued_over_all_its_connections():
    broker = SecuredBroker(policy=None, max_user_bytes=100, max_queue_bytes=10_000)
    broker.ask(b"c", "one", b"x" * 60)
    broker.ask(b"d", "one", b"x" * 60)
    broker.ask(b"e", "two", b"x" * 60)
    assert (broker.core.queued, broker.core.held_bytes) == (2, 120)
    assert broker.drops == {"bytes_full": 1}
