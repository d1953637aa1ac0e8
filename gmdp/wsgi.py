"""Services over HTTP: a WSGI application in front of a broker.

::

    from gevent.pywsgi import WSGIServer
    from gmdp import Client
    from gmdp.wsgi import Gateway

    gateway = Gateway(Client("tcp://127.0.0.1:5555"), services=["upper", "report.*"])
    WSGIServer(("127.0.0.1", 8080), gateway).serve_forever()

It can be mounted in any WSGI application, and runs on gevent's ``pywsgi`` and on
gunicorn's gevent worker, with and without ``--preload``::

    GMDP_SERVICES='upper,report.*' gunicorn -k gevent 'gmdp.wsgi:gateway_from_environment()'

``gmdp gateway`` is the same as a command.  For a server that uses threads, give it a client
with ``threaded=True``.

**A call.**  ``POST /services/NAME``: the body goes to the service, its reply comes back with
status 200.  NAME is everything that follows, percent-decoded; it may be any bytes.  A
request whose content type is ``multipart/mixed`` is a frame per part (their headers
are ignored, but a ``Content-Transfer-Encoding`` other than 7bit, 8bit or binary is refused);
any other is one frame.  A reply of one frame is ``application/octet-stream``, one of
several is ``multipart/mixed``.  An answer in parts is joined, unless a stream is asked for:

* ``?stream=1``: ``application/octet-stream``, in which the frames of each part are written
  as soon as they come, with nothing between them.  After an error the body is broken off:
  the connection ends without the chunk that would end it.
* ``Accept: text/event-stream``, whatever else it names, unless with ``q=0``: server-sent events, one for each
  frame of each part.  A frame that is UTF-8 without a carriage return is an event without a
  name, with one ``data:`` line for each of its lines; any other is an event ``base64`` whose
  one ``data:`` line is the frame in Base64.  An error is the last event, ``error``; its data
  is the JSON of the table below.  This goes before ``?stream=1``.

Either way an error before the first byte has its status.  A client that has gone is
noticed when the next part is written; then the call is cancelled, and its handler stops for
that where the worker has ``enforce_deadline``.

**Headers of a request**, all optional.  ``X-Request-Timeout``: seconds in all, greater than 0,
like 2.5 or 1e-3; never more than the gateway's ``timeout``, which is also what holds without it.
``X-Request-Priority``: from 0 to 3.  ``traceparent``, of W3C Trace Context: passed on if it
is valid, else ignored.

**Errors** have a JSON body, ``{"error": NAME, "message": TEXT}``.  NAME is the class of the
error in :mod:`gmdp`, or BadRequest, NotFound, MethodNotAllowed or InternalError:

======  =====================================================================
status  error
======  =====================================================================
400     BadRequest: bad multipart, a bad header, query or length
403     NotAllowed
404     NotFound: an unknown path, or a service that is not exposed
405     MethodNotAllowed
413     MessageTooLarge; also a body of more than ``max_body`` bytes
429     Overloaded; with ``Retry-After: 1``
500     MDPError and all of its kind that are not named here;
        HubNotRunning, for want of ``threaded=True``; and InternalError:
        a defect; the log tells more of each
502     HandlerFailed, WorkerLost
503     NoWorker, BrokerLost, BrokerShuttingDown, ClosedError,
        UnsupportedBroker, AuthenticationFailed
504     RequestTimeout, RequestExpired; also while no broker can be reached
======  =====================================================================

What a broker says of a request is told as it is; of the gateway's own troubles (where its
brokers are, for instance) only the log tells more.  A request whose body cannot be read to
its end is the server's to refuse: what reading raises goes through to it.

**Health**, by GET or HEAD.  ``/healthz``: 200 while the process serves.  ``/readyz``: 200 if
the broker answers within :attr:`Gateway.ready_timeout` (any answer to ``mmi.service`` of RFC 8
will do), does not drain (as far as a gmdp broker tells), and all ``ready_services`` have a
worker; else 503.

Logger: ``gmdp.wsgi``.
"""

from __future__ import annotations

from .http.environment import gateway_from_environment
from .http.gateway import Gateway

__all__ = ["Gateway", "gateway_from_environment"]
