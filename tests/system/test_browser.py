"""A real browser reads a gateway: EventSource, and pages of other origins.  Needs Chromium."""

import json
import re
import shutil

import gevent
import pytest
from gateways import needs_gunicorn, stack
from gevent.event import AsyncResult
from gevent.pywsgi import WSGIServer
from processes import Process

__all__ = ["stack"]

needs_gunicorn()

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.deadline(180),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

#: Requests that a browser would otherwise send to the network.
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

#: Reports what an EventSource saw, until it is closed by itself; then what fetch may read.
PAGE = """<!doctype html><script>
const gateway = "%s", seen = [];
const source = new EventSource(gateway + "/services/work?body=parts&body=one%%0Atwo&body=%%FF");
source.onopen = () => seen.push(["open"]);
for (const name of ["message", "base64", "end"])
    source.addEventListener(name, event => seen.push([name, event.data]));
source.onerror = async () => {
    if (source.readyState !== EventSource.CLOSED)
        return;
    const answer = {};
    try {
        const headers = {"X-Request-Timeout": "5"};
        const reply = await fetch(gateway + "/services/work", {method: "POST", body: "hello", headers});
        answer.body = await reply.text();
        const refused = await fetch(gateway + "/services/none", {method: "POST", body: ""});
        answer.error = (await refused.json()).error;
    } catch (error) {
        answer.failed = error.name;
    }
    await fetch("/report", {method: "POST", body: JSON.stringify({seen, answer})});
};
</script>"""


class Site:
    """A web site with one page, which reports once."""

    def __init__(self):
        self.gateway = ""
        self.report = AsyncResult()
        self._server = WSGIServer(("127.0.0.1", 0), self._answer, log=None)
        self._server.start()
        self.port = self._server.server_port

    def _answer(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        if environ["PATH_INFO"] == "/report":
            self.report.set(json.loads(environ["wsgi.input"].read()))
        return [(PAGE % self.gateway).encode()]

    def close(self):
        self._server.stop()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


def visit(stack, site, host, folder, gets):
    """What the page reports if its address names `host`, and the gateway's log once it has had as many GETs.

    The gateway trusts the page at 127.0.0.1 alone.
    """
    options = ("--bind", "127.0.0.1:0", "--service", "work", "--safe", "work", "--broker", stack.endpoint, "-v")
    with Process("gateway", *options, "--cors-origin", f"http://127.0.0.1:{site.port}") as gateway:
        site.gateway = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)", gateway.line())[1]
        url = f"http://{host}:{site.port}/"
        with Process(*QUIET, f"--user-data-dir={folder}", url, command=(CHROMIUM,)):
            with gevent.Timeout(60):
                return site.report.get(), gateway.log(b'"GET /services/work?', count=gets)


def test_F12_an_event_source_reads_a_service_and_stops_at_its_end(stack, site, tmp_path):
    """A browser asks again after each end of a stream; 204 ends that, and nothing is called twice."""
    report, log = visit(stack, site, "127.0.0.1", tmp_path, gets=2)
    assert report["seen"] == [
        ["open"],
        *(["message", "one\ntwo"], ["base64", "/w=="], ["message", "last"], ["message", "two"]),
        ["end", ""],
    ]
    assert report["answer"] == {"body": "hello", "error": "NotFound"}
    assert re.findall(rb'"GET /services/work\?\S+ HTTP/1.1" (\d+)', log) == [b"200", b"204"]


def test_a_page_of_another_origin_reads_nothing(stack, site, tmp_path):
    report, _ = visit(stack, site, "localhost", tmp_path, gets=1)
    assert report["seen"] == []
    assert report["answer"] == {"failed": "TypeError"}
