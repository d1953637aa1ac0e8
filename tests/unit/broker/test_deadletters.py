"""Dead letters: logged, given to a hook, or forwarded to a service."""

import json
import logging

import peers
import pytest
from waiting import wait_until

from gmdp import Broker, ForwardDeadLetters, Worker


@pytest.fixture
def deadly():
    """A function: starts a broker with this hook, and loses the worker of each of some requests for "it"."""
    brokers = []

    def lose(hook, times=1):
        broker = Broker("tcp://127.0.0.1:*", attempts=1, dead_letter=hook)
        broker.start()
        brokers.append(broker)
        for number in range(times):
            with peers.dealer(broker.endpoint) as worker, peers.dealer(broker.endpoint) as client:
                worker.send(b"MDPW02", b"\x01", b"it")
                client.send(b"MDPC02", b"\x01", b"it", b"body", b"%d" % number)
                worker.recv()
                worker.send(b"MDPW02", b"\x06")
                wait_until(lambda number=number: broker.statistics().dead_letters == number + 1 or broker.closed)
        return broker

    yield lose
    for broker in brokers:
        broker.close()


def test_W5_dead_letters_are_logged_without_their_bodies(deadly, caplog):
    deadly(None)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "a request for 'it' was given up (attempts) after 1 attempt and 0.0 seconds"
    ]


def test_W5_a_hook_gets_each_dead_letter(deadly):
    letters = []
    broker = deadly(lambda letter, broker: letters.append((letter, broker)), times=2)
    assert [(letter.service, letter.body, letter.reason) for letter, _ in letters] == [
        (b"it", [b"body", b"0"], "attempts"),
        (b"it", [b"body", b"1"], "attempts"),
    ]
    assert {id(given) for _, given in letters} == {id(broker)}


def test_W5_dead_letters_may_go_to_a_service(deadly):
    broker = deadly("morgue", times=2)
    assert isinstance(broker.dead_letter, ForwardDeadLetters)
    seen = []
    with Worker(broker.endpoint, "morgue", lambda request: seen.append(request.body) or b""):
        wait_until(lambda: len(seen) == 2)
    facts = json.loads(seen[0][0])
    assert facts.pop("age") >= 0
    assert facts == {"service": "it", "attempts": 1, "reason": "attempts", "user": ""}
    assert [body[1:] for body in seen] == [[b"body", b"0"], [b"body", b"1"]]


def test_W5_dead_letters_of_the_dead_letters_service_are_only_logged(deadly, caplog):
    broker = deadly("it", times=2)
    assert broker.statistics().queued == 0
    assert len([record for record in caplog.records if "given up" in record.getMessage()]) == 2


def test_W5_a_dead_letter_without_room_in_the_queue_is_logged(deadly, caplog, monkeypatch):
    monkeypatch.setattr(Broker, "enqueue", lambda *_: False)
    deadly(ForwardDeadLetters("morgue"))
    assert "no room for a dead letter of 'it' at the service 'morgue'" in caplog.text


def test_an_error_of_the_hook_is_logged(deadly, caplog):
    def hook(letter, broker):
        raise ValueError("the hook's own fault")

    broker = deadly(hook, times=2)
    assert "the dead-letter hook failed for a request of 'it'" in caplog.text
    assert broker.started


def test_the_hook_may_stop_the_broker(deadly):
    broker = deadly(lambda letter, broker: broker.stop())
    wait_until(lambda: broker.closed)
    assert broker.statistics().dead_letters == 1


def test_enqueue_is_work_without_a_caller(broker):
    seen = []
    with Worker(broker.endpoint, "it", lambda request: seen.append(request.body) or b""):
        assert broker.enqueue("it", [b"a", b"b"])
        wait_until(lambda: seen == [[b"a", b"b"]])
        wait_until(lambda: broker.statistics().replies == 1)
    assert broker.statistics().drops == {}
    with pytest.raises(TypeError):
        broker.enqueue("it", "text")
    assert not Broker().enqueue("it", b"")
