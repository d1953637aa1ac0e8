"""The contracts of gmdp's objects, for code that depends on no implementation.

Each declaration's docstring is the contract: arguments, result, errors, and who may call from
where.  "The object's thread" is the thread whose greenlets called ``start()``.  Every class of
gmdp passes zope's ``verifyClass``, and its objects pass ``verifyObject`` in every state.
"""

# mypy: disable-error-code="no-untyped-def, empty-body"
from __future__ import annotations

from zope.interface import Attribute, Interface


class ILifecycle(Interface):
    """Can be started and stopped; the idiom of gevent's ``BaseServer``.

    Unlike gevent's servers, ``with`` starts, ``start`` after ``stop`` works, and ``stop`` from
    the object's own handler or hook begins the stop and returns at once.

    Unless a method says otherwise, any greenlet of the object's thread may call it.
    """

    state = Attribute("The present ``gmdp.State``; any thread, any time.")
    started = Attribute("bool: True from ``start()`` until stopping begins; any thread, any time.")
    closed = Attribute("bool: True while no socket is held, before the first start too; any thread, any time.")
    stop_timeout = Attribute("float: seconds ``stop()`` lets running work go on if it has no argument.")

    def start():
        """Open sockets and begin; returns as soon as they are open.  No effect if started.

        Raises:
            ConfigurationError: an option or file is wrong.
            BindError: a broker cannot bind an endpoint.
            StateError: the object is still stopping, or another greenlet's start, which was waited for, has failed.
        """

    def stop(timeout=None):
        """Take no new work, finish the running work, close, and wait until that is done.

        No effect if not started.  From the object's own handler or hook, the stop begins, and
        the method returns at once.  Any thread.

        Args:
            timeout: seconds running work may take; None: ``stop_timeout``.

        Raises:
            StateError: the call is from another thread, and the object's hub does not run.
        """

    def close():
        """Close at once, even if work is running.  No effect if closed.  Any thread, as for ``stop``."""

    def serve_forever(stop_timeout=None):
        """Start unless started, and wait until another greenlet or thread stops the object.

        Args:
            stop_timeout: the argument of ``stop`` if an error ends this wait.

        Raises:
            OwnerDied: a bug in gmdp ended the object; also what ``start`` raises.
        """

    def subscribe(queue=None):
        """Put every change of state into a queue, in order, from now on.

        A queue that is full when a change comes is unsubscribed, and a warning is logged.

        Args:
            queue: a gevent queue; None: a new one.

        Returns:
            The queue; its items are ``gmdp.StateChange``.
        """

    def unsubscribe(queue):
        """Put no more changes into a queue.  No effect if it was not subscribed.

        Args:
            queue: a queue that ``subscribe`` returned.
        """

    def statistics():
        """An immutable copy of all counters.  Any greenlet, any thread, any state.

        Raises:
            StateError: the call is from another thread, and the object's hub does not run.
        """


class IBroker(ILifecycle):
    """Routes requests of clients to workers (RFC 7, RFC 18, RFC 8)."""

    options = Attribute("The ``gmdp.BrokerOptions`` in force.")
    endpoint = Attribute("str: the first of ``endpoints``.")
    endpoints = Attribute("tuple of str: where the broker listens; wildcards are resolved once it has started.")
    dead_letter = Attribute("The ``IDeadLetterHook`` in force.")
    audit = Attribute("The ``IAuditHook`` in force.")
    secured = Attribute("bool: whether connections need a key, a password or an allowed address.")

    def enqueue(service, body):
        """Queue a request from the broker itself, whose answer is dropped.

        For hooks, too.  Any greenlet, any thread.

        Args:
            service: the service's name, str or bytes.
            body: the request's frames; bytes are one frame.

        Returns:
            False if there is no room for the request, or the broker is not running.

        Raises:
            ConfigurationError: the service's name is too long, or empty.
            TypeError: an argument has a wrong type.
            StateError: the call is from another thread, and the broker's hub does not run.
        """

    def reconsider():
        """Forget the answers of the ``IAccessPolicy``, and end work that it does not allow any more.

        Workers get DISCONNECT.  Calls of gmdp clients end with NotAllowed.  Any greenlet, any
        thread.  No effect if not started.

        Raises:
            StateError: the call is from another thread, and the broker's hub does not run.
        """


