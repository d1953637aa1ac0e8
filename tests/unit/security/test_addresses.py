"""Addresses that connections may come from."""

import pytest
from secured import GateHost, make_gate, refusal_of

from gmdp import Broker

IPC = ":0:0:1234"


def of_null(address):
    """The frames of a ZAP request of NULL about a connection from `address`."""
    return b"1.0", b"1", b"gmdp", address.encode(), b"", b"NULL"


@pytest.mark.parametrize(
    ("lists", "inside", "outside"),
    [
        ({"allow": "192.0.2.1"}, ["192.0.2.1"], ["192.0.2.2", "2001:db8::1", IPC, ""]),
        ({"allow": ["192.0.2.0/24"]}, ["192.0.2.0", "192.0.2.255"], ["192.0.3.0", "192.0.1.255", IPC]),
        ({"allow": ["0.0.0.0/0"]}, ["192.0.2.1", "::ffff:192.0.2.1"], ["2001:db8::1", IPC]),
        ({"allow": ["::/0"]}, ["2001:db8::1"], ["192.0.2.1", "::ffff:192.0.2.1", IPC]),
        ({"allow": ["2001:db8::1"]}, ["2001:db8::1", "2001:DB8:0::0:1"], ["2001:db8::2", "192.0.2.1"]),
        ({"allow": ["2001:db8::/32"]}, ["2001:db8:1::5"], ["2001:db9::"]),
        ({"allow": ["fe80::/10"]}, ["fe80::1%eth0", "fe80::1"], ["2001:db8::1%eth0"]),
        ({"allow": ["192.0.2.0/24"]}, ["::ffff:192.0.2.7"], ["::ffff:192.0.3.7", "::192.0.2.7"]),
        ({"allow": ["::ffff:192.0.2.0/120"]}, ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.3.7"]),
        ({"allow": ["::ffff:192.0.2.7"]}, ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.8"]),
        ({"allow": "ipc"}, [IPC, "localhost:0:0:1234"], ["192.0.2.1", "::1", "", "localhost", "garbage"]),
        ({"allow": ["ipc", "::1"]}, [IPC, "::1"], ["127.0.0.1"]),
        ({"allow": ("127.0.0.1", "192.0.2.0/255.255.255.0")}, ["127.0.0.1", "192.0.2.9"], ["127.0.0.2"]),
        ({"deny": ["192.0.2.0/24"]}, ["192.0.3.1", "2001:db8::1", IPC], ["192.0.2.1", "::ffff:192.0.2.1"]),
        ({"deny": ["::ffff:192.0.2.0/120"]}, ["192.0.3.1"], ["192.0.2.1", "::ffff:192.0.2.1"]),
        ({"deny": "ipc"}, ["192.0.2.1", "::1"], [IPC, "", "garbage"]),
        ({"deny": ["0.0.0.0/0", "::/0"]}, [IPC], ["192.0.2.1", "::1", "", "garbage"]),
        ({"allow": "192.0.2.0/24", "deny": "192.0.2.1"}, ["192.0.2.2"], ["192.0.2.1", "192.0.3.1"]),
        ({"allow": "192.0.2.1", "deny": "192.0.2.0/24"}, [], ["192.0.2.1", "192.0.2.2"]),
        ({"allow": None, "deny": None}, ["192.0.2.1", "::1", IPC, ""], []),
    ],
    ids=str,
)
def test_connections_come_from_allowed_addresses_only(lists, inside, outside):
    host = GateHost(**lists)
    answers = {address: host.ask(*of_null(address)) for address in [*inside, *outside]}
    assert answers == {**dict.fromkeys(inside, ("200", "")), **dict.fromkeys(outside, ("400", "address"))}


@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost", "192.0.2", "192.0.2.256", "192.0.2.1/33", "192.0.2.1/24", "192.0.2.0/24 ", "1", "IPC", "*"),
        *("2001:db8::1::2", "2001:db8::1/32", "ipc://x", "tcp://192.0.2.1:5555", "192.0.2.1:5555", "[::1]"),
        *(5, True, [None], b"\xc0\x00\x02\x01", ("192.0.2.0", 24), 3.5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("option", ["allow", "deny"])
def test_a_wrong_address_is_refused_and_shown(option, address):
    message = refusal_of(make_gate, **{option: [address]})
    assert message.startswith(f"{option}: ")
    assert message.endswith(f"not {address!r}")


@pytest.mark.parametrize("option", ["allow", "deny"])
def test_addresses_of_another_type_are_refused(option):
    for addresses in (5, b"192.0.2.1", {"192.0.2": 1}):
        assert refusal_of(Broker, **{option: addresses}).startswith(f"{option}: ")


@pytest.mark.parametrize("option", ["allow", "deny"])
def test_an_empty_list_of_addresses_is_refused(option):
    for empty in ([], ()):
        assert option in refusal_of(make_gate, **{option: empty})
