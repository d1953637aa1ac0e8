"""The tox environment "oldest" has exactly the dependencies that it is for."""

import configparser
import importlib.metadata
import os
import re
from pathlib import Path

import pytest


def test_exactly_the_oldest_dependencies_are_installed():
    if os.environ.get("TOX_ENV_NAME") != "oldest":
        pytest.skip("only in the tox environment for the oldest dependencies")
    tox = configparser.ConfigParser()
    tox.read(Path(__file__).parents[2] / "tox.ini")
    dependencies = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", tox["testenv:oldest"]["deps"], re.M))
    assert {name: importlib.metadata.version(name) for name in dependencies} == dependencies
