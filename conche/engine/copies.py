"""Runs a copy of a service on other data, without network, to test whether the data are good."""

from __future__ import annotations

from conche.engine.connection import Engine, translated
from conche.engine.containers import Container
from conche.engine.volumes import LABEL

__all__ = ["create_volume", "start_copy"]


def create_volume(engine: Engine, name: str, beside: str) -> None:
    """Create a volume labelled as a helper of the volume `beside`."""
    with translated(engine.address):
        engine.client.api.create_volume(name, labels={LABEL: beside})


def start_copy(engine: Engine, original: Container, volume: str, instead: str, project: str) -> str:
    """Start a container like `original` with the volume `instead` in place of `volume`, and return its id.

    It has no network and no published ports, and all its other mounts are read-only.
    """
    with translated(engine.address):
        api = engine.client.api
        seen = api.inspect_container(original.id)
        config = seen["Config"]
        binds = []
        for mount in seen["Mounts"]:
            source = mount.get("Name") or mount["Source"]
            ours = volume in (mount.get("Name"), mount.get("Source"))
            binds.append(f"{instead if ours else source}:{mount['Destination']}{'' if ours else ':ro'}")
        made = api.create_container(
            seen["Image"],
            config["Cmd"],
            entrypoint=config["Entrypoint"],
            environment=config["Env"],
            user=config["User"],
            working_dir=config["WorkingDir"],
            healthcheck=config.get("Healthcheck"),
            labels={
                LABEL: volume,
                "com.docker.compose.project": project,
                "com.docker.compose.service": original.service,
            },
            host_config=api.create_host_config(
                binds=binds,
                network_mode="none",
                init=bool(seen["HostConfig"].get("Init")),
                tmpfs=seen["HostConfig"].get("Tmpfs") or None,
                mem_limit=seen["HostConfig"].get("Memory") or None,
            ),
        )
        api.start(made["Id"])
    return str(made["Id"])
