"""Checks what must hold before anything is changed, and reports every problem at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conche.engine import host, networks, ports
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.engine.ports import Port
from conche.engine.rendered import named_twice
from conche.engine.service import Service
from conche.env.contents import contents_of_service, is_rendered, value_of
from conche.env.observe import Observed
from conche.env.waiting import never_healthy
from conche.errors import ConcheError, Refused, Unreachable
from conche.outcome import Action, Kind, Plan
from conche.stack import Secrets

__all__ = ["LOST", "check", "never_pulled", "see_ports", "taken"]

LOST = "git status    # shows what was deleted; what no commit has you have to put there"
"""The next command where a file is missing that is not written from the secrets."""


def check(
    seen: Observed, plan: Plan, compose: Compose, coming: Collection[Path] = (), section: Secrets | None = None
) -> None:
    """Refuse a plan that cannot succeed.

    Args:
        coming: files that are written before the plan is carried out.
        section: from which secrets.render writes files.

    Raises:
        Refused: one problem as it is, or several in one list.
    """
    services, project, engine = _planned(seen, plan), seen.configuration.project, compose.engine
    problems = [*taken(services, project, seen.name, engine), *_files(seen, plan, engine, coming, section)]
    problems += [*_disk(plan, engine), *_names(seen, plan), *_unpulled(seen, plan)]
    awaiting = never_healthy(engine, seen.configuration, [service.name for service in services])
    problems += [awaiting] if awaiting else []
    _raise([*problems, *_volumes(seen, plan, engine), *_variables(seen, plan, compose)])


def _raise(problems: Sequence[ConcheError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Refused(
            "preflight-failed",
            f"{len(problems)} problems were found; nothing was changed.",
            evidence=[f"{problem.code}: {problem.message}" for problem in problems],
            next_command="\n".join(dict.fromkeys(p.next_command for p in problems if p.next_command)),
        )


def _planned(seen: Observed, plan: Plan) -> list[Service]:
    """Return the services that the plan starts or replaces."""
    names = {step.name for step in plan if step.kind == Kind.SERVICE}
    return [service for name, service in seen.configuration.services.items() if name in names]


def see_ports(
    services: Sequence[Service], project: str, environment: str, engine: Engine, stopping: Sequence[str] = ()
) -> None:
    """Refuse services whose ports are taken, before the first of them is touched.

    Args:
        stopping: other services of the project that stop for them.

    Raises:
        Refused: naming the holder of one port, or of several in one list.
    """
    _raise([*taken(services, project, environment, engine, stopping)])


def taken(
    services: Sequence[Service], project: str, environment: str, engine: Engine, stopping: Sequence[str] = ()
) -> Iterator[ConcheError]:
    """Yield an error for each port that something else holds: a container that stays, a host process, another of these.

    Args:
        services: those to be started or replaced; their running containers give way.
    """
    if not any(service.ports for service in services):
        return
    names = {*stopping, *(service.name for service in services)}
    running = ports.publishers(engine)
    gives_way = [one for one in running if one.project == project and one.service in names and not one.oneoff]
    others = [one for one in running if one not in gives_way]
    own = [port for one in gives_way for port in one.ports]
    for number, service in enumerate(services):
        for port in service.ports:
            twice = [one for one in services[:number] if _both(port, one)]
            said = f"service {twice[0].name}" if twice else ports.holder(engine, port, others, own)
            if said:
                yield Refused(
                    "port-taken",
                    f"Port {port}, which {service.name} publishes, is taken by {said}.",
                    looked_at=[f"{port.address or 'every address'}:{port}"],
                    next_command=f"stop it, or change the port: `environments.{environment}.port` in stack.yaml, if the"
                    " Compose file has CONCHE_PORT there",
                )


def _both(port: Port, other: Service) -> bool:
    """Return whether another service of the same files publishes a port too; a range can do with another port."""
    return not port.last and any(not one.last and ports.overlap(port, one) for one in other.ports)


def _files(
    seen: Observed, plan: Plan, engine: Engine, coming: Collection[Path], section: Secrets | None
) -> Iterator[ConcheError]:
    """Find missing secrets, configs and bind mounts: Compose accepts them and fails half-way."""
    if not engine.is_local:
        return
    for service in _planned(seen, plan):
        wanted = (*service.secret_files, *service.config_files, *service.binds)
        missing = [path for path in wanted if path not in coming and not _there(path)]
        if missing:
            yield Refused(
                "file-missing",
                f"{service.name} mounts files that do not exist: {', '.join(path.name for path in missing)}.",
                looked_at=[str(path) for path in missing],
                next_command=f"invoke secrets.render\ninvoke env.up --env {seen.name}"
                if all(path in service.secret_files and is_rendered(str(path), section) for path in missing)
                else LOST,
            )
        # Root enters every folder; a container whose user the Compose file does not name may be root too.
        if service.user.split(":")[0] not in ("", "0", "root"):
            yield from _closed(service, [path for path in service.binds if _there(path)])


def _names(seen: Observed, plan: Plan) -> Iterator[ConcheError]:
    """Find two services with one name for their containers: Compose makes the first, and fails at the second."""
    if _planned(seen, plan):
        made = {
            name: body
            for name, body in seen.configuration.rendered["services"].items()
            if seen.configuration.services[name].replicas != 0
        }
        twice = named_twice(made, seen.name, seen.configuration.project)
        yield from [twice] if twice else []


def _unpulled(seen: Observed, plan: Plan) -> Iterator[ConcheError]:
    """Find images that are to be pulled, and that all of their services say are not."""
    for reference in [step.name for step in plan if (step.action, step.kind) == (Action.PULL, Kind.IMAGE)]:
        users = [service for service in seen.configuration.services.values() if service.image == reference]
        if users and reference not in seen.own and not any(service.pulled for service in users):
            yield never_pulled(reference, users)


def never_pulled(reference: str, users: Sequence[Service]) -> Refused:
    """Return the error for a missing image that none of its services lets be pulled."""
    return Refused(
        "image-never-pulled",
        f"The engine has no {reference}, and it is not pulled for {', '.join(one.name for one in users)}:"
        " pull_policy is never.",
        next_command="docker load --input FILE    # or build it; or take pull_policy out of the Compose file",
    )


def _volumes(seen: Observed, plan: Plan, engine: Engine) -> Iterator[ConcheError]:
    """Find missing external volumes: Compose starts nothing at all without those of any service, but looks late."""
    rendered = seen.configuration.rendered
    external = {key: str(one["name"]) for key, one in (rendered.get("volumes") or {}).items() if one.get("external")}
    if not external or not _planned(seen, plan):
        return
    there = networks.volumes(engine, tuple(external.values()))
    for key, name in external.items():
        users = [service for service, body in rendered["services"].items() if _mounts(body, key)]
        if users and name not in there:
            yield Refused(
                "volume-missing",
                f"{', '.join(users)} {'mounts' if len(users) == 1 else 'mount'} the external volume {name},"
                " which does not exist.",
                looked_at=[f"volumes.{key}.external in the Compose files"],
                next_command=f"docker volume create {name}",
            )


def _mounts(body: Mapping[str, Any], volume: str) -> bool:
    return any(one["type"] == "volume" and one.get("source") == volume for one in body.get("volumes") or ())


def _variables(seen: Observed, plan: Plan, compose: Compose) -> Iterator[ConcheError]:
    """Find unset variables of configs and secrets: Compose notices them only after it has begun."""
    rendered = seen.configuration.rendered
    wanted = [content for one in _planned(seen, plan) for content in contents_of_service(rendered, one.name)]
    for content in {str(one): one for one in wanted}.values():
        try:
            value_of(content, compose)
        except Refused as problem:
            yield problem


def _closed(service: Service, binds: Sequence[Path]) -> Iterator[ConcheError]:
    """Find folders that belong to root and let nobody else in."""
    for path in binds:
        seen = path.stat()
        if path.is_dir() and seen.st_uid == 0 and seen.st_mode & 0o005 != 0o005:
            yield Refused(
                "bind-mount-unreadable",
                f"{service.name} runs as user {service.user} and cannot read {path}.",
                next_command=f"chmod o+rx '{path}'",
            )


def _there(path: Path) -> bool:
    """Return whether a path exists; assume so inside a folder closed to this user, as the engine may still reach it."""
    try:
        return path.exists()
    except OSError:
        return True


def _disk(plan: Plan, engine: Engine) -> Iterator[ConcheError]:
    needed = max((host.MIN_FREE.get(step.action, host.MIN_FREE["start"]) for step in plan), default=0)
    free = host.free_disk(engine)
    if free is not None and free < needed:
        yield Unreachable(
            "disk-full",
            f"The engine's disk has {free / 1024**2:.0f} MiB free; {needed / 1024**2:.0f} MiB are needed.",
            next_command="docker system df\ndocker builder prune",
        )