class IDeadLetterHook(Interface):
    """Gets each request that workers were lost over, and that ended without an answer."""

    def __call__(letter, broker):
        """Take note of a dead letter, or pass it on, with ``broker.enqueue`` for instance.

        The broker's owner calls this: it must not block, and must not switch greenlets.  Any
        error out of it is logged, and harms nothing; SystemExit and KeyboardInterrupt end the program.

        Args:
            letter: a ``gmdp.DeadLetter``: ``service``, ``body`` (list of bytes), ``attempts``,
                ``reason`` ("attempts", "worker_lost" or "expired"), ``age`` (seconds), ``user``.
            broker: the ``IBroker``.
        """


class IAccessPolicy(Interface):
    """Decides who may do what with a broker."""

    def __call__(user, action, service):
        """Say whether a user may do something with a service.

        The broker's owner calls this: it must not block, and must not switch greenlets.  The
        broker asks once for each user, action and service.  It remembers the answer until
        ``broker.reconsider()``, or until a list of users changes.

        Args:
            user: str, of the connection's key or password; empty where no user is known.
            action: "serve", "call" or "inspect".
            service: bytes, the service's name.

        Returns:
            True or False.  Any other value denies, as an exception does; both are logged, and
            not remembered.
        """


class IAuditHook(Interface):
    """Gets a record of each act that a broker did not allow."""

    def __call__(record):
        """Take note of a record.

        The broker's owner calls this: it must not block, and must not switch greenlets.  Any
        error out of it is logged, and harms nothing; SystemExit and KeyboardInterrupt end the program.

        Args:
            record: a ``gmdp.AuditRecord``.
        """


class IWorker(ILifecycle):
    """Offers one service to a broker (RFC 7 and RFC 18, MDP/Worker)."""

    service = Attribute("bytes: the name of the service.")
    handler = Attribute("The ``IRequestHandler`` called for each request.")
    concurrency = Attribute("int: requests the worker handles at a time.")
    version = Attribute('str: the protocol\'s version, "0.1" or "0.2".')
    endpoints = Attribute("tuple of str: the brokers' endpoints, in order of preference.")
    extensions = Attribute("bool or None: whether the broker speaks gmdp's extension; None until the worker knows.")


class IRequest(Interface):
    """One request as a handler gets it; any thread."""

    service = Attribute("bytes: the name of the service.")
    body = Attribute("list of bytes: the frames of the body, at least one.")
    attempt = Attribute("int: the number of the attempt, from 1; 1 if the broker does not say.")
    metadata = Attribute("Mapping of str to str: ``traceparent``, if the caller gave one.")
    received = Attribute("float: monotonic seconds when the request arrived.")
    age = Attribute("float: seconds since the request arrived.")

    def remaining():
        """Return the seconds for which the caller still waits.

        Returns:
            A float, never below 0; 0 once the caller has gone.  None if the request does not say.
        """


class IRequestHandler(Interface):
    """Answers a worker's requests."""

    def __call__(request):
        """Answer a request.

        The worker calls this in a greenlet or thread for each request; several run at a time
        if its ``concurrency`` is above 1.

        Args:
            request: an ``IRequest``.

        Returns:
            Bytes (one frame), a list or tuple of bytes (the body), or an iterator.  Each item
            of an iterator, bytes or such a list, is sent at once as a PARTIAL.  A generator's
            return value is the FINAL.  Any other value, and any exception, is a failure of
            the handler.
        """


