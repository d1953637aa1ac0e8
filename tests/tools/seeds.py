"""Which seeds this run tries: each environment of tox has seeds of its own, so that a run of all tries more of them."""

import os

#: The first seed; tox sets GMDP_SEEDS in each environment.
FIRST = int(os.environ.get("GMDP_SEEDS") or 0)
