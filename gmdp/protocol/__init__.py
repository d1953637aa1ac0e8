"""Bytes to values and back: the dialects of MDP, gmdp's extension, the token.

No module here waits, reads a clock, draws a random number, logs or touches a socket.  Modules
of this package import the pure part of the standard library and each other, nothing else.
"""
