"""The search for a seed that fails."""

import subprocess
import sys


def test_the_simulator_needs_no_hub():
    """The simulator uses no greenlet, thread or descriptor."""
    code = (
        "import gevent._hub_local as local, threading, os, gmdp.testing.explorer.search as s\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "assert not s.run_seeds(range(3)).failures\n"
        "assert local.get_hub_if_exists() is None and threading.active_count() == 1\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
