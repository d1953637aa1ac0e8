"""What the broker's core promises gmdp peers, in virtual time: delivery, deadlines, bounds, and what is told."""

import pytest
from cores import EXPIRY, INTERVAL, MDP02, START, ManualBroker

from gmdp.core.broker.access import Access, Rules
from gmdp.core.broker.backlogs import BATCH, FIRST_RETRY, LAST_RETRY
from gmdp.core.broker.decisions import DeadLetter
from gmdp.core.broker.records import Request
from gmdp.protocol import extension, token
from gmdp.protocol.extension import CANCEL, FAIL_WITHOUT_WORKER, Status


class Gmdp(ManualBroker):
    """A broker core whose peers speak the extension."""

    def call(self, peer, number, *body, service=b"echo", user="", nonce=None, **frame):
        """`peer` makes its call `number`."""
        identity = extension.request_id(nonce or peer.ljust(16, b"."), number)
        self.core.awake(self.now)
        message = [peer, extension.call_frame(identity, **frame), b"", b"MDPC02", b"\x01", service, *(body or [b"x"])]
        self.core.feed(message, self.now, user)
        self.core.caught_up(self.now)
        self.collect()

    def session(self, peer, number, code, *rest, flags=0):
        self.feed(peer, [extension.session_frame(number, flags), b"", b"MDPW02", code, *rest])

    def register(self, peer, *numbers, service=b"echo"):
        """`peer` registers sessions of these numbers."""
        for number in numbers:
            self.session(peer, number, b"\x01", service)

    def requests(self, peer):
        """What the sessions of `peer` were given: number -> (token, body); nothing else was sent to it."""
        given = {}
        for frame, _, _, code, address, _, *body in self.take(peer):
            assert code == b"\x02"
            given[extension.read_session(frame)[1]] = (address, body)
        return given

    def answered(self, peer):
        """What `peer` was told: (call's number, status, attempts, body)."""
        told = []
        for frame, _, _, _, _, *body in self.take(peer):
            call = extension.read_call(frame)
            told.append((int.from_bytes(call.id[16:], "big"), Status(call.status), call.attempt, body))
        return told

    def letters(self):
        events, self.events = self.events, []
        return [event for event in events if isinstance(event, DeadLetter)]


def failed(number, status, attempts=0):
    return number, status, attempts, [b""]


# Suspects


def test_W5_a_connection_that_is_lost_makes_suspects_and_each_has_at_most_one():
    broker = Gmdp(attempts=3)
    for number in range(3):
        broker.call(b"client", number, b"%d" % number)
    broker.register(b"first", 1, 2, 3)
    assert len(broker.requests(b"first")) == 3
    broker.feed(b"first", MDP02.disconnect)
    # Three suspects: a connection of five sessions gets one, and serves others besides.
    broker.register(b"second", 1, 2, 3, 4, 5)
    assert [body for _, body in broker.requests(b"second").values()] == [[b"0"]]
    broker.call(b"client", 7, b"fresh")
    assert [body for _, body in broker.requests(b"second").values()] == [[b"fresh"]]
    broker.register(b"third", 1, 2)
    given = broker.requests(b"third")
    assert [body for _, body in given.values()] == [[b"1"]]
    assert token.read(given[1][0]).attempt == 2
    # When a suspect is answered its connection may have the next, on whichever session is idle.
    broker.session(b"third", 1, b"\x04", given[1][0], b"", b"done")
    assert [body for _, body in broker.requests(b"third").values()] == [[b"2"]]


def test_W5_when_the_session_that_has_the_suspect_leaves_another_may_have_the_next():
    """Not only when it is answered: the connection stands, and an idle session of it waits for nothing else."""
    broker = Gmdp(attempts=9)
    for number in range(2):
        broker.call(b"client", number, b"%d" % number)
    broker.register(b"first", 1, 2)
    broker.feed(b"first", MDP02.disconnect)
    broker.take(b"first")
    broker.register(b"second", 1, 2)
    assert [(number, body) for number, (_, body) in broker.requests(b"second").items()] == [(1, [b"0"])]
    broker.session(b"second", 1, b"\x06")
    assert list(broker.requests(b"second")) == [2]


