"""The demonstration: real work, real processes, one of them killed."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import click
import gevent
from rich.console import Console
from rich.progress import Progress

from ..broker.broker import Broker
from ..client.async_client import AsyncClient
from ..core.numbers import MAX_FRAMES
from ..exceptions import ConfigurationError, MDPError
from ..worker.request import Request
from .printing import print_table, printable
from .spelling import Command
from .terminal import progress_bar

WORKERS = 4
IN_FLIGHT = 8
FRAME = 1024 * 1024
#: Seconds between heartbeats: the broker notices a killed worker within this time.
#: A silent worker has far longer: on a busy machine a process may not run for a second or two.
HEARTBEAT = 0.5
LIVENESS = 60
SERVICE = "sha256"
#: Seconds four Python processes may take to start, or to answer a request each.
START_TIMEOUT = 60.0


def sha256(request: Request) -> bytes:
    """Handle a request: return the hexadecimal SHA-256 digest of all its frames together."""
    digest = hashlib.sha256()
    for frame in request.body:
        digest.update(frame)
    return digest.hexdigest().encode()


class Item(NamedTuple):
    """A file's contents and digest."""

    path: Path
    frames: list[bytes]
    digest: bytes


def _find_files(folder: Path) -> list[tuple[Path, int]]:
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder")
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.lstat()
        except OSError:
            continue  # its folder may be listed but not entered
        if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
            found.append((path, status.st_size))
    if not found:
        raise ConfigurationError(f"{folder} holds no file that can be read")
    return found


def _printable(folder: Path) -> str:
    """Return the end of the folder's name, as any terminal can show it."""
    name = printable(folder)
    return name if len(name) <= 40 else "..." + name[-37:]


def _read(path: Path) -> Item:
    """Read and hash one file in a thread: neither may block the hub."""
    item: Item = gevent.get_hub().threadpool.apply(_read_in_thread, (path,))
    return item


def _read_in_thread(path: Path) -> Item:
    with path.open("rb") as file:
        frames = list(iter(lambda: file.read(FRAME), b"")) or [b""]
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame)
    return Item(path, frames, digest.hexdigest().encode())


def _wait_until(condition: Callable[[], bool], error: str) -> None:
    """Wait until `condition()` is true; MDPError with the text `error` if that takes too long."""
    until = monotonic() + START_TIMEOUT
    while not condition():
        if monotonic() > until:
            raise MDPError(error)
        gevent.sleep(0.005)


class _Demonstration:
    """The state of one demonstration: its processes, and its counts."""

    def __init__(self, broker: Broker, client: AsyncClient, workers: list[subprocess.Popen[bytes]]) -> None:
        self.broker = broker
        self.client = client
        self.workers = workers
        self.files = 0
        self.bytes = 0
        self.wrong: list[Path] = []

    def wait_for_workers(self) -> None:
        """Wait until all workers are registered."""

        def all_registered() -> bool:
            if any(worker.poll() is not None for worker in self.workers):
                raise MDPError("the worker processes did not start")
            service = self.broker.statistics().services.get(SERVICE.encode())
            return service is not None and service.workers == WORKERS

        _wait_until(all_registered, "the worker processes did not start")

    def hash(self, paths: list[Path], progress: Progress, task: Any) -> None:
        """Request the digests of all files, a few at a time, and check each."""
        items: deque[Item] = deque()

        def bodies() -> Iterator[list[bytes]]:
            for path in paths:
                items.append(_read(path))
                yield items[-1].frames

        for reply in self.client.map(SERVICE, bodies(), in_flight=IN_FLIGHT):
            self._check(items.popleft(), reply)
            progress.update(task, advance=1, refresh=True)

    def kill_worker(self, paths: list[Path]) -> None:
        """Kill a worker that is certain to have a request.

        All workers are idle, one is frozen, and each gets one request.  When the broker has all
        requests and all answers but one, the request without an answer is the frozen worker's.
        The requests must be counted, too: a large one may still be on its way to the broker when
        all others are answered.
        """
        items = [_read(path) for path in paths]
        self.wait_for_workers()
        before = self.broker.statistics()
        victim = self.workers[0]
        victim.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(victim.pid, os.WUNTRACED)  # wait until the process has stopped
        if not os.WIFSTOPPED(status):
            raise MDPError("a worker process ended")
        futures = [self.client.submit(SERVICE, item.frames) for item in items]

        def all_others_are_answered() -> bool:
            now = self.broker.statistics()
            return now.requests == before.requests + len(futures) and now.replies == before.replies + len(futures) - 1

        _wait_until(all_others_are_answered, "the workers did not answer")
        victim.send_signal(signal.SIGKILL)
        for item, future in zip(items, futures, strict=True):
            if future.get()[0] != item.digest:
                self.wrong.append(item.path)

    def _check(self, item: Item, reply: list[bytes]) -> None:
        self.files += 1
        self.bytes += sum(map(len, item.frames))
        if reply != [item.digest]:
            self.wrong.append(item.path)


