"""FAULTS.md tells the truth: each fault has tests, and the table names them."""

import re

import faults
import pytest

pytestmark = pytest.mark.once

TEXT = faults.TABLE.read_text(encoding="utf-8")
NUMBERS = [number for number, *_ in faults.rows(TEXT)]


#: The last number of each letter.
LAST = {"W": 16, "C": 10, "B": 12, "P": 7, "S": 8, "L": 9, "G": 21, "X": 11, "F": 13}


def test_the_rows_are_numbered_without_a_gap():
    for letter, last in LAST.items():
        assert [number for number in NUMBERS if number[0] == letter] == [f"{letter}{n + 1}" for n in range(last)]


def test_the_table_names_the_tests_that_play_each_fault():
    assert faults.written(TEXT) == TEXT, "python tests/tools/faults.py writes the table anew"


def test_every_fault_is_played_and_every_number_in_a_test_is_a_fault_of_the_table():
    assert set(faults.played()) == set(NUMBERS)


def test_a_number_is_found_in_names_and_docstrings_only_where_it_stands_alone():
    found = faults._NUMBER.findall("TEST W1 A CABLE B12 IS, W2; and (S8): W16.  Not CW1, W1x, W123 or RFC7.")
    assert found == ["W1", "B12", "W2", "S8", "W16"]
    assert re.fullmatch(faults._NUMBER, "C10")
