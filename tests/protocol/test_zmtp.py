"""Peers of the older versions of ZMTP: 2.0 (libzmq 3, jeromq 0.3) and 3.0 (libzmq 4.0)."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from time import monotonic

import gevent
import pytest
import zmq
from peers import Peer
from waiting import wait_until
from zmtp import DEADLINE, Zmtp, ZmtpServer

from gmdp import AsyncClient, Broker, BrokerLost, Client, Worker
from gmdp.broker import engine
from gmdp.io import reports

VERSIONS = pytest.mark.parametrize("version", ["2.0", "3.0"])


def strict_broker(handle: Callable[[list[bytes]], list[bytes] | None]) -> Callable[[Zmtp], None]:
    """A broker of RFC 7: answers probes with 501, and anything else with what `handle` returns for its frames."""

    def serve(peer: Zmtp) -> None:
        while True:
            message = peer.recv()
            answer = [*message[:-1], b"501"] if message[2] == b"mmi.gmdp" else handle(message)
            if answer is not None:
                peer.send(*answer)

    return serve


def echo(message: list[bytes]) -> list[bytes]:
    return message


@VERSIONS
def test_F7_a_client_at_a_broker_of_an_older_zmtp(version: str) -> None:
    """The handshake of ZMTP 2.0 is never reported: the broker takes the probe, and that counts."""
    with ZmtpServer(version, strict_broker(echo)) as server:
        with Client(server.endpoint, version="0.1", timeout=DEADLINE) as client:
            for number in range(3):
                assert client.request("echo", b"%d" % number) == [b"%d" % number]
            assert client.extensions is False
        assert server.accepted == 1


@VERSIONS
def test_F7_many_calls_at_a_broker_of_an_older_zmtp(version: str) -> None:
    """Each call has a connection of its own; the further ones are not probed."""
    waiting: list[Zmtp] = []

    def serve(peer: Zmtp) -> None:
        while True:
            message = peer.recv()
            if message[2] == b"mmi.gmdp":
                peer.send(*message[:-1], b"501")
                continue
            waiting.append(peer)
            wait_until(lambda: len(waiting) >= 3)
            peer.send(*message)

    with ZmtpServer(version, serve) as server, AsyncClient(server.endpoint, version="0.1", timeout=DEADLINE) as client:
        futures = [client.submit("echo", b"%d" % number) for number in range(3)]
        assert [future.get() for future in futures] == [[b"0"], [b"1"], [b"2"]]
        assert server.accepted == 3


@VERSIONS
def test_F7_a_worker_at_a_broker_of_an_older_zmtp(version: str) -> None:
    replies: list[list[bytes]] = []

    def handle(message: list[bytes]) -> list[bytes] | None:
        if message == [b"", b"MDPW01", b"\x01", b"echo"]:
            return [b"", b"MDPW01", b"\x02", b"address", b"", b"hello"]
        if message[2] == b"\x03":
            replies.append(message)
        return None

    with (
        ZmtpServer(version, strict_broker(handle)) as server,
        Worker(server.endpoint, "echo", lambda request: request.body, version="0.1"),
    ):
        wait_until(lambda: replies)
    assert replies == [[b"", b"MDPW01", b"\x03", b"address", b"", b"hello"]]


def test_F7_the_end_of_a_connection_to_a_broker_of_zmtp_20_is_a_lost_broker() -> None:
    """It is reported as a handshake that failed, long after the handshake."""

    def serve(peer: Zmtp) -> None:
        message = peer.recv()
        peer.send(*message[:-1], b"501")
        peer.recv()
        peer.close()

    with ZmtpServer("2.0", serve) as server, Client(server.endpoint, version="0.1", timeout=DEADLINE) as client:
        with pytest.raises(BrokerLost, match="the connection was closed"):
            client.request("echo", b"hello")


def test_F7_a_silent_listener_is_no_broker_of_zmtp_20() -> None:
    """Its transport is connected, but it takes no probe: the next endpoint is used."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Broker("tcp://127.0.0.1:*") as broker:
        silent = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with Client([silent, broker.endpoint], timeout=DEADLINE) as client:
            client.start()
            client._core.connect_timeout = 0.1
            assert client.request("mmi.nothing", b"") == [b"501"]


