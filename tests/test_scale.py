"""What many cost stays what it was said to be; the figures are printed (``pytest -m slow -s tests/test_scale.py``)."""

import pytest
import scale

pytestmark = [pytest.mark.slow, pytest.mark.deadline(1800)]


def test_10000_workers_on_1000_services_cost_a_request_next_to_nothing():
    assert scale.workers() <= 1.2


def test_10000_idle_workers_take_less_than_a_tenth_of_a_core():
    assert scale.idle() < 0.10


def test_a_million_queued_requests():
    """1.5 KB each, body included, is the bound."""
    assert scale.queue() < 1500


def test_5000_clients_are_served():
    assert scale.clients() < 3.0


def test_large_bodies_pass_nearly_as_fast_as_through_the_proxy():
    assert scale.bodies() >= 0.8
