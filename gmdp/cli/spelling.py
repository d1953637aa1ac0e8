"""Commands whose errors name options as users write them.

The library's errors name its keywords: ``request_ttl must be ...``.  On the command line the same option is
``--request-ttl``, and in the environment ``$GMDP_BROKER_REQUEST_TTL``.
"""

from __future__ import annotations

import os
import re
from typing import Any

import click
from click.core import ParameterSource

from ..exceptions import ConfigurationError


class FileRefused(ConfigurationError):
    """A file of options is wrong.  The message names options as the file does."""


class Command(click.Command):
    """A command whose errors name options as they are spelt on the command line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raises ConfigurationError with options as the user has written them."""
        try:
            return super().invoke(ctx)
        except FileRefused:
            raise
        except ConfigurationError as error:
            raise ConfigurationError(_respell(ctx, str(error))) from None


def flag(option: click.Option) -> str:
    """Return an option as it is spelt on the command line."""
    return max(option.opts, key=len)


def spelling(context: click.Context, option: click.Option) -> str:
    """Return how the user has written an option: its flag, or the environment variable that its value came from."""
    if context.get_parameter_source(option.name or "") is ParameterSource.ENVIRONMENT:
        for variable in [option.envvar] if isinstance(option.envvar, str) else option.envvar or ():
            if os.environ.get(variable):
                return f"${variable}"
    return flag(option)


def _respell(context: click.Context, message: str) -> str:
    """Return an error's message with options as the user has written them.

    A keyword without an underscore may be a word like any other, unless it begins the message.
    """
    spellings = {
        option.name: spelling(context, option) for option in context.command.params if isinstance(option, click.Option)
    }

    def spell(match: re.Match[str]) -> str:
        word = match[0]
        return spellings.get(word, word) if match.start() == 0 or "_" in word else word

    return re.sub(r"(?<![\w$'/-])\w+\b(?!['\w.-])", spell, message)
