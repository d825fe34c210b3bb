"""Plans a deploy from what runs and what a release is to be: steps, each with its cause and its undo; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from conche.engine.compose import Configuration
from conche.engine.containers import Container
from conche.engine.service import Service
from conche.env.contents import contents_of_service
from conche.env.plan import done
from conche.env.rollout.change import CHANGED, Change
from conche.env.rollout.handover import Handover
from conche.env.rollout.look import NOTHING
from conche.outcome import Action, Kind, Plan, Step, Table
from conche.release.records import Placed, Record
from conche.stack import Deploy
from conche.supply.reference import short

__all__ = ["Intent", "Transition", "changes", "named", "plan_record", "plan_release", "plan_route", "table"]

NO_HANDOVER = Handover()


@dataclass(frozen=True)
class Intent:
    """What a release is to make of an environment.

    Attributes:
        record: the release to come.
        own: pinned references of this stack's own images.
        forced: make what the edge serves anew, or without an edge the own images, even if nothing has changed.
        altered: service -> keys of its definition that have changed, as far as known.
    """

    configuration: Configuration
    record: Record
    deploy: Deploy
    own: Collection[str]
    forced: bool = False
    altered: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Transition:
    """A release that takes another one's place.

    Attributes:
        release: its id.
        before: the release that serves; `nothing` if none does.
        found: what becomes of each service.
        counts: service -> number of containers that it is to have.
        networks: external networks that are missing.
        handover: what gives way to a first release.
    """

    release: str
    before: str
    found: Sequence[Change]
    counts: Mapping[str, int] = field(default_factory=dict)
    networks: Sequence[str] = ()
    handover: Handover = NO_HANDOVER


def changes(intent: Intent, containers: Sequence[Container], current: Record | None) -> tuple[Change, ...]:
    """Decide what becomes of each service.

    Args:
        containers: those of the environment, of any service and release.
        current: the release that serves; None before the first.
    """
    configuration, wanted, deploy = intent.configuration, intent.record, intent.deploy
    found = [
        _change(
            service,
            [one for one in containers if one.service == name],
            current.services.get(name) if current else None,
            intent,
        )
        for name, service in configuration.services.items()
    ]
    idle = {one.service for one in containers if one.state != "running"}
    found = _with_what_they_share(named(found, intent, current), configuration, idle)
    running = {one.service for one in containers} - idle - {deploy.edge, deploy.serves}
    before = current.services if current else {}
    other = {name for name, placed in wanted.services.items() if name in before and not placed.same_as(before[name])}
    found = _with_what_follows(found, configuration, running, other)
    if any(change.strategy != "keep" for change in found) and deploy.serves is not None:
        # A release is one thing: whatever changes, what the edge serves carries its id.
        found = [
            Change(deploy.serves, "beside", change.cause or "another service changes", "none")
            if change.service == deploy.serves
            else change
            for change in found
        ]
    return tuple(found)


def named(found: Sequence[Change], intent: Intent, current: Record | None) -> tuple[Change, ...]:
    """Name in the causes what of each changed definition is another: names of contents and keys, never values."""
    wanted = intent.record
    # Contents of which a release has kept no fingerprint cannot be compared.
    before = {key: had for key, had in current.contents.items() if key in wanted.contents} if current else {}
    other = frozenset(key for key, had in before.items() if wanted.contents[key] != had)
    return tuple(_named(one, intent, other) for one in found)


def _named(change: Change, intent: Intent, contents: Collection[str]) -> Change:
    """Name in the cause what of a definition has changed: configs and secrets with other content, or keys."""
    if change.cause != CHANGED:
        return change
    rendered = intent.configuration.rendered
    held = contents_of_service(rendered, change.service) if rendered else ()
    other = [name for name in dict.fromkeys(map(str, held)) if name in contents]
    names = ", ".join(intent.altered.get(change.service, ()))
    if other:
        return replace(change, cause=f"{' and '.join(other)} changed")
    return replace(change, cause=f"{CHANGED}: {names}") if names else change


def _with_what_they_share(found: Sequence[Change], configuration: Configuration, idle: Collection[str]) -> list[Change]:
    """Make anew, too, what uses the network, processes, memory or volumes of a service that is made or starts anew.

    Args:
        idle: services with a container that does not run.
    """
    anew: dict[str, Change] = {}
    for change in found:
        service = configuration.services[change.service]
        shared = [name for name in service.shares if name in anew]
        if shared and change.strategy in ("keep", "start"):
            cause = f"shares resources of {shared[0]}, which is recreated"
            anew[change.service] = Change(change.service, "recreate", cause, _downtime(service))
        elif change.strategy in ("recreate", "replace", "create") or (
            change.strategy == "start" and change.service in idle
        ):
            anew[change.service] = change
    return [anew.get(change.service, change) for change in found]


def _with_what_follows(
    found: Sequence[Change], configuration: Configuration, running: Collection[str | None], other: Collection[str]
) -> list[Change]:
    """Restart, too, what follows a service that starts anew: what says `restart: true` in its `depends_on`.

    Args:
        running: services that may be restarted. A restart of the edge would cut off its users, and what it serves is
            made anew by every release.
        other: services that the current release has otherwise: a release that was killed may have replaced one of them,
            and not come to what follows it.
    """
    anew: dict[str, Change] = {}
    for change in found:
        followed = [one for one in configuration.services[change.service].follows if one in anew]
        if followed and change.strategy == "keep" and change.service in running:
            cause = f"follows {followed[0]}, which starts anew"
            anew[change.service] = Change(change.service, "restart", cause, "while it restarts")
        elif change.strategy in ("create", "recreate", "replace") or (
            change.strategy == "keep" and change.service in other
        ):
            anew[change.service] = change
    return [anew.get(change.service, change) for change in found]


def _change(service: Service, found: Sequence[Container], before: Placed | None, intent: Intent) -> Change:
    name, deploy, forced = service.name, intent.deploy, intent.forced
    wanted = intent.record.services[name]
    cause = _cause(found, before, wanted)
    other = any(container.config_hash not in wanted.hashes for container in found)
    if name == deploy.serves:
        cause = cause or ("asked for" if forced else "")
        return Change(name, "beside" if cause else "keep", cause, "none")
    if not found:
        first = Change(name, "create", "has no container", "none: it is not running yet")
        return first if service.replicas != 0 else Change(name, "keep", "", "none")
    tries = service.image in intent.own and service.tries and not (service.ends or service.completes)
    if deploy.edge is None and tries:
        cause = cause or ("runs a different definition" if other else "asked for" if forced else "")
        downtime = "seconds, after its successor has proved to work" if cause else "none"
        return Change(name, "replace" if cause else "keep", cause, downtime)
    if other:
        return Change(name, "recreate", cause or "runs a different definition", _downtime(service))
    idle = [one for one in found if one.state != "running" and not done(service, one)]
    if idle:
        return Change(name, "start", f"is {idle[0].state}", "none: it is not running")
    fewer = service.replicas is not None and len(found) < service.replicas
    cause = f"has {len(found)} of {service.replicas} containers" if fewer else ""
    return Change(name, "start" if fewer else "keep", cause, "none")


def _cause(found: Sequence[Container], before: Placed | None, wanted: Placed) -> str:
    if before is None:
        return "was never deployed"
    if before.image != wanted.image:
        return "its image changed"
    if before.definition != wanted.definition:
        return CHANGED
    if not found:
        return "has no container"
    ill = [one for one in found if one.state != "running" or one.health == "unhealthy"]
    return f"is {ill[0].health if ill[0].state == 'running' else ill[0].state}" if ill else ""


def _downtime(service: Service) -> str:
    limit = service.healthcheck.deadline if service.healthcheck else 30.0
    return f"it stops first; up to {limit:.0f} s until it is healthy"


def plan_release(transition: Transition, deploy: Deploy) -> Plan:
    """Plan the steps of a release; none if nothing changes."""
    if all(change.strategy == "keep" for change in transition.found):
        return Plan()
    record, *others = _steps(transition, deploy)
    made = [
        Step(Action.CREATE, Kind.NETWORK, name, "no such network on the engine", undo="remove it")
        for name in transition.networks
    ]
    return Plan((record, *made, *others))


def _steps(transition: Transition, deploy: Deploy) -> Iterator[Step]:
    release, before, found, handover = transition.release, transition.before, transition.found, transition.handover
    yield Step(Action.RECORD, Kind.RELEASE, release, "before anything is changed")
    if deploy.release_command:
        yield Step(Action.RUN, Kind.RELEASE_COMMAND, "", "deploy.release_command in stack.yaml")
    for change in found:
        if change.service not in (deploy.serves, deploy.edge) and change.strategy != "keep":
            yield _single(change)
    edge = [_single(change) for change in found if change.service == deploy.edge and change.strategy != "keep"]
    yield from [] if handover.holders else edge
    if deploy.serves is not None:
        served = deploy.serves
        cause = next(change.cause for change in found if change.service == served)
        count = transition.counts.get(served, 1)
        yield Step(
            Action.START,
            Kind.RELEASE,
            f"{release} of {served}",
            f"{cause}; {count} beside {before}",
            undo="remove them",
        )
        yield Step(Action.AWAIT, Kind.RELEASE, f"{release} of {served}", "all must be healthy")
        if handover.holders:
            yield from _taking_over(handover.holders, edge)
        else:
            yield Step(Action.PROBE, Kind.RELEASE, f"{release} of {served}", "through the edge's private entry")
            yield Step(Action.SWITCH, Kind.EDGE, f"to {release}", f"from {before}", undo=f"switch edge to {before}")
            yield Step(Action.DRAIN, Kind.EDGE, f"from {before}", "requests under way are completed")
        yield Step(Action.WATCH, Kind.RELEASE, f"{release} of {served}", f"for {deploy.observe:g} s, with its users")
    # The old ones still run until it is recorded that they are not needed: a full disk or an engine on its way down
    # might refuse to start them again.
    yield Step(Action.COMMIT, Kind.RELEASE, release, "it serves")
    if deploy.serves is not None and (before != NOTHING or handover.old):
        yield Step(Action.STOP, Kind.RELEASE, f"{before} of {deploy.serves}", "it is no longer used")
        yield Step(Action.REMOVE, Kind.RELEASE, f"{before} of {deploy.serves}", "it was replaced")


def _taking_over(holders: Sequence[Container], edge: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps that try the edge without its port before what has the port stops for it."""
    names = ", ".join(one.name for one in holders)
    for step in edge:
        yield Step(
            Action.TRY,
            Kind.EDGE,
            step.name,
            f"without its port, which {names} has; nothing stops yet",
            undo="remove it",
        )
    for one in holders:
        ports = ", ".join(map(str, one.publishes))
        yield Step(
            Action.STOP,
            Kind.CONTAINER,
            one.name,
            f"the edge takes over its port {ports}",
            undo="start it again",
        )
    for step in edge:
        yield replace(step, cause="has no container; downtime: from the stop above until it runs")


