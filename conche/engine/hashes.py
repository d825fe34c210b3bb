"""Compose's hash of a service's definition, in the form in which a container carries it.

Compose hashes what it makes a container from: variables of an `env_file` are among the others, and a service whose
network, processes or memory are shared stands as the container it is at that moment. `config --hash` says it of the
files as they are written. So it is asked for the rendered document, with the containers that there are; where that is
not enough, as with `volumes_from`, a dry run says what Compose would do (docker/compose, pkg/compose/convergence.go).
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
    "leaves_others",
    "resolved",
    "shares",
    "without_dependencies",
]

NAMESPACES = ("network_mode", "ipc", "pid")

SERVICE = "service:"

UNWANTED = {"image": "none", "profiles": ["unwanted"]}
"""What stands in the place of a service that is not wanted."""

GONE = frozenset({"Recreate", "Stopping", "Stopped", "Removing", "Removed"})
"""What Compose says of a container that it replaces, because its definition is another, or removes as one too many."""

LEFT = frozenset({"Running", "Created"})
"""What it says of one that it leaves as it is, running or not."""

_QUIETLY = """\
quietly() { said=$("$@" 2>&1) || { code=$?; printf '%s\\n' "$said" >&2; exit "$code"; }; }
"""

TO_ITS_END = f'{_QUIETLY}quietly "$@"'
"""A shell's script: a program whose words the shell hears. Compose breaks off when it writes to one who has gone."""

UP_WHOLE = f"""\
{_QUIETLY}service=$1; shift
quietly "$@" --no-start "$service"
quietly "$@" --detach --no-deps --no-recreate "$service"
"""
"""A shell's script: `compose up` in two steps, of which the first makes a container and the second starts only that.

Both are one child, so that a kill of whoever called it does not come between them.
"""


def shares(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The services whose containers a service uses the network, processes, memory or volumes of."""
    modes = (str(body.get(key) or "") for key in NAMESPACES)
    named = [mode.removeprefix(SERVICE) for mode in modes if mode.startswith(SERVICE)]
    sources = (source.split(":")[0] for source in body.get("volumes_from") or [])
    return tuple(dict.fromkeys([*named, *(source for source in sources if source != "container")]))


def depend(rendered: Mapping[str, Any]) -> bool:
    """Whether any service of a document depends on another."""
    return any(body.get("depends_on") for body in rendered["services"].values())


def resolved(rendered: Mapping[str, Any], first: Mapping[str, str]) -> bytes:
    """The document with containers in the place of services, as Compose has it when it makes one.

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
    # What a service may depend on is part of its hash, also where it is of a profile that is not wanted.
    optional = {other for body in services.values() for other in body.get("depends_on") or ()}
    absent = dict.fromkeys(sorted(optional - services.keys()), UNWANTED)
    return json.dumps({**rendered, "services": {**services, **absent}}).encode()


def without_dependencies(document: bytes) -> bytes:
    """The document as Compose has it when it starts services one by one: what they depend on is left out."""
    rendered = json.loads(document)
    services = {name: {**body, "depends_on": {}} for name, body in rendered["services"].items()}
    return json.dumps({**rendered, "services": services}).encode()


def leaves_others(would: Mapping[str, Collection[str]], project: str, service: str, named: str | None) -> bool:
    """Whether Compose would leave every container but those of one service as it is.

    Args:
        would: container -> what a dry run said of it; where it said nothing, nobody knows.
        named: the fixed name of the service's container.
    """
    name_of = re.escape(named) if named else rf"{re.escape(project)}-{re.escape(service)}-\d+"
    # While it replaces a container, the new one has the old one's id before its name.
    ours = re.compile(rf"(?:[0-9a-f]{{12}}_)?{name_of}")
    return bool(would) and all(LEFT.issuperset(said) for name, said in would.items() if not ours.fullmatch(name))


NOTHING_TO_COPY_INTO = "Could not find the file / in container"
"""How a dry run ends that would make a container with configs or secrets in it: there is none (2.26).

It has spoken by then of all that the service depends on."""


def asked_of(said: str) -> dict[str, set[str]]:
    """Container -> what a dry run said of it, such as `Running` or `Recreate`."""
    found: dict[str, set[str]] = {}
    for name, state in re.findall(r"\bContainer (\S+) +(\w+)", said):
        found.setdefault(name, set()).add(state)
    return found
