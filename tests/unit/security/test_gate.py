"""A gate: its options, its replies to ZAP requests, and the users of keys and passwords."""

import gevent
import gevent.event
import pytest
import zmq
import zmq.auth
import zmq.green
from secured import (
    KEYS,
    PASSWORD,
    SECRET,
    SERVER_SECRET,
    GateHost,
    assert_shows_no_secret,
    make_gate,
    refusal_of,
    replace_file,
)
from waiting import wait_until

from gmdp import Broker
from gmdp.core.broker.access import REVOKED
from gmdp.io.slots import allocate_lock
from gmdp.security import generate_keys, hash_password
from gmdp.security.gate import Gate, RefusalReason, credential_owner
from gmdp.security.lists import password_credential
from gmdp.security.passwords import read_hash

RAW_KEY = bytes.fromhex("bb88471d65e2659b30c55a5321cebb5aab2b70a398645c26dca2b2fcb43fc518")
KEY = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"

HEAD = (b"1.0", b"\0\xff", b"gmdp", b"192.0.2.1", b"")
NULL = (*HEAD, b"NULL")
PLAIN = (*HEAD, b"PLAIN", b"admin", b"secret")
CURVE = (*HEAD, b"CURVE", RAW_KEY)

#: A gate of each mechanism, and the request that it allows.
HOSTS = {
    "NULL": (lambda: GateHost(allow="192.0.2.1"), NULL),
    "PLAIN": (lambda: GateHost(plain_users=lambda name, password: (name, password) == ("admin", "secret")), PLAIN),
    "CURVE": (lambda: GateHost(curve_key=SECRET, curve_clients="*"), CURVE),
}


@pytest.mark.parametrize("mechanism", HOSTS)
def test_a_request_is_allowed_byte_by_byte(mechanism):
    make, request = HOSTS[mechanism]
    host = make()
    assert host.ask(*request) == ("200", "")
    user_id = {"NULL": b"", "PLAIN": b"admin", "CURVE": KEY.encode()}[mechanism]
    assert host.replies == [[b"route", b"", b"1.0", b"\0\xff", b"200", b"OK", user_id, b""]]


@pytest.mark.parametrize("mechanism", HOSTS)
def test_odd_requests_are_refused_as_malformed(mechanism):
    """Wrong versions, domains and counts, and what is not text: a refusal each, and no exception."""
    make, request = HOSTS[mechanism]
    host = make()
    odd = [
        *(request[:count] for count in range(len(HEAD) + 1)),
        *((version, *request[1:]) for version in (b"", b"2.0", b"1.0\0")),
        *((*request[:2], domain, *request[3:]) for domain in (b"", b"other", b"x" * 256)),
        *((*request[:3], address, *request[4:]) for address in (b"\xff", b"x" * 256)),
        (*request[:4], b"x" * 256, *request[5:]),
        (*request[:5], b"", *request[6:]),
        (*request, b"one frame more"),
        (*request, *[b""] * 10),
        (b"",) * 6,
        (b"\xff",) * 8,
    ]
    if mechanism != "NULL":
        odd.append(request[:-1])
    if mechanism == "CURVE":
        odd.append((*request[:-1], b"\xff"))
    assert {frames: host.ask(*frames) for frames in odd} == dict.fromkeys(odd, ("400", "malformed"))
    assert host.ask(*request) == ("200", "")


@pytest.mark.parametrize("frames", [[], [b""], [b"route"], [b"route", b"x", *CURVE]], ids=len)
def test_frames_without_an_envelope_are_refused(frames):
    host = HOSTS["CURVE"][0]()
    host.gate.on_zap_request(frames, 0.0)
    [refused], [reply] = host.refused, host.replies
    assert (refused.reason, refused.claimed_user, reply[1], reply[4]) == (RefusalReason.MALFORMED, "", b"", b"400")


@pytest.mark.parametrize("mechanism", [b"NULL", b"PLAIN", b"GSSAPI", b"other"])
def test_another_mechanism_than_the_gates_own_is_refused(mechanism):
    """libzmq does not ask so; should it, no connection comes in without a user."""
    host = HOSTS["CURVE"][0]()
    assert host.ask(*HEAD, mechanism, b"a", b"b") == ("400", "mechanism")
    assert host.gate.user_of("") == REVOKED


