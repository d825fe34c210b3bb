"""Computes Compose's hash of a service's definition as its container carries it.

Compose hashes what it makes a container from: variables of an `env_file` are merged in, and a service whose network,
processes or memory are shared is replaced by its current container. `config --hash` hashes the files as written. So we
pass it the rendered document with the current containers; where that is not enough, as with `volumes_from`, a dry run
says what Compose would do (docker/compose, pkg/compose/convergence.go).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

__all__ = [
    "GONE",
    "NOTHING_TO_COPY_INTO",
    "TO_ITS_END",
    "UP_WHOLE",
    "asked_of",
    "depend",
    "joins",
    "leaves_others",
    "resolved",
    "shares",
    "without_dependencies",
]

NAMESPACES = ("network_mode", "ipc", "pid")

SERVICE = "service:"

UNWANTED = {"image": "none", "profiles": ["unwanted"]}
"""Stands in for a service whose profile is inactive."""

GONE = frozenset({"Recreate", "Stopping", "Stopped", "Removing", "Removed"})
"""What Compose reports for a container that it replaces for a changed definition, or removes as surplus."""

LEFT = frozenset({"Running", "Created"})
"""What it reports for a container that it leaves as it is, running or not."""

_QUIETLY = """\
quietly() { said=$("$@" 2>&1) || { code=$?; printf '%s\\n' "$said" >&2; exit "$code"; }; }
"""

TO_ITS_END = f'{_QUIETLY}quietly "$@"'
"""Shell script that runs a program and collects its output: Compose aborts when its reader has gone."""

UP_WHOLE = f"""\
{_QUIETLY}services=$1; shift
quietly "$@" --no-start $services
quietly "$@" --detach --no-deps --no-recreate $services
"""
"""Shell script that runs `compose up` in two steps: the first creates containers, the second starts only those.

Both steps are one child process, so that killing the caller cannot come between them. Its first argument is the names
of the services, separated by spaces, which no such name contains.
"""


def shares(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the services whose network, processes, memory or volumes a service shares."""
    sources = (source.split(":")[0] for source in body.get("volumes_from") or [])
    return tuple(dict.fromkeys([*joins(body), *(source for source in sources if source != "container")]))


def joins(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the services in whose network, processes or memory a service is."""
    modes = (str(body.get(key) or "") for key in NAMESPACES)
    return tuple(dict.fromkeys(mode.removeprefix(SERVICE) for mode in modes if mode.startswith(SERVICE)))


def depend(rendered: Mapping[str, Any]) -> bool:
    """Whether any service of a document depends on another."""
    return any(body.get("depends_on") for body in rendered["services"].values())


def resolved(rendered: Mapping[str, Any], first: Mapping[str, str]) -> bytes:
    """Return the document with shared services replaced by their containers, as Compose does on creation.

    Args:
        first: service -> id of its first container.
    """

    def named(mode: Any) -> Any:
        there = first.get(mode.removeprefix(SERVICE)) if str(mode).startswith(SERVICE) else None
        return f"container:{there}" if there else mode

    services = {
        name: {key: named(value) if key in NAMESPACES else value for key, value in body.items()}
        for name, body in rendered["services"].items()
    }
    # Optional dependencies are part of the hash even if their profile is inactive.
    optional = {other for body in services.values() for other in body.get("depends_on") or ()}
    absent = dict.fromkeys(sorted(optional - services.keys()), UNWANTED)
    return json.dumps({**rendered, "services": {**services, **absent}}).encode()


def without_dependencies(document: bytes) -> bytes:
    """Return the document without dependencies, as Compose sees it when it starts services one by one."""
    rendered = json.loads(document)
    services = {name: {**body, "depends_on": {}} for name, body in rendered["services"].items()}
    return json.dumps({**rendered, "services": services}).encode()


def leaves_others(would: Mapping[str, Collection[str]], project: str, services: Mapping[str, str | None]) -> bool:
    """Return whether Compose would leave every container but those of some services as it is.

    Args:
        would: container -> what a dry run reported for it; if it is empty, the answer is no.
        services: the services, each with the fixed name of its container if it has one.
    """
    names = (
        re.escape(named) if named else rf"{re.escape(project)}-{re.escape(service)}-\d+"
        for service, named in services.items()
    )
    # While Compose replaces a container, the new one's name begins with the old one's id.
    ours = re.compile(rf"(?:[0-9a-f]{{12}}_)?(?:{'|'.join(names)})")
    return bool(would) and all(LEFT.issuperset(said) for name, said in would.items() if not ours.fullmatch(name))


NOTHING_TO_COPY_INTO = "Could not find the file / in container"
"""How a dry run ends that would create a container with configs or secrets: none exists to copy them into (2.26).

By then it has reported everything that the service depends on, but not what others depend on that were named with it.
"""


def asked_of(said: str) -> dict[str, set[str]]:
    """Parse a dry run's output into container -> what it reports, such as `Running` or `Recreate`."""
    found: dict[str, set[str]] = {}
    for name, state in re.findall(r"\bContainer (\S+) +(\w+)", said):
        found.setdefault(name, set()).add(state)
    return found
