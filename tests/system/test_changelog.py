"""The list of changes: each heading once in each version, and each entry once."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

VERSIONS = re.split(r"^## ", (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)[1:]

HEADINGS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.partition("\n")[0])
def test_each_heading_and_each_entry_of_a_version_is_there_once(version):
    headings = re.findall(r"^### (.*)$", version, re.M)
    assert set(headings) <= HEADINGS
    assert len(headings) == len(set(headings))
    entries = re.findall(r"^- .*$", version, re.M)  # an entry that was merged twice begins with the same line
    assert sorted(entries) == sorted(set(entries))
    for text in re.split(r"^(?:- |### )", version, flags=re.M)[1:]:
        body = text.strip()
        assert body in HEADINGS or body.endswith("."), body  # the rest of an entry was merged away
