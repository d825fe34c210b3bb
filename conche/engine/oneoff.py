"""Runs one-off containers beside another container, with its image, settings, volumes and networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from conche.engine import containers
from conche.engine.connection import OF_NO_PROJECT, Engine, translated
from conche.engine.state import packed
from conche.process import Captured, Completed
from conche.process import run as run_process

__all__ = ["beside", "left", "run", "within"]

HOME = "/tmp"  # noqa: S108 - in a container that nobody else has
"""A folder that every image has."""


def beside(engine: Engine, container_id: str, command: Sequence[str], labels: Mapping[str, str]) -> str:
    """Create the container without starting it; its settings go to the engine in the request, not in argv.

    Returns:
        Its id.
    """
    with translated(engine.address):
        api = engine.client.api
        other = api.inspect_container(container_id)
        made = api.create_container(
            other["Image"],
            entrypoint=list(command),
            command=[],
            environment=other["Config"].get("Env") or [],
            user=other["Config"].get("User") or None,
            labels={**OF_NO_PROJECT, **labels},
            healthcheck={"test": ["NONE"]},
            host_config=api.create_host_config(
                volumes_from=[container_id], network_mode=other["HostConfig"]["NetworkMode"]
            ),
        )
    return str(made["Id"])


def run(engine: Engine, container_id: str, on_line: Callable[[Captured], None]) -> Completed:
    """Start the container, and wait until it ends."""
    argv = ["docker", "start", "--attach", container_id]
    return run_process(argv, extra_env=engine.cli_environment(), on_line=on_line, timeout=3600)


def left(engine: Engine, label: str) -> dict[str, str]:
    """Return the remaining containers with this label: id -> the label's value."""
    with translated(engine.address):
        found = engine.client.api.containers(all=True, filters={"label": label})
    return {one["Id"]: one["Labels"][label] for one in found}


@contextmanager
def within(engine: Engine, image: str, network: str, files: Mapping[str, bytes], seconds: int) -> Iterator[str]:
    """Provide an idle container in a network to run programs in; it is removed at the end of the block.

    Args:
        files: contents of its `CURL_HOME`.
        seconds: time after which it ends by itself, in case its maker was killed.
    """
    api = engine.client.api
    with translated(engine.address):
        made = api.create_container(
            image,
            entrypoint=["sleep", str(seconds)],
            command=[],
            environment={"CURL_HOME": HOME},
            labels=OF_NO_PROJECT,
            healthcheck={"test": ["NONE"]},
            host_config=api.create_host_config(network_mode=network, auto_remove=True, init=True),
        )["Id"]
    try:
        with translated(engine.address):
            api.put_archive(made, HOME, packed(files, mode=0o644))
            api.start(made)
        yield str(made)
    finally:
        containers.remove(engine, made)
