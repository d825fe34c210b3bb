"""Tailscale sidecars: who each is on its tailnet, what it serves there, and what keeps others from reaching it.

The healthcheck of a sidecar says only that the node has had an address once. It stays healthy under another name than
the one that was asked for, without certificates, and with nothing behind what it serves. Sources:
ipn/ipnstate/ipnstate.go and ipn/serve.go of Tailscale 1.98, which print these values as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from conche.engine import programs
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import ConcheError

__all__ = ["IMAGE", "PATIENCE", "Sidecar", "read", "sidecars"]

IMAGE = re.compile(r"(^|/)tailscale(:|@|$)")
"""Images of a sidecar, from whichever registry."""

PATIENCE = 10.0
"""Seconds within which a sidecar must answer."""

ASK = """
at=${TS_SOCKET:-/tmp/tailscaled.sock}
tailscale --socket="$at" status --json --peers=false && tailscale --socket="$at" serve status --json
"""

REACH = """
for address; do
  case $address in
    tcp://*)
      place=${address#tcp://}
      timeout 5 nc -w 3 "${place%:*}" "${place##*:}" </dev/null >/dev/null 2>&1
      [ $? != 1 ] || echo "$address"
      continue ;;
  esac
  said=$(wget -q -T 3 -O /dev/null "$address" 2>&1) && continue
  case $said in *"server returned error"*) ;; *) echo "$address" ;; esac
done
"""
"""Prints the addresses at which nothing answers; an answer that is an error is one, and so is a connection for TCP."""

STATES = {
    "NeedsLogin": "is not logged in to a tailnet",
    "NeedsMachineAuth": "waits until an administrator of the tailnet approves it",
    "Stopped": "is logged in, and stopped",
    "Starting": "is still joining its tailnet",
    "NoState": "is still starting",
}


@dataclass(frozen=True)
class Sidecar:
    """A sidecar as its tailnet knows it.

    Attributes:
        service: the service of its container.
        name: its full name there, without a dot at the end; empty if it has none.
        addresses: its addresses there.
        serves: what others reach through it: URLs, or `tcp NAME:PORT`; what is forwarded from port 80 counts as http.
        problems: what keeps them from it, each to be read after the name of the service.
    """

    service: str
    name: str = ""
    addresses: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What is shown of it in a table."""
        return ", ".join(self.serves) or self.name or "unreachable"


def sidecars(engine: Engine, found: Iterable[Container]) -> tuple[Sidecar, ...]:
    """Ask every running sidecar about itself; it needs no key for that, and asks nobody else."""
    asked = [one for one in found if one.state == "running" and IMAGE.search(one.image)]
    if not asked:
        return ()
    with ThreadPoolExecutor(len(asked)) as pool:
        return tuple(pool.map(lambda one: _asked(engine, one), asked))


def _asked(engine: Engine, container: Container) -> Sidecar:
    try:
        done = _run(engine, container, "sh", "-c", ASK)
        status, serving = _documents(done)
        seen = read(container.service, status, serving)
        silent = _run(engine, container, "sh", "-c", REACH, "sh", *_proxied(serving)).split()
    except ConcheError as error:
        return Sidecar(container.service, problems=(f"cannot be asked: {error.message}",))
    except (ValueError, AttributeError, TypeError):
        return Sidecar(container.service, problems=("does not say who it is: tailscaled does not run in it",))
    unheard = tuple(f"serves {address}, where nothing answers" for address in silent)
    return replace(seen, problems=seen.problems + unheard)


def _run(engine: Engine, container: Container, *argv: str) -> str:
    return programs.run(engine, container.id, argv, number=programs.new_number(), timeout=PATIENCE).stdout.raw


def _documents(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the two JSON documents of `ASK`.

    Raises:
        ValueError: they are not there.
    """
    decoder = json.JSONDecoder()
    status, end = decoder.raw_decode(text)
    serving = json.loads(text[end:])
    if not isinstance(status, dict) or not isinstance(serving, dict):
        raise ValueError("no objects")
    return status, serving


def read(service: str, status: Mapping[str, Any], serving: Mapping[str, Any]) -> Sidecar:
    """Read what a sidecar says of itself: `tailscale status --json` and `tailscale serve status --json`."""
    own = status.get("Self") or {}
    name = str(own.get("DNSName") or "").rstrip(".")
    addresses = tuple(str(one) for one in status.get("TailscaleIPs") or ())
    state = str(status.get("BackendState"))
    if state != "Running":
        return Sidecar(service, name, addresses, problems=(STATES.get(state, f"is {state}"),))
    certified = [str(one) for one in status.get("CertDomains") or ()]
    serves = tuple(_served(name, serving))
    return Sidecar(service, name, addresses, serves, tuple(_problems(own, name, serves, certified)))


def _problems(own: Mapping[str, Any], name: str, serves: Sequence[str], certified: Sequence[str]) -> Iterator[str]:
    if not own.get("Online", True):
        yield "is not seen by the control server, so nobody can reach it"
    wanted = re.sub(r"[^a-z0-9]+", "-", str(own.get("HostName") or "").lower()).strip("-")
    given = name.partition(".")[0]
    if wanted and given and given != wanted:
        yield f"is called {given} on the tailnet: {wanted} is the name of another node there"
    if not serves and not certified:
        yield "serves nothing: its tailnet has no certificates. Enable HTTPS there, or set TAILNET_HTTPS=no"
    elif not serves:
        yield "serves nothing"


def _served(name: str, serving: Mapping[str, Any]) -> Iterator[str]:
    for port, handler in (serving.get("TCP") or {}).items():
        scheme = "https" if handler.get("HTTPS") else "http" if handler.get("HTTP") or port == "80" else ""
        usual = (scheme, port) in (("https", "443"), ("http", "80"))
        yield f"{scheme}://{name}{'' if usual else f':{port}'}" if scheme else f"tcp {name}:{port}"


def _proxied(serving: Mapping[str, Any]) -> list[str]:
    """Return the addresses behind what it serves, as URLs; a TCP forward's begins with tcp."""
    sites = (serving.get("Web") or {}).values()
    targets = [one.get("Proxy") for site in sites for one in (site.get("Handlers") or {}).values()]
    found = {one if "://" in one else f"http://{one}" for one in targets if isinstance(one, str) and one}
    forwards = [one.get("TCPForward") for one in (serving.get("TCP") or {}).values()]
    return sorted(found | {f"tcp://{one}" for one in forwards if isinstance(one, str) and one})
