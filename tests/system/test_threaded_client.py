"""``Client(threaded=True)`` in programs in which no hub runs.  P3."""

import subprocess
import sys
import textwrap

import pytest
from waiting import wait_until

from gmdp import Worker

#: A program without gevent: eight threads share a client.
PROGRAM = """
import atexit
atexit.register(lambda: print(client.closed, client._thread.alive))  # after gmdp's own
import sys, threading, os, gc
import gmdp
{more}
from gevent._hub_local import get_hub_if_exists

client = gmdp.Client(sys.argv[1], timeout=20, threaded=True)
wrong = []


def ask(thread):
    for number in range(100):
        body = b"%d %d" % (thread, number)
        if client.request("echo", body) != [body]:
            wrong.append(body)


threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert wrong == []
assert client.statistics().requests == 800
assert [b"".join(part) for part in client.stream("echo", b"x")] == [b"x"]
assert {no_hub}get_hub_if_exists() is None
{end}
print("well", flush=True)
"""

CLOSE = """
before = len(os.listdir("/proc/self/fd"))
for _ in range(20):
    client.close()
    assert client.closed
    client.start()
    assert client.request("echo", b"again") == [b"again"]
client.close()
while threading.active_count() > 1 or len(os.listdir("/proc/self/fd")) > before:
    gc.collect()
"""

FORK = """
started = os.fork()
if not started:
    status = 1
    try:
        ask(1)
        status = 0
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(started, 0)[1]) == 0
ask(2)
"""


@pytest.fixture
def echo(broker):
    with Worker(broker.endpoint, "echo", lambda request: request.body, concurrency=8):
        wait_until(lambda: broker.statistics().workers == 8)
        yield broker.endpoint


@pytest.mark.parametrize("end", [CLOSE, "", FORK], ids=["closed", "never closed", "forked"])
@pytest.mark.parametrize("patched", [False, True], ids=["", "patched"])
def test_threads_of_a_program_without_a_hub_share_a_client(echo, end, patched):
    """P3, P6, P7; and P1 in the child."""
    more = "import gevent.monkey; gevent.monkey.patch_all()" if patched else ""
    script = PROGRAM.format(end=end, more=more, no_hub="" if not patched else "True or ")
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), echo],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: child.poll() is not None)
    assert (*child.communicate(), child.returncode) == ("well\nTrue False\n", "", 0)
