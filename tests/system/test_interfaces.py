"""Every class keeps its contract, in every state."""

import gevent
import pytest
from waiting import wait_until
from zope.interface.verify import verifyClass, verifyObject

from gmdp import AsyncClient, Broker, Client, ForwardDeadLetters, LogDeadLetters, Request, State, Worker
from gmdp.interfaces import (
    IAsyncClient,
    IBroker,
    IClient,
    IDeadLetterHook,
    ILifecycle,
    IRequest,
    IRequestHandler,
    IWorker,
)

CLASSES = [
    (Broker, IBroker),
    (Worker, IWorker),
    (Client, IClient),
    (AsyncClient, IAsyncClient),
    (Request, IRequest),
    (LogDeadLetters, IDeadLetterHook),
    (ForwardDeadLetters, IDeadLetterHook),
]


@pytest.mark.parametrize(("cls", "interface"), CLASSES)
def test_class_keeps_its_contract(cls, interface):
    assert verifyClass(interface, cls)


@pytest.mark.parametrize("interface", [IBroker, IWorker, IClient, IAsyncClient])
def test_what_can_run_has_the_life_cycle(interface):
    assert interface.isOrExtends(ILifecycle)


def check(interface, shell, state):
    assert shell.state is state
    assert verifyObject(interface, shell)
    assert verifyObject(ILifecycle, shell)
    assert state.value in repr(shell)


def test_broker_in_every_state():
    broker = Broker("tcp://127.0.0.1:*")
    check(IBroker, broker, State.NEW)
    seen = []
    queue = broker.subscribe()
    with broker:
        check(IBroker, broker, State.RUNNING)
        with (
            Worker(broker.endpoint, "slow", lambda request: hold.wait() and b"") as worker,
            AsyncClient(broker.endpoint) as client,
        ):
            hold = gevent.event.Event()
            future = client.submit("slow", b"")
            wait_until(lambda: broker.statistics().assigned)
            stopper = gevent.spawn(broker.stop)
            wait_until(lambda: broker.state is State.DRAINING)
            check(IBroker, broker, State.DRAINING)
            hold.set()
            assert future.get() == [b""]
            stopper.join()
            check(IBroker, broker, State.CLOSED)
            wait_until(lambda: worker.state is State.CONNECTING)
            check(IWorker, worker, State.CONNECTING)
    while not queue.empty():
        seen.append(queue.get().new)
    assert seen == [State.STARTING, State.RUNNING, State.DRAINING, State.CLOSED]


def test_worker_in_every_state(broker):
    hold = gevent.event.Event()
    worker = Worker(broker.endpoint, "slow", lambda request: hold.wait() and b"")
    check(IWorker, worker, State.NEW)
    worker.start()
    check(IWorker, worker, State.CONNECTING)
    wait_until(lambda: worker.state is State.RUNNING)
    check(IWorker, worker, State.RUNNING)
    with AsyncClient(broker.endpoint) as client:
        future = client.submit("slow", b"")
        wait_until(lambda: worker.statistics().busy)
        stopper = gevent.spawn(worker.stop)
        wait_until(lambda: worker.state is State.DRAINING)
        check(IWorker, worker, State.DRAINING)
        hold.set()
        assert future.get() == [b""]
    stopper.join()
    check(IWorker, worker, State.CLOSED)


@pytest.mark.parametrize(("cls", "interface"), [(Client, IClient), (AsyncClient, IAsyncClient)])
def test_client_in_every_state(broker, cls, interface):
    client = cls(broker.endpoint)
    check(interface, client, State.NEW)
    client.request("mmi.broker", b"")
    check(interface, client, State.RUNNING)
    client.close()
    check(interface, client, State.CLOSED)


def test_the_state_is_starting_while_sockets_are_opened(broker):
    """Within start()."""

    class Curious(Worker):
        def _open(self):
            check(IWorker, self, State.STARTING)
            return super()._open()

    with Curious(broker.endpoint, "echo", lambda request: request.body) as worker:
        assert worker.started


def test_a_user_s_own_handler_can_be_verified(broker):
    from zope.interface import implementer

    @implementer(IRequestHandler)
    class Upper:
        def __call__(self, request):
            assert verifyObject(IRequest, request)
            return [frame.upper() for frame in request.body]

    handler = Upper()
    assert verifyObject(IRequestHandler, handler)
    with Worker(broker.endpoint, "upper", handler), Client(broker.endpoint) as client:
        assert client.request("upper", [b"a", b"b"]) == [b"A", b"B"]
