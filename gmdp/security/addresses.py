"""Where connections may come from."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from ..exceptions import ConfigurationError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPC = "ipc"
#: What ZeroMQ says of a peer on ipc: the ids of its user, group and process.
_IPC_PEER = re.compile(r"(localhost)?:\d+:\d*:\d*\Z")


class Addresses:
    """IP addresses and networks, or "ipc", from which connections may come, and may not.

    None: no such list.  What is on both may not; where there is a list, an address that
    cannot be told may not, either.  ConfigurationError for what is no such list.
    """

    def __init__(self, allowed: str | Sequence[str] | None, denied: str | Sequence[str] | None) -> None:
        self._allowed = _addresses("allow", allowed)
        self._denied = _addresses("deny", denied)

    def allow(self, address: str) -> bool:
        """May a connection come from here?  `address`: as ZeroMQ tells it."""
        if not self._allowed and not self._denied:
            return True
        where = _address(address)
        if where is None or any(_within(where, one) for one in self._denied):
            return False
        return not self._allowed or any(_within(where, one) for one in self._allowed)


def _addresses(option: str, given: str | Sequence[str] | None) -> list[_Network | str]:
    if given is None:
        return []
    if isinstance(given, str) or not isinstance(given, Iterable):
        given = [given]
    if not given:
        raise ConfigurationError(f"{option} lists nobody: leave it out, or say who it is")
    addresses: list[_Network | str] = []
    for one in given:
        try:
            addresses.append(_IPC if one == _IPC else _network(str(one)))
        except ValueError:
            raise ConfigurationError(
                f"{option}: an address must be like '192.0.2.1', '192.0.2.0/24' or '{_IPC}', not {one!r}"
            ) from None
    return addresses


def _network(text: str) -> _Network:
    """The network of this text; that of mapped IPv4 addresses as what it is."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.ip_network((mapped, network.prefixlen - 96))


def _address(text: str) -> _Address | str | None:
    """What ZeroMQ says a peer's address is; None if that is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return _IPC if _IPC_PEER.match(text) else None
    return getattr(address, "ipv4_mapped", None) or address


def _within(address: _Address | str, listed: _Network | str) -> bool:
    if isinstance(listed, str) or isinstance(address, str):
        return address == listed
    return address in listed
