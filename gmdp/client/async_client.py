"""A client whose calls need not be waited for: futures, and many calls at a time."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from zope.interface import implementer

from ..interfaces import IAsyncClient
from ..protocol.extension import NORMAL_PRIORITY
from ..validation import check_number, check_service
from .client import Client
from .futures import EndedQueue, Future, FutureAnswer


@implementer(IAsyncClient)
class AsyncClient(Client):
    """A :class:`Client` whose calls need not be waited for.

    It takes the arguments of :class:`Client`, and is safe for the same greenlets and threads.  In a thread
    without a hub, futures are waited for without making one.
    """

    def submit(
        self,
        service: str | bytes,
        body: bytes | Sequence[bytes],
        *,
        timeout: float | None = None,
        retries: int | None = None,
        when_no_worker: str | None = None,
        priority: int = NORMAL_PRIORITY,
        traceparent: str | None = None,
    ) -> Future:
        """Begin a call, and do not wait for its answer.

        Any greenlet, any thread.

        Args:
            service: the service's name; a str is encoded as UTF-8.
            body: the request's frames; bytes are one frame.
            timeout: seconds in all, waiting in line included; None: the client's.
            retries: tries after the first one; None: the client's.
            when_no_worker: "wait" or "fail"; None: the client's.
            priority: from 0 to 3; higher is more urgent, and is served first.
            traceparent: the W3C ``traceparent`` to pass on to the handler.  None: that of the
                request the calling handler works on (:mod:`gmdp.tracing`).

        Returns:
            A gevent ``AsyncResult``.  Its ``get`` returns and raises what :meth:`request` does;
            its ``cancel`` cancels the call.

        Raises:
            ClosedError: the client is closed.
            StateError: the client must be started in another thread first, and the caller is a hook or a callback of
                the hub.
            ConfigurationError: an argument has a wrong value.
            TypeError: the service or the body has a wrong type.
        """
        options = self._defaults.override(
            timeout=timeout,
            retries=retries,
            when_no_worker=when_no_worker,
            priority=priority,
            traceparent=traceparent,
        )
        answer = FutureAnswer()
        self._begin_call(answer, service, body, options, options.timeout)
        return answer.future

    def map(
        self,
        service: str | bytes,
        bodies: Iterable[bytes | Sequence[bytes]],
        *,
        in_flight: int = 100,
        ordered: bool = True,
        timeout: float | None = None,
        retries: int | None = None,
        when_no_worker: str | None = None,
        priority: int = NORMAL_PRIORITY,
        traceparent: str | None = None,
    ) -> Iterator[list[bytes]]:
        """Ask a service once for each body, several calls at a time.

        Any greenlet, any thread.  The first error ends the iteration.  That, and
        closing the iterator, cancels the calls that are still open.

        Args:
            service: the service's name; a str is encoded as UTF-8.
            bodies: an iterable of bodies, each as for :meth:`request`.  The next one is taken
                whenever a call may begin.
            in_flight: calls that may be open at a time, replies not yet read included.
            ordered: replies come in the order of `bodies`, else as they arrive.
            timeout: seconds a call may take, waiting in line included; None: the client's.
            retries: tries after the first one; None: the client's.
            when_no_worker: "wait" or "fail"; None: the client's.
            priority: from 0 to 3; higher is more urgent, and is served first.
            traceparent: the W3C ``traceparent`` to pass on to the handler.  None: that of the
                request the calling handler works on (:mod:`gmdp.tracing`).

        Returns:
            An iterator over the replies, each a list of frames.  Iteration raises a call's
            error in place of its reply.

        Raises:
            ConfigurationError: an argument has a wrong value.
            TypeError: the service has a wrong type.
        """
        check_number("in_flight", in_flight, at_least=1, whole=True)
        options: dict[str, Any] = {
            "timeout": timeout,
            "retries": retries,
            "when_no_worker": when_no_worker,
            "priority": priority,
            "traceparent": traceparent,
        }
        self._defaults.override(**options)
        # Each call goes through `submit`, which a subclass may have extended.
        submit = functools.partial(self.submit, check_service(service), **options)
        return self._map(submit, iter(bodies), in_flight, ordered)

    def _map(
        self,
        submit: Callable[[bytes | Sequence[bytes]], Future],
        bodies: Iterator[bytes | Sequence[bytes]],
        in_flight: int,
        ordered: bool,
    ) -> Iterator[list[bytes]]:
        open_calls: deque[Future] = deque()
        done = EndedQueue()
        try:
            while True:
                for body in itertools.islice(bodies, in_flight - len(open_calls)):
                    future = submit(body)
                    open_calls.append(future)
                    if not ordered:
                        future.put_into(done)
                if not open_calls:
                    return
                if ordered:
                    reply = open_calls[0].get()
                    open_calls.popleft()
                else:
                    future = done.get(open_calls[0])
                    open_calls.remove(future)
                    reply = future.get()
                yield reply
        finally:
            for future in open_calls:
                future.cancel()
