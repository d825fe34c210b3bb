"""Scales services of a swarm to nothing while their data are read, and back afterwards whatever happens.

A swarm replaces a task that is stopped by another one, which would write into the same volume. What a service is to be
scaled back to is noted on disk before it is scaled to nothing; after a kill the next command finds the note.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conche.backup import belief, holding, notes
from conche.backup.holding import Waited
from conche.backup.site import Site
from conche.engine import swarm, swarm_places, volumes
from conche.engine.connection import Engine
from conche.engine.swarm_places import Serving
from conche.errors import ConcheError, NotRestored, Refused, Unreachable
from conche.files import write_atomic
from conche.formats import SCALED
from conche.process import signals_deferred
from conche.stack import Component

__all__ = ["NOTE", "Scaled", "give_up", "held", "left", "recover", "require_none_left", "require_understood"]

NOTE = "scaled.json"

RESTING = 120.0
"""Seconds within which the tasks of a service that is scaled to nothing have to end."""

SETTLING = 120.0
"""Seconds within which a service has to run again after it was scaled back."""


@dataclass(frozen=True)
class Scaled:
    """Services that were scaled to nothing, and the volume that they use.

    Attributes:
        services: name of each service -> how many tasks it had.
    """

    engine: str | None
    volume: str
    services: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Any) -> Scaled:
        services = {str(name): int(replicas) for name, replicas in content["services"].items()}
        return cls(content["engine"], content["volume"], services)


@contextlib.contextmanager
def held(site: Site, component: Component, engine: Engine) -> Iterator[Waited]:
    """Have whatever uses a component's volume wait for this block, as the component says; use within `holding.noted`.

    Raises:
        Refused: a service of a swarm uses it where it cannot be paused, or cannot be scaled to nothing and back.
        NotRestored: something does not go on; the note of it stays.
    """
    assert component.environment is not None
    assert component.volume is not None
    environment, how = site.stack.environments[component.environment], component.consistency
    address = environment.engine
    serving: Sequence[Serving] = ()
    if environment.swarm and how != "live":
        _go_on(site, engine, Scaled(address, component.volume))
        serving = [one for one in swarm_places.require_here(engine, component.volume) if not one.ended]
    for one in serving:
        if how == "pause" and one.elsewhere:
            raise Refused(
                "pause-elsewhere",
                f"{one.name} uses {component.volume} on {', '.join(one.elsewhere)}: nothing can be paused there.",
                looked_at=[f"engine {engine.address}"],
                next_command="set consistency: stop in stack.yaml, or live",
            )
    with contextlib.ExitStack() as stack:
        rested = Waited()
        if how == "stop":
            rested = stack.enter_context(_at_rest(site, engine, address, component.volume, serving))
        users = volumes.using(engine, component.volume)
        waited = stack.enter_context(holding.held(site.target.store, engine, address, users, how))
        yield waited
    if rested.words != Waited().words:
        waited.words = rested.words if waited.words == Waited().words else f"{rested.words}; {waited.words}"
    waited.ill = (*rested.ill, *waited.ill)


def _go_on(site: Site, engine: Engine, own: Scaled) -> None:
    """Scale back what an earlier command has left at nothing of a volume: another note would be written over its note.

    Args:
        own: names the engine and the volume.

    Raises:
        NotRestored: it cannot be scaled back; the note stays.
    """
    file = _file(site.target.store, own)
    try:
        note = _parsed(file)
    except notes.Damaged:
        note = None
    if note is not None and (note.engine, note.volume) == (own.engine, own.volume):
        _scale_back(engine, note, site)
        file.unlink(missing_ok=True)
    elif file.exists():
        # What it says is told by each command, until somebody has looked.
        os.replace(file, file.with_name(f"{holding.DAMAGED}{uuid.uuid4().hex}.{NOTE}"))


@contextlib.contextmanager
def _at_rest(
    site: Site, engine: Engine, address: str | None, volume: str, found: Sequence[Serving]
) -> Iterator[Waited]:
    """Scale the services that use a volume to nothing for this block, and wait until none of their tasks runs.

    Args:
        address: the engine's address, as in stack.yaml.

    Raises:
        Refused: a service has no number of tasks to scale, or might be scaled back on another node.
        NotRestored: one could not be scaled back; the note stays.
    """
    for one in found:
        _require_scalable(engine, one, volume)
    note = Scaled(address, volume, {one.name: one.replicas for one in found if one.replicas})
    waited, begun = Waited(), time.monotonic()
    if not note.services:
        yield waited
        return
    _write(site.target.store, note)
    try:
        for name in note.services:
            swarm.replicate(engine, name, 0)
        if running := swarm_places.wait_resting(engine, note.services, RESTING):
            raise Unreachable(
                "service-keeps-running",
                f"Scaled to nothing, but with tasks {RESTING:g} s later: {', '.join(running)}.",
                next_command="\n".join(f"docker service ps {name}" for name in running),
            )
        yield waited
    finally:
        with signals_deferred():
            _scale_back(engine, note)
            _file(site.target.store, note).unlink(missing_ok=True)
        waited.words = f"stopped for {time.monotonic() - begun:.1f} s: {', '.join(note.services)}"
    waited.ill = tuple(
        f"{one.name} did not run again within {SETTLING:g} s"
        for one in found
        if one.name in note.services and one.well and not _settles(engine, one)
    )


def _require_scalable(engine: Engine, one: Serving, volume: str) -> None:
    if one.replicas is None:
        raise Refused(
            "stop-under-swarm",
            f"{one.name} uses {volume}, and has no number of tasks that could be scaled to nothing.",
            looked_at=[f"service {one.name} on {engine.address}"],
            next_command=f"consistency: pause    # or live, in stack.yaml; what {one.name} mounts stays in use",
        )
    if one.replicas and one.pin:
        raise Refused(
            "stop-under-swarm",
            f"{one.name} uses {volume}, and may run on another node, without these data, once it is scaled back.",
            looked_at=[f"service {one.name} on {engine.address}"],
            next_command=f"placement: {{constraints: [{one.pin}]}}    # under deploy in the Compose file;"
            " or consistency: pause in stack.yaml",
        )


def _settles(engine: Engine, one: Serving) -> bool:
    if not one.stack:
        return True
    return swarm.wait_settled(engine, one.stack, one.service, SETTLING)


def left(site: Site) -> list[Scaled]:
    """Return what the notes say of this stack's services; only the holder of the target knows that they are left."""
    understood, _ = notes.told_apart(site.target.store.glob(f"*{NOTE}"), _parsed)
    return [one for one in understood if _is_own(site, one)]


