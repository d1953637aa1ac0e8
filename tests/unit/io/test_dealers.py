"""The sockets of clients and workers: opened, waited for, closed."""

import pytest
import zmq
import zmq.green

from gmdp import Client, Worker
from gmdp.core.peer.connector import Connection, Phase
from gmdp.io import dealers
from gmdp.io.dealers import SendQueue, open_dealer
from gmdp.io.owner import Owner
from gmdp.io.resolving import Answer
from gmdp.io.slots import Slot


class Link:
    """Has room for so many messages."""

    def __init__(self, room):
        self.room = room
        self.sent = []
        self.closed_with = None

    def send(self, frames):
        if not self.room:
            return "full"
        self.room -= 1
        self.sent.append(frames)
        return None

    def close(self, linger):
        self.closed_with = linger


def test_unsent_messages_are_sent_in_order_and_waiters_told():
    link = Link(room=2)
    queue = SendQueue(link)
    queue.unsent.extend([[b"1"], [b"2"], [b"3"]])
    slot = Slot()
    queue.waiters.append(slot)
    assert not queue.send_unsent()
    assert not slot.wait(0)
    link.room = 5
    assert queue.send_unsent()
    assert link.sent == [[b"1"], [b"2"], [b"3"]]
    assert slot.wait(1)
    assert slot.get() is True


def test_a_closed_queue_drops_its_messages_and_tells_waiters():
    link = Link(room=0)
    queue = SendQueue(link)
    queue.unsent.append([b"1"])
    queue.closing = True
    slot = Slot()
    queue.waiters.append(slot)
    queue.drop_unsent()
    assert (list(queue.unsent), queue.closing) == ([], False)
    assert slot.wait(1)
    assert slot.get() is False


def test_a_dealer_that_libzmq_does_not_take_leaves_nothing_open():
    owner = Owner(None, "none")
    context = zmq.green.Context.instance()
    with pytest.raises(zmq.ZMQError):
        open_dealer(owner, context, "ipc://" + 200 * "x", None, (2.5, 7.5), None)
    assert owner._links == []
    assert not owner.ready


@pytest.mark.parametrize("heartbeat", [(2.5, 7.5), None])
def test_F5_the_options_of_a_dealer(unused_endpoint, heartbeat):
    owner = Owner(None, "none")
    link = open_dealer(owner, zmq.green.Context.instance(), unused_endpoint, None, heartbeat, None)
    options = (zmq.LINGER, zmq.RECONNECT_IVL, zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT)
    times = [2500, 7500] if heartbeat else [0, -1]
    assert [link.socket.get(option) for option in options] == [0, dealers.NEVER, *times]
    link.close()
    assert owner._links == []


class Core:
    """Takes note of what it is told of look-ups."""

    def __init__(self):
        self.looked_up = []

    def on_lookup(self, connection, now):
        """As a core has it."""

    def on_looked_up(self, connection, addresses, detail, now, jitter):
        self.looked_up.append((connection, addresses))


class Engine(dealers.ConnectorEngine):
    def _on_events(self, events, now):
        """There are none."""


def test_G11_a_name_server_that_never_answers_keeps_no_connections(monkeypatch):
    asked = []

    def look_up(host, callback):
        asked.append(host)
        callbacks.append(callback)
        return lambda: asked.remove(host)

    callbacks = []
    monkeypatch.setattr(dealers, "look_up", look_up)
    engine = Engine(Core(), None, None, None)
    engine.owner = type("Mailbox", (), {"post": staticmethod(lambda function, *args: function(*args))})
    for number in range(20):
        connection = Connection(f"tcp://silent:{number % 2}", number)
        engine._look_up(connection, "silent", str(number % 2), 0.0)
        if number < 18:
            connection.phase = Phase.CLOSED
    assert asked == ["silent"]
    callbacks[0](Answer(("127.0.0.1",)))
    told = [(connection.epoch, *addresses) for connection, addresses in engine.core.looked_up]
    assert told == [(18, "tcp://127.0.0.1:0"), (19, "tcp://127.0.0.1:1")]
    engine._look_up(connection, "silent", "1", 0.0)
    engine.cancel_lookups()
    callbacks[1](Answer(("127.0.0.1",)))
    assert (asked, len(engine.core.looked_up)) == (["silent"], 2)


def test_no_descriptors_left_is_one_more_lost_connection(broker, monkeypatch):
    """B9 on the worker's side: it tries again."""
    real, failures = dealers.open_dealer, [1, 2, 3]

    def open_or_fail(*args):
        if failures:
            failures.pop()
            raise zmq.ZMQError(24)
        return real(*args)

    monkeypatch.setattr(dealers, "open_dealer", open_or_fail)
    with Worker(broker.endpoint, "it", lambda r: r.body, reconnect_interval=0.001), Client(broker.endpoint) as client:
        assert client.request("it", b"x") == [b"x"]
    assert failures == []
