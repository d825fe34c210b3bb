"""Carries out a release, step by step; on a failure takes everything back, newest first, and checks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from conche.engine import containers, health, networks
from conche.engine.compose import Compose, Configuration
from conche.engine.containers import Container
from conche.engine.health import Waiting
from conche.engine.lock import Held
from conche.engine.service import Service
from conche.env import trial
from conche.env.evidence import explained, reasons
from conche.env.rollout.dependents import restart_followers
from conche.env.rollout.edge import Edge, EdgeConfiguration
from conche.env.rollout.look import Look
from conche.env.rollout.probing import PAUSE, Probing
from conche.env.rollout.unwinding import Before, by_hand, wait_ready
from conche.env.unwinding import Undo, told, unwind
from conche.errors import ConcheError, NotFound, NotRestored, Restored, Told
from conche.outcome import Action, Kind, Plan, Step
from conche.output import Progress
from conche.process import Captured, Completed, signals_deferred
from conche.release.document import alias
from conche.stack import Deploy

__all__ = ["ComposePipeline"]

EARLY = 5.0
"""Seconds for which wrong answers are borne before users are sent there: they may just come too early."""

PATIENCE = 1.5
"""Seconds of wrong answers to users after which they are sent back."""


@dataclass
class ComposePipeline:
    """One release on its way.

    Args:
        before: what served before it.
        compose: Compose for the release's document.
        previous: Compose for the document of the release that serves; None for the first.
        previous_port: the port on which that release's containers behind the edge listen.
        look: a live view of what runs.
        release: the label of the containers that are to serve.
        configure: makes the edge's configuration for a release, from this one's template.
        begin: writes the record.
        commit: writes its good ending.
        counts: service -> number of containers it is to have.
        commanding: the service in whose image the release command runs.
        lock: verified before the switch.
        maintained: whether the edge shows the maintenance page, whatever serves.
    """

    release: str
    before: Before
    compose: Compose
    configuration: Configuration
    previous: Compose | None
    deploy: Deploy
    look: Look
    configure: Callable[[str], EdgeConfiguration]
    begin: Callable[[], None]
    commit: Callable[[], None]
    counts: Mapping[str, int]
    commanding: str
    progress: Progress
    lock: Held | None
    begun: float
    previous_port: int
    maintained: bool = False
    timeout: float | None = None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    recorded: bool = False
    committed: bool = False
    switched_after: float = 0.0
    warnings: list[str] = field(default_factory=list)
    _switched: bool = False
    _in_place: EdgeConfiguration | None = None
    _undo: list[Undo] = field(default_factory=list)
    _restarts: dict[str, int] = field(default_factory=dict)
    _restarted: set[str] = field(default_factory=set)

    @property
    def served(self) -> str:
        """The service behind the edge."""
        assert self.deploy.serves is not None
        return self.deploy.serves

    @property
    def candidate(self) -> str:
        """Where the edge finds the new release."""
        return f"{alias(self.served, self.release)}:{self.deploy.port}"

    def carry_out(self, plan: Plan) -> None:
        """Take every step.

        Raises:
            Restored: it failed; the release before serves, and was checked.
            NotRestored: it failed, and the release before does not serve.
            Interrupted: after unwinding.
        """
        try:
            for step in plan:
                self.progress.step(f"{step} ({step.cause})")
                self._take(step)
                if step.action == Action.SWITCH:
                    self.switched_after = self.clock() - self.begun
        except BaseException as error:
            if self.committed:
                self._left_behind(error)
                return
            with signals_deferred():
                problems = unwind(self._undo, self.progress.step, lambda: wait_ready(self.look, self.before))
                problems += self.before.lost(self.look, self.configuration, self.timeout)
            raise told(error, problems, begun=bool(self._undo), by_hand=by_hand(self.look)) from error

    def _left_behind(self, error: BaseException) -> None:
        """Warn of what is left of the release before: the new one serves and is recorded, so it has not failed."""
        left = f"{self.release} serves; the next command removes what is left of {self.before.release}"
        if isinstance(error, ConcheError):
            self.warnings.append(f"{left}: {error.message} Or: invoke env.recover --env {self.look.name}")
            return
        if isinstance(error, Told):
            self.progress.step(left)
        raise error

    def _take(self, step: Step) -> None:
        if step.kind == Kind.SERVICE:
            by = {Action.REPLACE: self._replace, Action.RESTART: self._restart}
            return by.get(step.action, self._single)(step)
        if step.kind == Kind.NETWORK:
            return self._create_network(step.name)
        take: Mapping[Action, Callable[[], None]] = {
            Action.RECORD: self._record,
            Action.RUN: self._run_release_command,
            Action.PLACE: self._place,
            Action.START: self._start_beside,
            Action.AWAIT: self._await_new,
            Action.PROBE: self._probe_new,
            Action.SWITCH: self._switch,
            Action.DRAIN: self._drain,
            Action.WATCH: self._watch,
            Action.STOP: self._stop_old,
            Action.COMMIT: self._commit,
            Action.REMOVE: self._remove_old,
        }
        return take[step.action]()

    def _create_network(self, name: str) -> None:
        self._undo.append((f"remove network {name}", lambda: networks.remove(self.compose.engine, name)))
        with signals_deferred():
            networks.create(self.compose.engine, name)

    def _record(self) -> None:
        with signals_deferred():
            self.begin()
            self.recorded = True

    def _commit(self) -> None:
        self.warnings += self.before.died(self.look, self.configuration, self.release, self.progress.step)
        with signals_deferred():
            self.commit()
            self.committed = True

    def _run_release_command(self) -> None:
        name = f"{self.compose.project}-{self.release}-command"
        self._undo.append(
            ("remove the release command's container", lambda: containers.remove(self.compose.engine, name))
        )
        argv = self.compose.run_once(self.commanding, name, self.deploy.release_command)
        said: list[str] = []

        def heard(line: Captured) -> None:
            self.progress.detail(line)
            # Compose's own remarks, and an empty line from 2.40 on, are mixed into what the command says.
            if line.raw.strip() and not line.raw.startswith("time="):
                said.append(str(line))

        done = self.compose.call(argv, on_line=heard, timeout=self.timeout or 900.0)
        if not done.ok:
            raise Restored(
                "release-command-failed",
                f"The release command exited with {done.exit_code}; nothing was switched.",
                evidence=said[-12:],
                next_command="check what it may have changed itself, such as database tables",
            )

    def _single(self, step: Step) -> None:
        name = step.name
        if step.action == Action.CREATE:
            self._undo.append((f"remove {name}", lambda: self._each(name, containers.remove)))
        elif step.action != Action.START:
            self._undo += self._way_back(name)
        self._bring_and_wait(name, self._bring_edge if name == self.deploy.edge else self._bring)

    def _way_back(self, name: str) -> list[Undo]:
        """Return what takes a replacement back; the last is done first, and what follows the service starts anew."""
        again = partial(restart_followers, self.look, self.configuration, self._restarted, name)
        followed = any(name in one.follows for one in self.configuration.services.values())
        after: list[Undo] = [(f"restart what follows {name}", again)] if followed else []
        return [*after, (f"bring {name} back as it was", partial(self._as_before, name))]

    def _restart(self, step: Step) -> None:
        self._restarted.add(step.name)
        running = [one for one in self.look.of(step.name) if one.state == "running"]
        for one in running:
            containers.restart(self.compose.engine, one)
        self._wait(step.name, running)

    def _bring_edge(self, name: str) -> None:
        """Start the edge; a new one gets a configuration that shows maintenance until a release serves."""
        with signals_deferred():
            self._checked(self.compose.make(self.compose.create_alone(name), on_line=self.progress.detail), name)
            edge = self.look.edge()
            # An edge that is made anew finds in its volume what served.
            kept = edge.in_place()
            if kept is None or kept.release != self.before.release:
                edge.begin(self.configure(self.before.release))
            self._bring(name)

    def _replace(self, step: Step) -> None:
        """Replace a service without an edge: its successor is tried beside it, then takes its place."""
        name = step.name
        if self.look.of(name):
            self._undo.append((f"remove the trial of {name}", lambda: trial.remove(self.compose)))
            waiting = trial.start_and_wait(self.compose, self.configuration, name, self.timeout)
            if waiting.failed:
                raise self._failure(waiting, f"The new {name} does not work; the one that serves was not touched.")
            trial.remove(self.compose)
            self._undo += self._way_back(name)
        else:
            self._undo.append((f"remove {name}", lambda: self._each(name, containers.remove)))
        self._bring_and_wait(name, self._bring)

    def _start_beside(self) -> None:
        """Start the new containers; while they start, let nginx test the configuration that will send users there."""
        served = self.served
        self._undo.append((f"remove {self.release}", lambda: self._remove_release(served, self.release)))
        argv = self.compose.up_beside(served, len(self.look.of(served)) + self.counts.get(served, 1))
        self._checked(self.compose.make(argv, on_line=self.progress.detail), served)
        self._place()

    def _place(self) -> None:
        """Put the edge's configuration beside the one in use, and let nginx test it."""
        self._restarts = {one.id: one.restarts for one in self.look.of_release(self.served, self.release)}
        edge, new = self.look.edge(), self.configure(self.release)
        edge.place(new)
        edge.prove(new)

    def _await_new(self) -> None:
        new = self.look.of_release(self.served, self.release)
        self._wait(self.served, new)
        self._restarts = {one.id: one.restarts for one in new}

    def _probe_new(self) -> None:
        said = "The new release is healthy, but not through the edge; nothing was switched."
        self._probed(self.candidate, said, EARLY)

    def _probed(self, candidate: str, said: str, patience: float, through: Edge | None = None) -> None:
        look, probe = self.look, self.deploy.probe
        asking = Probing(probe, self.release, look.right, self.compose.redact, look.name, self.clock, self.pause)
        times = probe.times if candidate else 1
        asking.require(through or look.edge(), said, patience, candidate=candidate, times=times)

    def _switch(self) -> None:
        if self.lock is not None:
            self.lock.verify()
        edge = self.look.edge()
        self._in_place = edge.in_place()
        self._undo.append((f"switch the edge back to {self.before.release}", self._switch_back))
        self._switched = True
        with signals_deferred():
            edge.switch(self.configure(self.release))

    def _switch_back(self) -> None:
        """Put back the very configuration that served, and check that users are answered as they were."""
        edge, before = self.look.edge(), self.before
        old = self._in_place or self.configure(before.release)
        before.require_answer(self.look, self.previous_port)
        edge.place(old)
        edge.switch_back(old)
        self._switched = False
        problems = before.not_served(self.look)
        if problems:
            raise NotRestored("previous-state-lost", problems[0])
        edge.drained(self.deploy.drain)

    def _drain(self) -> None:
        if not self.look.edge().drained(self.deploy.drain):
            self.progress.step(f"some requests take longer than {self.deploy.drain:g} s; not waiting for them")

    def _watch(self) -> None:
        deadline = self.clock() + self.deploy.observe
        candidate = self.candidate if self.maintained else ""
        service = self.configuration.services[self.served]
        while True:
            self._require_running(service)
            try:
                self._probed(candidate, f"{self.release} does not answer its users correctly.", PATIENCE)
            except Restored:
                # A container that has died since says more about the cause than the wrong answers it has led to.
                self._require_running(service)
                raise
            if self.clock() >= deadline:
                return
            self.pause(PAUSE)

    def _require_running(self, service: Service) -> None:
        """Check that every container of the release works as it did before users came."""
        seen = self.look.of_release(self.served, self.release)
        failed = {
            one.name: reason
            for one in seen
            if (reason := health.judge(one, service, ran_for=0.0, restarts_before=self._restarts.get(one.id, 0))[1])
        }
        said = f"{self.release} did not keep working once it was used."
        if failed:
            raise self._failure(Waiting(seen, failed), said)
        if len(seen) != len(self._restarts):
            raise self._failure(Waiting(seen, {}), f"{said} A container of it was removed.")

    def _stop_old(self) -> None:
        new = self._new_ids(self.served)
        old = [one for one in self.look.of(self.served) if one.id not in new and one.state == "running"]
        with ThreadPoolExecutor(max(1, len(old))) as pool:
            list(pool.map(lambda one: containers.stop(self.compose.engine, one), old))

    def _remove_old(self) -> None:
        served = self.served
        new = self._new_ids(served)
        for one in self.look.of(served):
            if one.id not in new:
                containers.remove(self.compose.engine, one.id)
        self.look.edge().sweep(self.configure(self.release))

    def _new_ids(self, served: str) -> set[str]:
        return {one.id for one in self.look.of_release(served, self.release)}

    def _bring(self, name: str) -> None:
        containers.resume(self.compose.engine, self.look.of(name))
        self._checked(self.compose.make(self.compose.up_alone(name), on_line=self.progress.detail, outlives=True), name)

    def _as_before(self, name: str) -> None:
        if self.previous is None:
            raise NotFound(
                "release-incomplete", f"The previous release cannot be decrypted here, so what {name} was is unknown."
            )
        self.previous.call(self.previous.up_alone(name), on_line=self.progress.detail).require(f"bringing {name} back")

    def _remove_release(self, served: str, release: str) -> None:
        if self._switched:
            raise NotRestored("previous-state-lost", f"the edge still sends requests to {release}")
        for one in self.look.of_release(served, release):
            containers.remove(self.compose.engine, one.id)

    def _each(self, name: str, act: Callable[..., None]) -> None:
        for container in self.look.of(name):
            act(self.compose.engine, container.id)

    def _bring_and_wait(self, name: str, bring: Callable[[str], None]) -> None:
        ran = [one for one in self.look.of(name) if one.state in ("running", "paused", "restarting")]
        bring(name)
        self._wait(name, self.look.of(name), ran)

    def _wait(self, name: str, wanted: Sequence[Container], ran: Sequence[Container] = ()) -> None:
        """Wait for these containers; the restarts of those that ran before the step do not count."""
        ids = {one.id for one in wanted}
        waiting = health.wait(
            self.compose.engine, lambda: [one for one in self.look.of(name) if one.id in ids],
            {name: self.configuration.services[name]}, timeout=self.timeout,
            restarts={one.id: one.restarts for one in ran},
        )  # fmt: skip
        if waiting.failed:
            raise self._failure(waiting)

    def _failure(self, waiting: Waiting, said: str = "") -> Restored:
        found = explained(self.compose, waiting).values()
        return Restored(
            "release-failed",
            f"{reasons(waiting)}. {said}".lstrip(". ").rstrip(),  # sent elsewhere too: without what containers write
            evidence=[*(one.says for one in found), *(line for one in found for line in one.lines)],
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
