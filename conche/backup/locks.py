"""Takes the locks of a backup command, environments by name and then the target, and settles what was left before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from conche import locking
from conche.backup import holding, ownership, running, scaling, settling, users
from conche.backup.exchange import Journal
from conche.backup.site import Site
from conche.backup.swap import Swap
from conche.backup.users import User
from conche.command import Invocation
from conche.engine import containers, swarm_places
from conche.engine.connection import Engine
from conche.errors import Unreachable
from conche.files import state_folder
from conche.stack import Component

__all__ = ["Environments", "Needs", "environments_of", "locked", "resting"]

PATIENCE = 10.0
"""Seconds that a command waits for a lock if neither its user nor stack.yaml says how long."""


@dataclass
class Needs:
    """The environments that must not change while components are read.

    Attributes:
        of: the environments that each component needs; one that is read while everything runs on needs none.
        lost: environments whose engine does not answer, with the error.
    """

    of: dict[str, set[str]] = field(default_factory=dict)
    lost: dict[str, Unreachable] = field(default_factory=dict)

    @property
    def all(self) -> set[str]:
        """All environments that are needed."""
        return set[str]().union(*self.of.values())

    def require(self, component: str) -> None:
        """Check that the environments that a component needs could be locked.

        Raises:
            Unreachable: an engine does not answer.
        """
        for name in sorted(self.of.get(component, ())):
            if name in self.lost:
                raise self.lost[name]


class Environments:
    """Locked environments, which can be released one by one.

    Args:
        lock: returns the lock of an environment, by its name.
    """

    def __init__(self, lock: Callable[[str], contextlib.AbstractContextManager[object]]) -> None:
        self._lock = lock
        self._open: dict[str, contextlib.ExitStack] = {}

    def __enter__(self) -> Environments:
        return self

    def __exit__(self, *raised: object) -> None:
        self.keep(())

    def take(self, name: str) -> None:
        """Lock an environment.

        Raises:
            Locked: somebody else holds it.
            Unreachable: its engine does not answer.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lock(name))
            self._open[name] = stack.pop_all()

    def keep(self, names: Collection[str]) -> None:
        """Release all but these."""
        with contextlib.ExitStack() as closing:
            for name in [one for one in self._open if one not in names]:
                closing.push(self._open.pop(name))


@contextlib.contextmanager
def locked(
    call: Invocation,
    site: Site,
    purpose: str,
    environments: Iterable[str] = (),
    *,
    wait: float | None = None,
    patience: float | None = None,
    lost: dict[str, Unreachable] | None = None,
    settles: bool = True,
) -> Iterator[Environments]:
    """Lock environments and the target, and settle what a killed command has left. A dry run locks nothing.

    Only the holder of the target can see what is left. If it concerns further environments, everything is released and
    locked again in the right order.

    Args:
        wait: seconds to wait for the target; default: `--lock-wait`, else `PATIENCE`.
        patience: seconds to wait for each environment; the same default.
        lost: collects the environments whose engines do not answer; without it, that is an error.
        settles: settle what is left; otherwise only lock the environments that it concerns, for the caller to do so.

    Raises:
        Locked: with the holder and its purpose.
    """
    if call.dry_run:
        yield Environments(lambda _: contextlib.nullcontext())
        return
    wait = call.patience(PATIENCE) if wait is None else wait
    patience = call.patience(PATIENCE) if patience is None else patience

    def lock(name: str) -> contextlib.AbstractContextManager[object]:
        engine = Engine(site.stack.environments[name].engine)
        return locking.locked(call, engine, name, purpose=purpose, wait=patience)

    needed, left, out = set(environments), set[str](), {} if lost is None else lost
    while True:
        with Environments(lock) as taken:
            for name in locking.ordered(needed | left):
                _take(taken, name, out, strict=lost is None and name in needed)
            with site.target.locked(purpose, wait=wait, say=site.say):
                seen = _left(site, out, stuck=not settles)
                if seen <= needed | left:
                    _warn(site)
                    if settles:
                        settling.recover(site)
                        taken.keep(needed)
                    yield taken
                    return
                left |= seen


def _take(taken: Environments, name: str, lost: dict[str, Unreachable], *, strict: bool) -> None:
    if name not in lost:
        try:
            taken.take(name)
        except Unreachable as error:
            lost[name] = error
    if strict and name in lost:
        raise lost[name]


