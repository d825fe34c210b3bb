"""Starts services of a plan, several of them with one call of Compose."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.hashes import leaves_others
from conche.env.observe import Observed
from conche.env.plan import drift
from conche.env.undoing import Undoing
from conche.env.unwinding import PAUSE
from conche.env.watch import EnvironmentWatch
from conche.errors import Restored
from conche.outcome import Action, Kind, Plan, Step
from conche.output import Progress
from conche.process import Completed

__all__ = ["TOGETHER", "Starter", "checked", "grouped", "up"]

TOGETHER = 16
"""Services that are started together at most: until that is done, a signal has to wait."""

LIVELY = ("running", "restarting")

LANDING = 10.0
"""Seconds in which the engine ends what a call of Compose that has failed has left it with."""


def grouped(plan: Plan, seen: Observed) -> Iterator[tuple[Action | None, list[Step]]]:
    """Yield the steps of a plan in their order, in lists: those that only start services, those that restart, others.

    A stopped container of another definition or image is replaced when it is started, which is not only a start.
    """
    fresh = {step.name for step in plan if step.kind == Kind.IMAGE}
    changed = {*drift(seen), *(name for name, one in seen.configuration.services.items() if one.image in fresh)}

    def group(step: Step) -> Action | None:
        if step.kind != Kind.SERVICE or (step.action == Action.START and step.name in changed):
            return None
        starts = step.action in (Action.CREATE, Action.START, Action.AWAIT)
        return Action.START if starts else Action.RESTART if step.action == Action.RESTART else None

    for action, steps in groupby(plan, group):
        yield action, list(steps)


def up(compose: Compose, seen: Observed, name: str) -> tuple[str, ...]:
    """Return `docker compose up` if it touches nothing else; else the service alone, which has another hash."""
    anew = name in seen.outdated
    if compose.document or not seen.configuration.needs(name):
        return compose.up_alone(name, anew=anew)
    whole = leaves_others(compose.up_would(name), compose.project, _fixed_names(seen, [name]))
    return compose.up_whole(name, anew=anew) if whole else compose.up_alone(name, anew=anew)


def checked(completed: Completed, name: str) -> None:
    """Raise if Compose could not start a service.

    Raises:
        Restored: it could not.
    """
    if not completed.ok:
        raise Restored(
            "compose-up-failed",
            f"Compose could not start {name}: {' '.join(completed.last_lines(1))}",
            evidence=completed.last_lines(8),
        )


@dataclass
class Starter:
    """Starts services whose dependencies work, and knows how to take that back.

    When one of several services cannot be made, Compose drops its requests for the others, and the engine goes on with
    them: their containers appear after Compose has ended. Such services are `_unsure` until each has been started by
    itself, or the engine has had its time.

    Args:
        held: descriptor of the environment's lock.
    """

    watch: EnvironmentWatch
    undoing: Undoing
    progress: Progress
    held: int | None = None
    _unsure: set[str] = field(default_factory=set)
    _over: float = 0.0

    def together(self, steps: Sequence[Step]) -> None:
        """Start services with one call of Compose; if it fails, each by itself, which tells whose fault it is.

        Args:
            steps: their steps; none of the services depends on another.
        """
        names = [step.name for step in steps]
        self._begin(names)
        failed = False
        if len(names) > 1 and (argv := self._up_together(names)):
            self._unsure.update(names)
            self._over = 0.0
            failed = not self._make(argv, len(names)).ok
            if not failed:
                self._unsure.clear()
                return
        for step in steps:
            if not self.undoing.is_down(step.name) and not (failed and self._has_started(step.name)):
                with self.undoing.alone(step):
                    self._start(step.name)
            self._unsure.discard(step.name)

    def alone(self, name: str) -> None:
        """Start one service.

        Raises:
            Restored: Compose cannot start it.
        """
        self._begin([name])
        self._start(name)

    def _begin(self, names: Sequence[str]) -> None:
        there = [name for name in names if self.watch.seen.of(name)]
        if there:
            self.watch.order(*there)
        for name in names:
            self.undoing.begin(name)
            if name in there:
                self.undoing.push(name, f"stop service {name}", functools.partial(self._stop, name))
            else:
                self.undoing.push(name, f"remove service {name}", functools.partial(self._remove, name))

    def _up_together(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """Return one command that does for several services what `up` does for each; None if there is none."""
        compose, seen = self.watch.compose, self.watch.seen
        if compose.document or not any(map(seen.configuration.needs, names)):
            return compose.up_alone(*names)
        would = compose.up_would(*names)
        above = frozenset[str]().union(*map(seen.configuration.all_needs, names))
        # A dry run that breaks off has not reported every container that it would touch.
        complete = would.keys() >= {one.name for one in self.watch.look() if one.service in above}
        whole = complete and leaves_others(would, compose.project, _fixed_names(seen, names))
        return compose.up_whole(*names) if whole else None

    def _make(self, argv: Sequence[str], services: int = 1) -> Completed:
        # Should we be killed, what this call goes on with has to be waited for.
        keep_open = () if self.held is None else (self.held,)
        return self.watch.compose.make(argv, on_line=self.progress.detail, keep_open=keep_open, services=services)

    def _start(self, name: str) -> None:
        argv = up(self.watch.compose, self.watch.seen, name)
        completed = self._make(argv)
        while name in self._unsure and _is_taken(completed) and self._may_appear():
            self.watch.pause(PAUSE)
            completed = self._make(argv)
        checked(completed, name)

    def _has_started(self, name: str) -> bool:
        """Return whether all containers of a service have been started here."""
        times = {one.id: one.started_at for one in self.watch.seen.of(name)}
        found = self.watch.of(name)
        anew = [one for one in found if one.state in LIVELY or one.started_at != times.get(one.id)]
        return bool(found) and len(anew) == len(found) == (self._wanted(name) or len(found))

    def _wanted(self, name: str) -> int | None:
        return self.watch.seen.configuration.services[name].replicas

    def _remove(self, name: str) -> None:
        missing = (self._wanted(name) or 1) if name in self._unsure else 0
        while True:
            found = self.watch.of(name)
            for one in found:
                containers.remove(self.watch.compose.engine, one.id)
            missing -= len(found)
            if missing <= 0 or not self._may_appear():
                return
            self.watch.pause(PAUSE)

    def _may_appear(self) -> bool:
        """Return whether a container may still appear that Compose has asked for and then dropped."""
        self._over = self._over or self.watch.clock() + LANDING
        return self.watch.clock() < self._over

    def _stop(self, name: str) -> None:
        """Stop what has been started here; what ran before goes on."""
        before = {one.id for one in self.watch.seen.of(name) if one.state == "running"}
        for container in (one for one in self.watch.of(name) if one.id not in before):
            containers.stop(self.watch.compose.engine, container)


def _is_taken(completed: Completed) -> bool:
    """Return whether Compose could not make a container because there is one of its name."""
    return not completed.ok and "is already in use by container" in completed.stderr.raw


def _fixed_names(seen: Observed, names: Collection[str]) -> dict[str, str | None]:
    bodies = seen.configuration.rendered["services"]
    return {name: bodies[name].get("container_name") for name in names}