def test_W5_an_innocent_request_survives_any_number_of_poisoned_ones_on_its_connection_s_neighbours():
    """The innocent was lost once with the poison; the poison never takes it down again."""
    broker = Gmdp(attempts=3)
    broker.call(b"client", 1, b"poison")
    broker.call(b"client", 2, b"innocent")
    for number in range(3):
        peer = b"W%d" % number
        broker.register(peer, 1, 2)
        given = broker.requests(peer)
        bodies = [body for _, body in given.values()]
        assert [b"poison"] in bodies
        assert number == 0 or [b"innocent"] not in bodies
        broker.feed(peer, MDP02.disconnect)
    assert broker.answered(b"client") == [failed(1, Status.WORKER_LOST, 3)]
    assert [letter.body for letter in broker.letters()] == [[b"poison"]]
    broker.register(b"last", 1)
    assert broker.requests(b"last")[1][1] == [b"innocent"]


def test_requests_lost_together_come_back_in_their_order():
    broker = Gmdp()
    for number in range(5):
        broker.call(b"client", number, b"%d" % number)
    broker.register(b"W", *range(1, 5))
    broker.take(b"W")
    broker.feed(b"W", MDP02.disconnect)
    served = []
    for number in range(5):
        broker.register(b"V%d" % number, 1)
        served += [body[0] for _, body in broker.requests(b"V%d" % number).values()]
    assert served == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("flags", [0, extension.LAST], ids=["suspects", "never ran"])
def test_requests_given_back_one_after_the_other_go_in_the_order_in_which_they_came(flags):
    """Whoever is lost first: the client that asked for one thing before another gets it first."""
    broker = Gmdp()
    for number in range(5):
        broker.call(b"client", number, b"%d" % number)
    for peer in (b"A", b"B", b"C"):
        broker.register(peer, 1)
    for peer in (b"B", b"A", b"C"):
        broker.session(peer, 1, b"\x06", flags=flags)
    served = []
    for number in range(5):
        broker.register(b"V%d" % number, 1)
        served += [body[0] for _, body in broker.requests(b"V%d" % number).values()]
    assert served == [b"0", b"1", b"2", b"3", b"4"]


# Deadlines


def test_a_request_whose_caller_s_time_is_up_leaves_the_queue_in_silence():
    broker = Gmdp()
    broker.call(b"client", 1, time_left=2.0)
    broker.call(b"client", 2, time_left=60.0)
    broker.advance(2.0)
    assert broker.core.counters.ended == {"deadline": 1}
    assert broker.core.queued == 1
    # The other waits as long as the broker allows; its caller hears of that.
    broker.advance(28.0)
    assert broker.answered(b"client") == [failed(2, Status.EXPIRED)]
    assert broker.core.counters.ended == {"deadline": 1, "expired": 1}


def test_after_the_deadline_nothing_is_delivered_again_and_no_reply_is_sent():
    broker = Gmdp(attempts=5)
    broker.register(b"W", 1, 2)
    broker.call(b"client", 1, time_left=4.0)
    broker.call(b"client", 2, time_left=4.0)
    given = broker.requests(b"W")
    assert token.read(given[1][0]).time_left == 4.0
    broker.advance(4.1)
    broker.session(b"W", 1, b"\x04", given[1][0], b"", b"late")
    broker.feed(b"W", MDP02.disconnect)
    assert broker.answered(b"client") == []
    assert broker.core.counters.drops == {"late": 1}
    assert broker.core.counters.ended == {"deadline": 1}
    assert broker.core.held_bytes == 0


def test_a_worker_is_told_the_time_that_is_left_when_it_gets_the_request():
    broker = Gmdp()
    broker.call(b"client", 1, time_left=10.0)
    broker.advance(6.0)
    broker.register(b"W", 1)
    assert token.read(broker.requests(b"W")[1][0]).time_left == 4.0


