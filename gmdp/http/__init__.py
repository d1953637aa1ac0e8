"""Services over HTTP: the WSGI application behind :mod:`gmdp.wsgi`.

:mod:`~.requests` reads the requests, :mod:`~.bodies` and :mod:`~.multipart` turn bodies
into frames and back, :mod:`~.answers` has statuses and errors, :mod:`~.gateway` is the
application, and :mod:`~.environment` makes one from environment variables.
"""
