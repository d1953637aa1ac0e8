"""Names and frames as people read them."""

import pytest

from gmdp.protocol.text import MAX_SHOWN, escape, plain_name, show_frames, show_name, show_words


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"echo", "'echo'"),
        ("größe".encode(), "'größe'"),
        (b"\x1b[2J", r"'\x1b[2J'"),
        ("a\u202eb".encode(), r"'a\u202eb'"),
        (b"\xff\x00", r"b'\xff\x00'"),
        (b"", "''"),
        (b"x" * MAX_SHOWN, repr("x" * MAX_SHOWN)),
        (b"x" * 200, repr("x" * MAX_SHOWN) + "…"),
        (("x" * (MAX_SHOWN - 1) + "ö").encode(), repr("x" * 99) + "…"),
    ],
)
def test_names_are_text_where_they_are_text_and_bounded(name, shown):
    assert show_name(name) == shown


def test_names_in_json_have_no_quotes():
    assert [plain_name(name) for name in (b"echo", "größe".encode(), b"\xffx")] == ["echo", "größe", r"\xffx"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (b"", ""),
        ("no worker for größe".encode(), "no worker for größe"),
        (b"two\nlines \x1b[2J\x00", r"two\nlines \x1b[2J\x00"),
        ("a\u202eb".encode(), r"a\u202eb"),
        (b"\xff\xc3", r"\xff\xc3"),
        (b"x" * 100, "x" * 100),
        (b"x" * 101, "x" * 100 + "…"),
        (b"x" * 99 + "ö".encode(), "x" * 99 + r"\xc3…"),
    ],
)
def test_words_of_peers_are_one_printable_line(words, shown):
    assert show_words(words, 100) == shown


def test_what_is_kept_is_not_escaped():
    assert escape("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_the_beginning_of_a_message():
    assert show_frames([]) == "no frames"
    assert show_frames([b"MDPC01"]) == "1 frame: 'MDPC01'"
    assert show_frames([b"", b"MDPC02", b"\x01"]) == r"3 frames: '' 'MDPC02' '\x01'"
    long = show_frames([b"\xff" * 10_000] * 1_000)
    assert long.startswith("1000 frames: ")
    assert len(long) < 1_200
