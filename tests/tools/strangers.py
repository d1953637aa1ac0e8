"""What code that is not gmdp's may raise: errors that cannot be shown, and errors that are not an Exception."""

import gevent


class Wordless(Exception):
    """Its text cannot be made."""

    def __str__(self):
        raise AttributeError("no text")

    def __repr__(self):
        raise gevent.Timeout(0.1)


class _Unnamed(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")


class Nameless(Exception, metaclass=_Unnamed):
    """Its type has no name."""


class Huge(Exception):
    """Its text is very long."""

    size = 20_000_000

    def __str__(self):
        return "x" * self.size

    __repr__ = __str__


class Odd(str):
    """A text that cannot be cut, encoded or measured."""

    def _fail(self, *args):
        raise RuntimeError("odd")

    __len__ = __getitem__ = __format__ = encode = _fail


class OddText(Exception):
    """Its text is a str that fails."""

    def __str__(self):
        return Odd("odd text")

    __repr__ = __str__


_ERRORS = {
    "wordless": Wordless,
    "nameless": Nameless,
    "huge": Huge,
    "odd text": OddText,
    "timeout": lambda: gevent.Timeout(5),
    "exit": lambda: gevent.GreenletExit("exit"),
}

#: The names of errors that no owner may be ended by; pytest cannot show all of the errors themselves.
ERRORS = tuple(_ERRORS)

#: What signal handlers raise to end the program.
INTERRUPTS = (SystemExit, KeyboardInterrupt)


def error(name):
    """Make one of the errors."""
    return _ERRORS[name]()


def throw(name):
    """Raise one of the errors."""
    raise error(name)
