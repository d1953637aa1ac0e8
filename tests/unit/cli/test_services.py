"""``gmdp services`` and ``gmdp ping``: what they print of gmdp's brokers and of others."""

import json
import re
import socket

import gevent
import pytest
import zmq.green
from processes import gmdp_here, only_line
from refusals import Refusal
from waiting import wait_until

from gmdp import Client, Worker
from gmdp.core.outcomes import EndReason

ANYWHERE = "tcp://127.0.0.1:*"
PING = r"{}: {}; {} round trips: min \d+\.\d+, mean \d+\.\d+, max \d+\.\d+ ms"

REFUSALS = [
    Refusal("services of a bad broker", ["services", "--broker", "x"], "bad endpoint 'x': .*"),
    Refusal("ping of a bad broker", ["ping", "--broker", "x"], "bad endpoint 'x': .*"),
    Refusal("workers of a bad broker", ["workers", "--broker", "x"], "bad endpoint 'x': .*"),
    Refusal("statistics of a service", ["statistics", "x"], ".*[Gg]ot unexpected extra argument.*x.*"),
    Refusal("ping never", ["ping", "--count", "0"], "--count must be at least 1"),
    Refusal("ping of nothing", ["ping", "x"], ".*[Gg]ot unexpected extra argument.*x.*"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refusal_is_one_line(folder, refusal):
    refusal.check(folder)


@pytest.mark.parametrize(
    "name",
    ["[/closed]", "[bold]name", ":smile:", "größe ☃", "a" * 100],
    ids=["closing tag", "tag", "emoji", "letters", "long"],
)
def test_services_shows_names_as_they_are(broker, name):
    """Whatever a terminal library makes of them elsewhere, and in one piece where no terminal is."""
    with Worker(broker.endpoint, name, lambda request: b""):
        wait_until(lambda: broker.statistics().workers == 1)
        ended = gmdp_here("services", "--broker", broker.endpoint)
    assert (ended.status, ended.err) == (0, b"")
    assert name in ended.out.decode()


def test_services_of_a_broker_that_knows_none(broker):
    ended = gmdp_here("services", "--broker", broker.endpoint)
    assert (ended.status, ended.err) == (0, b"")
    assert "service" in ended.out.decode()


@pytest.fixture
def foreign():
    """A function: starts a bare ROUTER that answers every request with `body`; returns its endpoint."""
    opened = []

    def start(body, *versions):
        versions = versions or ("0.1", "0.2")
        router = zmq.green.Context.instance().socket(zmq.ROUTER)
        router.set(zmq.LINGER, 0)
        router.bind(ANYWHERE)
        opened.append((router, gevent.spawn(answer, router, body, versions)))
        return router.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()

    def answer(router, body, versions):
        while True:
            sender, *frames = router.recv_multipart()
            if frames[:2] == [b"", b"MDPC01"] and "0.1" in versions:
                router.send_multipart([sender, b"", b"MDPC01", frames[2], *body])
            elif frames[:2] == [b"MDPC02", b"\x01"] and "0.2" in versions:
                router.send_multipart([sender, b"MDPC02", b"\x03", frames[2], *body])

    yield start
    for router, greenlet in opened:
        greenlet.kill()
        router.close(0)


def test_ping_of_a_foreign_broker_of_0_1(foreign):
    """All it has for us is "501", and that is an answer."""
    endpoint = foreign([b"501"])
    ended = gmdp_here("ping", "--broker", endpoint, "--mdp", "0.1", "--count", "2")
    assert (ended.status, ended.err) == (0, b"")
    assert re.fullmatch(PING.format(endpoint, "an MDP/0.1 broker", 2), only_line(ended.out))


@pytest.mark.parametrize("speaks", ["0.1", "0.2"])
def test_F9_ping_tries_both_versions(foreign, speaks):
    endpoint = foreign([b"501"], speaks)
    ended = gmdp_here("ping", "--broker", endpoint, "--count", "1", "--timeout", "0.4")
    assert (ended.status, ended.err) == (0, b"")
    assert re.fullmatch(PING.format(endpoint, f"an MDP/{speaks} broker", 1), only_line(ended.out))
    other = {"0.1": "0.2", "0.2": "0.1"}[speaks]
    ended = gmdp_here("ping", "--broker", endpoint, "--count", "1", "--timeout", "0.2", "--mdp", other)
    assert ended.status == 124


def test_F9_ping_of_a_silent_broker_says_where_nothing_was_heard(foreign):
    endpoint = foreign([b"501"], "none")
    ended = gmdp_here("ping", "--broker", endpoint, "--timeout", "0.2")
    assert ended.status == 124
    assert re.fullmatch(
        rf"gmdp: timeout: .*: no broker answered at {endpoint}: .*; MDP/0\.1 was tried before, in vain",
        ended.one_line(),
    )


@pytest.mark.parametrize("command", ["services", "workers", "statistics"])
def test_F9_reports_are_asked_for_in_the_version_that_is_named(foreign, command):
    endpoint = foreign([b"200", b'{"services": [], "workers": [], "total": 0}'], "0.1")
    ended = gmdp_here(command, "--broker", endpoint, "--mdp", "0.1", "--json")
    assert (ended.status, ended.err) == (0, b"")


def test_services_of_a_foreign_broker_says_that_it_does_not_know(foreign):
    endpoint = foreign([b"501"])
    ended = gmdp_here("services", "--broker", endpoint)
    assert ended.status == 1
    assert re.fullmatch(rf"gmdp: the broker at {endpoint} does not know mmi\.services.*501.*", ended.one_line())


JUNK = {
    "no JSON": [b"200", b"\xff{"],
    "another JSON": [b"200", b"[1]"],
    "other keys": [b"200", b"{}"],
    "no body": [b"200"],
    "rows of numbers": [b"200", b'{"total": 1, "services": [5]}'],
    "endless": [b"200", b'{"total": 1e999, "services": []}'],
    "long uptime": [b"200", b'{"name": "x", "version": "1", "state": "up", "uptime": 1%b}' % (b"0" * 400)],
    "deep": [b"200", b"[" * 200_000],
}


@pytest.mark.parametrize("name", JUNK)
def test_what_a_foreign_broker_may_answer(foreign, name):
    """A broker that has services of the same names, with other answers: ping pings, services says so."""
    endpoint = foreign(JUNK[name])
    commands = [["ping", "--broker", endpoint, "--count", "1"], ["services", "--broker", endpoint]]
    pinged, listed = (gmdp_here(*command) for command in commands)
    assert (pinged.status, pinged.err) == (0, b"")
    assert re.fullmatch(PING.format(endpoint, "an MDP/0.1 broker", 1), only_line(pinged.out))
    assert listed.status == 1
    assert endpoint in listed.one_line()


def test_a_broker_that_never_answers_is_a_timeout():
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        endpoint = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        commands = [[name, "--broker", endpoint, "--timeout", "0.5"] for name in ("ping", "services")]
        for command in commands:
            ended = gmdp_here(*command)
            assert ended.status == 124
            assert "timeout" in ended.one_line()
    finally:
        silent.close()


# For programs


def test_services_and_workers_as_json(broker):
    with Worker(broker.endpoint, "it", lambda request: b""), Worker(broker.endpoint, "other", lambda request: b""):
        wait_until(lambda: broker.statistics().workers == 2)
        answers = {}
        for command in (("services",), ("workers",), ("services", "it"), ("workers", "it"), ("workers", "none")):
            ended = gmdp_here(*command, "--broker", broker.endpoint, "--json")
            assert (ended.status, ended.err) == (0, b"")
            answers[command] = json.loads(only_line(ended.out))
    assert answers["services",]["total"] == answers["workers",]["total"] == 2
    assert {row["name"] for row in answers["services",]["services"]} == {"it", "other"}
    assert {row["service"] for row in answers["workers",]["workers"]} == {"it", "other"}
    assert [row["name"] for row in answers["services", "it"]["services"]] == ["it"]
    assert [row["state"] for row in answers["workers", "it"]["workers"]] == ["idle"]
    assert answers["workers", "none"] == {"total": 0, "workers": []}


def test_workers_for_people(broker):
    with Worker(broker.endpoint, "it", lambda request: b""):
        wait_until(lambda: broker.statistics().workers == 1)
        ended = gmdp_here("workers", "--broker", broker.endpoint)
    assert (ended.status, ended.err) == (0, b"")
    titles, row = (line.split() for line in ended.out.decode().replace("MDP/0.2 (gmdp)", "gmdp").splitlines())
    assert titles == ["service", "protocol", "state", "for", "registered", "heard", "served"]
    assert (row[0], row[2], row[-1]) == ("it", "idle", "0")
    assert all(0 <= float(seconds) < 60 for seconds in row[3:6])


def test_the_workers_and_services_of_an_earlier_broker_have_empty_cells(foreign):
    """gmdp 0.1.0 says neither how long a worker has been idle nor how many workers are mute."""
    worker = {"service": "it", "protocol": "MDP/0.1", "state": "idle", "state_seconds": None}
    worker |= {"registered_seconds": 2.5, "heard_seconds": 1.5, "served": 7}
    endpoint = foreign([b"200", json.dumps({"total": 1, "workers": [worker]}).encode()])
    row = gmdp_here("workers", "--broker", endpoint).out.decode().splitlines()[1]
    assert row.split() == ["it", "MDP/0.1", "idle", "2.5", "1.5", "7"]
    counts = {"workers": 1, "idle": 1, "busy": 0, "queued": 0, "requests": 3, "replies": 3}
    endpoint = foreign([b"200", json.dumps({"total": 1, "services": [{"name": "it", **counts}]}).encode()])
    titles, row = gmdp_here("services", "--broker", endpoint).out.decode().splitlines()
    assert titles.split() == ["service", "workers", "idle", "mute", "busy", "queued", "requests", "replies"]
    assert row.split() == ["it", "1", "1", "0", "0", "3", "3"]


def test_statistics_for_people_and_for_programs(broker):
    with Worker(broker.endpoint, "it", lambda request: b""), Client(broker.endpoint) as client:
        client.request("it", b"")
        people, program = (gmdp_here("statistics", "--broker", broker.endpoint, *more) for more in ((), ("--json",)))
    counts = json.loads(only_line(program.out))
    assert counts["requests"] == counts["replies"] == 1
    assert re.search(r"^replies +1  Requests answered: .*\.$", people.out.decode(), re.M)
    assert re.search(r"^uptime +\d+\.\d{0,3}  Time since the broker started\.$", people.out.decode(), re.M)
    assert set(counts) == set(broker.statistics().as_dict())


def test_statistics_say_what_each_reason_means(foreign):
    report = {"drops": {"malformed": 2, "new": 1}, "ended": {"expired": 3}, "unknown": 4}
    endpoint = foreign([b"200", json.dumps(report).encode()])
    _, *rows = gmdp_here("statistics", "--broker", endpoint).out.decode().splitlines()
    assert [" ".join(row.split()) for row in rows] == [
        "drops: malformed 2 the message was not an MDP message",
        "drops: new 1 Messages dropped, by reason.",
        "ended: expired 3 " + EndReason.EXPIRED.text,
        "unknown 4",
    ]


@pytest.mark.parametrize(
    ("command", "message"), [("services", "knows no service 'none'"), ("workers", "has no worker for 'none'")]
)
def test_a_service_that_there_is_not_is_an_error_for_people(broker, command, message):
    ended = gmdp_here(command, "none", "--broker", broker.endpoint)
    assert (ended.one_line(), ended.status) == (f"gmdp: the broker at {broker.endpoint} {message}", 1)
    assert gmdp_here(command, "none", "--broker", broker.endpoint, "--json").status == 0


def test_ping_as_json(broker):
    ended = gmdp_here("ping", "--broker", broker.endpoint, "--count", "3", "--json")
    assert (ended.status, ended.err) == (0, b"")
    answer = json.loads(only_line(ended.out))
    assert (answer["endpoint"], answer["round_trips"]) == (broker.endpoint, 3)
    assert answer["broker"]["name"] == "gmdp"
    took = answer["milliseconds"]
    assert 0 < took["min"] <= took["mean"] <= took["max"]


def test_ping_of_a_foreign_broker_as_json(foreign):
    endpoint = foreign([b"501"])
    ended = gmdp_here("ping", "--broker", endpoint, "--count", "1", "--json")
    assert json.loads(only_line(ended.out))["broker"] == {}


@pytest.mark.parametrize("command", ["services", "workers", "statistics"])
def test_nothing_has_lines_around_it_in_a_pipe(broker, command):
    ended = gmdp_here(command, "--broker", broker.endpoint)
    assert (ended.status, ended.err) == (0, b"")
    assert ended.out.isascii()
    assert b"|" not in ended.out
