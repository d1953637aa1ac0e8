"""How much of each module its own test file covers: ``python tests/tools/coverage_by_module.py [--raise] [PACKAGE…]``.

``gmdp/core/rates.py`` is measured while ``tests/unit/core/test_rates.py`` runs, and only then.  A module
without such a file counts as not covered.  Lines and branches count alike.  The figure of a package must not
be below its floor in ``tests/coverage.json``; ``--raise`` lifts the floors to the figures, and lowers none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import coverage

ROOT = Path(__file__).parents[2]
FLOORS = ROOT / "tests" / "coverage.json"

#: Modules that do nothing by themselves.
WITHOUT_TESTS = {"__init__.py", "version.py", "interfaces.py"}
#: Test files that run at a time.
AT_A_TIME = 2
#: Points by which a figure exceeds its floor when the floor may be raised.
MAY_BE_RAISED = 2.0


@dataclass
class Module:
    """One module, its test file, and what that covers."""

    path: Path
    covered: int = 0
    #: Lines and branches there are.
    countable: int = 0
    failed: bool = False

    @property
    def package(self) -> str:
        return self.path.parent.relative_to(ROOT).as_posix()

    @property
    def test_file(self) -> Path:
        folder = ROOT / "tests" / "unit" / self.path.parent.relative_to(ROOT / "gmdp")
        return folder / f"test_{self.path.stem.strip('_')}.py"

    def measure(self, folder: Path) -> None:
        """Run the test file, if there is one, and count."""
        data = folder / self.path.relative_to(ROOT).as_posix().replace("/", "-")
        if self.test_file.exists():
            options = ["--branch", "--concurrency=gevent,thread", f"--data-file={data}", f"--include={self.path}"]
            tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", str(self.test_file)]
            done = subprocess.run(
                [sys.executable, "-m", "coverage", "run", *options, *tests],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "COVERAGE_CORE": "ctrace"},
            )
            if done.returncode:
                self.failed = True
                print(done.stdout)
        measured = coverage.Coverage(data_file=str(data), branch=True, config_file=False)
        measured.load()
        if str(self.path) not in measured.get_data().measured_files():
            measured.get_data().add_arcs({str(self.path): []})
        report = data.with_suffix(".json")
        measured.json_report(morfs=[str(self.path)], outfile=str(report))
        (summary,) = [one["summary"] for one in json.loads(report.read_text())["files"].values()]
        self.covered = summary["covered_lines"] + summary["covered_branches"]
        self.countable = summary["num_statements"] + summary["num_branches"]


def modules(packages: list[str]) -> Iterator[Module]:
    for path in sorted((ROOT / "gmdp").rglob("*.py")):
        module = Module(path)
        if path.name not in WITHOUT_TESTS and (not packages or module.package in packages):
            yield module


def percent(*counted: Module) -> float:
    countable = sum(one.countable for one in counted)
    return 100.0 * sum(one.covered for one in counted) / countable if countable else 100.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raise", dest="lift", action="store_true", help="lift the floors to the figures")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="for instance gmdp/core/broker; default: all")
    arguments = parser.parse_args()
    began = monotonic()
    every = list(modules(arguments.packages))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda one: one.measure(Path(folder)), every))

    floors: dict[str, float] = json.loads(FLOORS.read_text(encoding="utf-8")) if FLOORS.exists() else {}
    wrong = [f"{one.test_file.relative_to(ROOT)} failed" for one in every if one.failed]
    for package in sorted({one.package for one in every}):
        here = [one for one in every if one.package == package]
        for one in here:
            without = "" if one.test_file.exists() else f"  no {one.test_file.relative_to(ROOT)}"
            print(f"{one.path.relative_to(ROOT).as_posix():42} {percent(one):6.1f} %{without}")
        figure, floor = percent(*here), floors.get(package, 0.0)
        print(f"{package + '/':42} {figure:6.1f} %  floor {floor:g} %")
        if figure < floor:
            wrong.append(f"{package}: {figure:.1f} % is below the floor of {floor:g} %")
        elif figure >= floor + MAY_BE_RAISED:
            print(f"{package}: the floor may be raised to {int(figure)} %")
        floors[package] = max(floor, float(int(figure)))
    print(f"in {monotonic() - began:.0f} s")
    if arguments.lift:
        FLOORS.write_text(json.dumps(floors, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
