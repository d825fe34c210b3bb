"""Decides, from what was observed, which steps are needed and why; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from conche.engine import kept
from conche.engine.containers import Container
from conche.engine.health import falls_over
from conche.engine.service import Service
from conche.env.following import overdue
from conche.env.observe import Observed
from conche.outcome import Action, Kind, Plan, Step

__all__ = ["drift", "followed", "plan_down", "plan_up", "since", "works"]

ANEW = (Action.CREATE, Action.START, Action.RESTART, Action.RECREATE)
"""Actions after which a service has started anew."""


def plan_up(seen: Observed, *, build: bool = False, only: str | None = None, stale: Collection[str] = ()) -> Plan:
    """Plan the steps that make an environment, or one service of it, what its files say.

    Args:
        build: build this repository's images even if they exist.
        stale: services whose secret files have changed under them.
        only: one service, whose image is fetched anew; what it depends on stays untouched, and of the others only what
            shares its network, processes, memory or volumes is made anew with it.
    """
    services = {name: service for name, service in seen.configuration.services.items() if only in (None, name)}
    steps = _leftover_steps(seen)
    steps += [
        Step(Action.CREATE, Kind.NETWORK, name, "no such network on the engine", undo=f"remove network {name}")
        for name in seen.missing_networks
    ]
    image_steps = _image_steps(seen, services, build=build, refresh=only is not None)
    fresh = {step.name for step in image_steps}
    service_steps = _service_steps(seen, services, fresh, stale)
    if any(step.action in (Action.RECREATE, Action.CREATE) for step in service_steps):
        service_steps += _service_steps(seen, _sharing(seen, services), fresh, stale)
    return Plan((*steps, *image_steps, *followed(seen, service_steps)))


def followed(seen: Observed, steps: Iterable[Step]) -> list[Step]:
    """Return steps on services with a restart of each that runs and follows one that starts anew.

    What is in another's network has none after a restart of that one alone, and nobody notices.
    """
    planned = {step.name: step for step in steps}
    for name, service in seen.configuration.services.items():
        anew = [one for one in service.follows if one in planned and planned[one].action in ANEW]
        idle = name not in planned or planned[name].action == Action.AWAIT
        if anew and idle and name not in seen.spared and any(one.state == "running" for one in seen.of(name)):
            planned[name] = Step(Action.RESTART, Kind.SERVICE, name, f"follows {anew[0]}, which starts anew")
    return list(planned.values())


def _sharing(seen: Observed, services: Mapping[str, Service]) -> dict[str, Service]:
    """Return other services that share something of these, directly or indirectly, in order."""
    found: dict[str, Service] = {}
    for name, service in seen.configuration.services.items():
        if name not in services and not {*services, *found}.isdisjoint(service.shares):
            found[name] = service
    return found


def plan_down(
    seen: Observed,
    volumes: tuple[str, ...],
    strays: Sequence[Container] = (),
    networks: Sequence[str] = (),
    leaving: Sequence[Step] = (),
) -> Plan:
    """Plan the steps that take an environment down.

    Args:
        volumes: those to delete, with their data.
        strays: containers that `docker compose run` has made; they go with the project.
        networks: those of the project that nothing is in.
        leaving: what is done to nodes of a tailnet before they stop.
    """
    known = seen.configuration.services
    steps = [*(_left_over(one) for one in seen.leftovers), *leaving]
    steps += [
        Step(Action.STOP, Kind.SERVICE, name, "asked for")
        for name in sorted({c.service for c in seen.containers} & known.keys())
    ]
    steps += [
        Step(Action.REMOVE, Kind.CONTAINER, one.name, f"its service {one.service} is in no Compose file{since(one)}")
        for one in seen.containers
        if one.service not in known
    ]
    steps += [
        Step(Action.REMOVE, Kind.CONTAINER, one.name, f"made by docker compose run of {one.service}{since(one)}")
        for one in strays
    ]
    steps += [Step(Action.REMOVE, Kind.NETWORK, name, "no container of the environment uses it") for name in networks]
    steps += [Step(Action.DELETE, Kind.VOLUME, name, "--volumes", destroys=True) for name in volumes]
    return Plan(tuple(steps))


def drift(seen: Observed) -> Mapping[str, str]:
    """Return service -> how what runs differs from what the files say; services that agree are left out.

    An environment without any container is down, which is not drift.
    """
    if not seen.containers:
        return {}
    found = {}
    late = _overdue(seen)
    for name, service in seen.configuration.services.items():
        difference = _difference(seen, service) or _miscounted(seen, service) or late.get(name, "")
        if difference:
            found[name] = difference
    for container in seen.containers:
        if container.service not in seen.configuration.services.keys() | seen.optional:
            found[container.service] = "is in no Compose file"
    return found


def _leftover_steps(seen: Observed) -> list[Step]:
    interrupted = kept.interrupted(seen.leftovers, seen.containers)
    restored = [Step(Action.RESTORE, Kind.SERVICE, name, "its replacement was interrupted") for name in interrupted]
    doomed = [one for one in seen.leftovers if one.service not in interrupted or not _replacing(one)]
    return restored + [_left_over(one) for one in doomed]


def _left_over(one: Container) -> Step:
    return Step(Action.REMOVE, Kind.CONTAINER, one.name, f"left over from {_whence(one)}{since(one)}")


def since(one: Container) -> str:
    """Say since when a container that will be removed has been running: somebody may be at work in it."""
    running = one.state in ("running", "paused", "restarting") and one.started_at is not None
    return f", {one.state} since {one.started_at:%Y-%m-%d %H:%M:%S} UTC" if running else ""


def _replacing(leftover: Container) -> bool:
    return leftover.project.endswith(kept.BEFORE) or leftover.half_made


def _whence(leftover: Container) -> str:
    return "an interrupted replacement" if _replacing(leftover) else "an interrupted trial"


def _image_steps(seen: Observed, services: Mapping[str, Service], *, build: bool, refresh: bool) -> list[Step]:
    steps = {}
    may_be_pulled = {service.image for service in services.values() if service.pulled}
    for reference in {service.image: None for service in services.values()}:
        missing = seen.images.get(reference) is None
        cause = "no such image on the engine" if missing else "asked for"
        built_alone = reference in seen.unregistered and (missing or refresh)
        built_here = missing and (not refresh or reference not in may_be_pulled)
        if reference in seen.own and (build or built_here or built_alone):
            steps[reference] = Step(Action.BUILD, Kind.IMAGE, reference, cause)
        elif missing or (refresh and reference in may_be_pulled):
            steps[reference] = Step(Action.PULL, Kind.IMAGE, reference, cause)
    return list(steps.values())


def _service_steps(
    seen: Observed, services: Mapping[str, Service], fresh: set[str], stale: Collection[str]
) -> list[Step]:
    steps = []
    # A running container keeps the file it was started with.
    causes = {**_overdue(seen), **dict.fromkeys(stale, "one of its secret files changed")}
    for name, service in services.items():
        step = _service_step(seen, service, fresh)
        if (step is None or step.action in (Action.AWAIT, Action.UNPAUSE)) and name in causes and seen.of(name):
            step = Step(Action.RESTART, Kind.SERVICE, name, causes[name])
        steps += [step] if step else []
    return steps


def _service_step(seen: Observed, service: Service, fresh: set[str]) -> Step | None:
    found = seen.of(service.name)
    if service.name in kept.interrupted(seen.leftovers, seen.containers):
        return Step(Action.RECREATE, Kind.SERVICE, service.name, "its replacement was interrupted")
    if not found:
        first = Step(
            Action.CREATE, Kind.SERVICE, service.name, "has no container", undo=f"remove service {service.name}"
        )
        return first if service.replicas != 0 else None
    difference = _difference(seen, service, fresh) if service.replicas != 0 else ""
    miscounted = _miscounted(seen, service)
    if miscounted and not difference:
        return Step(Action.SCALE, Kind.SERVICE, service.name, miscounted, undo=f"scale service {service.name} back")
    return _state_step(service, found, difference)


def _state_step(service: Service, found: Sequence[Container], difference: str) -> Step | None:
    states = {container.state for container in found}
    if "paused" in states and not difference:
        return Step(Action.UNPAUSE, Kind.SERVICE, service.name, "is paused")
    lively = ("running", "paused", "restarting")
    idle = [one for one in found if one.state not in lively and not done(service, one)]
    if idle and (len(idle) == len(found) or not difference):
        among = "" if len(idle) == len(found) else f", {len(idle)} of {len(found)}"
        return Step(
            Action.START, Kind.SERVICE, service.name, f"is {idle[0].state}{among}", undo=f"stop service {service.name}"
        )
    if difference:
        return Step(Action.RECREATE, Kind.SERVICE, service.name, difference)
    return _health_step(service.name, found)


def _health_step(name: str, found: Sequence[Container]) -> Step | None:
    health = {container.health for container in found}
    if any(container.state == "restarting" for container in found):
        # The engine ignores a start of a container that it is about to restart itself.
        return Step(Action.RESTART, Kind.SERVICE, name, _fallen(found))
    if "unhealthy" in health:
        return Step(Action.RESTART, Kind.SERVICE, name, "is unhealthy")
    if any(falls_over(one) for one in found):
        return Step(Action.AWAIT, Kind.SERVICE, name, _fallen(found))
    return Step(Action.AWAIT, Kind.SERVICE, name, "is starting") if "starting" in health else None


def _fallen(found: Sequence[Container]) -> str:
    times = max(one.restarts for one in found)
    return f"has been restarted {times} time{'' if times == 1 else 's'}, and still fails"


def works(service: Service | None, container: Container) -> bool:
    """Return whether a container is running and healthy, or a one-shot that has ended well."""
    if container.state == "running":
        return container.health in ("healthy", "none") and not falls_over(container)
    return service is not None and done(service, container)


def done(service: Service, container: Container) -> bool:
    """Return whether a container is a one-shot that has ended well."""
    return (service.ends or service.completes) and container.state == "exited" and container.exit_code == 0


def _difference(seen: Observed, service: Service, fresh: Collection[str] = ()) -> str:
    """Describe how a service differs from what its files say; plans and reports use this same answer.

    Args:
        fresh: images that are about to be built or pulled.
    """
    found = seen.of(service.name)
    if not found:
        return "" if service.replicas == 0 else "has no container"
    if service.name in seen.outdated:
        return seen.outdated[service.name]
    shared = [seen.configuration.services[name] for name in service.shares if name in seen.configuration.services]
    if anew := [other.name for other in shared if _difference(seen, other, fresh)]:
        return f"shares resources of {anew[0]}, which is recreated"
    own = next((reason for container in found if (reason := _changed(seen, service, container))), "")
    return own or ("its image is new" if service.image in fresh else "")


def _overdue(seen: Observed) -> dict[str, str]:
    """Return service -> why it has to be restarted for one that it follows; plans and reports use this same answer."""
    follows = {name: service.follows for name, service in seen.configuration.services.items()}
    return overdue(follows, seen.containers, spared=seen.spared)


def _miscounted(seen: Observed, service: Service) -> str:
    there, wanted = len(seen.of(service.name)), service.replicas
    if wanted is None or there == wanted:
        return ""
    return f"has {there} container{'' if there == 1 else 's'}, but should have {wanted}"


def _changed(seen: Observed, service: Service, container: Container) -> str:
    if container.config_hash not in service.hashes:
        names = ", ".join(seen.altered.get(service.name, ()))
        return f"its definition changed: {names}" if names else "its definition changed"
    image = seen.images.get(service.image)
    return "its image changed" if image and not seen.same_image(container.image_id, image) else ""
