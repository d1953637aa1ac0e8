"""Failures as callers and handlers see them.

No worker, failed handlers, deadlines, cancelled calls, and requests that kill their workers.
"""

import logging

import gevent
from gevent.event import Event

from gmdp import AsyncClient, Broker, DeadLetter, HandlerFailed, NoWorker, Request, RequestCancelled, Worker, WorkerLost


def divide(request: Request) -> bytes:
    dividend, divisor = map(int, request.body)
    return b"%d" % (dividend // divisor)


def patient(request: Request) -> bytes:
    """Work for as long as a caller waits, and print why the work was stopped."""
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
    logging.getLogger("gmdp").addHandler(logging.NullHandler())  # without a handler, each failure would be printed, too
    with Broker("tcp://127.0.0.1:*", attempts=1, dead_letter=bury) as broker, AsyncClient(broker.endpoint) as client:
        # There is no worker yet: a call waits for one (the default) or fails at once.
        try:
            client.request("divide", [b"6", b"3"], when_no_worker="fail")
        except NoWorker as error:
            print(type(error).__name__, "after", error.attempt, "try")

        # A caller learns the type and message of a handler's error only if the worker reveals them.
        with Worker(broker.endpoint, "divide", divide, reveal_errors=True):
            try:
                client.request("divide", [b"6", b"0"])
            except HandlerFailed as error:
                print(error.type_name, "|", error.detail)

        # A handler knows how long its caller waits, and is stopped when the caller has gone.
        with Worker(broker.endpoint, "patient", patient, enforce_deadline=True):
            future = client.submit("patient", b"", timeout=60)
            started.wait()
            future.cancel()
            stopped.wait()

        # If a worker is lost over a request, another gets the request, `attempts` times in all.
        def die(request: Request) -> bytes:
            worker.close()
            gevent.sleep(60)
            return b"never"

        worker = Worker(broker.endpoint, "deadly", die)
        worker.start()
        try:
            client.request("deadly", b"poison")
        except WorkerLost as error:
            print(type(error).__name__, "after", error.deliveries, "delivery")


if __name__ == "__main__":
    main()
