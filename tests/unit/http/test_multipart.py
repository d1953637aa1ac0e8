"""Multipart bodies of requests and replies (RFC 2046, 5.1)."""

from time import process_time

import pytest
from gateways import RecordingClient, ask, mixed, multipart

import gmdp.http.multipart
from gmdp.http.gateway import Gateway


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ('Multipart/Mixed; charset=x; BOUNDARY="a b:c"', multipart(b"a b:c", b"frames", b"1", b"2")),
        ("multipart/mixed;boundary=x", b"preamble\r\n" + multipart(b"x", b"frames", b"1", b"2") + b"epilogue --x"),
        ("multipart/mixed; boundary=x", multipart(b"x", b"frames", b"1", b"2").replace(b"--x\r\n", b"--x \t\r\n")),
        (
            "multipart/mixed; boundary=x",
            multipart(
                b"x",
                b"frames",
                b"1",
                b"2",
                headers=b"Content-Type: a/b;\r\n c=d\r\nContent-Transfer-Encoding: Binary\r\n",
            ),
        ),
    ],
    ids=["quoted", "preamble and epilogue", "white space", "headers"],
)
def test_multipart_is_read_as_the_rfc_has_it(gateway, content_type, body):
    answer = ask(gateway, "POST", "/services/work", body, {"Content-Type": content_type})
    assert answer.frames == [b"1", b"2"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/mixed", multipart(b"x", b"1")),
        ("multipart/mixed; boundary=", multipart(b"", b"1")),
        ("multipart/mixed; boundary*=x; boundary*0=y", multipart(b"x", b"1")),
        ("multipart/mixed; boundary=x\xff", multipart(b"x\xff", b"1")),
        (f"multipart/mixed; boundary={'x' * 71}", multipart(b"x" * 71, b"1")),
        ("multipart/mixed; boundary=x", b""),
        ("multipart/mixed; boundary=x", b"--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n1\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n1\r\n--x\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n1\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n: 1\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--xy\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", multipart(b"x", b"1").replace(b"\r\n", b"\n")),
        ("multipart/mixed; boundary=x", multipart(b"x", b"MQ==", headers=b"content-transfer-encoding: base64\r\n")),
    ],
)
def test_bad_multipart_is_400(gateway, content_type, body):
    answer = ask(gateway, "POST", "/services/work", body, {"Content-Type": content_type})
    assert (answer.status, answer.error) == (400, "BadRequest")


def test_the_headers_of_a_part_have_a_bound(gateway):
    for length, status in ((16_000, 200), (17_000, 400)):
        body = multipart(b"x", b"1", headers=b"a:" + b" " * length + b"\r\n")
        assert ask(gateway, "POST", "/services/work", body, mixed("x")).status == status
    body = multipart(b"x", b"1", headers=b"a:\r\n" * 1_000_000)
    began = process_time()
    answer = ask(Gateway(RecordingClient(), ["*"]), "POST", "/services/work", body, mixed("x"))
    assert (answer.status, process_time() - began < 1) == (400, True)
    assert b"16 KiB" in answer.body


def test_the_headers_of_all_parts_have_a_bound():
    """Each part may have 16 KiB of them; checking 16 MiB took seconds, in which nothing else ran."""
    for count, status in ((2, 200), (3, 400)):
        body = multipart(b"x", *[b"1"] * count, headers=b"a:\r\n" * 4_000)
        answer = ask(Gateway(RecordingClient(), ["*"]), "POST", "/services/work", body, mixed("x"))
        assert answer.status == status
    assert b"too many headers" in answer.body


def test_many_parts_with_few_headers_each_are_within_the_bound():
    frames = [b"1"] * 30_000
    content_type, body = gmdp.http.multipart.join(frames)
    assert gmdp.http.multipart.split(body, content_type, 30_001) == frames


@pytest.mark.parametrize("spaces", ["{}x", "x{}x"])
def test_looking_for_an_encoding_takes_linear_time(spaces):
    headers = f"Content-Transfer-Encoding: {spaces.format(' ' * 16_000)}\r\n".encode()
    body = multipart(b"x", b"1", headers=headers)
    began = process_time()
    for _ in range(20):
        assert ask(Gateway(RecordingClient(), ["*"]), "POST", "/services/work", body, mixed("x")).status == 400
    assert process_time() - began < 1


def test_every_encoding_of_a_part_is_checked(gateway):
    headers = b"Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64\r\n"
    body = multipart(b"x", b"MQ==", headers=headers)
    assert ask(gateway, "POST", "/services/work", body, mixed("x")).status == 400


def test_a_long_content_type_is_not_parsed(gateway):
    body = multipart(b"x", b"1")
    for length, status in ((1000, 200), (1001, 400), (60_000, 400)):
        content_type = 'multipart/mixed; boundary=x; y="'.ljust(length, ";")
        began = process_time()
        assert ask(gateway, "POST", "/services/work", body, {"Content-Type": content_type}).status == status
        assert process_time() - began < 1


@pytest.mark.parametrize("preamble", [b"", b"preamble\n"])
def test_the_answer_to_lines_without_cr_names_crlf(gateway, preamble):
    body = preamble + multipart(b"x", b"1").replace(b"\r\n", b"\n")
    answer = ask(gateway, "POST", "/services/work", body, mixed("x"))
    assert answer.status == 400
    assert b"CRLF" in answer.body


def test_the_boundary_of_a_reply_does_not_occur_in_it(gateway, monkeypatch):
    tokens = iter(["aa", "bb", "cc"])
    monkeypatch.setattr(gmdp.http.multipart.secrets, "token_hex", lambda size: next(tokens))
    answer = ask(gateway, "POST", "/services/work", multipart(b"x", b"frames", b"1aa", b"bb"), mixed("x"))
    assert answer.headers["Content-Type"] == "multipart/mixed; boundary=cc"
    assert answer.frames == [b"1aa", b"bb"]
