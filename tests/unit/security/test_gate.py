"""What a gate makes of ZAP requests and of the keys and passwords in them."""

import gevent
import pytest
from secured import GateHost
from waiting import wait_until

from gmdp.core.broker.access import REVOKED
from gmdp.security.gate import Refusal

SECRET = b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
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
        odd += [request[:-1], (*request[:-1], b"\xff")]
    assert {frames: host.ask(*frames) for frames in odd} == dict.fromkeys(odd, ("400", "malformed"))
    assert host.ask(*request) == ("200", "")


@pytest.mark.parametrize("frames", [[], [b""], [b"route"], [b"route", b"x", *CURVE]], ids=len)
def test_frames_without_an_envelope_are_refused(frames):
    host = HOSTS["CURVE"][0]()
    host.gate.on_zap_request(frames, 0.0)
    [refused], [reply] = host.refused, host.replies
    assert (refused.reason, refused.claimed_user, reply[1], reply[4]) == (Refusal.MALFORMED, "", b"", b"400")


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
    assert (refused.reason, refused.claimed_user) == (Refusal.CHECK_FAILED, "x" * 100)
    assert host.replies[0][4:] == [b"300", Refusal.CHECK_FAILED.text.encode(), b"", b""]


def test_checks_that_cannot_wait_are_refused_for_now():
    go = gevent.event.Event()
    host = GateHost(curve_key=SECRET, curve_clients=lambda key: go.wait() and "user")
    count = host.gate.max_calls + host.gate.max_waiting + 3
    for _ in range(count):
        host.gate.on_zap_request([b"route", b"", *CURVE], 0.0)
        gevent.sleep(0)
    assert [refused.reason for refused in host.refused] == [Refusal.BUSY] * 3
    assert {reply[4] for reply in host.replies} == {b"300"}
    go.set()
    wait_until(lambda: len(host.replies) == count)
    assert [reply[4] for reply in host.replies].count(b"200") == count - 3


def test_every_reason_has_a_text_that_a_reply_may_hold():
    assert {reason.value for reason in Refusal if reason.temporary} == {"connections_full", "busy", "check_failed"}
    for reason in Refusal:
        assert 0 < len(reason.text.encode("ascii")) <= 255