def test_a_request_that_nobody_waits_for_any_more_when_it_comes_is_not_accepted():
    broker = Gmdp()
    broker.register(b"W", 1)
    broker.call(b"client", 1, time_left=0.0)
    assert broker.take(b"W") == []
    assert broker.core.counters.requests == 0
    assert broker.core.counters.drops == {"late": 1}


# Fail fast


def test_C1_a_request_that_is_not_to_wait_fails_at_once_without_a_worker():
    broker = Gmdp()
    broker.call(b"client", 1, flags=FAIL_WITHOUT_WORKER)
    assert broker.answered(b"client") == [failed(1, Status.NO_WORKER)]
    assert not broker.core.services
    broker.register(b"W", 1)
    for number in (2, 3):
        broker.call(b"client", number, flags=FAIL_WITHOUT_WORKER)
    # One runs, one waits: there is a worker.  When there is none any more, neither waits.
    assert broker.answered(b"client") == []
    broker.feed(b"W", MDP02.disconnect)
    assert sorted(broker.answered(b"client")) == [failed(2, Status.NO_WORKER, 1), failed(3, Status.NO_WORKER)]
    assert broker.core.counters.ended == {"no_worker": 3}
    assert not broker.core.services


# Priorities


def test_more_urgent_requests_go_first_and_strict_clients_count_as_normal():
    broker = Gmdp()
    broker.call(b"client", 0, b"background", priority=0)
    broker.ask(MDP02, b"strict", b"strict")
    broker.call(b"client", 1, b"urgent", priority=3)
    broker.call(b"client", 2, b"beyond", priority=200)
    served = []
    for number in range(4):
        broker.register(b"V%d" % number, 1)
        served += [body[0] for _, body in broker.requests(b"V%d" % number).values()]
    assert served == [b"urgent", b"beyond", b"strict", b"background"]


# Retries and cancellation


@pytest.mark.parametrize("where", ["queued", "running"])
def test_C9_a_retry_joins(where):
    broker = Gmdp()
    if where == "running":
        broker.register(b"W", 1)
    broker.call(b"before", 1, b"work", nonce=b"n" * 16, time_left=5.0)
    broker.advance(3.0)
    broker.call(b"after", 1, b"work", nonce=b"n" * 16, time_left=5.0, attempt=2)
    broker.advance(3.0)  # past the first deadline, not past the second
    if where == "queued":
        broker.register(b"W", 1)
    ((number, (address, _)),) = broker.requests(b"W").items() if where == "queued" else [(1, self_address(broker))]
    broker.session(b"W", number, b"\x04", address, b"", b"done")
    assert broker.answered(b"before") == []
    assert broker.answered(b"after") == [(1, Status.OK, 1, [b"done"])]
    assert broker.core.counters.joins == 1
    assert broker.core.counters.requests == 1


def self_address(broker):
    """The token and body of the one request that runs."""
    messages = [frames for frames in broker.take(b"W") if frames[3:4] == [b"\x02"]]
    ((_, _, _, _, address, _, *body),) = messages
    return address, body


def test_C9_nobody_joins_another_user_s_request_by_guessing_its_id():
    broker = Gmdp()
    broker.register(b"W", 1, 2)
    broker.call(b"alice's", 1, b"work", nonce=b"n" * 16, user="alice")
    broker.call(b"mallory's", 1, b"work", nonce=b"n" * 16, user="mallory")
    broker.call(b"mallory's", 1, nonce=b"n" * 16, user="mallory", flags=CANCEL)
    messages = broker.take(b"W")
    addresses = [frames[4] for frames in messages if frames[3] == b"\x02"]
    assert len(addresses) == 2
    broker.session(b"W", 1, b"\x04", addresses[0], b"", b"for alice")
    assert broker.answered(b"alice's") == [(1, Status.OK, 1, [b"for alice"])]
    assert broker.answered(b"mallory's") == []
    assert broker.core.counters.joins == 0


