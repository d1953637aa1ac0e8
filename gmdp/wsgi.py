"""Services over HTTP: a WSGI application in front of a broker.

::

    from gevent.pywsgi import WSGIServer
    from gmdp import Client
    from gmdp.wsgi import Gateway

    gateway = Gateway(Client("tcp://127.0.0.1:5555"), services=["upper", "report.*"])
    WSGIServer(("127.0.0.1", 8080), gateway).serve_forever()

The gateway can be mounted in any WSGI application.  It runs on gevent's ``pywsgi`` and on
gunicorn's gevent worker, with and without ``--preload``::

    GMDP_SERVICES='upper,report.*' gunicorn -k gevent 'gmdp.wsgi:gateway_from_environment()'

``gmdp gateway`` is the same as a command: gunicorn, set up by gmdp's own options (extra
``gateway``).  A server that uses threads needs a client with ``threaded=True``.

On gunicorn's gevent worker the gateway gives up HTTP clients that stop in the middle of their body
(status 408) or stop reading their answer, ``client_timeout`` after their last progress.  Each 10,000
bytes give them one second more.  Other servers have limits of their own.

**A call.**  ``POST /services/NAME``: the service gets the body, and its reply comes back with
status 200.  NAME is the rest of the path, percent-decoded; it may be any bytes.

* A request of the content type ``multipart/mixed`` has one frame for each part.  The headers
  of parts are ignored, except that a ``Content-Transfer-Encoding`` other than 7bit, 8bit or
  binary is refused.  A request of any other type is one frame.
* A reply of one frame is ``application/octet-stream``; a reply of several frames is
  ``multipart/mixed``.  A reply in parts is joined, unless the request asks for a stream.

**A stream** is asked for in one of three ways; the second takes precedence over the first:

* ``?stream=1`` gives ``application/octet-stream``.  The frames of each part are written as they
  come, with nothing between them.  An error breaks the body off: the connection ends without
  the chunk that would end the body.
* ``Accept: text/event-stream`` (whatever else the header names, unless with ``q=0``) gives
  server-sent events, one for each frame of each part.  A frame that is UTF-8 without a carriage
  return is an event without a name, and has one ``data:`` line for each of its lines.  Any other
  frame is an event ``base64``, whose one ``data:`` line is the frame in Base64.  An error is the
  last event, ``error``; its data is the JSON of an error, as below.

* ``GET /services/NAME`` with that header is for a browser's ``EventSource``, which can do nothing else.
  It calls the services that ``safe`` names; others are 405, and a GET without the header is 406.  Each
  query parameter ``body`` is a frame; without a query, the body is one empty frame, and a query without
  ``body`` is 400.  Other parameters, such as a proxy's, are ignored beside ``body``.  The last event is
  ``end``.  A browser asks again after any other end of the connection, with a new call.

In all of them, an error before the first byte has its own status.  The gateway notices that a client
has gone when it writes the next part.  It then cancels the call, and where the worker has
``enforce_deadline`` its handler is stopped.

**Web pages of other origins** may read answers if ``cors_origins`` has their origin or ``*``:
answers have the headers of the Fetch Standard, and preflights are answered for the methods of the
path.  ``Allow`` and ``Retry-After`` can be read, and credentials are never allowed.  Without
``cors_origins`` there are no such headers, and a browser keeps the answers from other pages.

**Headers of a request** are all optional:

* ``X-Request-Timeout``: seconds of the call in all, greater than 0, like 2.5 or 1e-3.  The
  gateway's ``timeout`` is the upper bound, and applies where the header is missing.
* ``X-Request-Priority``: from 0 to 3.
* ``traceparent``, of W3C Trace Context: passed on if it is valid, otherwise ignored.

**Errors** have a JSON body, ``{"error": NAME, "message": TEXT}``.  NAME is the class of the
error in :mod:`gmdp`, or BadRequest, NotFound, MethodNotAllowed, NotAcceptable, BodyTimeout or InternalError:

======  =====================================================================
status  error
======  =====================================================================
400     BadRequest: bad multipart, a bad header, query or length
403     NotAllowed
404     NotFound: an unknown path, or a service that is not exposed
405     MethodNotAllowed
406     NotAcceptable: a GET that does not ask for server-sent events
408     BodyTimeout: the body stopped, or came too slowly
413     MessageTooLarge; also a body of more than ``max_body`` bytes
429     Overloaded; with ``Retry-After: 1``
500     MDPError and its subclasses that are not listed here;
        HubNotRunning, where ``threaded=True`` is missing; InternalError:
        a bug; the log has the details of each
502     HandlerFailed, WorkerLost
503     NoWorker, BrokerLost, BrokerShuttingDown, ClosedError,
        UnsupportedBroker, AuthenticationFailed
504     RequestTimeout, RequestExpired, StreamStalled; also while no broker can be reached
======  =====================================================================

The message of an error that the broker reports is shown as it is.  An error of the gateway's
own (which may name the broker's endpoints, for instance) gets a general message, and its details
are logged.  If the body of a request cannot be read, the exception goes through to the server,
which is to refuse the request.

**Health**, by GET or HEAD:

* ``/healthz``: 200 while the process serves.
* ``/readyz``: 200 if the broker answers within :attr:`Gateway.ready_timeout`, does not drain, and
  has a worker for each of the ``ready_services``; otherwise 503.  Any answer to ``mmi.service``
  of RFC 8 will do.  Only gmdp's own broker says that it drains.

Logger: ``gmdp.wsgi``.
"""

from __future__ import annotations

from .http.environment import gateway_from_environment
from .http.gateway import Gateway

__all__ = ["Gateway", "gateway_from_environment"]
