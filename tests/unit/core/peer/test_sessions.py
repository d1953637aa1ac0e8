"""A session's states, and how many sessions a connection has room for."""

import itertools

import pytest

from gmdp.core.peer.sessions import TRANSITIONS, Session, SessionState, WorkerConnection
from gmdp.protocol import extension
from gmdp.protocol.extension import Offer


def test_every_state_is_in_the_table():
    assert set(TRANSITIONS) == set(SessionState)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(SessionState, SessionState)))
def test_a_session_makes_the_changes_of_the_table_only(old, new):
    session = Session()
    session.state = old
    if new in TRANSITIONS[old]:
        session.become(new)
        assert session.state is new
    else:
        with pytest.raises(ValueError, match=f"{old.value} to {new.value}"):
            session.become(new)
        assert session.state is old


@pytest.mark.parametrize("state", SessionState)
def test_a_session_is_registered_while_idle_or_busy(state):
    session = Session()
    session.state = state
    assert session.registered is (state in (SessionState.IDLE, SessionState.BUSY))


def test_a_strict_connection_has_room_for_one_session():
    connection = WorkerConnection("tcp://one", 0)
    assert connection.room == 1
    connection.sessions[b""] = Session()
    assert connection.room == 0


def test_an_extended_connection_has_room_for_as_many_sessions_as_the_broker_offers():
    connection = WorkerConnection("tcp://one", 0)
    connection.offer = Offer(10, 3, 100, 1000, 2.5)
    assert connection.room == 3
    connection.sessions[extension.session_frame(1)] = Session()
    assert connection.room == 2


def test_session_numbers_that_run_out_leave_no_room():
    connection = WorkerConnection("tcp://one", 0)
    connection.offer = Offer(10, 3, 100, 1000, 2.5)
    connection.last_number = extension.MAX_SESSION - 1
    assert connection.room == 1
    connection.last_number = extension.MAX_SESSION
    assert connection.room == 0
