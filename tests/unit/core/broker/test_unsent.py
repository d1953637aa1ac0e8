"""Where messages stand among those to be sent."""

import pytest
from brokers import SecuredBroker, counters
from cores import MDP02, START, ManualBroker
from hypothesis import given
from hypothesis import strategies as st

from gmdp.core.broker.decisions import Outgoing
from gmdp.core.broker.options import ServiceOptions
from gmdp.core.broker.records import Connection, Service, Worker
from gmdp.core.broker.unsent import Unsent
from gmdp.protocol import token
from gmdp.protocol.dialects import EMPTY, RFC18


class CountingList(list):
    """A list that counts how many of its items were looked at."""

    looks = 0

    def __getitem__(self, key):
        self.looks += 1
        return super().__getitem__(key)

    def __iter__(self):
        for item in super().__iter__():
            self.looks += 1
            yield item


@pytest.mark.parametrize("sent", [True, False], ids=["sent", "unsent"])
@pytest.mark.parametrize("closed", ["one by one", "in one pass", "behind one proxy"])
def test_B12_a_loss_does_not_look_at_every_message_to_be_sent(closed, sent):
    """Thousands of workers are lost before the next message is sent: each request goes to another worker."""
    broker = ManualBroker()
    core = broker.core
    behind_proxy = closed == "behind one proxy"
    for number in range(300):
        stack = [b"proxy", b"W%d" % number, b""] if behind_proxy else [b"W%d" % number]
        core.feed([*stack, *MDP02.ready(b"echo")], broker.now)
        core.feed([b"client", *MDP02.client_request(b"echo", b"x")], broker.now)
    for number in range(300):
        core.feed([b"V%d" % number, *MDP02.ready(b"echo")], broker.now)
    if sent:
        core.take()
    state = core._state
    state.outbox, state.unsent = CountingList(state.outbox), None
    if closed == "in one pass":
        for connection in list(core._registry.connections.values())[:300]:
            core.send_failed(Outgoing(list(connection.address), connection, False), False, broker.now)
        core.on_caught_up(broker.now)
    else:
        for number in range(1 if behind_proxy else 300):
            core.on_connection_closed(b"proxy" if behind_proxy else b"W%d" % number, broker.now)
    assert [outgoing.frames[0] for outgoing in list.__iter__(state.outbox)] == [b"V%d" % at for at in range(300)]
    assert state.outbox.looks <= 2 * 300
    assert core.counters.redeliveries == (300 if sent else 0)


def test_B12_clients_that_are_gone_are_looked_for_once():
    broker = SecuredBroker()
    core = broker.core
    for number in range(300):
        core.feed([b"C%d" % number, *MDP02.client_request(b"mmi.service", b"x")], broker.now, "caller")
    state = core._state
    state.outbox = CountingList(state.outbox)
    assert len(state.outbox) == 300
    for number in range(299):
        core.on_connection_closed(b"C%d" % number, broker.now)
    assert [outgoing.frames[0] for outgoing in list.__iter__(state.outbox)] == [b"C299"]
    assert state.outbox.looks <= 2 * 300
    assert counters(broker).drops["client_gone"] == 299


def test_what_was_sent_is_not_taken_back():
    """Two workers were lost in one burst, then their requests were sent to others: those have them."""
    broker = ManualBroker(attempts=3)
    for peer in (b"V0", b"V1"):
        broker.ready(MDP02, peer)
        broker.ask(MDP02, b"client", b"x")
        broker.assignment(MDP02, peer)
    for peer in (b"W0", b"W1"):
        broker.ready(MDP02, peer)
    for peer in (b"V0", b"V1"):
        broker.core.feed([peer, *MDP02.disconnect], broker.now)
    broker.collect()
    broker.feed(b"W0", MDP02.disconnect)
    broker.ready(MDP02, b"X")
    address, _ = broker.assignment(MDP02, b"X")
    assert token.read(address).attempt == 3


@given(st.lists(st.tuples(st.sampled_from(["request", "message", "take back", "drop", "lose"]), st.integers(0, 3))))
def test_as_if_all_messages_were_looked_at(steps):
    """Whatever is decided in between."""
    service = Service(b"echo", ServiceOptions(), "")
    workers = []
    for number in range(4):
        address = (b"%d" % (number % 2),)
        connection = Connection(b"%d" % number, address, RFC18, RFC18, START, "")
        workers.append(Worker(connection, EMPTY, service, START))
    outbox, expected = [], []
    unsent = Unsent(outbox)
    for step, number in steps:
        worker = workers[number]
        if step == "request" and all(outgoing.target is not worker for outgoing in expected):
            outbox.append(Outgoing([*worker.head, b"%d" % len(outbox)], worker, True))
            expected.append(outbox[-1])
        elif step == "message":
            outbox.append(Outgoing([b"%d" % number, b"%d" % len(outbox)], None, True))
            expected.append(outbox[-1])
        elif step == "take back":
            mine = [outgoing for outgoing in expected if outgoing.target is worker]
            assert unsent.take_back(worker) is bool(mine)
            expected = [outgoing for outgoing in expected if outgoing not in mine]
        elif step == "drop":
            left = [
                outgoing
                for outgoing in expected
                if outgoing.frames[0] != b"%d" % number or (outgoing.target is not None and outgoing.target.stands())
            ]
            assert unsent.drop(b"%d" % number) == len(expected) - len(left)
            expected = left
        elif step == "lose":
            worker.registered = False
        assert outbox == expected
