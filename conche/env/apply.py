"""Carries out a plan step by step, and takes back what fails.

One rule: what worked before still works afterwards. A running service is only replaced once its successor has been seen
healthy beside it (trial.py), and the replacement itself is not interrupted half-way. Each service is a unit of its own:
one that does not come up is taken back together with what needs it (units.py), newest first, and the others go on. If
nothing that was asked for is up then, or the command is interrupted, everything that was begun is taken back. Finally,
what served before is checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

from conche.engine import containers, images, kept, networks
from conche.engine.compose import Compose
from conche.engine.service import Service
from conche.env import trial
from conche.env.evidence import explained
from conche.env.following import all_followers, overdue
from conche.env.observe import Observed
from conche.env.plan import works
from conche.env.starting import TOGETHER, Starter, checked, grouped, up
from conche.env.undoing import Undoing
from conche.env.units import Routes
from conche.env.waiting import never_healthy
from conche.env.watch import EnvironmentWatch
from conche.errors import ConcheError, Restored
from conche.outcome import Action, Kind, Plan, Step
from conche.output import Progress
from conche.process import signals_deferred

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

    Attributes:
        passed: ids of the containers that were healthy when they were last looked at.
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
    passed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.watch = EnvironmentWatch(self.compose, self.seen, self.timeout, self.clock, self.pause)
        self.undoing = Undoing(self.watch, self.progress, self.routes, self.asked, self.url)
        self.starter = Starter(self.watch, self.undoing, self.progress, self.held)

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
            self.undoing.push("", "remove new networks", lambda: networks.remove_new(engine, project, before))
        self.undoing.planned = tuple(dict.fromkeys(step.name for step in plan if step.kind == Kind.SERVICE))
        try:
            for action, steps in grouped(plan, self.seen):
                if action == Action.START:
                    self._require_healthchecks(steps)
                    self._start_all(steps)
                elif action == Action.RESTART:
                    self._in_turn(steps, lambda names: names, self._restart_together)
                else:
                    self._take_each(steps)
            self._settle(self.watch.started)
            failure = self.undoing.ending().error() if self.undoing.failures else None
        except BaseException as error:
            raise self.undoing.told(error) from error
        if failure is not None:
            raise self.undoing.told(failure) from next(iter(self.undoing.failures.values()))
        self.undoing.forget()

    def _take_each(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.kind != Kind.SERVICE or not self.undoing.is_down(step.name):
                self._announce(step)
                with self.undoing.alone(step):
                    self._take(step)

    def _announce(self, step: Step) -> None:
        self.progress.step(f"{step} ({step.cause})")

    def _take(self, step: Step) -> None:  # noqa: C901 - one case for each kind of step
        name = step.name
        match step.action, step.kind:
            case Action.REMOVE, Kind.CONTAINER:
                containers.remove(self.compose.engine, next(c.id for c in self.seen.leftovers if c.name == name))
            case Action.CREATE, Kind.NETWORK:
                self.undoing.push("", step.undo, lambda: networks.remove(self.compose.engine, name))
                # An aborted request may still be carried out, after the unwinding has looked.
                with signals_deferred():
                    networks.create(self.compose.engine, name)
            case Action.BUILD, Kind.IMAGE:
                self.build(name)
            case Action.PULL, Kind.IMAGE:
                self._pull(name)
            case Action.CREATE | Action.START, Kind.SERVICE:
                if self._ready(name):
                    self.starter.alone(name)
            case Action.SCALE, Kind.SERVICE:
                self._scale(name)
            case Action.RECREATE, Kind.SERVICE:
                self._recreate(name)
            case Action.UNPAUSE, Kind.SERVICE:
                self.undoing.begin(name)
                containers.resume(self.compose.engine, self.seen.of(name))
            case Action.RESTORE, Kind.SERVICE:
                with signals_deferred():
                    kept.bring_back(self.compose.engine, self.compose.project, name)
            case Action.AWAIT, Kind.SERVICE:
                self.watch.started.add(name)
                started = [one.started_at for one in self.seen.of(name) if one.started_at]
                self.watch.ordered.update({name: max(started)} if started else {})
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

    def _require_healthchecks(self, steps: Iterable[Step]) -> None:
        """Refuse services that would wait for ever, now that every image is there."""
        refused = never_healthy(self.compose.engine, self.seen.configuration, [step.name for step in steps])
        if refused is not None:
            looked_at, way_out = refused.looked_at, refused.next_command
            raise Restored(refused.code, refused.message, looked_at=looked_at, next_command=way_out)

    def _start_all(self, steps: Iterable[Step]) -> None:
        """Start each service once what it depends on works; those whose turn has come, together."""
        steps = list(steps)
        self._take_each(step for step in steps if step.action == Action.AWAIT)
        self._in_turn([step for step in steps if step.action != Action.AWAIT], self._ready_among, self.starter.together)

    def _in_turn(
        self,
        steps: Sequence[Step],
        choose: Callable[[Sequence[str]], Sequence[str]],
        take: Callable[[Sequence[Step]], None],
    ) -> None:
        """Take steps on services, each after those on what its service depends on.

        Args:
            choose: returns which of the services whose turn has come are next, together; it may be none if some have
                fallen meanwhile.
        """
        left = {step.name: step for step in steps}
        above = {name: self.seen.configuration.all_needs(name) for name in left}
        due: dict[str, Step] = {}
        while left := {name: step for name, step in left.items() if not self.undoing.is_down(name)}:
            for name in left:
                if name not in due and above[name].isdisjoint(left):
                    self._announce(left[name])
                    due[name] = left[name]
            chosen = choose([name for name in due if name in left])[:TOGETHER]
            take([left.pop(name) for name in chosen])

    def _ready_among(self, names: Sequence[str]) -> Sequence[str]:
        """Wait until some of these services may start, and return them; none if others have fallen meanwhile."""
        needed = {name: self._dependencies(name) for name in names}
        if ready := [name for name in names if not needed[name]]:
            return ready
        working = self._settle(*needed.values())
        return [name for name in names if not self.undoing.is_down(name) and self._dependencies(name) <= working]

    def _restart_together(self, steps: Sequence[Step]) -> None:
        names = [step.name for step in steps]
        for name in names:
            self.undoing.begin(name)
        self.watch.order(*names)
        self.watch.restarted.update(names)
        with signals_deferred(), ThreadPoolExecutor(len(names)) as pool:
            restarting = [(step, pool.submit(self._restart, step.name)) for step in steps]
        for step, restarted in restarting:
            with self.undoing.alone(step):
                restarted.result()

    def _restart(self, name: str) -> None:
        for container in self.seen.of(name):
            containers.restart(self.compose.engine, container)

    def _restart_overdue(self, follows: Mapping[str, Sequence[str]], followers: Collection[str]) -> None:
        """Restart what follows a service whose former container was made again, or that it has lost meanwhile."""
        found = self.watch.look()
        due = overdue(follows, found, spared=self.seen.spared).keys() & followers
        for container in (one for one in found if one.service in due and one.state == "running"):
            containers.restart(self.compose.engine, container)

    def _scale(self, name: str) -> None:
        """Make a service have as many containers as the files say, without touching those that stay."""
        wanted, before = self.seen.configuration.services[name].replicas, len(self.seen.of(name))
        assert wanted is not None
        if not self._ready(name):
            return
        self.undoing.begin(name)
        self.undoing.push(name, f"scale service {name} back", lambda: self._have(name, before))
        self._have(name, wanted)

    def _have(self, name: str, count: int) -> None:
        argv = self.compose.up_beside(name, count)
        checked(self.compose.make(argv, on_line=self.progress.detail), name)

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
        self.undoing.begin(name)
        self._keep(name)
        completed = self.compose.make(
            up(self.compose, self.seen, name),
            on_line=self.progress.detail,
            outlives=True,
            keep_open=() if self.held is None else (self.held,),
        )
        checked(completed, name)

    def _is_current(self, name: str) -> bool:
        """Return whether the image just built or pulled runs already, under the same definition."""
        service = self.seen.configuration.services[name]
        return (
            not self.watch.started.intersection(service.shares)
            and bool(self.seen.of(name))
            and all(
                container.config_hash in service.hashes
                and images.same(self.compose.engine, container.image_id, service.image)
                for container in self.seen.of(name)
            )
        )

    def _keep(self, name: str) -> None:
        """Keep what runs now until its replacement works: Compose removes the old one before it starts the new one."""
        engine, project = self.compose.engine, self.compose.project
        follows = {one.name: one.follows for one in self.seen.configuration.services.values()}
        if followers := all_followers(follows, name):
            said = f"restart what follows {name}"
            self.undoing.push(name, said, lambda: self._restart_overdue(follows, followers))
        self.undoing.push(name, f"bring {name} back as it was", lambda: kept.bring_back(engine, project, name))
        try:
            with signals_deferred():
                for container in self.watch.of(name):
                    kept.keep(engine, container)
        except ConcheError as error:
            said = " ".join(error.evidence) or error.message
            self.progress.step(f"if this fails, {name} cannot be restored to what it was: {said}")

    def _try(self, name: str) -> None:
        self.progress.step(f"trying the new {name} beside the one that serves")
        self.undoing.push(name, f"remove the trial of {name}", lambda: trial.remove(self.compose))
        waiting = trial.start_and_wait(self.compose, self.seen.configuration, name, self.timeout)
        for reason in explained(self.compose, waiting).values():
            said = f"The new {reason.says}; the one that serves was not touched."
            raise Restored("start-failed", said, evidence=reason.lines)
        trial.remove(self.compose)

    def _dependencies(self, name: str) -> set[str]:
        """Return what has been started here and must be healthy before this service starts."""
        waits = self.watch.started & set(self.seen.configuration.services[name].waits_for)
        return {one for one in waits if not self.undoing.is_down(one)}

    def _ready(self, name: str) -> bool:
        """Wait for what a service depends on; return whether it may start, or has fallen with that."""
        self._settle(self._dependencies(name))
        return not self.undoing.is_down(name)

    def _settle(self, *groups: Collection[str]) -> frozenset[str]:
        """Wait until all services of one of these groups work; those that fail are taken back, and not waited for.

        Returns:
            The services that work, of those that were waited for.
        """
        begun = self.clock()
        while all(left := [[name for name in group if not self.undoing.is_down(name)] for group in groups]):
            wanted = {name: self._service(name) for name in sorted({*chain(*left)})}
            self.progress.step(f"waiting until {', '.join(wanted)} {'is' if len(wanted) == 1 else 'are'} healthy")
            waiting = self.watch.wait(wanted, begun, self.watch.restarts(), left)
            if not waiting.failed:
                self.passed = frozenset(one.id for one in waiting.containers if one.health == "healthy")
                return waiting.working
            looked = self.clock()
            for name, reason in explained(self.compose, waiting, self.watch.ordered).items():
                way_out = f"{reason.cure}\ninvoke env.up --env {self.seen.name}" if reason.cure else ""
                failed = Restored("start-failed", f"{reason.says}.", evidence=reason.lines, next_command=way_out)
                self.undoing.fail([name], failed)
            # The time that this took must not count against the others.
            begun += self.clock() - looked
        return frozenset()

    def _service(self, name: str) -> Service:
        return self.seen.configuration.services[name]