def recover(site: Site) -> list[NotRestored]:
    """Scale back what a killed command has left scaled to nothing.

    Returns:
        What could not be done; it stays noted for the next command.
    """
    problems = []
    for file in sorted(site.target.store.glob(f"*{NOTE}")):
        try:
            note = _parsed(file)
        except notes.Damaged:
            note = None
        if note is None or not _is_own(site, note):
            how = "is damaged" if note is None else "names what is not of this stack"
            site.say(f"warning: {file} {how}: services that an earlier command scaled to nothing may still be so")
            site.say("warning: run: docker service ls; then: invoke backup.settle --as-it-is    # forgets it")
            continue
        site.say(f"an earlier command left {', '.join(note.services)} scaled to nothing: scaling back")
        try:
            for strange in _scale_back(Engine(note.engine), note, site):
                site.say(f"warning: {file} names {strange}, which is not of this stack: ignored")
            file.unlink(missing_ok=True)
        except NotRestored as error:
            for line in (error.message, *error.next_command.splitlines()):
                site.say(f"warning: {line}")
            problems.append(error)
    return problems


def require_understood(site: Site) -> None:
    """Raise the error of a note that is damaged, or that names what is not of this stack, if there is one."""
    for file in sorted(site.target.store.glob(f"*{NOTE}")):
        note = _parsed(file)
        if note is not None and not _is_own(site, note):
            raise notes.Damaged(SCALED.name, file, "names what is not of this stack")


def require_none_left(site: Site) -> None:
    """Check that no service of this stack is still at nothing; only the holder of the target knows that it is left.

    Raises:
        NotRestored: with the command for each.
    """
    services = {name: replicas for note in left(site) for name, replicas in note.services.items()}
    if services:
        said = f"Services that were scaled to nothing were not scaled back: {', '.join(services)}."
        raise _left_at_nothing(services, said)


def give_up(site: Site) -> None:
    """Forget which services are scaled to nothing: somebody else will scale them back."""
    for file in site.target.store.glob(f"*{NOTE}"):
        file.unlink()


def _is_own(site: Site, note: Scaled) -> bool:
    return belief.is_own_engine(site, note.engine) and belief.is_own_volume(site, note.engine, note.volume)


def _scale_back(engine: Engine, note: Scaled, site: Site | None = None) -> list[str]:
    """Give services back the number of tasks that they had; one that somebody has scaled since stays as it is.

    Args:
        site: whose note it is, if it is not this command's own: what does not use its volume is left alone.

    Returns:
        What was left alone, in words.

    Raises:
        NotRestored: one could not be scaled back.
    """
    problem: ConcheError | None = None
    strange = []
    try:
        users = None if site is None else {one.name for one in swarm_places.using(engine, note.volume)}
    except ConcheError as error:
        raise _not_scaled_back(note, error) from error
    for name, replicas in note.services.items():
        if users is not None and name not in users:
            strange.append(f"the service {name}")
            continue
        try:
            if swarm_places.replicas_of(engine, name) == 0:
                swarm.replicate(engine, name, replicas)
        except ConcheError as error:
            problem = problem or error
    if problem is not None:
        raise _not_scaled_back(note, problem) from problem
    return strange


def _not_scaled_back(note: Scaled, error: ConcheError) -> NotRestored:
    said = f"Services that were scaled to nothing could not be scaled back: {error.message}"
    return _left_at_nothing(note.services, said, error.evidence)


def _left_at_nothing(services: Mapping[str, int], said: str, evidence: Sequence[str] = ()) -> NotRestored:
    commands = [f"docker service scale {name}={replicas}" for name, replicas in services.items()]
    return NotRestored(
        "services-left-at-nothing",
        said,
        evidence=[*evidence, "By hand:", *commands],
        next_command="\n".join(["invoke backup.settle    # tries again", *commands]),
    )


def _file(store: Path, note: Scaled) -> Path:
    return store / f"{hashlib.sha256(f'{note.engine} {note.volume}'.encode()).hexdigest()[:16]}.{NOTE}"


def _write(store: Path, note: Scaled) -> None:
    write_atomic(_file(store, note), json.dumps(SCALED.stamped(asdict(note))).encode(), mode=0o600)


def _parsed(file: Path) -> Scaled | None:
    return notes.read(file, SCALED, Scaled.of)
