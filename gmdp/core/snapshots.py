"""Counters and gauges: how each is declared, and copied for others to read.

Each counter is declared once, as a field of a counters' class, with its help text and unit.
A snapshot's class names the same fields, so that type checkers and readers know them, and
:func:`snapshot_of` copies their declarations.  The decorator refuses a snapshot that lacks a
counter, or has a field without a declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, NoReturn, TypeVar

_MEASURE = "measure"

T = TypeVar("T", bound=type)
K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """An immutable dict; unlike a ``mappingproxy``, it can be pickled and copied.

    Any thread.  All methods that would change it raise TypeError.
    """

    __slots__ = ()

    def _refuse(self, *arguments: object, **keywords: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be changed; dict(...) makes a copy that can")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict[K, V]], tuple[dict[K, V]]]:
        return type(self), (dict(self),)


class Measure(NamedTuple):
    """The declaration of one number."""

    #: "counter": only grows; "gauge": a value of the moment.
    kind: str
    #: The help text: what the number tells.
    text: str
    #: What is counted, in the plural, or "seconds" or "bytes"; empty for a table of objects.
    unit: str
    #: For a table of numbers, what its keys are; else empty.
    label: str = ""


def counter(text: str, unit: str, label: str = "") -> dict[str, Measure]:
    """The metadata of a field that counts; with a `label`, of a table of counters."""
    return {_MEASURE: Measure("counter", text, unit, label)}


def gauge(text: str, unit: str, label: str = "") -> dict[str, Measure]:
    """The metadata of a field that measures the moment."""
    return {_MEASURE: Measure("gauge", text, unit, label)}


def measures(declared: type) -> dict[str, Measure]:
    """The declarations in a dataclass, by field; fields without one are not among them."""
    found = {field.name: field.metadata.get(_MEASURE) for field in fields(declared)}
    return {name: measure for name, measure in found.items() if measure is not None}


def snapshot_of(counters: type) -> Callable[[T], T]:
    """Decorate a snapshot's dataclass with the declarations of its fields.

    They are in its class attribute ``measures``, and in its docstring.  Raises TypeError if the
    snapshot lacks one of the `counters`, or if a field has no declaration or two.
    """

    def check(snapshot: T) -> T:
        counted, own = measures(counters), measures(snapshot)
        names = [field.name for field in fields(snapshot)]
        missing = counted.keys() - set(names)
        undeclared = set(names) - counted.keys() - own.keys()
        repeated = counted.keys() & own.keys()
        if missing or undeclared or repeated:
            raise TypeError(
                f"{snapshot.__name__}: missing {sorted(missing)}, undeclared {sorted(undeclared)}, "
                f"declared twice {sorted(repeated)}"
            )
        declared = {name: counted.get(name) or own[name] for name in names}
        snapshot.measures = declared  # type: ignore[attr-defined]
        lines = [f"        {name}: {measure.text}" for name, measure in declared.items()]
        snapshot.__doc__ = "\n".join([f"{snapshot.__doc__}\n\n    Attributes:", *lines, "    "])
        return snapshot

    return check


def copy_counts(counters: Any) -> dict[str, Any]:
    """The counters as keywords of their snapshot; tables are copied."""
    values = ((name, getattr(counters, name)) for name in type(counters).__slots__)
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values}
