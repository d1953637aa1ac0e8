"""Whole installations under virtual time, for tests.

:class:`Simulation` is for tests of your own handlers, and of calls whose broker or worker
fails.  ``python -m gmdp.testing`` draws installations and faults from seeds, and checks
gmdp itself.
"""

from ..core.outcomes import Outcome
from .simulator.broker import BrokerNode
from .simulator.client import ClientNode, SimulatedCall
from .simulator.failures import SimulationFailed
from .simulator.simulation import Simulation
from .simulator.worker import Crash, WorkerNode

__all__ = [
    "BrokerNode",
    "ClientNode",
    "Crash",
    "Outcome",
    "SimulatedCall",
    "Simulation",
    "SimulationFailed",
    "WorkerNode",
]
