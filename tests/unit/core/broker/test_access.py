"""Who may do what, in virtual time: policies, rates, users and their routing ids, revoked users."""

import pytest
from cores import MDP01, MDP02, ManualBroker

from gmdp.core import rates
from gmdp.core.broker import access
from gmdp.core.broker.access import CALL, INSPECT, REVOKED, SERVE, Access, Rules
from gmdp.core.broker.decisions import Refusal
from gmdp.core.broker.reasons import DropReason
from gmdp.core.broker.records import Service
from gmdp.protocol import extension
from gmdp.protocol.extension import Status

KEY = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
RULES = Rules(
    [
        {"user": "worker*", "serve": ["echo", "report.*"]},
        {"user": ["client", "other"], "call": "echo", "inspect": "mmi.service"},
        {"user": "admin", "call": "*", "inspect": "*"},
    ]
)


class Secured(ManualBroker):
    """A broker core that knows its peers' users."""

    def __init__(self, policy=RULES, rate=1000.0, **options):
        super().__init__(access=Access(policy, rate), **options)

    def ready(self, peer, user, service=b"echo", mdp=MDP02):
        self.feed(peer, mdp.ready(service), user)

    def ask(self, peer, user, *body, service=b"echo", mdp=MDP02):
        self.feed(peer, mdp.client_request(service, *(body or [b"x"])), user)

    def call(self, peer, user, number=1, service=b"echo", **frame):
        """The same from a gmdp client."""
        identity = extension.request_id(peer.ljust(16, b"."), number)
        call = extension.call_frame(identity, **frame)
        self.feed(peer, [call, b"", b"MDPC02", b"\x01", service, b"x"], user)

    def statuses(self, peer):
        """What a gmdp client was told."""
        return [Status(extension.read_call(frames[0]).status) for frames in self.take(peer)]

    def refused(self):
        """What is to be told of refusals, since the last time."""
        return self.core.take_refusals()

    @property
    def drops(self):
        return self.core.counters.drops


# Rules


def test_rules_allow_what_they_name_and_nothing_else():
    assert RULES("worker1", SERVE, b"report.daily")
    assert not RULES("worker1", SERVE, b"other")
    assert not RULES("worker1", CALL, b"echo")
    assert RULES("other", CALL, b"echo")
    assert not RULES("other", CALL, b"echo2")
    assert not RULES("nobody", CALL, b"echo")
    assert not RULES("", CALL, b"echo")
    assert RULES("client", INSPECT, b"mmi.service")
    assert not RULES("client", INSPECT, b"mmi.workers")
    assert RULES("admin", CALL, b"\xff\x00")
    assert not Rules([])("anybody", CALL, b"echo")


def test_a_key_as_a_user_is_no_pattern():
    """Z85 has the characters that patterns use: a key means itself alone."""
    rules = Rules([{"user": KEY, "call": "*"}])
    assert rules(KEY, CALL, b"echo")
    star = KEY.index("*")
    assert not rules(KEY[:star] + "+" + KEY[star + 1 :], CALL, b"echo")
    assert not rules(KEY + "x", CALL, b"echo")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("alice", "must be a list of tables"),
        ({"user": "alice"}, "must be a list of tables"),
        (5, "must be a list of tables"),
        (["alice"], r"access\[0\] must be a table"),
        ([{"user": "a", "call": "*"}, {"call": "*"}], r"access\[1\].user must be a pattern"),
        ([{"user": [], "call": "*"}], "user must be a pattern"),
        ([{"user": "a"}], "allows nothing"),
        ([{"user": "a", "calls": "*"}], "unknown 'calls'; known are: user, serve, call, inspect"),
        ([{"user": "a", "call": 5}], "call must be a pattern"),
        ([{"user": "a", "call": ["*", b"x"]}], "call must be a pattern"),
    ],
)
def test_wrong_rules_are_told(tables, message):
    with pytest.raises(ValueError, match=message):
        Rules(tables)


