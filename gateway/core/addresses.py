"""Network addresses, as far as they stand for who is behind them."""

from __future__ import annotations

import ipaddress
from typing import Final

_IPV6_SITE: Final = 64
"""Bits of an IPv6 address that stand for one peer: it chooses the others itself (RFC 6177)."""


def site(peer: str) -> str:
    """An address, or the network of an IPv6 one. What is no address stands for itself."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _IPV6_SITE), strict=False))
