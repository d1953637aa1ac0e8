"""Hashes of passwords: how they are made, read and checked."""

import pytest
from secured import PASSWORD, assert_shows_no_secret

from gmdp.security import hash_password
from gmdp.security.passwords import MAX_PASSWORD, read_hash


@pytest.fixture(scope="module")
def hashed():
    """The hash of PASSWORD."""
    return hash_password(PASSWORD)


@pytest.mark.parametrize("password", ["x", "größe €", "with: $ and #", "x" * MAX_PASSWORD, "\U0001f511" * 63])
def test_a_password_matches_its_own_hash(password):
    assert read_hash(hash_password(password)).matches(password)


def test_no_other_password_matches(hashed):
    for other in (PASSWORD.upper(), "", PASSWORD + "x" * MAX_PASSWORD, "\ud800"):
        assert not read_hash(hashed).matches(other)


def test_two_hashes_of_a_password_differ(hashed):
    again = hash_password(PASSWORD)
    assert again != hashed
    assert read_hash(again).matches(PASSWORD)


def test_the_form_of_a_hash(hashed):
    """The hash fits on a line, has its parameters, and is written as it was read."""
    kind, cost, block, parallel, _, _ = hashed.split("$")
    assert (kind, cost, block, parallel) == ("scrypt", "16384", "8", "1")
    assert str(read_hash(hashed)) == hashed
    assert ":" not in hashed
    assert hashed.isprintable()


@pytest.mark.parametrize("password", ["", "x" * (MAX_PASSWORD + 1), "é" * 128, "\ud800", "p\udcffq"], ids=ascii)
def test_passwords_that_cannot_be_are_refused(password):
    with pytest.raises(ValueError, match=str(MAX_PASSWORD)) as error:
        hash_password(password)
    assert password not in str(error.value) or not password
    assert error.value.__suppress_context__ or error.value.__context__ is None


SALT, DIGEST = "MDEyMzQ1Njc4OWFiY2RlZg==", "A" * 43 + "="


@pytest.mark.parametrize(
    "text",
    [
        *("", "$", "$$$$$", "scrypt", PASSWORD, f"scrypt$16384$8${SALT}${DIGEST}"),
        *(f"scrypt$16384$8$1${SALT}", f"scrypt$16384$8$1$1${SALT}${DIGEST}", f"scrypt$16384$8$1${SALT}${DIGEST}$"),
        *(f"bcrypt$16384$8$1${SALT}${DIGEST}", f"pbkdf2$16384$8$1${SALT}${DIGEST}", f"${SALT}$1$1$1${DIGEST}"),
        *(f"scrypt$x$8$1${SALT}${DIGEST}", f"scrypt$1e4$8$1${SALT}${DIGEST}", f"scrypt${'9' * 5000}$8$1$${DIGEST}"),
        *(f"scrypt$16384$8$1$*${DIGEST}", f"scrypt$16384$8$1${SALT}$AAAA", f"scrypt$16384$8$1${SALT}$", "é" * 9),
        f"scrypt$16384$8$1${SALT}$ä",
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_other_texts_are_no_hashes(text):
    with pytest.raises(ValueError):
        read_hash(text)


@pytest.mark.parametrize(
    ("cost", "block", "parallel"),
    [
        *((0, 8, 1), (1, 8, 1), (1000, 8, 1), (-16384, 8, 1), (-16384, -8, 1), (-16384, -8, -1)),
        *((16384, 0, 1), (16384, -8, 1), (16384, 8, 0), (16384, 8, -1), (16384, 8, 17), (65536, 1, 1)),
        *((2**18, 8, 1), (2**40, 8, 1), (2, 2**20, 1), (16384, 2**40, 1)),
    ],
)
def test_absurd_parameters_are_refused(cost, block, parallel):
    with pytest.raises(ValueError):
        read_hash(f"scrypt${cost}${block}${parallel}${SALT}${DIGEST}")


@pytest.mark.parametrize(("cost", "block", "parallel"), [(2, 1, 1), (2**15, 1, 1), (16, 8, 16), (2**15, 8, 1)])
def test_accepted_parameters_can_be_computed(cost, block, parallel):
    assert not read_hash(f"scrypt${cost}${block}${parallel}${SALT}${DIGEST}").matches("x")


def test_s7_a_hash_shows_no_password(hashed):
    """S7: nor does its repr show the digest."""
    read = read_hash(hashed)
    assert_shows_no_secret(read)
    assert hashed.split("$")[-1] not in repr(read)
