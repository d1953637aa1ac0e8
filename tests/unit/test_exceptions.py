"""The tree of errors, which the module's docstring draws."""

import re

import pytest

import gmdp
from gmdp import exceptions
from gmdp.exceptions import CallError, MDPError

CLASSES = {
    name: kind for name, kind in vars(exceptions).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}


def drawn():
    """(name, its parent's name, its other base or None) of each line of the tree."""
    path = []
    for line in exceptions.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+)(?: +\((\w+)\))?(?:  |$)", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            yield match[2], path[depth - 1] if depth else None, match[3]


def test_the_tree_shows_each_error_under_its_parent():
    rows = list(drawn())
    assert {name for name, *_ in rows} == set(CLASSES)
    for name, parent, other in rows:
        bases = [base.__name__ for base in CLASSES[name].__bases__]
        assert bases == [base for base in (parent or "Exception", other) if base], name


@pytest.mark.parametrize("name", CLASSES)
def test_each_error_is_public(name):
    assert getattr(gmdp, name) is CLASSES[name]
    assert name in gmdp.__all__
    assert issubclass(CLASSES[name], MDPError)


def test_an_error_of_a_call_has_facts():
    error = CallError("why", service=b"it", elapsed=0.5, attempt=2, deliveries=1)
    assert (str(error), error.service, error.elapsed, error.attempt, error.deliveries) == ("why", b"it", 0.5, 2, 1)
    error = CallError("why")
    assert (error.service, error.elapsed, error.attempt, error.deliveries) == (b"", 0.0, 1, 0)