def test_a_policy_is_asked_once_for_each_user_action_and_service():
    asked = []

    def policy(user, action, service):
        asked.append((user, action, service))
        return service == b"echo"

    rights = Access(policy, 1.0)
    for _ in range(3):
        assert rights.allows("alice", CALL, b"echo")
        assert not rights.allows("alice", CALL, b"other")
        assert rights.allows("alice", SERVE, b"echo")
        assert not rights.allows(REVOKED, CALL, b"echo")
    assert asked == [("alice", CALL, b"echo"), ("alice", CALL, b"other"), ("alice", SERVE, b"echo")]
    rights.forget()
    assert rights.allows("alice", CALL, b"echo")
    assert len(asked) == 4


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(access, "MAX_REMEMBERED", 10)
    monkeypatch.setattr(rates, "MAX_REMEMBERED", 10)
    rights = Access(None, 1.0)
    for number in range(100):
        assert rights.allows("alice", CALL, b"%d" % number)
        assert rights.take_turn(f"user{number}", 0.0)
        assert len(rights._answers) <= 10
        assert len(rights._rates._full_at) <= 10


def test_a_policy_that_does_not_know_is_asked_again():
    """What failed once is no answer for ever."""
    answers = [None, None, True]
    rights = Access(lambda *_: answers.pop(0), 1.0)
    assert [rights.allows("alice", CALL, b"echo") for _ in range(4)] == [False, False, True, True]


def test_a_user_without_rights_does_not_get_the_policy_asked_without_end():
    """What is not allowed takes from the rate, too, for calls and for registrations."""
    asked = []
    broker = Secured(lambda *what: bool(asked.append(what)), rate=10.0)
    for number in range(50):
        broker.call(b"c", "eve", number, service=b"s%d" % number)
        broker.ready(b"w", "eve", service=b"s%d" % number)
    assert len(asked) == 10
    assert broker.drops == {"not_allowed": 10, "rate_full": 90}


# What a user may do (S3)


@pytest.mark.parametrize("mdp", [MDP01, MDP02])
def test_S3_who_may_not_serve_is_told_disconnect(mdp):
    broker = Secured()
    broker.ready(b"w", "client", mdp=mdp)
    assert broker.take(b"w") == [mdp.disconnect]
    assert broker.refused() == [Refusal(SERVE, "client", b"echo", DropReason.NOT_ALLOWED)]
    assert (broker.drops, broker.workers) == ({"not_allowed": 1}, {})
    broker.ready(b"w", "worker1", service=b"echo", mdp=mdp)
    assert list(broker.workers) == [b"w"]
    assert broker.refused() == []


def test_S3_a_session_that_may_not_serve_is_told_and_the_connection_stands():
    broker = Secured(Rules([{"user": "w", "serve": "echo"}]))
    first, second = extension.session_frame(1), extension.session_frame(2)
    broker.feed(b"w", [first, b"", b"MDPW02", b"\x01", b"echo"], "w")
    broker.feed(b"w", [second, b"", b"MDPW02", b"\x01", b"other"], "w")
    assert broker.take(b"w") == [[second, b"", b"MDPW02", b"\x06"]]
    assert list(broker.workers) == [(b"w", first)]


def test_S3_who_may_not_call_is_told_if_he_understands_and_dropped_if_not():
    broker = Secured()
    broker.ready(b"w", "worker1")
    broker.call(b"c", "stranger")
    assert broker.statuses(b"c") == [Status.NOT_ALLOWED]
    broker.ask(b"d", "stranger")
    assert broker.take(b"d") == []
    broker.call(b"c", "client")
    assert len(broker.take(b"w")) == 1
    assert broker.refused() == [Refusal(CALL, "stranger", b"echo", DropReason.NOT_ALLOWED)] * 2
    assert broker.drops == {"not_allowed": 2}
    assert list(broker.core.services) == [b"echo"]


