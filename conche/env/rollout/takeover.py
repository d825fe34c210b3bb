"""Carries out the first release behind an edge whose port others have had so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from conche.engine import containers
from conche.engine.containers import Container
from conche.env import trial
from conche.env.rollout.handover import Handover, remove_edge, start_again
from conche.env.rollout.pipeline import EARLY, ComposePipeline
from conche.outcome import Action, Kind, Step
from conche.process import signals_deferred

__all__ = ["Takeover"]


@dataclass
class Takeover(ComposePipeline):
    """A release whose edge takes over its port.

    Args:
        note: records which containers are about to be stopped.
    """

    handover: Handover = field(default_factory=Handover)
    note: Callable[[Sequence[str]], None] = lambda _: None

    def _take(self, step: Step) -> None:
        edge = self.deploy.edge
        if (step.action, step.kind) == (Action.TRY, Kind.EDGE):
            self._try_edge(step.name)
        elif (step.action, step.kind) == (Action.STOP, Kind.CONTAINER):
            self._stop_holder(next(one for one in self.handover.holders if one.name == step.name))
        elif step.kind == Kind.SERVICE and step.name == edge:
            self._start_edge(step.name)
        else:
            super()._take(step)

    def _commit(self) -> None:
        super()._commit()
        for one in self.handover.holders:
            if one not in self.handover.old:
                # It belongs to nothing that the files name, so a release must not remove it.
                containers.keep_stopped(self.compose.engine, one.id)
                self.warnings.append(f"{one.name} had the edge's port and is now stopped: docker rm {one.name}")

    def _place(self) -> None:
        """Do nothing: no edge runs yet that could test its configuration; its trial will."""

    def _try_edge(self, name: str) -> None:
        """Start the edge beside what has its port, without that port, and ask the new release through it."""
        self.note([one.id for one in self.handover.holders])
        self._undo.append((f"remove {name}", lambda: remove_edge(self.look)))
        with signals_deferred():
            self._checked(self.compose.make(self.compose.create_alone(name), on_line=self.progress.detail), name)
            self.look.edge().begin(self.configure(self.release))
        self._undo.append((f"remove the trial of {name}", lambda: trial.remove(self.compose)))
        waiting = trial.start_and_wait(self.compose, self.configuration, name, self.timeout)
        if waiting.failed:
            raise self._failure(waiting, f"The new {name} does not work; what serves was not touched.")
        edge = replace(self.look.edge(), container=waiting.containers[0].id)
        said = "The new release is healthy, but not through the edge; nothing was stopped."
        self._probed(self.candidate, said, EARLY, edge)
        trial.remove(self.compose)

    def _stop_holder(self, one: Container) -> None:
        """Stop what has the edge's port; it stays, and can be started again."""
        if self.lock is not None:
            self.lock.verify()
        # While the edge has the port, an unwinding must not wait for this one.
        before = self.before
        self.before = replace(before, working=tuple(other for other in before.working if other.id != one.id))
        self._undo.append((f"start {one.name} again", lambda: self._start_again(one)))
        containers.stop(self.compose.engine, one)

    def _start_again(self, one: Container) -> None:
        self.before = replace(self.before, working=(*self.before.working, one))
        start_again(self.look, one)

    def _start_edge(self, name: str) -> None:
        """Start the edge on the port that is now free; from the first moment it sends users to the new release."""
        self._undo.append((f"take {name} off the port", lambda: remove_edge(self.look)))
        self._bring(name)
        self.switched_after = self.clock() - self.begun
        self._wait(name, self.look.of(name))
