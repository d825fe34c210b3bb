"""Carrying out a plan: step by step, with what takes it back when a later step fails.

One rule: what worked before still works afterwards. A service that runs is only replaced once its successor has been
seen healthy beside it (trial.py), and the replacement itself is not interrupted half-way. After a failure everything
that was begun is taken back, newest first, and what served before is looked at again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from conche.engine import containers, health, images, kept, networks
from conche.engine.compose import Compose, Service
from conche.engine.containers import Container
from conche.engine.hashes import leaves_others
from conche.engine.health import Waiting
from conche.env import trial
from conche.env.evidence import evidence, reasons
from conche.env.observe import Observed
from conche.env.plan import works
from conche.env.unwinding import PAUSE, Undo, told, unwind
from conche.errors import ConcheError, Partial, Restored
from conche.outcome import Plan, Step
from conche.output import Progress
from conche.process import Completed, signals_deferred

__all__ = ["Applier"]

ENGINE_BACK = 60.0
"""Seconds that an engine which is being restarted is waited for before unwinding."""


@dataclass
class Applier:
    """Applies the plan of one environment.

    Args:
        seen: the environment before.
        build: builds one of the stack's own images; given its reference.
        fetch: gets an image that is not built; given its reference.
        timeout: seconds to wait for health; None for what the healthchecks allow.
        held: descriptor of the environment's lock, for what outlives us.
        whole: all or nothing; else a service whose image cannot be had does not keep the others down.
    """

    compose: Compose
    seen: Observed
    progress: Progress
    build: Callable[[str], object]
    fetch: Callable[[str], object]
    timeout: float | None = None
    held: int | None = None
    whole: bool = True
    _absent: dict[str, ConcheError] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _undo: list[Undo] = field(default_factory=list)
    _started: set[str] = field(default_factory=set)
    _touched: set[str] = field(default_factory=set)
    _engine_gone: bool = False

    def apply(self, plan: Plan) -> None:
        """Take every step, then see that everything works.

        Raises:
            Restored: it does not work; what was there before is there again, and was looked at.
            NotRestored: it does not work, and what was there before does not either.
            Partial: what could be had works; the rest is said.
            Interrupted: after unwinding.
        """
        engine, project = self.compose.engine, self.compose.project
        if any(step.kind == "service" for step in plan):
            before = networks.made_by(engine, project).networks
            self._undo.append(("remove new networks", lambda: networks.remove_new(engine, project, before)))
        try:
            for step in plan:
                if step.kind == "service" and step.name in self._absent:
                    continue
                self.progress.step(f"{step} ({step.cause})")
                self._take(step, plan)
            self._wait_for(self._started)
        except BaseException as error:
            with signals_deferred():
                problems = unwind(self._undo, self.progress.step, self._wait_ready, clock=self.clock, pause=self.pause)
                problems += self._no_longer_serving()
            raise told(error, problems, begun=bool(self._touched), by_hand=self._by_hand()) from error
        self._forget()
        if self._absent:
            raise self._partial()

    def _take(self, step: Step, plan: Plan) -> None:  # noqa: C901, PLR0912 - one case for each kind of step
        name = step.name
        match step.action, step.kind:
            case "remove", "container":
                containers.remove(self.compose.engine, next(c.id for c in self.seen.leftovers if c.name == name))
            case "create", "network":
                self._undo.append((step.undo, lambda: networks.remove(self.compose.engine, name)))
                # A request that is broken off may still be carried out, after the unwinding has looked.
                with signals_deferred():
                    networks.create(self.compose.engine, name)
            case "build", "image":
                self.build(name)
            case "pull", "image":
                try:
                    self._pull(name)
                except ConcheError as failure:
                    self._go_without(name, plan, failure)
            case "create" | "start", "service":
                self._start(name)
            case "scale", "service":
                self._scale(name)
            case "recreate", "service":
                self._recreate(name)
            case "restart", "service":
                self._restart(name)
            case "unpause", "service":
                self._began(name)
                containers.resume(self.compose.engine, self.seen.of(name))
            case "restore", "service":
                with signals_deferred():
                    kept.bring_back(self.compose.engine, self.compose.project, name)
            case "await", "service":
                self._started.add(name)
            case _:
                raise AssertionError(f"no way to {step}")

    def _pull(self, reference: str) -> None:
        try:
            self.fetch(reference)
        except ConcheError as failure:
            if reference not in self.seen.own:
                raise
            self.progress.step(f"{failure.message} Building it from this checkout instead")
            self.build(reference)

    def _go_without(self, reference: str, plan: Plan, failure: ConcheError) -> None:
        """Leave out the services whose image cannot be had, and what waits for them, where others are left."""
        services = self.seen.configuration.services
        planned = {step.name for step in plan if step.kind == "service"}
        gone = {name for name, service in services.items() if service.image == reference}
        while more := {name for name in planned - gone if gone & set(services[name].waits_for)}:
            gone |= more
        if self.whole or not planned - gone - self._absent.keys() or any(self.seen.of(name) for name in gone):
            raise failure
        self.progress.step(f"going on without {', '.join(sorted(gone))}: {failure.message}")
        self._absent.update(dict.fromkeys(gone, failure))

    def _partial(self) -> Partial:
        failures = dict.fromkeys(self._absent.values())
        return Partial(
            "brought-up-in-part",
            f"{', '.join(sorted(self._started))} is up and healthy; {', '.join(sorted(self._absent))} is not there.",
            looked_at=[failure.message for failure in failures],
            evidence=[words for failure in failures for words in failure.evidence],
            next_command=f"invoke env.up --env {self.seen.name}    # once the image can be had",
        )

    def _start(self, name: str) -> None:
        self._wait_for(self._dependencies(name))
        self._began(name)
        if self.seen.of(name):
            self._undo.append((f"stop service {name}", lambda: self._stop(name)))
        else:
            self._undo.append((f"remove service {name}", lambda: self._each(name, containers.remove)))
        self._checked(self.compose.make(self._up(name), on_line=self.progress.detail), name)

    def _scale(self, name: str) -> None:
        """Have as many containers as the files say; those that stay are not touched."""
        wanted, before = self.seen.configuration.services[name].replicas, len(self.seen.of(name))
        assert wanted is not None
        self._wait_for(self._dependencies(name))
        self._began(name)
        self._undo.append((f"scale service {name} back", lambda: self._have(name, before)))
        self._have(name, wanted)

    def _have(self, name: str, count: int) -> None:
        argv = self.compose.up_beside(name, count)
        self._checked(self.compose.make(argv, on_line=self.progress.detail), name)

    def _up(self, name: str) -> tuple[str, ...]:
        """As `docker compose up` makes it, where that touches nothing else; else alone, which has another hash."""
        anew = name in self.seen.outdated
        if self.compose.document or not self.seen.configuration.needs(name):
            return self.compose.up_alone(name, anew=anew)
        named = self.seen.configuration.rendered["services"][name].get("container_name")
        whole = leaves_others(self.compose.up_would(name), self.compose.project, name, named)
        return self.compose.up_whole(name, anew=anew) if whole else self.compose.up_alone(name, anew=anew)

    def _recreate(self, name: str) -> None:
        self._wait_for(self._dependencies(name))
        if name not in self.seen.outdated and self._is_current(name):
            self.progress.step(f"{name} runs from this very image already")
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
        """Whether a build or pull has brought the image that runs already, under the same definition."""
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

    def _keep(self, name: str) -> None:
        """Keep what runs now until what replaces it works: Compose removes the one before it starts the other."""
        engine, project = self.compose.engine, self.compose.project
        self._undo.append((f"bring {name} back as it was", lambda: kept.bring_back(engine, project, name)))
        try:
            with signals_deferred():
                for container in self._of(name):
                    kept.keep(engine, container)
        except ConcheError as error:
            said = " ".join(error.evidence) or error.message
            self.progress.step(f"on a failure {name} could not be brought back as it was: {said}")

    def _forget(self) -> None:
        """What could not be removed goes with the next command."""
        with contextlib.suppress(ConcheError):
            for name in self._touched:
                kept.forget(self.compose.engine, self.compose.project, name)

    def _restart(self, name: str) -> None:
        self._began(name)
        with signals_deferred():
            for container in self.seen.of(name):
                containers.restart(self.compose.engine, container)

    def _try(self, name: str) -> None:
        self.progress.step(f"trying the new {name} beside the one that serves")
        self._undo.append((f"remove the trial of {name}", lambda: trial.remove(self.compose)))
        waiting = trial.start_and_wait(self.compose, self.seen.configuration, name, self.timeout)
        if waiting.failed:
            raise self._failure(waiting, f"The new {name} does not work; the one that serves was not touched.")
        trial.remove(self.compose)

    def _dependencies(self, name: str) -> set[str]:
        """What has been started here and must be healthy before this service starts."""
        return self._started & set(self.seen.configuration.services[name].waits_for)

    def _wait_for(self, names: Iterable[str]) -> None:
        wanted = {name: self.seen.configuration.services[name] for name in sorted(names)}
        if not wanted:
            return
        self.progress.step(f"waiting until {', '.join(wanted)} is healthy")
        waiting = self._waited(wanted)
        if waiting.failed:
            raise self._failure(waiting)

    def _look(self) -> tuple[Container, ...]:
        return containers.of_project(self.compose.engine, self.compose.project)

    def _of(self, name: str) -> list[Container]:
        return [container for container in self._look() if container.service == name]

    def _each(self, name: str, act: Callable[..., None]) -> None:
        for container in self._of(name):
            act(self.compose.engine, container.id)

    def _stop(self, name: str) -> None:
        """Stop what has been started here; what ran before goes on."""
        before = {one.id for one in self.seen.of(name) if one.state == "running"}
        for container in (one for one in self._of(name) if one.id not in before):
            containers.stop(self.compose.engine, container.id, container.stop_timeout)

    def _failure(self, waiting: Waiting, said: str = "") -> Restored:
        name = self.seen.name
        return Restored(
            "start-failed",
            said or f"{reasons(waiting)}; what was begun has been taken back.",
            evidence=evidence(self.compose, waiting),
            next_command=f"invoke env.up --env {name}            # after correcting it"
            + (
                f"\ninvoke env.up --env {name} --build    # if an image is older than its sources" * bool(self.seen.own)
            ),
        )

    def _checked(self, completed: Completed, name: str) -> None:
        if not completed.ok:
            raise Restored(
                "compose-up-failed",
                f"Compose could not start {name}.",
                evidence=completed.last_lines(8),
                next_command=f"invoke env.status --env {self.seen.name}",
            )

    def _wait_ready(self) -> None:
        """Wait until the engine answers: it may just be restarting. One that does not come back is waited for once."""
        deadline = self.clock() + ENGINE_BACK
        while not self._engine_gone:
            try:
                self._look()
            except ConcheError:
                self._engine_gone = self.clock() > deadline
                self.pause(PAUSE)
            else:
                return

    def _no_longer_serving(self) -> list[str]:
        """Services that worked before and do not now; one that was just replaced is given its time."""
        services = self.seen.configuration.services
        served = {
            container.service: services[container.service]
            for container in self.seen.containers
            if container.service in services and container.state == "running" and works(None, container)
        }
        try:
            waiting = self._waited(served)
        except Exception as error:  # noqa: BLE001 - whatever it is, the first error is the one to show
            return [f"could not look at what runs now: {error}"]
        return [f"{name} worked before; now it {reason}" for name, reason in waiting.failed.items()]

    def _waited(self, services: Mapping[str, Service]) -> Waiting:
        return health.wait(
            self.compose.engine,
            lambda: [container for container in self._look() if container.service in services],
            services,
            timeout=self.timeout,
        )

    def _by_hand(self) -> str:
        name = self.seen.name
        back = "git stash    # or another way back to what worked"
        return f"invoke env.logs --env {name}\n{back}\ninvoke env.up --env {name}"