def test_a_retry_does_not_join_once_a_part_went_elsewhere():
    """Whoever asks now has not seen it: that answer is given up, the request runs for him from the start."""
    broker = Gmdp()
    broker.register(b"W", 1, 2)
    broker.call(b"before", 1, nonce=b"n" * 16)
    ((address, _),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.call(b"after", 1, nonce=b"n" * 16, attempt=2)
    gone, request = broker.take(b"W")
    assert gone == [extension.session_frame(1, extension.CALLER_GONE), b"", b"MDPW02", b"\x05"]
    broker.session(b"W", 1, b"\x04", address, b"", b"rest")
    broker.session(b"W", 2, b"\x04", request[4], b"", b"whole")
    assert broker.answered(b"before") == [(1, Status.PARTIAL, 1, [b"part"])]
    assert broker.answered(b"after") == [(1, Status.OK, 1, [b"whole"])]


def test_an_answer_says_which_try_was_taken_up():
    """Of a retry that joined, that which it joined; of one that came too late for it, itself."""
    broker = Gmdp()
    broker.register(b"W", 1)
    broker.call(b"client", 1)
    broker.call(b"client", 1, attempt=2)
    (address, _) = broker.requests(b"W")[1]
    broker.session(b"W", 1, b"\x04", address, b"", b"first")
    broker.call(b"client", 1, attempt=3)
    (address, _) = broker.requests(b"W")[1]
    broker.session(b"W", 1, b"\x04", address, b"", b"second")
    broker.call(b"client", 2, service=b"mmi.service", attempt=4)
    told = [(frame[6], body) for frame, _, _, _, _, *body in broker.take(b"client")]
    assert told == [(1, [b"first"]), (3, [b"second"]), (4, [b"404"])]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_comes_late_from_an_earlier_try_does_not_call_the_answer_back(streamed):
    broker = Gmdp()
    broker.call(b"after", 1, nonce=b"n" * 16, attempt=2)
    broker.register(b"W", 1)
    ((address, _),) = broker.requests(b"W").values()
    if streamed:
        broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.call(b"before", 1, nonce=b"n" * 16, attempt=1)
    broker.session(b"W", 1, b"\x04", address, b"", b"done")
    parts = [(1, Status.PARTIAL, 1, [b"part"])] if streamed else []
    assert broker.answered(b"after") == [*parts, (1, Status.OK, 1, [b"done"])]
    assert broker.core.counters.drops == {"late_retry": 1}


def test_an_id_in_use_asks_no_other_service():
    broker = Gmdp()
    broker.call(b"client", 1)
    broker.call(b"client", 1, service=b"other")
    assert broker.core.counters.drops == {"id_reused": 1}
    assert broker.core.counters.requests == 1


def test_a_cancelled_request_that_runs_frees_its_client_s_account_at_once():
    broker = Gmdp(max_in_flight=1)
    broker.register(b"W", 1)
    broker.call(b"client", 1, b"x" * 100)
    broker.call(b"client", 1, flags=CANCEL)
    assert broker.core.held_bytes == 0
    broker.call(b"client", 2)
    assert broker.core.counters.drops == {}
    # Its worker was told, and is not given another request before it answers.
    request, gone = broker.take(b"W")
    assert gone == [extension.session_frame(1, extension.CALLER_GONE), b"", b"MDPW02", b"\x05"]
    assert broker.core.queued == 1
    # If the worker is lost now, nobody wants the request any more.
    broker.feed(b"W", MDP02.disconnect)
    assert broker.core.counters.ended == {"cancelled": 1}
    assert broker.core.counters.redeliveries == 0
    assert request[-1] == b"x" * 100


# Dead letters


@pytest.mark.parametrize("reason", ["attempts", "worker_lost", "expired"])
def test_dead_letters_are_what_workers_were_lost_over(reason):
    broker = Gmdp(attempts=1 if reason == "attempts" else 3, request_ttl=5.0)
    broker.register(b"W", 1)
    broker.call(b"client", 1, b"body", b"more", user="alice")
    ((address, _),) = broker.requests(b"W").values()
    if reason == "worker_lost":
        broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.advance(1.0)
    broker.feed(b"W", MDP02.disconnect)
    broker.advance(5.0)
    age = 1.0 if reason != "expired" else 6.0
    assert broker.letters() == [DeadLetter(b"echo", [b"body", b"more"], 1, reason, age, "alice")]
    assert broker.core.counters.dead_letters == 1


def test_what_no_worker_ever_had_is_no_dead_letter():
    broker = Gmdp(request_ttl=5.0, max_queue=1)
    for number in (1, 2):
        broker.call(b"client", number)
    broker.call(b"client", 1, flags=CANCEL)
    broker.call(b"client", 3)
    broker.advance(5.0)
    assert broker.core.counters.ended == {"overloaded": 1, "cancelled": 1, "expired": 1}
    assert broker.letters() == []


def test_a_request_of_the_broker_s_own_is_worked_on_and_its_answer_goes_nowhere():
    broker = Gmdp(max_queue_bytes=1000)
    broker.register(b"W", 1)
    assert broker.core.inject(b"echo", [b"own", b"request"], broker.now)
    broker.collect()
    ((address, body),) = broker.requests(b"W").values()
    assert body == [b"own", b"request"]
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.session(b"W", 1, b"\x04", address, b"", b"end")
    assert broker.take(b"") == []
    assert broker.core.counters.replies == 1
    assert broker.core.held_bytes == 0
    assert not broker.core.inject(b"echo", [b"x" * 1001], broker.now)
    broker.core.drain()
    assert not broker.core.inject(b"echo", [b"x"], broker.now)


# Clients that do not read


class Socket:
    """What the owner does: it sends, and some peers have room for so many messages only."""

    def __init__(self, broker):
        self.broker = broker
        self.room = {}
        self.sent = []

    def flush(self):
        core, now = self.broker.core, self.broker.now
        while outbox := self.broker.decided():
            for outgoing in outbox:
                if core.backlogs.hold_back(outgoing, now):
                    continue
                peer = outgoing.frames[0]
                room = self.room.get(peer, 1)
                if room == "gone" or room == 0:
                    core.send_failed(outgoing, room == 0, now)
                    continue
                if peer in self.room:
                    self.room[peer] -= 1
                self.sent.append(outgoing.frames)

    def bodies(self, peer):
        """The last frames of what `peer` got since the last time."""
        mine = [frames[-1] for frames in self.sent if frames[0] == peer]
        self.sent = [frames for frames in self.sent if frames[0] != peer]
        return mine


class Slow(Gmdp):
    """Messages stay in the outbox until the socket is flushed."""

    def __init__(self, **options):
        super().__init__(**options)
        self.socket = Socket(self)

    def collect(self):
        self.socket.flush()

    def take(self, peer):
        mine = [frames[1:] for frames in self.socket.sent if frames[0] == peer]
        self.socket.sent = [frames for frames in self.socket.sent if frames[0] != peer]
        return mine

    def answer_all(self, worker, *bodies):
        for number, (address, body) in self.requests(worker).items():
            for part in bodies[:-1]:
                self.session(worker, number, b"\x03", address, b"", part)
            self.session(worker, number, b"\x04", address, b"", *(bodies[-1:] or body))


def test_B3_answers_wait_in_order_until_the_client_reads():
    broker = Slow()
    broker.register(b"W", *range(1, 11))
    broker.socket.room[b"slow"] = 2
    for number in range(10):
        broker.call(b"slow", number, b"%d" % number)
    broker.answer_all(b"W")
    assert broker.socket.bodies(b"slow") == [b"0", b"1"]
    now = broker.core.statistics(broker.now)
    assert (now.backlogs, now.slow_clients, now.replies) == (1, 1, 10)
    assert now.queued_bytes > 0
    # Others are served meanwhile.
    broker.call(b"other", 1, b"quick")
    broker.answer_all(b"W")
    assert broker.answered(b"other") == [(1, Status.OK, 1, [b"quick"])]
    # It is tried again after a while, then again after twice as long, and so on.
    tries = []
    broker.socket.room[b"slow"] = 0
    for _ in range(12):
        before = broker.now
        deadline = broker.core.deadline()
        broker.advance(deadline - broker.now)
        tries.append(broker.now - before)
    assert tries[0] == pytest.approx(FIRST_RETRY)
    assert max(tries) == pytest.approx(LAST_RETRY)
    broker.socket.room[b"slow"] = 4
    broker.advance(2 * LAST_RETRY)
    assert broker.socket.bodies(b"slow") == [b"2", b"3", b"4", b"5"]
    # What is decided meanwhile does not overtake.
    broker.call(b"slow", 99, b"late")
    broker.answer_all(b"W")
    del broker.socket.room[b"slow"]
    broker.advance(2 * LAST_RETRY)
    assert broker.socket.bodies(b"slow") == [b"6", b"7", b"8", b"9", b"late"]
    broker.advance(LAST_RETRY)
    now = broker.core.statistics(broker.now)
    assert (now.backlogs, now.queued_bytes) == (0, 0)
    assert not broker.core._accounts.clients


def test_B3_past_its_bytes_a_slow_client_s_calls_end_and_it_is_told_so():
    broker = Slow(max_queue_bytes=10_000)
    broker.register(b"W", *range(1, 21))
    broker.socket.room[b"slow"] = 0
    for number in range(20):
        broker.call(b"slow", number, b"?")
    broker.answer_all(b"W", b"x" * 1000)
    assert broker.core.counters.drops["client_full"] == 17
    # News of a call's end finds room for a little longer; then a caller's own timeout has to do.
    assert 10_000 * 2 / 3 < broker.core.held_bytes < 10_000 * 2 / 3 + 500
    del broker.socket.room[b"slow"]
    broker.advance(1.0)
    told = broker.answered(b"slow")
    assert [status for _, status, _, _ in told] == [Status.OK] * 3 + [Status.OVERLOADED] * 6
    assert len({number for number, *_ in told}) == 9
    assert broker.core.held_bytes == 0


def test_B3_news_for_a_slow_client_stays_within_the_bound_too():
    """It may hold more for news than for answers, but nothing that is not free."""
    broker = Slow(max_queue_bytes=1_000)
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, b"?")
    broker.ask(MDP02, b"one", b"x" * 499, service=b"nobody")
    broker.ask(MDP02, b"two", b"x" * 249, service=b"nobody")
    broker.answer_all(b"W", b"x" * 300)
    assert broker.core.counters.drops == {"client_full": 1}
    assert broker.core.held_bytes <= 1_000


