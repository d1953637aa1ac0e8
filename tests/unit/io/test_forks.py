"""The registry of brokers, workers and clients, and its hook after a fork."""

import gc
import os

import pytest

from gmdp import Client
from gmdp.io import forks


class Registered:
    def __init__(self, error=None):
        self.error = error
        self.resets = 0

    def _on_fork(self):
        self.resets += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def registry(monkeypatch):
    """An empty registry, instead of this process's."""
    monkeypatch.setattr(forks, "_instances", type(forks._instances)())
    return forks


def test_an_instance_is_registered_for_as_long_as_it_lives(registry):
    client = Client("tcp://127.0.0.1:1")
    assert registry.instances() == [client]
    del client
    gc.collect()
    assert registry.instances() == []


def test_the_hook_resets_every_instance_though_one_fails(registry, monkeypatch, caplog):
    reinitialised = []
    monkeypatch.setattr(forks.gevent, "reinit", lambda: reinitialised.append(True))
    instances = [Registered(), Registered(ValueError("broken")), Registered()]
    for instance in instances:
        registry.register(instance)
    registry._after_fork()
    assert [instance.resets for instance in instances] == [1, 1, 1]
    assert reinitialised == [True]
    (record,) = caplog.records
    assert record.exc_info[1] is instances[1].error


def test_a_process_without_instances_leaves_the_hub_alone(registry, monkeypatch):
    monkeypatch.setattr(forks.gevent, "reinit", lambda: pytest.fail("nothing was to be done"))
    registry._after_fork()


def test_the_child_of_a_fork_has_new_instances():
    with Client("tcp://127.0.0.1:1") as client:
        child = os.fork()
        if child == 0:
            os._exit(0 if client.state.value == "new" and client._owner is None else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client.state.value == "running"


class Loop:
    def __init__(self):
        self.reinits = 0

    def reinit(self):
        self.reinits += 1


class FakeHub:
    def __init__(self, loop):
        self.loop = loop


def test_the_loops_of_all_hubs_part_from_the_parent_s(registry, monkeypatch):
    monkeypatch.setattr(forks, "_hubs", type(forks._instances)())
    hubs = [FakeHub(Loop()), FakeHub(None)]  # the second one is gone
    for hub in hubs:
        forks.register_hub(hub)
    forks._reinit_loops()
    assert hubs[0].loop.reinits == 1
