"""Names and frames of peers as people read them: as text where they are text, else escaped; always bounded."""

from __future__ import annotations

from collections.abc import Sequence

#: The most bytes of a name that are shown.
MAX_SHOWN = 100
#: The most bytes of each frame of a message that are shown, and the most frames.
_MAX_SHOWN_OF_FRAME = 24
_MAX_SHOWN_FRAMES = 8


def show_name(name: bytes, most: int = MAX_SHOWN) -> str:
    """Return a name in quotes, ``'echo'``; bytes that are not text are escaped, ``b'\\xff'``.

    Args:
        name: The name; any object with a length and slices will do.
        most: How many of its bytes are shown; an ellipsis stands for the rest.
    """
    shown = bytes(name[:most])
    cut = len(name) > most
    try:
        text = repr(shown.decode())
    except UnicodeDecodeError as error:
        # A character that the cut has split is left out.
        split = cut and error.reason == "unexpected end of data"
        text = repr(shown[: error.start].decode() if split else shown)
    return f"{text}…" if cut else text


def plain_name(name: bytes) -> str:
    r"""Return a name without quotes, for JSON and spans; bytes that are not text are escaped, ``\xff``."""
    return name.decode("utf-8", "backslashreplace")


def escape(text: str, keep: str = "") -> str:
    r"""Return `text` with every character escaped (``\x1b``) that is neither printable nor in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape", "backslashreplace").decode()
        for one in text
    )


def show_words(words: bytes, most: int) -> str:
    r"""Return a peer's words for people, on one line; bytes that are not text, or not printable, are escaped.

    Args:
        words: The words.
        most: How many of their bytes are shown; an ellipsis stands for the rest.
    """
    return escape(plain_name(words[:most])) + ("…" if len(words) > most else "")


def show_frames(frames: Sequence[bytes]) -> str:
    """Return the beginning of a message: how many frames it has, and the first of them."""
    more = " …" if len(frames) > _MAX_SHOWN_FRAMES else ""
    count = f"{len(frames)} {'frame' if len(frames) == 1 else 'frames'}"
    return f"{count}: {_show_first(frames)}{more}" if frames else "no frames"


def show_beginning(frames: Sequence[bytes]) -> str:
    """Return the first frames of a message that has more than is known."""
    return f"it begins: {_show_first(frames)} …"


def _show_first(frames: Sequence[bytes]) -> str:
    return " ".join(show_name(frame, _MAX_SHOWN_OF_FRAME) for frame in frames[:_MAX_SHOWN_FRAMES])