def plan_route(release: str, deploy: Deploy, before: str) -> Plan:
    """Plan the steps of a release that changes nothing but the edge's configuration."""
    steps = (
        Step(Action.RECORD, Kind.RELEASE, release, "before anything is changed"),
        Step(Action.PLACE, Kind.CONFIGURATION, f"of {release}", "it differs from the current one; nginx tests it"),
        Step(
            Action.SWITCH,
            Kind.EDGE,
            f"to {release}",
            f"from {before}; nothing is recreated",
            undo=f"switch edge to {before}",
        ),
        Step(Action.DRAIN, Kind.EDGE, f"from {before}", "requests under way are completed"),
        Step(Action.WATCH, Kind.RELEASE, f"{release} of {deploy.serves}", f"for {deploy.observe:g} s, with its users"),
        Step(Action.COMMIT, Kind.RELEASE, release, "it serves"),
    )
    return Plan(steps)


def plan_record(release: str, wanted: Record, current: Record | None) -> Plan:
    """Plan to record what env.up already runs as asked for, unless a release says so; then there are no steps."""
    if current is not None and _placed(wanted) == _placed(current):
        return Plan()
    steps = (
        Step(Action.RECORD, Kind.RELEASE, release, "it runs already; recorded for a rollback"),
        Step(Action.COMMIT, Kind.RELEASE, release, "it serves"),
    )
    return Plan(steps)


def _placed(record: Record) -> dict[str, tuple[str, str]]:
    return {name: (placed.image, placed.definition) for name, placed in record.services.items()}


def _single(change: Change) -> Step:
    undo = {"create": "remove it", "restart": "restart it again"}.get(change.strategy, "as it was before")
    return Step(
        Action(change.strategy), Kind.SERVICE, change.service, f"{change.cause}; downtime: {change.downtime}", undo=undo
    )


def table(found: Sequence[Change], configuration: Configuration, title: str) -> Table:
    """Return a table of the services, what becomes of each, and what its users notice."""
    rows = tuple(
        (one.service, one.strategy, short(configuration.services[one.service].image), one.cause or "-", one.downtime)
        for one in found
    )
    return Table(("service", "strategy", "image", "because", "downtime"), rows, title=title)
