"""What is wrong with a message that is not MDP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmdp.protocol import wire
from gmdp.protocol.diagnosis import diagnose


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (
            [b"MDPC01", b"echo", b"x"],
            "the empty frame before 'MDPC01' is missing (RFC 7; a DEALER socket has to send it)",
        ),
        ([b"hop", b"MDPW01", b"\x04"], "the empty frame before 'MDPW01' is missing"),
        ([b"x", b"MDPC02", b"\x01", b"echo", b"x"], "'MDPC02' must come first, or after an empty frame"),
        ([b"GET / HTTP/1.1", b"x"], "no frame is a header of MDP"),
        ([b"", b"MDPC03", b"echo", b"x"], "the empty frame is followed by 'MDPC03', not by a header such as 'MDPC01'"),
        ([b"", b"MDPC01", b"echo"], "a REQUEST needs a body of one frame at least, which may be empty (RFC 7)"),
        ([b"", b"MDPC01"], "a REQUEST needs a service name"),
        ([b"", b"MDPC01", b"", b"x"], "a REQUEST needs a service name"),
        ([b"", b"MDPC01", b"s" * 256, b"x"], "a service name has at most 255 bytes, not 256"),
        ([b"MDPC02", b"\x07", b"echo", b"x"], r"the command '\x07' after 'MDPC02' is not REQUEST, '\x01' (RFC 18)"),
        ([b"MDPC02"], "'MDPC02' must be followed by the command REQUEST, a service name and a body (RFC 18)"),
        ([b"MDPW02", b"\x19"], r"the command '\x19' after 'MDPW02' is not a command of a worker"),
        ([b"", b"MDPW01", b"\x01"], "READY must be followed by a service name and no other frame (RFC 7)"),
        ([b"", b"MDPW01", b"\x01", b"s" * 300], "a service name has at most 255 bytes, not 300"),
        ([b"", b"MDPW01", b"\x03", b"token", b"x"], "the empty frame between the client address and the body of REPLY"),
        ([b"MDPW02", b"\x04", b"token"], "FINAL must be followed by the client address, an empty frame and a body"),
        ([b"MDPW02", b"\x05", b"x"], "HEARTBEAT must not be followed by further frames (RFC 18)"),
        ([*[b"hop"] * 9, b"", b"MDPC01", b"echo", b"x"], "more than 8 frames of a return address come before 'MDPC01'"),
        ([b"h" * 300, b"", b"MDPC01", b"echo", b"x"], "a frame of the return address has more than 255 bytes"),
        ([], "no frames"),
    ],
)
def test_F2_a_diagnosis_says_what_came_and_what_would_be_right(frames, words):
    assert wire.parse([b"id", *frames]) is None
    assert words in diagnose([b"id", *frames])


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02"]))))
def test_F2_any_bytes_have_a_bounded_diagnosis_of_printable_characters(frames):
    diagnosis = diagnose([b"id", *frames])
    assert len(diagnosis) < 2_000
    assert diagnosis.isprintable()
