"""Credentials of clients and workers: which keywords go together, and what a socket is set to."""

import pytest
import zmq
from secured import PASSWORD, PUBLIC, SECRET, SERVER_PUBLIC, assert_shows_no_secret, refusal_of

from gmdp import AsyncClient, Broker, Client, Worker
from gmdp.security.credentials import make_credentials
from gmdp.security.lists import set_password
from gmdp.security.passwords import MAX_PASSWORD

TCP = "tcp://127.0.0.1:5555"


def handler(request):
    return b""


CONNECTING = {
    "Client": lambda endpoint=TCP, **keywords: Client(endpoint, **keywords),
    "AsyncClient": lambda endpoint=TCP, **keywords: AsyncClient(endpoint, **keywords),
    "Worker": lambda endpoint=TCP, **keywords: Worker(endpoint, "a", handler, **keywords),
}


KEY = {"curve_key": SECRET, "server_key": SERVER_PUBLIC}


NAME = {"username": "alice", "password": PASSWORD}


WRONG_KEYWORDS = {
    "name alone": ({"username": "alice"}, "username and password"),
    "password alone": ({"password": PASSWORD}, "username and password"),
    "name and keys": ({"username": "alice", **KEY}, "username and password"),
    "password and keys": ({"password": PASSWORD, **KEY}, "username and password"),
    "password and key": ({"password": PASSWORD, "curve_key": SECRET}, "username and password"),
    "both": ({**NAME, **KEY}, "leave out curve_key or username"),
    "both, one key": (
        {**NAME, "curve_key": SECRET},
        "leave out curve_key or username",
    ),
    "both, server's key": (
        {**NAME, "server_key": SERVER_PUBLIC},
        "leave out curve_key or username",
    ),
    "no server's key": (
        {"curve_key": SECRET},
        "curve_key needs server_key",
    ),
    "empty name": ({**NAME, "username": ""}, "username must be a str"),
    "empty password": ({**NAME, "password": ""}, "password must be a str"),
    "long name": ({**NAME, "username": "x" * 256}, "username must be a str"),
    "long password": ({**NAME, "password": PASSWORD * 10}, "password must be a str"),
    "nul": ({**NAME, "password": PASSWORD + "\0"}, "password must be a str"),
    "not UTF-8": ({**NAME, "password": PASSWORD + "\ud800"}, "password must be a str"),
    "bytes": ({**NAME, "password": PASSWORD.encode()}, "password must be a str"),
    "number": ({**NAME, "username": 5}, "username must be a str"),
}


@pytest.mark.parametrize("name", WRONG_KEYWORDS)
@pytest.mark.parametrize("kind", CONNECTING)
def test_wrong_keywords_are_refused(kind, name):
    keywords, fact = WRONG_KEYWORDS[name]
    assert fact in refusal_of(CONNECTING[kind], **keywords)


@pytest.mark.parametrize("keywords", [KEY, NAME, {"server_key": SERVER_PUBLIC}], ids=["keys", "password", "server"])
@pytest.mark.parametrize("endpoint", ["inproc://a", [TCP, "inproc://a"]], ids=repr)
@pytest.mark.parametrize("kind", CONNECTING)
def test_credentials_are_refused_on_inproc(kind, endpoint, keywords):
    assert "inproc" in refusal_of(CONNECTING[kind], endpoint, **keywords)


def test_inproc_needs_no_credentials():
    for make in CONNECTING.values():
        make("inproc://a")


def test_without_keywords_there_are_no_credentials():
    assert make_credentials([TCP], None, None, None, None) is None


def test_keys_are_refused_where_libzmq_has_no_curve(monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    assert "without CURVE" in refusal_of(Client, TCP, **KEY)
    assert "without CURVE" in refusal_of(Broker, TCP, curve_key=SECRET, curve_clients="*")
    Client(TCP, **NAME)


class FakeSocket:
    """Remembers the options that are set."""

    def __init__(self):
        self.options = {}

    def set(self, option, value):
        self.options[option] = value


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        (
            (SECRET, SERVER_PUBLIC, None, None),
            {zmq.CURVE_PUBLICKEY: PUBLIC, zmq.CURVE_SECRETKEY: SECRET, zmq.CURVE_SERVERKEY: SERVER_PUBLIC},
        ),
        (
            (None, None, "größe", "x" * MAX_PASSWORD),
            {zmq.PLAIN_USERNAME: "größe".encode(), zmq.PLAIN_PASSWORD: b"x" * MAX_PASSWORD},
        ),
    ],
    ids=["keys", "password"],
)
def test_credentials_set_the_options_of_a_socket(keywords, options):
    socket = FakeSocket()
    make_credentials([TCP, "ipc://a"], *keywords).apply(socket)
    assert socket.options == options


def test_with_the_servers_key_alone_a_new_pair_is_made():
    made = []
    for _ in range(2):
        socket = FakeSocket()
        make_credentials([TCP], None, SERVER_PUBLIC, None, None).apply(socket)
        assert socket.options[zmq.CURVE_SERVERKEY] == SERVER_PUBLIC
        assert zmq.curve_public(socket.options[zmq.CURVE_SECRETKEY]) == socket.options[zmq.CURVE_PUBLICKEY]
        made.append(socket.options[zmq.CURVE_PUBLICKEY])
    assert made[0] != made[1]


@pytest.mark.parametrize("kind", CONNECTING)
@pytest.mark.parametrize("keywords", [KEY, NAME], ids=["keys", "password"])
def test_s7_clients_and_workers_do_not_show_their_secrets(unused_endpoint, kind, keywords):
    """S7: neither before they run nor while they do."""
    peer = CONNECTING[kind](unused_endpoint, **keywords)
    assert_shows_no_secret(peer)
    assert_shows_no_secret(peer._credentials)
    with peer:
        assert_shows_no_secret(peer)
    assert_shows_no_secret(peer)


@pytest.mark.parametrize(
    ("endpoint", "clear"),
    [
        ("tcp://127.0.0.1:5555", False),
        ("tcp://localhost:5555", False),
        ("tcp://[::1]:5555", False),
        ("ipc:///run/broker", False),
        ("tcp://192.0.2.1:5555", True),
        ("tcp://localhost.example:5555", True),
    ],
)
def test_clear_passwords_give_a_warning(caplog, users_file, endpoint, clear):
    """At either end, without the password; not on the machine itself, and not with keys."""
    set_password(users_file, "alice", PASSWORD)
    Broker(endpoint, plain_users=users_file)
    Client(endpoint, username="alice", password=PASSWORD)
    Client(endpoint, server_key=PUBLIC)
    assert len(caplog.records) == (2 if clear else 0)
    assert PASSWORD not in caplog.text
    Broker("tcp://*:5555", plain_users=users_file)
    assert "tcp://*:5555" in caplog.records[-1].getMessage()
