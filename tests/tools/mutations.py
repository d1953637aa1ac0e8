"""Bugs planted on purpose, and whether the simulator or the tests find them.

Each is a change of a few words in one module.  ``python tests/tools/mutations.py`` plants one after the
other, each in a copy of the project, and ``python tests/tools/mutations.py NAME...`` does that for some.

A bug in `gmdp.core` or `gmdp.protocol` is hunted with seeds of the simulator until one fails: a bug that
1,000 seeds do not find is a hole in the simulator.  A bug whose mutation names tests is hunted by those
tests, and one of them must fail.  Processes that the tests start have the bug, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
SEEDS = 1000
#: Seconds that so many seeds, or the tests of one mutation, may take.
PATIENCE = 900
#: The parts of the project that a copy does not need.
_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")


class Mutation(NamedTuple):
    """In the module gmdp.`module`, `old` becomes `new`."""

    module: str
    old: str
    new: str
    #: The tests that hunt the bug: arguments of pytest below tests/, separated by spaces; empty: the simulator.
    tests: str = ""


MUTATIONS = {
    # The arbiter
    "a reload that cannot succeed ends the gateway": Mutation(
        "cli.prefork",
        "        try:\n            self.app.check()\n        except (MDPError, OSError) as error:\n",
        "        for error in ():\n",
        tests="system/test_gateway.py::test_a_password_that_cannot_be_read_again_stops_nothing",
    ),
    "a process that cannot begin ends the gateway": Mutation(
        "cli.prefork",
        "            sys.exit(1)  # any other status",
        "            raise  # any other status",
        tests="system/test_gateway.py::test_a_password_that_cannot_be_read_again_stops_nothing",
    ),
    "SIGHUP kills a process that serves": Mutation(
        "cli.prefork",
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        "pass",
        tests="system/test_gateway.py::test_SIGHUP_to_a_process_that_serves_does_not_kill_it",
    ),
    # Whole answers and cut ones
    "a whole answer is one piece for the time to read it": Mutation(
        "http.slow_clients",
        "MOST_AT_A_TIME = 65_536",
        "MOST_AT_A_TIME = 2**40",
        tests="unit/http/test_slow_clients.py::test_X3_a_client_that_does_not_read_a_large_reply_is_cut_off",
    ),
    "a stream of HTTP/1.0 that is cut looks complete": Mutation(
        "http.slow_clients",
        "if was_late or (self._ends_with_connection and not self._is_complete):",
        "if was_late:",
        tests="unit/cli/test_prefork.py::test_a_stream_without_chunks_that_the_servers_end_cuts_is_not_complete",
    ),
    "the heads of all parts have no bound": Mutation(
        "http.multipart",
        "lines_left -= len(lines)",
        "pass",
        tests="unit/http/test_multipart.py::test_the_headers_of_all_parts_have_a_bound",
    ),
    "gunicorn reads a variable of its own": Mutation(
        "cli.gateway",
        '_NOT_FOR_GUNICORN = ("WEB_CONCURRENCY", "SCRIPT_NAME")',
        '_NOT_FOR_GUNICORN = ("WEB_CONCURRENCY",)',
        tests="system/test_gateway.py::test_variables_for_gunicorn_change_nothing",
    ),
    "a report that is nested deeply is a bug of the command": Mutation(
        "cli.services",
        "except (ValueError, RecursionError):",
        "except ValueError:",
        tests="unit/cli/test_services.py::test_what_a_foreign_broker_may_answer[deep]",
    ),
    "a table needs a standard output": Mutation(
        "cli.printing",
        "if sys.stdout is not None and sys.stdout.isatty()",
        "if sys.stdout.isatty()",
        tests="unit/cli/test_printing.py::test_a_table_without_standard_output_is_not_printed",
    ),
    # HTTP floods
    "requests in a row keep all others waiting": Mutation(
        "http.slow_clients",
        "        gevent.sleep(0)  # between requests that arrive together, gunicorn never waits\n",
        "",
        tests="unit/http/test_slow_clients.py::test_a_client_that_sends_requests_in_a_row_leaves_others_their_turn",
    ),
    "chunks in a row keep all others waiting": Mutation(
        "http.slow_clients",
        "reader.parser = _read_in_turns(chunks)",
        "pass",
        tests="unit/http/test_slow_clients.py::"
        "test_a_client_that_sends_chunks_without_a_pause_leaves_others_their_turn[small]",
    ),
    "the lines of an event are made one by one": Mutation(
        "http.bodies",
        """b"data: " + frame.replace(b"\\n", b"\\ndata: ") + b"\\n\\n\"""",
        """b"".join(b"data: %b\\n" % line for line in frame.split(b"\\n")) + b"\\n\"""",
        tests="unit/http/test_bodies.py::test_a_frame_of_many_lines_becomes_an_event_without_an_object_for_each",
    ),
    # HTTP
    "an HTTP client that does not read is waited for": Mutation(
        "http.slow_clients",
        "seconds = self._patience + size / PACE",
        "seconds = 1e6",
        tests="unit/http/test_slow_clients.py::test_X3_a_client_that_does_not_read_a_stream_is_cut_off",
    ),
    "an HTTP client that stops in its body is waited for": Mutation(
        "http.slow_clients",
        "with gevent.Timeout(self._patience + size / PACE, late):",
        "with gevent.Timeout(None, late):",
        tests="unit/http/test_slow_clients.py::"
        "test_X3_a_client_that_stops_in_its_body_gets_408_and_the_connection_ends[length]",
    ),
    "the time to read a large piece is that of a small one": Mutation(
        "http.slow_clients",
        "seconds = self._patience + size / PACE",
        "seconds = self._patience",
        tests="unit/http/test_slow_clients.py::test_a_slow_reader_gets_all_of_a_large_reply",
    ),
    "a connection whose body was not read is used again": Mutation(
        "http.slow_clients",
        "return self._failed or not self._ended",
        "return self._failed",
        tests="unit/cli/test_prefork.py::test_X3_chunks_whose_end_others_may_see_elsewhere_are_refused[plus]",
    ),
    "a gateway that stops keeps connections": Mutation(
        "cli.prefork",
        "request.force_close()",
        "pass",
        tests="unit/cli/test_prefork.py::test_the_last_answer_of_a_connection_says_close_once",
    ),
    "any service may be called by GET": Mutation(
        "http.gateway",
        'return ("GET", "POST") if self._safe.match(name) else ("POST",), partial',
        'return ("GET", "POST"), partial',
        tests="unit/http/test_gateway.py::test_a_get_needs_a_service_that_is_exposed_and_safe",
    ),
    "an origin that only begins like a listed one may read answers": Mutation(
        "http.cors",
        "in self.origins or origin in self.origins",
        "in self.origins or origin.startswith(self.origins)",
        tests="unit/http/test_cors.py::test_no_other_page_may",
    ),
    # The broker: delivery
    "a lost worker's request goes to the end of its line": Mutation(
        "core.broker.delivery", "queue.push_front(request)", "request.suspect = False; queue.push(request)"
    ),
    "a lost worker's request is forgotten": Mutation(
        "core.broker.delivery",
        "self._enqueue(request, now, again=True)",
        "self._services.end_request(request, EndReason.ATTEMPTS, now)",
    ),
    "attempts without end": Mutation(
        "core.broker.delivery",
        "elif request.attempts >= request.service.options.attempts:",
        "elif request.attempts >= 1e9:",
    ),
    "a request of whose answer a part went out is run again": Mutation(
        "core.broker.delivery", "elif request.partial_sent:", "elif False:"
    ),
    "suspects are not kept apart": Mutation(
        "core.broker.delivery", "queue.pop(worker.connection.suspect is None)", "queue.pop()"
    ),
    "a suspect goes to any idle worker": Mutation(
        "core.broker.delivery", "if worker.connection.suspect is None:", "if True:"
    ),
    "each loss looks at every message to be sent": Mutation(
        "core.broker.state",
        "if self.unsent is None:",
        "if True:",
        tests="unit/core/broker/test_unsent.py::test_B12_clients_that_are_gone_are_looked_for_once",
    ),
    "what was sent is taken back": Mutation(
        "core.broker.core",
        "state.outbox, state.events, state.unsent = [], [], None",
        "state.outbox, state.events = [], []",
        tests="unit/core/broker/test_unsent.py::test_what_was_sent_is_not_taken_back",
    ),
    "each lost request looks at all idle workers": Mutation(
        "core.broker.delivery",
        "            no_room.add(service)\n",
        "",
        tests="unit/core/broker/test_delivery.py::"
        "test_B12_a_lost_connection_looks_once_for_an_idle_worker_that_may_have_a_suspect",
    ),
    "suspects that have left a queue are counted": Mutation(
        "core.broker.fairqueue",
        "            self._suspect_counts[item.priority] -= 1\n",
        "",
    ),
    "a lane of suspects only is taken to have more": Mutation(
        "core.broker.fairqueue",
        "if not lane.suspects or lane.length > lane.suspects.waiting)",
        "if lane.length)",
        tests="unit/core/broker/test_fairqueue.py",
    ),
    "requests whose caller's time is up are delivered again": Mutation(
        "core.broker.delivery", "elif now >= request.deadline:", "elif False:"
    ),
    "a request that is to fail without a worker waits": Mutation(
        "core.broker.delivery",
        "            if not service.members:\n                self._services.end_request(request",
        "            if False:\n                self._services.end_request(request",
    ),
    "a queue without a bound": Mutation(
        "core.broker.delivery", "if queue.length > service.options.max_queue:", "if False:"
    ),
    "queued requests never expire": Mutation(
        "core.broker.services",
        "self._timers.arm(request, until)",
        "self._timers.arm(request, 1e9)",
    ),
    "an idle worker is forgotten": Mutation("core.broker.delivery", "        service.idle[worker] = now\n", ""),
    # Strangers
    "a request counts nothing but its body": Mutation(
        "core.broker.records", "REQUEST_COST + charged_bytes(body)", "charged_bytes(body)"
    ),
    "a return address counts nothing": Mutation(
        "core.broker.intake",
        "        if stack:\n            request.size",
        "        if False:\n            request.size",
        tests="unit/core/broker/test_accounts.py::test_X2_a_request_counts_what_it_takes_its_constant_its_envelope_its_body",
    ),
    "a caller that states its time waits no longer than others": Mutation(
        "core.broker.intake",
        "            if flags & _TIME_STATED:\n",
        "            if False:\n",
        tests="unit/core/broker/test_delivery.py",
    ),
    "a caller that states its time waits beyond the time set for a service": Mutation(
        "core.broker.options",
        'self._values_for(name).get("request_ttl", self.max_request_ttl)',
        "self.max_request_ttl",
        tests="unit/core/broker/test_delivery.py",
    ),
    "a client's own timeout is no statement": Mutation(
        "client.client",
        "            stated=timeout is not None,\n",
        "            stated=False,\n",
        tests="protocol/test_extension_bytes.py::test_L4_a_call_says_whether_its_caller_stated_the_time",
    ),
    "RFC 18 behind a delimiter is dropped": Mutation(
        "protocol.wire",
        "if dialect is not MAJORTOMO or frames[at] != DELIMITED.client_request:",
        "if True:",
        tests="unit/core/broker/test_intake.py::test_F3_behind_a_delimiter_rfc_18_s_own_code_is_answered_in_kind",
    ),
    "a reply without the empty frame needs no token": Mutation(
        "core.broker.conversation",
        "            and reply.subject[: token.PREFIX_SIZE] == worker.token\n        )",
        "        )",
        tests="unit/core/broker/test_conversation.py",
    ),
    "a warning for each message that is dropped": Mutation(
        "core.broker.complaints",
        "if note is not None and now < note.quiet_until:",
        "if False:",
        tests="unit/core/broker/test_complaints.py",
    ),
    "a warning for each peer that a full table refuses": Mutation(
        "core.broker.registry",
        "peer = EMPTY if service in TABLES_FULL else address[0]",
        "peer = address[0]",
        tests="unit/core/broker/test_complaints.py",
    ),
    "frames above the limit are not counted": Mutation(
        "io.frames",
        "if len(frame) > self.max_frame_size:",
        "if False:",
        tests="unit/broker/test_engine.py::test_B7_F2_a_frame_above_the_limit_is_counted_and_told",
    ),
    "a worker of MDP/0.1 keeps all parts until the end": Mutation(
        "core.peer.worker",
        "if not self.dialect.streams and not connection.features & Feature.PARTS:",
        "if not self.dialect.streams:",
        tests="protocol/test_extension_bytes.py::test_F6_a_worker_of_01_joins_its_parts_unless_the_broker_takes_them",
    ),
    "strict clients are bounded by a number that they do not know": Mutation(
        "core.broker.intake",
        "if client.open >= options.max_in_flight and call is not None:",
        "if client.open >= options.max_in_flight:",
        tests="unit/core/broker/test_intake.py::test_F1_a_strict_client_cannot_be_told_so_only_queue_and_bytes_bound_its_open_requests",
    ),
    # What things cost
    "a blocked backlog is tried with all it has": Mutation(
        "core.broker.backlogs",
        "            backlog.last_batch = 1\n",
        "            backlog.last_batch = self.batch\n",
        "unit/core/broker/test_backlogs.py",
    ),
    "all that is due is done in one tick": Mutation(
        "core.broker.core",
        "for _ in range(BURST):",
        "while True:",
        "unit/core/broker/test_services.py",
    ),
    "a broker that stops forgets the workers beyond the first burst": Mutation(
        "core.broker.draining",
        "self._finished = not self._services.queued and not connections",
        "self._finished = not self._services.queued",
        "unit/core/broker/test_services.py",
    ),
    "a known password waits behind strangers": Mutation(
        "security.gate",
        "if self._password_check is None and (credential :=",
        "if False and (credential :=",
        "unit/security/test_gate.py",
    ),
    # The broker: registry and conversation
    "the token is not compared": Mutation(
        "core.broker.conversation",
        "if request is not None and message.subject[: token.PREFIX_SIZE] == worker.token:",
        "if request is not None:",
    ),
    "busy workers never expire": Mutation(
        "core.broker.registry", "worker.service.options.busy_timeout", "(worker.service.options.busy_timeout + 1000)"
    ),
    "workers expire before their messages are read": Mutation(
        "core.broker.registry", "if now >= judged_at and gap.may_judge(now):", "if now >= judged_at:"
    ),
    "an unregistered peer hears DISCONNECT again and again": Mutation(
        "core.broker.registry", "self._refused.get(key, now) <= now", "True"
    ),
    "a retired session hears DISCONNECT": Mutation(
        "core.broker.conversation",
        "self._state.counters.count_drop(DropReason.RETIRED_SESSION)",
        "self._registry.send_disconnect((*connection.address, message.extra), connection.dialect)",
    ),
    "DISCONNECT from a worker leaves it registered": Mutation(
        "core.broker.conversation",
        'to that worker."\n            self._registry.lose_worker(worker, LossReason.DISCONNECT, now)\n',
        'to that worker."\n            pass\n',
    ),
    "an unreachable worker stays": Mutation(
        "core.broker.registry", "            if target.registered:\n", "            if False:\n"
    ),
    "heartbeats are not answered": Mutation(
        "core.broker.conversation",
        "        if connection.pulse.on_heartbeat():\n            self._registry.send_heartbeat(connection, now)",
        "        if False:\n            self._registry.send_heartbeat(connection, now)",
    ),
    "a purge that stops at the first living worker": Mutation(
        "core.broker.registry",
        "            if now >= judged_at and gap.may_judge(now):\n",
        "            if now >= judged_at and next(iter(self.connections)) != connection.key:\n"
        "                judged_at = now + 1.0\n"
        "            if now >= judged_at and gap.may_judge(now):\n",
    ),
    "a worker that is stopped loses its next request an attempt": Mutation(
        "core.broker.conversation",
        "if worker is not None and message.command is Command.DISCONNECT:",
        "if False:",
    ),
    # Who is alive
    "a worker that computes is lost by its expiry": Mutation(
        "core.broker.registry",
        "process_is_known = connection.is_direct and state.knows_processes",
        "return lost_at, reason",
    ),
    "what a mute worker has not begun stays with it": Mutation(
        "core.broker.registry", "                self._recall(connection, now)\n", "                pass\n"
    ),
    "what a mute worker has begun is taken from it": Mutation(
        "core.broker.registry", "            and not worker.has_begun(first)\n", ""
    ),
    "a request that was not begun counts an attempt": Mutation(
        "core.broker.registry",
        "self._count_lost(recalled, LossReason.RECALLED, now, requests)",
        "self._count_lost(recalled, LossReason.RECALLED, now, ())",
        "unit/core/broker/test_registry.py",
    ),
    "a worker that wakes begins before it has read everything": Mutation(
        "core.peer.worker", "if now > self._woke_at + PAUSE:", "if False:"
    ),
    "what was taken back before it began begins": Mutation(
        "core.peer.worker",
        "                events[:] = [\n",
        "                _ = [\n",
    ),
    "what a silent worker was given first is taken from it": Mutation(
        "core.broker.records", "return assignment == first or connection", "return connection"
    ),
    "a worker does not say what it begins beside other work": Mutation(
        "core.peer.worker", "connection.busy > 1 and", "connection.busy > 2 and"
    ),
    "a worker says what it begins though it has nothing else": Mutation(
        "core.peer.worker",
        "connection.busy > 1 and",
        "connection.busy > 0 and",
        tests="unit/core/peer/test_worker.py",
    ),
    "a worker does not say what it begins": Mutation(
        "core.peer.worker", "                    self._report_begun(connection)\n", "                    pass\n"
    ),
    "a mute worker gets requests": Mutation(
        "core.broker.registry",
        "                del worker.service.idle[worker]\n                worker.service.mute[worker] = now\n",
        "                pass\n",
    ),
    "a worker is mute for ever": Mutation(
        "core.broker.conversation", "            self._registry.on_heard(connection, now)\n", "            pass\n"
    ),
    "a worker that speaks again stays without work": Mutation(
        "core.broker.registry",
        "                self._delivery.give_next(worker, now)\n\n    def probe_mute",
        "                worker.service.idle[worker] = now\n\n    def probe_mute",
    ),
    "a worker whose process has ended is kept for the busy_timeout": Mutation(
        "core.broker.registry",
        "elif isinstance(target, Connection) and not full and self.connections.get(target.key) is target:",
        "elif isinstance(target, Connection) and not target.mute and self.connections.get(target.key) is target:",
    ),
    "muteness waits for no gap": Mutation(
        "core.broker.registry",
        "if not connection.mute and now >= judged_at and gap.may_judge(now):",
        "if not connection.mute and now >= judged_at + 2 * interval:",
    ),
    "behind a proxy a worker that computes has the busy_timeout": Mutation(
        "core.broker.registry",
        "connection.is_direct and state.knows_processes",
        "state.knows_processes",
        "unit/core/broker/test_registry.py::test_F5_a_worker_whose_process_is_unknown_is_lost_by_its_expiry",
    ),
    "the silence of an RFC-only broker counts while its worker has work": Mutation(
        "core.peer.worker",
        "                lost_at = math.inf\n",
        "                pass\n",
        "protocol/test_rfc7_and_18_heartbeats.py",
    ),
    "an RFC-only broker's silence during work counts after it": Mutation(
        "core.peer.worker",
        "            connection.pulse.heard_at = now  # a strict",
        "            pass  # a strict",
        "protocol/test_rfc7_and_18_heartbeats.py",
    ),
    "an RFC-only broker hears no heartbeat while other messages are sent": Mutation(
        "core.peer.worker",
        "next_heartbeat = pulse.next_regular_heartbeat",
        "pass",
        "protocol/test_rfc7_and_18_heartbeats.py protocol/test_rfc18.py",
    ),
    "a mute worker's process is asked for only at the usual time": Mutation(
        "broker.engine",
        "core.probe_mute(now)",
        "pass",
        "unit/broker/test_engine.py::test_L1_the_end_of_a_connection_makes_the_broker_ask_for_mute_workers",
    ),
    "ZMTP heartbeats are sent though they are off": Mutation(
        "io.link", "if times is not None:", "times = times or (2.5, 7.5)\n        if True:", "unit/io/test_dealers.py"
    ),
    # Floods
    "a flood keeps workers whose processes have ended": Mutation(
        "core.broker.core",
        "            self._registry.lose_long_unreachable(now)\n",
        "            pass\n",
        tests="unit/core/broker/test_registry.py::test_W1_a_flood_does_not_keep_a_busy_worker_whose_process_has_ended",
    ),
    "each failed message gives an unreachable worker more time": Mutation(
        "core.broker.registry",
        "        if unsent is None:\n            unsent = self.unreachable[connection] = set()\n"
        "            connection.unreachable_since = now\n",
        "        connection.unreachable_since = now\n        if unsent is None:\n"
        "            unsent = self.unreachable[connection] = set()\n",
        tests="unit/core/broker/test_registry.py::test_W1_a_flood_does_not_keep_a_busy_worker_whose_process_has_ended",
    ),
    "a blocked broker loses workers before it has read what they said": Mutation(
        "core.liveness",
        "return now >= since + self._grace and self.may_judge(now)",
        "return now >= since + self._grace",
        tests="unit/core/broker/"
        "test_registry.py::test_B11_a_blocked_broker_reads_what_a_worker_said_before_its_connection_ended",
    ),
    "a flood keeps what clients that are gone have queued": Mutation(
        "broker.engine",
        "if self._core.has_waited(self._changed_since, now):",
        "if False:",
        tests="unit/broker/"
        "test_engine.py::test_a_closed_connection_s_peer_is_gone_where_messages_tell_their_connection[True]",
    ),
    # The broker: intake, replies, accounts and backlogs
    "a retry runs beside the first try": Mutation(
        "core.broker.intake",
        "if call is not None and identity in accounts.calls and self._join(",
        "if False and self._join(",
    ),
    "a cancelled request stays in the queue": Mutation(
        "core.broker.intake", "self._services.withdraw(request, EndReason.CANCELLED, now)", "pass"
    ),
    "the reply to a cancelled call is sent": Mutation(
        "core.broker.replies",
        "        if request.abandon_reason is not None or client is None or client.gone:",
        "        if client.gone:",
    ),
    "a retry's reply goes to where the first try came from": Mutation(
        "core.broker.intake",
        "self._accounts.redirect(request, address, self._accounts.client_of(address[0], identity[0], now))",
        "pass",
    ),
    "replies overtake those that wait for a slow client": Mutation(
        "core.broker.replies",
        "            if client.backlog is None:\n                self._state.outbox.append(outgoing)",
        "            if True:\n                self._state.outbox.append(outgoing)",
    ),
    "a slow client's backlog has no bound": Mutation(
        "core.broker.backlogs", "        if not self._accounts.has_room(backlog.client, size):", "        if False:"
    ),
    "the bytes of a client are never released": Mutation(
        "core.broker.accounts",
        "        self._state.held_bytes -= size\n        request.body = []",
        "        request.body = []",
    ),
    "the parts of an answer are joined in the wrong order": Mutation(
        "core.broker.conversation", "else request.joined_parts + body", "else body + request.joined_parts"
    ),
    "one client's lane is served until it is empty": Mutation(
        "core.broker.fairqueue",
        "            lanes[key] = lane\n        self.length -= 1\n        self._counts[NORMAL_PRIORITY] -= 1\n",
        "            lanes[key] = lane\n            lanes.move_to_end(key, last=False)\n"
        "        self.length -= 1\n        self._counts[NORMAL_PRIORITY] -= 1\n",
    ),
    # The worker
    "a session's number is used again": Mutation(
        "core.peer.worker", "        connection.last_number += 1\n", "        connection.last_number = 1\n"
    ),
    "a worker sends no heartbeats": Mutation(
        "core.peer.worker",
        "self.actions.append(Send(connection, self.dialect.worker_command(Command.HEARTBEAT)))",
        "pass",
    ),
    "a broker sends no heartbeats": Mutation(
        "core.broker.registry",
        "self._state.outbox.append(Outgoing(connection.command_frames(Command.HEARTBEAT), connection, False))",
        "pass",
    ),
    "a worker never leaves a silent broker": Mutation(
        "core.peer.worker",
        "                self._lose_connection(connection, CloseReason.NO_HEARTBEAT, now, jitter)\n",
        "",
    ),
    "a session that lost its connection does not come back": Mutation(
        "core.peer.worker", "            if not session.handling:\n                self._waiting[session] = None\n", ""
    ),
    "a session comes back while its handler runs": Mutation(
        "core.peer.worker",
        "            if not session.handling:\n                self._waiting[session] = None\n",
        "            self._waiting[session] = None\n",
    ),
    # The client
    "a connection whose call was given up is used again": Mutation(
        "core.peer.client",
        "            self._retire(connection, CloseReason.CALL_WITHDRAWN)",
        "            self._idle.append(connection)",
    ),
    "an answer is given to any call": Mutation(
        "core.peer.client",
        "call = connection.calls.get(number) if number is not None else None",
        "call = next(iter(connection.calls.values()), None)",
    ),
    "a call is tried again after a part was delivered": Mutation(
        "core.peer.client",
        "return call.tries <= call.retries and not call.parts and now < call.deadline_at",
        "return call.tries <= call.retries and now < call.deadline_at",
    ),
    "a lost connection's calls wait for ever": Mutation(
        "core.peer.client",
        "self._end_call(call, Outcome.BROKER_LOST, text)",
        "call.timer = None",
    ),
    "a connection to a broker that stops is used on": Mutation(
        "core.peer.client",
        "takes no more calls.\n            self._stop_using(connection, now, jitter)\n",
        "takes no more calls.\n            pass\n",
    ),
    "after a loss no connection is opened again": Mutation(
        "core.peer.connector", "        self._open_at = now + delay\n", "        self._open_at = 1e9\n"
    ),
    "a silent probe is waited for without end": Mutation(
        "core.peer.connector",
        "self._timers.arm(connection, now + self.probe_timeout)",
        "self._timers.disarm(connection)",
    ),
    # Gate
    "a defect that ends an owner is told to nobody": Mutation(
        "io.owner",
        "            self._take_last_step(self._engine.on_owner_died, died)\n",
        "",
        tests="unit/io/test_owner.py",
    ),
    # Names
    "a file at an ipc path is deleted": Mutation(
        "io.ipc",
        "if not stat.S_ISSOCK(os.lstat(path).st_mode):",
        "if not os.lstat(path).st_mode:",
        tests="unit/io/test_ipc.py",
    ),
    "every name has a thread of its own": Mutation(
        "io.resolving",
        "if not self._line or self._running >= MAX_LOOKUPS:",
        "if not self._line:",
        tests="unit/io/test_resolving.py",
    ),
    "each client looks a name up for itself": Mutation(
        "io.resolving", "lookup = self._open.get(key)", "lookup = None", tests="unit/io/test_resolving.py"
    ),
    "an interrupt is a resolver's error": Mutation(
        "io.resolving",
        "except (gevent.GreenletExit, *guarded.INTERRUPTS):",
        "except gevent.GreenletExit:",
        tests="unit/io/test_resolving.py::test_G4_an_interrupt_during_a_look_up_ends_the_program",
    ),
    "each attempt waits for the name server": Mutation(
        "io.dealers",
        "        if found is None:\n            cancel",
        "        if True:\n            cancel",
        tests="unit/io/test_dealers.py",
    ),
    "a name that libzmq resolves": Mutation(
        "io.dealers", "        if name is not None:\n", "        if False:\n", tests="unit/io/test_resolving.py"
    ),
    "the first address of a name is tried again and again": Mutation(
        "core.peer.reconnect",
        "            self._tried.add(self.address)\n",
        "",
        tests="unit/core/peer/test_reconnect.py",
    ),
    "a name server that fails takes a known broker away": Mutation(
        "core.peer.reconnect", "        if addresses:\n", "        if True:\n", tests="unit/core/peer/test_reconnect.py"
    ),
    "a monitor's report is told to nobody": Mutation(
        "io.reports",
        "        self._read()\n        self._tell()\n",
        "        self._read()\n",
        tests="unit/io/test_reports.py",
    ),
    "a report socket's edge is lost when one more monitor reports to it": Mutation(
        "io.reports",
        "only an empty socket has another.\n        self.read()\n",
        "only an empty socket has another.\n",
        tests="unit/io/test_reports.py",
    ),
    "nobody looks for descriptors before a context's first socket": Mutation(
        "io.contexts", "if context not in _begun:", "if False:", tests="unit/io/test_descriptors.py"
    ),
    # Answers that explain
    "names of services are shown as bytes": Mutation(
        "client.errors",
        "service {show_name(call.service)}, after",
        "service {call.service!r}, after",
        tests="unit/client/test_errors.py::test_the_service_is_shown_as_text_where_its_name_is_text",
    ),
    "a timeout does not say that a broker had answered before": Mutation(
        "core.peer.connector",
        "self._spoken = self._ever_spoken = True",
        "self._spoken = True",
        tests="unit/core/peer/test_client.py::test_F9_a_timeout_says_that_a_broker_had_answered_before",
    ),
    "words go to clients that have not named the feature": Mutation(
        "core.broker.wording",
        "if state.peers.features_of(request.address, terms.frame) & _REASONS:",
        "if terms.frame:",
        tests="unit/core/broker/test_wording.py::test_clients_that_do_not_name_the_feature_get_no_words",
    ),
    "a request that waits counts itself among those before it": Mutation(
        "core.broker.services",
        "behind = request.waiting - 1",
        "behind = request.waiting",
        tests="unit/core/broker/test_wording.py::"
        "test_L4_a_request_that_expires_says_how_long_behind_how_many_and_whether_a_worker_was_there",
    ),
    "words of a broker are shown unescaped": Mutation(
        "protocol.text",
        "return escape(plain_name(words[:most])) +",
        "return plain_name(words[:most]) +",
        tests="protocol/test_extension_bytes.py::test_an_error_shows_the_broker_s_words_whatever_they_are",
    ),
    "offers come again to peers that do not expect them": Mutation(
        "core.broker.notices",
        "probe is None or not probe.features & Feature.LEAVING or",
        "probe is None or",
        tests="unit/core/broker/test_draining.py::test_a_client_that_has_not_named_the_feature_gets_no_second_offer",
    ),
    "a call that is to fail waits for a lone broker's return": Mutation(
        "core.peer.client",
        "        if not self._all_leave or now",
        "        if True or now",
        tests="unit/core/peer/test_client.py::"
        "test_L8_a_call_that_is_to_fail_without_a_worker_does_not_wait_for_a_lone_broker_s_return",
    ),
    "a call fails although one broker stays": Mutation(
        "core.peer.connector",
        "return self._leaving.issuperset(self._reconnect.endpoints)",
        "return bool(self._leaving)",
        tests="unit/core/peer/test_client.py::"
        "test_L8_a_call_that_is_to_fail_waits_for_a_broker_that_has_announced_nothing",
    ),
    "a broker that cannot be reached is said to have announced nothing": Mutation(
        "core.peer.connector",
        "self._leaving.add(connection.endpoint)\n",
        "self._leaving.add(connection.endpoint)\n            else:\n                self._leaving.clear()\n",
        tests="unit/core/peer/test_client.py::"
        "test_L8_a_call_that_is_to_fail_waits_for_one_try_of_a_broker_that_has_left",
    ),
    "calls that are to fail wait as long as all others for the next try": Mutation(
        "core.peer.client",
        "                self._open_at = now\n                return\n",
        "                pass\n",
        tests="unit/core/peer/test_client.py::"
        "test_L8_a_call_that_is_to_fail_waits_for_one_try_of_a_broker_that_has_left",
    ),
    "a stop is forgotten where the name's other address cannot be reached": Mutation(
        "core.peer.connector",
        "            self._leaves = True\n        if",
        "            self._leaves = True\n        else:\n            self._leaves = False\n        if",
        tests="unit/core/peer/test_client.py::"
        "test_L8_a_broker_that_leaves_has_left_though_its_name_has_another_address",
    ),
    "a name's first broker speaks for the others": Mutation(
        "core.peer.connector",
        "        if not self._reconnect.endpoint_failed:\n            return\n",
        "",
        tests="unit/core/peer/test_connector.py::"
        "test_G11_a_broker_that_refuses_denies_though_its_name_has_another_address",
    ),
    "a message that was cut off is used": Mutation(
        "core.peer.connector",
        "if len(frames) > MAX_FRAMES_READ:",
        "if False:",
        tests="unit/core/peer/test_connector.py::"
        "test_a_message_of_more_frames_than_a_client_reads_costs_the_connection",
    ),
    "an older broker gets more frames than its peers read": Mutation(
        "core.peer.connector",
        "if offer.max_frames > MAX_FRAMES:",
        "if False:",
        tests="unit/core/peer/test_connector.py::"
        "test_a_broker_that_takes_more_frames_than_its_peers_read_gets_no_such_message",
    ),
    "each session lost looks at every decision": Mutation(
        "core.peer.worker",
        "        self._detach(*sessions)\n        for session in sessions if",
        "        for session in sessions:\n            self._detach(session)\n        for session in sessions if",
        tests="unit/core/peer/test_worker.py::test_a_loss_looks_once_at_what_was_decided",
    ),
    "work that was not begun counts as running": Mutation(
        "core.peer.worker",
        "                if id(work) in forgotten:",
        "                if False:",
        tests="unit/core/peer/test_worker.py::test_a_loss_looks_once_at_what_was_decided",
    ),
    "a refusal is forgotten where the name's other address cannot be reached": Mutation(
        "core.peer.connector",
        "            self._refusal = reason, text\n",
        "            self._refusal = reason, text\n        else:\n            self._refusal = None\n",
        tests="unit/core/peer/test_connector.py::"
        "test_G11_a_broker_that_refuses_denies_though_its_name_has_another_address",
    ),
    "a broker that is back is said to leave": Mutation(
        "core.peer.connector",
        'self._mode = phase\n            self._leaving_place = ""\n',
        "self._mode = phase\n",
        tests="unit/core/peer/test_client.py::test_L8_a_timeout_says_that_the_broker_had_announced_its_stop",
    ),
    # Connections
    "ping tries one version": Mutation(
        "cli.services",
        'mdp = "0.2"\n',
        "raise\n",
        tests="unit/cli/test_services.py::test_F9_ping_tries_both_versions",
    ),
    "a connection whose probe was not answered is used": Mutation(
        "core.peer.connector",
        "if self._require_extensions or connection.epoch != self._epoch:\n            self._settle_for_strict",
        "if True:\n            self._settle_for_strict",
        tests="unit/core/peer/test_connector.py::test_F8_a_probe_that_was_not_answered_costs_its_connection",
    ),
    "a timeout does not say that nothing was ever heard": Mutation(
        "core.peer.client",
        "        if hint:\n            return f",
        "        if False:\n            return f",
        tests="unit/core/peer/test_connector.py::test_F9_the_error_of_a_call_says_that_nothing_was_ever_heard",
    ),
    "a worker at a silent broker never says so": Mutation(
        "core.peer.worker",
        "self._note_silent_round(connection)",
        "pass",
        tests="unit/core/peer/test_connector.py::test_F4_a_worker_at_a_broker_that_never_speaks_says_so_after_two_rounds",
    ),
    "a call opens a client that was closed": Mutation(
        "client.client",
        "if self.state is State.CLOSED or not self._may_start:",
        "if self.state is State.CLOSED:",
        tests="unit/client/test_client.py::test_G16_a_call_that_races_with_close_does_not_open_the_client",
    ),
    "a hub that does not run is waited for": Mutation(
        "io.slots",
        "return slot.wait(first) or (self.made and slot.wait(timeout - first))",
        "return slot.wait(timeout)",
        tests="unit/client/test_threaded.py::test_G8_a_hub_that_has_not_run_is_not_waited_for",
    ),
    "a busy hub is not waited for": Mutation(
        "io.slots",
        "return slot.wait(first) or (self.made and slot.wait(timeout - first))",
        "return slot.wait(first)",
        tests="unit/client/test_threaded.py::test_G8_a_busy_hub_is_waited_for",
    ),
    "a future wakes only the threads of a hub": Mutation(
        "client.futures",
        "            self._slots.popleft().set(None)\n",
        "            self._slots.popleft()\n",
        tests="unit/client/test_futures.py::test_G8_G17_futures_are_for_any_thread",
    ),
    "a fork in C is not noticed by an owner": Mutation(
        "io.owner",
        "            if getpid() != self._process:",
        "            if False:",
        tests="system/test_forks.py::test_G6_whatever_a_child_that_was_forked_in_c_does_first",
    ),
    "in a child the loops of other threads stay the parent's": Mutation(
        "io.forks",
        "            _reinit_loops()\n",
        "",
        tests="system/test_forks.py::test_P1_a_fork_leaves_the_loops_of_other_threads_alone",
    ),
    "an owner sets timers that libuv warns of": Mutation(
        "io.owner",
        "max(until - now, SHORTEST_TIMER)",
        "until - now",
        tests="unit/io/test_owner.py::test_a_deadline_within_a_millisecond_sets_no_timer_that_libuv_warns_of",
    ),
    "the copy of a start closes what a child has started": Mutation(
        "io.lifecycle",
        "if self._starts_here():",
        "if True:",
        tests="system/test_forks.py::test_P1_a_fork_while_a_broker_that_starts_looks_up_a_name",
    ),
    "the copy of a start goes on in a child": Mutation(
        "broker.broker",
        "        if not self._starts_here():\n",
        "        if False:\n",
        tests="system/test_forks.py::test_P1_a_fork_while_a_broker_that_starts_looks_up_a_name",
    ),
    "a start that another greenlet has begun is not waited for": Mutation(
        "io.lifecycle",
        "        self._join_start()\n",
        "",
        tests="unit/broker/test_binding.py::test_a_start_that_another_greenlet_has_begun_is_waited_for",
    ),
    "a wait has timers that libuv does not have": Mutation(
        "io.slots",
        "min(max(timeout, SHORTEST_TIMER), TIMEOUT_MAX), False",
        "timeout, False",
        tests="unit/io/test_slots.py::test_a_wait_takes_any_timeout",
    ),
    "an endpoint may end before its end": Mutation(
        "validation",
        '    if "\\0" in endpoint:\n',
        "    if False:\n",
        tests="unit/test_validation.py::test_what_is_no_endpoint_is_an_error_that_shows_it",
    ),
    "reconsider of a run that has ended changes the next one": Mutation(
        "broker.broker",
        "        if self._owner is owner:\n            self._core.reconsider",
        "        if self._owner is not None:\n            self._core.reconsider",
        tests="unit/broker/test_broker.py::test_a_policy_is_not_asked_again_for_a_run_that_has_ended",
    ),
    "a fork in C is not noticed by a call": Mutation(
        "client.client",
        "        forks.notice()\n        call = Call(",
        "        call = Call(",
        tests="system/test_forks.py::test_G6_whatever_a_child_that_was_forked_in_c_does_first",
    ),
    "a call is given to a connection whose loss was not read": Mutation(
        "io.owner",
        "            if link.has_news():\n",
        "            if False:\n",
        tests="unit/client/test_client.py::test_G7_a_broker_that_was_restarted_between_two_calls_is_connected_anew",
    ),
    "only a reported handshake makes a connection": Mutation(
        "core.peer.connector",
        "            self._send_probe(connection)\n            return True\n",
        "            return False\n",
        tests="protocol/test_zmtp.py",
    ),
    "the answer to a probe that was sent ahead is dropped": Mutation(
        "core.peer.connector",
        "if connection.phase is Phase.CONNECTING and connection.probed:",
        "if False:",
        tests="unit/core/peer/test_connector.py",
    ),
    "peers without a report of their handshake count as refused": Mutation(
        "io.census",
        "failed = self.undecided - len(self._unreported_speakers)",
        "failed = self.undecided",
        tests="unit/io/test_census.py protocol/test_zmtp.py",
    ),
    # The extension's version 2
    "a client speaks version 2 to a broker of version 1": Mutation(
        "core.peer.client",
        "                version=connection.version,\n            )\n            frames",
        "            )\n            frames",
    ),
    "a session speaks version 2 to a broker of version 1": Mutation(
        "core.peer.worker",
        "extension.session_frame(connection.last_number, version=connection.version)",
        "extension.session_frame(connection.last_number)",
    ),
    "what is said to a session is in another version": Mutation(
        "protocol.extension",
        "return head if session[_VERSION] == 1 else head + fields",
        "return SESSION_MAGICS[2] + head[MAGIC_SIZE:] + fields",
    ),
    "a cancel is in another version than its call": Mutation(
        "core.peer.client",
        "call.identity, flags=extension.CANCEL, attempt=call.tries, version=connection.version",
        "call.identity, flags=extension.CANCEL, attempt=call.tries, version=2",
    ),
    "features are kept after the connection": Mutation(
        "core.broker.core",
        "        self._state.peers.forget_routing_id(routing_id)",
        "        pass",
        tests="unit/core/broker/test_peers.py",
    ),
    "one proxy's peers push out everybody's features": Mutation(
        "core.broker.peers",
        "(len(sharing) >= MAX_BEHIND or self.count >= MAX_PEERS)",
        "False",
        tests="unit/core/broker/test_peers.py",
    ),
    "a large request for a report is copied": Mutation(
        "core.broker.intake",
        "body = [body[0][:_MOST_ASKED]]",
        "body = list(map(bytes, body))",
        tests="unit/core/broker/test_intake.py",
    ),
    "a name that is too long is cut to one that may exist": Mutation(
        "core.broker.intake",
        "_MOST_ASKED = extension.MAX_PROBE + 1",
        "_MOST_ASKED = 4",
        tests="unit/core/broker/test_intake.py",
    ),
    "a peer that calls loses its features to newcomers": Mutation(
        "core.broker.accounts",
        "            if peers.crowded:",
        "            if False:",
        tests="unit/core/broker/test_peers.py",
    ),
    "a peer that waits loses its features to newcomers": Mutation(
        "core.broker.core",
        "routing_id in clients or is_worker(routing_id)",
        "is_worker(routing_id)",
        tests="unit/core/broker/test_peers.py",
    ),
    "a peer that works loses its features to newcomers": Mutation(
        "core.broker.core",
        "routing_id in clients or is_worker(routing_id)",
        "routing_id in clients",
        tests="unit/core/broker/test_peers.py",
    ),
    "any number of optional fields is read": Mutation(
        "protocol.extension",
        "MAX_FIELDS = 64",
        "MAX_FIELDS = 64_000",
        tests="unit/protocol/test_extension.py",
    ),
    "what sessions of any number have begun is kept": Mutation(
        "core.broker.conversation",
        "MAX_STALE = 10",
        "MAX_STALE = 1_000",
        tests="unit/core/broker/test_conversation.py",
    ),
    "what the sessions of a connection have begun is forgotten with the rest": Mutation(
        "core.broker.registry",
        "if number in numbers}",
        "if number not in numbers}",
        tests="unit/core/broker/test_conversation.py",
    ),
    "a warning shows frames that nobody sent": Mutation(
        "core.broker.core",
        "frames[1 : sent + 1]",
        "frames[1:]",
        tests="unit/core/broker/test_core.py::test_B7_F2_the_warning_of_a_frame_that_is_too_large_shows_what_was_sent",
    ),
    # Drain
    "a try may last no time": Mutation(
        "core.peer.calls",
        "LEAST_TRY = 0.1",
        "LEAST_TRY = 0.01",
        "unit/core/peer/test_client.py::test_X1_a_try_lasts_at_least_a_tenth_of_a_second",
    ),
    "a broker that stops leaves what waits for slow readers": Mutation(
        "core.broker.draining", "(quiet and not self._backlogs.count)", "quiet"
    ),
    "idle workers stay while the broker drains": Mutation(
        "core.broker.draining",
        "idle = [worker for worker in connection.workers.values() if self._is_idle(worker)]",
        "idle = [worker for worker in connection.workers.values() if False]",
        "unit/core/broker/test_draining.py",
    ),
    "what no worker has had is refused as shutting down": Mutation(
        "core.broker.intake",
        "Status.NOT_RUN if not_run else Status.SHUTTING_DOWN",
        "Status.SHUTTING_DOWN",
        "unit/core/broker/test_draining.py",
    ),
    "a request that was not run ends its call": Mutation(
        "core.peer.client",
        "if status == _NOT_RUN and final",
        "if False and final",
        "unit/client/test_client.py::test_L8_a_call_to_a_broker_that_stops_goes_to_the_next_or_waits_for_its_return",
    ),
    "the queue of a client that is gone runs": Mutation(
        "core.broker.core",
        "            self._services.drop_requests_of(client, now)",
        "            pass",
        "unit/core/broker/test_draining.py",
    ),
    "a broker that has nothing to wait for waits": Mutation(
        "broker.engine",
        "            self._close_socket(now)\n            self._end_unless_it_lingers()",
        "            self._close_socket(now)",
        tests="unit/broker/test_broker.py::test_a_broker_that_has_nothing_to_wait_for_closes_at_once",
    ),
    "the end of endpoints is awaited where there are none": Mutation(
        "io.link",
        "if not messages and not listeners:",
        "if False:",
        tests="unit/broker/test_broker.py::test_a_broker_that_has_nothing_to_wait_for_closes_at_once[inproc]",
    ),
    "a connecting socket that sends for long is closed at once": Mutation(
        "io.lingering",
        "and linger > MAX_FINAL_LINGER",
        "and False",
        tests="unit/io/test_lingering.py::test_L7_a_long_wait_for_a_reader_can_be_cut_short_and_the_context_ends",
    ),
    "a context waits for the reader of its monitors": Mutation(
        "io.reports",
        "if error.errno == zmq.ETERM:",
        "if False:",
        tests="unit/io/test_lingering.py::"
        "test_L7_a_context_that_is_terminated_ends_although_the_last_report_cannot_be_read",
    ),
    "unsent messages wait for a peer that has gone": Mutation(
        "io.lingering",
        "self._close_watched(0)  # nobody",
        "pass  # nobody",
        tests="unit/io/test_lingering.py::test_L7_nobody_is_waited_for_whose_connection_has_ended",
    ),
    "a caller hears nothing of a request that still waits": Mutation(
        "core.broker.services", "if noticed_at < until:", "if False:", "unit/core/broker/test_wording.py"
    ),
    "a request that waits at its caller's end has expired": Mutation(
        "core.peer.client", "outcome is Outcome.EXPIRED and now", "False and now", "unit/core/peer/test_client.py"
    ),
    "reports about many clients cost nothing": Mutation(
        "core.broker.reports", "len(rows) + clients // CLIENTS_PER_ROW", "len(rows)", "unit/core/broker/test_reports.py"
    ),
    "what is posted goes to a connection that ends": Mutation(
        "io.owner", "                if not self._ending:\n    ", "", "unit/io/test_owner.py"
    ),
    "a large frame of the extension ends the broker": Mutation(
        "protocol.wire", "_CALLS, bytes(last)", "_CALLS, last", "unit/io/test_frames.py"
    ),
    "the broker keeps optional fields that nobody can read": Mutation(
        "core.broker.intake",
        "            if len(frame) > extension.BARE_SIZE:",
        "            if call.fields:",
        "unit/core/broker/test_intake.py",
    ),
    "a new peer's message is handled before its connection is known": Mutation(
        "broker.engine",
        "                link.poll_new_peers(now)\n",
        "                pass\n",
        "protocol/test_zmtp.py",
    ),
    "peers that are gone are remembered for ever": Mutation(
        "broker.engine", "            self._heard.clear()\n", "            pass\n", "protocol/test_zmtp.py"
    ),
    "a closed socket's connections are not kept": Mutation(
        "io.lingering",
        "return list(copies.values())",
        "return []",
        "unit/broker/test_broker.py::test_L7_a_graceful_stop_waits_until_slow_readers_have_got_their_answers",
    ),
    "a connection is closed as soon as ZeroMQ has sent everything": Mutation(
        "io.lingering",
        "            _shut_down(connection, socket.SHUT_WR)",
        "            _shut_down(connection, socket.SHUT_RDWR)",
        "unit/io/test_lingering.py",
    ),
    "a descriptor that was freed is taken for its connection": Mutation(
        "io.lingering", "for descriptor in closed():", "for descriptor in ():", "unit/io/test_lingering.py"
    ),
    # The gate
    "an owner logs its defect before it answers": Mutation(
        "io.owner",
        "        self._take_last_step(self._close_links)\n        if death is not None:",
        '        self._take_last_step(self._close_links)\n        _log.critical("%s", self.name, exc_info=death)\n'
        "        if death is not None:",
        tests="unit/io/test_owner.py::test_G3_an_owner_that_a_bug_ends_answers_everybody_before_it_logs",
    ),
    "what was posted is forgotten when an interrupt hits it": Mutation(
        "io.owner",
        "            function, args = mailbox[0]\n            function(*args)",
        "            function, args = mailbox.popleft()\n            mailbox.appendleft((int, ()))\n"
        "            function(*args)",
        tests="unit/io/test_owner.py::"
        "test_G4_an_interrupt_in_the_middle_of_what_was_posted_leaves_its_caller_an_answer",
    ),
    "only what is an Exception is caught of a stranger's code": Mutation(
        "io.guarded",
        "    except BaseException as error:\n        if not",
        "    except Exception as error:\n        if not",
        tests="unit/io/test_guarded.py system/test_strangers_code.py::"
        "test_G2_whatever_a_hook_raises_the_default_is_decided_and_the_broker_lives",
    ),
    "an interrupt in a hook is swallowed": Mutation(
        "io.guarded",
        "            give_to_hub(error)",
        "            pass",
        tests="unit/io/test_guarded.py system/test_strangers_code.py::"
        "test_G4_a_signal_whose_handler_raises_ends_the_program_wherever_it_hits",
    ),
    "a handler's SystemExit is a failure and nothing more": Mutation(
        "worker.handlers",
        "        if isinstance(raised, guarded.INTERRUPTS):",
        "        if isinstance(raised, KeyboardInterrupt):",
        tests="unit/worker/test_handlers.py::test_G4_an_interrupt_that_hits_a_handler_reaches_the_program",
    ),
    "a handler's error makes its own text": Mutation(
        "worker.handlers",
        "Failure(guarded.type_name(error), guarded.text_of(error))",
        "Failure(type(error).__name__, str(error))",
        tests="unit/worker/test_handlers.py::test_G1_an_error_that_cannot_be_shown_is_a_failure_like_any_other",
    ),
    "log handlers run where something is logged": Mutation(
        "io.logs",
        "        if queue is None or (queue.is_idle and",
        "        if queue is not None or (queue.is_idle and",
        tests="unit/io/test_logs.py::test_G3_a_log_handler_that_waits_delays_no_owner "
        "unit/io/test_logs.py::test_G3_a_record_is_made_where_it_happens",
    ),
    "a record is made though no logger is enabled for it": Mutation(
        "io.logs",
        "        if self._logger.isEnabledFor(logging.DEBUG):",
        "        if True:",
        tests="unit/io/test_logs.py::test_G3_a_call_that_is_disabled_makes_nothing",
    ),
    "the queue of log records has no bound": Mutation(
        "io.logs",
        "if len(self.entries) >= self.bound and",
        "if False and",
        tests="unit/io/test_logs.py::test_G3_records_beyond_the_bound_are_dropped_and_counted",
    ),
    "the interpreter's end waits for a handler of a thread that has ended": Mutation(
        "io.logs",
        "    _free_handlers()\n    own",
        "    own",
        tests="unit/io/test_logs.py::test_P6_the_interpreter_ends_though_a_thread_ended_in_a_log_handler",
    ),
    "a thread that ends keeps the lock of a log handler": Mutation(
        "io.logs",
        "            queue.stop_writer()",
        "            pass",
        tests="unit/io/test_logs.py::test_G3_a_thread_that_ends_lets_go_of_a_handler_that_waits",
    ),
    "a writer that was killed goes on": Mutation(
        "io.logs",
        "        gevent.getcurrent().killed = True",
        "        pass",
        tests="unit/io/test_logs.py::test_G3_a_writer_that_is_killed_leaves_what_waits_to_the_next",
    ),
    "the interpreter's end waits for a log handler": Mutation(
        "io.logs",
        "        own.stop_writer()",
        "        pass",
        tests="unit/io/test_logs.py::test_G3_the_interpreter_s_end_waits_for_no_handler",
    ),
    "a start that is interrupted leaves the owner": Mutation(
        "io.lifecycle",
        "            Lifecycle.stop(self, 0)\n",
        "            pass\n",
        tests="unit/io/test_lifecycle.py::test_G5_an_interrupt_at_the_end_of_a_start_leaves_nothing_open",
    ),
    "the child of a fork writes the parent's records": Mutation(
        "io.forks",
        "        logs.after_fork()",
        "        pass",
        tests="unit/io/test_logs.py::test_G3_the_child_of_a_fork_begins_with_an_empty_queue",
    ),
    "raw handlers go on after close": Mutation(
        "worker.dispatch",
        "    elif isinstance(task, greenlet.greenlet):\n        gevent.kill(task)\n",
        "",
        tests="unit/worker/test_dispatch.py::test_G18_close_ends_raw_handlers_as_it_ends_others",
    ),
    "a call of code that must not wait is sent": Mutation(
        "client.client",
        "        if answer.is_awaited:",
        "        if False:",
        tests="unit/client/test_client.py::test_G3_a_call_of_code_that_must_not_wait_is_not_sent",
    ),
    "a tracer provider that fails ends the broker": Mutation(
        "broker.engine",
        "                    guarded.call(record_wait, *event, default=None, on_error=log_failure)",
        "                    record_wait(*event)",
        tests="unit/broker/test_engine.py::test_G2_a_tracer_provider_that_fails_does_not_end_the_broker",
    ),
    "a starter that was stopped is replaced": Mutation(
        "worker.dispatch",
        "        if not self._killed:",
        "        if self.session.work is None:",
        tests="unit/worker/test_dispatch.py::test_a_starter_that_its_worker_has_stopped_is_not_replaced",
    ),
    "a stop in the hub waits": Mutation(
        "io.lifecycle",
        "        if current_lifecycle.get() is self or must_not_wait():",
        "        if current_lifecycle.get() is self or gevent.getcurrent() is owner.greenlet:",
        tests="unit/io/test_lifecycle.py::test_G5_in_the_hub_a_stop_begins_and_returns",
    ),
    # Imports
    "a command imports all that is public": Mutation(
        "__init__",
        "if TYPE_CHECKING or not _LEAN:",
        "if True:",
        tests="unit/cli/test_group.py::test_F13_a_command_does_not_import_what_it_does_not_use",
    ),
    "what serves a broker imports the worker": Mutation(
        "cli.serving",
        "if TYPE_CHECKING:",
        "if True:",
        tests="unit/cli/test_group.py::test_F13_a_command_does_not_import_what_it_does_not_use",
    ),
    # Commands
    "an error names an option by its keyword": Mutation(
        "cli.spelling",
        "return spellings.get(word, word) if match.start() == 0",
        "return word if match.start() == 0",
        tests="unit/cli/test_group.py",
    ),
    "a command has no variable of its own beside a shared one": Mutation(
        "cli.group",
        "option.envvar = [own, *(variable for variable in shared if variable != own)]",
        "option.envvar = shared or [own]",
        tests="unit/cli/test_group.py",
    ),
    "only the first process of a command is killed": Mutation(
        "cli.commands",
        "            os.killpg(self.pid, signal.SIGKILL)",
        "            os.kill(self.pid, signal.SIGKILL)",
        tests="unit/cli/test_commands.py::test_X11_all_processes_of_a_command_are_killed_with_its_handler",
    ),
    "a command whose handler is killed as it starts runs on": Mutation(
        "cli.commands",
        "                self.kill_group()\n                self.wait()",
        "                pass",
        tests="unit/cli/test_commands.py::test_X11_a_handler_that_is_killed_while_its_command_starts_leaves_no_process",
    ),
    "what a killed worker ran lives on": Mutation(
        "cli.guard",
        "            os.killpg(group, signal.SIGKILL)",
        "            os.killpg(group, 0)",
        tests="unit/cli/test_guard.py "
        "system/test_cli.py::test_X11_no_process_of_a_command_outlives_its_worker_or_its_call",
    ),
    "a signal to all processes of a service ends the guard": Mutation(
        "cli.commands",
        "    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):",
        "    for number in ():",
        tests="unit/cli/test_commands.py::test_X11_there_is_always_a_guard",
    ),
    "a guard that was killed is not replaced": Mutation(
        "cli.commands",
        "if self._process is None or self._process.returncode is not None:",
        "if self._process is None:",
        tests="unit/cli/test_commands.py::test_X11_there_is_always_a_guard",
    ),
    "a connection without calls to a broker that leaves stays": Mutation(
        "core.peer.client",
        "            if not connection.calls:\n                self._retire",
        "            if False:\n                self._retire",
        tests="unit/core/peer/test_client.py",
    ),
    # Waiting
    "a future is waited for in a hook": Mutation(
        "client.futures",
        "            return False\n        check_may_wait()\n        answer",
        "            return False\n        answer",
        tests="unit/client/test_futures.py::test_G3_code_that_must_not_wait_gets_an_error_where_it_would",
    ),
    "futures are waited for in a hook as they end": Mutation(
        "client.futures",
        "                check_may_wait()\n                waits_for",
        "                waits_for",
        tests="unit/client/test_futures.py::test_G3_code_that_must_not_wait_gets_an_error_where_it_would",
    ),
    "a stream is read in a hook": Mutation(
        "client.answers",
        "        check_may_wait()\n        super().wait",
        "        super().wait",
        tests="unit/client/test_futures.py::test_G3_code_that_must_not_wait_gets_an_error_where_it_would",
    ),
    "a hook waits for the start of a threaded client": Mutation(
        "client.threaded",
        "            check_may_wait()\n",
        "",
        tests="unit/client/test_threaded.py::test_G3_code_that_must_not_wait_starts_no_threaded_client",
    ),
    "the hub waits for a start before it closes": Mutation(
        "client.client",
        "starting and not must_not_wait()",
        "starting",
        tests="unit/client/test_threaded.py::test_G5_a_threaded_client_is_closed_by_code_that_must_not_wait_for_its_start",
    ),
    "a client that was closed in its start stays new": Mutation(
        "client.client",
        "            self._close_new()\n            raise",
        "            raise",
        tests="unit/client/test_threaded.py::test_G5_a_threaded_client_is_closed_by_code_that_must_not_wait_for_its_start",
    ),
    "a future keeps the slots of waits that timed out": Mutation(
        "client.futures",
        "            if not was_set:",
        "            if False:",
        tests="unit/client/test_futures.py::test_a_thread_that_polls_a_future_leaves_nothing_with_it",
    ),
    "a slot that has just gone ends the client": Mutation(
        "client.futures",
        "        except IndexError:\n            pass  # a thread",
        "        except KeyError:\n            pass  # a thread",
        tests="unit/client/test_futures.py::test_the_slot_of_a_wait_that_ends_just_now_may_have_gone",
    ),
    # Starts and logs
    "a start of the main greenlet writes its records": Mutation(
        "io.logs",
        "queue.is_idle and not queue.starts and",
        "queue.is_idle and",
        tests="unit/io/test_lifecycle.py::test_G3_a_log_handler_that_waits_shows_nobody_half_a_start",
    ),
    "the first start writes its records": Mutation(
        "io.logs",
        "    open_queue(get_hub())\n    queue = _queue()\n    assert queue is not None\n",
        "    queue = _queue() or LogQueue()\n",
        tests="unit/io/test_lifecycle.py::test_G3_a_log_handler_that_waits_shows_nobody_half_a_start",
    ),
    # Work that waits for its place
    "cancelled work gets its place": Mutation(
        "worker.dispatch",
        "run_after_wait if spawner.may_wait else run",
        "run",
        tests="unit/worker/test_dispatch.py::test_enforce_deadline_stops_work_that_waits_for_its_place_in_a_pool",
    ),
    "work after cancelled work does not begin": Mutation(
        "worker.dispatch",
        "            self.cancelled = None\n",
        "",
        tests="unit/worker/test_dispatch.py::test_enforce_deadline_stops_work_that_waits_for_its_place_in_a_pool",
    ),
    "work that the starter has not seen is not cancelled": Mutation(
        "worker.dispatch",
        "            self._queue.put(work)\n",
        "            self.running = None\n            self._queue.put(work)\n",
        tests="unit/worker/test_dispatch.py::test_enforce_deadline_stops_work_that_its_starter_has_not_seen",
    ),
    "a handler in the starter is killed by its own close": Mutation(
        "worker.dispatch",
        " and self.starter is not spared:",
        ":",
        tests="unit/worker/test_dispatch.py::test_close_from_ones_own_handler_does_not_kill_it",
    ),
    "a starter that was spared waits for ever": Mutation(
        "worker.dispatch",
        "        while not self._killed:\n",
        "        while True:\n",
        tests="unit/worker/test_dispatch.py::test_close_from_ones_own_handler_does_not_kill_it",
    ),
    # Streams
    "a part of a byte counts as taken": Mutation(
        "client.answers",
        'check_number("size", operator.index(size), whole=True)',
        "size",
        tests="unit/client/test_answers.py::test_what_a_reader_of_a_stream_notes_wrongly_costs_no_other_call",
    ),
    "less than nothing counts as taken": Mutation(
        "client.answers",
        'check_number("size", operator.index(size), whole=True)',
        "operator.index(size)",
        tests="unit/client/test_answers.py::test_what_a_reader_of_a_stream_notes_wrongly_costs_no_other_call",
    ),
    "credits are not passed on": Mutation(
        "core.broker.flows", "        flow.granted = credit\n", "        flow.granted = credit\n        return\n"
    ),
    "a stalled stream never ends": Mutation(
        "core.broker.flows",
        "self._state.timers.arm(request, now + self._state.options.stream_stall_timeout)",
        "pass",
    ),
    "each small grant is a message to the worker": Mutation(
        "core.broker.flows",
        " or (left > 0 and flow.granted - flow.passed_on < LOW)",
        "",
        tests="unit/core/broker/test_flows.py",
    ),
    "a grant below what was sent ends the watch over the reader": Mutation(
        "core.broker.flows",
        "            self._await_reader(request, now)  # the handler waits on, but the reader reads",
        "            self._state.timers.disarm(request)",
        tests="unit/core/broker/test_flows.py",
    ),
    "the parts of a cancelled stream are waited for": Mutation(
        "core.broker.conversation",
        "and request.abandon_reason is None",
        "and True",
        tests="unit/core/broker/test_flows.py",
    ),
    "the rows of a report that empties its asker's bucket are free": Mutation(
        "core.broker.reports",
        "self._rates.charge(",
        "self._rates.take(",
        tests="unit/core/broker/test_reports.py",
    ),
    "a handler goes on without credit": Mutation(
        "core.peer.worker", "session.credit = INITIAL_CREDIT if", "session.credit = 1e9 if"
    ),
    "streams wait for what other streams share": Mutation(
        "core.peer.client",
        "call.credit = new_credit = consumed + INITIAL_CREDIT + extra",
        "call.credit = new_credit = consumed + extra",
    ),
    "what a reader behind a slow link has taken is not granted": Mutation(
        "core.peer.client",
        "if now >= call.look_at:",
        "if False:",
    ),
    "a reader that takes little at a time grants nothing": Mutation(
        "core.peer.client",
        "            self.grant(call, now)\n            if call.timer is None:",
        "            if call.timer is None:",
        tests="unit/core/peer/test_streams.py",
    ),
    "a cancel leaves a handler waiting in its yield": Mutation(
        "worker.dispatch",
        "        elif waiting is not None:\n            waiting.set(False)",
        "",
        tests="unit/worker/test_dispatch.py::test_X9_a_cancel_wakes_a_handler_that_waits_in_its_yield",
    ),
    # Messages and news that outlive what they are about
    "what a worker has had is refused as not run": Mutation(
        "core.broker.draining",
        " and not request.attempts else None",
        " else None",
        tests="unit/core/broker/test_draining.py",
    ),
    "a worker that does not know better loses its idle sessions one by one": Mutation(
        "core.broker.draining",
        "            elif connection.features & Feature.LEAVING:",
        "            else:",
        tests="unit/core/broker/test_draining.py",
    ),
    "services are walked when a client goes that has queued nothing": Mutation(
        "core.broker.services",
        "            if not client.queued:\n                return\n            yield None",
        "            yield None",
        tests="unit/core/broker/test_draining.py",
    ),
    "a request that moves is still counted with the client that queued it": Mutation(
        "core.broker.accounts",
        "                old.queued -= 1\n                client.queued += 1\n",
        "                pass\n",
        tests="unit/core/broker/test_draining.py",
    ),
    "a service that has given way is known until its requests have ended": Mutation(
        "core.broker.services",
        "        self._forget(service)\n        self.ending",
        "        self.ending",
        tests="unit/core/broker/test_services.py",
    ),
    "a broker that stops forgets the requests of a service that has given way": Mutation(
        "core.broker.services",
        "[*self.by_name.values(), *evicted]",
        "list(self.by_name.values())",
        tests="unit/core/broker/test_services.py",
    ),
    "a user's requests go with any of the user's connections": Mutation(
        "core.broker.services",
        "request if request.client is client else None",
        "request",
        tests="unit/core/broker/test_draining.py",
    ),
    "all idle workers are let go in one pass": Mutation(
        "core.broker.draining",
        "            left -= 1 + len(connection.workers)\n            idle",
        "            idle",
        tests="unit/core/broker/test_draining.py",
    ),
    "a search for idle workers is followed by another": Mutation(
        "core.broker.draining",
        "self._registry.count + self._released, self",
        "self._registry.count, self",
        tests="unit/core/broker/test_draining.py",
    ),
    "all waiting clients are told in one pass": Mutation(
        "core.broker.notices",
        "some = list(itertools.islice(self._to_check, BURST))",
        "some = list(self._to_check)",
        tests="unit/core/broker/test_draining.py",
    ),
    "the queues of all clients that are gone are dropped in one pass": Mutation(
        "core.broker.services",
        "                if self._burst_left <= 0:\n                    return\n",
        "",
        tests="unit/core/broker/test_draining.py",
    ),
    "a retry's request stays with the connection of the first try": Mutation(
        "core.broker.intake",
        "            if request.lane != lane:\n                request.service.queue.move(request, lane)",
        "            pass",
        tests="unit/core/broker/test_draining.py::"
        "test_L9_a_request_whose_retry_came_on_another_connection_goes_with_that_connection[queued]",
    ),
    "a retry's running request stays with the connection of the first try": Mutation(
        "core.broker.intake",
        "            request.lane = lane",
        "            pass",
        tests="unit/core/broker/test_draining.py::"
        "test_L9_a_request_whose_retry_came_on_another_connection_goes_with_that_connection[assigned]",
    ),
    "a message to a lost worker goes to the next peer": Mutation(
        "core.broker.unsent",
        "if target is not None and target.stands():",
        "if target is not None and not self._outbox[at].essential:",
        tests="unit/core/broker/test_core.py::"
        "test_S8_a_heartbeat_that_was_decided_for_a_closed_connection_goes_to_nobody",
    ),
    "a credit for a worker is dropped as a client's answer": Mutation(
        "core.broker.flows",
        "        return self.connection.registered",
        "        return False",
        tests="unit/core/broker/test_flows.py",
    ),
    "a handler is told that its caller has gone before it begins": Mutation(
        "core.peer.worker",
        "(held if any(work is event.work for work in held) else self.events).append(event)",
        "self.events.append(event)",
        tests="unit/core/peer/test_worker.py::test_L2_news_of_held_work_comes_after_the_work_has_begun",
    ),
    "the shared credit of a stream that has ended is lost": Mutation(
        "core.peer.client", "            self._shared_credit += call.extra_credit\n", "            pass\n"
    ),
}


