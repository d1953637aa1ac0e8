"""``gmdp keygen`` and ``gmdp passwd``."""

from __future__ import annotations

import os
import sys

import click

from ..exceptions import ConfigurationError, MDPError
from ..security import generate_keys
from ..security.lists import set_password
from .printing import printable
from .spelling import Command


@click.command(cls=Command)
@click.argument("name")
@click.option("--folder", default=".", show_default=True, help="Where to write them.")
def keygen(name: str, folder: str) -> None:
    """Make a pair of CURVE keys: NAME.key and NAME.key_secret.

    NAME.key is public: copy that of a client or worker to the broker's folder of allowed keys,
    and that of the broker to its clients and workers.  NAME.key_secret is for its owner alone.
    """
    public, secret = generate_keys(name, folder)
    click.echo(printable(f"{public} (public), {secret} (keep it secret)"))


@click.command(cls=Command)
@click.argument("file", metavar="FILE")
@click.argument("user", metavar="USER")
def passwd(file: str, user: str) -> None:
    """Set USER's password in FILE, for a broker's --plain-users.

    On a terminal you are asked for the password; otherwise it is the first line of standard input.
    """
    folder = os.path.dirname(file)
    if folder and not os.path.isdir(folder):
        raise ConfigurationError(f"cannot write {file}: {folder} is not a folder")
    if sys.stdin is None:
        raise MDPError("a password is needed, and standard input is closed")
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape").rstrip("\r\n")
    set_password(file, user, password)
