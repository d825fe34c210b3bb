"""Carrying out a plan: step by step, with what takes it back when a later step fails.

One rule: what worked before still works afterwards. A service that runs is only replaced once its successor has been
seen healthy beside it (trial.py), and the replacement itself is not interrupted half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from conche.engine import containers, health, images, networks
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.engine.health import Waiting
from conche.env import trial
from conche.env.observe import Observed
from conche.errors import ConcheError, NotRestored, Restored
from conche.outcome import Plan, Step
from conche.output import Progress
from conche.process import Completed, signals_deferred

__all__ = ["Applier"]


@dataclass
class Applier:
    """Applies the plan of one environment.

    Args:
        seen: the environment before.
        build: builds one image of stack.yaml; given its name.
        timeout: seconds to wait for health; None for what the healthchecks allow.
        held: descriptor of the environment's lock, for what outlives us.
    """

    compose: Compose
    seen: Observed
    progress: Progress
    build: Callable[[str], object]
    timeout: float | None = None
    held: int | None = None
    _undo: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    _started: set[str] = field(default_factory=set)
    _replaced: set[str] = field(default_factory=set)

    def apply(self, plan: Plan) -> None:
        """Take every step, then see that everything works.

        Raises:
            Restored: it does not work; what was there before is there again.
            NotRestored: it does not work, and what was there before does not either.
            Interrupted: after unwinding.
        """
        try:
            for step in plan:
                self.progress.step(f"{step} ({step.cause})")
                self._take(step)
            self._verify()
        except BaseException as error:
            self._unwind(error)
            raise

    def _take(self, step: Step) -> None:
        kind, _, name = step.subject.partition(" ")
        match step.action, kind:
            case "remove", "container":
                containers.remove(self.compose.engine, next(c.id for c in self.seen.leftovers if c.name == name))
            case "create", "network":
                networks.create(self.compose.engine, name)
                self._undo.append((f"remove network {name}", lambda: networks.remove(self.compose.engine, name)))
            case "build", "image":
                self.build(self.seen.own[name])
            case "pull", "image":
                self._pull(name)
            case "create" | "start", "service":
                self._start(name)
            case "recreate", "service":
                self._recreate(name)
            case "restart", "service":
                self._started.add(name)
                for container in self.seen.of(name):
                    containers.restart(self.compose.engine, container.id)
            case "await", "service":
                self._started.add(name)
            case _:
                raise AssertionError(f"no way to {step}")

    def _pull(self, reference: str) -> None:
        try:
            images.pull(self.compose.engine, reference, on_line=self.progress.detail)
        except ConcheError as failure:
            if reference not in self.seen.own:
                raise
            self.progress.step(f"{failure.message} Building it from this checkout instead")
            self.build(self.seen.own[reference])

    def _start(self, name: str) -> None:
        self._started.add(name)
        if self.seen.of(name):
            self._undo.append((f"stop service {name}", lambda: self._stop_service(name)))
        else:
            self._undo.append((f"remove service {name}", lambda: self._remove_service(name)))
        self._checked(self.compose.call(self.compose.up_alone(name), on_line=self.progress.detail), name)

    def _recreate(self, name: str) -> None:
        self._started.add(name)
        self._replaced.add(name)
        serves = all(container.health in ("healthy", "none") for container in self.seen.of(name))
        if serves and self.seen.configuration.services[name].image in self.seen.own:
            self._try(name)
        self.progress.step(f"replacing {name}")
        with signals_deferred():
            self._checked(
                self.compose.call(
                    self.compose.up_alone(name),
                    on_line=self.progress.detail,
                    outlives=True,
                    keep_open=() if self.held is None else (self.held,),
                ),
                name,
            )

    def _try(self, name: str) -> None:
        self.progress.step(f"trying the new {name} beside the one that serves")
        self._undo.append((f"remove the trial of {name}", lambda: trial.remove(self.compose)))
        waiting = trial.start_and_wait(self.compose, self.seen.configuration, name, self.timeout)
        if waiting.failed:
            raise self._failure(waiting, f"The new {name} does not work; the one that serves was not touched.")
        trial.remove(self.compose)

    def _verify(self) -> None:
        services = self.seen.configuration.services
        wanted = {name: services[name] for name in self._started}
        if not wanted:
            return
        self.progress.step(f"waiting until {', '.join(sorted(wanted))} is healthy")
        waiting = health.wait(self.compose.engine, self._look, wanted, timeout=self.timeout)
        if waiting.failed:
            raise self._failure(waiting, "")

    def _look(self) -> tuple[Container, ...]:
        found = containers.of_project(self.compose.engine, self.compose.project)
        return tuple(container for container in found if container.service in self._started)

    def _failure(self, waiting: Waiting, consequence: str) -> ConcheError:
        """The error for containers that do not work, with their own last lines."""
        evidence: list[str] = []
        for container in waiting.containers:
            if container.name in waiting.failed:
                evidence += [f"{container.name} {waiting.failed[container.name]}; its last lines:"]
                evidence += containers.last_lines(self.compose.engine, container.id) or ["(it wrote nothing)"]
                evidence += [f"healthcheck: {words}" for words in container.health_log if words]
                evidence += [f"engine: {container.error}"] if container.error else []
        broken = sorted({c.service for c in waiting.containers if c.name in waiting.failed})
        if not consequence and self._replaced & set(broken):
            return NotRestored(
                "start-failed-after-replacing",
                f"{', '.join(broken)} does not work, and what ran before has been replaced.",
                evidence=[self.compose.redact(line) for line in evidence],
                next_command=f"git stash    # or another way back to what worked\ninvoke env.up --env {self.seen.name}",
            )
        return Restored(
            "start-failed",
            consequence or f"{', '.join(broken)} does not start; what was begun has been taken back.",
            evidence=[self.compose.redact(line) for line in evidence],
            next_command=f"invoke env.up --env {self.seen.name}            # after correcting it\n"
            f"invoke env.up --env {self.seen.name} --build    # if the image is older than its requirements.lock",
        )

    def _checked(self, completed: Completed, name: str) -> None:
        if completed.ok:
            return
        kind = NotRestored if name in self._replaced else Restored
        raise kind(
            "compose-up-failed",
            f"Compose could not start {name}.",
            evidence=completed.last_lines(8),
            next_command=f"invoke env.status --env {self.seen.name}",
        )

    def _remove_service(self, name: str) -> None:
        for container in self._look():
            if container.service == name:
                containers.remove(self.compose.engine, container.id)

    def _stop_service(self, name: str) -> None:
        for container in self._look():
            if container.service == name:
                containers.stop(self.compose.engine, container.id)

    def _unwind(self, cause: BaseException) -> None:
        """Take back what was begun, newest first; what fails here must not hide the first error."""
        with signals_deferred():
            for description, undo in reversed(self._undo):
                self.progress.step(f"unwinding: {description}")
                try:
                    undo()
                except ConcheError as error:
                    cause.add_note(f"{description} failed: {error}")
                    self.progress.step(f"{description} failed: {error}")
