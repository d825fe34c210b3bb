"""Carrying out a release, step by step; on a failure everything is taken back, newest first, and looked at."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from conche.engine import containers, health, networks
from conche.engine.compose import Compose, Configuration
from conche.engine.containers import Container
from conche.engine.health import Waiting
from conche.engine.lock import Held
from conche.env import trial
from conche.env.deploy.document import alias
from conche.env.deploy.edge import Configuration as EdgeConfiguration
from conche.env.deploy.look import NOTHING, Look
from conche.env.evidence import evidence
from conche.errors import Interrupted, NotRestored, Refused, Restored, Told
from conche.outcome import Plan, Step
from conche.output import Progress
from conche.process import Completed, signals_deferred
from conche.stack import Deploy

__all__ = ["Pipeline"]

PAUSE = 0.3
"""Seconds between two probes, and between two looks while watching."""

ENGINE_BACK = 60.0
"""Seconds that an engine which is being restarted is waited for before unwinding."""


@dataclass
class Pipeline:
    """One release on its way.

    Args:
        compose: of the release's document.
        previous: of the document of the release that serves; None for the first.
        look: what runs.
        configure: the edge's configuration for a release.
        begin: writes the record.
        commit: writes its good ending.
        counts: service -> containers it shall have.
        lock: verified before the switch.
    """

    release: str
    before: str
    compose: Compose
    configuration: Configuration
    previous: Compose | None
    deploy: Deploy
    look: Look
    configure: Callable[[str], EdgeConfiguration]
    begin: Callable[[], None]
    commit: Callable[[], None]
    counts: Mapping[str, int]
    progress: Progress
    lock: Held | None
    timeout: float | None = None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    recorded: bool = False
    committed: bool = False
    switched_after: float = 0.0
    _undo: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    @property
    def served(self) -> str:
        """The service behind the edge."""
        assert self.deploy.serves is not None
        return self.deploy.serves

    def carry_out(self, plan: Plan) -> None:
        """Take every step.

        Raises:
            Restored: it failed; the release before serves, and was looked at.
            NotRestored: it failed, and the release before does not serve.
            Interrupted: after unwinding.
        """
        begun = self.clock()
        try:
            for step in plan:
                self.progress.step(f"{step} ({step.cause})")
                self._take(step)
                if step.action == "switch":
                    self.switched_after = self.clock() - begun
        except BaseException as error:
            if self.committed:
                # The new release serves and is recorded; what is left of the old one is found by the next command.
                raise
            with signals_deferred():
                problems = [*self._unwind(), *self._not_serving()]
            raise self._told(error, problems) from error

    def _take(self, step: Step) -> None:
        if step.kind == "service":
            (self._replace if step.action == "replace" else self._single)(step)
            return
        if step.kind == "network":
            self._create_network(step.name)
            return
        take: Mapping[str, Callable[[], None]] = {
            "record": self._record,
            "run": self._run_release_command,
            "start": self._start_beside,
            "await": self._await_new,
            "probe": self._probe_new,
            "switch": self._switch,
            "drain": self._drain,
            "watch": self._watch,
            "stop": self._stop_old,
            "commit": self._commit,
            "remove": self._remove_old,
        }
        take[step.action]()

    def _create_network(self, name: str) -> None:
        self._undo.append((f"remove network {name}", lambda: networks.remove(self.compose.engine, name)))
        with signals_deferred():
            networks.create(self.compose.engine, name)

    def _record(self) -> None:
        with signals_deferred():
            self.begin()
            self.recorded = True

    def _commit(self) -> None:
        with signals_deferred():
            self.commit()
            self.committed = True

    def _run_release_command(self) -> None:
        service = self.deploy.serves or next(iter(self.configuration.services))
        name = f"{self.compose.project}-{self.release}-command"
        self._undo.append(("remove the release command's container", lambda: self._remove_named(name)))
        argv = self.compose.run_once(service, name, self.deploy.release_command)
        done = self.compose.call(argv, on_line=self.progress.detail, timeout=self.timeout or 900.0)
        if not done.ok:
            raise Restored(
                "release-command-failed",
                f"The release command ended with {done.exit_code}; nothing was switched.",
                evidence=done.last_lines(12),
                next_command="what it has changed by itself, such as a database's tables, is for you to look at",
            )

    def _single(self, step: Step) -> None:
        name = step.name
        if step.action == "create":
            self._undo.append((f"remove {name}", lambda: self._each(name, containers.remove)))
        elif self.previous is not None:
            self._undo.append((f"bring {name} back as it was", lambda: self._as_before(name)))
        if name == self.deploy.edge:
            self._bring_edge(name)
        else:
            self._checked(self._up(name), name)
        self._wait({name: [c.id for c in self.look.of(name)]})

    def _bring_edge(self, name: str) -> None:
        """An edge that is new starts with a configuration; until a release serves, it says it is in maintenance."""
        self._checked(self.compose.call(self.compose.create_alone(name), on_line=self.progress.detail), name)
        edge = self.look.edge()
        edge.begin(self.configure(self.before))
        self._checked(self._up(name), name)

    def _replace(self, step: Step) -> None:
        """Without an edge: the successor is tried beside, then takes the place."""
        name = step.name
        if self.look.of(name):
            self._undo.append((f"remove the trial of {name}", lambda: trial.remove(self.compose)))
            waiting = trial.start_and_wait(self.compose, self.configuration, name, self.timeout)
            if waiting.failed:
                raise self._failure(waiting, f"The new {name} does not work; the one that serves was not touched.")
            trial.remove(self.compose)
        if self.previous is not None:
            self._undo.append((f"bring {name} back as it was", lambda: self._as_before(name)))
        with signals_deferred():
            self._checked(self._up(name), name)
        self._wait({name: [c.id for c in self.look.of(name)]})

    def _start_beside(self) -> None:
        served = self.served
        self._undo.append((f"remove {self.release}", lambda: self._remove_release(served, self.release)))
        there = len(self.look.of(served))
        argv = self.compose.up_beside(served, there + self.counts.get(served, 1))
        self._checked(self.compose.call(argv, on_line=self.progress.detail), served)

    def _await_new(self) -> None:
        self._wait({self.served: [c.id for c in self.look.of_release(self.served, self.release)]})

    def _probe_new(self) -> None:
        candidate = f"{alias(self.served, self.release)}:{self.deploy.port}"
        self._probed(candidate, "The new release is healthy, but not through the edge; nothing was switched.")

    def _probed(self, candidate: str, said: str) -> None:
        """The right answer several times in a row; the first ones may still come too early."""
        edge, probe = self.look.edge(), self.deploy.probe
        deadline = self.clock() + 10.0
        row, answers = 0, []
        while row < probe.times:
            status, body = edge.probe(probe.path, candidate)
            right = 200 <= status < 300 and self.look.reports(body, self.release)
            row = row + 1 if right else 0
            answers.append(f"{probe.path}: {status or 'no answer'} {body[:200]}")
            if not right and self.clock() > deadline:
                raise Restored(
                    "probe-failed",
                    said,
                    evidence=[self.compose.redact(line) for line in dict.fromkeys(answers[-3:])],
                    looked_at=[f"wanted: 2xx{f' with {probe.field} {self.release}' if probe.field else ''}"],
                    next_command=f"invoke env.logs --env {self.look.name}",
                )
            if not right:
                self.pause(PAUSE)

    def _switch(self) -> None:
        if self.lock is not None:
            self.lock.verify()
        edge, new = self.look.edge(), self.configure(self.release)
        edge.place(new)
        edge.prove(new)
        self._undo.append((f"switch the edge back to {self.before}", self._switch_back))
        with signals_deferred():
            edge.switch(new)

    def _switch_back(self) -> None:
        edge, old = self.look.edge(), self.configure(self.before)
        edge.place(old)
        edge.switch(old)
        edge.drained(self.deploy.drain)

    def _drain(self) -> None:
        if not self.look.edge().drained(self.deploy.drain):
            self.progress.step(f"some requests take longer than {self.deploy.drain:g} s; they are not waited for")

    def _watch(self) -> None:
        served, deadline = self.served, self.clock() + self.deploy.observe
        restarts = {c.id: c.restarts for c in self.look.of_release(served, self.release)}
        while True:
            seen = self.look.of_release(served, self.release)
            service = self.configuration.services[served]
            failed = {
                one.name: reason
                for one in seen
                if (reason := health.judge(one, service, ran_for=0.0, restarts_before=restarts.get(one.id, 0))[1])
            }
            if failed or len(seen) != len(restarts):
                raise self._failure(Waiting(seen, failed), f"{self.release} did not keep working once it was used.")
            self._probed("", f"{self.release} does not answer its users as it should.")
            if self.clock() >= deadline:
                return
            self.pause(PAUSE)

    def _stop_old(self) -> None:
        served = self.served
        old = [one for one in self.look.of(served) if one.id not in self._new_ids(served)]
        self._undo.append((f"start {self.before} again", lambda: self._start_again(served, old)))
        for one in old:
            containers.stop(self.compose.engine, one.id)

    def _remove_old(self) -> None:
        served = self.served
        new = self._new_ids(served)
        for one in self.look.of(served):
            if one.id not in new:
                containers.remove(self.compose.engine, one.id)
        self.look.edge().sweep(self.configure(self.release))

    def _new_ids(self, served: str) -> set[str]:
        return {one.id for one in self.look.of_release(served, self.release)}

    def _up(self, name: str) -> Completed:
        return self.compose.call(self.compose.up_alone(name), on_line=self.progress.detail, outlives=True)

    def _as_before(self, name: str) -> None:
        assert self.previous is not None
        self.previous.call(self.previous.up_alone(name), on_line=self.progress.detail).require(f"bringing {name} back")

    def _start_again(self, served: str, old: list[Container]) -> None:
        for one in old:
            containers.start(self.compose.engine, one.id)
        self._wait({served: [one.id for one in old]})

    def _remove_release(self, served: str, release: str) -> None:
        for one in self.look.of_release(served, release):
            containers.remove(self.compose.engine, one.id)

    def _remove_named(self, name: str) -> None:
        containers.remove(self.compose.engine, name)

    def _each(self, name: str, act: Callable[..., None]) -> None:
        for container in self.look.of(name):
            act(self.compose.engine, container.id)

    def _wait(self, wanted: Mapping[str, list[str]]) -> None:
        services = {name: self.configuration.services[name] for name in wanted}
        ids = {one for several in wanted.values() for one in several}
        waiting = health.wait(
            self.compose.engine,
            lambda: [one for name in wanted for one in self.look.of(name) if one.id in ids],
            services,
            timeout=self.timeout,
        )
        if waiting.failed:
            raise self._failure(waiting, f"{', '.join(wanted)} does not become healthy.")

    def _failure(self, waiting: Waiting, said: str) -> Restored:
        return Restored(
            "release-failed",
            said,
            evidence=evidence(self.compose, waiting),
            next_command=f"invoke env.history --env {self.look.name}",
        )

    def _checked(self, completed: Completed, name: str) -> None:
        if not completed.ok:
            raise Restored(
                "compose-up-failed",
                f"Compose could not start {name}.",
                evidence=completed.last_lines(8),
                next_command=f"invoke env.status --env {self.look.name}",
            )

    def _unwind(self) -> list[str]:
        problems = []
        self._await_engine()
        for description, undo in reversed(self._undo):
            self.progress.step(f"unwinding: {description}")
            try:
                undo()
            except (Exception, Told) as error:  # noqa: BLE001 - one that fails must not keep the others from it
                problems.append(f"could not {description}: {error}")
        return problems

    def _await_engine(self) -> None:
        deadline = self.clock() + ENGINE_BACK
        while self.clock() < deadline:
            with contextlib.suppress(Exception):
                if self.compose.engine.client.ping():
                    return
            self.pause(PAUSE)

    def _not_serving(self) -> list[str]:
        """Whether what served before does not serve now; empty where it does, or where nothing served."""
        if self.before == NOTHING or self.deploy.serves is None:
            return self._not_running()
        try:
            old = [one.id for one in self.look.of_release(self.deploy.serves, self.before)]
            if not old:
                return [f"no container of {self.before} is left"]
            self._wait({self.deploy.serves: old})
            edge = self.look.edge()
            if edge.serving() != self.before:
                return [f"the edge serves {edge.serving() or 'nothing'} instead of {self.before}"]
            status, body = edge.probe(self.deploy.probe.path)
            return [] if 200 <= status < 300 else [f"{self.deploy.probe.path}: {status or 'no answer'} {body[:200]}"]
        except (Exception, Told) as error:  # noqa: BLE001 - whatever it is, the first error is the one to show
            return [f"could not look at what serves now: {error}"]

    def _not_running(self) -> list[str]:
        if self.previous is None:
            return []
        try:
            ill = [one.name for one in self.look.all() if one.state != "running" or one.health == "unhealthy"]
        except (Exception, Told) as error:  # noqa: BLE001 - as above
            return [f"could not look at what runs now: {error}"]
        return [f"{name} ran before and does not now" for name in ill]

    def _told(self, error: BaseException, problems: list[str]) -> BaseException:
        if not isinstance(error, Told):
            for problem in problems:
                error.add_note(problem)
            return error
        if problems:
            return NotRestored(
                "previous-state-lost",
                f"{error.message} The release before could not be brought back.",
                looked_at=error.looked_at,
                evidence=[*problems, *error.evidence],
                next_command=self._by_hand(),
            )
        if isinstance(error, Restored | Refused | Interrupted) or not self._undo:
            return error
        return Restored(
            error.code,
            f"{error.message} What served before still serves.",
            looked_at=error.looked_at,
            evidence=error.evidence,
            next_command=error.next_command,
        )

    def _by_hand(self) -> str:
        name = self.look.name
        return (
            f"invoke env.status --env {name}\ninvoke env.recover --env {name}\n"
            f"docker ps --all --filter label=com.docker.compose.project={self.compose.project}"
        )
