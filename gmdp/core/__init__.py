"""The protocol itself: bytes and numbers in, decisions out.

Nothing here waits, reads a clock, draws a random number, logs or touches a
socket; modules of this package import the pure part of the standard library
and each other, nothing else (a test enforces it).  Time is an argument
(``now``: monotonic seconds), decisions are lists the owner of a socket acts
upon.  No method raises on what a peer sent: any other exception is a bug.
"""
