"""Addresses on which a host's ports are published: which of them cannot have the same port."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

__all__ = ["address_of", "meet"]


def meet(one: str, other: str) -> bool:
    """Return whether two addresses are the same, or one is a wildcard of the other's family; empty stands for all."""
    if not one or not other or one == other:
        return True
    try:
        first, second = _plain(one), _plain(other)
    except ValueError:
        return False
    unspecified = first.is_unspecified or second.is_unspecified
    return first.version == second.version and (first == second or unspecified)


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Parse an address; an IPv4 address written as IPv6 counts as IPv4."""
    found = ip_address(address.strip("[]"))
    return getattr(found, "ipv4_mapped", None) or found


def address_of(host: str) -> str:
    """Return the address that a name of this machine stands for."""
    return "127.0.0.1" if host == "localhost" else host
