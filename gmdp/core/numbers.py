"""Checks of option values, numbers and text, and the message for an unknown option.

A wrong value raises ``ValueError``; the message names the option, the value and what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

#: The largest whole number: what fits 64 bits.
MOST_WHOLE = 2**63 - 1
#: The largest number of seconds, about 30 years.
MOST_SECONDS = 1e9
#: The most seconds between heartbeats: a day.
MOST_INTERVAL = 86_400
#: The most frames of a message that a broker takes, and of a body that a gateway takes.
MAX_FRAMES = 100_000
#: The most frames of a message that a client or worker reads: an envelope may have grown on its way through the broker.
MAX_FRAMES_READ = MAX_FRAMES + 16

#: The largest bound that a message names together with the smallest.
_MOST_READABLE = 1_000


def check_number(
    name: str, value: Any, least: float, *, whole: bool = False, above: bool = False, most: float | None = None
) -> None:
    """Raise ValueError unless `value` is a number from `least` to `most`.

    Args:
        name: The option's name, for the message.
        value: What the user gave.
        least: The smallest number allowed.
        whole: True if only an int is allowed.
        above: True if `value` must be greater than `least`.
        most: The largest number allowed; None: :data:`MOST_WHOLE` or :data:`MOST_SECONDS`.
    """
    has_range = most is not None and most <= _MOST_READABLE and not above
    if most is None:
        most = MOST_WHOLE if whole else MOST_SECONDS
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if is_number and (value > least if above else value >= least) and value <= most:
        return
    kind = "a whole number" if whole else "a number"
    if has_range:
        shown = "" if is_number and abs(value) > MOST_WHOLE else f", not {value!r}"  # it may have a million digits
        raise ValueError(f"{name} must be {kind} from {least:g} to {most:g}{shown}")
    if is_number and value == math.inf:
        raise ValueError(f"{name} must be {kind} of at most {most:g}, not {value!r}")
    if is_number and value > most:
        raise ValueError(f"{name} must be {kind} of at most {most:g}")
    bound = "greater than" if above else "of at least"
    raise ValueError(f"{name} must be {kind} {bound} {least:g}, not {value!r}")


def check_text(name: str, text: str) -> bytes:
    """Return `text` in UTF-8; raise ValueError, which names the option, if it has no such form.

    A str made of bytes that are not UTF-8 (``surrogateescape``) has none.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be text that has a form in UTF-8, not {text!r}: character {error.start + 1} is a surrogate"
        ) from None


def check_boolean(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")


def unknown_name(name: str, known: Iterable[str], kind: str = "option") -> str:
    """The message for a `name` that is not among the `known` ones; suggests the nearest."""
    import difflib  # for errors alone: it takes time

    known = list(known)
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}{hint}"