def test_S3_who_may_not_inspect_is_told_403():
    """The probe is open to all: else gmdp peers could not be told what is not allowed."""
    broker = Secured()
    broker.ask(b"c", "client", b"echo", service=b"mmi.service")
    broker.ask(b"c", "client", service=b"mmi.workers")
    broker.ask(b"c", "client", service=b"mmi.gmdp")
    assert [frames[3] for frames in broker.take(b"c")] == [b"404", b"403", b"200"]
    broker.call(b"c", "client", service=b"mmi.workers")
    assert broker.statuses(b"c") == [Status.NOT_ALLOWED]
    broker.ask(b"a", "admin", service=b"mmi.workers")
    broker.ask(b"a", "admin", service=b"mmi.unknown")
    assert [frames[3] for frames in broker.take(b"a")] == [b"200", b"501"]


def test_without_a_policy_everybody_may_everything_but_who_is_revoked():
    broker = Secured(policy=None)
    broker.ready(b"w", "anybody")
    broker.ask(b"c", "else")
    assert len(broker.take(b"w")) == 1
    broker.ready(b"v", REVOKED)
    assert broker.take(b"v") == [MDP02.disconnect]
    broker.call(b"d", REVOKED)
    assert broker.statuses(b"d") == [Status.NOT_ALLOWED]
    assert {refusal.reason for refusal in broker.refused()} == {DropReason.REVOKED}


# Limits of a user


def test_a_users_requests_are_limited_to_a_rate():
    """A bucket of a second's worth; others are not touched; time refills it."""
    broker = Secured(policy=None, rate=10.0)
    for number in range(15):
        broker.call(b"c", "greedy", number)
    assert broker.statuses(b"c") == [Status.OVERLOADED] * 5
    assert broker.drops == {"rate_full": 5}
    assert broker.refused()[0] == Refusal(CALL, "greedy", b"echo", DropReason.RATE_FULL)
    broker.call(b"d", "modest")
    assert broker.statuses(b"d") == []
    broker.advance(0.5)
    for number in range(20, 30):
        broker.call(b"e", "greedy", number)
    assert len(broker.statuses(b"e")) == 5


def test_the_requests_of_nobody_in_particular_have_no_rate():
    broker = Secured(policy=None, rate=1.0)
    for number in range(50):
        broker.call(b"c", "", number)
    assert broker.statuses(b"c") == []


def test_a_user_may_open_so_many_services():
    """What others opened he may use; what is forgotten again is not counted."""
    broker = Secured(policy=None, max_user_services=2, request_ttl=5.0)
    broker.ready(b"w", "one", service=b"a")
    broker.call(b"c", "one", service=b"b")
    broker.call(b"c", "one", 2, service=b"c")
    assert broker.statuses(b"c") == [Status.OVERLOADED]
    broker.ready(b"v", "one", service=b"d")
    assert broker.take(b"v") == [MDP02.disconnect]
    assert broker.drops == {"user_services_full": 2}
    assert [refusal.reason for refusal in broker.refused()] == [DropReason.USER_SERVICES_FULL] * 2
    broker.ready(b"x", "two", service=b"c")
    broker.call(b"c", "one", 3, service=b"c")
    assert len(broker.take(b"x")) == 1
    broker.advance(6.0)
    assert set(broker.core.services) == {b"a", b"c"}
    broker.call(b"c", "one", 4, service=b"e")
    assert b"e" in broker.core.services


def test_a_user_may_have_so_many_bytes_queued_over_all_its_connections():
    broker = Secured(policy=None, max_user_bytes=100, max_queue_bytes=10_000)
    broker.ask(b"c", "one", b"x" * 60)
    broker.ask(b"d", "one", b"x" * 60)
    broker.ask(b"e", "two", b"x" * 60)
    assert (broker.core.queued, broker.core.held_bytes) == (2, 120)
    assert broker.drops == {"bytes_full": 1}


# Routing ids (S8)


