"""Keys, passwords and access rules on the command line, which prints no secret.

Where a broker or worker is involved, all are real processes.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
from typing import NamedTuple

import pytest
from processes import Process, gmdp, gmdp_here, only_line, outcomes
from waiting import wait_until

from gmdp import State, Worker
from gmdp.security import generate_keys
from gmdp.security.keys import public_key, secret_key
from gmdp.security.lists import UserFile, set_password

ANYWHERE = "tcp://127.0.0.1:*"
PASSWORD = "correct horse battery staple"
WRONG_PASSWORD = "wrong horse battery staple"

#: The names of all pairs of keys; "alice" and "worker" may connect.
NAMES = ("broker", "alice", "worker", "stranger")

ALICE = ("--curve-key", "alice.key_secret", "--server-key", "broker.key")
STRANGER = ("--curve-key", "stranger.key_secret", "--server-key", "broker.key")
BOB = ("--username", "bob", "--password-file", "password")

CONFIG = """
bind = "tcp://127.0.0.1:*"
curve_key = "env:KEY_OF_THE_BROKER"
curve_clients = "clients"

[[access]]
user = "worker"
serve = "*"

[[access]]
user = ["alice", "bob"]
call = ["open.*"]
inspect = "mmi.services"
"""


class Keys(NamedTuple):
    """The folder with all keys and files, and the secrets that must not be printed."""

    folder: object
    secrets: list

    def assert_not_in(self, *texts):
        """S7: assert that no text has a secret, or a secret without its ends."""
        assert [text for text in texts for secret in self.secrets if secret in text] == []


def fill(text, filled):
    """`text` with values in place of its {…}."""
    return re.sub(r"\{(\w+)\}", lambda found: filled[found[1]], text)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys and passwords")
    for name in NAMES:
        generate_keys(name, folder)
    (folder / "clients").mkdir()
    for name in ("alice", "worker"):
        shutil.copy(folder / f"{name}.key", folder / "clients")
    secrets = {name: secret_key(name, folder / f"{name}.key_secret")[1] for name in NAMES}
    (folder / "password").write_text(f"{PASSWORD}\nand a second line\n")
    (folder / "wrong password").write_text(WRONG_PASSWORD)
    set_password(folder / "users", "bob", PASSWORD)
    shutil.copy(folder / "alice.key_secret", folder / "loose.key_secret")
    (folder / "loose.key_secret").chmod(0o644)
    text = (folder / "alice.key_secret").read_bytes().replace(secrets["alice"], secrets["alice"][:-1])
    (folder / "truncated.key_secret").write_bytes(text)
    (folder / "access.toml").write_text(CONFIG)
    for name, (text, _) in WRONG_FILES.items():
        (folder / f"{name}.toml").write_text(fill(text, {"truncated": secrets["alice"].decode()[:-1]}) + "\n")
    hidden = [secret[1:-1] for secret in secrets.values()]
    return Keys(folder, [*hidden, PASSWORD.encode(), WRONG_PASSWORD.encode()])


@contextlib.contextmanager
def running(keys, *arguments, **variables):
    """A process that is ended at the end of the block; assert that it prints no secret."""
    with Process(*arguments, cwd=keys.folder, **variables) as process:
        yield process
        printed = bytes(process.out)
        process.signal(signal.SIGTERM)
        ended = process.ended()
        assert ended.status == 0, ended
        keys.assert_not_in(printed, ended.out, ended.err)


@pytest.fixture(scope="module")
def keyed(keys):
    """A broker for keys."""
    security = ("--curve-key", "broker.key_secret", "--curve-clients", "clients")
    with running(keys, "broker", "--bind", ANYWHERE, *security, "-vv") as process:
        yield process


@pytest.fixture(scope="module")
def keyed_endpoint(keyed):
    return keyed.listening()[0]


@pytest.fixture(scope="module")
def keyed_worker(keys, keyed_endpoint):
    """A worker of the service "upper" at that broker; the environment has all its options."""
    variables = {
        "GMDP_BROKER": keyed_endpoint,
        "GMDP_CURVE_KEY": "worker.key_secret",
        "GMDP_SERVER_KEY": "broker.key",
    }
    with running(keys, "worker", "upper", "--exec", "tr a-z A-Z", "-vv", **variables) as process:
        assert process.line() == f"serving upper for {keyed_endpoint}"
        yield process


@pytest.fixture(scope="module")
def named(keys):
    """A broker for names and passwords."""
    with running(keys, "broker", "--bind", ANYWHERE, "--plain-users", "users", "-vv") as process:
        yield process


@pytest.fixture(scope="module")
def named_endpoint(named):
    return named.listening()[0]


@pytest.fixture(scope="module")
def ruled_endpoint(keys):
    """A broker of CONFIG, and workers of two services, of which clients may call one."""
    secret = keys.folder.joinpath("broker.key_secret")
    with running(keys, "broker", "--config", "access.toml", "-vv", KEY_OF_THE_BROKER=str(secret)) as process:
        endpoint = process.listening()[0]
        security = {
            "curve_key": keys.folder / "worker.key_secret",
            "server_key": keys.folder / "broker.key",
        }
        with contextlib.ExitStack() as stack:
            for service in ("open.a", "closed"):
                worker = stack.enter_context(Worker(endpoint, service, lambda request: request.body, **security))
                wait_until(lambda worker=worker: worker.state is State.RUNNING)
            yield endpoint


# Commands that end at once: with brokers, in children of one process; without, in this process


class Run(NamedTuple):
    """A command line, {…} filled in, and how it ends."""

    arguments: tuple
    #: A pattern of the one line on standard error, or None if there is none.
    says: str | None = None
    out: bytes = b""
    status: int = 2


REFUSED = ".*the broker refused the connection: this key, password or address is not allowed"
OTHER_KEY = ".*the broker hung up in the handshake: it has another server key, or expects other security"
#: The client or the broker notices it first.
OTHER_SECURITY = ".*the broker .*expects .*"
NOT_SHOWN = ": .*not shown.*"

WITH_BROKERS = {
    "call with a key": Run(("call", "upper", "hello", "--broker", "{keyed}", *ALICE), None, b"HELLO", 0),
    "call with keys in Z85": Run(
        ("call", "upper", "a", "--broker", "{keyed}", "--curve-key", "{alice}", "--server-key", "{broker}"),
        None,
        b"A",
        0,
    ),
    "call with a loose file": Run(
        ("call", "upper", "a", "--broker", "{keyed}", "--curve-key", "loose.key_secret", "--server-key", "broker.key"),
        r"loose\.key_secret holds a secret key.*644.*chmod 600.*",
        b"A",
        0,
    ),
    "call with a wrong key": Run(("call", "upper", "a", "--broker", "{keyed}", *STRANGER), REFUSED, b"", 1),
    "call with a key made up": Run(
        ("call", "upper", "a", "--broker", "{keyed}", "--server-key", "broker.key"), REFUSED, b"", 1
    ),
    "call of another broker": Run(
        ("call", "upper", "a", "--broker", "{keyed}", *ALICE[:2], "--server-key", "alice.key"), OTHER_KEY, b"", 1
    ),
    "call without a key": Run(("call", "upper", "a", "--broker", "{keyed}"), OTHER_SECURITY, b"", 1),
    "call with a password": Run(("call", "upper", "a", "--broker", "{keyed}", *BOB), OTHER_SECURITY, b"", 1),
    "services with a wrong key": Run(("services", "--broker", "{keyed}", *STRANGER), REFUSED, b"", 1),
    "ping with a wrong key": Run(("ping", "--broker", "{keyed}", *STRANGER), REFUSED, b"", 1),
    "ping of 0.1 with a wrong key": Run(("ping", "--broker", "{keyed}", "--mdp", "0.1", *STRANGER), REFUSED, b"", 1),
    "services with a wrong password": Run(
        ("services", "--broker", "{named}", "--username", "bob", "--password-file", "wrong password"), REFUSED, b"", 1
    ),
    "services with a wrong name": Run(
        ("services", "--broker", "{named}", "--username", "carol", "--password-file", "password"), REFUSED, b"", 1
    ),
    "call that is allowed": Run(("call", "open.a", "x", "--broker", "{ruled}", *ALICE), None, b"x", 0),
    "call that is not allowed": Run(
        ("call", "closed", "x", "--broker", "{ruled}", *ALICE), r".*not allowed.*closed.*", b"", 1
    ),
    "ping that is not allowed": Run(("ping", "--broker", "{ruled}", *ALICE), ".*not allowed.*mmi.broker.*", b"", 1),
    "call with a wrong key where there are rules": Run(
        ("call", "open.a", "x", "--broker", "{ruled}", *STRANGER), REFUSED, b"", 1
    ),
    "a file and the command line have a half each": Run(
        ("broker", "--config", "half.toml", "--curve-key", "broker.key_secret", "--bind", "{busy}"),
        "cannot bind {busy}: Address already in use",
        b"",
        1,
    ),
}

WITHOUT_BROKERS = {
    "keygen": Run(("keygen", "made"), None, b"made.key (public), made.key_secret (keep it secret)\n", 0),
    "keygen twice, elsewhere": Run(("keygen", "alice", "--folder", "clients/.."), r"clients/\.\./alice\.key exists.*"),
    "keygen in a folder that is not there": Run(
        ("keygen", "a", "--folder", "nowhere"), "cannot write to 'nowhere': No such file or directory"
    ),
    "keygen of a path": Run(("keygen", "clients/a"), "a key's name must be .*'clients/a'"),
    "keygen twice": Run(("keygen", "alice"), "alice.key exists.*"),
    "keygen of nothing": Run(("keygen",), ".*[Mm]issing argument 'NAME'.*"),
    "passwd of nothing": Run(("passwd", "new users"), ".*[Mm]issing argument 'USER'.*"),
    "passwd without a password": Run(("passwd", "new users", "bob"), "a password is 1 to 255 bytes of UTF-8"),
    "call without the server's key": Run(
        ("call", "a", "b", "--curve-key", "alice.key_secret"), "--curve-key needs --server-key, .*"
    ),
    "call with both": Run(("call", "a", "b", *ALICE, *BOB), "a socket has either a key or a password: .*"),
    "call with a name": Run(
        ("call", "a", "b", "--username", "bob"), r"--username needs --password-file, or \$GMDP_PASSWORD"
    ),
    "call with a password for nobody": Run(
        ("call", "a", "b", "--password-file", "password"), "--password-file needs --username"
    ),
    "call with a password that is not there": Run(
        ("call", "a", "b", "--username", "bob", "--password-file", "nowhere"),
        "cannot read nowhere: No such file or directory",
    ),
    "call with an empty password": Run(
        ("call", "a", "b", "--username", "bob", "--password-file", "/dev/null"), "password must be a str of 1 to 255 .*"
    ),
    "call with a public key": Run(
        ("call", "a", "b", "--curve-key", "alice.key", "--server-key", "broker.key"),
        "--curve-key: alice.key holds no secret key.*",
    ),
    "call with a truncated key": Run(
        ("call", "a", "b", "--curve-key", "{truncated}", "--server-key", "broker.key"), "--curve-key" + NOT_SHOWN
    ),
    "call with a truncated key for the server's": Run(
        ("call", "a", "b", "--server-key", "{truncated}"), "--server-key" + NOT_SHOWN
    ),
    "services with a truncated file": Run(
        ("services", "--curve-key", "truncated.key_secret", "--server-key", "broker.key"),
        "--curve-key: truncated.key_secret holds no key; .*",
    ),
    "worker with a truncated variable": Run(
        ("worker", "a", "--exec", "cat", "--curve-key", "env:{truncated}", "--server-key", "broker.key"),
        "--curve-key: the environment has no variable of that name",
    ),
    "worker with no such file": Run(
        ("worker", "a", "--exec", "cat", "--curve-key", "no.key_secret", "--server-key", "broker.key"),
        "--curve-key: cannot read no.key_secret: No such file or directory",
    ),
    "broker with half of it": Run(
        ("broker", "--curve-key", "broker.key_secret"), "--curve-key needs --curve-clients: .*"
    ),
    "broker with the other half": Run(
        ("broker", "--curve-clients", "clients"), "--curve-clients needs --curve-key, .*"
    ),
    "broker with a truncated key": Run(
        ("broker", "--curve-key", "{truncated}", "--curve-clients", "*"), "--curve-key" + NOT_SHOWN
    ),
    "broker with a truncated key and a file": Run(
        ("broker", "--curve-key", "{truncated}", "--config", "half.toml"), "--curve-key" + NOT_SHOWN
    ),
    "broker with keys and passwords": Run(
        ("broker", "--curve-key", "broker.key_secret", "--curve-clients", "clients", "--plain-users", "users"),
        ".*either keys or passwords.*",
    ),
    "broker without its users": Run(("broker", "--plain-users", "nowhere"), "--plain-users: cannot read nowhere: .*"),
    "broker with a password for a user": Run(
        ("broker", "--plain-users", "password"), "--plain-users: password: line 1 must be NAME:HASH, .*"
    ),
    "broker for a name": Run(
        ("broker", "--allow", "127.0.0.1", "--allow", "localhost"),
        "--allow: an address must be like .*, not 'localhost'",
    ),
    "broker on inproc": Run(("broker", "--deny", "127.0.0.1", "--bind", "inproc://a"), "on inproc:// .*"),
}

KNOWN = "user, serve, call, inspect"

#: By name, a broker's file, and a pattern of the error.
WRONG_FILES = {
    "access_words": ('access = "all"', f"access must be a list of tables with {KNOWN}, not 'all'"),
    "access_table": ('[access]\nuser = "*"\ncall = "*"', f"access must be a list of tables with {KNOWN}, not .*"),
    "access_list": ("access = [5]", rf"access\[0\] must be a table with {KNOWN}, not 5"),
    "access_user": (
        '[[access]]\ncall = "*"',
        r"access\[0\]\.user must be a pattern or a list of patterns, not None",
    ),
    "access_key": (
        '[[access]]\nuser = "*"\ncall = "*"\n\n[[access]]\nuser = "*"\ncalls = "*"',
        rf"access\[1\]: unknown 'calls'; known are: {KNOWN}",
    ),
    "access_nothing": (
        '[[access]]\nuser = "*"',
        r"access\[0\] allows nothing: it needs one of serve, call, inspect",
    ),
    "access_number": (
        '[[access]]\nuser = "*"\ncall = 5',
        r"access\[0\]\.call must be a pattern or a list of patterns, not 5",
    ),
    "access_empty": (
        '[[access]]\nuser = []\ncall = "*"',
        r"access\[0\]\.user must be a pattern or a list of patterns, not \[\]",
    ),
    "option": ('curve_keys = "broker.key_secret"', r"unknown option 'curve_keys'; did you mean 'curve_key'\?"),
    "truncated": ('curve_key = "{truncated}"\ncurve_clients = "clients"', "curve_key" + NOT_SHOWN),
    "variable": (
        'curve_key = "env:NOT_SET"\ncurve_clients = "clients"',
        "curve_key: the environment has no variable 'NOT_SET'",
    ),
    "folder": (
        'curve_key = "broker.key_secret"\ncurve_clients = "nowhere"',
        "curve_clients: nowhere is not a folder",
    ),
    "half": ('curve_clients = "clients"', "curve_clients needs curve_key, the broker's own secret key"),
    "passwords": (
        f'[plain_users]\nbob = "{PASSWORD}"',
        "plain_users must be a file or a callable, not of type dict",
    ),
    "numbers": ("allow = 5", "allow: an address must be like .*, not 5"),
    "network": ('deny = ["192.0.2.1/24"]', "deny: an address must be like .*, not '192.0.2.1/24'"),
    "syntax": (f'curve_key = "{PASSWORD}', "is not valid TOML: .*line 1.*"),
}

WITHOUT_BROKERS.update(
    (f"broker: {name}.toml", Run(("broker", "--config", f"{name}.toml"), rf"{name}\.toml:? {line}"))
    for name, (_, line) in WRONG_FILES.items()
)

RUNS = {**WITHOUT_BROKERS, **WITH_BROKERS}


@pytest.fixture(scope="module")
def filled(keys):
    """The values of the {…} of command lines."""
    pairs = {name: secret_key(name, keys.folder / f"{name}.key_secret") for name in NAMES}
    alice = pairs["alice"][1].decode()
    return {"alice": alice, "broker": pairs["broker"][0].decode(), "truncated": alice[:-1]}


@pytest.fixture(scope="module")
def ended(keys, filled, keyed_endpoint, keyed_worker, named_endpoint, ruled_endpoint):
    """How each of RUNS ended."""
    busy = socket.create_server(("127.0.0.1", 0))
    with busy:
        filled.update(keyed=keyed_endpoint, named=named_endpoint, ruled=ruled_endpoint)
        filled["busy"] = f"tcp://127.0.0.1:{busy.getsockname()[1]}"
        commands = [[fill(argument, filled) for argument in run.arguments] for run in WITH_BROKERS.values()]
        ended = dict(zip(WITH_BROKERS, outcomes(commands, keys.folder), strict=True))
    for name, run in WITHOUT_BROKERS.items():
        ended[name] = gmdp_here(*(fill(argument, filled) for argument in run.arguments), cwd=keys.folder)
    return ended


@pytest.mark.parametrize("name", RUNS)
def test_each_ends_with_its_output_and_at_most_one_line(ended, filled, name):
    run, done = RUNS[name], ended[name]
    assert (done.status, done.out) == (run.status, run.out), done
    if run.says is None:
        assert done.err == b""
        return
    line = only_line(done.err)
    program, _, message = line.partition(": ") if run.status else ("gmdp", "", line)
    assert program.split()[0] == "gmdp"
    assert re.fullmatch(fill(run.says, filled), message), line


@pytest.mark.parametrize("name", [name for name, run in WITH_BROKERS.items() if " wrong " in name])
def test_a_wrong_key_or_password_is_told_quickly(ended, name):
    """The error comes long before the call's timeout."""
    seconds = re.search(rb"authentication failed: .* after ([0-9.]+) s and 1 try: ", ended[name].err)[1]
    assert float(seconds) < 15