def test_the_checks_are_made_in_their_order():
    """Form, number of connections, address, mechanism, password."""
    host = GateHost(plain_users=lambda name, password: None, deny="192.0.2.1")
    host.connections = 10
    elsewhere = (b"192.0.2.2", b"")
    assert host.ask(b"2.0", *HEAD[1:], b"other") == ("400", "malformed")
    assert host.ask(*HEAD, b"other") == ("300", "connections_full")
    host.connections = 9
    assert host.ask(*HEAD, b"other") == ("400", "address")
    assert host.ask(*HEAD[:3], *elsewhere, b"other") == ("400", "mechanism")
    assert host.ask(*HEAD[:3], *elsewhere, b"PLAIN", b"admin") == ("400", "malformed")
    assert host.ask(*HEAD[:3], *elsewhere, b"PLAIN", b"admin", b"secret") == ("400", "password")


def test_a_check_that_fails_is_refused_for_now_and_names_the_user():
    def check(name, password):
        raise RuntimeError(password)

    host = GateHost(plain_users=check)
    host.gate.on_zap_request([b"route", b"", *HEAD, b"PLAIN", b"x" * 255, b"secret"], 0.0)
    wait_until(lambda: host.replies)
    [refused] = host.refused
    assert (refused.reason, refused.claimed_user) == (RefusalReason.CHECK_FAILED, "x" * 100)
    assert host.replies[0][4:] == [b"300", RefusalReason.CHECK_FAILED.text.encode(), b"", b""]


def test_checks_that_cannot_wait_are_refused_for_now():
    go = gevent.event.Event()
    host = GateHost(curve_key=SECRET, curve_clients=lambda key: go.wait() and "user")
    count = host.gate.max_calls + host.gate.max_waiting + 3
    for _ in range(count):
        host.gate.on_zap_request([b"route", b"", *CURVE], 0.0)
        gevent.sleep(0)
    assert [refused.reason for refused in host.refused] == [RefusalReason.BUSY] * 3
    assert {reply[4] for reply in host.replies} == {b"300"}
    go.set()
    wait_until(lambda: len(host.replies) == count)
    assert [reply[4] for reply in host.replies].count(b"200") == count - 3


def test_every_reason_has_a_text_that_a_reply_may_hold():
    assert {reason.value for reason in RefusalReason if reason.temporary} == {
        "connections_full",
        "busy",
        "check_failed",
    }
    for reason in RefusalReason:
        assert 0 < len(reason.text.encode("ascii")) <= 255


# Options


def test_s2_a_key_without_a_list_of_clients_is_refused():
    """S2: a list that is left out by mistake does not let everybody in; only "*" does."""
    for make in (make_gate, Broker):
        assert refusal_of(make, curve_key=SECRET).startswith("curve_key needs curve_clients")
        make(curve_key=SECRET, curve_clients="*")