def test_B3_an_answer_that_lost_a_part_ends_there():
    broker = Slow(max_queue_bytes=10_000)
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, b"?")
    broker.answer_all(b"W", b"1" * 2000, b"2" * 9000, b"3", b"end")
    del broker.socket.room[b"slow"]
    broker.advance(1.0)
    assert broker.answered(b"slow") == [failed(1, Status.OVERLOADED, 1)]
    assert broker.core.counters.drops == {"client_full": 1, "abandoned": 3}


def test_B3_the_backlog_of_a_client_that_is_gone_is_dropped():
    broker = Slow()
    broker.register(b"W", 1, 2, 3)
    broker.socket.room[b"slow"] = 0
    for number in range(3):
        broker.call(b"slow", number)
    broker.answer_all(b"W")
    assert broker.core.held_bytes > 0
    broker.socket.room[b"slow"] = "gone"
    broker.advance(1.0)
    now = broker.core.statistics(broker.now)
    assert (now.backlogs, now.queued_bytes, now.drops) == (0, 0, {"client_gone": 3})


def test_B3_what_nobody_waits_for_any_more_is_dropped_from_the_backlog():
    broker = Slow()
    broker.register(b"W", 1, 2, 3)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, time_left=1.0)
    broker.call(b"slow", 2, time_left=60.0)
    broker.answer_all(b"W")
    broker.advance(2.0)
    broker.call(b"slow", 3, time_left=60.0)
    del broker.socket.room[b"slow"]
    broker.advance(1.0)
    assert [number for number, *_ in broker.answered(b"slow")] == [2]
    assert broker.core.counters.drops == {"late": 1}


