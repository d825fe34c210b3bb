"""Tells where a token can be sent without TLS: to this machine, or within a network that is not the internet."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from conche.errors import Refused

__all__ = ["is_near", "require_tls"]

LOCAL = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test")
"""Ends of names that no server of the public DNS answers for."""


def is_near(host: str) -> bool:
    """Return whether a host is this machine or in a private network; a name is where one of its addresses is.

    A name without a dot is a container's, or one of the local network. A name that stands for nothing is not near: a
    proxy may know more of it.
    """
    name = host.strip("[]").rstrip(".").lower()
    try:
        return not ip_address(name).is_global
    except ValueError:
        pass
    if "." not in name or name.endswith(LOCAL):
        return True
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not ip_address(str(place[0]).partition("%")[0]).is_global for *_, place in found)


def require_tls(address: str) -> None:
    """Refuse an address at which a token, and what is sent with it, can be read on the way."""
    parts = urlsplit(address)
    if parts.scheme != "https" and not is_near(parts.hostname or ""):
        raise Refused(
            "server-in-clear",
            f"{address} has no TLS and is not in a private network: whoever is on the way could read the token.",
            looked_at=[address],
            next_command="set ci.server in stack.yaml to its https:// address, or to one in your own network",
        )