def test_S8_a_worker_under_anothers_routing_id_gets_nothing_of_it():
    """What the one before held is delivered again elsewhere; the newcomer is a stranger."""
    broker = Secured()
    broker.ready(b"w", "worker1")
    broker.ask(b"c", "client", b"secret")
    ((*_, token, _, _),) = broker.take(b"w")
    broker.feed(b"w", MDP02.final(token, b"forged"), "worker2")
    assert broker.take(b"w") == [MDP02.disconnect]
    assert broker.take(b"c") == []
    assert broker.core.counters.lost_workers == {"other_user": 1}
    broker.ready(b"v", "worker1")
    assert broker.take(b"v")[0][-1] == b"secret"


@pytest.mark.parametrize("said", [MDP02.heartbeat, MDP02.client_request(b"echo", b"x"), [b"junk"], [b"a", b"b", b"c"]])
def test_S8_any_message_of_another_user_voids_what_there_was(said):
    """Also one that a worker could not send, or nobody."""
    broker = Secured(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    broker.ready(b"x", "one")
    broker.feed(b"x", said, "two")
    assert broker.workers == {}
    broker.ask(b"c", "three", b"secret")
    assert not any(b"secret" in frames for frames in broker.take(b"x"))


def test_S8_a_newcomer_is_not_taken_for_one_that_was_told_before():
    """It hears DISCONNECT as any stranger does, though the one before under its routing id has heard it."""
    broker = Secured()
    for user in ("one", "two"):
        for _ in range(2):
            broker.feed(b"x", MDP02.heartbeat, user)
        assert broker.take(b"x") == [MDP02.disconnect]


def test_S8_behind_a_proxy_too():
    broker = Secured(Rules([{"user": "*", "serve": "*"}]))
    broker.feed(b"proxy", [b"stack", *MDP01.ready(b"echo")], "one")
    assert len(broker.workers) == 1
    broker.feed(b"proxy", MDP02.heartbeat, "two")
    assert broker.workers == {}


def test_S8_no_answer_goes_to_another_user_under_a_clients_routing_id():
    """Queued, assigned, decided but not sent, waiting for a slow reader: all are void."""
    broker = Secured(Rules([{"user": "*", "serve": "*", "call": "*"}]))
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
    assert broker.core.held_bytes == 1
    broker.advance(40.0)
    assert (broker.core.held_bytes, broker.core._accounts.clients, broker.core._accounts.users) == (0, {}, {})


def test_S8_a_backlog_is_not_read_by_another_user():
    broker = Secured(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    broker.ready(b"w", "worker")
    broker.ask(b"c", "client", b"x")
    ((*_, token, _, _),) = broker.take(b"w")
    broker.core.feed([b"w", *MDP02.final(token, b"answer")], broker.now, "worker")
    (outgoing,) = broker.decided()
    broker.core.send_failed(outgoing, True, broker.now)
    assert broker.core.statistics(broker.now).backlogs == 1
    broker.feed(b"c", MDP02.client_request(b"mmi.gmdp", b""), "thief")
    assert [frames[2] for frames in broker.take(b"c")] == [b"mmi.gmdp"]
    assert (broker.core.statistics(broker.now).backlogs, broker.core.held_bytes) == (0, 0)
    broker.advance(1.0)
    assert broker.take(b"c") == []


def test_S8_the_same_user_goes_on_under_its_routing_id():
    broker = Secured()
    broker.ready(b"w", "worker1")
    broker.ask(b"c", "client", b"x")
    ((*_, token, _, _),) = broker.take(b"w")
    broker.feed(b"w", MDP02.final(token, b"answer"), "worker1")
    assert broker.answers(MDP02, b"c") == [[b"answer"]]


def test_who_spoke_under_which_routing_id_is_remembered_as_long_as_it_matters(monkeypatch):
    """A million connections leave nothing; whoever holds something is not forgotten."""
    monkeypatch.setattr("gmdp.core.broker.core.SWEEP_AT", 100)
    broker = Secured(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    broker.core._sweep_at = 100
    broker.ready(b"w", "worker")
    broker.ask(b"c", "client", b"x", service=b"nobody serves this")
    for number in range(5_000):
        broker.feed(b"%d" % number, MDP02.client_request(b"mmi.gmdp", b""), "passing")
        assert len(broker.core._state.users) <= 205
    broker.feed(b"w", MDP02.heartbeat, "thief")
    broker.feed(b"c", MDP02.heartbeat, "thief")
    assert broker.workers == {}
    assert broker.core._accounts.clients == {}


def test_C9_a_retry_joins_its_own_users_request_only():
    """Whoever guesses a request id gets no answer of another user's."""
    broker = Secured(Rules([{"user": "*", "serve": "*", "call": "*"}]))
    broker.ready(b"w", "worker")
    broker.call(b"c", "client", 1)
    frames = broker.take(b"w")[0]
    identity = extension.request_id(b"c".ljust(16, b"."), 1)
    for flags in (0, extension.CANCEL):
        call = extension.call_frame(identity, flags=flags, attempt=2)
        broker.feed(b"t", [call, b"", b"MDPC02", b"\x01", b"echo", b"x"], "thief")
    broker.feed(b"w", MDP02.final(frames[2], b"answer"), "worker")
    assert broker.statuses(b"c") == [Status.OK]
    assert broker.take(b"t") == []


# Rights that change (S6)


def test_S6_what_a_revoked_user_has_open_is_ended():
    """DISCONNECT to its workers, not allowed to its calls, queued or running; nobody else notices."""
    broker = Secured(policy=None)
    broker.ready(b"w", "leaver")
    broker.ready(b"v", "stayer", service=b"other")
    broker.call(b"c", "client", 1)
    broker.call(b"d", "leaver", 1, service=b"other")
    broker.call(b"d", "leaver", 2, service=b"other")
    broker.call(b"e", "client", 2, service=b"other")
    given = broker.take(b"v")[0][2]
    broker.take(b"w")
    broker.core.reconsider(broker.now, {"leaver"})
    broker.collect()
    assert broker.take(b"w") == [MDP02.disconnect]
    assert broker.statuses(b"d") == [Status.NOT_ALLOWED] * 2
    assert broker.core.counters.lost_workers == {"revoked": 1}
    assert broker.core.counters.ended == {"not_allowed": 1}
    broker.feed(b"v", MDP02.final(given, b"nobody waits"), "stayer")
    assert broker.statuses(b"d") == []
    assert broker.take(b"v")[0][-1] == b"x"  # the client's
    broker.ready(b"u", "stayer")
    assert len(broker.take(b"u")) == 1  # what the leaver had


def test_S6_a_connection_whose_key_is_not_valid_any_more_may_nothing():
    """Its messages come under no user: the next one voids what it holds, whatever was said before."""
    broker = Secured(policy=None)
    broker.ready(b"w", "leaver")
    broker.feed(b"w", MDP02.heartbeat, REVOKED)
    assert broker.take(b"w") == [MDP02.disconnect]
    broker.ready(b"w", REVOKED)
    assert broker.take(b"w") == [MDP02.disconnect]
    assert broker.workers == {}


def test_a_policy_that_changed_its_mind_is_heard_when_it_is_reconsidered():
    allowed = {("worker", b"echo"), ("client", b"echo")}
    broker = Secured(lambda user, action, service: (user, service) in allowed)
    broker.ready(b"w", "worker")
    broker.call(b"c", "client", 1)
    broker.call(b"c", "client", 2)
    allowed.discard(("client", b"echo"))
    broker.call(b"c", "client", 3)
    assert broker.statuses(b"c") == []  # what it said once is remembered
    broker.core.reconsider(broker.now)
    broker.collect()
    assert broker.statuses(b"c") == [Status.NOT_ALLOWED] * 3
    assert len(broker.workers) == 1
    allowed.clear()
    broker.core.reconsider(broker.now)
    assert broker.workers == {}
    assert broker.core.counters.lost_workers == {"not_allowed": 1}
    assert broker.core.statistics(broker.now).ended == {"not_allowed": 3}


def test_requests_of_the_brokers_own_need_no_right():
    broker = Secured()
    assert broker.core.inject(b"echo", [b"x"], broker.now)
    broker.core.reconsider(broker.now)
    broker.ready(b"w", "worker1")
    assert len(broker.take(b"w")) == 1


# Connections that end


def test_S8_whoever_takes_the_routing_id_of_one_that_left_gets_nothing_that_comes_later():
    """The broker hears that the connection is closed before it gives the worker anything more."""
    broker = Secured()
    broker.ready(b"w", "worker1")
    broker.call(b"c", "client", 1)
    broker.take(b"w")
    broker.core.gone(b"w", broker.now)
    assert broker.core.counters.lost_workers == {"unreachable": 1}
    broker.call(b"c", "client", 2)
    assert broker.take(b"w") == []
    broker.core.gone(b"c", broker.now)
    broker.ready(b"v", "worker1")
    assert broker.take(b"v") == []
    assert broker.core.counters.ended == {"client_gone": 2}
    assert (broker.core.held_bytes, broker.core._state.users) == (0, {b"v": "worker1"})


def test_a_revoked_users_backlog_is_dropped():
    broker = Secured(policy=None)
    broker.ready(b"w", "worker")
    broker.call(b"c", "leaver", 1)
    token = broker.take(b"w")[0][2]
    broker.core.feed([b"w", *MDP02.final(token, b"answer")], broker.now, "worker")
    outgoing = broker.decided()[-1]
    broker.core.send_failed(outgoing, True, broker.now)
    broker.core.reconsider(broker.now, {"leaver"})
    broker.advance(1.0)
    assert broker.take(b"c") == []
    assert (broker.core.held_bytes, broker.core._accounts.clients) == (0, {})


def test_a_user_may_register_so_many_workers_and_a_connection_has_so_many_sessions():
    broker = Secured(policy=None, max_user_workers=3)
    for number in range(5):
        broker.feed(b"w", [b"stack %d" % number, b"", *MDP02.ready(b"echo")] if number else MDP02.ready(b"echo"), "one")
    assert len(broker.workers) == 3
    assert broker.drops == {"user_workers_full": 2}
    broker.ready(b"v", "two")
    assert len(broker.workers) == 4
    broker.feed(b"w", MDP02.disconnect, "one")
    broker.ready(b"x", "one")
    assert len(broker.workers) == 4


def test_a_connection_has_no_more_sessions_than_were_offered():
    broker = ManualBroker()
    most = broker.core.about.max_sessions
    for number in range(1, most + 3):
        broker.feed(b"w", [extension.session_frame(number), b"", b"MDPW02", b"\x01", b"echo"])
    assert len(broker.workers) == most
    assert broker.core.counters.drops == {"sessions_full": 2}


# Reports


def test_reports_cost_little_however_often_they_are_asked_for(monkeypatch):
    """Statistics do not look at services; a long list is made once in a while."""
    broker = ManualBroker()
    for number in range(500):
        broker.ready(MDP02, b"w%d" % number, service=b"service %d" % number)
    made = []
    original = Service.statistics

    def counting(service, now):
        made.append(service)
        return original(service, now)

    monkeypatch.setattr(Service, "statistics", counting)
    for _ in range(10):
        broker.ask(MDP02, b"c", b"", service=b"mmi.statistics")
        broker.ask(MDP02, b"c", b"", service=b"mmi.services")
    assert len(made) <= 500
    first = {message[4] for message in broker.take(b"c") if message[2] == b"mmi.services"}
    broker.advance(0.1)
    broker.ready(MDP02, b"more", service=b"another")
    broker.ask(MDP02, b"c", b"", service=b"mmi.services")
    (second,) = broker.take(b"c")
    assert len(first) == 1
    assert second[4] not in first
