"""Carries out a plan step by step, and takes back what fails.

One rule: what worked before still works afterwards. A running service is only replaced once its successor has been seen
healthy beside it (trial.py), and the replacement itself is not interrupted half-way. Each service is a unit of its own:
one that does not come up is taken back together with what needs it (units.py), newest first, and the others go on. If
nothing that was asked for is up then, or the command is interrupted, everything that was begun is taken back. Finally,
what served before is checked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from conche.engine import containers, images, kept, logs, networks
from conche.engine.compose import Compose
from conche.engine.connection import EngineRefused
from conche.engine.hashes import leaves_others
from conche.engine.service import Service
from conche.env import trial
from conche.env.ending import Ending
from conche.env.evidence import explained
from conche.env.observe import Observed
from conche.env.plan import works
from conche.env.units import Routes, fall_with, needs
from conche.env.unwinding import Undo, told, unwind
from conche.env.watch import Watch
from conche.errors import ConcheError, NotFound, Partial, Restored
from conche.outcome import Action, Kind, Plan, Step
from conche.output import Progress
from conche.process import Completed, signals_deferred

__all__ = ["Applier"]


@dataclass
class Applier:
    """Applies the plan of one environment.

    Args:
        seen: the environment as it was before.
        build: builds one of the stack's own images, by its reference.
        fetch: gets an image that is not built here, by its reference.
        timeout: seconds to wait for health; None for what the healthchecks allow.
        held: descriptor of the environment's lock, for processes that outlive us.
        asked: services that are to be up afterwards; default: all.
        routes: edge -> the service that it sends requests to.
        url: where the environment's users find it.
    """

    compose: Compose
    seen: Observed
    progress: Progress
    build: Callable[[str], object]
    fetch: Callable[[str], object]
    timeout: float | None = None
    held: int | None = None
    asked: Collection[str] = ()
    routes: Routes = field(default_factory=dict)
    url: str | None = None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _undo: list[tuple[str, Undo]] = field(default_factory=list)
    _planned: set[str] = field(default_factory=set)
    _started: set[str] = field(default_factory=set)
    _touched: set[str] = field(default_factory=set)
    _ordered: dict[str, datetime] = field(default_factory=dict)
    _failures: dict[str, ConcheError] = field(default_factory=dict)
    _fallen: dict[str, str] = field(default_factory=dict)
    _problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = Watch(self.compose, self.seen, self.timeout, self.clock, self.pause)

    def apply(self, plan: Plan) -> None:
        """Take every step, then check that everything works.

        Raises:
            Partial: only part of what was asked for is up; the rest, and what needs it, is as it was before.
            Restored: none of it is up; what was there before is back, and was checked.
            NotRestored: what was there before no longer works.
            Interrupted: after unwinding.
        """
        engine, project = self.compose.engine, self.compose.project
        if any(step.kind == Kind.SERVICE for step in plan):
            before = networks.made_by(engine, project).networks
            self._push("", "remove new networks", lambda: networks.remove_new(engine, project, before))
        self._planned = {step.name for step in plan if step.kind == Kind.SERVICE}
        try:
            for step in plan:
                if step.kind != Kind.SERVICE or not self._is_down(step.name):
                    self.progress.step(f"{step} ({step.cause})")
                    self._attempt(step)
            self._settle(self._started)
            failure = self._ending().error() if self._failures else None
        except BaseException as error:
            raise self._told(error) from error
        if failure is not None:
            raise self._told(failure) from next(iter(self._failures.values()))
        self._forget()

    def _attempt(self, step: Step) -> None:
        """Take a step; if it fails on its own account, take back what it was for and let the others go on."""
        try:
            self._take(step)
        except ConcheError as failure:
            if step.kind == Kind.IMAGE:
                self._fail([name for name in self._planned if self._service(name).image == step.name], failure)
            elif step.kind == Kind.SERVICE and isinstance(failure, Restored | EngineRefused | NotFound):
                self._fail([step.name], failure)
            else:
                raise

    def _fail(self, names: Collection[str], failure: ConcheError) -> None:
        """Take back services that do not come up, and what needs them."""
        self._failures.update(dict.fromkeys(sorted(names), failure))
        for name in [one for one, error in self._failures.items() if error.code == "compose-up-failed"]:
            if needs(self.seen.configuration, name, self.routes) & self._failures.keys():
                del self._failures[name]  # Compose could not start it because one it needs does not run.
        self._fallen = fall_with(self.seen.configuration, self._failures, self._planned, self.routes)
        down = ", ".join([*self._failures, *self._fallen])
        self.progress.step(f"taking back {down}: {failure.message}")
        with signals_deferred():
            self._take_back(self._is_down)

    def _is_down(self, unit: str) -> bool:
        return unit in self._failures or unit in self._fallen

    def _take_back(self, chosen: Callable[[str], bool]) -> None:
        """Take back what was begun of some units, the newest first."""
        undo = [one for unit, one in self._undo if chosen(unit)]
        self._undo = [(unit, one) for unit, one in self._undo if not chosen(unit)]
        self._problems += unwind(undo, self.progress.step, self.watch.wait_ready, clock=self.clock, pause=self.pause)

    def _ending(self) -> Ending:
        services = self.seen.configuration.services
        return Ending(
            environment=self.seen.name,
            url=self.url,
            up={name: services[name] for name in services if name in (self.asked or services) and self._is_up(name)},
            failures=self._failures,
            fallen=self._fallen,
            served={name for name in services if self._worked(name)},
            own={name for name, service in services.items() if service.image in self.seen.own},
            begun=bool(self._touched),
        )

    def _is_up(self, name: str) -> bool:
        """Return whether a service is as its files say, by this plan or without it."""
        if name in self._planned:
            return not self._is_down(name)
        return self._worked(name)

    def _worked(self, name: str) -> bool:
        found = self.seen.of(name)
        return bool(found) and all(works(self._service(name), one) for one in found)

    def _told(self, error: BaseException) -> BaseException:
        """Take everything back and return the error to show; after a partial success, keep what has come up."""
        with signals_deferred():
            if isinstance(error, Partial):
                self._forget()
            else:
                self._take_back(lambda _: True)
            problems = [*self._problems, *self.watch.lost()]
        return told(error, problems, begun=bool(self._touched), by_hand=self._by_hand())

    def _take(self, step: Step) -> None:  # noqa: C901 - one case for each kind of step
        name = step.name
        match step.action, step.kind:
            case Action.REMOVE, Kind.CONTAINER:
                containers.remove(self.compose.engine, next(c.id for c in self.seen.leftovers if c.name == name))
            case Action.CREATE, Kind.NETWORK:
                self._push("", step.undo, lambda: networks.remove(self.compose.engine, name))
                # An aborted request may still be carried out, after the unwinding has looked.
                with signals_deferred():
                    networks.create(self.compose.engine, name)
            case Action.BUILD, Kind.IMAGE:
                self.build(name)
            case Action.PULL, Kind.IMAGE:
                self._pull(name)
            case Action.CREATE | Action.START, Kind.SERVICE:
                self._start(name)
            case Action.SCALE, Kind.SERVICE:
                self._scale(name)
            case Action.RECREATE, Kind.SERVICE:
                self._recreate(name)
            case Action.RESTART, Kind.SERVICE:
                self._restart(name)
            case Action.UNPAUSE, Kind.SERVICE:
                self._began(name)
                containers.resume(self.compose.engine, self.seen.of(name))
            case Action.RESTORE, Kind.SERVICE:
                with signals_deferred():
                    kept.bring_back(self.compose.engine, self.compose.project, name)
            case Action.AWAIT, Kind.SERVICE:
                self._started.add(name)
                started = [one.started_at for one in self.seen.of(name) if one.started_at]
                self._ordered.update({name: max(started)} if started else {})
            case _:
                raise AssertionError(f"no way to {step}")

    def _pull(self, reference: str) -> None:
        try:
            self.fetch(reference)
        except ConcheError as failure:
            if reference not in self.seen.own:
                raise
            self.progress.step(f"{failure.message} Building it from this checkout instead.")
            self.build(reference)

    def _start(self, name: str) -> None:
        if not self._ready(name):
            return
        self._began(name)
        if self.seen.of(name):
            self._order(name)
            self._push(name, f"stop service {name}", lambda: self._stop(name))
        else:
            self._push(name, f"remove service {name}", lambda: self._each(name, containers.remove))
        self._checked(self.compose.make(self._up(name), on_line=self.progress.detail), name)

    def _scale(self, name: str) -> None:
        """Make a service have as many containers as the files say, without touching those that stay."""
        wanted, before = self.seen.configuration.services[name].replicas, len(self.seen.of(name))
        assert wanted is not None
        if not self._ready(name):
            return
        self._began(name)
        self._push(name, f"scale service {name} back", lambda: self._have(name, before))
        self._have(name, wanted)

    def _have(self, name: str, count: int) -> None:
        argv = self.compose.up_beside(name, count)
        self._checked(self.compose.make(argv, on_line=self.progress.detail), name)

    def _up(self, name: str) -> tuple[str, ...]:
        """Return `docker compose up` if it touches nothing else; else the service alone, which has another hash."""
        anew = name in self.seen.outdated
        if self.compose.document or not self.seen.configuration.needs(name):
            return self.compose.up_alone(name, anew=anew)
        named = self.seen.configuration.rendered["services"][name].get("container_name")
        whole = leaves_others(self.compose.up_would(name), self.compose.project, name, named)
        return self.compose.up_whole(name, anew=anew) if whole else self.compose.up_alone(name, anew=anew)

    def _recreate(self, name: str) -> None:
        if not self._ready(name):
            return
        if name not in self.seen.outdated and self._is_current(name):
            self.progress.step(f"{name} already runs this image")
            return
        service = self.seen.configuration.services[name]
        serves = all(works(service, container) for container in self.seen.of(name))
        if serves and service.image in self.seen.own and service.tries and not (service.ends or service.completes):
            self._try(name)
        self.progress.step(f"replacing {name}")
        self._began(name)
        self._keep(name)
        completed = self.compose.make(
            self._up(name),
            on_line=self.progress.detail,
            outlives=True,
            keep_open=() if self.held is None else (self.held,),
        )
        self._checked(completed, name)

    def _is_current(self, name: str) -> bool:
        """Return whether the image just built or pulled runs already, under the same definition."""
        service = self.seen.configuration.services[name]
        return (
            not self._started.intersection(service.shares)
            and bool(self.seen.of(name))
            and all(
                container.config_hash in service.hashes
                and images.same(self.compose.engine, container.image_id, service.image)
                for container in self.seen.of(name)
            )
        )

    def _began(self, name: str) -> None:
        self._started.add(name)
        self._touched.add(name)

    def _order(self, name: str) -> None:
        """Note when existing containers are told to start: what they wrote and did before is not part of it."""
        self._ordered[name] = logs.now(self.compose.engine)

    def _keep(self, name: str) -> None:
        """Keep what runs now until its replacement works: Compose removes the old one before it starts the new one."""
        engine, project = self.compose.engine, self.compose.project
        self._push(name, f"bring {name} back as it was", lambda: kept.bring_back(engine, project, name))
        try:
            with signals_deferred():
                for container in self.watch.of(name):
                    kept.keep(engine, container)
        except ConcheError as error:
            said = " ".join(error.evidence) or error.message
            self.progress.step(f"if this fails, {name} cannot be restored to what it was: {said}")

    def _forget(self) -> None:
        """Remove what was kept; what cannot be removed goes with the next command."""
        with contextlib.suppress(ConcheError):
            for name in (one for one in self._touched if not self._is_down(one)):
                kept.forget(self.compose.engine, self.compose.project, name)

    def _restart(self, name: str) -> None:
        self._began(name)
        self._order(name)
        self.watch.restarted.add(name)
        with signals_deferred():
            for container in self.seen.of(name):
                containers.restart(self.compose.engine, container)

    def _try(self, name: str) -> None:
        self.progress.step(f"trying the new {name} beside the one that serves")
        self._push(name, f"remove the trial of {name}", lambda: trial.remove(self.compose))
        waiting = trial.start_and_wait(self.compose, self.seen.configuration, name, self.timeout)
        for reason in explained(self.compose, waiting).values():
            said = f"The new {reason.says}; the one that serves was not touched."
            raise Restored("start-failed", said, evidence=reason.lines)
        trial.remove(self.compose)

    def _dependencies(self, name: str) -> set[str]:
        """Return what has been started here and must be healthy before this service starts."""
        return self._started & set(self.seen.configuration.services[name].waits_for)

    def _ready(self, name: str) -> bool:
        """Wait for what a service depends on; return whether it may start, or has fallen with that."""
        self._settle(self._dependencies(name))
        return not self._is_down(name)

    def _settle(self, names: Iterable[str]) -> None:
        """Wait until each of these services works, or has failed and been taken back."""
        begun = self.clock()
        while wanted := {name: self._service(name) for name in sorted(names) if not self._is_down(name)}:
            self.progress.step(f"waiting until {', '.join(wanted)} is healthy")
            waiting = self.watch.wait(wanted, begun, self.watch.restarts())
            if not waiting.failed:
                return
            looked = self.clock()
            for name, reason in explained(self.compose, waiting, self._ordered).items():
                way_out = f"{reason.cure}\ninvoke env.up --env {self.seen.name}" if reason.cure else ""
                failed = Restored("start-failed", f"{reason.says}.", evidence=reason.lines, next_command=way_out)
                self._fail([name], failed)
            # The time that this took must not count against the others.
            begun += self.clock() - looked

    def _service(self, name: str) -> Service:
        return self.seen.configuration.services[name]

    def _push(self, unit: str, said: str, act: Callable[[], None]) -> None:
        self._undo.append((unit, (said, act)))

    def _each(self, name: str, act: Callable[..., None]) -> None:
        for container in self.watch.of(name):
            act(self.compose.engine, container.id)

    def _stop(self, name: str) -> None:
        """Stop what has been started here; what ran before goes on."""
        before = {one.id for one in self.seen.of(name) if one.state == "running"}
        for container in (one for one in self.watch.of(name) if one.id not in before):
            containers.stop(self.compose.engine, container)

    def _checked(self, completed: Completed, name: str) -> None:
        if not completed.ok:
            raise Restored(
                "compose-up-failed",
                f"Compose could not start {name}: {' '.join(completed.last_lines(1))}",
                evidence=completed.last_lines(8),
            )

    def _by_hand(self) -> str:
        name = self.seen.name
        back = "git stash    # or otherwise return to what worked"
        return f"invoke env.logs --env {name}\n{back}\ninvoke env.up --env {name}"
