"""The addresses from which connections may come."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from ..exceptions import ConfigurationError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPC = "ipc"
#: The address that ZeroMQ gives a peer on ipc: the ids of its user, group and process.
_IPC_PEER = re.compile(r"(localhost)?:\d+:\d*:\d*\Z")


class Addresses:
    """The addresses that connections may come from, and those they may not come from.

    Where there is a list, an address that cannot be read is refused.

    Args:
        allowed: IP addresses, networks, or "ipc"; None allows all but `denied`.
        denied: Addresses in the same form; these are refused even if `allowed` has them.

    Raises:
        ConfigurationError: A list is empty, or holds something that is not an address.
    """

    def __init__(self, allowed: str | Sequence[str] | None, denied: str | Sequence[str] | None) -> None:
        self._allowed = _read_list("allow", allowed)
        self._denied = _read_list("deny", denied)

    def allow(self, address: str) -> bool:
        """Return whether a connection may come from `address`, which is as ZeroMQ writes it."""
        if not self._allowed and not self._denied:
            return True
        source = _read_address(address)
        if source is None or any(_is_within(source, denied) for denied in self._denied):
            return False
        return not self._allowed or any(_is_within(source, allowed) for allowed in self._allowed)


def _read_list(option: str, addresses: str | Sequence[str] | None) -> list[_Network | str]:
    if addresses is None:
        return []
    if isinstance(addresses, str) or not isinstance(addresses, Iterable):
        addresses = [addresses]
    if not addresses:
        raise ConfigurationError(f"{option} is empty: leave it out, or list addresses")
    networks: list[_Network | str] = []
    for text in addresses:
        try:
            networks.append(_IPC if text == _IPC else _read_network(str(text)))
        except ValueError:
            raise ConfigurationError(
                f"{option}: an address must be like '192.0.2.1', '192.0.2.0/24' or '{_IPC}', not {text!r}"
            ) from None
    return networks


def _read_network(text: str) -> _Network:
    """Return the network in `text`; a network of mapped IPv4 addresses becomes one of IPv4."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.ip_network((mapped, network.prefixlen - 96))


def _read_address(text: str) -> _Address | str | None:
    """Return the address that ZeroMQ writes as `text`; None if `text` is not an address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return _IPC if _IPC_PEER.match(text) else None
    return getattr(address, "ipv4_mapped", None) or address


def _is_within(address: _Address | str, listed: _Network | str) -> bool:
    if isinstance(listed, str) or isinstance(address, str):
        return address == listed
    return address in listed
