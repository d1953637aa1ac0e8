"""The table of outcomes: nothing is missing from it, and the pages that repeat it agree."""

import re
from pathlib import Path

import pytest

import gmdp.wsgi
from gmdp import exceptions
from gmdp.core.broker import services
from gmdp.core.outcomes import (
    DEAD_LETTER_REASONS,
    OUTCOME_OF_STATUS,
    ROW_OF_OUTCOME,
    STATUS_OF_REASON,
    TABLE,
    EndReason,
    Outcome,
)
from gmdp.exceptions import CallError, MDPError, RequestRejected
from gmdp.protocol.extension import Status

README = Path(__file__).parent.parent.parent.parent / "README.md"


#: Statuses that end no call: the call goes elsewhere after the last.
NO_END = {Status.OK, Status.PARTIAL, Status.NOT_RUN}


def once_each(values):
    values = list(values)
    assert len(values) == len(set(values))
    return set(values)


def test_each_outcome_has_one_row():
    assert once_each(row.outcome for row in TABLE if row.outcome is not None) == set(Outcome)
    assert ROW_OF_OUTCOME[Outcome.NO_WORKER].error == "NoWorker"


def test_each_status_that_is_no_answer_has_one_row():
    assert once_each(row.status for row in TABLE if row.status is not None) == set(Status) - NO_END
    assert set(OUTCOME_OF_STATUS) == set(Status) - NO_END


def test_each_end_reason_has_one_row_and_a_text():
    assert once_each(reason for row in TABLE for reason in row.reasons) == set(EndReason)
    assert set(STATUS_OF_REASON) == set(EndReason)
    assert all(once_each(reason.text for reason in EndReason))


def test_each_error_of_a_call_has_one_row():
    """The two base classes have none: no call ends with them."""
    calls = {
        name
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, CallError) and kind not in (CallError, RequestRejected)
    }
    assert once_each(row.error for row in TABLE) == calls | {"ClosedError", "MDPError"}
    assert all(issubclass(getattr(exceptions, row.error), MDPError) for row in TABLE)


def test_a_status_from_the_broker_is_a_rejection_whose_text_is_shown():
    for row in TABLE:
        from_broker = row.status is not None
        assert issubclass(getattr(exceptions, row.error), RequestRejected) is from_broker, row
        assert (row.http_message is None) is from_broker, row


def test_the_keys_of_a_broker_s_statistics_are_those_its_module_documents():
    documented = re.findall(r"^  ``(\w+)``  ", services.__doc__, re.M)
    assert documented == [reason.value for reason in EndReason]


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("expired", Status.EXPIRED),
        ("deadline", None),
        ("cancelled", None),
        ("client_gone", None),
        ("client_full", Status.OVERLOADED),
        ("too_large", Status.TOO_LARGE),
        ("no_worker", Status.NO_WORKER),
        ("overloaded", Status.OVERLOADED),
        ("evicted", Status.OVERLOADED),
        ("attempts", Status.WORKER_LOST),
        ("worker_lost", Status.WORKER_LOST),
        ("not_allowed", Status.NOT_ALLOWED),
        ("stopped", Status.SHUTTING_DOWN),
    ],
)
def test_the_status_that_a_client_gets_for_each_end(reason, status):
    assert STATUS_OF_REASON[EndReason(reason)] is status


def test_requests_that_lost_their_workers_are_dead_letters():
    assert {reason.value for reason in DEAD_LETTER_REASONS} == {"attempts", "worker_lost", "expired"}


def http_statuses_of_the_table():
    return {row.error: row.http_status for row in TABLE if row.http_status != 500}


def test_the_readme_gives_each_error_its_http_status():
    rows = re.findall(r"^\| (\d{3})(?:, \d{3})? \| (.*) \|$", README.read_text(encoding="utf-8"), re.M)
    shown = {name: int(status) for status, text in rows for name in re.findall(r"`(\w+)`", text)}
    assert {name: status for name, status in shown.items() if hasattr(exceptions, name)} == http_statuses_of_the_table()


def test_the_gateway_s_page_gives_each_error_its_http_status():
    page = re.search(r"^======.*?^======.*?^(.*?)^======", gmdp.wsgi.__doc__, re.M | re.S)[1]
    shown, status = {}, None
    for line in page.splitlines():
        status = line[:6].strip() or status
        shown.update(dict.fromkeys(re.findall(r"\b[A-Z]\w+", line[8:]), int(status)))
    assert {
        name: status for name, status in shown.items() if hasattr(exceptions, name) and status != 500
    } == http_statuses_of_the_table()
