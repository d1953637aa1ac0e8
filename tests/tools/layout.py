"""The floors of the package, and what breaks their rules.

`problems(root)` reads every module below `root` and returns one line for each import that

* goes up, or crosses to another package on the same floor;
* comes from a package that has no floor;
* names a library that belongs to other packages (:data:`ONLY_IN`);
* brings more than the pure standard library into a pure floor;
* closes a circle between modules.

An import counts wherever it stands: at the top, inside a function, under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: The floors from top to bottom.  An import goes down, or stays in its own package.
FLOORS = (
    ("gmdp", "gmdp.wsgi", "gmdp.__main__", "gmdp_command", "gmdp_pytest"),
    ("gmdp.public",),
    ("gmdp.cli",),
    ("gmdp.admin",),
    ("gmdp.http",),
    ("gmdp.testing",),
    ("gmdp.rpc", "gmdp.titanic", "gmdp.zerorpc"),
    ("gmdp.broker", "gmdp.client", "gmdp.worker"),
    ("gmdp.discovery",),
    ("gmdp.io",),
    ("gmdp.security", "gmdp.validation", "gmdp.config", "gmdp.tracing"),
    ("gmdp.core",),
    ("gmdp.protocol",),
    ("gmdp.exceptions", "gmdp.interfaces", "gmdp.version"),
)

#: Floors that may read no clock, open no file and know no library.
PURE = ("gmdp.core", "gmdp.protocol")

#: The pure part of the standard library, as far as the pure floors use it.
PURE_LIBRARIES = frozenset(
    [
        "__future__",
        "abc",
        "bisect",
        "collections",
        "dataclasses",
        "difflib",
        "enum",
        "fnmatch",
        "functools",
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "struct",
        "types",
        "typing",
    ]
)

#: Libraries, and the only places that may import them.
ONLY_IN: Mapping[str, tuple[str, ...]] = {
    "zmq": ("gmdp.io", "gmdp.security", "gmdp.zerorpc"),
    "click": ("gmdp.cli",),
    "rich": ("gmdp.cli",),
    "gunicorn": ("gmdp.cli.gateway", "gmdp.cli.prefork"),
    "msgspec": ("gmdp.rpc", "gmdp.zerorpc"),
    "psycopg": ("gmdp.titanic.stores", "gmdp.discovery.postgresql"),
    "psycopg2": ("gmdp.titanic.stores", "gmdp.discovery.postgresql"),
    "sqlite3": ("gmdp.titanic.stores", "gmdp.discovery.postgresql"),
    "gmdp._pump": ("gmdp.io.frames",),
}


@dataclass(frozen=True)
class Import:
    """One imported module, and where its import stands."""

    module: str
    imported: str
    line: int


def problems(root: Path) -> list[str]:
    """What breaks a rule in the modules ``gmdp``, ``gmdp_command`` and ``gmdp_pytest`` below `root`."""
    modules = find_modules(root)
    imports = [one for name, path in modules.items() for one in imports_of(name, path, modules)]
    return [
        *(f"{name} has no floor" for name in modules if place_of(name) is None),
        *(f"{one.module}:{one.line}: {said}" for one in imports for said in broken_rules(one)),
        *(f"circle: {' -> '.join(circle)}" for circle in circles(imports)),
    ]


def find_modules(root: Path) -> dict[str, Path]:
    """Every module's name and file."""
    files = [*(root / "gmdp").rglob("*.py"), *root.glob("gmdp_*.py")]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports_of(name: str, path: Path, modules: Mapping[str, Path]) -> Iterator[Import]:
    """The imports of one module; names of ``from``-imports are resolved to modules where they are modules."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            for imported in dict.fromkeys(
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in {*modules, *ONLY_IN} else base
                for alias in node.names
            ):
                yield Import(name, imported, node.lineno)


def broken_rules(one: Import) -> Iterator[str]:
    """The rules that one import breaks."""
    for library, places in ONLY_IN.items():
        if is_in(one.imported, library) and not any(is_in(one.module, place) for place in places):
            yield f"{one.imported} belongs to {', '.join(places)}"
    if not is_in(one.imported, "gmdp"):
        if place_of(one.module) in PURE and one.imported.split(".")[0] not in PURE_LIBRARIES:
            yield f"{one.imported} is not of the pure standard library"
        return
    module, imported = place_of(one.module), place_of(one.imported)
    if module is None or imported is None or module == imported:
        return
    if floor_of(imported) < floor_of(module):
        yield f"the import of {one.imported} goes up"
    elif floor_of(imported) == floor_of(module) and imported != "gmdp":  # every door may use the public names
        yield f"the import of {one.imported} crosses its floor"


def place_of(name: str) -> str | None:
    """The entry of :data:`FLOORS` that a module belongs to; None if it has no floor."""
    top = ".".join(name.split(".")[:2])
    return top if any(top in floor for floor in FLOORS) else None


def floor_of(place: str) -> int:
    """A place's floor; 0 is at the top."""
    return next(number for number, floor in enumerate(FLOORS) if place in floor)


def is_in(name: str, package: str) -> bool:
    """Whether a module is a package or lies in it."""
    return name == package or name.startswith(package + ".")


def circles(imports: list[Import]) -> Iterator[list[str]]:
    """One circle for each group of modules that import each other."""
    graph: dict[str, list[str]] = {}
    for one in imports:
        if one.module != one.imported and is_in(one.imported.partition("_")[0], "gmdp"):
            graph.setdefault(one.module, []).append(one.imported)
    done: set[str] = set()

    def search(module: str, path: list[str]) -> Iterator[list[str]]:
        if module in path:
            yield [*path[path.index(module) :], module]
        elif module not in done:
            for imported in sorted(set(graph.get(module, ()))):
                yield from search(imported, [*path, module])
            done.add(module)

    for module in sorted(graph):
        yield from search(module, [])
