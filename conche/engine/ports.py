"""Published ports, identified by address, number and protocol: which of them conflict, and who holds one."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from conche.addresses import meet
from conche.engine.connection import Engine, translated

__all__ = ["Port", "Publisher", "holder", "overlap", "publishers"]

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Port(NamedTuple):
    """A port of the engine's host.

    Attributes:
        address: empty for every address of both families.
        last: the end of a range from `number`, any port of which will do; 0 for a single port.
    """

    address: str
    number: int
    protocol: str = "tcp"
    last: int = 0

    def each(self) -> Iterator[Port]:
        """Yield the ports of a range, or the single port."""
        for number in range(self.number, max(self.number, self.last) + 1):
            yield Port(self.address, number, self.protocol)

    def __str__(self) -> str:
        many = f"{self.number}-{self.last}" if self.last > self.number else str(self.number)
        return many if self.protocol == "tcp" else f"{many}/{self.protocol}"


@dataclass(frozen=True)
class Publisher:
    """A running container and the ports it publishes; `project` and `service` are empty unless Compose made it.

    Attributes:
        oneoff: `docker compose run` made it.
    """

    name: str
    project: str
    service: str
    oneoff: bool
    ports: tuple[Port, ...]
    id: str = ""

    def has(self, wanted: Port) -> bool:
        """Return whether it keeps somebody else from a port."""
        return any(overlap(wanted, port) for port in self.ports)


def overlap(one: Port, other: Port) -> bool:
    """Return whether two ports exclude each other; a wildcard stands for every address of its family."""
    return one.number == other.number and one.protocol == other.protocol and meet(one.address, other.address)


def publishers(engine: Engine) -> tuple[Publisher, ...]:
    """Return the running containers that publish ports."""
    with translated(engine.address):
        found = engine.client.api.containers()
    return tuple(one for one in map(_publisher, found) if one.ports)


def _publisher(listed: Mapping[str, Any]) -> Publisher:
    labels = listed.get("Labels") or {}
    compose = "com.docker.compose."
    return Publisher(
        name=str((listed.get("Names") or ["?"])[0]).lstrip("/"),
        project=labels.get(f"{compose}project", ""),
        service=labels.get(f"{compose}service", ""),
        oneoff=labels.get(f"{compose}oneoff") == "True",
        ports=tuple(
            Port(one.get("IP", ""), int(one["PublicPort"]), one.get("Type", "tcp"))
            for one in listed.get("Ports") or []
            if one.get("PublicPort")
        ),
        id=listed["Id"],
    )


def holder(engine: Engine, wanted: Port, others: Collection[Publisher], own: Collection[Port] = ()) -> str:
    """Return who keeps a port from being published: `container x`, `process y (pid 7)`, or an empty string.

    Args:
        others: containers that stay as they are.
        own: ports of containers that give way.
    """
    held = [_holder(engine, one, others, own) for one in wanted.each()]
    return held[0] if all(held) else ""


def _holder(engine: Engine, wanted: Port, others: Collection[Publisher], own: Collection[Port]) -> str:
    for other in others:
        if other.has(wanted):
            return f"container {other.name}"
    if not engine.is_local or wanted.protocol not in KINDS or _free(wanted):
        return ""
    ours = [port for port in own if _clash(wanted, port)]
    return _process(wanted, ours) or ("" if ours else "a process of another user")


def _free(wanted: Port) -> bool:
    """Return whether the kernel would let a server bind the port."""
    addresses = [wanted.address.strip("[]")] if wanted.address else ["0.0.0.0", "::"]  # noqa: S104 - asks, does not listen
    return all(_given(address, wanted) for address in addresses)


def _given(address: str, wanted: Port) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, KINDS[wanted.protocol]) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if wanted.protocol == "tcp":
                # As servers do: connections of a server that has just ended do not hold the port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, wanted.number))
    except OSError as error:
        # A privileged port, or an address or family that this host lacks, is for the engine to judge.
        return error.errno != errno.EADDRINUSE
    return True


def _process(wanted: Port, ours: Collection[Port]) -> str:
    """Return the process that listens on a port, unless the engine listens there for containers that give way."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections("inet"):
            port = _listening(found, psutil.CONN_LISTEN)
            if port is None or not _clash(wanted, port) or port in ours:
                continue
            if found.pid:
                return f"process {psutil.Process(found.pid).name()} (pid {found.pid})"
            return "a process of another user"
    return ""


def _listening(found: Any, listens: str) -> Port | None:
    for protocol, kind in KINDS.items():
        bound = found.type == kind and found.laddr and (protocol == "udp" or found.status == listens)
        if bound:
            return Port(found.laddr.ip, found.laddr.port, protocol)
    return None


def _clash(wanted: Port, listening: Port) -> bool:
    """Return whether a listening socket is in the way; one on every IPv6 address may accept IPv4 too."""
    address = "" if listening.address == "::" else listening.address
    return overlap(wanted, listening._replace(address=address))
