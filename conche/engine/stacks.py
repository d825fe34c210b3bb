"""Records a stack at one moment and restores it, whoever made it.

A failed release must not leave less than it found. So services get back the exact definitions that the swarm had
before, and only what was added since is removed.
Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service/operation/ServiceUpdate
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conche.engine.connection import Engine, translated
from conche.engine.swarm import OURS, STACK, services
from conche.formats import STANDING

__all__ = ["Standing", "missing", "put_back", "standing", "sweep_since"]

TRIES = 5
"""How often writing a definition is tried while the swarm changes it too."""

SETTLED = ("", "completed")
"""States of an update that was not abandoned."""


@dataclass(frozen=True)
class Standing:
    """A stack at one moment.

    Attributes:
        specs: service, without the stack's name -> its whole definition.
        settled: services whose tasks all ran as wanted.
        made: ids of its networks, and of the secrets and configurations that we made.
    """

    specs: Mapping[str, Mapping[str, Any]] = field(repr=False, default_factory=dict)
    settled: frozenset[str] = frozenset()
    made: frozenset[str] = frozenset()

    def packed(self) -> bytes:
        """Return all of it, to be sealed: definitions contain the values of variables."""
        content = {"specs": dict(self.specs), "settled": sorted(self.settled), "made": sorted(self.made)}
        return json.dumps(STANDING.stamped(content)).encode()

    @classmethod
    def unpacked(cls, content: bytes) -> Standing:
        """Read what `packed` has made.

        Raises:
            WrittenByNewer: a later version has kept it in a format that this one does not know.
        """
        said = STANDING.opened(json.loads(content))
        return cls(said["specs"], frozenset(said["settled"]), frozenset(said["made"]))


def standing(engine: Engine, stack: str) -> Standing:
    """Record the stack as it is now."""
    found = _services(engine, stack)
    running = services(engine, stack)
    return Standing(
        {name: one["Spec"] for name, one in found.items()},
        frozenset(one.name for one in running if one.settled),
        frozenset(id_ for several in _made(engine, stack).values() for id_ in several),
    )


def put_back(engine: Engine, stack: str, before: Standing) -> None:
    """Give every service its former definition, recreate missing services, and remove new ones."""
    api: Any = engine.client.api
    now = _services(engine, stack)
    with translated(engine.address):
        for name, said in now.items():
            if name not in before.specs:
                api.remove_service(said["ID"])
    for name, spec in before.specs.items():
        if name in now:
            _write(engine, now[name]["ID"], spec)
        else:
            with translated(engine.address):
                api.create_service(spec["TaskTemplate"], spec["Name"], **_rest(spec))


def _write(engine: Engine, service: str, spec: Mapping[str, Any]) -> None:
    """Write a definition unless it is in effect already; the swarm may be rolling the service back meanwhile."""
    import docker.errors

    api: Any = engine.client.api
    for left in reversed(range(TRIES)):
        with translated(engine.address, but=(docker.errors.APIError,) if left else ()):
            said = api.inspect_service(service)
            # Writing the same definition again also ends an update that was paused or rolled back.
            if said["Spec"] == spec and (said.get("UpdateStatus") or {}).get("State", "") in SETTLED:
                return
            try:
                version = said["Version"]["Index"]
                api.update_service(service, version, spec["TaskTemplate"], spec["Name"], **_rest(spec))
            except docker.errors.APIError:
                if not left:
                    raise
            else:
                return


def _rest(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "labels": spec.get("Labels"),
        "mode": spec.get("Mode"),
        "update_config": spec.get("UpdateConfig"),
        "rollback_config": spec.get("RollbackConfig"),
        "endpoint_spec": spec.get("EndpointSpec"),
    }


def missing(engine: Engine, stack: str, before: Standing) -> list[str]:
    """Describe the services that worked before but are now gone, defined differently or not settled."""
    found, running = _services(engine, stack), {one.name: one for one in services(engine, stack)}
    left = []
    for name in sorted(before.settled):
        one = running.get(name)
        if one is None or name not in found:
            left.append(f"{name} no longer exists")
        elif found[name]["Spec"] != before.specs[name]:
            left.append(f"{name} has another definition")
        elif not one.settled:
            left.append(f"{name}: {one.running} of {one.wanted} run {' '.join(one.errors)}".strip())
    return left


def sweep_since(
    engine: Engine, stack: str, before: Standing, seconds: float, pause: Callable[[float], None] = time.sleep
) -> None:
    """Remove networks, secrets and configurations added since, retrying while ending tasks still hold them."""
    import docker.errors

    api: Any = engine.client.api
    removers = {"network": api.remove_network, "secret": api.remove_secret, "config": api.remove_config}
    deadline = time.monotonic() + seconds
    while True:
        with translated(engine.address):
            left = {kind: ids - before.made for kind, ids in _made(engine, stack).items()}
            for kind, ids in left.items():
                for one in ids:
                    with contextlib.suppress(docker.errors.APIError):
                        removers[kind](one)
        if not any(left.values()) or time.monotonic() > deadline:
            return
        pause(0.3)


def _services(engine: Engine, stack: str) -> dict[str, dict[str, Any]]:
    api: Any = engine.client.api
    with translated(engine.address):
        found = api.services(filters={"label": f"{STACK}={stack}"})
    return {one["Spec"]["Name"].removeprefix(f"{stack}_"): one for one in found}


def _made(engine: Engine, stack: str) -> dict[str, frozenset[str]]:
    api: Any = engine.client.api
    ours = {"label": f"{OURS}={stack}"}
    with translated(engine.address):
        return {
            "network": frozenset(one["Id"] for one in api.networks(filters={"label": f"{STACK}={stack}"})),
            "secret": frozenset(one["ID"] for one in api.secrets(filters=ours)),
            "config": frozenset(one["ID"] for one in api.configs(filters=ours)),
        }
