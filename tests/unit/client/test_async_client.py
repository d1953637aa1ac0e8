"""A client whose calls need not be waited for: many at once, and `map`."""

import threading

import gevent
import peers
import pytest
from gevent.event import Event
from gevent.pool import Group
from waiting import wait_until

from gmdp import AsyncClient, ConfigurationError, RequestTimeout, Worker


def echo(request):
    return request.body


# Many at once


def test_submit_many_at_once(echoing):
    with AsyncClient(echoing.endpoint) as client:
        futures = [client.submit("echo", b"%d" % number) for number in range(500)]
        assert [future.get() for future in futures] == [[b"%d" % number] for number in range(500)]
        now = client.statistics()
        assert (now.requests, now.replies, now.in_flight, now.waiting) == (500, 500, 0, 0)


def test_C4_ten_thousand_calls_at_once_over_one_socket(broker, client):
    with Worker(broker.endpoint, "echo", echo, concurrency=100) as worker:
        futures = [client.submit("echo", b"%d" % number) for number in range(10_000)]
        wait_until(lambda: client.statistics().in_flight == 10_000 or futures[-1].ready())
        assert [future.get() for future in futures] == [[b"%d" % number] for number in range(10_000)]
        now = client.statistics()
        assert (now.sockets, now.replies, now.late_replies, now.malformed) == (1, 10_000, 0, 0)
        assert worker.statistics().sockets == 1
    assert broker.statistics().requests == 10_000


def test_C4_a_thousand_greenlets_and_eight_threads_share_one_socket(broker, client):
    replies = {}

    def ask(name):
        for number in range(10):
            body = b"%s/%d" % (name, number)
            assert client.request("echo", body) == [body]
        replies[name] = True

    with Worker(broker.endpoint, "echo", echo, concurrency=50):
        threads = [threading.Thread(target=ask, args=(b"thread %d" % number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        greenlets = Group()
        for number in range(1000):
            greenlets.spawn(ask, b"greenlet %d" % number)
        greenlets.join(raise_error=True)
        wait_until(lambda: not any(thread.is_alive() for thread in threads))
    assert len(replies) == 1008
    assert client.statistics().sockets == 1


def test_B3_a_client_that_pauses_with_ten_thousand_calls_out_gets_every_reply(broker):
    """In a process of its own, which does not run its hub for two seconds."""
    code = (
        "import sys, time, gevent, gmdp\n"
        "with gmdp.AsyncClient(sys.argv[1]) as client:\n"
        "    assert client.request('echo', b'') == [b'']\n"
        "    futures = [client.submit('echo', b'%d' % n) for n in range(10_000)]\n"
        "    while client.statistics().in_flight + client.statistics().replies < 10_001 or not futures[99].ready():\n"
        "        gevent.sleep(0)\n"
        "    time.sleep(2)\n"
        "    assert [f.get() for f in futures] == [[b'%d' % n] for n in range(10_000)]\n"
        "    print('all')\n"
    )
    with Worker(broker.endpoint, "echo", echo, concurrency=100), peers.Script(code, broker.endpoint) as script:
        assert script.line(timeout=60) == "all"
    assert broker.statistics().drops == {}


# map


def test_map_in_order_takes_bodies_one_by_one(echoing):
    taken = []

    def bodies():
        for number in range(200):
            taken.append(number)
            yield b"%d" % number

    with AsyncClient(echoing.endpoint) as client:
        replies = client.map("echo", bodies(), in_flight=7)
        assert taken == []
        for number, reply in enumerate(replies):
            assert reply == [b"%d" % number]
            assert len(taken) <= number + 8
        assert number == 199


def test_map_submits_through_the_method_that_a_subclass_may_extend(echoing):
    class Counting(AsyncClient):
        submitted = 0

        def submit(self, *args, **options):
            self.submitted += 1
            return super().submit(*args, **options)

    with Counting(echoing.endpoint) as client:
        assert list(client.map("echo", [b"a", b"b"], timeout=5, priority=2)) == [[b"a"], [b"b"]]
        assert client.submitted == 2


def test_map_as_completed(broker):
    holds = {b"slow": Event(), b"fast": Event()}
    holds[b"fast"].set()

    def handler(request):
        holds[request.body[0]].wait()
        return request.body

    with Worker(broker.endpoint, "it", handler, concurrency=2), AsyncClient(broker.endpoint) as client:
        replies = client.map("it", [b"slow", b"fast", b"fast"], ordered=False)
        assert next(replies) == [b"fast"]
        assert next(replies) == [b"fast"]
        holds[b"slow"].set()
        assert list(replies) == [[b"slow"]]


@pytest.mark.parametrize("ordered", [True, False])
def test_map_raises_a_call_s_error_and_cancels_the_rest(broker, held, ordered):
    with AsyncClient(broker.endpoint) as client:
        with pytest.raises(RequestTimeout):
            list(client.map("held", [b"x"] * 9, in_flight=4, ordered=ordered, timeout=0.05))
        wait_until(lambda: client.statistics().in_flight + client.statistics().waiting == 0)
        now = client.statistics()
        assert now.timeouts + now.cancelled == now.requests == 4


def test_closing_map_cancels_the_calls_still_open(broker, held):
    with AsyncClient(broker.endpoint) as client:
        replies = client.map("held", [b"x"] * 9, in_flight=4)
        reader = gevent.spawn(next, replies)
        wait_until(lambda: client.statistics().in_flight == 4)
        reader.kill()
        replies.close()
        wait_until(lambda: client.statistics().cancelled == 4)
        assert client.statistics().in_flight == 0


def test_map_checks_its_options_when_it_is_called(client):
    """A generator would check them when its first reply is asked for."""
    for wrong in ({"timeout": 0}, {"priority": 4}, {"in_flight": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            client.map("echo", iter(()), **wrong)
