"""Messages as each dialect writes them, and as clients and workers read them."""

from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    bodies,
    client_reply,
    dialects,
    frames_of_any_kind,
    near_misses,
    service_names,
    worker_command,
)

from gmdp.protocol.dialects import MAJORTOMO, Command

STEADY = settings(derandomize=False, deadline=None, database=None, max_examples=150)


KINDS = {
    "request": Command.REQUEST,
    "REQUEST": Command.REQUEST,
    "READY": Command.READY,
    "PARTIAL": Command.PARTIAL,
    "FINAL": Command.FINAL,
    "HEARTBEAT": Command.HEARTBEAT,
    "DISCONNECT": Command.DISCONNECT,
}


@STEADY
@given(dialects, service_names, bodies, st.booleans())
def test_a_broker_s_answer_is_read_by_the_client(dialect, service, body, final):
    final = final or not dialect.streams
    built = dialect.reply(service, body, final)
    assert built == client_reply(dialect, service, body, final)
    named = None if dialect is MAJORTOMO else service
    assert dialect.parse_reply(built) == (Command.FINAL if final else Command.PARTIAL, named, body)


@STEADY
@given(dialects, st.sampled_from(["REQUEST", "HEARTBEAT", "DISCONNECT"]), st.binary(max_size=30), bodies)
def test_a_broker_s_commands_are_read_by_the_worker(dialect, name, address, body):
    rest = [address, b"", *body] if name == "REQUEST" else []
    built = dialect.worker_command(KINDS[name], *rest)
    assert built == worker_command(dialect, name, *rest)
    expected = (KINDS[name], address, body) if name == "REQUEST" else (KINDS[name], b"", [])
    assert dialect.parse_for_worker(built) == expected


@STEADY
@given(dialects, dialects, st.sampled_from(["HEARTBEAT", "DISCONNECT", "REQUEST"]), service_names, bodies)
def test_no_peer_reads_another_dialect(mine, other, name, service, body):
    rest = [b"address", b"", *body] if name == "REQUEST" else []
    if mine is not other:
        assert mine.parse_for_worker(other.worker_command(KINDS[name], *rest)) is None
        assert mine.parse_reply(other.reply(service, body)) is None


@settings(STEADY, max_examples=300)
@given(
    dialects,
    st.one_of(
        st.lists(frames_of_any_kind, max_size=8),
        near_misses(
            st.one_of(
                st.builds(client_reply, dialects.filter(lambda d: d.streams), service_names, bodies, st.booleans()),
                st.builds(client_reply, dialects, service_names, bodies),
                st.builds(lambda d, b: worker_command(d, "REQUEST", b"address", b"", *b), dialects, bodies),
                st.builds(worker_command, dialects, st.sampled_from(["HEARTBEAT", "DISCONNECT", "READY"])),
            )
        ),
    ),
)
def test_clients_and_workers_read_or_refuse_any_frames(dialect, frames):
    """B4: every field that is read was in the frames."""
    reply = dialect.parse_reply(frames)
    if reply is not None:
        command, service, body = reply
        assert dialect.reply(service, body, command is Command.FINAL) == frames
    parsed = dialect.parse_for_worker(frames)
    if parsed is not None:
        command, address, body = parsed
        rest = [address, b"", *body] if command is Command.REQUEST else []
        assert dialect.worker_command(command, *rest) == frames
