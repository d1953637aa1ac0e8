"""Run the tox environments, or those that are named, one after another, and say what each takes.

An environment fails if it takes more than twice its limit.  A skipped test, or an interpreter
that is not installed, is a failure unless tests/SKIPS.md lists it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[1]

#: Seconds that one environment may take on two cores, where it is not the usual one.
LIMITS = {"once": 480.0}
#: Seconds that any other environment may take, and all of them together.
LIMIT, LIMIT_IN_ALL = 180.0, 1500.0


def main() -> int:
    os.environ["CI"] = "1"
    os.chdir(ROOT)
    listed = re.findall(r"^\| `([^`]+)` \|", Path("tests/SKIPS.md").read_text(encoding="utf-8"), re.M)
    listing = [sys.executable, "-m", "tox", "list", "--no-desc", "-d", "-q"]
    environments = sys.argv[1:] or subprocess.check_output(listing, text=True).split()
    began = monotonic()
    rows, failed = [], []
    for environment in environments:
        missing_is_skipped = "true" if environment in listed else "false"
        tox = [sys.executable, "-m", "tox", "run", "--skip-missing-interpreters", missing_is_skipped, "-e", environment]
        made = monotonic()
        status = subprocess.call([*tox, "--notest"])
        begun = monotonic()
        status = status or subprocess.call([*tox, "--skip-pkg-install"])
        rows.append((environment, begun - made, monotonic() - begun, LIMITS.get(environment, LIMIT)))
        if status:
            failed.append(environment)
    in_all = monotonic() - began

    print(f"\n{'environment':12} {'set-up':>8} {'run':>8} {'in all':>8} {'limit':>8}")
    for environment, set_up, run, limit in [*rows, ("in all", 0.0, in_all, LIMIT_IN_ALL)]:
        took = set_up + run
        print(f"{environment:12} {set_up:7.0f}s {run:7.0f}s {took:7.0f}s {limit:7.0f}s  {verdict(took, limit)}")
        if took > 2 * limit:
            failed.append(f"{environment} (time)")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def verdict(seconds: float, limit: float) -> str:
    """What to say of a time: nothing, a warning above the limit, a failure above twice the limit."""
    if seconds > 2 * limit:
        return "!!!!! FAILED: MORE THAN TWICE THE LIMIT !!!!!"
    return "!!!!! TOO SLOW !!!!!" if seconds > limit else ""


if __name__ == "__main__":
    sys.exit(main())
