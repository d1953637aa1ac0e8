"""``gmdp demo``: real files, real processes, one of them killed, every digest right."""

import os
import re
import signal
import subprocess
import sys

import pytest
from processes import Gate, Process, gmdp, only_line

import gmdp as package

pytestmark = pytest.mark.once


def row(ended):
    """The only row of the table at the end of the demonstration's output."""
    lines = ended.out.decode(errors="replace").splitlines()
    [names] = [number for number, line in enumerate(lines) if "redeliveries" in line]
    assert re.split(" {2,}", lines[names]) == ["files", "bytes", "seconds", "redeliveries", "wrong digests"]
    files, size, seconds, redeliveries, wrong = re.findall(r"[\d.]+", lines[names + 1])
    assert float(seconds) > 0
    return int(files), int(size), int(redeliveries), int(wrong)


def assert_right(ended, files, size):
    """All files hashed, all digests right, at least one request delivered again, one worker killed."""
    assert (ended.status, ended.err) == (0, b""), ended
    found = row(ended)
    assert (found[0], found[1], found[3]) == (files, size, 0)
    assert found[2] >= 1
    assert len(re.findall(rb"killing worker process \d+ in the middle of a request\n", ended.out)) == 1
    assert f" {files}/{files} " in ended.out.decode(errors="replace")
    assert b"\x1b" not in ended.out


def regular_files(folder):
    """How many files there are, and their bytes."""
    sizes = [
        os.path.getsize(os.path.join(where, name))
        for where, _, names in os.walk(folder)
        for name in names
        if os.path.isfile(os.path.join(where, name)) and not os.path.islink(os.path.join(where, name))
    ]
    return len(sizes), sum(sizes)


