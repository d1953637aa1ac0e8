"""The contracts, for code that wants to depend on no implementation."""

# mypy: disable-error-code="no-untyped-def, empty-body"
from __future__ import annotations

from zope.interface import Attribute, Interface


class ILifecycle(Interface):
    """Can be started and stopped; the idiom of gevent's ``BaseServer``.

    Unlike gevent's servers, ``with`` starts, ``start`` after ``stop`` works, and
    ``stop`` from one's own handler begins the stop and returns at once.
    """

    state = Attribute("The present ``gmdp.State``; readable from any thread at any time.")
    started = Attribute("bool: True from ``start()`` until stopping begins.")
    closed = Attribute("bool: True while no socket is held, before the first start too.")
    stop_timeout = Attribute("float: seconds ``stop()`` lets running work go on by default.")

    def start():
        """Open sockets and begin; no effect if started.

        Raises ConfigurationError, BindError, or StateError while stopping.
        """

    def stop(timeout=None):
        """Finish what is being done, for at most `timeout` seconds, and close.

        Waits for that, unless called from one's own handler.  No effect if not
        started.
        """

    def close():
        """Close at once; no effect if closed."""

    def serve_forever(stop_timeout=None):
        """Start unless started, and wait until stopped."""

    def subscribe(queue=None):
        """A gevent queue that receives every ``gmdp.StateChange`` from now on."""

    def unsubscribe(queue):
        """Send no more changes to `queue`."""

    def statistics():
        """An immutable copy of all counters; any greenlet, any thread, any state."""


class IBroker(ILifecycle):
    """Routes requests of clients to workers (RFC 7, RFC 18, RFC 8)."""

    options = Attribute("The ``BrokerOptions`` in force.")
    endpoint = Attribute("str: the first of ``endpoints``.")
    endpoints = Attribute("tuple of str: where it listens; wildcards resolved once started.")
    dead_letter = Attribute("The ``IDeadLetterHook`` in force.")
    audit = Attribute("The ``IAuditHook`` in force.")
    secured = Attribute("bool: whether connections need a key, a password or an allowed address.")

    def enqueue(service, body):
        """Have `service` work on a request whose answer nobody hears; False if there is no room."""

    def reconsider():
        """Ask the ``IAccessPolicy`` anew; what it does not allow any more is ended."""


class IDeadLetterHook(Interface):
    """What a broker calls with each request that workers were lost over."""

    def __call__(letter, broker):
        """Take note of `letter`, or hand it on, with ``broker.enqueue`` for instance.

        `letter` has ``service``, ``body`` (list of bytes), ``attempts``, ``reason``
        ("attempts", "worker_lost" or "expired"), ``age`` (seconds), ``user``.
        Called in the greenlet that owns the broker's socket: it must not block.  An
        exception is logged.
        """


class IAccessPolicy(Interface):
    """Who may do what with a broker."""

    def __call__(user, action, service):
        """True if `user` (str) may do `action` ("serve", "call" or "inspect") with `service` (bytes).

        Asked once for each user, action and service; the answer is remembered until
        ``broker.reconsider()``, or until a list of users changes.  `user` is who the
        connection's key or password says, empty where nobody is authenticated.  Called in
        the greenlet that owns the broker's socket: it must not block.  Whatever is neither
        True nor False, an exception too, denies, is logged, and is not remembered.
        """


class IAuditHook(Interface):
    """What a broker calls with each thing it did not let somebody do."""

    def __call__(record):
        """Take note of `record` (a ``gmdp.AuditRecord``).

        Called in the greenlet that owns the broker's socket: it must not block.  An
        exception is logged.
        """


class IWorker(ILifecycle):
    """Offers one service to a broker (RFC 7 and RFC 18, MDP/Worker)."""

    service = Attribute("bytes: the name of the service.")
    handler = Attribute("The ``IRequestHandler`` called for each request.")
    concurrency = Attribute("int: how many requests it works on at once.")
    version = Attribute('str: the protocol\'s version, "0.1" or "0.2".')
    endpoints = Attribute("tuple of str: the brokers, in order of preference.")
    extensions = Attribute("bool or None: whether the broker speaks gmdp's extension, once that is known.")


class IRequest(Interface):
    """One request as a handler gets it."""

    service = Attribute("bytes: the service asked for.")
    body = Attribute("list of bytes: the frames of the body, at least one.")
    attempt = Attribute("int: which attempt this is, from 1; 1 if the broker does not tell.")
    metadata = Attribute("Mapping of str to str: ``traceparent``, if the caller gave one.")
    received = Attribute("float: monotonic seconds when it arrived.")
    age = Attribute("float: seconds since it arrived.")

    def remaining():
        """Seconds its caller still waits, never below 0; None if nobody told.

        0 once the caller has gone.
        """


class IRequestHandler(Interface):
    """What a worker calls for each request."""

    def __call__(request):
        """Answer `request` (an ``IRequest``).

        Returns bytes (one frame), a list or tuple of bytes (the body), or an
        iterator: each of its items, bytes or such a list, goes out at once as a
        PARTIAL, and a generator's return value is the FINAL.  Anything else, and
        any exception, is a handler failure.  Called in a greenlet or thread of
        its own; several at once if the worker's concurrency is above 1.
        """


class IClient(ILifecycle):
    """Asks services (RFC 7 and RFC 18, MDP/Client).

    Safe for any number of greenlets, and for threads.  Each call ends in
    exactly one of: its own reply, RequestTimeout, or another error of gmdp.
    """

    endpoints = Attribute("tuple of str: the brokers, in order of preference.")
    version = Attribute('str: the protocol\'s version, "0.1" or "0.2".')
    endpoint = Attribute("str: the broker in use, or the one tried at present.")
    extensions = Attribute("bool or None: whether the broker speaks gmdp's extension, once that is known.")
    timeout = Attribute("float: seconds a call may take unless it says otherwise.")
    retries = Attribute("int: further tries of a call unless it says otherwise.")
    when_no_worker = Attribute('str: "wait" or "fail", unless a call says otherwise.')
    threaded = Attribute("bool: whether it has a thread and hub of its own.")

    def request(service, body, *, timeout=None, retries=None, when_no_worker=None, priority=1, traceparent=None):
        """The body of the reply: a list of frames; a streamed answer's are joined.

        `timeout`: seconds in all; `priority`: from 0 to 3, more urgent ones higher;
        `traceparent`: of W3C Trace Context.  Raises CallError, ClosedError.
        """

    def stream(
        service,
        body,
        *,
        timeout=None,
        deadline=None,
        retries=None,
        when_no_worker=None,
        priority=1,
        traceparent=None,
    ):
        """An iterator over the parts of the answer, each a list of frames.

        `timeout`: seconds per part; `deadline`: seconds in all.
        """


class IAsyncClient(IClient):
    """A client whose calls need not be waited for."""

    def submit(service, body, *, timeout=None, retries=None, when_no_worker=None, priority=1, traceparent=None):
        """Begin a call; a gevent ``AsyncResult`` of what ``request`` would return; ``cancel()`` cancels it."""

    def map(
        service,
        bodies,
        *,
        in_flight=100,
        ordered=True,
        timeout=None,
        retries=None,
        when_no_worker=None,
        priority=1,
        traceparent=None,
    ):
        """An iterator over the replies to many bodies, `in_flight` calls at a time."""
