"""The package ``gmdp``: what it imports, and when."""

import subprocess
import sys

import pytest

import gmdp
from gmdp import public

#: The first lines of a program that is like the command ``gmdp``.
LEAN = "import gmdp_command, sys\ngmdp_command.lean = True\nimport gmdp\n"


def run(code):
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_package_has_the_public_names():
    assert gmdp.__all__ is public.__all__
    assert [name for name in public.__all__ if getattr(gmdp, name) is not getattr(public, name)] == []
    with pytest.raises(AttributeError, match="module 'gmdp' has no attribute 'Nothing'"):
        _ = gmdp.Nothing


def test_F13_a_program_imports_all_that_is_public_at_once():
    """A name that several threads use first at the same time is not imported there."""
    assert run("import sys, gmdp\nprint('gmdp.worker.worker' in sys.modules)\nfrom gmdp import *\nWorker") == "True\n"


def test_F13_modules_are_attributes_without_an_import_of_their_own():
    """So it was when the package imported all of them, and programs rely on it."""
    names = ("client", "core", "exceptions", "interfaces", "io", "protocol", "security", "tracing", "worker")
    assert run(f"import gmdp\nfor name in {names}: print(getattr(gmdp, name).__name__)").split() == [
        f"gmdp.{name}" for name in names
    ]


def test_F13_a_command_imports_what_is_public_with_its_first_name():
    code = "print('gmdp.public' in sys.modules)\nfrom gmdp import Client\nprint('gmdp.worker.worker' in sys.modules)"
    assert run(LEAN + code) == "False\nTrue\n"
    for name in ("Nothing", "__wrapped__"):
        refused = f"try: gmdp.{name}\nexcept AttributeError as error: print(error)"
        assert run(LEAN + refused) == f"module 'gmdp' has no attribute '{name}'\n"