WRONG_OPTIONS = {
    "clients without a key": (
        {"curve_clients": "*"},
        "curve_clients needs curve_key",
    ),
    "keys and passwords": (
        {"curve_key": SECRET, "curve_clients": "*", "plain_users": lambda name, password: True},
        "leave out curve_key or plain_users",
    ),
    "key and passwords": (
        {"curve_key": SECRET, "plain_users": lambda name, password: True},
        "leave out curve_key or plain_users",
    ),
    "clients and passwords": (
        {"curve_clients": "*", "plain_users": lambda name, password: True},
        "curve_clients needs curve_key",
    ),
    "no name of a folder": (
        {"curve_key": SECRET, "curve_clients": ""},
        "curve_clients is empty",
    ),
    "no name of a file": ({"plain_users": ""}, "plain_users is empty"),
    "no folder": ({"curve_key": SECRET, "curve_clients": "nowhere"}, "curve_clients: nowhere "),
    "clients of another type": (
        {"curve_key": SECRET, "curve_clients": 5},
        "not of type int",
    ),
    "a list of clients": (
        {"curve_key": SECRET, "curve_clients": []},
        "not of type list",
    ),
    "no file of users": ({"plain_users": "nowhere"}, "nowhere: No such file or directory"),
    "passwords": (
        {"plain_users": {"alice": PASSWORD}},
        "not of type dict",
    ),
    "a client's key": (
        {"curve_key": SERVER_SECRET, "curve_clients": SECRET},
        "not of type bytes",
    ),
    "no key": (
        {"curve_key": 5, "curve_clients": "*"},
        "curve_key must ",
    ),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
@pytest.mark.parametrize("make", [make_gate, Broker])
def test_wrong_options_of_a_gate_are_refused(tmp_path, monkeypatch, make, name):
    monkeypatch.chdir(tmp_path)
    keywords, fact = WRONG_OPTIONS[name]
    assert fact in refusal_of(make, **keywords)


def test_a_gate_takes_lists_callables_and_paths(folder, users_file, hashes):
    replace_file(users_file, f"alice:{hashes[0]}\n")
    check = {}.get
    for keywords, authenticates in (
        ({"curve_key": SECRET, "curve_clients": folder.path}, True),
        ({"curve_key": SECRET, "curve_clients": str(folder.path)}, True),
        ({"curve_key": SECRET, "curve_clients": check}, True),
        ({"plain_users": users_file}, True),
        ({"plain_users": str(users_file)}, True),
        ({"plain_users": check}, True),
        ({"allow": ["ipc"]}, False),
    ):
        assert make_gate(**keywords).authenticates is authenticates
        assert Broker("tcp://127.0.0.1:*", **keywords).secured
    assert not Broker("tcp://127.0.0.1:*").secured


def test_a_secured_broker_takes_no_inproc_and_no_context():
    message = refusal_of(Broker, ["tcp://127.0.0.1:*", "inproc://a"], allow="127.0.0.1")
    assert "inproc" in message
    message = refusal_of(Broker, context=zmq.green.Context.instance(), allow="127.0.0.1")
    assert "leave out context" in message


def test_the_user_of_a_credential(folder, users_file, hashes):
    """The user that is listed, else nobody; without a list, the credential itself."""
    folder.put("alice.key", KEYS[0])
    listed = make_gate(curve_key=SECRET, curve_clients=folder.path)
    assert listed.key_credential(KEYS[0].decode()) == KEYS[0].decode()
    assert listed.user_of(KEYS[0].decode()) == "alice"
    assert listed.key_credential(KEYS[1].decode()) == ""
    assert listed.user_of(KEYS[1].decode()) == REVOKED
    anybody = make_gate(curve_key=SECRET, curve_clients="*")
    assert anybody.user_of(anybody.key_credential(KEYS[1].decode())) == KEYS[1].decode()
    replace_file(users_file, f"alice:{hashes[0]}\n")
    named = make_gate(plain_users=users_file)
    assert named.user_of(password_credential("alice", read_hash(hashes[0]))) == "alice"
    assert named.user_of(password_credential("alice", read_hash(hashes[1]))) == REVOKED


@pytest.mark.parametrize(
    ("answer", "user"),
    [(True, "the key"), ("alice", "alice"), (None, ""), (False, ""), ("", ""), (0, ""), ([], "")],
    ids=repr,
)
def test_the_answers_of_a_callable(answer, user):
    checked = make_gate(curve_key=SECRET, curve_clients=lambda key: answer)
    assert checked.key_credential("the key") == user
    checked = make_gate(plain_users=lambda name, password: answer)
    assert checked.password_credential("the key", PASSWORD) == user


@pytest.mark.parametrize("answer", [5, 1, b"alice", ["alice"], "a\nb", "\0revoked", "x" * 256], ids=repr)
def test_an_answer_that_can_be_no_user_is_an_error(answer):
    with pytest.raises(ValueError, match="must return a user's name, True, or something false"):
        make_gate(curve_key=SECRET, curve_clients=lambda key: answer).key_credential("the key")


@pytest.mark.parametrize(
    "keywords",
    [{"curve_key": SECRET, "curve_clients": "*"}, {"plain_users": lambda name, password: password == PASSWORD}],
    ids=["keys", "password"],
)
def test_s7_a_broker_does_not_show_its_secret(keywords):
    """S7: nor do its gate, its options and its statistics."""
    assert_shows_no_secret(make_gate(**keywords))
    broker = Broker("tcp://127.0.0.1:*", **keywords)
    assert_shows_no_secret(broker)
    with broker:
        assert_shows_no_secret(broker)
        assert_shows_no_secret(broker.options)
        assert_shows_no_secret(broker.statistics())
        assert_shows_no_secret(broker._gate)


def test_a_list_that_changed_while_the_broker_was_stopped_is_loaded_at_the_start(tmp_path):
    """A removed key is not allowed for a moment."""
    generate_keys("broker", tmp_path)
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    generate_keys("alice", allowed)
    broker = Broker("tcp://127.0.0.1:*", curve_key=tmp_path / "broker.key_secret", curve_clients=allowed)
    (allowed / "alice.key").unlink()
    with broker:
        assert broker._gate.key_credential(zmq.auth.load_certificate(allowed / "alice.key_secret")[0].decode()) == ""


@pytest.mark.parametrize(
    ("name", "password"),
    [("eve", ""), ("", "x"), ("\ufffd", "x"), ("eve", "x\ufffd"), ("a\nb", "x"), ("eve", "x\0"), ("x" * 256, "x")],
    ids=repr,
)
def test_a_callable_is_not_asked_about_odd_names_and_passwords(name, password):
    """Not about an empty password, which some directories take for anybody's, nor about U+FFFD."""
    calls = []
    assert make_gate(plain_users=lambda *both: calls.append(both) or True).password_credential(name, password) == ""
    assert calls == []


# Lists that change, and the end


@pytest.fixture
def opened():
    """A function: a host whose gate is open, until the test ends."""
    hosts = []

    def opened(**options):
        hosts.append(GateHost(interval=0.02, **options))
        return hosts[-1]

    yield opened
    for host in hosts:
        host.gate.close()


def test_a_changed_folder_is_adopted_and_its_users_are_revoked(folder, opened):
    folder.put("alice.key", KEYS[0])
    folder.put("bob.key", KEYS[1])
    host = opened(curve_key=SECRET, curve_clients=folder.path)
    assert host.ask(*CURVE) == ("200", "")
    folder.put("alice.key", KEYS[2])
    wait_until(lambda: host.revoked)
    assert host.revoked == [{"alice"}]
    assert host.ask(*CURVE) == ("400", "key")
    assert host.gate.user_of(KEYS[2].decode()) == "alice"
    (folder.path / "bob.key").unlink()
    wait_until(lambda: len(host.revoked) == 2)
    assert host.revoked[1] == {"bob"}


def test_a_list_whose_reading_fails_allows_nobody(folder, opened, monkeypatch, caplog):
    folder.put("alice.key", KEYS[0])
    host = opened(curve_key=SECRET, curve_clients=folder.path)

    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(host.gate._list, "poll", fail)
    wait_until(lambda: host.revoked)
    assert host.revoked == [{"alice"}]
    assert host.ask(*CURVE) == ("400", "key")
    assert str(folder.path) in caplog.text


def test_names_and_passwords_of_a_file_are_checked(users_file, opened, monkeypatch):
    """An unknown name is checked like a known one; a right password is remembered."""
    monkeypatch.setattr(Gate, "max_verified", 1)
    replace_file(users_file, "".join(f"{name}:{hash_password(name[::-1])}\n" for name in ("alice", "bob")))
    host = opened(plain_users=users_file)
    for _ in range(2):
        for name in (b"alice", b"bob"):
            assert host.ask(*HEAD, b"PLAIN", name, name[::-1]) == ("200", "")
            assert host.gate.user_of(host.replies[-1][6].decode()) == name.decode()
            assert host.ask(*HEAD, b"PLAIN", name, b"wrong") == ("400", "password")
    assert host.ask(*HEAD, b"PLAIN", b"carol", b"lorac") == ("400", "password")


class Threads:
    """In place of a gate's threads: each check waits for `go`, and is noted when it begins."""

    def __init__(self):
        self.go = gevent.event.Event()
        self.begun = []

    def apply(self, function, arguments):
        self.begun.append(arguments)
        self.go.wait()
        return arguments == ("right",)

    def kill(self):
        pass


def in_threads(host):
    """Have the gate of `host` check passwords in `Threads`, which are returned."""
    pools, threads = host.gate._pools, Threads()
    if "passwords" in pools:
        pools["passwords"].kill()
    pools["passwords"] = threads
    return threads


def crowd(host, count=150):
    """Ask with `count` wrong passwords; the gate's replies are to come."""
    for number in range(count):
        host.gate.on_zap_request([b"route", b"", *HEAD, b"PLAIN", b"stranger%d" % number, b"wrong"], 0.0)


def test_X6_whose_password_was_right_before_does_not_wait_behind_strangers(users_file, opened):
    replace_file(users_file, f"alice:{hash_password('right')}\n")
    host = opened(plain_users=users_file)
    assert host.ask(*HEAD, b"PLAIN", b"alice", b"right") == ("200", "")
    threads = in_threads(host)
    crowd(host)
    wait_until(lambda: len(threads.begun) == host.gate.max_password_checks)
    replies = len(host.replies)
    host.gate.on_zap_request([b"route", b"", *HEAD, b"PLAIN", b"alice", b"right"], 0.0)
    assert [reply[4] for reply in host.replies[replies:]] == [b"200"]  # without a turn of the hub
    host.gate.on_zap_request([b"route", b"", *HEAD, b"PLAIN", b"alice", b"wrong"], 0.0)
    assert len(host.replies) == replies + 1
    # A password that was right once is wrong when it has changed.
    host.gate._hashes = {"alice": read_hash(hash_password("new"))}
    host.gate.on_zap_request([b"route", b"", *HEAD, b"PLAIN", b"alice", b"right"], 0.0)
    assert len(host.replies) == replies + 1


def test_X6_a_user_of_the_list_comes_before_the_strangers_of_its_address(users_file, opened):
    replace_file(users_file, f"alice:{hash_password('right')}\n")
    host = opened(plain_users=users_file)
    threads = in_threads(host)
    crowd(host)
    wait_until(lambda: len(threads.begun) == host.gate.max_password_checks)
    host.gate.on_zap_request([b"route", b"", *HEAD, b"PLAIN", b"alice", b"right"], 0.0)
    threads.go.set()
    wait_until(lambda: ("right",) in threads.begun)
    assert threads.begun.index(("right",)) <= host.gate.max_password_checks + 1


@pytest.mark.parametrize("end", [Gate.close, Gate.abandon], ids=["close", "abandon"])
def test_a_gate_that_has_ended_sends_no_replies(folder, opened, end):
    host = opened(curve_key=SECRET, curve_clients=folder.path)
    running = opened(curve_key=SECRET, curve_clients=lambda key: gevent.sleep(600))
    running.gate.on_zap_request([b"route", b"", *CURVE], 0.0)
    wait_until(lambda: len(running.gate._checks._running) == 1)
    checks = running.gate._checks
    for gate in (host.gate, running.gate):
        end(gate)
        gate.on_zap_request([b"route", b"", *CURVE], 0.0)
    wait_until(lambda: not len(checks._running))
    assert host.replies == running.replies == []


def test_a_gate_that_is_closed_as_its_watcher_wakes_starts_no_thread(folder, opened, monkeypatch):
    """The watcher may be about to run when it is killed; a pool that it made then would stay."""
    gate = opened(curve_key=SECRET, curve_clients=folder.path).gate
    gate._watcher.kill()
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) > 1:
            raise AssertionError("it watches on")
        gate.close()

    monkeypatch.setattr("gmdp.security.gate.gevent.sleep", sleep)
    gate._watch_list(gate._list, 0.5)
    assert (pauses, gate._pools) == ([0.5], {})


