"""A client's engine: between the client's core, its sockets and the answers of its calls."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent

from ..core.outcomes import Outcome
from ..core.peer.calls import Call, Ended, Part, Sink
from ..core.peer.client import ClientCore
from ..exceptions import ClosedError, MDPError
from ..io import guarded
from ..io.contexts import Context
from ..io.dealers import ConnectorEngine
from ..io.slots import FirstPass
from ..security.credentials import Credentials
from ..tracing import log_failure, tracer
from .errors import error_of


class ClientEngine(ConnectorEngine[ClientCore]):
    """Feeds a client's core, and gives each decision to a socket or to an answer.

    All methods but the constructor run in the owner.  An engine does not keep its client alive.

    Args:
        core: the client's decisions.
        context: for the sockets.
        zmtp_heartbeat: seconds between ZMTP heartbeats, and seconds without an answer that end a
            connection; None: no ZMTP heartbeats.
        credentials: for the sockets; None: connections are not secured.
        on_closed: called once, after every socket is closed, with the exception that ended
            the owner; None: the client was closed.
    """

    #: Seconds between two looks for open calls of a client that was garbage-collected.
    idle_interval = 1.0

    def __init__(
        self,
        core: ClientCore,
        context: Context | None,
        zmtp_heartbeat: tuple[float, float] | None,
        credentials: Credentials | None,
        on_closed: Callable[[BaseException | None], None],
    ) -> None:
        super().__init__(core, context, zmtp_heartbeat, credentials)
        self._on_closed = on_closed
        #: Tells callers in other threads whether the owner's hub runs; the client sets it.
        self.first_pass: FirstPass | None = None
        #: Why the client was closed, once it was.
        self._error: MDPError | None = None

    # What the owner calls

    def on_wake(self, now: float) -> None:
        """Do nothing: a client keeps no time between passes."""

    def on_caught_up(self, now: float) -> None:
        """Do nothing: no decision of a client waits until everything is read."""

    def deadline(self) -> float:
        """When `tick` is needed next (monotonic seconds); infinity if never."""
        return self.core.deadline()

    def flush(self, now: float) -> None:
        """Carry out the core's decisions: first those for sockets, then those for answers."""
        self.perform_actions(now)

    def on_owner_died(self, error: BaseException) -> None:
        """End every call, because a bug has ended the owner."""
        self.close(error if isinstance(error, MDPError) else ClosedError(str(error)), error)

    # Posted to the owner

    def submit(self, call: Call) -> None:
        """Begin `call`; its answer fails if the client is closed."""
        if self._error is not None:
            answer = call.sink
            if answer.span is not None:
                self._end_span(answer, Ended(call, Outcome.CLOSED, "", ()))
            answer.fail(self._closed_error())
        else:
            self.core.submit(call, monotonic())

    def cancel(self, call: Call) -> None:
        """End `call`, whose caller has stopped waiting."""
        if self._error is None:
            self.core.cancel(call, Outcome.CANCELLED, monotonic())

    def close_when_idle(self) -> None:
        """Close as soon as no call is open: the program has let go of the client."""
        if self._error is not None:
            return
        now = self.core.statistics()
        if now.in_flight or now.waiting:
            gevent.spawn_later(self.idle_interval, self.owner.post, self.close_when_idle)
        else:
            self.close(ClosedError("the client was garbage-collected"))

    def grant(self, call: Call) -> None:
        """Grant the handler of `call` new credit, since its reader has taken parts."""
        if self._error is None:
            self.core.grant(call, monotonic())

    def close(self, error: MDPError, death: BaseException | None = None) -> None:
        """End every call with `error` and close every socket; `death`: what ended the owner, if a bug did."""
        if self._error is None:
            self._error = error
            now = monotonic()
            try:
                self.core.close(now)
                self.flush(now)
                self.close_unsent_queues()
            finally:
                self._answer_everybody()
                self.cancel_lookups()
                self.owner.finish()
                self._on_closed(death)

    def _answer_everybody(self) -> None:
        """End every call that a defect, or an interrupt, has kept the core from ending."""
        core = self.core
        for call in [*core.unfinished(), *(event.call for event in core.events)]:
            guarded.call(call.sink.fail, self._closed_error(), default=None, on_error=_ignore)

    # Carrying out

    def _on_events(self, events: list[Part | Ended], now: float) -> None:
        """Give parts and errors to answers, and end each call whose reader does not keep up."""
        core = self.core
        rest = iter(events)
        try:
            for event in rest:
                answer = event.call.sink
                if answer.span is not None and (isinstance(event, Ended) or event.final):
                    self._end_span(answer, event)
                if isinstance(event, Ended):
                    self._fail_call(event, now)
                elif not answer.add_part(event, now):
                    core.cancel(event.call, Outcome.OVERFLOW, now)
        except BaseException as error:
            # A bug here must not leave any caller waiting.
            answer.fail(ClosedError(f"a bug in gmdp ended the client: {guarded.repr_of(error)}"))
            core.events = [*rest, *core.events]
            raise

    def _on_actions_failed(self, events: list[Part | Ended]) -> None:
        """Keep the events: the calls of an owner that ends must not be left waiting."""
        self.core.events = [*events, *self.core.events]

    def _closed_error(self) -> MDPError:
        """Return a new error that says why the client is closed: raising one adds a traceback to it."""
        error = type(self._error)(str(self._error)) if self._error is not None else ClosedError("closed")
        error.__cause__ = self._error.__cause__ if self._error is not None else None
        return error

    @staticmethod
    def _end_span(answer: Sink, event: Part | Ended) -> None:
        """End the span of a call that `event` ends."""
        span, answer.span = answer.span, None
        active_tracer = tracer()
        if active_tracer is not None:
            outcome = event.outcome.value if isinstance(event, Ended) else ""
            guarded.call(active_tracer.end_call, span, outcome, default=None, on_error=log_failure)

    def _fail_call(self, ended: Ended, now: float) -> None:
        """Give an answer the error with which its call ended."""
        if ended.outcome is Outcome.CANCELLED:
            return  # the caller waits for no answer
        answer = ended.call.sink
        answer.fail(self._closed_error() if ended.outcome is Outcome.CLOSED else error_of(ended, now))


def _ignore(error: BaseException) -> None:
    """Say nothing: a defect has ended the owner, which logs it."""
