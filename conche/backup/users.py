"""The containers that use what a restore exchanges: found by their mounts, stopped for it, and started again.

A container that keeps running while its folder is exchanged would go on writing into the folder that was put aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from conche.backup.exchange import Journal, Stopped
from conche.backup.site import Site
from conche.backup.swap import Swap
from conche.engine import containers, health, swarm_places, volumes
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.swarm_places import Serving
from conche.engine.task_containers import SERVICE
from conche.errors import Refused, Restored, Unreachable

__all__ = [
    "User",
    "Users",
    "of_journal",
    "of_places",
    "of_services",
    "of_stopped",
    "require_resting",
    "require_stoppable",
    "since",
    "start",
    "stop",
]

RUNNING = ("running", "paused", "restarting")
LOOKS = 5
"""Number of times that users are looked for and stopped, until none runs any more."""

NUMBER = "%Y%m%dT%H%M%S%f"
"""The format of a restore's number: the moment when it began, in UTC."""


@dataclass(frozen=True)
class User:
    """A running container, and the engine it is on.

    Attributes:
        address: the engine's address, as in stack.yaml.
    """

    address: str | None
    engine: Engine
    container: Container


Users = Mapping[str, User]
"""Running containers by id."""


def of_places(site: Site, paths: Iterable[Path], swaps: Iterable[Swap]) -> dict[str, User]:
    """Return the running containers that use one of these paths of this machine, or one of these volumes."""
    wanted: dict[str | None, list[str]] = {}
    for swap in swaps:
        wanted.setdefault(swap.engine, []).append(swap.volume)
    found: dict[str, User] = {}
    for address, names in wanted.items():
        found |= _running(address, names)
    texts = [str(path.absolute()) for path in paths]
    for address in _on_this_machine(site) if texts else ():
        try:
            found |= _running(address, texts)
        except Unreachable as error:
            site.say(f"warning: could not check whether containers use what is restored: {error.message}")
    return found


def of_services(site: Site, environment: str, services: Iterable[str]) -> dict[str, User]:
    """Return the running containers of some services.

    Raises:
        Refused: on a swarm, one of them is not scaled to nothing.
    """
    address = site.stack.environments[environment].engine
    engine, names = Engine(address), set(services)
    if site.stack.environments[environment].swarm and names:
        stack = site.stack.project(environment)
        _require_at_nothing(engine, [one for one in swarm_places.of_stack(engine, stack) if one.service in names])
        return {}
    project = containers.of_project(engine, site.stack.project(environment)) if names else ()
    return {one.id: User(address, engine, one) for one in project if one.service in names and one.state in RUNNING}


def of_journal(site: Site, journal: Journal) -> dict[str, User]:
    """Return the running containers that use what a restore has begun to exchange, and those that it had stopped."""
    found = of_places(site, [Path(pair.live) for pair in journal.pairs], journal.swaps)
    return found | {one.container.id: one for one in of_stopped(journal) if one.container.state in RUNNING}


def of_stopped(journal: Journal) -> list[User]:
    """Return the containers that a restore has stopped, if they still exist."""
    asked = [(one, Engine(one.engine)) for one in journal.stopped]
    return [
        User(one.engine, engine, seen) for one, engine in asked if (seen := containers.read(engine, one.id)) is not None
    ]


def require_resting(site: Site, swaps: Iterable[Swap]) -> None:
    """Refuse, before anything is touched, if a swarm's service uses one of these volumes, here or on another node."""
    swarms = {one.engine for one in site.stack.environments.values() if one.swarm}
    for swap in swaps:
        if swap.engine in swarms:
            engine = Engine(swap.engine)
            _require_at_nothing(engine, swarm_places.require_here(engine, swap.volume))


def _require_at_nothing(engine: Engine, serving: Iterable[Serving]) -> None:
    using = [one for one in serving if one.replicas != 0 and not one.ended]
    if not using:
        return
    names, scaled = [one.name for one in using], [one for one in using if one.replicas]
    # One that nothing holds here would leave no trace of where its data are, and might come back on another node.
    commands = [
        f"docker service update --constraint-add {one.pin} --replicas 0 {one.name}" for one in scaled if one.pin
    ]
    if at_nothing := " ".join(f"{one.name}=0" for one in scaled if not one.pin):
        commands.append(f"docker service scale {at_nothing}")
    if scaled:
        back = " ".join(f"{one.name}={one.replicas}" for one in scaled)
        commands[-1] += f"    # and after the restore: docker service scale {back}"
    if removed := " ".join(one.name for one in using if not one.replicas):
        commands.append(f"docker service rm {removed}    # and deploy after the restore")
    verb = "uses" if len(using) == 1 else "use"
    raise Refused(
        "restore-under-swarm",
        f"{' and '.join(names)} {verb} the data to exchange, and the swarm would replace a task that is stopped.",
        looked_at=[f"service {name} on {engine.address}" for name in names],
        next_command="\n".join(commands),
    )


