"""Any bytes at all for a broker's core."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    as_frames,
    client_request,
    frames_of_any_kind,
    huge,
    near_misses,
    valid_messages,
    worker_command,
)

from gmdp.core.broker.core import BrokerCore
from gmdp.core.broker.options import BrokerOptions
from gmdp.protocol import wire
from gmdp.protocol.dialects import RFC7, RFC18

STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=150)


hostile = st.one_of(
    st.lists(frames_of_any_kind, max_size=12),
    near_misses(st.builds(as_frames, st.binary(max_size=4), valid_messages())),
)


def a_broker():
    """A broker with a busy and an idle worker, and a request that waits."""
    core = BrokerCore(BrokerOptions(max_frames=40, max_frame_size=280), b"noncenon", 0.0)
    core.feed([b"busy", *worker_command(RFC18, "READY", b"s")], 0.0)
    core.feed([b"client", *client_request(RFC7, b"s", [b"1"])], 0.0)
    core.feed([b"client", *client_request(RFC7, b"s", [b"2"])], 0.0)
    core.feed([b"idle", *worker_command(RFC7, "READY", b"other")], 0.0)
    core.take()
    return core


def dispositions(core):
    """How many messages were counted: as dropped, or as one of the things a message may be."""
    counters = core.counters
    return (
        sum(counters.drops.values())
        + counters.requests
        + counters.management
        + counters.registrations
        + counters.partials
        + counters.replies
    )


@settings(STEADY, max_examples=400)
@given(st.sampled_from([b"busy", b"idle", b"client", b"stranger"]), st.data())
def test_a_broker_drops_and_counts_what_it_cannot_read(routing_id, data):
    """B4: every message is counted as one thing, and what is malformed as dropped."""
    core = a_broker()
    frames = data.draw(hostile.map(lambda frames: [routing_id, *frames[1:]]))
    before = dispositions(core)
    lost = sum(core.counters.lost_workers.values())
    core.feed(frames, 1.0)
    reasons = core.counters.drops
    if len(frames) > 40:
        assert reasons == {"too_many_frames": 1}
    elif len(frames) >= 3 and max(map(len, frames)) > 280:
        assert reasons == {"frame_too_large": 1}
    elif wire.parse(frames) is None:
        assert reasons == {"malformed": 1}
    if reasons:
        assert dispositions(core) == before + 1
    else:
        lost_now = sum(core.counters.lost_workers.values()) > lost
        # HEARTBEAT, DISCONNECT and a second READY of a registered worker count as nothing else.
        assert dispositions(core) == before + 1 or lost_now or routing_id in (b"busy", b"idle")
    if reasons.keys() & {"malformed", "too_many_frames", "frame_too_large"}:
        # "treating that peer as invalid"
        assert routing_id not in core._registry.connections
    counters = core.counters
    assert counters.requests == counters.replies + sum(counters.ended.values()) + core.queued + core.assigned


@settings(STEADY, max_examples=15)
@given(st.sampled_from([b"busy", b"idle", b"stranger"]), huge)
def test_a_broker_drops_messages_of_very_many_frames(routing_id, frames):
    """B4"""
    core = a_broker()
    frames = [routing_id, *frames]
    core.feed(frames, 1.0)
    if len(frames) > 40:
        assert core.counters.drops == {"too_many_frames": 1}
        assert routing_id not in core._registry.connections


@pytest.mark.parametrize("frames", [[], [b""], [b"busy"], [b"busy", b""], [b"", b"", b""]])
def test_a_broker_counts_messages_without_frames(frames):
    """B4"""
    core = a_broker()
    core.feed(frames, 1.0)
    assert core.counters.drops == {"malformed": 1}
    assert (b"busy" in core._registry.connections) == (not frames or frames[0] != b"busy")
