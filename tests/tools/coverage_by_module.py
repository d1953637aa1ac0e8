"""How much of each module its own test file covers: ``python tests/tools/coverage_by_module.py [--raise] [PACKAGE…]``.

``gmdp/core/rates.py`` is covered by what runs while ``tests/unit/core/test_rates.py`` runs, and by its import.
A module without such a file counts as not covered.  Lines and branches count alike.  The figure of a package
must not be below its floor in ``tests/coverage.json``; ``--raise`` lifts the floors to :data:`MARGIN` points below
the figures, and lowers none.

The test files of some packages share a process.  This module is a pytest plugin there: each test file is a
dynamic context of coverage.  The C tracer measures, since no faster core of coverage knows contexts and greenlets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import coverage
import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ROOT / "tests" / "coverage.json"

#: Modules that do nothing by themselves.
WITHOUT_TESTS = {"__init__.py", "version.py", "interfaces.py", "public.py"}
#: Processes that run tests, and how many of them at a time.
GROUPS, AT_A_TIME = 6, 3
#: Points by which a floor lies below the figure: chance decides a few branches.
MARGIN = 2.0


def pytest_runtest_logstart(nodeid: str) -> None:
    """Let the context be the file of the test that begins.

    The context before the first test, the empty one, holds the imports.
    """
    measuring = coverage.Coverage.current()
    if measuring is not None:
        measuring.switch_context(nodeid.partition("::")[0])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave the context of the last test's file."""
    measuring = coverage.Coverage.current()
    if measuring is not None:
        measuring.switch_context("after the tests")


@dataclass
class Module:
    """One module, its test file, and how much of it that covers."""

    path: Path
    covered: int = 0
    #: Lines and branches there are.
    countable: int = 0

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def package(self) -> str:
        return self.path.parent.relative_to(ROOT).as_posix()

    @property
    def test_file(self) -> str:
        folder = Path("tests", "unit", self.path.parent.relative_to(ROOT / "gmdp"))
        return (folder / f"test_{self.path.stem.strip('_')}.py").as_posix()

    @property
    def has_tests(self) -> bool:
        return (ROOT / self.test_file).exists()


def modules(packages: list[str]) -> Iterator[Module]:
    for path in sorted((ROOT / "gmdp").rglob("*.py")):
        module = Module(path)
        if path.name not in WITHOUT_TESTS and (not packages or module.package in packages):
            yield module


def groups(every: list[Module]) -> list[list[Module]]:
    """Share the modules among as many processes as there are :data:`GROUPS`, a package in one of them.

    Test files of as many bytes take about as long.  The largest group comes first.
    """
    shared: list[list[Module]] = [[] for _ in range(GROUPS)]
    packages: dict[str, list[Module]] = {}
    for module in every:
        packages.setdefault(module.package, []).append(module)
    for package in sorted(packages.values(), key=size, reverse=True):
        min(shared, key=size).extend(package)
    return sorted(filter(None, shared), key=size, reverse=True)


def size(group: list[Module]) -> int:
    """The bytes of the modules' test files."""
    return sum((ROOT / module.test_file).stat().st_size for module in group if module.has_tests)


def measure(group: list[Module], data: Path) -> list[str]:
    """Run the modules' test files in one process, and count.  Returns what failed."""
    failed = run_tests([module.test_file for module in group if module.has_tests], data)
    for module in group:
        measured = coverage.Coverage(data_file=str(data), branch=True, config_file=False)
        measured.load()
        if str(module.path) not in measured.get_data().measured_files():
            measured.get_data().add_arcs({str(module.path): []})
        contexts = ["^$", f"^{re.escape(module.test_file)}$"] if module.has_tests else ["^no tests$"]
        report = data.with_suffix(".json")
        measured.json_report(morfs=[str(module.path)], outfile=str(report), contexts=contexts)
        (summary,) = [file["summary"] for file in json.loads(report.read_text(encoding="utf-8"))["files"].values()]
        module.covered = summary["covered_lines"] + summary["covered_branches"]
        module.countable = summary["num_statements"] + summary["num_branches"]
    return failed


def run_tests(files: list[str], data: Path) -> list[str]:
    """Run test files in a process that writes `data`.  Returns what failed."""
    if not files:
        return []
    options = ["--branch", "--concurrency=gevent,thread", f"--data-file={data}", f"--include={ROOT}/gmdp/*"]
    tests = ["-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "-p", Path(__file__).stem, "-m", "not slow"]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "coverage", "run", *options, *tests, *files],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COVERAGE_CORE": "ctrace", "PYTHONPATH": path},
    )
    if not done.returncode:
        return []
    print(done.stdout, flush=True)
    named = re.findall(r"^(?:FAILED|ERROR) (\S.*)$", done.stdout, re.MULTILINE)
    return named or [f"pytest returned {done.returncode} for {', '.join(files)}"]


def percent(*counted: Module) -> float:
    countable = sum(module.countable for module in counted)
    return 100.0 * sum(module.covered for module in counted) / countable if countable else 100.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raise", dest="lift", action="store_true", help="lift the floors")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="for instance gmdp/core/broker; default: all")
    arguments = parser.parse_args()
    began = monotonic()
    every = list(modules(arguments.packages))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        shared = groups(every)
        data = [Path(folder, f"coverage-{number}") for number in range(len(shared))]
        wrong = [failure for failed in pool.map(measure, shared, data) for failure in failed]

    floors: dict[str, float] = json.loads(FLOORS.read_text(encoding="utf-8")) if FLOORS.exists() else {}
    for name in sorted({module.package for module in every}):
        package = [module for module in every if module.package == name]
        for module in package:
            print(f"{module.name:42} {percent(module):6.1f} %")
        figure, floor = percent(*package), floors.get(name, 0.0)
        print(f"{name + '/':42} {figure:6.1f} %  floor {floor:g} %")
        if figure < floor:
            wrong.append(f"{name}: {figure:.1f} % is below the floor of {floor:g} %")
        elif int(figure - MARGIN) > floor:
            print(f"{name}: the floor may be raised to {int(figure - MARGIN)} %")
        floors[name] = max(floor, float(int(figure - MARGIN)))
    without = [module for module in every if not module.has_tests]
    for module in without:
        print(f"without a test file: {module.name} (would be {module.test_file})")
    print(f"{len(without)} modules without a test file; in {monotonic() - began:.0f} s")
    if arguments.lift:
        FLOORS.write_text(json.dumps(floors, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