def _path(project: Path, mutation: Mutation) -> Path:
    return project / "gmdp" / f"{mutation.module.replace('.', '/')}.py"


def mutated(mutation: Mutation) -> str:
    """The source of its module with the bug in it; AssertionError if there is no one place for it."""
    source = _path(ROOT, mutation).read_text(encoding="utf-8")
    found = source.count(mutation.old)
    assert found == 1, f"{mutation.module}: {found} places for {mutation.old!r}"
    return source.replace(mutation.old, mutation.new)


def plant(name: str, copy: Path) -> None:
    """Copy the project to `copy`, with one bug in it."""
    shutil.copytree(ROOT, copy, ignore=_NOT_COPIED)
    mutation = MUTATIONS[name]
    _path(copy, mutation).write_text(mutated(mutation), encoding="utf-8")


def run_seeds() -> int:
    """Run seeds until one fails: 1, and prints its number and message; 0 if none did."""
    from gmdp.testing import SimulationFailed
    from gmdp.testing.explorer.scenario import Scenario

    for seed in range(SEEDS):
        try:
            Scenario(seed).run()
        except SimulationFailed as error:
            print(error)
            return 1
    print(f"not found by {SEEDS} seeds")
    return 0


def _hunters(mutation: Mutation, copy: Path) -> list[str]:
    """The command that hunts a bug in a copy of the project; its exit status is 1 if it found the bug."""
    if not mutation.tests:
        return [sys.executable, str(copy / "tests/tools/mutations.py"), "--seeds"]
    options = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider", "-m", ""]
    return [sys.executable, "-m", "pytest", *options, *(f"tests/{test}" for test in mutation.tests.split())]


def hunt(name: str) -> tuple[str, bool, str]:
    """(name, whether the bug was found, by what or why not)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "gmdp")
        plant(name, copy)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment = {**inherited, "PYTHONPATH": str(copy), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        command = _hunters(MUTATIONS[name], copy)
        try:
            ended = subprocess.run(
                command, cwd=copy, capture_output=True, text=True, env=environment, check=False, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            return name, False, f"no end within {PATIENCE} s"
    lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return name, ended.returncode == 1, (failed or lines or ["no output"])[-1]


def main(names: list[str]) -> int:
    """Hunt for all of them; 0 if each was found."""
    if names == ["--seeds"]:
        return run_seeds()
    missed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hunts = [pool.submit(hunt, name) for name in names or MUTATIONS]
        for name, found, message in (hunt.result() for hunt in as_completed(hunts)):
            missed += not found
            print(f"{'found' if found else 'NOT FOUND'}  {name}: {message}", flush=True)
    print(f"{len(names or MUTATIONS) - missed} of {len(names or MUTATIONS)} found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
