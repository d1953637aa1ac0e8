"""The command line: ``gmdp``, also ``python -m gmdp``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit; needs the extra ``cli``."""
    try:
        from .commands import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich", "tomli"):
            raise
        sys.exit("gmdp: the command line needs more packages: pip install 'gmdp[cli]'")
    sys.exit(run(sys.argv[1:]))
