"""The hops of one request: contexts, traceparent, and spans of OpenTelemetry."""

import contextvars
import subprocess
import sys

import gevent
import pytest
from cores import MDP02, ManualBroker

from gmdp import AsyncClient, HandlerFailed, Worker, tracing
from gmdp.core.broker.decisions import QueueWait
from gmdp.protocol import extension

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"

mine = contextvars.ContextVar("mine", default="nothing")


@pytest.fixture
def client(broker):
    with AsyncClient(broker.endpoint, timeout=30) as client:
        yield client


# Contexts


@pytest.mark.parametrize(
    "spawn", [None, "raw", 3, "thread", lambda f, *args: f(*args)], ids=["default", "raw", "pool", "thread", "own"]
)
def test_each_handler_has_a_fresh_context(broker, client, thread_pool, spawn):
    seen = []

    def handler(request):
        seen.append((mine.get(), tracing.traceparent.get()))
        mine.set("left over")
        return b""

    with Worker(broker.endpoint, "it", handler, spawn=thread_pool(1) if spawn == "thread" else spawn):
        client.request("it", b"", traceparent=PARENT)
        client.request("it", b"")
    assert [value for value, _ in seen] == ["nothing", "nothing"]
    assert seen[0][1][3:35] == TRACE
    assert seen[1][1] is None or TRACE not in seen[1][1]


def test_calls_of_a_handler_carry_its_traceparent_on(broker, client):
    """Unless they have another."""
    other = PARENT.replace("0af7", "1bf7")
    seen = {}

    def outer(request):
        client.request("inner", b"1")
        client.request("inner", b"2", traceparent=other)
        return b""

    def inner(request):
        seen[request.body[0]] = request.metadata["traceparent"]
        return b""

    with Worker(broker.endpoint, "outer", outer), Worker(broker.endpoint, "inner", inner):
        client.request("outer", b"", traceparent=PARENT)
    assert seen[b"1"][3:35] == TRACE
    assert seen[b"2"][3:35] == other[3:35]


# Spans

SPANS = f"""
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
if sys.argv[1] == "before":
    trace.set_tracer_provider(provider)
import gmdp, gevent

def until(condition):
    while not condition():
        gevent.sleep(0.001)

def handler(request):
    assert trace.get_current_span().is_recording()
    if request.body == [b"fail"]:
        raise RuntimeError("no")
    if request.body == [b"more"]:
        yield b"a part"
    client.request("inner", b"")

with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.AsyncClient(broker.endpoint, timeout=20) as client:
    with gmdp.Worker(broker.endpoint, "outer", handler), gmdp.Worker(broker.endpoint, "inner", lambda request: b""):
        if sys.argv[1] == "after":
            client.request("inner", b"")
            trace.set_tracer_provider(provider)
        with trace.get_tracer("mine").start_as_current_span("mine"):
            client.request("outer", b"more")
        list(client.stream("outer", b"x", traceparent="{PARENT}"))
        try:
            client.submit("outer", b"fail").get()
        except gmdp.HandlerFailed:
            pass
    future = client.submit("nobody", b"")
    until(lambda: client.statistics().in_flight == 1)
    future.cancel()
    until(lambda: client.statistics().in_flight == 0)
    waits = client.submit("nobody", b"")
    until(lambda: client.statistics().in_flight == 1)
try:
    client.request("nobody", b"")
except gmdp.ClosedError:
    pass
for span in exporter.get_finished_spans():
    parent = f"{{span.parent.span_id:x}}" if span.parent else ""
    print(
        span.name, span.kind.name, f"{{span.context.trace_id:032x}}", f"{{span.context.span_id:x}}", parent or "-",
        span.status.status_code.name, span.start_time <= span.end_time,
    )
"""


