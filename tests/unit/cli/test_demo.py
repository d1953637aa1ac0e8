"""``gmdp demo``: the folders it refuses."""

import pytest
from refusals import Refusal

REFUSALS = [
    Refusal("demo of no folder", ["demo", "nowhere"], "nowhere is not a folder"),
    Refusal("demo of a file", ["demo", "handlers.py"], "handlers.py is not a folder"),
    Refusal("demo of an empty folder", ["demo", "empty"], "empty holds no file that can be read"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refusal_is_one_line(folder, refusal):
    refusal.check(folder)
