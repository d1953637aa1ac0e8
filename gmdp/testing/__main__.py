"""``python -m gmdp.testing``."""

import sys

from .search import main

if __name__ == "__main__":
    sys.exit(main())
