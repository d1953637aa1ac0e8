"""Every command of every dialect, over real sockets, compared with bytes written out by hand.

What stands here was copied from the frame tables of RFC 7 (MDP/0.1), RFC 18
(MDP/0.2) and RFC 8 (MMI), and from what the majortomo package sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import gevent
import pytest
from peers import ANYWHERE, DEADLINE, Peer, dealer, router
from waiting import wait_until

from gmdp import Broker, Client, RequestTimeout, State, Worker

#: The commands between worker and broker that carry no request, per dialect.
WORKERS = {
    "0.1": {
        "ready": [b"", b"MDPW01", b"\x01", b"echo"],
        "ready for mmi": [b"", b"MDPW01", b"\x01", b"mmi.echo"],
        "heartbeat": [b"", b"MDPW01", b"\x04"],
        "disconnect": [b"", b"MDPW01", b"\x05"],
        "reply": [b"", b"MDPW01", b"\x03", b"nobody", b"", b"stray"],
    },
    "0.2": {
        "ready": [b"MDPW02", b"\x01", b"echo"],
        "ready for mmi": [b"MDPW02", b"\x01", b"mmi.echo"],
        "heartbeat": [b"MDPW02", b"\x05"],
        "disconnect": [b"MDPW02", b"\x06"],
        "reply": [b"MDPW02", b"\x04", b"nobody", b"", b"stray"],
        "partial": [b"MDPW02", b"\x03", b"nobody", b"", b"stray"],
    },
    "majortomo": {
        "ready": [b"", b"MDPW02", b"\x01", b"echo"],
        "ready for mmi": [b"", b"MDPW02", b"\x01", b"mmi.echo"],
        "heartbeat": [b"", b"MDPW02", b"\x05"],
        "disconnect": [b"", b"MDPW02", b"\x06"],
        "reply": [b"", b"MDPW02", b"\x04", b"nobody", b"", b"stray"],
        "partial": [b"", b"MDPW02", b"\x03", b"nobody", b"", b"stray"],
    },
}

#: What comes before the client address.
REQUESTS = {"0.1": [b"", b"MDPW01", b"\x02"], "0.2": [b"MDPW02", b"\x02"]}
FINALS = {"0.1": [b"", b"MDPW01", b"\x03"], "0.2": [b"MDPW02", b"\x04"]}

each_dialect = pytest.mark.parametrize("dialect", list(WORKERS))
each_version = pytest.mark.parametrize("version", ["0.1", "0.2"])


@pytest.fixture
def broker() -> Iterator[Broker]:
    # No heartbeat of the broker's own gets in between.
    with Broker(ANYWHERE, heartbeat_interval=60) as broker:
        yield broker


def registered(broker: Broker, count: int) -> None:
    wait_until(lambda: broker.statistics().workers == count)


# The broker, one dialect at a time


def test_rfc7_request_and_reply(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint, b"client-id") as client:
        worker.send(b"", b"MDPW01", b"\x01", b"echo")
        client.send(b"", b"MDPC01", b"echo", b"one", b"", b"\x00three")
        request = worker.recv()
        token = request[3]
        assert request == [b"", b"MDPW01", b"\x02", token, b"", b"one", b"", b"\x00three"]
        worker.send(b"", b"MDPW01", b"\x03", token, b"", b"eins", b"", b"\x00drei")
        assert client.recv() == [b"", b"MDPC01", b"echo", b"eins", b"", b"\x00drei"]


def test_rfc18_request_partials_and_final(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint, b"client-id") as client:
        worker.send(b"MDPW02", b"\x01", b"echo")
        client.send(b"MDPC02", b"\x01", b"echo", b"one", b"", b"\x00three")
        request = worker.recv()
        token = request[2]
        assert request == [b"MDPW02", b"\x02", token, b"", b"one", b"", b"\x00three"]
        worker.send(b"MDPW02", b"\x03", token, b"", b"eins", b"")
        assert client.recv() == [b"MDPC02", b"\x02", b"echo", b"eins", b""]
        worker.send(b"MDPW02", b"\x03", token, b"", b"zwei")
        assert client.recv() == [b"MDPC02", b"\x02", b"echo", b"zwei"]
        worker.send(b"MDPW02", b"\x04", token, b"", b"\x00drei", b"")
        assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"\x00drei", b""]


def test_majortomo_request_partials_and_final(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint, b"client-id") as client:
        worker.send(b"", b"MDPW02", b"\x01", b"echo")
        client.send(b"", b"MDPC02", b"\x02", b"echo", b"one", b"", b"\x00three")
        request = worker.recv()
        token = request[3]
        assert request == [b"", b"MDPW02", b"\x02", token, b"", b"one", b"", b"\x00three"]
        worker.send(b"", b"MDPW02", b"\x03", token, b"", b"eins", b"")
        assert client.recv() == [b"", b"MDPC02", b"\x03", b"eins", b""]
        worker.send(b"", b"MDPW02", b"\x03", token, b"", b"zwei")
        assert client.recv() == [b"", b"MDPC02", b"\x03", b"zwei"]
        worker.send(b"", b"MDPW02", b"\x04", token, b"", b"\x00drei", b"")
        assert client.recv() == [b"", b"MDPC02", b"\x04", b"\x00drei", b""]


def test_majortomo_bodies_without_frames(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"", b"MDPW02", b"\x01", b"echo")
        client.send(b"", b"MDPC02", b"\x02", b"echo")
        request = worker.recv()
        assert request == [b"", b"MDPW02", b"\x02", request[3], b"", b""]
        worker.send(b"", b"MDPW02", b"\x03", request[3], b"")
        assert client.recv() == [b"", b"MDPC02", b"\x03", b""]
        worker.send(b"", b"MDPW02", b"\x04", request[3], b"")
        assert client.recv() == [b"", b"MDPC02", b"\x04", b""]


def test_the_client_address_is_a_token(broker: Broker) -> None:
    with (
        dealer(broker.endpoint) as first,
        dealer(broker.endpoint) as second,
        dealer(broker.endpoint, b"client-id") as client,
    ):
        first.send(b"MDPW02", b"\x01", b"echo")
        client.send(b"MDPC02", b"\x01", b"echo", b"hello")
        token = first.recv()[2]
        # Magic and version; a nonce; assignment 1, status 0, time left unknown, attempt 1, no flags.
        assert token[:5] == b"\x89MDT\x01"
        assert token[13:] == b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\xff\xff\xff\xff\x01\x00"
        assert b"client-id" not in token
        second.send(b"MDPW02", b"\x01", b"echo")
        registered(broker, 2)
        first.send(b"MDPW02", b"\x06")
        request = second.recv()
        again = request[2]
        # The same nonce; assignment 2, attempt 2.
        assert request == [b"MDPW02", b"\x02", again, b"", b"hello"]
        assert again[:13] == token[:13]
        assert again[13:] == b"\x00\x00\x00\x00\x00\x00\x00\x02\x00\xff\xff\xff\xff\x02\x00"
        second.send(b"MDPW02", b"\x04", again, b"", b"hello")
        assert client.recv() == [b"MDPC02", b"\x03", b"echo", b"hello"]


def test_a_worker_serves_one_request_after_the_other(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        client.send(b"", b"MDPC01", b"echo", b"first")
        client.send(b"", b"MDPC01", b"echo", b"second")
        assert client.pending() == []  # both are queued now
        worker.send(b"", b"MDPW01", b"\x01", b"echo")
        first = worker.recv()
        assert first == [b"", b"MDPW01", b"\x02", first[3], b"", b"first"]
        assert worker.pending() == []  # the second has to wait
        worker.send(b"", b"MDPW01", b"\x03", first[3], b"", b"1st")
        second = worker.recv()
        assert second == [b"", b"MDPW01", b"\x02", second[3], b"", b"second"]
        assert second[3] != first[3]
        worker.send(b"", b"MDPW01", b"\x03", second[3], b"", b"2nd")
        assert client.recv() == [b"", b"MDPC01", b"echo", b"1st"]
        assert client.recv() == [b"", b"MDPC01", b"echo", b"2nd"]


@each_dialect
def test_broker_answers_heartbeats(broker: Broker, dialect: str) -> None:
    wire = WORKERS[dialect]
    with dealer(broker.endpoint) as worker:
        worker.send(*wire["ready"])
        assert worker.pending() == []
        worker.send(*wire["heartbeat"])
        assert worker.pending() == [wire["heartbeat"]]
        # That answer was sent since the worker's previous HEARTBEAT: enough.
        worker.send(*wire["heartbeat"])
        assert worker.pending() == []
        worker.send(*wire["heartbeat"])
        assert worker.pending() == [wire["heartbeat"]]


@each_dialect
def test_broker_sends_heartbeats_and_expires_the_silent(dialect: str) -> None:
    wire = WORKERS[dialect]
    with Broker(ANYWHERE, heartbeat_interval=0.1, liveness=5) as broker, dealer(broker.endpoint) as worker:
        worker.send(*wire["ready"])
        assert worker.recv() == wire["heartbeat"]
        wait_until(lambda: broker.statistics().lost_workers == {"expired": 1})
        heartbeats = worker.pending()
        assert all(message == wire["heartbeat"] for message in heartbeats)
        worker.send(*wire["heartbeat"])
        assert worker.pending() == [wire["disconnect"]]


@each_dialect
def test_broker_says_disconnect_when_it_stops(dialect: str) -> None:
    wire = WORKERS[dialect]
    with Broker(ANYWHERE, heartbeat_interval=60) as broker, dealer(broker.endpoint) as worker:
        worker.send(*wire["ready"])
        registered(broker, 1)
        broker.stop()
        assert worker.recv() == wire["disconnect"]


@each_dialect
def test_disconnect_from_a_worker_ends_its_registration(broker: Broker, dialect: str) -> None:
    wire = WORKERS[dialect]
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(*wire["ready"])
        worker.send(*wire["disconnect"])
        assert worker.pending() == []
        client.send(b"", b"MDPC01", b"mmi.service", b"echo")
        assert client.recv() == [b"", b"MDPC01", b"mmi.service", b"404"]
        # It hears nothing more, whatever it says, until it says READY.
        worker.send(*wire["heartbeat"])
        worker.send(*wire["reply"])
        assert worker.pending() == []
        worker.send(*wire["ready"])
        worker.send(*wire["heartbeat"])
        assert worker.pending() == [wire["heartbeat"]]


@each_dialect
def test_an_unknown_worker_gets_one_disconnect(broker: Broker, dialect: str) -> None:
    wire = WORKERS[dialect]
    for command in ("heartbeat", "reply", "partial"):
        if command in wire:
            with dealer(broker.endpoint) as worker:
                worker.send(*wire[command])
                assert worker.pending() == [wire["disconnect"]]
                worker.send(*wire[command])
                worker.send(*wire["heartbeat"])
                assert worker.pending() == []


@each_dialect
def test_a_worker_that_breaks_the_protocol_gets_a_disconnect(broker: Broker, dialect: str) -> None:
    wire = WORKERS[dialect]
    for command in ("ready", "reply", "partial"):
        if command in wire:
            with dealer(broker.endpoint) as worker:
                worker.send(*wire["ready"])
                worker.send(*wire[command])
                assert worker.pending() == [wire["disconnect"]]
    assert broker.statistics().workers == 0


@each_dialect
def test_no_worker_registers_a_service_of_the_management_interface(broker: Broker, dialect: str) -> None:
    wire = WORKERS[dialect]
    with dealer(broker.endpoint) as worker:
        worker.send(*wire["ready for mmi"])
        assert worker.pending() == [wire["disconnect"]]
    assert broker.statistics().registrations == 0


# The management interface


def test_mmi_over_rfc7(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"", b"MDPW01", b"\x01", b"echo")
        registered(broker, 1)
        client.send(b"", b"MDPC01", b"mmi.service", b"echo")
        assert client.recv() == [b"", b"MDPC01", b"mmi.service", b"200"]
        client.send(b"", b"MDPC01", b"mmi.service", b"other")
        assert client.recv() == [b"", b"MDPC01", b"mmi.service", b"404"]
        # One that requests wait for has no worker for it.
        client.send(b"", b"MDPC01", b"awaited", b"hello")
        client.send(b"", b"MDPC01", b"mmi.service", b"awaited")
        assert client.recv() == [b"", b"MDPC01", b"mmi.service", b"404"]
        client.send(b"", b"MDPC01", b"mmi.nonsense", b"echo")
        assert client.recv() == [b"", b"MDPC01", b"mmi.nonsense", b"501"]
        client.send(b"", b"MDPC01", b"mmi.broker", b"")
        *head, report = client.recv()
        assert head == [b"", b"MDPC01", b"mmi.broker", b"200"]
        assert json.loads(report)["name"] == "gmdp"


def test_mmi_over_rfc18_is_one_final(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"echo")
        registered(broker, 1)
        client.send(b"MDPC02", b"\x01", b"mmi.service", b"echo")
        assert client.recv() == [b"MDPC02", b"\x03", b"mmi.service", b"200"]
        client.send(b"MDPC02", b"\x01", b"mmi.service", b"other")
        assert client.recv() == [b"MDPC02", b"\x03", b"mmi.service", b"404"]
        client.send(b"MDPC02", b"\x01", b"mmi.nonsense", b"echo")
        assert client.recv() == [b"MDPC02", b"\x03", b"mmi.nonsense", b"501"]
        client.send(b"MDPC02", b"\x01", b"mmi.broker", b"")
        *head, report = client.recv()
        assert head == [b"MDPC02", b"\x03", b"mmi.broker", b"200"]
        assert json.loads(report)["name"] == "gmdp"


def test_mmi_over_majortomo_is_one_final(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"", b"MDPW02", b"\x01", b"echo")
        registered(broker, 1)
        client.send(b"", b"MDPC02", b"\x02", b"mmi.service", b"echo")
        assert client.recv() == [b"", b"MDPC02", b"\x04", b"200"]
        client.send(b"", b"MDPC02", b"\x02", b"mmi.service", b"other")
        assert client.recv() == [b"", b"MDPC02", b"\x04", b"404"]
        client.send(b"", b"MDPC02", b"\x02", b"mmi.nonsense")
        assert client.recv() == [b"", b"MDPC02", b"\x04", b"501"]
        client.send(b"", b"MDPC02", b"\x02", b"mmi.broker")
        *head, report = client.recv()
        assert head == [b"", b"MDPC02", b"\x04", b"200"]
        assert json.loads(report)["name"] == "gmdp"


# Bridging


@pytest.mark.parametrize("head", [[b"MDPW02"], [b"", b"MDPW02"]], ids=["0.2", "majortomo"])
def test_partials_for_a_01_client_are_joined_in_order(broker: Broker, head: list[bytes]) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(*head, b"\x01", b"echo")
        client.send(b"", b"MDPC01", b"echo", b"hello", b"")
        request = worker.recv()
        token = request[-4]
        assert request == [*head, b"\x02", token, b"", b"hello", b""]
        worker.send(*head, b"\x03", token, b"", b"1", b"2")
        worker.send(*head, b"\x03", token, b"", b"")
        worker.send(*head, b"\x03", token, b"", b"3")
        assert worker.pending() == []
        assert client.pending() == []  # nothing goes out before all is there
        worker.send(*head, b"\x04", token, b"", b"4", b"5")
        assert client.recv() == [b"", b"MDPC01", b"echo", b"1", b"2", b"", b"3", b"4", b"5"]
        assert client.pending() == []


def test_a_lone_final_for_a_01_client(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"echo")
        client.send(b"", b"MDPC01", b"echo", b"hello")
        token = worker.recv()[2]
        worker.send(b"MDPW02", b"\x04", token, b"", b"bye", b"")
        assert client.recv() == [b"", b"MDPC01", b"echo", b"bye", b""]


def test_what_a_lost_worker_said_is_not_joined_to_what_the_next_one_says(broker: Broker) -> None:
    with dealer(broker.endpoint) as first, dealer(broker.endpoint) as second, dealer(broker.endpoint) as client:
        first.send(b"MDPW02", b"\x01", b"echo")
        client.send(b"", b"MDPC01", b"echo", b"hello")
        first.send(b"MDPW02", b"\x03", first.recv()[2], b"", b"half")
        first.send(b"MDPW02", b"\x06")
        assert first.pending() == []
        second.send(b"MDPW02", b"\x01", b"echo")
        second.send(b"MDPW02", b"\x04", second.recv()[2], b"", b"whole")
        assert client.recv() == [b"", b"MDPC01", b"echo", b"whole"]


def test_a_01_worker_for_02_clients(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as rfc18, dealer(broker.endpoint) as majortomo:
        worker.send(b"", b"MDPW01", b"\x01", b"echo")
        rfc18.send(b"MDPC02", b"\x01", b"echo", b"hello", b"")
        request = worker.recv()
        assert request == [b"", b"MDPW01", b"\x02", request[3], b"", b"hello", b""]
        worker.send(b"", b"MDPW01", b"\x03", request[3], b"", b"bye", b"")
        assert rfc18.recv() == [b"MDPC02", b"\x03", b"echo", b"bye", b""]
        majortomo.send(b"", b"MDPC02", b"\x02", b"echo", b"hello", b"")
        request = worker.recv()
        assert request == [b"", b"MDPW01", b"\x02", request[3], b"", b"hello", b""]
        worker.send(b"", b"MDPW01", b"\x03", request[3], b"", b"bye", b"")
        assert majortomo.recv() == [b"", b"MDPC02", b"\x04", b"bye", b""]


def test_rfc18_and_majortomo_are_bridged_both_ways(broker: Broker) -> None:
    with dealer(broker.endpoint) as worker, dealer(broker.endpoint) as client:
        worker.send(b"MDPW02", b"\x01", b"rfc18")
        with dealer(broker.endpoint) as worker_of_majortomo:
            worker_of_majortomo.send(b"", b"MDPW02", b"\x01", b"majortomo")
            client.send(b"", b"MDPC02", b"\x02", b"rfc18", b"hello")
            token = worker.recv()[2]
            worker.send(b"MDPW02", b"\x03", token, b"", b"one")
            worker.send(b"MDPW02", b"\x04", token, b"", b"two")
            assert client.recv() == [b"", b"MDPC02", b"\x03", b"one"]
            assert client.recv() == [b"", b"MDPC02", b"\x04", b"two"]
            client.send(b"MDPC02", b"\x01", b"majortomo", b"hello")
            token = worker_of_majortomo.recv()[3]
            worker_of_majortomo.send(b"", b"MDPW02", b"\x03", token, b"", b"one")
            worker_of_majortomo.send(b"", b"MDPW02", b"\x04", token, b"", b"two")
            assert client.recv() == [b"MDPC02", b"\x02", b"majortomo", b"one"]
            assert client.recv() == [b"MDPC02", b"\x03", b"majortomo", b"two"]


# What is no command


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b""],
        [b"", b"MDPC01"],
        [b"", b"MDPC01", b"echo"],
        [b"", b"MDPC01", b"", b"body"],
        [b"", b"MDPC03", b"echo", b"body"],
        [b"", b"MDPC01\x00", b"echo", b"body"],
        [b"MDPC01", b"echo", b"body"],
        [b"MDPC02", b"\x01", b"echo"],
        [b"MDPC02", b"\x02", b"echo", b"body"],
        [b"MDPC02", b"", b"echo", b"body"],
        [b"MDPC02", b"\x01", b"", b"body"],
        [b"", b"MDPC02", b"\x03", b"echo", b"body"],
        [b"", b"MDPC02", b"\x01", b"echo"],
        [b"", b"MDPC02", b"\x01"],
        [b"", b"MDPC02", b"\x02"],
        [b"", b"MDPW01", b"\x02", b"address", b"", b"body"],
        [b"", b"MDPW01", b"\x06"],
        [b"MDPW02", b"\x07"],
        [b"MDPW02", b"\x01"],
        [b"MDPW02", b"\x01", b"echo", b"more"],
    ],
    ids=lambda frames: b" ".join(frame or b"-" for frame in frames).decode("ascii", "backslashreplace"),
)
def test_what_is_no_command_is_dropped_and_counted(broker: Broker, frames: list[bytes]) -> None:
    with dealer(broker.endpoint) as peer:
        peer.send(*frames)
        assert peer.pending() == []
    statistics = broker.statistics()
    assert statistics.drops == {"malformed": 1}
    assert (statistics.requests, statistics.registrations) == (0, 0)


@pytest.mark.parametrize(
    "frames",
    [
        [b"MDPW02", b"\x04", b"address"],
        [b"MDPW02", b"\x04", b"address", b"not empty", b"body"],
        [b"MDPW02", b"\x02", b"address", b"", b"body"],
        [b"MDPW02", b"\x05", b"more"],
        [b"MDPW02", b"\x09"],
        [b"\xff", b"\xff"],
    ],
)
def test_a_registered_worker_that_says_what_is_no_command_is_lost(broker: Broker, frames: list[bytes]) -> None:
    with dealer(broker.endpoint) as worker:
        worker.send(b"MDPW02", b"\x01", b"echo")
        worker.send(*frames)
        assert worker.pending() == [[b"MDPW02", b"\x06"]]
    assert broker.statistics().lost_workers == {"malformed": 1}


# The worker


def start_worker(endpoint: str, handler: object, version: str, **options: object) -> Worker:
    worker = Worker(
        endpoint, "echo", handler, version=version, **{"heartbeat_interval": 60, "reconnect_interval": 0.01, **options}
    )
    worker.start()
    return worker


def parts(request: object) -> Iterator[object]:
    yield b"1"
    yield [b"2", b""]
    return [b"3", b"4"]


def parts_only(request: object) -> Iterator[object]:
    yield b"1"
    yield [b"2", b""]


HANDLERS = {
    "echo": lambda request: request.body,
    "frame": lambda request: b"single",
    "nothing": lambda request: [],
    "failing": lambda request: 1 / 0,
    "parts": parts,
    "parts only": parts_only,
}
ADDRESS = b"\x00\x80an address"
SAID_BY_WORKERS_01 = {
    "echo": [[b"", b"MDPW01", b"\x03", ADDRESS, b"", b"hello", b"", b"\x00"]],
    "frame": [[b"", b"MDPW01", b"\x03", ADDRESS, b"", b"single"]],
    "nothing": [[b"", b"MDPW01", b"\x03", ADDRESS, b"", b""]],
    "failing": [[b"", b"MDPW01", b"\x03", ADDRESS, b"", b"500"]],
    "parts": [[b"", b"MDPW01", b"\x03", ADDRESS, b"", b"1", b"2", b"", b"3", b"4"]],
    "parts only": [[b"", b"MDPW01", b"\x03", ADDRESS, b"", b"1", b"2", b""]],
}
SAID_BY_WORKERS_02 = {
    "echo": [[b"MDPW02", b"\x04", ADDRESS, b"", b"hello", b"", b"\x00"]],
    "frame": [[b"MDPW02", b"\x04", ADDRESS, b"", b"single"]],
    "nothing": [[b"MDPW02", b"\x04", ADDRESS, b"", b""]],
    "failing": [[b"MDPW02", b"\x04", ADDRESS, b"", b"500"]],
    "parts": [
        [b"MDPW02", b"\x03", ADDRESS, b"", b"1"],
        [b"MDPW02", b"\x03", ADDRESS, b"", b"2", b""],
        [b"MDPW02", b"\x04", ADDRESS, b"", b"3", b"4"],
    ],
    "parts only": [
        [b"MDPW02", b"\x03", ADDRESS, b"", b"1"],
        [b"MDPW02", b"\x03", ADDRESS, b"", b"2", b""],
        [b"MDPW02", b"\x04", ADDRESS, b"", b""],
    ],
}


@pytest.mark.parametrize("name", list(HANDLERS))
def test_worker_01_sends(name: str) -> None:
    with router() as bare, start_worker(bare.endpoint, HANDLERS[name], "0.1") as worker:
        sender, *ready = bare.recv()
        assert ready == [b"", b"MDPW01", b"\x01", b"echo"]
        bare.send(sender, b"", b"MDPW01", b"\x02", ADDRESS, b"", b"hello", b"", b"\x00")
        for frames in SAID_BY_WORKERS_01[name]:
            assert bare.recv() == [sender, *frames]
        # It is ready for the next one.
        bare.send(sender, b"", b"MDPW01", b"\x02", b"other", b"", b"again")
        assert bare.recv()[:5] == [sender, b"", b"MDPW01", b"\x03", b"other"]
        worker.stop()
        assert bare.recv() == [sender, b"", b"MDPW01", b"\x05"]


@pytest.mark.parametrize("name", list(HANDLERS))
def test_worker_02_sends(name: str) -> None:
    with router() as bare, start_worker(bare.endpoint, HANDLERS[name], "0.2") as worker:
        sender, *ready = bare.recv()
        assert ready == [b"MDPW02", b"\x01", b"echo"]
        bare.send(sender, b"MDPW02", b"\x02", ADDRESS, b"", b"hello", b"", b"\x00")
        for frames in SAID_BY_WORKERS_02[name]:
            assert bare.recv() == [sender, *frames]
        bare.send(sender, b"MDPW02", b"\x02", b"other", b"", b"again")
        assert bare.recv()[3] == b"other"
        worker.stop()
        message = bare.recv()
        while message[2] in (b"\x03", b"\x04"):  # the rest of an answer in parts
            message = bare.recv()
        assert message == [sender, b"MDPW02", b"\x06"]


def test_a_failed_handler_shows_in_a_token_and_nowhere_else() -> None:
    token = b"\x89MDT\x01NONCENCE\x00\x00\x00\x00\x00\x00\x00\x07\x00\xff\xff\xff\xff\x01\x00"
    other = b"\x89MDT\x02NONCENCE\x00\x00\x00\x00\x00\x00\x00\x07\x00\xff\xff\xff\xff\x01\x00"
    with router() as bare, start_worker(bare.endpoint, HANDLERS["failing"], "0.2"):
        sender = bare.recv()[0]
        bare.send(sender, b"MDPW02", b"\x02", token, b"", b"hello")
        failed = b"\x89MDT\x01NONCENCE\x00\x00\x00\x00\x00\x00\x00\x07\x01\xff\xff\xff\xff\x01\x00"
        assert bare.recv() == [sender, b"MDPW02", b"\x04", failed, b"", b"500"]
        bare.send(sender, b"MDPW02", b"\x02", other, b"", b"hello")
        assert bare.recv() == [sender, b"MDPW02", b"\x04", other, b"", b"500"]


@each_version
def test_worker_answers_heartbeats(version: str) -> None:
    wire = WORKERS[version]
    with router() as bare, start_worker(bare.endpoint, HANDLERS["echo"], version):
        sender, *ready = bare.recv()
        assert ready == wire["ready"]
        # READY was sent before the first HEARTBEAT, the answer to the second before the third.
        for _ in range(4):
            bare.send(sender, *wire["heartbeat"])
        bare.send(sender, *REQUESTS[version], b"address", b"", b"body")
        assert bare.recv() == [sender, *wire["heartbeat"]]
        assert bare.recv() == [sender, *wire["heartbeat"]]
        assert bare.recv() == [sender, *FINALS[version], b"address", b"", b"body"]


@each_version
def test_worker_sends_heartbeats_and_leaves_a_silent_broker(version: str) -> None:
    wire = WORKERS[version]
    with (
        router() as bare,
        start_worker(bare.endpoint, HANDLERS["echo"], version, heartbeat_interval=0.1, liveness=5),
    ):
        first, *ready = bare.recv()
        assert ready == wire["ready"]
        sender, *frames = bare.recv()
        heartbeats = 0
        while sender == first:
            assert frames == wire["heartbeat"]
            heartbeats += 1
            sender, *frames = bare.recv()
        assert heartbeats
        # A new socket, a new conversation.
        assert frames == wire["ready"]


@each_version
def test_worker_comes_back_on_a_new_socket_after_disconnect(version: str) -> None:
    wire = WORKERS[version]
    with router() as bare, start_worker(bare.endpoint, HANDLERS["echo"], version) as worker:
        seen = set()
        for _ in range(3):
            sender, *frames = bare.recv()
            # "it MUST close its socket, and reconnect to the broker on a new socket"
            assert sender not in seen
            assert frames == wire["ready"]
            seen.add(sender)
            bare.send(sender, *wire["disconnect"])
        sender, *frames = bare.recv()
        assert frames == wire["ready"]
        assert worker.statistics().reconnects == 3
        worker.stop()
        assert bare.recv() == [sender, *wire["disconnect"]]


@each_version
def test_a_worker_disconnected_at_work_never_sends_that_reply(version: str) -> None:
    wire = WORKERS[version]
    request = REQUESTS[version]
    final = FINALS[version]
    began, go_on = gevent.event.Event(), gevent.event.Event()

    def handler(request: object) -> bytes:
        began.set()
        go_on.wait()
        return b"done"

    with router() as bare, start_worker(bare.endpoint, handler, version) as worker:
        first = bare.recv()[0]
        bare.send(first, *request, b"one", b"", b"body")
        assert began.wait(DEADLINE)
        changes = worker.subscribe()
        bare.send(first, *wire["disconnect"])
        assert changes.get(timeout=DEADLINE).new is State.CONNECTING
        # While the handler runs it stays away; another one comes back several times.
        with start_worker(bare.endpoint, handler, version) as other:
            for _ in range(5):
                sender, *frames = bare.recv()
                assert frames == wire["ready"]
                assert worker.state is State.CONNECTING
                bare.send(sender, *wire["disconnect"])
            wait_until(lambda: other.statistics().reconnects == 5)
            sender = bare.recv()[0]
            other.stop()
            assert bare.recv() == [sender, *wire["disconnect"]]
        go_on.set()
        second, *frames = bare.recv()
        assert second != first
        assert frames == wire["ready"]
        assert worker.statistics().late_replies == 1
        bare.send(second, *request, b"two", b"", b"body")
        assert bare.recv() == [second, *final, b"two", b"", b"done"]


@each_version
def test_worker_that_stops_at_work_replies_before_it_says_disconnect(version: str) -> None:
    wire = WORKERS[version]
    request = REQUESTS[version]
    final = FINALS[version]
    began, go_on = gevent.event.Event(), gevent.event.Event()

    def handler(request: object) -> bytes:
        began.set()
        go_on.wait()
        return b"done"

    with router() as bare, start_worker(bare.endpoint, handler, version) as worker:
        sender = bare.recv()[0]
        bare.send(sender, *request, b"address", b"", b"body")
        assert began.wait(DEADLINE)
        stopping = gevent.spawn(worker.stop)
        wait_until(lambda: worker.state is State.DRAINING)
        go_on.set()
        assert bare.recv() == [sender, *final, b"address", b"", b"done"]
        assert bare.recv() == [sender, *wire["disconnect"]]
        stopping.get(timeout=DEADLINE)
        assert worker.closed


@each_version
def test_worker_leaves_a_broker_that_sends_a_second_request(version: str) -> None:
    wire = WORKERS[version]
    request = REQUESTS[version]
    go_on = gevent.event.Event()

    def handler(request: object) -> bytes:
        go_on.wait()
        return b"done"

    with router() as bare, start_worker(bare.endpoint, handler, version):
        first = bare.recv()[0]
        bare.send(first, *request, b"one", b"", b"body")
        bare.send(first, *request, b"two", b"", b"body")
        assert bare.recv() == [first, *wire["disconnect"]]
        go_on.set()
        second, *frames = bare.recv()
        assert second != first
        assert frames == wire["ready"]


# The client


def ask(client: Client, *args: object, **options: object) -> gevent.Greenlet:
    return gevent.spawn(client.request, *args, **options)


def test_client_01_sends_and_reads() -> None:
    with router() as bare, Client(bare.endpoint, version="0.1", timeout=DEADLINE) as client:
        call = ask(client, "echo", [b"one", b"", b"\x00"])
        sender, *frames = bare.recv()
        assert frames == [b"", b"MDPC01", b"echo", b"one", b"", b"\x00"]
        bare.send(sender, b"", b"MDPC01", b"echo", b"eins", b"", b"\x00")
        assert call.get(timeout=DEADLINE) == [b"eins", b"", b"\x00"]
        call = ask(client, "grüße", b"hello")
        assert bare.recv() == [sender, b"", b"MDPC01", b"gr\xc3\xbc\xc3\x9fe", b"hello"]
        bare.send(sender, b"", b"MDPC01", b"gr\xc3\xbc\xc3\x9fe", b"")
        assert call.get(timeout=DEADLINE) == [b""]


def test_client_02_sends_and_reads() -> None:
    with router() as bare, Client(bare.endpoint, version="0.2", timeout=DEADLINE) as client:
        call = ask(client, "echo", [b"one", b"", b"\x00"])
        sender, *frames = bare.recv()
        assert frames == [b"MDPC02", b"\x01", b"echo", b"one", b"", b"\x00"]
        bare.send(sender, b"MDPC02", b"\x03", b"echo", b"eins", b"", b"\x00")
        assert call.get(timeout=DEADLINE) == [b"eins", b"", b"\x00"]
        call = ask(client, "grüße", b"hello")
        assert bare.recv() == [sender, b"MDPC02", b"\x01", b"gr\xc3\xbc\xc3\x9fe", b"hello"]
        bare.send(sender, b"MDPC02", b"\x02", b"gr\xc3\xbc\xc3\x9fe", b"1", b"2")
        bare.send(sender, b"MDPC02", b"\x02", b"gr\xc3\xbc\xc3\x9fe", b"")
        bare.send(sender, b"MDPC02", b"\x03", b"gr\xc3\xbc\xc3\x9fe", b"3")
        assert call.get(timeout=DEADLINE) == [b"1", b"2", b"", b"3"]


def test_client_02_streams() -> None:
    with router() as bare, Client(bare.endpoint, timeout=DEADLINE) as client:
        stream = client.stream("echo", b"hello")
        sender, *frames = bare.recv()
        assert frames == [b"MDPC02", b"\x01", b"echo", b"hello"]
        bare.send(sender, b"MDPC02", b"\x02", b"echo", b"1", b"2")
        assert next(stream) == [b"1", b"2"]
        bare.send(sender, b"MDPC02", b"\x02", b"echo", b"")
        assert next(stream) == [b""]
        bare.send(sender, b"MDPC02", b"\x03", b"echo", b"3", b"")
        assert next(stream) == [b"3", b""]
        assert list(stream) == []
        # An empty FINAL that only ends the answer is no part of it.
        stream = client.stream("echo", b"again")
        assert bare.recv() == [sender, b"MDPC02", b"\x01", b"echo", b"again"]
        bare.send(sender, b"MDPC02", b"\x02", b"echo", b"1")
        bare.send(sender, b"MDPC02", b"\x03", b"echo", b"")
        assert list(stream) == [[b"1"]]


@pytest.mark.parametrize(
    ("version", "garbage", "reply"),
    [
        (
            "0.1",
            [
                [b""],
                [b"", b"MDPC01", b"echo"],
                [b"", b"MDPC01", b"other", b"wrong"],
                [b"MDPC01", b"echo", b"wrong"],
                [b"", b"MDPW01", b"\x02", b"echo", b"", b"wrong"],
                [b"MDPC02", b"\x03", b"echo", b"wrong"],
            ],
            [b"", b"MDPC01", b"echo", b"right"],
        ),
        (
            "0.2",
            [
                [b""],
                [b"MDPC02", b"\x03", b"echo"],
                [b"MDPC02", b"\x03", b"other", b"wrong"],
                [b"MDPC02", b"\x01", b"echo", b"wrong"],
                [b"MDPC02", b"\x04", b"echo", b"wrong"],
                [b"", b"MDPC02", b"\x03", b"echo", b"wrong"],
                [b"", b"MDPC01", b"echo", b"wrong"],
            ],
            [b"MDPC02", b"\x03", b"echo", b"right"],
        ),
    ],
    ids=["0.1", "0.2"],
)
def test_client_ignores_what_is_no_answer(version: str, garbage: list[list[bytes]], reply: list[bytes]) -> None:
    with router() as bare, Client(bare.endpoint, version=version, timeout=DEADLINE) as client:
        call = ask(client, "echo", b"hello")
        sender = bare.recv()[0]
        for frames in garbage:
            bare.send(sender, *frames)
        bare.send(sender, *reply)
        assert call.get(timeout=DEADLINE) == [b"right"]
        assert client.statistics().malformed == len(garbage)


def talk_too_late(bare: Peer, client: Client, request: list[bytes], reply: list[bytes]) -> None:
    """One call times out; its reply arrives before the reply to the next call."""
    with pytest.raises(RequestTimeout):
        client.request("echo", b"hello", timeout=0.1)
    late, *frames = bare.recv()
    assert frames == [*request, b"hello"]
    call = ask(client, "echo", b"hello")
    sender, *frames = bare.recv()
    assert frames == [*request, b"hello"]
    assert sender != late
    bare.send(late, *reply, b"late")
    bare.send(sender, *reply, b"right")
    assert call.get(timeout=DEADLINE) == [b"right"]


def test_client_01_uses_a_new_socket_after_a_timeout() -> None:
    with router() as bare, Client(bare.endpoint, version="0.1", timeout=DEADLINE) as client:
        until_connected(bare, client, [b"", b"MDPC01"])
        talk_too_late(bare, client, [b"", b"MDPC01", b"echo"], [b"", b"MDPC01", b"echo"])


def test_client_02_uses_a_new_socket_after_a_timeout() -> None:
    with router() as bare, Client(bare.endpoint, version="0.2", timeout=DEADLINE) as client:
        until_connected(bare, client, [b"MDPC02", b"\x03"])
        talk_too_late(bare, client, [b"MDPC02", b"\x01", b"echo"], [b"MDPC02", b"\x03", b"echo"])


def until_connected(bare: Peer, client: Client, reply: list[bytes]) -> None:
    """Have one call answered, so that there is an open connection."""
    call = ask(client, "echo", b"")
    bare.send(bare.recv()[0], *reply, b"echo", b"")
    call.get(timeout=DEADLINE)


@pytest.mark.parametrize(
    ("version", "request_frames", "reply"),
    [
        ("0.1", [b"", b"MDPC01", b"echo", b"hello"], [b"", b"MDPC01", b"echo", b"right"]),
        ("0.2", [b"MDPC02", b"\x01", b"echo", b"hello"], [b"MDPC02", b"\x03", b"echo", b"right"]),
    ],
    ids=["0.1", "0.2"],
)
def test_client_retries_on_a_new_socket(version: str, request_frames: list[bytes], reply: list[bytes]) -> None:
    with router() as bare, Client(bare.endpoint, version=version) as client:
        # Two tries with half the time each; the second is answered.
        call = ask(client, "echo", b"hello", timeout=3, retries=1)
        first, *frames = bare.recv()
        assert frames == request_frames
        second, *frames = bare.recv()
        assert frames == request_frames
        assert second != first
        bare.send(first, *reply[:-1], b"late")
        bare.send(second, *reply)
        assert call.get(timeout=DEADLINE) == [b"right"]
        assert client.statistics().retries == 1
