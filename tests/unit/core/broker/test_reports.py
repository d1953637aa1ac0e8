"""The management interface."""

import json

from cores import MDP01, MDP02, ManualBroker

from gmdp.core.broker.records import Service


def test_the_reports_of_the_management_interface():
    broker = ManualBroker()
    broker.ready(MDP02, b"W1", b"W2")
    broker.ready(MDP01, b"W3", service=b"\xff\x00")
    broker.ask(MDP02, b"client", b"x")
    broker.advance(1.0)

    def report(service, *body):
        broker.ask(MDP01, b"asker", *body, service=service)
        ((code, text),) = broker.answers(MDP01, b"asker", service=service)
        assert code == b"200"
        return json.loads(text)

    services = report(b"mmi.services", b"")
    assert services["total"] == 2
    assert {row["name"]: (row["workers"], row["idle"], row["busy"]) for row in services["services"]} == {
        "echo": (2, 1, 1),
        "\\xff\x00": (1, 1, 0),
    }
    assert [row["name"] for row in report(b"mmi.services", b"echo")["services"]] == ["echo"]
    assert report(b"mmi.services", b"nobody") == {"total": 0, "services": []}
    workers = report(b"mmi.workers", b"echo")
    assert (workers["total"], sorted(row["state"] for row in workers["workers"])) == (2, ["busy", "idle"])
    assert report(b"mmi.workers", b"")["total"] == 3
    assert report(b"mmi.workers", b"nobody") == {"total": 0, "workers": []}
    assert report(b"mmi.statistics", b"")["assigned"] == 1
    about = report(b"mmi.broker", b"")
    assert (about["name"], about["state"], about["uptime"]) == ("gmdp", "running", 1.0)


def test_reports_are_bounded(monkeypatch):
    monkeypatch.setattr("gmdp.core.broker.reports.MAX_ROWS", 3)
    broker = ManualBroker()
    for number in range(10):
        broker.ready(MDP02, b"W%d" % number, service=b"%d" % number)
    for name, rows in ((b"mmi.services", "services"), (b"mmi.workers", "workers")):
        broker.ask(MDP02, b"asker", b"", service=name)
        ((_, text),) = broker.answers(MDP02, b"asker", service=name)
        assert json.loads(text)["total"] == 10
        assert len(json.loads(text)[rows]) == 3


def test_reports_cost_little_however_often_they_are_asked_for(monkeypatch):
    """Statistics do not look at services; a long list is made once in a while."""
    broker = ManualBroker()
    for number in range(500):
        broker.ready(MDP02, b"w%d" % number, service=b"service %d" % number)
    made = []
    original = Service.statistics

    def counting(service, now):
        made.append(service)
        return original(service, now)

    monkeypatch.setattr(Service, "statistics", counting)
    for _ in range(10):
        broker.ask(MDP02, b"c", b"", service=b"mmi.statistics")
        broker.ask(MDP02, b"c", b"", service=b"mmi.services")
    assert len(made) <= 500
    first = {message[4] for message in broker.take(b"c") if message[2] == b"mmi.services"}
    broker.advance(0.1)
    broker.ready(MDP02, b"more", service=b"another")
    broker.ask(MDP02, b"c", b"", service=b"mmi.services")
    (second,) = broker.take(b"c")
    assert len(first) == 1
    assert second[4] not in first
