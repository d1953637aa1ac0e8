"""The command ``gmdp gateway``: its options, its refusals."""

import re
import sys
from types import SimpleNamespace
from unittest import mock

from processes import gmdp_here, outcomes

import gmdp.cli.gateway


def test_the_command_passes_its_options_on(monkeypatch):
    prefork = mock.Mock()
    monkeypatch.setattr(gmdp.cli.gateway, "_import_prefork", lambda: prefork)
    options = ["--service", "a", "--service", "b", "--timeout", "7.5", "--retries", "3", "--max-body", "5"]
    options += ["--when-no-worker", "wait", "--ready-service", "r", "--broker", "tcp://127.0.0.1:1"]
    options += ["--workers", "2", "--max-connections", "7", "--keep-alive", "1.5", "--client-timeout", "2.5"]
    options += ["--safe", "a", "--safe", "b*", "--cors-origin", "https://x", "--cors-origin", "http://y:81"]
    options += ["--access-log", "-", "--stop-timeout", "3", "--bind", "[::1]:5"]
    gmdp.cli.gateway.gateway.main(options, standalone_mode=False)
    prefork.listen.assert_called_once_with("::1", 5)
    listener, make = prefork.run.call_args.args
    assert listener is prefork.listen.return_value
    assert prefork.run.call_args.kwargs == {
        "workers": 2,
        "stop_timeout": 3,
        "keep_alive": 1.5,
        "max_connections": 7,
        "access_log": "-",
    }
    application = make()
    assert (application.services, application.ready_services) == (("a", "b"), (b"r",))
    assert (application.timeout, application.max_body, application.when_no_worker) == (7.5, 5, "wait")
    assert application.client_timeout == 2.5
    assert (application.safe, application.cors_origins) == (("a", "b*"), ("https://x", "http://y:81"))
    client = application.client
    assert (client.endpoints, client.timeout, client.retries) == (("tcp://127.0.0.1:1",), 7.5, 3)


def test_a_password_is_read_again_for_each_process(monkeypatch, tmp_path):
    """SIGHUP takes a new one up."""
    prefork = mock.Mock()
    monkeypatch.setattr(gmdp.cli.gateway, "_import_prefork", lambda: prefork)
    reads = []
    monkeypatch.setattr(gmdp.cli.options, "_read_first_line", lambda file: reads.append(file) or "secret")
    options = ["--service", "a", "--username", "me", "--password-file", "file", "--broker", "ipc:///tmp/no-such-broker"]
    gmdp.cli.gateway.gateway.main(options, standalone_mode=False)
    before = len(reads)
    prefork.run.call_args.args[1]()
    assert len(reads) == before + 1


NEEDS = "gmdp gateway needs gunicorn 27 and gevent 24.10.1: pip install 'gmdp[gateway]'"


def test_without_the_extra_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gunicorn", None)
    ended = gmdp_here("gateway", "--service", "x")
    assert (ended.one_line(), ended.status) == (f"gmdp: {NEEDS}", 2)


def test_a_package_that_gunicorn_lacks_is_named(monkeypatch):
    error = ModuleNotFoundError("No module named 'packaging'", name="packaging.version")
    monkeypatch.setattr(gmdp.cli.gateway, "import_module", mock.Mock(side_effect=error))
    ended = gmdp_here("gateway", "--service", "x")
    assert (ended.one_line(), ended.status) == (f"gmdp: {NEEDS} (No module named 'packaging')", 2)


def test_a_gunicorn_that_is_too_old_is_named(monkeypatch):
    old = SimpleNamespace(version_info=(26, 2, 0), __version__="26.2.0")
    monkeypatch.setitem(sys.modules, "gunicorn", old)
    assert gmdp_here("gateway", "--service", "x").one_line() == f"gmdp: {NEEDS} (gunicorn 26.2.0 is installed)"


def test_a_gevent_that_is_too_old_is_named(monkeypatch):
    error = RuntimeError("gevent worker requires gevent 24.10.1 or higher")
    monkeypatch.setattr(gmdp.cli.gateway, "import_module", mock.Mock(side_effect=error))
    assert gmdp_here("gateway", "--service", "x").one_line() == f"gmdp: {NEEDS} ({error})"


REFUSALS = [
    (["--bind", "127.0.0.1"], "bad address '127.0.0.1': it must look like HOST:PORT", 2),
    (["--bind", ":8080"], "bad address ':8080': it must look like HOST:PORT", 2),
    (["--bind", "[::1:80"], r"bad address '\[::1:80': .*", 2),
    (["--bind", "localhost:65536"], "bad address 'localhost:65536': the port must be at most 65535", 2),
    (["--bind", "localhost:123456"], "bad address 'localhost:123456': the port must be at most 65535", 2),
    (["--bind", "localhost:http"], "bad address 'localhost:http': .* the port must be a number", 2),
    (["--broker", "inproc://b"], "bad endpoint 'inproc://b': inproc:// is for brokers and peers in one process.*", 2),
    (["--broker", "localhost"], "bad endpoint 'localhost': .*", 2),
    (["--timeout", "0"], "--timeout must be a number greater than 0, not 0.*", 2),
    (["--keep-alive", "0"], "--keep-alive must be a number greater than 0, not 0.*", 2),
    (["--client-timeout", "0"], "--client-timeout must be a number greater than 0, not 0.*", 2),
    (["--stop-timeout", "-1"], "--stop-timeout must be.*", 2),
    (["--workers", "0"], ".*--workers.*", 2),
    (["--cors-origin", "https://x/"], "--cors-origin must be.*, not 'https://x/'.*", 2),
    (["--safe", ""], "--safe must be names, not ''", 2),
    (["--safe", "y"], "--safe: 'y' is none of the exposed services.*", 2),
    (["--max-body", "-1"], "--max-body must be a whole number of at least 0, not -1.*", 2),
    (["--retries", "x"], ".*--retries.*'x' is not a valid integer.*", 2),
    (["--when-no-worker", "never"], ".*--when-no-worker.*never.*", 2),
    (["--ready-service", ""], "--ready-service must be names, not ''", 2),
    (["--service", ""], "--service must be names, not ''", 2),
    (["--server-key", "nowhere.key"], r"--server-key: cannot read nowhere\.key: .*", 2),
    (["--username", "me"], "--username needs --password-file.*", 2),
    (["--access-log", "nowhere/log"], "--access-log: cannot write nowhere/log: No such file or directory", 2),
    (["--access-log", "."], r"--access-log: cannot write \.: Is a directory", 2),
    (["--servce", "x"], ".*[Nn]o such option.*--servce.*", 2),
]


def test_a_refusal_gives_its_reason_in_one_line(tmp_path):
    commands = [["gateway"], *(["gateway", "--service", "x", *arguments] for arguments, _, _ in REFUSALS)]
    without_services, *refused = outcomes(commands, tmp_path)
    assert "--service" in without_services.one_line()
    assert without_services.status == 2
    for outcome, (arguments, pattern, status) in zip(refused, REFUSALS, strict=True):
        program, _, message = outcome.one_line().partition(": ")
        assert program.split()[0] == "gmdp"
        assert re.fullmatch(pattern, message), (arguments, message)
        assert outcome.status == status
