"""Your own handler in the simulator: workers die and come back, a broker is killed.

Hours pass in a moment, and the same seed gives the same run.
"""

import random

from gmdp import Request
from gmdp.testing import Simulation


class Account:
    """The state that the handler changes: a request may run twice, and that must not matter."""

    def __init__(self) -> None:
        self.entries: dict[bytes, int] = {}

    def book(self, request: Request) -> bytes:
        number, amount = request.body
        self.entries.setdefault(number, int(amount))  # by number: idempotent
        return b"%d" % sum(self.entries.values())


def run(seed: int) -> float:
    """Run an hour of faults; returns the seconds that the slowest booking took."""
    account, chance = Account(), random.Random(seed)
    simulation = Simulation(seed)
    broker = simulation.broker(attempts=20)
    client = simulation.client()
    worker = simulation.worker("book", account.book, takes=(0.0, 2.0))
    calls = []
    for number in range(100):
        # One booking every 36 seconds; around many of them the worker dies and another starts.
        simulation.at(
            36.0 * number,
            lambda number=number: calls.append(
                client.request("book", [b"%d" % number, b"5"], timeout=1800.0, retries=9)
            ),
        )
        if chance.random() < 0.5:
            simulation.at(36.0 * number + chance.uniform(0, 2), lambda: simulation.workers[-1].crash())
            simulation.at(36.0 * number + 10, simulation.worker, "book", account.book, takes=(0.0, 2.0))
    simulation.at(1800.0, broker.kill)
    simulation.at(1805.0, broker.start)
    simulation.run(3600 + 1800)
    assert worker.dead
    assert all(call.outcome == "reply" for call in calls)
    assert sum(account.entries.values()) == 500
    return max(call.ended - call.began for call in calls)


def main() -> None:
    slowest = max(run(seed) for seed in range(5))
    print(f"5 hours of faults, 500 bookings, none lost, none booked twice; the slowest took {slowest:.1f} s")


if __name__ == "__main__":
    main()