class IClient(ILifecycle):
    """Asks services (RFC 7 and RFC 18, MDP/Client).

    Safe for any number of greenlets, and for threads.  Each call ends in exactly one of: its
    own reply, RequestTimeout, another error of gmdp.
    """

    endpoints = Attribute("tuple of str: the brokers' endpoints, in order of preference.")
    version = Attribute('str: the protocol\'s version, "0.1" or "0.2".')
    endpoint = Attribute("str: the endpoint of the broker in use, or of the one being tried.")
    extensions = Attribute("bool or None: whether the broker speaks gmdp's extension; None until the client knows.")
    timeout = Attribute("float: seconds a call may take unless the call says otherwise.")
    retries = Attribute("int: tries of a call after the first one, unless the call says otherwise.")
    when_no_worker = Attribute('str: "wait" or "fail", unless a call says otherwise.')
    threaded = Attribute("bool: whether the client has a thread and hub of its own.")

    def request(service, body, *, timeout=None, retries=None, when_no_worker=None, priority=1, traceparent=None):
        """Ask a service and wait for the answer.  Any greenlet, any thread.

        Args:
            service: the service's name, str or bytes.
            body: the request's frames; bytes are one frame.
            timeout: seconds in all; None: the client's.
            retries: tries after the first one; None: the client's.
            when_no_worker: "wait" or "fail"; None: the client's.
            priority: from 0 to 3; more urgent requests are higher.
            traceparent: of W3C Trace Context; None: that of the request being handled.

        Returns:
            The answer's frames, a list of bytes; the parts of a streamed answer are joined.

        Raises:
            CallError: the call ended without its answer; the subclass says why.
            ClosedError: the client is closed, or was closed before the reply came.
            StateError: the thread that made the client has ended.
            ConfigurationError: an argument has a wrong value.
            TypeError: the service or the body has a wrong type.
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
        """Ask a service; the parts of the answer are read as they come.

        Any greenlet, any thread; the iterator is for the greenlet or thread that called.

        Args:
            service: the service's name, str or bytes.
            body: the request's frames; bytes are one frame.
            timeout: seconds each part may take; None: the client's.
            deadline: seconds in all; None: no bound.
            retries: tries after the first one; None: the client's.
            when_no_worker: "wait" or "fail"; None: the client's.
            priority: from 0 to 3; more urgent requests are higher.
            traceparent: of W3C Trace Context; None: that of the request being handled.

        Returns:
            An iterator over the parts, each a list of bytes.  It raises what ``request``
            raises, perhaps after some parts.  Its ``close`` cancels the call.

        Raises:
            ClosedError: the client is closed.
            ConfigurationError: an argument has a wrong value.
            TypeError: the service or the body has a wrong type.
        """


class IAsyncClient(IClient):
    """A client whose calls need not be waited for."""

    def submit(service, body, *, timeout=None, retries=None, when_no_worker=None, priority=1, traceparent=None):
        """Begin a call, and do not wait for its answer.  Any greenlet, any thread.

        Args:
            service: the service's name, str or bytes.
            body: the request's frames; bytes are one frame.
            timeout: seconds in all; None: the client's.
            retries: tries after the first one; None: the client's.
            when_no_worker: "wait" or "fail"; None: the client's.
            priority: from 0 to 3; more urgent requests are higher.
            traceparent: of W3C Trace Context; None: that of the request being handled.

        Returns:
            A gevent ``AsyncResult``.  Its ``get`` returns and raises what ``request`` does; its
            ``cancel`` cancels the call.

        Raises:
            ClosedError: the client is closed.
            ConfigurationError: an argument has a wrong value.
            TypeError: the service or the body has a wrong type.
        """

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
        """Ask a service once for each body.  Any greenlet, any thread.

        The first error ends the iteration.  That, and closing the iterator, cancels the calls
        that are still open.

        Args:
            service: the service's name, str or bytes.
            bodies: an iterable of bodies, each as for ``request``.
            in_flight: calls that may be open at a time, replies not yet read included.
            ordered: replies come in the order of `bodies`, else as they arrive.
            timeout: seconds a call may take; None: the client's.
            retries: tries after the first one; None: the client's.
            when_no_worker: "wait" or "fail"; None: the client's.
            priority: from 0 to 3; more urgent requests are higher.
            traceparent: of W3C Trace Context; None: that of the request being handled.

        Returns:
            An iterator over the replies, each a list of bytes.  It raises a call's error in
            place of its reply.

        Raises:
            ConfigurationError: an argument has a wrong value.
            TypeError: the service has a wrong type.
        """