@pytest.mark.parametrize("provided", ["before", "after"])
def test_a_span_for_the_call_one_for_its_wait_and_one_for_its_handler(provided):
    """Whether the program sets its provider before gmdp is imported, or when everything runs."""
    pytest.importorskip("opentelemetry.sdk")
    done = subprocess.run([sys.executable, "-c", SPANS, provided], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(" ", 6) for line in done.stdout.splitlines()]
    assert all(row[6] == "True" for row in rows)
    by_id = {row[3]: row for row in rows}

    def family(name, number=0):
        """A call by name: its own row, its children's names."""
        row = [row for row in rows if row[0] == f"call {name}"][number]
        return row, sorted(other[0] for other in rows if other[4] == row[3])

    # The call that began in a span of the program's own; its handler made another call.
    (own,) = [row for row in rows if row[0] == "mine"]
    calls = [row for row in rows if row[0] == "call outer"]
    assert len(calls) == 3
    first, children = family("outer")
    assert (first[1], first[2], first[4], first[5]) == ("CLIENT", own[2], own[3], "UNSET")
    assert children == ["handle outer", "wait outer"]
    handles = [row for row in rows if row[0] == "handle outer"]
    assert [by_id[row[4]][0] for row in handles] == ["call outer"] * 3
    inner, children = family("inner")
    assert by_id[inner[4]][0] == "handle outer"
    assert children == ["handle inner", "wait inner"]
    # The call with a traceparent of another program's.
    second, _ = family("outer", 1)
    assert (second[2], second[4]) == (TRACE, "b7ad6b7169203331")
    # Calls that failed, were cancelled, or were ended by close; a call that never began has no span.
    third, children = family("outer", 2)
    assert (third[5], children) == ("ERROR", ["handle outer", "wait outer"])
    assert [row[5] for row in rows if row[0] == "handle outer"] == ["UNSET", "UNSET", "ERROR"]
    assert [row[5] for row in rows if row[0] == "call nobody"] == ["ERROR"] * 2
    assert {row[1] for row in rows if row[0].startswith("handle")} == {"SERVER"}


#: A program whose span processor fails at the start or the end (sys.argv[1]) of some spans (sys.argv[2]).
FAILING = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

when, whose = sys.argv[1:]


class Processor(SpanProcessor):
    def on_start(self, span, parent_context=None):
        if when == "start" and span.name.startswith(whose):
            raise RuntimeError("the processor's")

    def on_end(self, span):
        if when == "end" and span.name.startswith(whose):
            raise RuntimeError("the processor's")


provider = TracerProvider()
provider.add_span_processor(Processor())
trace.set_tracer_provider(provider)
import gmdp


def handler(request):
    if request.body == [b"fail"]:
        raise ValueError("the handler's")
    return b"answered"


with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.Client(broker.endpoint, timeout=20) as client:
    with gmdp.Worker(broker.endpoint, "it", handler, reveal_errors=True) as worker:
        for _ in range(3):
            assert client.request("it", b"x") == [b"answered"]
        try:
            client.request("it", b"fail")
        except gmdp.HandlerFailed as error:
            assert (error.type_name, error.detail) == ("ValueError", "the handler's")
        assert (worker.statistics().errors, client.started, broker.started) == (1, True, True)
print("well")
"""


@pytest.mark.parametrize("whose", ["call", "wait", "handle"])
@pytest.mark.parametrize("when", ["start", "end"])
def test_an_error_of_a_span_processor_harms_nothing_but_its_span(when, whose):
    pytest.importorskip("opentelemetry.sdk")
    done = subprocess.run([sys.executable, "-c", FAILING, when, whose], capture_output=True, text=True, timeout=60)
    assert done.stdout == "well\n", done.stderr
    assert "defect" not in done.stderr
    assert "the processor's" in done.stderr
    assert "a span could not be made or ended" in done.stderr


def test_without_opentelemetry_nothing_of_it_is_imported():
    """Calls work, and the traceparent of the caller reaches the handler."""
    script = f"""
import sys
sys.modules["opentelemetry"] = None
import gmdp
with gmdp.Broker("tcp://127.0.0.1:*") as broker, gmdp.Client(broker.endpoint, timeout=20) as client:
    with gmdp.Worker(broker.endpoint, "echo", lambda request: request.metadata["traceparent"].encode()):
        print(client.request("echo", b"", traceparent="{PARENT}"))
assert [name for name in sys.modules if name.startswith("opentelemetry")] == ["opentelemetry"]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"[b'{PARENT}']\n", "")


def test_a_handler_s_error_reaches_its_caller_through_the_span(broker, client):
    def handler(request):
        raise ValueError("why")

    with Worker(broker.endpoint, "it", handler, reveal_errors=True), pytest.raises(HandlerFailed) as caught:
        client.request("it", b"")
    assert (caught.value.type_name, caught.value.detail) == ("ValueError", "why")


