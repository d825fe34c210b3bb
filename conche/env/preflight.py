"""What must hold before anything is changed; every problem is named at once."""

from __future__ import annotations

from collections.abc import Iterator

from conche.engine import host
from conche.engine.connection import Engine
from conche.env.observe import Observed
from conche.errors import ConcheError, Refused, Unreachable
from conche.outcome import Plan

__all__ = ["check"]


def check(seen: Observed, plan: Plan, engine: Engine) -> None:
    """Refuse a plan that cannot succeed.

    Raises:
        Refused: with one problem as it is, or several in one list.
    """
    problems = [*_ports(seen, plan, engine), *_files(seen, plan, engine), *_disk(plan, engine)]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Refused(
            "preflight-failed",
            f"{len(problems)} things stand in the way; nothing was changed.",
            evidence=[f"{problem.code}: {problem.message}" for problem in problems],
            next_command="\n".join(dict.fromkeys(p.next_command for p in problems if p.next_command)),
        )


def _ports(seen: Observed, plan: Plan, engine: Engine) -> Iterator[ConcheError]:
    starting = {step.subject.removeprefix("service ") for step in plan if step.subject.startswith("service ")}
    for name in sorted(starting & seen.configuration.services.keys()):
        if any(container.state == "running" for container in seen.of(name)):
            continue
        for address, port in seen.configuration.services[name].ports:
            holder = host.listener(engine, address, port)
            if holder:
                yield Refused(
                    "port-taken",
                    f"Port {port}, which {name} publishes, is taken by {holder}.",
                    looked_at=[f"{address or 'every address'}:{port}"],
                    next_command=f"stop it, or change `environments.{seen.name}.port` in stack.yaml",
                )


def _files(seen: Observed, plan: Plan, engine: Engine) -> Iterator[ConcheError]:
    """Compose accepts a missing secret file or bind mount and fails half-way; a bind mount may even become a folder."""
    if not (engine.is_local and len(plan)):
        return
    for service in seen.configuration.services.values():
        missing = [path for path in (*service.secret_files, *service.binds) if not path.exists()]
        if missing:
            yield Refused(
                "file-missing",
                f"{service.name} mounts files that are not there: {', '.join(path.name for path in missing)}.",
                looked_at=[str(path) for path in missing],
                next_command="invoke secrets.render" if set(missing) <= set(service.secret_files) else "git status",
            )
        unreadable = [path for path in service.binds if path.is_dir() and not path.stat().st_mode & 0o005]
        if unreadable and unreadable[0].stat().st_uid == 0:
            yield Refused(
                "bind-mount-unreadable",
                f"{service.name} does not run as root and cannot read {unreadable[0]}.",
                next_command=f"chmod -R o+rX '{unreadable[0]}'",
            )


def _disk(plan: Plan, engine: Engine) -> Iterator[ConcheError]:
    needed = max((host.MIN_FREE.get(step.action, host.MIN_FREE["start"]) for step in plan), default=0)
    free = host.free_disk(engine)
    if free is not None and free < needed:
        yield Unreachable(
            "disk-full",
            f"The engine's disk has {free / 1024**2:.0f} MiB free; {needed / 1024**2:.0f} MiB are wanted.",
            next_command="docker system df\ndocker builder prune",
        )
