"""Warnings about strict peers, in virtual time."""

from brokers import GmdpBroker
from cores import MDP01, MDP02, START, ManualBroker

from gmdp.core.broker import complaints
from gmdp.core.broker.complaints import MAX_PER_KIND, MAX_REMEMBERED, QUIET, Complaint, Complaints


def texts(broker):
    return [complaint.text for complaint in broker.core.take_refusals()]


def test_F2_one_warning_for_each_kind_and_peer_and_the_next_says_what_was_left_out():
    sink = []
    noted = Complaints(sink)
    for _ in range(5):
        noted.complain("malformed", b"a", "", START, lambda: "text")
    noted.complain("malformed", b"b", "", START + 1, lambda: "other")
    noted.complain("too_large", b"a", "ann", START + 1, lambda: "third")
    assert sink == [
        Complaint("malformed", "text", "", 0, 0),
        Complaint("malformed", "other", "", 0, 0),
        Complaint("too_large", "third", "ann", 0, 0),
    ]
    sink.clear()
    noted.complain("malformed", b"a", "", START + QUIET, lambda: "again")
    assert sink == [Complaint("malformed", "again", "", 4, 0)]


def test_F2_many_peers_cause_few_warnings_and_the_table_is_bounded():
    sink = []
    noted = Complaints(sink)
    for number in range(5 * MAX_REMEMBERED):
        noted.complain("malformed", b"%d" % number, "", START, lambda: "text")
    assert len(sink) == MAX_PER_KIND
    for minute in range(1, 200):
        for number in range(MAX_PER_KIND):
            noted.complain("malformed", b"%d %d" % (minute, number), "", START + minute * QUIET, lambda: "text")
    assert len(noted._peers) <= MAX_REMEMBERED
    assert len(sink) <= complaints.MAX_REMEMBERED
    assert sink[MAX_PER_KIND].other_peers == 5 * MAX_REMEMBERED - MAX_PER_KIND


def test_F2_what_a_strict_client_cannot_hear_is_told_with_the_option():
    broker = ManualBroker(max_queue=2, max_services=1, max_queue_bytes=9_000, request_ttl=30)
    for number in range(3):
        broker.ask(MDP01, b"client", b"%d" % number)
    broker.ask(MDP02, b"second", b"x" * 9_000)
    broker.ask(MDP02, b"second", b"x", service=b"other")
    assert texts(broker) == [
        "a request of MDP/0.1 for 'echo' ended without an answer: max_queue=2 requests waited for the service",
        "a request of MDP/0.2 for 'echo' was dropped: the client held as many bytes as max_queue_bytes=9000 and "
        "max_user_bytes=268435456 allow",
        "a request of MDP/0.2 for 'other' was dropped: there were max_services=1 services",
    ]
    broker.advance(31.0)
    assert texts(broker) == [
        "a request of MDP/0.1 for 'echo' ended without an answer: it was queued for request_ttl=30 s, and no worker "
        "was registered"
    ]


def test_F2_what_a_strict_worker_cannot_hear_is_told():
    broker = ManualBroker(max_workers=1)
    broker.ready(MDP01, b"w", service=b"mmi.mine")
    broker.ready(MDP01, b"v")
    broker.ready(MDP01, b"u")
    assert texts(broker) == [
        "a worker of MDP/0.1 for 'mmi.mine' was refused: services that begin with mmi. are the broker's own",
        "a worker of MDP/0.1 for 'echo' was refused: there were max_workers=1 workers",
    ]
    broker.ask(MDP01, b"client", b"x")
    broker.assignment(MDP01, b"v")
    broker.feed(b"v", MDP01.final(b"another address", b"x"))
    (text,) = texts(broker)
    assert "its client address is not that of the worker's request, which must come back unchanged" in text


def test_a_full_table_is_told_once_for_all_peers():
    """A worker with a million sessions has thousands of connections; strict clients have one each."""
    broker = ManualBroker(max_workers=1, max_services=1)
    for number in range(5):
        broker.ready(MDP01, b"w%d" % number)
        broker.ask(MDP01, b"client %d" % number, b"x", service=b"another")
    refused = [
        "a worker of MDP/0.1 for 'echo' was refused: there were max_workers=1 workers",
        "a request of MDP/0.1 for 'another' was dropped: there were max_services=1 services",
    ]
    given = broker.core.take_refusals()
    assert sorted(one.text for one in given) == sorted(refused)
    assert {(one.same_peer, one.other_peers) for one in given} == {(0, 0)}
    broker.advance(QUIET)
    broker.ready(MDP01, b"w8", b"w9")  # the first worker is lost
    (again,) = broker.core.take_refusals()
    assert (again.text, again.same_peer, again.other_peers) == (refused[0], 0, 3)


def test_F2_a_gmdp_client_is_told_and_causes_no_warning():
    broker = GmdpBroker(max_queue=1, max_in_flight=2)
    for number in range(5):
        broker.call(b"client", number)
    broker.advance(40.0)
    assert texts(broker) == []
    assert broker.core.counters.ended == {"overloaded": 4, "expired": 1}


def test_F2_no_routing_id_is_shown():
    broker = ManualBroker()
    broker.feed(b"secret routing id", [b"MDPC01", b"echo", b"x"])
    (complaint,) = broker.core.take_refusals()
    assert "secret" not in repr(complaint)
    assert complaint.text.startswith("a message was dropped: the empty frame before 'MDPC01' is missing")
