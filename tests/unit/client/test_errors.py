"""The errors of calls: their class, their message, their facts."""

import pytest

from gmdp import HandlerFailed, MessageTooLarge, NoWorker, RequestTimeout, exceptions
from gmdp.client.errors import error_of
from gmdp.core.outcomes import ROW_OF_OUTCOME, Outcome
from gmdp.core.peer.calls import Call, Ended


def ended(outcome, detail="", body=(), tries=1, deliveries=0, service=b"it"):
    """A call that began at 100.0, and how it ended."""
    call = Call(service, [b"x"], timeout=5.0)
    call.submitted_at = 100.0
    call.tries = tries
    call.deliveries = deliveries
    return Ended(call, outcome, detail, body)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in (Outcome.CLOSED, Outcome.CANCELLED)])
def test_each_outcome_has_its_error(outcome):
    error = error_of(ended(outcome, tries=2, deliveries=3), 100.25)
    assert type(error) is getattr(exceptions, ROW_OF_OUTCOME[outcome].error)
    assert (error.service, error.elapsed, error.attempt, error.deliveries) == (b"it", 0.25, 2, 3)
    assert str(error).startswith(outcome.value)
    assert ROW_OF_OUTCOME[outcome].message in str(error)


@pytest.mark.parametrize(
    ("tries", "deliveries", "text"),
    [(1, 0, "1 try"), (2, 0, "2 tries"), (1, 1, "1 try, 1 delivery"), (3, 2, "3 tries, 2 deliveries")],
)
def test_the_message_counts_tries_and_deliveries(tries, deliveries, text):
    error = error_of(ended(Outcome.TIMEOUT, tries=tries, deliveries=deliveries), 101.0)
    assert isinstance(error, RequestTimeout)
    assert f"service 'it', after 1.000 s and {text}" in str(error)


@pytest.mark.parametrize(
    ("service", "shown"),
    [(b"echo", "'echo'"), ("größe".encode(), "'größe'"), (b"\xff", r"b'\xff'"), (b"\x1b[2J", r"'\x1b[2J'")],
)
def test_the_service_is_shown_as_text_where_its_name_is_text(service, shown):
    assert f": service {shown}, after" in str(error_of(ended(Outcome.TIMEOUT, service=service), 101.0))


def test_the_client_s_own_detail_goes_before_the_table_s_text():
    error = error_of(ended(Outcome.TOO_LARGE, "the broker takes 10 bytes"), 101.0)
    assert isinstance(error, MessageTooLarge)
    assert str(error).endswith(": the broker takes 10 bytes")
    assert str(error_of(ended(Outcome.NO_WORKER), 101.0)).endswith(": no worker is registered")


#: Where the reason is if the worker does not reveal it.
HIDDEN = ": the worker's log has the reason; a worker with reveal_errors=True (--reveal-errors) tells it"


@pytest.mark.parametrize(
    ("body", "facts", "end"),
    [
        ([b"ValueError", b"no such thing"], ("ValueError", "no such thing"), ": ValueError: no such thing"),
        ([b"ValueError", b""], ("ValueError", ""), ": ValueError"),
        ([b"", b""], ("", ""), HIDDEN),
        ([b""], ("", ""), HIDDEN),
        ([b"\xff", b"x", b"more"], ("\ufffd", "x"), ": \ufffd: x"),
    ],
)
def test_a_failed_handler_s_error_says_what_the_worker_reveals(body, facts, end):
    error = error_of(ended(Outcome.HANDLER_FAILED, body=body), 101.0)
    assert isinstance(error, HandlerFailed)
    assert (error.type_name, error.detail) == facts
    assert str(error).endswith(end)


def test_each_caller_gets_an_error_of_its_own():
    event = ended(Outcome.NO_WORKER)
    assert isinstance(error_of(event, 101.0), NoWorker)
    assert error_of(event, 101.0) is not error_of(event, 101.0)


def test_no_time_has_elapsed_where_the_clock_of_a_pass_is_older_than_the_call():
    assert error_of(ended(Outcome.TIMEOUT), 99.9).elapsed == 0.0