def demonstrate(folder: Path) -> int:
    """Run the demonstration on the files of `folder`; returns the exit status."""
    files = _find_files(folder)
    largest = max(size for _, size in files)
    paths = [path for path, _ in files]
    half = len(paths) // 2
    console = Console()
    bar = progress_bar(console, auto_refresh=False)
    broker = Broker(
        "tcp://127.0.0.1:*",
        heartbeat_interval=HEARTBEAT,
        liveness=LIVENESS,
        max_frames=min(max(1000, 2 * largest // FRAME + 16), MAX_FRAMES),
        max_queue_bytes=2 * IN_FLIGHT * (largest + FRAME) + 256 * FRAME,
    )
    workers: list[subprocess.Popen[bytes]] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that no worker process stays behind
    with broker, AsyncClient(broker.endpoint, timeout=600) as client:
        try:
            for _ in range(WORKERS):
                workers.append(_start_worker(broker.endpoint))
            run = _Demonstration(broker, client, workers)
            run.wait_for_workers()
            began = monotonic()
            with bar:
                task = bar.add_task(f"hashing {_printable(folder)}", total=len(paths))
                run.hash(paths[:half], bar, task)
                bar.console.print(f"killing worker process {workers[0].pid} in the middle of a request")
                run.kill_worker([paths[index % len(paths)] for index in range(WORKERS)])
                run.hash(paths[half:], bar, task)
            seconds = monotonic() - began
        finally:
            for worker in workers:
                worker.kill()  # one of them may be frozen
            for worker in workers:
                worker.wait()
        statistics = broker.statistics()
    row = (run.files, run.bytes, f"{seconds:.2f}", statistics.redeliveries, len(run.wrong))
    print_table(("files", "bytes", "seconds", "redeliveries", "wrong digests"), [row])
    if run.wrong:
        raise MDPError(f"wrong digests: {', '.join(map(repr, map(str, run.wrong)))}")
    if not statistics.redeliveries:
        raise MDPError(
            f"no request was delivered again: {statistics.registrations} registrations, "
            f"lost {dict(statistics.lost_workers)}, dropped {dict(statistics.drops)}, ended {dict(statistics.ended)}, "
            f"{statistics.requests} requests, {statistics.replies} replies"
        )
    return 0


def _start_worker(endpoint: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gmdp", "worker", SERVICE, f"{__name__}:sha256"]
    options = ["--broker", endpoint, "--heartbeat-interval", str(HEARTBEAT), "--liveness", str(LIVENESS)]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)


@click.command(cls=Command)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def demo(folder: Path | None) -> int:
    """Hash every file of FOLDER through a broker and four worker processes.

    Halfway through, one worker process is killed; no request is lost.  Every digest is
    compared with one computed directly.  FOLDER is the installed package's folder
    unless given.  Exit status 0 if all digests are right.
    """
    return demonstrate(folder if folder is not None else Path(__file__).parent.parent)
