"""The decisions of brokers, workers and clients: values in, decisions out.

No module here waits, reads a clock, draws a random number, logs or touches a socket.  The modules
of this package import only the pure part of the standard library, :mod:`gmdp.protocol` and each
other (a test enforces this).  Time is an argument (``now``: monotonic seconds).  Decisions
are lists that the owner of a socket takes and acts upon.  No bytes of a peer make a method raise:
any exception is a bug.
"""