def require_stoppable(users: Users) -> None:
    """Refuse, before anything is touched, if a user cannot be stopped and started again."""
    for user in users.values():
        one = user.container
        if task := one.labels.get(SERVICE):
            raise Refused(
                "restore-under-swarm",
                f"{one.name} uses the data to exchange, and the swarm would replace it.",
                looked_at=[f"service {task} on {user.engine.address}"],
                next_command=f"docker service scale {task}=0    # and scale it back after the restore",
            )
        if one.goes_when_stopped:
            raise Refused(
                "restore-would-remove",
                f"{one.name} uses the data to exchange, and was started with --rm: stopping it would remove it.",
                looked_at=[f"container {one.id[:12]} on {user.engine.address}"],
                next_command=f"docker stop {one.name}    # if it may be removed; then try again",
            )


def stop(site: Site, journal: Journal, look: Callable[[], Users]) -> dict[str, User]:
    """Stop every user, journalling each one first, until none runs; return those that ran.

    Raises:
        Refused: a user cannot be stopped, or users are started again as fast as they are stopped.
    """
    stopped: dict[str, User] = {}
    for _ in range(LOOKS):
        seen = look()
        if not seen:
            return stopped
        require_stoppable(seen)
        stopped = {**seen, **stopped}
        known = {one.id for one in journal.stopped}
        journal.stopped += [
            Stopped(one.address, one.container.id, one.container.name) for id_, one in seen.items() if id_ not in known
        ]
        journal.write(site.own)
        for user in seen.values():
            site.say(f"stopping {user.container.name}")
            containers.stop(user.engine, user.container)
    raise Refused(
        "restore-users-return",
        f"{', '.join(one.container.name for one in seen.values())}: something starts it again each time it is stopped.",
        next_command="stop whatever starts it, then try again",
    )


def start(site: Site, users: Iterable[User], *, wait: bool = True) -> None:
    """Start what was stopped, and wait until it works.

    Raises:
        Restored: it does not work.
    """
    every = list(users)
    for user in every:
        site.say(f"starting {user.container.name}")
        containers.start(user.engine, user.container.id)
    for user in every if wait else ():
        _require_well(user)


def _require_well(user: User) -> None:
    engine, one = user.engine, user.container
    service = replace(containers.definition(engine, one), name=one.service or one.name)
    waiting = health.wait(engine, lambda: _now(engine, one.id), {one.service: service})
    if waiting.failed:
        raise Restored(
            "restore-unhealthy",
            f"{one.name} {next(iter(waiting.failed.values()))} with the restored data.",
            evidence=containers.last_lines(engine, one.id, 8),
        )


def since(users: Users, number: str) -> list[str]:
    """Return the names of the containers that have run since before the restore with this number."""
    moment = datetime.strptime(number, NUMBER).replace(tzinfo=UTC)
    every = (user.container for user in users.values())
    return sorted(one.name for one in every if one.started_at is not None and one.started_at < moment)


def _running(address: str | None, places: Iterable[str]) -> dict[str, User]:
    engine = Engine(address)
    found = volumes.using(engine, *places)
    return {one.id: User(address, engine, one) for one in found if one.state in RUNNING}


def _on_this_machine(site: Site) -> list[str | None]:
    """Return the engines that run on this machine, each once; without its socket an engine does not exist."""
    every = [None, *(one.engine for one in site.stack.environments.values())]
    known: dict[str, str | None] = {}
    for address in every:
        engine = Engine(address)
        if engine.is_local and Path(engine.address.removeprefix("unix://")).exists():
            known.setdefault(engine.address, address)
    return list(known.values())


def _now(engine: Engine, container_id: str) -> list[Container]:
    seen = containers.read(engine, container_id)
    return [seen] if seen else []
