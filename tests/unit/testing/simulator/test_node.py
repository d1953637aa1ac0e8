"""What all nodes have in common: passes, bursts, blocking."""

import math

import pytest

from gmdp.testing.simulator.network import Network
from gmdp.testing.simulator.node import Node
from gmdp.testing.simulator.schedule import Schedule


class Noting(Node):
    """A node that notes its passes."""

    def __init__(self):
        super().__init__(Network(Schedule()), "noting")
        self.passes = []
        self.due = math.inf

    def deadline(self):
        return self.due

    def tick(self, now):
        self.passes.append(("tick", now))
        self.due = math.inf

    def on_caught_up(self, now):
        self.passes.append(("caught up", now))


def test_a_node_by_itself_has_nothing_to_do():
    node = Node(Network(Schedule()), "plain")
    node.run()
    node.tick(0.0)
    assert (node.deadline(), node.ran, repr(node)) == (math.inf, True, "plain")


def test_a_burst_is_read_before_anything_else_is_done():
    node = Noting()
    node.blocked = True
    read = []
    for number in range(node.burst + 1):
        node.post(read.append, number)
    assert read == []
    node.unblock()
    assert read == list(range(node.burst + 1))
    assert node.passes == [("caught up", 0.0)]


def test_a_node_runs_again_when_something_is_due():
    node = Noting()
    node.due = 2.0
    node.run()
    node.schedule.run(5)
    assert node.passes == [("caught up", 0.0), ("caught up", 2.0), ("tick", 2.0)]


def test_a_blocked_node_keeps_its_messages():
    node, read = Noting(), []
    node.block(3.0)
    node.block(1.0)
    node.post(read.append, "x")
    node.schedule.run(2.9)
    assert read == []
    node.schedule.run(0.2)
    assert read == ["x"]
    node.unblock()


def test_L1_a_frozen_node_is_blocked_too_and_what_holds_it_longest_counts():
    node, read = Noting(), []
    node.block(3.0)
    node.freeze(1.0)
    node.post(read.append, "x")
    assert (node.frozen, node.blocked) == (True, True)
    node.schedule.run(1.5)
    assert (node.frozen, node.blocked, read) == (False, True, [])
    node.schedule.run(2)
    assert (node.blocked, read) == (False, ["x"])
    node.freeze(10.0)
    node.unblock()
    assert (node.frozen, node.blocked) == (False, False)


def test_a_dead_node_reads_nothing():
    node, read = Noting(), []
    node.dead = True
    node.post(read.append, "x")
    node.block(1.0)
    node.run()
    assert (read, node.blocked, node.passes) == ([], False, [])


@pytest.mark.parametrize("hook", ["read", "flush"])
def test_a_node_that_dies_in_a_pass_ends_it(hook):
    node = Noting()

    def die(*args):
        node.dead = True

    if hook == "flush":
        node.flush = die
    node.post(die if hook == "read" else int)
    assert len(node.passes) == (hook == "flush")


def test_a_node_that_is_always_due_is_an_error():
    node = Noting()
    node.deadline = lambda: 0.0
    with pytest.raises(AssertionError, match="noting spins"):
        node.run()
