"""The one way from an owner to code that is not gmdp's: hooks, policies, span processors, a stranger's ``str()``.

The rules of this module:

* An error out of a stranger's code ends the stranger's call, and nothing else.  ``gevent.Timeout`` and
  ``GreenletExit`` are not an ``Exception``; they are caught, too.
* SystemExit and KeyboardInterrupt are not the stranger's: a signal's handler raised them in the greenlet
  that happened to run.  The hub gets them as soon as the present greenlet waits, and raises them in the
  main greenlet, as it does for any greenlet that they end.
* Text that a stranger's object makes of itself is cut to :data:`MAX_TEXT` characters.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import gevent

from .slots import get_hub_if_exists

T = TypeVar("T")

#: How often a hub was given an interrupt.
interrupts = 0

#: Errors that signal handlers raise to end the program.
INTERRUPTS = (KeyboardInterrupt, SystemExit)

#: Stands for the name of a type that has none.
NAMELESS = "an object without a type's name"

#: Characters that are kept of the text of a stranger's object.
MAX_TEXT = 4_000


def call(function: Callable[..., T], *args: Any, default: T, on_error: Callable[[BaseException], object]) -> T:
    """Return `function(*args)`, or `default` if it raises.

    Args:
        function: code that is not gmdp's, or that calls such code.
        *args: its arguments.
        default: the decision that stands for an error.
        on_error: called with the error, inside an ``except`` block; not called with SystemExit and
            KeyboardInterrupt, which the hub gets.
    """
    try:
        return function(*args)
    except BaseException as error:
        if not isinstance(error, INTERRUPTS):
            on_error(error)
        else:
            give_to_hub(error)
        return default


def give_to_hub(error: BaseException) -> None:
    """Have the hub handle an error as if the present greenlet had ended with it; that comes after its present pass.

    In a thread without a hub no signal's handler runs, and the error's traceback is printed.
    """
    global interrupts
    interrupts += 1
    hub = get_hub_if_exists()
    if hub is None:
        traceback.print_exception(error)
    else:
        hub.loop.run_callback(hub.handle_error, gevent.getcurrent(), type(error), error, error.__traceback__)


def type_name(value: object) -> str:
    """Return the name of an object's type, even if its metaclass raises."""
    return _text(lambda: type(value).__name__, NAMELESS)


def text_of(value: object) -> str:
    """Return ``str(value)``, cut to :data:`MAX_TEXT` characters; says so if that fails."""
    return _text(lambda: str(value), "<str() failed>")


def repr_of(value: object) -> str:
    """Return ``repr(value)``, cut to :data:`MAX_TEXT` characters; names the type if that fails."""
    return _text(lambda: repr(value), "") or f"<{type_name(value)}: repr() failed>"


def _text(make: Callable[[], str], failed: str) -> str:
    # A slice by `str` itself is a plain str, even of a subclass that does as it likes.
    return call(lambda: str.__getitem__(make(), slice(MAX_TEXT)), default=failed, on_error=_ignore)


def _ignore(error: BaseException) -> None:
    """Say nothing: the text says that it could not be made."""
