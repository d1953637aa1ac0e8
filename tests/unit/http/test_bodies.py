"""Frames as bodies and back: multipart, chunks as they come, and server-sent events."""

import base64
import json
import tracemalloc

import gevent
import pytest
from gateways import ask, begin_stream, mixed, multipart
from waiting import wait_until

import gmdp.http.bodies
from gmdp import exceptions


def test_several_frames_go_both_ways_as_multipart(gateway):
    frames = [b"", b"one", b"--x", b"\r\n", b"\r\n--", b"--x--"[:-1] + b"\xff\0", bytes(range(256))]
    body = multipart(b"bound", b"frames", *frames)
    answer = ask(gateway, "POST", "/services/work", body, mixed("bound"))
    assert (answer.status, answer.frames) == (200, frames)


def test_an_answer_in_parts_is_joined(gateway):
    answer = ask(gateway, "POST", "/services/work", multipart(b"x", b"parts", b"1", b"2"), mixed("x"))
    assert answer.frames == [b"1", b"2", b"last", b"two"]


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "text/multipart", ""])
def test_no_other_content_type_is_split(gateway, content_type):
    body = multipart(b"x", b"frames", b"1", b"2")
    assert ask(gateway, "POST", "/services/work", body, {"Content-Type": content_type}).body == body


def test_a_body_has_no_more_parts_than_a_message_may_have_frames(gateway, monkeypatch):
    monkeypatch.setattr(gmdp.http.bodies, "MAX_FRAMES", 4)  # the closing boundary counts
    for count, status in ((3, 200), (4, 413)):
        answer = ask(gateway, "POST", "/services/work", multipart(b"x", *[b"y"] * count), mixed("x"))
        assert answer.status == status
    assert answer.error == "MessageTooLarge"


def test_parts_are_written_as_they_come(gateway, gated):
    go, _ = gated
    starting = gevent.spawn(begin_stream, gateway, "/services/gated?stream=1")
    go.release()
    started, parts = starting.get(timeout=10)
    assert started[0] == "200 OK"
    assert "Content-Length" not in dict(started[1])
    assert dict(started[1])["X-Accel-Buffering"] == "no"
    assert next(parts) == b"0"
    go.release()
    assert next(parts) == b"1"
    following = gevent.spawn(next, parts)
    gevent.idle()
    assert not following.ready()
    for _ in range(3):
        go.release()
    assert following.get(timeout=10) == b"2"
    assert list(parts) == [b"3", b"4"]
    parts.close()


def test_the_frames_of_a_part_are_one_chunk(gateway):
    _, parts = begin_stream(gateway, "/services/work?stream=1")
    assert list(parts) == [b""]
    body = multipart(b"x", b"parts", b"1")
    _, parts = begin_stream(gateway, "/services/work?stream=1", body, mixed("x"))
    assert list(parts) == [b"1", b"lasttwo"]


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}], ids=["chunks", "events"])
def test_a_server_that_closes_a_stream_cancels_the_call(gateway, gated, client, headers):
    go, ended = gated
    go.release()
    _, parts = begin_stream(gateway, "/services/gated?stream=1", headers=headers)
    next(parts)
    parts.close()
    go.release()
    assert ended.wait(timeout=10)
    wait_until(lambda: client.statistics().in_flight == 0)
    assert list(parts) == []


def test_events_are_the_frames_of_the_parts(gateway):
    frames = [b"plain", "naïve\nlines\n".encode(), b" blank first", b"", b"\xff\0", b"carriage\rreturn"]
    body = multipart(b"x", b"parts", *frames)
    answer = ask(gateway, "POST", "/services/work", body, {**mixed("x"), "Accept": "text/html, Text/Event-Stream;q=1"})
    assert (answer.status, answer.type) == (200, "text/event-stream")
    assert answer.events == [
        *(("message", frame.decode()) for frame in frames[:4]),
        *(("base64", base64.b64encode(frame).decode()) for frame in frames[4:]),
        ("message", "last"),
        ("message", "two"),
    ]


def test_a_frame_of_many_lines_becomes_an_event_without_an_object_for_each():
    """With an object for each line, 16 MiB took 2 GB, and seconds in which nothing else ran."""
    frame = b"\n" * 500_000
    tracemalloc.start()
    try:
        event = gmdp.http.bodies.Events([frame], iter(()))._write([frame])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * len(event)
    assert event == b"data: \n" * 500_001 + b"\n"


def test_events_go_before_chunks(gateway):
    answer = ask(gateway, "POST", "/services/work?stream=1", b"1", {"Accept": "text/event-stream"})
    assert answer.events == [("message", "1")]


def test_an_error_after_parts_is_the_last_event(gateway):
    [first, (name, data)] = ask(gateway, "POST", "/services/work", b"half", {"Accept": "text/event-stream"}).events
    assert first == ("message", "first")
    assert (name, json.loads(data)["error"]) == ("error", "HandlerFailed")
    assert "secret" not in data


def test_an_error_after_parts_breaks_a_stream_off(gateway):
    _, parts = begin_stream(gateway, "/services/work?stream=1", b"half")
    assert next(parts) == b"first"
    with pytest.raises(exceptions.HandlerFailed):
        next(parts)


def test_X9_a_large_part_is_written_in_slices_and_counts_as_taken_as_it_is_written():
    """A client that reads slowly shows the broker that it reads."""

    class Parts:
        """A stream of two parts."""

        def __init__(self):
            self.parts = iter([[b"a" * 150_000, b"b" * 50_000], [b"end"]])
            self.taken = []
            self.note_taken = self.taken.append

        def __next__(self):
            return next(self.parts)

    parts = Parts()
    body = gmdp.http.bodies.Chunks([b"first"], parts)
    assert next(body) == b"first"
    slices, taken = [], []
    for written in body:
        slices.append(written)
        taken.append(sum(parts.taken))
    assert b"".join(slices) == b"a" * 150_000 + b"b" * 50_000 + b"end"
    assert [len(written) for written in slices] == [65_536, 65_536, 65_536, 3_392, 3]
    # What was written before the server asks for more.
    assert taken == [0, 65_536, 131_072, 196_608, 196_608]


def test_a_stream_of_any_other_client_need_not_count():
    body = gmdp.http.bodies.Events([b"x" * 100_000], iter([[b"y"]]))
    assert b"".join(body) == b"data: %b\n\ndata: y\n\n" % (b"x" * 100_000)