def test_B3_a_late_answer_in_a_backlog_ends_its_call_at_the_deadline():
    """The rest of a streamed answer is dropped; once its worker is lost, the request ended at its deadline."""
    broker = Slow()
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, time_left=1.0)
    ((address, _),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.advance(2.0)
    assert broker.core.counters.drops == {"late": 1}
    broker.feed(b"W", MDP02.disconnect)
    assert broker.core.counters.ended == {"deadline": 1}


def test_S8_a_backlog_that_another_user_voids_ends_its_call_as_gone():
    """Another user speaks under the routing id; once the worker is lost, the request's client is gone."""
    broker = Slow(access=Access(Rules([{"user": "*", "serve": "*", "call": "*"}]), 1000.0))
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    broker.call(b"slow", 1, user="one")
    ((address, _),) = broker.requests(b"W").values()
    broker.session(b"W", 1, b"\x03", address, b"", b"part")
    broker.call(b"slow", 2, user="two")
    assert broker.core.counters.drops == {"other_user": 1}
    broker.feed(b"W", MDP02.disconnect)
    assert broker.core.counters.ended == {"client_gone": 1}


def test_B3_a_long_backlog_is_sent_in_batches():
    """However much waits, a pass sends no more than a batch of it."""
    broker = Slow(max_in_flight=10_000)
    broker.register(b"W", 1)
    broker.socket.room[b"slow"] = 0
    for number in range(5 * BATCH):
        broker.call(b"slow", number, b"%d" % number)
        broker.answer_all(b"W")
    del broker.socket.room[b"slow"]
    sizes = []
    while broker.core.statistics(broker.now).backlogs:
        broker.advance(broker.core.deadline() - broker.now)
        sizes.append(len(broker.socket.bodies(b"slow")))
    assert max(sizes) == BATCH
    assert sum(sizes) == 5 * BATCH


# Bounds


def test_each_connection_has_so_many_open_calls_and_no_more():
    broker = Gmdp(max_in_flight=3)
    for number in range(5):
        broker.call(b"client", number)
        broker.ask(MDP02, b"strict", b"%d" % number)
    assert broker.answered(b"client") == [failed(3, Status.OVERLOADED), failed(4, Status.OVERLOADED)]
    assert broker.take(b"strict") == []
    assert broker.core.counters.drops == {"in_flight_full": 4}
    broker.call(b"client", 0, flags=CANCEL)
    broker.call(b"client", 6)
    assert broker.core.counters.drops == {"in_flight_full": 4}


def test_a_user_s_connections_share_one_account_of_bytes_and_one_turn():
    broker = Gmdp(max_queue_bytes=1000)
    for number in range(10):
        broker.call(b"alice %d" % number, 1, b"x" * 100, user="alice")
    assert broker.core.held_bytes == 500
    broker.call(b"bob", 1, b"x" * 100, user="bob")
    assert broker.core.held_bytes == 600
    broker.register(b"W", 1, 2)
    given = broker.requests(b"W")
    assert len(given) == 2
    # One of each: alice's four others wait.
    owners = {request.worker.session: request.user for request in running(broker)}
    assert sorted(owners.values()) == ["alice", "bob"]
    broker.advance(100.0)
    for number, (address, _) in given.items():
        broker.session(b"W", number, b"\x04", address, b"", b"")
    assert not broker.core._accounts.users or broker.core.held_bytes


def running(broker) -> list[Request]:
    return [worker.request for worker in broker.core.workers if worker.request is not None]


def test_B2_a_broker_that_stops_tells_gmdp_clients():
    broker = Gmdp()
    broker.register(b"W", 1)
    for number in (1, 2):
        broker.call(b"client", number)
    broker.core.drain()
    broker.call(b"client", 3)
    assert broker.answered(b"client") == [failed(3, Status.SHUTTING_DOWN)]
    broker.core.finish(broker.now)
    broker.collect()
    assert sorted(broker.answered(b"client")) == [failed(1, Status.SHUTTING_DOWN, 1), failed(2, Status.SHUTTING_DOWN)]
    assert broker.core.held_bytes == 0


# Connections of sessions


def test_W9_W10_a_session_is_retired_for_ever_and_hears_nothing_more():
    broker = Gmdp()
    broker.register(b"W", 1, 2)
    broker.session(b"W", 1, b"\x06")
    for _ in range(3):
        broker.session(b"W", 1, b"\x01", b"echo")
        broker.session(b"W", 1, b"\x04", b"address", b"", b"x")
        broker.session(b"W", 1, b"\x06")
    broker.session(b"W", 7, b"\x06")
    assert broker.take(b"W") == []
    assert broker.core.worker_count == 1


def test_W2_a_silent_connection_is_lost_with_all_its_sessions_busy_or_not():
    broker = Gmdp(busy_timeout=900.0)
    broker.register(b"W", *range(1, 6))
    for number in range(3):
        broker.call(b"client", number)
    broker.take(b"W")
    broker.advance(EXPIRY)
    assert broker.core.worker_count == 0
    assert broker.core.counters.lost_workers == {"expired": 5}
    assert broker.core.queued == 3
    # Thawed, it speaks: it is told DISCONNECT, once, on the connection.
    broker.take(b"W")
    for number in range(1, 4):
        broker.session(b"W", number, b"\x05")
    assert broker.take(b"W") == [MDP02.disconnect]
    assert broker.core.counters.drops == {"unregistered": 3}


def test_one_session_s_heartbeat_is_all_sessions():
    broker = Gmdp()
    broker.register(b"W", 1, 2, 3)
    for _ in range(10):
        broker.advance(INTERVAL)
        broker.session(b"W", 2, b"\x05")
    assert broker.core.worker_count == 3
    assert broker.now == START + 10 * INTERVAL


def test_a_connection_without_sessions_is_forgotten_when_it_is_silent():
    broker = Gmdp()
    broker.register(b"W", 1)
    broker.session(b"W", 1, b"\x06")
    assert len(broker.core._registry.connections) == 1
    broker.advance(EXPIRY)
    assert not broker.core._registry.connections
    assert broker.core.counters.lost_workers == {"disconnect": 1}


def test_W16_sessions_that_come_and_go_leave_nothing():
    broker = Gmdp()
    for number in range(1, 10_001):
        broker.session(b"W", number, b"\x01", b"echo")
        broker.session(b"W", number, b"\x06")
    broker.feed(b"W", MDP02.disconnect)
    core = broker.core
    assert (core.worker_count, len(core.services), len(core._state.timers)) == (0, 0, 0)
    assert not core._registry.connections
    assert core.counters.registrations == 10_000


def test_W12_a_session_s_token_is_no_use_to_its_neighbour():
    broker = Gmdp()
    broker.register(b"W", 1, 2)
    for number in (1, 2):
        broker.call(b"client", number, b"%d" % number)
    given = broker.requests(b"W")
    broker.session(b"W", 1, b"\x04", given[2][0], b"", b"forged")
    assert broker.take(b"W")[0] == [extension.session_frame(1), b"", b"MDPW02", b"\x06"]
    assert broker.answered(b"client") == []
    broker.session(b"W", 2, b"\x04", given[2][0], b"", b"right")
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


# Answers that are too large to be joined


def test_a_gmdp_client_of_01_is_told_that_the_parts_of_its_answer_are_too_large():
    """At once, and not only by its own timeout; the rest of the answer is dropped, the worker goes on."""
    broker = Gmdp(max_queue_bytes=1_000)
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