@VERSIONS
def test_F7_peers_of_an_older_zmtp_at_our_broker(version: str, caplog: pytest.LogCaptureFixture) -> None:
    """They are served, and their connections are not logged as refused, however short they are."""
    caplog.set_level(logging.INFO)
    with Broker("tcp://127.0.0.1:*") as broker:
        with Zmtp.connect(broker.endpoint, version, "DEALER") as worker:
            worker.send(b"", b"MDPW01", b"\x01", b"echo")
            for number in range(3):
                with Zmtp.connect(broker.endpoint, version, "REQ") as client:
                    client.send(b"", b"MDPC01", b"echo", b"hello %d" % number)
                    request = worker.recv()
                    worker.send(*request[:2], b"\x03", *request[3:])
                    assert client.recv() == [b"", b"MDPC01", b"echo", b"hello %d" % number]
        wait_until(lambda: broker._engine._census.accepted == 0 and not len(broker._engine._census))
        # A connection that breaks off in its handshake is still counted.
        with socket.create_connection(("127.0.0.1", int(broker.endpoint.rpartition(":")[2]))) as stranger:
            stranger.sendall(b"\xff")
        wait_until(lambda: broker.statistics().refused_connections == {"handshake": 1})
        assert broker.statistics().replies == 3
    refused = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert refused == ["connection_refused reason='handshake'"]


def test_F7_a_peer_of_zmtp_20_that_says_one_thing_while_others_come_and_go() -> None:
    with Broker("tcp://127.0.0.1:*") as broker, Client(broker.endpoint, timeout=DEADLINE) as client:

        def come_and_go() -> None:
            for version in ("3.0", "2.0", "2.0"):
                with Zmtp.connect(broker.endpoint, version, "REQ") as peer:
                    peer.send(b"", b"MDPC01", b"mmi.service", b"echo")
                    assert peer.recv() == [b"", b"MDPC01", b"mmi.service", b"404"]

        visitors = [gevent.spawn(come_and_go) for _ in range(4)]
        while not all(visitor.ready() for visitor in visitors):
            assert client.request("mmi.nothing", b"") == [b"501"]
        gevent.joinall(visitors, raise_error=True)
        wait_until(lambda: len(broker._engine._census) == 1)
        client.request("mmi.nothing", b"")
        assert broker.statistics().refused_connections == {}
        assert broker.statistics().connections_accepted == 13


@pytest.mark.parametrize("count", [1, 2])
def test_F7_a_peer_of_zmtp_20_counts_as_having_spoken_though_its_connection_is_reported_late(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the second one that speaks under the same routing id."""
    monkeypatch.setattr(reports._ReportSocket, "_on_readable", lambda self: None)
    with Broker("tcp://127.0.0.1:*") as broker:
        census = broker._engine._census
        for _ in range(count):
            with Zmtp.connect(broker.endpoint, "2.0", "REQ", identity=b"me") as peer:
                peer.send(b"", b"MDPC01", b"mmi.service", b"echo")
                assert peer.recv() == [b"", b"MDPC01", b"mmi.service", b"404"]
                assert census._unreported_speakers == {b"me"}
            wait_until(lambda: broker._engine.link.poll_peers(monotonic()) or not len(census))
            census.judge()


@pytest.mark.parametrize("transport", ["tcp", "inproc"])
def test_F7_what_the_broker_remembers_of_peers_that_are_gone_is_bounded(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MAX_STALE", 5)
    with Broker("tcp://127.0.0.1:*" if transport == "tcp" else "inproc://gone") as broker:
        for _ in range(20):
            with Peer(zmq.REQ, broker.endpoint) as peer:
                peer.send(b"MDPC01", b"mmi.service", b"echo")
                assert peer.recv() == [b"MDPC01", b"mmi.service", b"404"]
            wait_until(lambda: not len(broker._engine._census))
            assert len(broker._engine._heard) <= 6