@pytest.mark.parametrize("name", RUNS)
def test_s7_none_prints_a_secret(keys, ended, name):
    """S7: neither a right secret nor a wrong one."""
    keys.assert_not_in(ended[name].out, ended[name].err)


def test_keygen_writes_a_public_and_a_secret_file(keys, ended):
    public, secret = keys.folder / "made.key", keys.folder / "made.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) in (0o644, 0o640, 0o600)  # what the umask allows
    made = secret_key("k", secret)
    assert public_key("k", public) == made[0]
    assert made[1] not in ended["keygen"].out


def test_what_was_refused_left_no_file(keys, ended):
    assert not (keys.folder / "new users").exists()
    assert not (keys.folder / "a.key").exists()


# The environment and standard input


def test_services_and_ping_with_keys_of_the_environment(keys, keyed_endpoint, keyed_worker):
    variables = {
        "GMDP_BROKER": keyed_endpoint,
        "GMDP_CURVE_KEY": secret_key("k", keys.folder / "alice.key_secret")[1].decode(),
        "GMDP_SERVER_KEY": "broker.key",
    }
    commands = [["services"], ["ping"], ["ping", "--mdp", "0.1"], ["call", "upper", "b"], ["ping", *STRANGER]]
    services, ping, ping_0_1, call, stranger = outcomes(commands, keys.folder, **variables)
    assert (services.status, services.err) == (0, b"")
    assert "upper" in services.out.decode()
    for each in (ping, ping_0_1):
        assert (each.status, each.err) == (0, b"")
        assert each.out.decode().startswith(f"{keyed_endpoint}: gmdp ")
    assert call == (0, b"B", b"")
    # The command line overrides the environment.
    assert stranger.status == 1
    assert re.fullmatch(REFUSED, stranger.one_line())
    keys.assert_not_in(*(text for each in (services, ping, ping_0_1, call, stranger) for text in each[1:]))


