"""What each client holds of the memory."""

import tracemalloc

import pytest
from brokers import GmdpBroker, SecuredBroker, counters, running
from cores import MDP02, START, ManualBroker

from gmdp.core.broker.accounts import Accounts
from gmdp.core.broker.options import BrokerOptions, ServiceOptions
from gmdp.core.broker.records import CallTerms, Connection, Request, Service, Worker
from gmdp.core.broker.state import BrokerState
from gmdp.core.broker.statistics import BrokerCounters
from gmdp.core.outcomes import EndReason
from gmdp.protocol import extension
from gmdp.protocol.dialects import EXTENDED, RFC18


def test_B6_bytes_are_bounded_too_and_a_client_may_hold_as_many_as_are_free():
    broker = ManualBroker(max_queue_bytes=20_000)
    for _ in range(20):
        broker.ask(MDP02, b"client", b"x" * 1000)
    assert (broker.core.held_bytes, broker.core.queued) == (10_000, 5)
    assert counters(broker).drops == {"bytes_full": 15}
    # Whoever comes later finds room all the same.
    for client, held in ((b"second", 16_000), (b"third", 18_000)):
        for _ in range(20):
            broker.ask(MDP02, client, b"x" * 1000)
        assert broker.core.held_bytes == held
    broker.ready(MDP02, b"W1")
    address, _ = broker.assignment(MDP02, b"W1")
    assert broker.core.held_bytes == 18_000  # what is assigned is held, too
    broker.feed(b"W1", MDP02.final(address, b"answer"))
    assert broker.core.held_bytes == 16_000


def test_a_user_s_connections_share_one_account_of_bytes_and_one_turn():
    broker = GmdpBroker(max_queue_bytes=20_000)
    for number in range(10):
        broker.call(b"alice %d" % number, 1, b"x" * 1000, user="alice")
    assert broker.core.held_bytes == 10_000
    broker.call(b"bob", 1, b"x" * 1000, user="bob")
    assert broker.core.held_bytes == 12_000
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
    broker = SecuredBroker(policy=None, max_user_bytes=2_000, max_queue_bytes=10_000)
    broker.ask(b"c", "one", b"x" * 60)
    broker.ask(b"d", "one", b"x" * 60)
    broker.ask(b"e", "two", b"x" * 60)
    assert (broker.core.queued, broker.core.held_bytes) == (2, 2_120)
    assert broker.drops == {"bytes_full": 1}


# The accounts themselves


def accounts_of(**options):
    state = BrokerState(BrokerOptions(**options), BrokerCounters(), START, None)
    return state, Accounts(state)


def request_of(accounts, client, body, number=None, service=None):
    service = service or Service(b"echo", ServiceOptions(), "")
    request = Request(service, (client.key,), RFC18, body, client.key, START)
    if number is not None:
        frame = extension.call_frame(extension.request_id(b"n" * 16, number))
        request.terms = CallTerms(frame, (client.user, frame[9:33]), False, b"", 1)
    return request


def test_a_client_is_known_as_long_as_it_holds_something():
    _, accounts = accounts_of()
    client = accounts.client_of(b"c", "", 0.0)
    assert accounts.client_of(b"c", "", 0.0) is client
    request = request_of(accounts, client, [b"x"])
    assert accounts.admit(request, client)
    accounts.forget_if_unused(client)
    assert accounts.clients == {b"c": client}
    accounts.release(request)
    assert accounts.clients == {}
    accounts.release(request)  # a second time changes nothing
    assert client.open == 0


def test_connections_of_a_user_share_an_account():
    state, accounts = accounts_of(max_user_bytes=2_000)
    one, two = accounts.client_of(b"1", "user", 0.0), accounts.client_of(b"2", "user", 0.0)
    first, second = request_of(accounts, one, [b"x" * 60]), request_of(accounts, two, [b"x" * 60])
    assert accounts.admit(first, one)
    assert not accounts.admit(second, two)
    assert (one.bytes, two.bytes, accounts.users["user"].bytes, state.held_bytes) == (0, 0, 1060, 1060)
    accounts.forget_if_unused(two)
    accounts.release(first)
    assert (accounts.clients, accounts.users, state.held_bytes) == ({}, {}, 0)


