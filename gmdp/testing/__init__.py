"""Whole installations under virtual time, for tests.

:class:`Simulation` is for tests of one's own handlers and of what becomes of calls
when things break.  ``python -m gmdp.testing`` draws installations and misfortunes
from seeds, and checks gmdp itself.
"""

from .simulator.nodes import BrokerNode
from .simulator.peers import ClientNode, Crash, SimulatedCall, WorkerNode
from .simulator.simulation import Simulation, SimulationFailed

__all__ = [
    "BrokerNode",
    "ClientNode",
    "Crash",
    "SimulatedCall",
    "Simulation",
    "SimulationFailed",
    "WorkerNode",
]
