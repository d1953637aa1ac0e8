"""``gmdp bench``: how fast a broker, a worker and a client are, on the user's machine.

A *stack* (:mod:`~.stacks`) is what is measured: gmdp, or a peer.  Each *point* (a
stack, a version, a size of bodies, a number of callers) has processes of its own
(:mod:`~.measuring`): the servers of the stack, and one that makes the calls
(:mod:`~.load`) and says when it has warmed up and when it is done.  The results
are a table, JSON or a picture (:mod:`~.report`).
"""