@pytest.mark.parametrize("traced", [False, True])
def test_a_broker_s_core_reports_waits_only_where_spans_are_made(traced):
    broker = ManualBroker()
    if traced:
        broker.core.trace()
    for number, trace in ((1, PARENT.encode()), (2, b"")):
        frame = extension.call_frame(extension.request_id(b"n" * 16, number), traceparent=trace)
        broker.feed(b"client", [frame, b"", b"MDPC02", b"\x01", b"echo", b"x"])
    broker.advance(0.5)
    for worker in (b"W1", b"W2"):
        broker.ready(MDP02, worker)
    waits = [event for event in broker.events if isinstance(event, QueueWait)]
    assert waits == ([QueueWait(b"echo", PARENT.encode(), 0.5, 1)] if traced else [])


def test_without_a_provider_there_are_no_spans(broker, client):
    """Empty spans would cost as much as others."""
    assert tracing.tracer() is None
    answer = client.submit("nobody", b"")._answer
    assert answer.span is None


# The tracer by itself


@pytest.fixture
def spans(monkeypatch):
    """A tracer of gmdp's, and a list of the spans that it ended."""
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    made = tracing.Tracer()
    monkeypatch.setattr(made, "_tracer", provider.get_tracer("test"))
    return made, exporter.get_finished_spans


def test_a_call_s_span_is_a_child_of_the_given_or_the_handled_request(spans):
    made, ended = spans
    span, sent = made.begin_call(b"it", PARENT)
    made.end_call(span)
    token = tracing.traceparent.set(PARENT)
    try:
        other, _ = made.begin_call(b"it", None)
    finally:
        tracing.traceparent.reset(token)
    made.end_call(other, "timeout")
    first, second = ended()
    assert (first.name, first.kind.name, first.status.status_code.name) == ("call it", "CLIENT", "UNSET")
    assert {f"{span.context.trace_id:032x}" for span in (first, second)} == {TRACE}
    assert sent == f"00-{TRACE}-{first.context.span_id:016x}-01"
    assert (second.status.status_code.name, second.status.description) == ("ERROR", "timeout")


def test_the_span_of_a_wait_has_its_length(spans):
    made, ended = spans
    made.record_wait(b"it", PARENT.encode(), 2.5, 3)
    (span,) = ended()
    assert (span.name, span.attributes["gmdp.attempt"]) == ("wait it", 3)
    assert span.end_time - span.start_time == 2_500_000_000


@pytest.mark.parametrize("error", [None, ValueError("why"), gevent.GreenletExit()])
def test_the_span_of_a_handler_is_current_and_records_its_error(spans, error):
    made, ended = spans

    def handle():
        with made.handler_span(b"it", PARENT, 1):
            assert tracing.trace.get_current_span().is_recording()
            if error is not None:
                raise error

    if error is None:
        handle()
    else:
        with pytest.raises(type(error)):
            handle()
    (span,) = ended()
    assert (span.name, span.kind.name) == ("handle it", "SERVER")
    assert f"{span.parent.span_id:016x}" == PARENT[36:52]
    assert [event.name for event in span.events] == (["exception"] if isinstance(error, Exception) else [])


def test_errors_of_the_program_s_tracer_are_logged_at_a_bounded_rate(spans, monkeypatch, caplog):
    made, _ = spans
    monkeypatch.setattr(made, "_tracer", None)
    for _ in range(100):
        assert made.begin_call(b"it", None) is None
        made.record_wait(b"it", b"", 0.0, 1)
        with made.handler_span(b"it", None, 1):
            pass
    assert 1 <= len(caplog.records) <= 3


def test_a_tracer_exists_once_the_program_has_set_a_provider(monkeypatch):
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    assert tracing.can_trace()
    monkeypatch.setattr(tracing, "_tracer", None)
    assert tracing.tracer() is None
    monkeypatch.setattr(tracing.trace, "get_tracer_provider", sdk.TracerProvider)
    made = tracing.tracer()
    assert isinstance(made, tracing.Tracer)
    assert tracing.tracer() is made
