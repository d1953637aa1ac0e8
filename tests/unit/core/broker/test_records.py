"""Requests and where they may be."""

import pytest
from cores import MDP02, ManualBroker

from gmdp.core.broker.records import Place


def test_a_request_moves_only_where_it_may():
    """What was answered or has ended stays there; nothing is answered that no worker has."""
    allowed = {
        None: {Place.QUEUED, Place.ASSIGNED},
        Place.QUEUED: {Place.ASSIGNED, Place.ENDED},
        Place.ASSIGNED: {Place.QUEUED, Place.ASSIGNED, Place.ANSWERED, Place.ENDED},
        Place.ANSWERED: set(),
        Place.ENDED: set(),
    }
    broker = ManualBroker()
    broker.ask(MDP02, b"client", b"x")
    (request,) = broker.core.services[b"echo"].queue
    for start in allowed:
        for place in Place:
            request.place = start
            if place in allowed[start]:
                request.move(place)
                assert request.place is place
            else:
                with pytest.raises(ValueError, match="no move from"):
                    request.move(place)
                assert request.place is start
