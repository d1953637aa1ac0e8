"""The client whose calls need not be waited for."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gevent.queue import Queue
from zope.interface import implementer

from ..exceptions import ConfigurationError
from ..interfaces import IAsyncClient
from ..protocol.extension import NORMAL_PRIORITY
from ..validation import check_number, check_service
from .client import Client
from .futures import Future, FutureAnswer
from .options import CallOptions


@implementer(IAsyncClient)
class AsyncClient(Client):
    """A :class:`Client` whose calls need not be waited for.

    `submit` and `map` are for greenlets of the thread the client belongs to; so it is never
    `threaded` (ConfigurationError).
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if self.threaded:
            raise ConfigurationError("threaded is for Client: an AsyncClient's futures need the hub of their thread")

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
        """Begin a call; returns a gevent ``AsyncResult`` of what `request` returns.

        Its ``get`` raises what `request` raises; its ``cancel`` cancels the call.
        Arguments as for `request`; a wrong one raises here.
        """
        options = self._defaults.override(
            timeout=timeout,
            retries=retries,
            when_no_worker=when_no_worker,
            priority=priority,
            traceparent=traceparent,
        )
        return self._submit(service, body, options)

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
        """An iterator over the replies to `bodies`, which are taken one by one.

        At most `in_flight` calls are begun and unread at a time.  `ordered`:
        replies in the order of the bodies, else as they come.  A call's error
        is raised where its reply would be, and ends the iteration; that, and
        closing the iterator, cancels the calls still open.  Other arguments as
        for `request`, per call.
        """
        check_number("in_flight", in_flight, at_least=1, whole=True)
        options = self._defaults.override(
            timeout=timeout,
            retries=retries,
            when_no_worker=when_no_worker,
            priority=priority,
            traceparent=traceparent,
        )
        return self._map(check_service(service), iter(bodies), options, in_flight, ordered)

    def _submit(self, service: str | bytes, body: bytes | Sequence[bytes], options: CallOptions) -> Future:
        answer = FutureAnswer()
        self._begin(answer, service, body, options, options.timeout)
        return answer.future

    def _map(
        self,
        service: bytes,
        bodies: Iterator[bytes | Sequence[bytes]],
        options: CallOptions,
        in_flight: int,
        ordered: bool,
    ) -> Iterator[list[bytes]]:
        open_calls: deque[Future] = deque()
        done: Queue[Future] = Queue()
        try:
            while True:
                for body in itertools.islice(bodies, in_flight - len(open_calls)):
                    future = self._submit(service, body, options)
                    open_calls.append(future)
                    if not ordered:
                        future.rawlink(done.put_nowait)
                if not open_calls:
                    return
                if ordered:
                    reply = open_calls[0].get()
                    open_calls.popleft()
                else:
                    future = done.get()
                    open_calls.remove(future)
                    reply = future.get()
                yield reply
        finally:
            for future in open_calls:
                future.cancel()
