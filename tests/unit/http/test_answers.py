"""Errors as answers: their statuses, as documented, and what of them is shown and logged."""

import logging
import re

import pytest
from gateways import FailingClient, ask

import gmdp.http.answers
import gmdp.wsgi
from gmdp import MDPError, exceptions
from gmdp.http.gateway import Gateway


def documented():
    """(status, name of an error) for each name in the table of the documentation."""
    table = re.search(r"^======.*?^======.*?^(.*?)^======", gmdp.wsgi.__doc__, re.M | re.S)[1]
    status = None
    for line in table.splitlines():
        status = line[:6].strip() or status
        for name in re.findall(r"\b[A-Z]\w*[a-z]\w*", re.sub("``.*?``", "", line[8:]).partition(":")[0]):
            yield int(status), name


def all_errors():
    """Every error of gmdp, with the status in the documentation."""
    statuses = {name: status for status, name in documented()}
    for name, kind in vars(exceptions).items():
        if isinstance(kind, type) and issubclass(kind, MDPError):
            yield kind, statuses.get(name, 500)


@pytest.mark.parametrize(("kind", "status"), list(all_errors()), ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("path", ["/services/x", "/services/x?stream=1"])
def test_each_error_has_its_documented_status(kind, status, path):
    answer = ask(Gateway(FailingClient(kind("tcp://192.0.2.1:5555")), ["*"]), "POST", path)
    assert (answer.status, answer.error) == (status, kind.__name__)
    assert ("Retry-After", "1") in answer.headers.items() or status != 429
    # The broker's messages are shown; messages about the inside are not.
    rejected = issubclass(kind, exceptions.RequestRejected) and kind is not exceptions.RequestRejected
    assert (b"192.0.2.1" in answer.body) is rejected


def test_the_documentation_names_every_error_whose_status_is_not_500():
    assert {status for _, status in all_errors()} == {403, 413, 429, 500, 502, 503, 504}
    named = {name for _, name in documented()}
    ours = {name for name in named if hasattr(exceptions, name)}
    assert named - ours == {
        "BadRequest",
        "NotFound",
        "MethodNotAllowed",
        "NotAcceptable",
        "BodyTimeout",
        "InternalError",
    }
    other = {kind.__name__ for kind, (status, _) in gmdp.http.answers.STATUS.items() if status != 500}
    assert ours == other | {"MDPError", "HubNotRunning"}


def test_a_bug_is_500_and_logged_and_not_shown(caplog):
    with caplog.at_level(logging.ERROR, "gmdp.wsgi"):
        answer = ask(Gateway(FailingClient(ZeroDivisionError("inside")), ["*"]), "POST", "/services/x")
    assert (answer.status, answer.error) == (500, "InternalError")
    assert b"inside" not in answer.body
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


def test_a_hub_that_does_not_run_is_logged_as_an_error(caplog):
    with caplog.at_level(logging.ERROR, "gmdp.wsgi"):
        answer = ask(
            Gateway(FailingClient(exceptions.HubNotRunning("use threaded=True")), ["*"]), "POST", "/services/x"
        )
    assert (answer.status, answer.error) == (500, "HubNotRunning")
    assert b"threaded" not in answer.body
    assert "use threaded=True" in caplog.text


def test_messages_about_the_inside_are_logged(caplog):
    with caplog.at_level(logging.INFO, "gmdp.wsgi"):
        ask(Gateway(FailingClient(exceptions.BrokerLost("tcp://192.0.2.1:5555")), ["*"]), "POST", "/services/x")
    assert [record.getMessage() for record in caplog.records] == ["BrokerLost: tcp://192.0.2.1:5555"]
