"""``gmdp bench``: how fast a broker, a worker and a client are on the user's machine.

A *stack* (:mod:`~.stacks`) is what is measured; here, gmdp alone.  The script
``bench/compare.py`` in gmdp's sources adds the stacks of others.

Each *point* (a stack, a protocol version, a size of bodies, a number of callers) has
processes of its own (:mod:`~.measuring`): the servers of the stack, and a client process
that makes the calls (:mod:`~.load`).  The results become a table, JSON or a picture
(:mod:`~.report`).
"""
