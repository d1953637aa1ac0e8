"""gmdp in real programs whose hub runs only now and then: gunicorn, ``flask run``, and uWSGI that forks in C."""

import http.client
import os
import re
import signal
import sys
from pathlib import Path
from time import monotonic

import gevent
import gevent.socket
import pytest
from processes import Process
from waiting import wait_until

from gmdp import Broker, Worker

pytestmark = pytest.mark.once

#: A site with a client that was made, and used if USED is set, when its module was imported.
SITE = """
import os

import gmdp

client = gmdp.Client(timeout=20)
if os.environ.get("USED"):
    assert client.request("echo", b"at import") == [b"at import"]
made_in = os.getpid()


def application(environ, start_response):
    try:
        status, reply = "200 OK", client.request("echo", environ["PATH_INFO"].encode())[0]
    except gmdp.MDPError as error:
        status, reply = "503 Service Unavailable", repr(error).encode()
    start_response(status, [("Content-Length", str(len(reply))), ("X-Forked", str(os.getpid() != made_in))])
    return [reply]
"""

#: A site of Flask with a client for each way to serve threads.
FLASK_SITE = """
import flask
import gmdp

app = flask.Flask(__name__)
plain = gmdp.Client(timeout=600)
threaded = gmdp.Client(timeout=20, threaded=True)
futures = gmdp.AsyncClient(timeout=20, threaded=True)


@app.errorhandler(gmdp.MDPError)
def failed(error):
    return repr(error), 503


@app.get("/plain")
def ask_plain():
    return plain.request("echo", b"hello")[0]


@app.get("/threaded")
def ask_threaded():
    return threaded.request("echo", b"hello")[0]


@app.get("/futures")
def ask_futures():
    return b" ".join(reply[0] for reply in futures.map("echo", [b"one", b"two"]))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "site_with_client.py").write_text(SITE)
    (tmp_path / "flask_site.py").write_text(FLASK_SITE)
    return tmp_path


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/broker.sock"


@pytest.fixture
def backend(endpoint):
    """A function that replaces the broker, and a worker that finds the new one."""
    brokers = []

    def replace():
        if brokers:
            brokers.pop().close()
        brokers.append(Broker(endpoint))
        brokers[0].start()
        wait_until(lambda: brokers[0].statistics().workers == 4)

    with Worker(endpoint, "echo", lambda request: request.body, concurrency=4, reconnect_interval=0.02):
        yield replace
        brokers.pop().close()


def get(port, path):
    """GET `path`: the status, the body, and whether the process that answered was forked."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection._create_connection = gevent.socket.create_connection
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.getheader("X-Forked")
    finally:
        connection.close()


def port_in(log, pattern):
    return int(re.search(pattern, log)[1])


@pytest.mark.parametrize("kind", ["sync", "gevent"])
def test_G7_gunicorn_across_a_restart_of_the_broker(kind, folder, endpoint, backend):
    """The hub of the sync worker runs during calls only; no call has a further try."""
    backend()
    options = ("-k", kind, "-w", "1", "--preload", "--bind", "127.0.0.1:0", "site_with_client:application")
    command = (sys.executable, "-m", "gunicorn", *options)
    with Process(command=command, cwd=folder, GMDP_BROKER=endpoint, USED="1") as gunicorn:
        gunicorn.log(b"Booting worker with pid")
        port = port_in(gunicorn.err, rb"Listening at: http://127\.0\.0\.1:(\d+)")
        for number in range(4):
            assert get(port, f"/{number}/before") == (200, f"/{number}/before", "True")
            sockets = sockets_of_children(gunicorn)
            backend()
            if kind == "sync":  # on a busy machine, ZeroMQ's thread notices the end of a connection late
                wait_until(lambda sockets=sockets: sockets_of_children(gunicorn) < sockets)
            assert get(port, f"/{number}/after") == (200, f"/{number}/after", "True")
        gunicorn.signal(signal.SIGTERM)
        assert gunicorn.ended().status == 0
        assert b"Traceback" not in gunicorn.err, gunicorn.err.decode()


def sockets_of_children(process):
    """How many sockets the children of a process have."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    descriptors = [each for child in children for each in Path(f"/proc/{child}/fd").iterdir()]
    return sum(os.readlink(each).startswith("socket:") for each in descriptors if each.is_symlink())


def test_G8_flask_run_with_and_without_a_hub(folder, endpoint, backend):
    """The thread that made the clients waits for connections, and its hub never runs."""
    backend()
    command = (sys.executable, "-m", "flask", "--app", "flask_site", "run", "--port", "0")
    with Process(command=command, cwd=folder, GMDP_BROKER=endpoint) as flask:
        flask.log(b"Running on http://127.0.0.1:")
        port = port_in(flask.err, rb"Running on http://127\.0\.0\.1:(\d+)")
        began = monotonic()
        plain = gevent.spawn(get, port, "/plain")
        assert get(port, "/threaded")[:2] == (200, "hello")
        assert get(port, "/futures")[:2] == (200, "one two")
        status, text, _ = plain.get()
        assert status == 503
        assert text.startswith("HubNotRunning(")
        assert "threaded=True" in text
        assert monotonic() - began < 10  # its timeout is 600 s


@pytest.mark.slow
@pytest.mark.parametrize("used", ["", "1"], ids=["unused", "used"])
@pytest.mark.parametrize("options", [(), ("--enable-threads",), ("--lazy-apps",)], ids=["", "threads", "lazy"])
def test_G6_uwsgi_forks_in_c(options, used, folder, endpoint, backend):
    """Its processes inherit a client that their parent has used; Python's hooks hear nothing of the fork."""
    pytest.importorskip("pyuwsgi")
    backend()
    program = "import sys, pyuwsgi; sys.argv[0] = 'uwsgi'; pyuwsgi.run()"
    server = ("--http-socket", "127.0.0.1:0", "--master", "--processes", "2", "--need-app", "--die-on-term", "--pyhome")
    command = (sys.executable, "-c", program, *server, sys.prefix, "--module", "site_with_client", *options)
    with Process(command=command, cwd=folder, GMDP_BROKER=endpoint, USED=used) as uwsgi:
        uwsgi.log(b"spawned uWSGI worker 2")
        port = port_in(uwsgi.err, rb"uwsgi socket 0 bound to TCP address 127\.0\.0\.1:(\d+)")
        for number in range(4):
            forked = str("--lazy-apps" not in options)
            assert get(port, f"/{number}/before") == (200, f"/{number}/before", forked)
            backend()
            assert get(port, f"/{number}/after") == (200, f"/{number}/after", forked)
        assert b"Traceback" not in uwsgi.err, uwsgi.err.decode()
