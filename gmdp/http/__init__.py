"""Services over HTTP: the WSGI application behind :mod:`gmdp.wsgi`."""
