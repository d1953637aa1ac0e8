"""The states of brokers, workers and clients."""

import pytest

from gmdp import State
from gmdp.core.states import AT_REST, STARTED, TRANSITIONS, StateMachine


def test_the_table_of_transitions_is_complete_and_enforced():
    assert set(TRANSITIONS) == set(State)
    for old, allowed in TRANSITIONS.items():
        for new in State:
            changes = []
            machine = StateMachine(changes.append)
            machine.state = old
            if new in allowed:
                machine.advance(new, 1.0, "why")
                assert machine.state is new
                assert [(change.old, change.new, change.at, change.reason) for change in changes] == [
                    (old, new, 1.0, "why")
                ]
            else:
                with pytest.raises(ValueError, match=f"no change from {old.value} to {new.value}"):
                    machine.advance(new, 1.0)
                assert machine.state is old
                assert changes == []


def test_a_machine_counts_its_changes():
    machine = StateMachine(lambda change: None)
    assert (machine.state, machine.changes) == (State.NEW, 0)
    for state in (State.STARTING, State.RUNNING, State.DRAINING, State.CLOSED):
        machine.advance(state, 1.0)
    assert machine.changes == 4


def test_a_started_object_is_not_at_rest():
    assert not STARTED & AT_REST
    assert set(State) - STARTED - AT_REST == {State.DRAINING}