def test_passwords_of_the_environment_and_of_files(keys, named_endpoint):
    variables = {"GMDP_BROKER": named_endpoint, "GMDP_USERNAME": "bob", "GMDP_PASSWORD": PASSWORD}
    commands = [["ping"], ["services"], ["ping", "--password-file", "wrong password"], ["ping", "--username", "carol"]]
    ping, services, wrong, other = outcomes(commands, keys.folder, **variables)
    for each in (ping, services):
        assert (each.status, each.err) == (0, b"")
    for each in (wrong, other):
        assert each.status == 1
        assert re.fullmatch(REFUSED, each.one_line())
    variables["GMDP_PASSWORD"] = WRONG_PASSWORD
    [file] = outcomes([["ping", "--password-file", "password"]], keys.folder, **variables)
    assert (file.status, file.err) == (0, b"")
    keys.assert_not_in(*(text for each in (ping, services, wrong, other, file) for text in each[1:]))


def test_passwd_reads_standard_input(keys, tmp_path):
    file = tmp_path / "users"
    # No user could ever log in with bytes that are no UTF-8.
    bad = gmdp("passwd", file, "bob", stdin=b"\xff" + PASSWORD.encode() + b"\n")
    assert bad.status == 2
    assert bad.one_line() == "gmdp: a password is 1 to 255 bytes of UTF-8"
    assert list(tmp_path.iterdir()) == []
    done = gmdp("passwd", file, "bob", stdin=PASSWORD.encode() + b"\r\nmore\n")
    assert done == (0, b"", b"")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert UserFile(file).hashes["bob"].matches(PASSWORD)
    keys.assert_not_in(bad.err, file.read_bytes())


