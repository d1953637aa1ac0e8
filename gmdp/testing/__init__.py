"""Whole installations under virtual time, for tests.

:class:`Simulation` is for tests of one's own handlers and of what becomes of calls
when things break.  ``python -m gmdp.testing`` draws installations and misfortunes
from seeds, and checks gmdp itself.
"""

from .simulator.broker import BrokerNode
from .simulator.client import ClientNode, SimulatedCall
from .simulator.failures import SimulationFailed
from .simulator.simulation import Simulation
from .simulator.worker import Crash, WorkerNode

__all__ = [
    "BrokerNode",
    "ClientNode",
    "Crash",
    "SimulatedCall",
    "Simulation",
    "SimulationFailed",
    "WorkerNode",
]
