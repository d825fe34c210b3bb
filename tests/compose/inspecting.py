"""What stands in an engine of one Compose project, as flat values that two of them can be compared by."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import docker.errors

from conche.engine.connection import Engine

__all__ = ["allowed", "differences", "left", "seen", "unexplained"]

LABEL = "com.docker.compose"

CONTAINERS_OWN = (
    "Id", "Created", "State", "ExecIDs", "ResolvConfPath", "HostnamePath", "HostsPath", "LogPath", "GraphDriver",
    "Image",
)  # fmt: skip
"""What no two containers have the same, and what is read in another way below."""

UNORDERED = ("Env", "ExtraHosts", "Mounts", "Binds", "Aliases", "Links", "Ulimits")
"""Lists that Compose writes in any order."""

ASKED_OF_NETWORK = ("IPAMConfig", "Links", "Aliases", "DriverOpts")
"""What of a container's place in a network is asked for; the rest is given by the engine."""

LONG_ID = re.compile(r"\b[0-9a-f]{64}\b")


def seen(engine: Engine, project: str, subnet: str, rendered: Mapping[str, Any]) -> dict[str, str]:
    """Everything of a project in the engine, by its path, such as `container web-1: HostConfig.CapAdd`.

    Args:
        subnet: the beginning of the addresses that its files give; others are the engine's choice.
        rendered: the files as Compose renders them.
    """
    found = dict(_flat(_things(engine, project, subnet, rendered)))
    return {path.replace(project, "NAME"): value.replace(project, "NAME") for path, value in found.items()}


def left(engine: Engine, project: str) -> list[str]:
    """The containers and networks of a project."""
    api: Any = engine.client.api
    ours = {"label": f"{LABEL}.project={project}"}
    containers = [name for one in api.containers(all=True, filters=ours) for name in one["Names"]]
    return containers + [one["Name"] for one in api.networks(filters=ours)]


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Path -> the two values, where they are two."""
    return {
        path: (one.get(path), other.get(path))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    }


def allowed(page: Path, *, after: str = "env.up") -> list[str]:
    """The paths that may differ, as the page says it: with `*` for any part.

    Args:
        after: the task; what is named for env.up may differ after a release, too.
    """
    text = page.read_text(encoding="utf-8")
    if after == "env.up":
        text = text.partition("after `env.deploy`")[0]
    return re.findall(r"^\| `([^`]+: [^`]+)` \|", text, re.MULTILINE)


def unexplained(
    found: Mapping[str, tuple[str | None, str | None]], patterns: Sequence[str]
) -> dict[str, tuple[str | None, str | None]]:
    """Those of the differences that no pattern allows."""
    return {path: both for path, both in found.items() if not any(fnmatchcase(path, one) for one in patterns)}


def _things(
    engine: Engine, project: str, subnet: str, rendered: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    api: Any = engine.client.api
    ours = {"label": f"{LABEL}.project={project}"}
    inspected = [api.inspect_container(one["Id"]) for one in api.containers(all=True, filters=ours)]
    names = {one["Id"]: _name(one) for one in inspected}
    for one in inspected:
        yield f"container {names[one['Id']]}", _without_ids(_container(api, one, rendered, inspected), names)
    for name in sorted({one["Config"]["Image"] for one in inspected if one["Config"]["Image"].startswith(project)}):
        image = api.inspect_image(name)
        yield f"image {name}", {"Config": image["Config"], "RootFS": image["RootFS"]}
    for one in api.networks(filters=ours):
        said = api.inspect_network(one["Id"])
        given = [each for each in said["IPAM"]["Config"] if each["Subnet"].startswith(subnet)]
        kept = {key: value for key, value in said.items() if key not in ("Id", "Created", "Containers")}
        yield f"network {one['Name']}", {**kept, "IPAM": {**said["IPAM"], "Config": given}}
    for one in api.volumes(filters=ours)["Volumes"] or []:
        yield f"volume {one['Name']}", {key: one[key] for key in ("Driver", "Labels", "Options", "Scope")}


def _name(inspected: Mapping[str, Any]) -> str:
    labels = inspected["Config"]["Labels"]
    return f"{labels[f'{LABEL}.service']}-{labels[f'{LABEL}.container-number']}"


def _container(
    api: Any, inspected: Mapping[str, Any], rendered: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    kept = {key: value for key, value in inspected.items() if key not in CONTAINERS_OWN}
    networks = inspected["NetworkSettings"]["Networks"] or {}
    labels = inspected["Config"]["Labels"]
    needs = [one.split(":")[0] for one in labels.get(f"{LABEL}.depends_on", "").split(",") if one]
    started = {_name(one).rpartition("-")[0]: one["State"]["StartedAt"] for one in others}
    return {
        **kept,
        "State": {key: inspected["State"][key] for key in ("Status", "ExitCode")},
        "NetworkSettings": {
            "Networks": {name: {key: one[key] for key in ASKED_OF_NETWORK} for name, one in networks.items()},
            "Ports": sorted(inspected["NetworkSettings"]["Ports"]),
        },
        "Mounts": {one["Destination"]: one for one in inspected["Mounts"]},
        "Contents": _contents(api, inspected["Id"], rendered, labels[f"{LABEL}.service"]),
        "StartedAfter": {one: started[one] <= inspected["State"]["StartedAt"] for one in needs if one in started},
    }


def _contents(api: Any, container: str, rendered: Mapping[str, Any], service: str) -> dict[str, Any]:
    """The service's configs and secrets as they are in the container, with owner and mode."""
    found: dict[str, Any] = {}
    for kind, root in (("configs", "/"), ("secrets", "/run/secrets/")):
        for given in rendered["services"][service].get(kind) or []:
            path = str(PurePosixPath(root) / str(given.get("target") or given["source"]))
            try:
                stream, _ = api.get_archive(container, path)
            except docker.errors.NotFound:
                found[path] = {"content": None}
                continue
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
                member, *below = archive.getmembers()
                if below or member.isdir():
                    found[path] = {one.name: {"mode": oct(one.mode), "size": one.size} for one in (member, *below)}
                    continue
                file = archive.extractfile(member)
                content = file.read().decode() if file else ""
            found[path] = {"mode": oct(member.mode), "uid": member.uid, "gid": member.gid, "content": content}
    return found


def _without_ids(value: Any, names: Mapping[str, str]) -> Any:
    """The same, with containers by their names, and other ids by nothing."""
    text = json.dumps(value)
    for id_, name in names.items():
        text = text.replace(id_, f"<{name}>").replace(id_[:12], f"<{name}>")
    return json.loads(LONG_ID.sub("<id>", text))


def _flat(things: Iterator[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    for name, body in things:
        yield f"{name}: exists", "yes"
        for path, value in _paths(body, ""):
            yield f"{name}: {path}", value


def _paths(value: Any, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _paths(_ordered(key, below), f"{at}.{key}" if at else str(key))
    else:
        yield at, json.dumps(value, sort_keys=True)


def _ordered(key: str, value: Any) -> Any:
    if key in UNORDERED and isinstance(value, list):
        return sorted(value, key=json.dumps)
    return ",".join(sorted(value.split(","))) if key == f"{LABEL}.depends_on" else value