# Processes that go on


def test_a_worker_with_a_wrong_key_says_so_once_and_tries_on(keys, keyed, keyed_endpoint):
    with Process("worker", "upper", "--exec", "cat", "--broker", keyed_endpoint, *STRANGER, cwd=keys.folder) as process:
        process.log(b"not allowed\n")
        key = secret_key("k", keys.folder / "stranger.key_secret")[0]
        tries = keyed.log(b"connection_refused user='" + key).count(key)
        keyed.log(key, tries + 1)
        process.signal(signal.SIGTERM)
        done = process.ended()
    assert (done.status, done.out) == (0, b"")
    assert re.search("WARNING gmdp.worker: worker of 'upper': " + REFUSED, only_line(done.err))
    keys.assert_not_in(done.err)


def test_s7_a_broker_and_a_worker_that_log_everything_log_no_secret(keys, ended, keyed, keyed_worker, named):
    """S7: for connections that were let in or refused.  The log names the user or the public key."""
    stranger = secret_key("k", keys.folder / "stranger.key_secret")[0]
    of_keys = keyed.log(b"connection_refused")
    assert b"DEBUG gmdp.broker: registered 'upper'" in of_keys
    assert b"connection_refused user='" + stranger in of_keys
    of_passwords = named.log(b"user='carol' address='127.0.0.1' reason='password'")
    assert b"connection_refused user='bob' address='127.0.0.1' reason='password'" in of_passwords
    of_worker = keyed_worker.log(b"connecting -> running")
    keys.assert_not_in(of_keys, of_passwords, of_worker)
