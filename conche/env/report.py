"""Reports on an environment: the table and the JSON come from one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from conche.engine.containers import Container
from conche.engine.health import falls_over
from conche.env.observe import Observed
from conche.env.plan import drift, since, works
from conche.outcome import Table
from conche.stack import Environment
from conche.supply.reference import short
from conche.units import span

__all__ = ["as_json", "is_well", "nothing_written", "remarks", "strays", "table", "unreached"]

COLUMNS = ("service", "state", "health", "image", "revision", "ports", "uptime", "drift")


def nothing_written(environment: str, service: str | None) -> str:
    """Return what is shown in place of an empty log."""
    whose = f"{service} of {environment}" if service else environment
    return f"{whose} has no container, or its log is empty. Next: invoke env.status --env {environment}"


def as_json(seen: Observed, environment: Environment) -> dict[str, object]:
    """Return an environment as JSON: `environment`, `url`, `up`, `healthy` and one object per service."""
    differences = drift(seen)
    return {
        "environment": seen.name,
        "url": environment.health,
        "up": bool(seen.containers),
        "healthy": is_well(seen),
        "services": [_service(container, differences) for container in seen.containers]
        + [_absent(name, differences) for name in _missing(seen)],
        "missing_networks": list(seen.missing_networks),
        "leftovers": [container.name for container in seen.leftovers],
        "oneoff": [container.name for container in seen.oneoff],
        "release": seen.release or None,
        "changed_since_release": list(seen.changed),
        "interrupted": seen.interrupted or None,
        "astray": seen.astray or None,
        "unread": seen.unread or None,
        "tailnet": [asdict(one) for one in seen.sidecars],
    }


def table(seen: Observed) -> Table:
    """Return an environment as a table for people."""
    differences = drift(seen)
    rows = [_row(container, differences) for container in seen.containers]
    rows += [
        (name, "absent", "none", seen.configuration.services[name].image, "", "", "", _said(differences, name))
        for name in _missing(seen)
    ]
    columns: tuple[str, ...] = COLUMNS
    if seen.sidecars:
        columns = (*COLUMNS, "tailnet")
        on_it = {one.service: str(one) for one in seen.sidecars}
        rows = [(*row, on_it.get(row[0], "")) for row in rows]
    release = f", release {seen.release}" if seen.release else ""
    return Table(columns, tuple(rows), title=f"{seen.name} ({seen.configuration.project}{release})")


def remarks(seen: Observed) -> list[str]:
    """Return remarks: wrong answers, changed files, leftovers, an interruption, what was made by hand."""
    name = seen.name
    said = [f"{seen.interrupted} was interrupted. Next: invoke env.recover --env {name}"] if seen.interrupted else []
    if seen.unread:
        said.append(f"{name}: {seen.unread} This shows what the engine has of {seen.configuration.project}.")
    said += unreached(seen)
    if seen.astray:
        said.append(f"{seen.astray}. Next: invoke env.recover --env {name}")
    if seen.release and seen.leftovers:
        names = ", ".join(container.name for container in seen.leftovers)
        said.append(f"left over from earlier releases: {names}. Next: invoke env.recover --env {name}")
    said += strays(seen)
    said += [
        f"{one.name} was made by docker compose run of {one.service}{since(one)}. Next: docker rm --force {one.name}"
        for one in seen.oneoff
    ]
    if seen.changed:
        said.append(f"changed since {seen.release}: {', '.join(seen.changed)}. Next: invoke env.deploy --env {name}")
    return said


def strays(seen: Observed) -> list[str]:
    """Describe containers of services that are no longer in the files, each with the command that removes it."""
    return [
        f"{one.name} belongs to the service {one.service}, which is no longer in a Compose file. "
        f"Next: docker rm --force {one.name}"
        for one in seen.containers
        if one.service not in seen.configuration.services.keys() | seen.optional
    ]


def unreached(seen: Observed) -> list[str]:
    """Describe what keeps people on the tailnet from reaching the environment."""
    return [f"{one.service} {problem}" for one in seen.sidecars for problem in one.problems]


def is_well(seen: Observed) -> bool:
    """Return whether it is up, every service healthy or done and reachable, users' answers right, nothing drifted."""
    services = seen.configuration.services
    working = all(works(services.get(container.service), container) for container in seen.containers)
    reached = not any(one.problems for one in seen.sidecars)
    return bool(seen.containers) and working and reached and not (seen.astray or seen.unread) and not drift(seen)


def _missing(seen: Observed) -> Sequence[str]:
    return [name for name in seen.configuration.services if not seen.of(name)]


def _service(container: Container, differences: Mapping[str, str]) -> dict[str, object]:
    return {
        "service": container.service,
        "container": container.name,
        "state": container.state,
        "health": container.health,
        "image": container.image,
        "image_id": container.image_id,
        "revision": container.revision,
        "ports": list(container.ports),
        "started_at": container.started_at.isoformat() if container.started_at else None,
        "restarts": container.restarts,
        "drift": differences.get(container.service, ""),
    }


def _absent(name: str, differences: Mapping[str, str]) -> dict[str, object]:
    return {"service": name, "container": None, "state": "absent", "health": "none", "drift": differences.get(name, "")}


def _row(container: Container, differences: Mapping[str, str]) -> tuple[str, ...]:
    return (
        container.service,
        container.state,
        _health(container),
        short(container.image),
        container.revision or "unknown",
        ", ".join(port.removesuffix("/tcp") for port in container.ports),
        _uptime(container),
        _said(differences, container.service),
    )


def _health(container: Container) -> str:
    times = f"restarted {container.restarts} time{'' if container.restarts == 1 else 's'}"
    return f"{container.health}, {times}" if falls_over(container) else container.health


def _said(differences: Mapping[str, str], service: str) -> str:
    return f"drift: {differences[service]}" if service in differences else "none"


def _uptime(container: Container) -> str:
    if container.started_at is None or container.state != "running":
        return ""
    return span((datetime.now(UTC) - container.started_at).total_seconds())
