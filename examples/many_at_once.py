"""One client for many greenlets; calls without waiting; CPU work off the hub."""

import hashlib

import gevent
from gevent.threadpool import ThreadPool

from gmdp import AsyncClient, Broker, Request, Worker


def digest(request: Request) -> bytes:
    """Compute a digest.  In a thread, this blocks neither the hub nor the worker's heartbeats."""
    return hashlib.sha256(b"".join(request.body)).hexdigest().encode()


def main() -> None:
    with (
        Broker("tcp://127.0.0.1:*") as broker,
        Worker(broker.endpoint, "sha256", digest, concurrency=4, spawn=ThreadPool(4)),
        AsyncClient(broker.endpoint) as client,
    ):
        # Calls from many greenlets:
        callers = [gevent.spawn(client.request, "sha256", b"%d" % number) for number in range(100)]
        gevent.joinall(callers, raise_error=True)

        # A call without waiting:
        future = client.submit("sha256", b"later")

        # Many bodies, a bounded number of calls at a time, replies in order:
        bodies = (b"%d" % number for number in range(100))
        same = [reply == caller.value for reply, caller in zip(client.map("sha256", bodies), callers, strict=True)]
        print(f"{sum(same)} of {len(same)} digests agree")
        print(f"later: {future.get()[0].decode()[:16]}...")
        print(client.statistics())


if __name__ == "__main__":
    main()
