"""A container for one run beside another one: of its image, with its settings, volumes and networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from conche.engine import containers
from conche.engine.connection import Engine, translated
from conche.engine.state import packed
from conche.process import Captured, Completed
from conche.process import run as run_process

__all__ = ["beside", "left", "run", "within"]

HOME = "/tmp"  # noqa: S108 - in a container that nobody else has
"""A folder that each image has."""


def beside(engine: Engine, container_id: str, command: Sequence[str], labels: Mapping[str, str]) -> str:
    """Make it, and do not start it yet; settings go to the engine in the request and into no argv.

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
            labels=dict(labels),
            healthcheck={"test": ["NONE"]},
            host_config=api.create_host_config(
                volumes_from=[container_id], network_mode=other["HostConfig"]["NetworkMode"]
            ),
        )
    return str(made["Id"])


def run(engine: Engine, container_id: str, on_line: Callable[[Captured], None]) -> Completed:
    """Start it, and wait for its end."""
    argv = ["docker", "start", "--attach", container_id]
    return run_process(argv, extra_env=engine.cli_environment(), on_line=on_line, timeout=3600)


def left(engine: Engine, label: str) -> dict[str, str]:
    """Such containers that are still there: id -> the label's value."""
    with translated(engine.address):
        found = engine.client.api.containers(all=True, filters={"label": label})
    return {one["Id"]: one["Labels"][label] for one in found}


@contextmanager
def within(engine: Engine, image: str, network: str, files: Mapping[str, bytes], seconds: int) -> Iterator[str]:
    """A container in a network that does nothing but be there, to run programs in; it goes at the end.

    Args:
        files: what it has in its `CURL_HOME`.
        seconds: after which it ends by itself, where whoever made it was killed.
    """
    api = engine.client.api
    with translated(engine.address):
        made = api.create_container(
            image,
            entrypoint=["sleep", str(seconds)],
            command=[],
            environment={"CURL_HOME": HOME},
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
