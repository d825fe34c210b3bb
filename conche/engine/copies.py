"""Runs a copy of a service on other data, without network, to test whether the data are good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from conche.engine.connection import OF_NO_PROJECT, Engine, translated
from conche.engine.containers import Container
from conche.engine.volumes import LABEL

__all__ = ["create_volume", "start_beside", "start_copy", "start_empty_copy"]


def create_volume(engine: Engine, name: str, beside: str) -> None:
    """Create a volume labelled as a helper of the volume `beside`."""
    with translated(engine.address):
        engine.client.api.create_volume(name, labels={LABEL: beside})


def start_copy(engine: Engine, original: Container, volume: str, instead: str, project: str) -> str:
    """Start a container like `original` with the volume `instead` in place of `volume`, and return its id.

    It has no network and no published ports, and all its other mounts are read-only.
    """
    seen = _inspected(engine, original)
    binds = []
    for mount in seen["Mounts"]:
        source = mount.get("Name") or mount["Source"]
        ours = volume in (mount.get("Name"), mount.get("Source"))
        binds.append(f"{instead if ours else source}:{mount['Destination']}{'' if ours else ':ro'}")
    return _started(engine, seen, _labels(original, volume, project), binds)


def start_empty_copy(engine: Engine, original: Container, helper: str, project: str) -> str:
    """Start a container like `original` that begins without data, and return its id.

    Its volumes are new and go with it, and so is what stands in place of a folder of the host where its image has a
    volume. It has no network and no published ports, and all its other mounts are read-only.

    Args:
        helper: the name by which `clear_helpers` finds it.
    """
    seen = _inspected(engine, original)
    data = seen["Config"].get("Volumes") or {}
    binds, empty = [], list(data)
    for mount in seen["Mounts"]:
        place = mount["Destination"]
        if mount.get("RW") and (mount["Type"] != "bind" or any(_is_around(place, one) for one in data)):
            empty.append(place)
        elif mount["Type"] != "tmpfs":
            binds.append(f"{mount.get('Name') or mount['Source']}:{place}:ro")
    return _started(engine, seen, _labels(original, helper, project), binds, dict.fromkeys(empty))


def start_beside(engine: Engine, original: Container, helper: str) -> str:
    """Start a container that does nothing, from the same image and with the same mounts as `original`; return its id.

    It has no network. `original` need not run.

    Args:
        helper: the name by which `clear_helpers` finds it.
    """
    with translated(engine.address):
        api = engine.client.api
        made = api.create_container(
            original.image_id,
            ["exec sleep 2147483647"],
            entrypoint=["/bin/sh", "-c"],
            user="0:0",
            labels={**OF_NO_PROJECT, LABEL: helper},
            healthcheck={"Test": ["NONE"]},
            host_config=api.create_host_config(volumes_from=[original.id], network_mode="none", init=True),
        )
        api.start(made["Id"])
    return str(made["Id"])


def _is_around(path: str, other: str) -> bool:
    """Return whether one of two paths is the other, or above it."""
    one, two = f"{path.rstrip('/')}/", f"{other.rstrip('/')}/"
    return one.startswith(two) or two.startswith(one)


def _labels(original: Container, helper: str, project: str) -> dict[str, str]:
    """Return the labels of a copy: `clear_helpers` finds it, and Compose takes it for the service in a project."""
    return {
        LABEL: helper,
        "com.docker.compose.project": project,
        "com.docker.compose.service": original.service,
    }


def _inspected(engine: Engine, original: Container) -> Mapping[str, Any]:
    with translated(engine.address):
        seen: Mapping[str, Any] = engine.client.api.inspect_container(original.id)
        return seen


def _started(
    engine: Engine, seen: Mapping[str, Any], labels: Mapping[str, str], binds: list[str], volumes: Iterable[str] = ()
) -> str:
    """Start a container as another one was made, but with these labels and mounts, and return its id."""
    config, host = seen["Config"], seen["HostConfig"]
    with translated(engine.address):
        api = engine.client.api
        made = api.create_container(
            seen["Image"],
            config["Cmd"],
            entrypoint=config["Entrypoint"],
            environment=config["Env"],
            user=config["User"],
            working_dir=config["WorkingDir"],
            healthcheck=config.get("Healthcheck"),
            volumes=list(volumes),
            labels=dict(labels),
            host_config=api.create_host_config(
                binds=binds,
                network_mode="none",
                init=bool(host.get("Init")),
                tmpfs=host.get("Tmpfs") or None,
                mem_limit=host.get("Memory") or None,
                shm_size=host.get("ShmSize") or None,
            ),
        )
        api.start(made["Id"])
    return str(made["Id"])
