"""Frames as bodies of HTTP messages, and back: whole, as chunks, and as server-sent events."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

from ..core.numbers import MAX_FRAMES
from . import multipart
from .answers import Answer, RequestRefused, bad_request, content_headers, error_answer
from .requests import media_type

#: The id of the last event for an ``EventSource``.
LAST_EVENT_ID = "end"


def read_frames(body: bytes, content_type: str) -> list[bytes]:
    """Return the frames in the body of a request; raises RequestRefused for bad multipart."""
    if media_type(content_type) != multipart.MIXED:
        return [body]
    try:
        return multipart.split(body, content_type, MAX_FRAMES)
    except multipart.TooManyParts as error:
        raise RequestRefused(413, "MessageTooLarge", str(error)) from None
    except ValueError as error:
        raise bad_request(str(error)) from None


def text_answer(text: str) -> Answer:
    """Return an answer of plain ASCII text."""
    return Answer(200, content_headers("text/plain; charset=utf-8", len(text)), [text.encode()])


def frames_answer(frames: list[bytes]) -> Answer:
    """Return the answer that holds a complete reply."""
    if len(frames) == 1:
        return Answer(200, content_headers("application/octet-stream", len(frames[0])), frames)
    content_type, body = multipart.join(frames)
    return Answer(200, content_headers(content_type, len(body)), [body])


def stream_answer(
    first: list[bytes], parts: Iterator[list[bytes]], events: bool, is_event_source: bool = False
) -> Answer:
    """Return the answer that writes the parts of a reply as they come.

    Args:
        first: The first part.
        parts: The other parts; closing the body closes this iterator.
        events: Whether the body has server-sent events instead of chunks.
        is_event_source: Whether a browser's ``EventSource`` reads the events.
    """
    kind = EventSourceEvents if is_event_source else Events if events else Chunks
    body = kind(first, parts)
    # Without this header, some proxies keep the body back until it is complete.
    return Answer(200, [("Content-Type", body.content_type), ("X-Accel-Buffering", "no")], body)


class Chunks:
    """A body that writes each part of a reply as it comes.  Closing it cancels the call."""

    content_type = "application/octet-stream"

    #: The most bytes that are written at a time: while a client reads slowly, the handler sees that it reads.
    slice_size = 64 * 1024

    def __init__(self, first: list[bytes], parts: Iterator[list[bytes]]) -> None:
        self._first: list[bytes] | None = first
        self._parts = parts
        #: The rest of the present part, and how much of the part was written last.
        self._rest = memoryview(b"")
        self._written = 0
        self._note_taken: Callable[[int], None] = getattr(parts, "note_taken", lambda size: None)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._rest:
            self._note_taken(self._written)
            rest = self._rest
        else:
            part, self._first = self._first, None
            written = self._write(next(self._parts) if part is None else part)
            if len(written) <= self.slice_size:
                return written
            rest = memoryview(written)
        self._rest = rest[self.slice_size :]
        self._written = min(len(rest), self.slice_size)
        return bytes(rest[: self._written])

    def _write(self, part: list[bytes]) -> bytes:
        return b"".join(part)

    def close(self) -> None:
        """Cancel the call, if it still runs.  PEP 3333: the server calls this in any case."""
        close = getattr(self._parts, "close", None)
        if close is not None:
            close()


class Events(Chunks):
    """A body that writes each part as server-sent events.  An error is the last event."""

    content_type = "text/event-stream"

    def __next__(self) -> bytes:
        try:
            return super().__next__()
        except StopIteration:
            raise
        except Exception as error:
            # After an error the iterator has no more parts: the next call ends the body.
            (body,) = error_answer(error).body
            return b"event: error\ndata: %b\n\n" % body

    def _write(self, part: list[bytes]) -> bytes:
        return b"".join(map(_event, part))


class EventSourceEvents(Events):
    """Events for a browser's ``EventSource``, which asks again when an answer has ended.

    The last event is ``end``.  With its id the browser asks again, and gets 204, which ends it.
    """

    _ended = False

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        try:
            return super().__next__()
        except StopIteration:
            self._ended = True
            return b"event: end\nid: %b\ndata:\n\n" % LAST_EVENT_ID.encode()


def _event(frame: bytes) -> bytes:
    try:
        if b"\r" in frame:
            # A carriage return would end a line of the event.
            raise ValueError
        frame.decode()
    except ValueError:
        return b"event: base64\ndata: %b\n\n" % base64.b64encode(frame)
    return b"data: " + frame.replace(b"\n", b"\ndata: ") + b"\n\n"