def test_a_client_may_hold_as_many_bytes_as_are_free():
    state, accounts = accounts_of(max_queue_bytes=10_000)
    client = accounts.client_of(b"c", "", 0.0)
    assert accounts.has_room(client, 10_000)
    accounts.charge(client, 5_000)
    assert not accounts.has_room(client, 1)
    assert accounts.has_room(client, 5_000, times=2)
    accounts.charge(client, -5_000)
    assert (client.bytes, state.held_bytes) == (0, 0)


def test_an_answer_that_moves_takes_its_bytes_along():
    state, accounts = accounts_of()
    old, new = accounts.client_of(b"old", "", 0.0), accounts.client_of(b"new", "", 0.0)
    request = request_of(accounts, old, [b"x" * 10], number=1)
    assert accounts.admit(request, old)
    assert accounts.calls == {request.terms.identity: request}
    accounts.redirect(request, (b"new",), new)
    assert (request.address, request.client, new.bytes, state.held_bytes) == ((b"new",), new, 1010, 1010)
    assert accounts.clients == {b"new": new}
    accounts.release(request)
    assert (accounts.calls, accounts.clients) == ({}, {})


@pytest.mark.parametrize("extended", [True, False])
def test_the_worker_of_an_abandoned_request_hears_so_if_it_can(extended):
    state, accounts = accounts_of()
    client = accounts.client_of(b"c", "", 0.0)
    request = request_of(accounts, client, [b"x"])
    assert accounts.admit(request, client)
    dialect = EXTENDED[RFC18] if extended else RFC18
    session = extension.session_frame(1) if extended else b""
    connection = Connection(b"w", (b"w",), dialect, RFC18, START, "")
    request.worker = Worker(connection, session, request.service, START)
    for _ in range(2):
        accounts.abandon(request, EndReason.CANCELLED, START)
    assert request.abandon_reason is EndReason.CANCELLED
    assert state.held_bytes == 0
    caller_gone = [b"w", extension.session_frame(1, extension.CALLER_GONE), b"", b"MDPW02", b"\x05"]
    assert [outgoing.frames for outgoing in state.outbox] == ([caller_gone] if extended else [])


def test_X2_a_request_counts_what_it_takes_its_constant_its_envelope_its_body():
    broker = ManualBroker(max_queue_bytes=1_000_000)
    broker.ask(MDP02, b"client", b"")
    assert broker.core.held_bytes == 1_000
    broker.ask(MDP02, b"client", b"abc", b"")
    assert broker.core.held_bytes == 2_000 + 3 + 64
    stack = [b"s" * 255] * 8
    broker.feed(b"proxy", [*stack, b"", b"MDPC01", b"echo", b""])
    assert broker.core.held_bytes == 3_067 + 8 * (255 + 64)
    broker.advance(40.0)
    assert broker.core.held_bytes == 0


def test_X2_a_request_that_moves_to_a_longer_return_address_counts_that_one():
    broker = GmdpBroker()
    frame = extension.call_frame(extension.request_id(b"n" * 16, 1))
    question = [b"", b"MDPC02", b"\x01", b"echo", b"x"]
    broker.feed(b"c", [frame, *question])
    assert broker.core.held_bytes == 1_001
    broker.feed(b"proxy", [b"abcd", frame, *question])
    assert (broker.core.held_bytes, broker.core.queued) == (1_001 + 68, 1)
    broker.feed(b"c", [frame, *question])
    assert broker.core.held_bytes == 1_001
    broker.advance(40.0)
    assert broker.core.held_bytes == 0


@pytest.mark.parametrize("kind", ["strict", "gmdp"])
def test_X2_no_request_takes_more_memory_than_it_counts(kind):
    """20,000 requests with empty bodies on one connection, as the allocator sees them."""
    broker = GmdpBroker(max_in_flight=1_000_000)
    core = broker.core
    count = 20_000

    def flood():
        for number in range(count):
            question = [bytes(bytearray(b"MDPC02")), b"\x01", bytes(bytearray(b"echo")), b""]
            if kind == "gmdp":
                frame = extension.call_frame(extension.request_id(b"n" * 16, number), time_left=30.0)
                question = [frame, b"", *question]
            core.feed([bytes(bytearray(b"\0abcd")), *question], START + number / 1e6)

    tracemalloc.start()
    try:
        flood()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert core.queued == count
    assert taken <= core.held_bytes == 1_000 * count
