"""The package ``gmdp``: it takes its names from `gmdp.public` when the first of them is used."""

import subprocess
import sys

import pytest

import gmdp
from gmdp import public


def run(code):
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_F13_the_package_has_the_public_names_and_no_others():
    assert gmdp.__all__ is public.__all__
    assert [name for name in public.__all__ if getattr(gmdp, name) is not getattr(public, name)] == []
    assert {*public.__all__, "exceptions", "tracing"} - set(dir(gmdp)) == set()
    for name in ("Nothing", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'gmdp' has no attribute '{name}'"):
            getattr(gmdp, name)


def test_F13_modules_are_attributes_without_an_import_of_their_own():
    """So it was when the package imported all of them, and programs rely on it."""
    names = ("client", "core", "exceptions", "interfaces", "io", "protocol", "security", "tracing", "worker")
    assert run(f"import gmdp\nfor name in {names}: print(getattr(gmdp, name).__name__)").split() == [
        f"gmdp.{name}" for name in names
    ]


def test_F13_the_first_name_imports_all_and_a_star_works():
    code = "import sys\nfrom gmdp import Client\nprint('gmdp.worker.worker' in sys.modules)\nfrom gmdp import *\nWorker"
    assert run(code) == "True\n"


def test_F13_threads_of_a_patched_program_may_use_the_first_name_at_once():
    code = """
from gevent import monkey; monkey.patch_all()
import gmdp
from gevent.threadpool import ThreadPool
pool = ThreadPool(8)
print({result.get().__name__ for result in [pool.spawn(lambda: gmdp.Client) for _ in range(8)]})
"""
    assert run(code) == "{'Client'}\n"
