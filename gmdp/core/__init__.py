"""The decisions of brokers, workers and clients: values in, decisions out.

Nothing here waits, reads a clock, draws a random number, logs or touches a socket.  Modules of
this package import the pure part of the standard library, :mod:`gmdp.protocol` and each other,
nothing else (a test enforces it).  Time is an argument (``now``: monotonic seconds).  Decisions
are lists that the owner of a socket takes and acts upon.  No method raises on what a peer sent:
any exception is a bug.
"""
