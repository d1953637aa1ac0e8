"""Audit records: what the hook gets, and at which rate."""

import logging

import pytest

from gmdp import AuditRecord, LogAudit
from gmdp.broker.audit import CALL_REFUSED, CONNECTION_REFUSED, LIST_RELOADED, Auditor


@pytest.fixture
def records():
    return []


@pytest.fixture
def auditor(records):
    return Auditor(records.append)


def test_a_record_has_the_facts_in_plain_types():
    record = AuditRecord(CALL_REFUSED, user="a", address="127.0.0.1", service=b"\xffit", reason="not_allowed")
    facts = record.as_dict()
    assert (facts["kind"], facts["user"], facts["suppressed"]) == ("call_refused", "a", 0)
    assert isinstance(facts["service"], str)


@pytest.mark.parametrize(("kind", "level"), [(CALL_REFUSED, logging.WARNING), (LIST_RELOADED, logging.INFO)])
def test_records_are_logged_refusals_as_warnings(caplog, kind, level):
    caplog.set_level(logging.INFO, "gmdp.audit")
    LogAudit()(AuditRecord(kind, user="a", reason="why"))
    (logged,) = caplog.records
    assert (logged.name, logged.levelno) == ("gmdp.audit", level)
    assert logged.audit["user"] == "a"
    assert "user='a'" in logged.getMessage()


def test_a_burst_of_one_user_is_cut_and_the_next_record_says_by_how_many(auditor, records):
    for _ in range(100):
        auditor.record(0.0, CALL_REFUSED, user="a")
    assert len(records) == Auditor.rate
    auditor.record(0.0, CALL_REFUSED, user="b")
    assert records[-1] == AuditRecord(CALL_REFUSED, user="b", suppressed=100 - Auditor.rate)
    auditor.record(10.0, CALL_REFUSED, user="a")
    assert records[-1] == AuditRecord(CALL_REFUSED, user="a")


def test_many_users_at_once_are_cut_to_the_total(auditor, records):
    for number in range(1000):
        auditor.record(0.0, CONNECTION_REFUSED, address=str(number))
    assert len(records) == Auditor.total
    assert sum(1 + record.suppressed for record in records) == Auditor.total
    auditor.flush()
    assert records[-1] == AuditRecord(CONNECTION_REFUSED, reason="left_out", suppressed=1000 - Auditor.total)


def test_kinds_do_not_share_a_rate_and_several_events_are_one_record(auditor, records):
    for _ in range(2 * Auditor.rate):
        auditor.record(0.0, CALL_REFUSED, user="a")
    auditor.record(0.0, CONNECTION_REFUSED, user="a", count=7)
    assert records[-1] == AuditRecord(CONNECTION_REFUSED, user="a", suppressed=6)


def test_a_flush_says_it_once(auditor, records):
    for _ in range(Auditor.rate + 1):
        auditor.record(0.0, CALL_REFUSED, user="a")
    del records[:]
    auditor.flush()
    auditor.flush()
    assert records == [AuditRecord(CALL_REFUSED, reason="left_out", suppressed=1)]


def test_a_hook_that_fails_is_logged_and_called_again(caplog):
    calls = []

    def hook(record):
        calls.append(record)
        raise ValueError("the hook's own fault")

    auditor = Auditor(hook)
    for _ in range(2):
        auditor.record(0.0, CALL_REFUSED, user="a")
    assert len(calls) == len(caplog.records) == 2
