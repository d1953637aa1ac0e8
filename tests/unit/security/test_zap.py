"""Requests and replies of ZAP, byte by byte as RFC 27 has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmdp.security import zap

ROUTE = b"\0\x6b\x8b\x45\x67"

# The examples of RFC 27, as a ROUTER socket reads them.
NULL = [ROUTE, b"", b"1.0", b"0001", b"test", b"192.168.55.1", b"BOB", b"NULL"]
PLAIN = [ROUTE, b"", b"1.0", b"0001", b"test", b"192.168.55.1", b"BOB", b"PLAIN", b"admin", b"secret"]
# With the client's public key of zmq_curve(7).
RAW_KEY = bytes.fromhex("bb88471d65e2659b30c55a5321cebb5aab2b70a398645c26dca2b2fcb43fc518")
KEY = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
CURVE = [ROUTE, b"", b"1.0", b"\0\xff", b"gmdp", b"2001:db8::1", b"", b"CURVE", RAW_KEY]


def changed(frames, at, frame):
    """The frames with another one in one place."""
    return [*frames[:at], frame, *frames[at + 1 :]]


def test_a_request_of_null():
    request = zap.read_request(NULL)
    assert not request.malformed
    assert (request.routing_id, request.request_id, request.domain) == (ROUTE, b"0001", b"test")
    assert (request.address, request.mechanism, list(request.credentials)) == ("192.168.55.1", b"NULL", [])


def test_a_request_of_plain():
    request = zap.read_request(PLAIN)
    assert (request.malformed, request.mechanism) == (False, b"PLAIN")
    assert zap.read_password(request.credentials) == ("admin", "secret")


def test_a_request_of_curve():
    """The request id may be any bytes."""
    request = zap.read_request(CURVE)
    assert (request.malformed, request.mechanism, request.request_id) == (False, b"CURVE", b"\0\xff")
    assert request.address == "2001:db8::1"
    assert zap.read_key(request.credentials) == KEY


@pytest.mark.parametrize(
    ("at", "frame"),
    [
        *((3, b""), (3, bytes(1000)), (5, b""), (5, b"localhost:0:0:1234"), (5, b"fe80::1%eth0"), (6, b"")),
        *((4, b"x" * 255), (5, b"x" * 255), (6, b"\xff" * 255), (7, b"x" * 255), (7, b"GSSAPI")),
    ],
)
def test_fields_may_have_any_value_within_their_bounds(at, frame):
    assert not zap.read_request(changed(NULL, at, frame)).malformed


@pytest.mark.parametrize("count", range(len(NULL)))
def test_a_request_with_too_few_frames_is_malformed(count):
    request = zap.read_request(NULL[:count])
    assert request.malformed
    assert request.request_id == (b"0001" if count > 3 else b"")
    assert request.routing_id == (ROUTE if count else b"")


@pytest.mark.parametrize(
    ("at", "frame"),
    [
        (1, b"x"),
        *((2, version) for version in (b"", b"1.1", b"2.0", b"1", b"1.0 ", b"1.0\0", b"\xff")),
        *((4, domain) for domain in (b"", b"x" * 256)),
        *((5, address) for address in (b"\xff", "é".encode(), b"1" * 256)),
        (6, b"x" * 256),
        *((7, mechanism) for mechanism in (b"", b"N" * 256)),
    ],
)
@pytest.mark.parametrize("request_", [NULL, PLAIN, CURVE], ids=["NULL", "PLAIN", "CURVE"])
def test_a_request_that_breaks_a_rule_is_malformed(request_, at, frame):
    request = zap.read_request(changed(request_, at, frame))
    assert request.malformed
    assert request.request_id == request_[3]


@pytest.mark.parametrize("frames", [[], [b""], [b""] * 8, [b""] * 16, [b"\xff"] * 8, [b"1.0"] * 8], ids=str)
def test_odd_frames_are_malformed(frames):
    assert zap.read_request(frames).malformed


@pytest.mark.parametrize(
    "credentials",
    [[], [b""], [RAW_KEY[:-1]], [RAW_KEY + b"x"], [RAW_KEY, b""], [RAW_KEY, RAW_KEY], [KEY.encode()]],
    ids=str,
)
def test_a_key_is_one_frame_of_32_bytes(credentials):
    assert zap.read_key(credentials) is None


def test_names_and_passwords_may_be_utf_8_and_empty():
    """The gate decides on what they say; here they are read."""
    assert zap.read_password(["größe".encode(), "€".encode()]) == ("größe", "€")
    assert zap.read_password([b"", b"a\0b"]) == ("", "a\0b")
    assert zap.read_password([b"x" * 255, b"y" * 255]) == ("x" * 255, "y" * 255)


@pytest.mark.parametrize(
    "credentials",
    [
        *([], [b"admin"], [b"admin", b"secret", b""], [b"x" * 256, b"secret"], [b"admin", b"x" * 256]),
    ],
    ids=str,
)
def test_a_name_and_a_password_are_two_frames_of_255_bytes_at_most(credentials):
    assert zap.read_password(credentials) is None


@pytest.mark.parametrize(
    ("credentials", "read"),
    [
        ([b"\xffbob", b"secret"], ("\ufffdbob", "secret")),
        ([b"admin", b"\xc3"], ("admin", "\ufffd")),
        ([b"admin", b"\xed\xa0\x80"], ("admin", "\ufffd\ufffd\ufffd")),
    ],
)
def test_bytes_that_are_not_utf_8_are_replaced(credentials, read):
    """The gate refuses U+FFFD as a wrong password, and its audit record shows the name."""
    assert zap.read_password(credentials) == read


@given(st.lists(st.binary(max_size=300), max_size=16))
def test_any_frames_are_read_and_replied_to(frames):
    request = zap.read_request(frames)
    zap.read_key(request.credentials)
    zap.read_password(request.credentials)
    assert zap.reply(request, zap.FAILURE, "no")[:2] == [frames[0] if frames else b"", b""]


def test_replies_byte_by_byte():
    """The example of RFC 27, and a refusal, which has no user id."""
    request = zap.read_request(NULL)
    assert zap.reply(request, zap.SUCCESS, "OK", "joe") == [ROUTE, b"", b"1.0", b"0001", b"200", b"OK", b"joe", b""]
    assert zap.reply(request, zap.TEMPORARY, "full") == [ROUTE, b"", b"1.0", b"0001", b"300", b"full", b"", b""]
    assert zap.reply(request, zap.FAILURE, "") == [ROUTE, b"", b"1.0", b"0001", b"400", b"", b"", b""]


def test_a_malformed_request_gets_its_request_id_back():
    request = zap.read_request([ROUTE, b"", b"9.9", b"\0\1\2"])
    assert zap.reply(request, zap.FAILURE, "no") == [ROUTE, b"", b"1.0", b"\0\1\2", b"400", b"no", b"", b""]


def test_s7_a_request_does_not_show_its_credentials():
    """S7: nor the key, which is no secret."""
    shown = repr(zap.read_request(PLAIN))
    assert shown == "<ZapRequest b'PLAIN' from '192.168.55.1'>"
    assert repr(zap.read_request(PLAIN[:5])) == "<ZapRequest b'' from '' malformed>"