def _warn(site: Site) -> None:
    if exposed := ownership.exposure(site.target.folder, site.target.store):
        site.say(f"warning: {exposed}")
    if site.target.use != "any" and not site.target.mark.is_remembered():
        places = f"{site.target.folder} and {state_folder()}"
        site.say(f"warning: {places} are not both writable, so a target that is not mounted would go unnoticed")


def _left(site: Site, lost: dict[str, Unreachable], *, stuck: bool) -> set[str]:
    """Return the environments in which a killed command has left something to settle.

    An engine that has not answered is not asked again: settling will report what is wrong with it.

    Args:
        stuck: include a restore that only `backup.settle` takes back; a damaged journal names no environment.
    """
    waiting = holding.left(site)
    swaps = [Swap(note.engine, volume) for note in waiting for volume in note.volumes]
    swaps += [Swap(note.engine, note.volume) for note in scaling.left(site)]
    found = [(note.engine, one) for note in waiting for one in note.ids]
    found += [(one.address, one.container) for one in running.left(site)]
    names: set[str] = set()
    journal = None if stuck and Journal.is_damaged(site.own) else Journal.read(site.own)
    if journal is not None and (stuck or not journal.stuck):
        swaps += journal.swaps
        found += [(one.engine, one.id) for one in journal.stopped]
        named = [known for one in journal.components if (known := site.section.components.get(one)) is not None]
        names |= {one.environment for one in named if one.environment}
        with contextlib.suppress(Unreachable):
            names |= environments_of(
                site, users.of_places(site, [Path(one.live) for one in journal.pairs], []).values()
            )
    for swap in swaps:
        names |= _of_volume(site, swap, lost)
    silent = {site.stack.environments[name].engine for name in lost}
    for address, container in [one for one in found if one[0] not in silent]:
        with contextlib.suppress(Unreachable):
            engine = Engine(address)
            seen = containers.read(engine, container)
            names |= environments_of(site, [User(address, engine, seen)] if seen else [])
    return names


def _of_volume(site: Site, swap: Swap, lost: dict[str, Unreachable]) -> set[str]:
    """Return the environments that a volume concerns: by stack.yaml, and by the containers and services that use it."""
    declared = [one for one in site.section.components.values() if one.volume == swap.volume]
    names = {one.environment for one in declared if one.environment and _address(site, one) == swap.engine}
    if names & lost.keys():
        return names
    try:
        return names | _serving(site, swap) | environments_of(site, users.of_places(site, [], [swap]).values())
    except Unreachable as error:
        lost.update(dict.fromkeys(names, error))
        return names


def _serving(site: Site, swap: Swap) -> set[str]:
    """Return the environments on a swarm whose services use a volume: their tasks belong to no Compose project."""
    there = {
        site.stack.project(name): name
        for name, one in site.stack.environments.items()
        if one.swarm and one.engine == swap.engine
    }
    found = swarm_places.using(Engine(swap.engine), swap.volume) if there else ()
    return {there[one.stack] for one in found if one.stack in there}


def environments_of(site: Site, found: Iterable[User]) -> set[str]:
    """Return the environments that containers belong to; a container may belong to none of this stack."""
    environments = site.stack.environments.items()
    projects = {(one.engine, site.stack.project(name)): name for name, one in environments}
    return {projects[place] for one in found if (place := (one.address, one.container.project)) in projects}


def resting(site: Site) -> Needs:
    """Return what must not change while a backup is made: what it pauses, stops, or finds stopped."""
    needs = Needs()
    for name, component in site.section.components.items():
        if component.driver == "volume" and component.consistency != "live":
            assert component.volume is not None
            needs.of[name] = _of_volume(site, Swap(_address(site, component), component.volume), needs.lost)
        elif component.driver == "influxdb" and not _runs(site, component):
            needs.of[name] = {str(component.environment)}
    return needs


def _runs(site: Site, component: Component) -> bool:
    """Return whether a database is read while it runs; if that is unknown, assume so: reading it reports why."""
    assert component.environment is not None
    if site.stack.environments[component.environment].swarm:
        return True
    with contextlib.suppress(Unreachable):
        found = containers.of_project(site.engine(component), site.stack.project(component.environment))
        return all(one.state == "running" for one in found if one.service == component.service)
    return True


def _address(site: Site, component: Component) -> str | None:
    assert component.environment is not None
    return site.stack.environments[component.environment].engine