def test_G20_a_disk_that_hangs_does_not_hold_up_the_end(folder, opened, monkeypatch, caplog):
    """Its thread is left behind; here it ends when the disk goes on."""
    monkeypatch.setattr(Gate, "close_timeout", 0.05)
    disk, hanging = allocate_lock(), gevent.event.Event()
    disk.acquire()
    host = opened(curve_key=SECRET, curve_clients=folder.path)
    loop = gevent.get_hub().loop

    def poll():
        loop.run_callback_threadsafe(hanging.set)
        with disk:
            return False

    monkeypatch.setattr(host.gate._list, "poll", poll)
    monkeypatch.setattr(Gate, "read_timeout", 60.0)
    hanging.wait()
    (pool,) = host.gate._pools.values()
    host.gate.close()
    assert "a thread still reads its list" in caplog.text
    disk.release()
    wait_until(lambda: pool.size == 0 and not len(pool))


@pytest.mark.parametrize("mechanism", HOSTS)
def test_sockets_are_secured_once_in_a_context(mechanism):
    gate = HOSTS[mechanism][0]().gate
    context = zmq.green.Context()
    sockets = [context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)]
    try:
        sockets.append(gate.secure(sockets[0], context))
        assert sockets[0].get(zmq.ZAP_DOMAIN) == b"gmdp"
        assert sockets[0].get(zmq.MECHANISM) == getattr(zmq, mechanism)
        with pytest.raises(zmq.ZMQError):
            gate.secure(sockets[1], context)
    finally:
        for socket in sockets:
            socket.close(0)
        context.term()


def test_the_owner_of_a_credential():
    assert credential_owner(KEY) == KEY
    assert credential_owner(password_credential("alice", read_hash(hash_password("x")))) == "alice"
    assert credential_owner("") == ""