def test_demo_hashes_the_installed_package(tmp_path):
    """Without an argument, without a terminal, from any folder."""
    folder = os.path.dirname(package.__file__)
    # Nothing is compiled meanwhile, so that the files stay as they are.
    ended = gmdp("demo", cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert_right(ended, *regular_files(folder))


# Runs the program without a superuser's right to read every file.
UNPRIVILEGED = """
import ctypes, os, sys
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24
for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0):
        sys.exit("cannot give up the rights of a superuser")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def unprivileged():
    """The command that runs gmdp without special rights."""
    command = (sys.executable, "-c", UNPRIVILEGED)
    with Process("-c", "", command=command) as process:
        if process.ended().status:
            pytest.skip("a superuser who cannot give up their rights can read everything")
    return (*command, "-m", "gmdp")


def test_demo_hashes_whatever_a_folder_holds(tmp_path, unprivileged):
    """Empty, small and large files count, in folders, under any name; links, pipes and closed files do not."""
    (tmp_path / "a b" / "größe ☃").mkdir(parents=True)
    (tmp_path / "empty folder").mkdir()
    inner = tmp_path / "a b" / "größe ☃"
    mebi = 1024 * 1024
    contents = {
        tmp_path / "empty": b"",
        tmp_path / "empty too": b"",
        tmp_path / "[bold] :smile: %s {0}": b"x",
        tmp_path / "-rf": b"option",
        tmp_path / "line\nend": b"\n",
        tmp_path / ".hidden": b"hidden",
        tmp_path / "one frame": bytes(mebi),
        tmp_path / "a frame and a byte": b"\xff" * (mebi + 1),
        inner / "large": os.urandom(5 * mebi + 7),
        inner / "large too": os.urandom(3 * mebi),
    }
    for path, content in contents.items():
        path.write_bytes(content)
    with open(os.fsencode(tmp_path) + b"/\xff\xfe", "wb") as file:
        file.write(b"no letters")
    (tmp_path / "link").symlink_to(inner / "large")
    (tmp_path / "link to a folder").symlink_to(tmp_path)
    (tmp_path / "link to nothing").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secret").chmod(0)
    ended = gmdp("demo", ".", cwd=tmp_path, command=unprivileged)
    assert_right(ended, len(contents) + 1, sum(map(len, contents.values())) + len(b"no letters"))


@pytest.mark.parametrize("mode", [0, 0o444], ids=["closed", "names only"])
def test_demo_leaves_out_folders_it_may_not_enter(tmp_path, unprivileged, mode):
    (tmp_path / "file").write_bytes(b"content")
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "file").write_bytes(b"content")
    closed.chmod(mode)
    try:
        ended = gmdp("demo", ".", cwd=tmp_path, command=unprivileged)
    finally:
        closed.chmod(0o755)
    assert_right(ended, 1, 7)


def test_demo_of_a_folder_of_which_it_may_read_nothing_says_so(tmp_path, unprivileged):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secret").chmod(0)
    ended = gmdp("demo", ".", cwd=tmp_path, command=unprivileged)
    assert ended.status == 2
    assert ended.one_line() == "gmdp: . holds no file that can be read"


@pytest.mark.parametrize("name", [b"[/closed]", b"\xff\xfe", b"x" * 120], ids=["markup", "no letters", "long"])
def test_demo_of_one_tiny_file_in_a_folder_of_any_name(tmp_path, name):
    folder = os.fsencode(tmp_path) + b"/" + name
    os.makedirs(folder)
    with open(folder + b"/tiny", "wb") as file:
        file.write(b"x")
    assert_right(gmdp("demo", name, cwd=tmp_path, PYTHONIOENCODING="utf-8"), 1, 1)


def before_path(folder):
    """The variable that makes Python look for modules in `folder` first."""
    rest = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": str(folder) if not rest else f"{folder}{os.pathsep}{rest}"}


def test_demo_finds_wrong_digests(tmp_path):
    """The comparison is a real one: workers with other answers make the demonstration fail."""
    (tmp_path / "sitecustomize.py").write_text(
        "import hashlib, sys\nif 'worker' in sys.orig_argv:\n    hashlib.sha256 = hashlib.sha3_256\n"
    )
    (tmp_path / "folder").mkdir()
    for name in "abc":
        (tmp_path / "folder" / name).write_bytes(name.encode())
    ended = gmdp("demo", "folder", cwd=tmp_path, **before_path(tmp_path))
    assert ended.status == 1
    files, _, redeliveries, wrong = row(ended)
    assert files == 3
    assert wrong >= 3
    assert redeliveries >= 1


def test_demo_whose_workers_do_not_start_says_so(tmp_path):
    """The demonstration ends soon, with one line of its own."""
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'worker' in sys.orig_argv:\n    os._exit(1)\n")
    (tmp_path / "file").write_bytes(b"")
    ended = gmdp("demo", ".", cwd=tmp_path, **before_path(tmp_path))
    assert ended.status == 1
    assert "worker processes did not start" in ended.one_line()


WAITING_WORKERS = """
import sys

if "worker" in sys.orig_argv:
    import hashlib, os, socket

    def sha256(sha256=hashlib.sha256):
        with socket.create_connection(("127.0.0.1", int(os.environ["GATE"]))) as connection:
            connection.recv(1)
        return sha256()

    hashlib.sha256 = sha256
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("whom", ["signal", "signal_group"])
def test_demo_that_is_interrupted_leaves_no_process_behind(tmp_path, number, whom):
    """P5: the signal goes to the demonstration alone or, as from a terminal, to its workers, too.

    Three workers are at work, the fourth is frozen.
    """
    (tmp_path / "sitecustomize.py").write_text(WAITING_WORKERS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"content")
    with Gate() as gate, Process("demo", "folder", cwd=tmp_path, GATE=gate.port, **before_path(tmp_path)) as process:
        assert process.line().startswith("killing worker process ")
        for _ in range(3):
            gate.arrived()
        getattr(process, whom)(number)
        gate.open()
        # The workers share its standard error, which ends with the last of them.
        ended = process.ended(timeout=10)
    assert ended.status != 0
    assert ended.err.strip() == b"" or only_line(ended.err)
    assert b"KeyboardInterrupt" not in ended.err


LATE = """
import pathlib, sys
import gevent, gevent.event
import gmdp.cli.demo as demo
from gmdp.client.async_client import AsyncClient

submit, begun = AsyncClient.submit, []

def late(self, service, body, **options):
    # The last request of the round is on its way until the others are answered.
    if len(begun) < 3:
        begun.append(submit(self, service, body, **options))
        return begun[-1]
    result = gevent.event.AsyncResult()
    def afterwards():
        gevent.wait(begun, timeout=0.3)  # one of them may be the frozen worker's
        gevent.idle()
        submit(self, service, body, **options).rawlink(result)
    gevent.spawn(afterwards)
    return result

AsyncClient.submit = late
sys.exit(demo.demonstrate(pathlib.Path(sys.argv[1])))
"""


def test_demo_kills_a_worker_that_has_a_request_however_late_that_is(tmp_path):
    """A large request may still be on its way to the broker when all others are answered."""
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
    done = subprocess.run([sys.executable, "-c", LATE, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
