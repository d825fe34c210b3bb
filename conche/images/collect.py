"""The registry's garbage collection: layers that no manifest names any more leave its disk.

It must not run beside uploads, whose layers no manifest names yet, so the registry is stopped meanwhile.
Source: https://distribution.github.io/distribution/about/garbage-collection/
"""

from __future__ import annotations

from conche.engine import containers
from conche.engine.connection import Engine, translated
from conche.errors import Refused
from conche.output import Progress
from conche.process import run, signals_deferred
from conche.stack import Stack

__all__ = ["collect"]

COLLECT = (
    'exec "$(command -v registry || command -v docker-registry)" garbage-collect '
    '"${REGISTRY_CONFIGURATION:-/etc/docker/registry/config.yml}"'
)
"""The official image calls the program `registry`, Debian `docker-registry`."""


def collect(stack: Stack, progress: Progress) -> None:
    """Stop the registry, collect with its own image, settings and volumes, and start it again, whatever happens.

    Raises:
        Refused: the registry is no container of this engine.
        ToolFailed: the collection failed; the registry runs again.
    """
    engine = Engine()
    port = stack.registry.rpartition(":")[2]
    found = containers.publishing(engine, int(port)) if port.isdigit() else None
    if found is None:
        raise Refused(
            "registry-not-here",
            f"{stack.registry} is no container of this engine, so its garbage is somebody else's to collect.",
            looked_at=[engine.address],
        )
    with translated(engine.address):
        variables = dict(line.split("=", 1) for line in engine.client.api.inspect_container(found.id)["Config"]["Env"])
    argv = ["docker", "run", "--rm", "--network", "none", "--volumes-from", found.id, "--entrypoint", "/bin/sh"]
    argv += [part for name in variables for part in ("--env", name)]
    progress.step("stopping the registry for its garbage collection")
    try:
        containers.stop(engine, found.id)
        done = run(
            [*argv, found.image_id, "-c", COLLECT],
            extra_env={**engine.cli_environment(), **variables},
            on_line=progress.detail,
            timeout=3600,
        )
    finally:
        with signals_deferred():
            containers.restart(engine, found)
    progress.step("the registry runs again")
    done.require("the registry's garbage collection")
