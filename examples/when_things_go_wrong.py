"""What a caller hears, and what a handler sees: no worker, failures, time that is up,
cancelled calls, and requests that kill whoever works on them."""

import logging

import gevent
from gevent.event import Event

from gmdp import AsyncClient, Broker, DeadLetter, HandlerFailed, NoWorker, Request, RequestCancelled, Worker, WorkerLost


def divide(request: Request) -> bytes:
    dividend, divisor = map(int, request.body)
    return b"%d" % (dividend // divisor)


def patient(request: Request) -> bytes:
    """Works for as long as somebody waits, and says how it was told to stop."""
    started.set()
    try:
        while True:
            gevent.sleep(0.01)  # a piece of work
    except RequestCancelled as why:
        print("stopped:", why)
        stopped.set()
        raise


def bury(letter: DeadLetter, broker: Broker) -> None:
    print("dead letter:", letter.service, letter.body, letter.reason, "after", letter.attempts, "attempts")


started, stopped = Event(), Event()


def main() -> None:
    logging.getLogger("gmdp").addHandler(logging.NullHandler())  # it would tell of each failure, too
    with Broker("tcp://127.0.0.1:*", attempts=1, dead_letter=bury) as broker, AsyncClient(broker.endpoint) as client:
        # No worker yet: wait for one (the default), or hear so at once.
        try:
            client.request("divide", [b"6", b"3"], when_no_worker="fail")
        except NoWorker as error:
            print(type(error).__name__, "after", error.attempt, "try")

        # The type and message of a handler's error are told only if the worker says so.
        with Worker(broker.endpoint, "divide", divide, reveal_errors=True):
            try:
                client.request("divide", [b"6", b"0"])
            except HandlerFailed as error:
                print(error.type_name, "|", error.detail)

        # A handler knows how long its caller waits; one that is not wanted any more is stopped.
        with Worker(broker.endpoint, "patient", patient, enforce_deadline=True):
            future = client.submit("patient", b"", timeout=60)
            started.wait()
            future.cancel()
            stopped.wait()

        # A worker that goes away over a request: another one gets it, `attempts` in all.
        def die(request: Request) -> None:
            worker.close()
            gevent.sleep(60)

        worker = Worker(broker.endpoint, "deadly", die)
        worker.start()
        try:
            client.request("deadly", b"poison")
        except WorkerLost as error:
            print(type(error).__name__, "after", error.deliveries, "delivery")


if __name__ == "__main__":
    main()
