"""Measure gmdp and, in the same sitting, what it is compared with: ``python bench/compare.py --help``.

It needs the extra ``compare``.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from peer_stacks import PEERS

from gmdp.cli.bench.command import bench, measure
from gmdp.cli.bench.stacks import GMDP, GMDP_STACK
from gmdp.cli.group import run


@click.command(params=[option for option in bench.params if option.name != "compare"])
def compare(**options: Any) -> int:
    """Measure gmdp, and peers that are installed, on this machine.

    The peers are zerorpc (no broker in between), majortomo (a thread for each caller), NATS
    (asyncio), and libzmq's own proxy, which does nothing but forward: the limit.  --broker
    and --mdp are for gmdp alone.  Exit status 1 if calls failed.
    """
    installed = {name: peer.stack for name, peer in PEERS.items() if peer.installed}
    status = measure({GMDP: GMDP_STACK, **installed}, **options)
    missing = [name for name in PEERS if name not in installed]
    if missing:
        click.echo(f"not installed: {', '.join(missing)}", err=True)
    return status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], compare, "compare.py"))
