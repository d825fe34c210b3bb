"""What a plan has begun for each service, which of them have failed, and how that is taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from conche.engine import kept
from conche.engine.connection import EngineRefused
from conche.env.ending import FailedServices
from conche.env.plan import works
from conche.env.units import Routes, fall_with, needs
from conche.env.unwinding import Undo, told, unwind
from conche.env.watch import EnvironmentWatch
from conche.errors import ConcheError, NotFound, Partial, Restored
from conche.outcome import Kind, Step
from conche.output import Progress
from conche.process import signals_deferred

__all__ = ["Undoing"]


@dataclass
class Undoing:
    """The way back of a plan, by service.

    Args:
        watch: looks at the environment, and knows what it was before.
        routes: edge -> the service that it sends requests to.
        asked: services that are to be up afterwards; default: all.
        url: where the environment's users find it.

    Attributes:
        planned: the services that the plan is about.
        touched: those of them that something was begun with which people notice.
        failures: service -> why it is not up.
        fallen: service -> a service that it needs and that is not up.
    """

    watch: EnvironmentWatch
    progress: Progress
    routes: Routes = field(default_factory=dict)
    asked: Collection[str] = ()
    url: str | None = None
    planned: Collection[str] = ()
    touched: set[str] = field(default_factory=set)
    failures: dict[str, ConcheError] = field(default_factory=dict)
    fallen: dict[str, str] = field(default_factory=dict)
    _undo: list[tuple[str, Undo]] = field(default_factory=list)
    _problems: list[str] = field(default_factory=list)

    def push(self, unit: str, said: str, act: Callable[[], None]) -> None:
        """Remember how to take something back that is about to begin.

        Args:
            unit: the service that it is for; empty if it is for all of them.
            said: what `act` does, in words.
        """
        self._undo.append((unit, (said, act)))

    def is_down(self, unit: str) -> bool:
        """Return whether a service has failed, or fallen with one that has."""
        return unit in self.failures or unit in self.fallen

    def begin(self, name: str) -> None:
        """Note that something is begun with a service: people may notice, and it is waited for in the end."""
        self.touched.add(name)
        self.watch.started.add(name)

    @contextlib.contextmanager
    def alone(self, step: Step) -> Iterator[None]:
        """Take back what a step was for if it fails on its own account, and let the others go on."""
        try:
            yield
        except ConcheError as failure:
            if step.kind == Kind.IMAGE:
                services = self.watch.seen.configuration.services
                self.fail([name for name in self.planned if services[name].image == step.name], failure)
            elif step.kind == Kind.SERVICE and isinstance(failure, Restored | EngineRefused | NotFound):
                self.fail([step.name], failure)
            else:
                raise

    def fail(self, names: Collection[str], failure: ConcheError) -> None:
        """Take back services that do not come up, and what needs them."""
        self.failures.update(dict.fromkeys(sorted(names), failure))
        for name in [one for one, error in self.failures.items() if error.code == "compose-up-failed"]:
            if needs(self.watch.seen.configuration, name, self.routes) & self.failures.keys():
                del self.failures[name]  # Compose could not start it because one it needs does not run.
        self.fallen = fall_with(self.watch.seen.configuration, self.failures, self.planned, self.routes)
        down = ", ".join([*self.failures, *self.fallen])
        self.progress.step(f"taking back {down}: {failure.message}")
        with signals_deferred():
            self._take_back(self.is_down)

    def _take_back(self, chosen: Callable[[str], bool]) -> None:
        """Take back what was begun of some units, the newest first."""
        undo = [one for unit, one in self._undo if chosen(unit)]
        self._undo = [(unit, one) for unit, one in self._undo if not chosen(unit)]
        watch = self.watch
        self._problems += unwind(undo, self.progress.step, watch.wait_ready, clock=watch.clock, pause=watch.pause)

    def forget(self) -> None:
        """Remove what was kept; what cannot be removed goes with the next command."""
        with contextlib.suppress(ConcheError):
            for name in (one for one in self.touched if not self.is_down(one)):
                kept.forget(self.watch.compose.engine, self.watch.compose.project, name)

    def ending(self) -> FailedServices:
        """Return what is up after the plan, and what is not."""
        services = self.watch.seen.configuration.services
        return FailedServices(
            environment=self.watch.seen.name,
            url=self.url,
            up={name: services[name] for name in services if name in (self.asked or services) and self._is_up(name)},
            failures=self.failures,
            fallen=self.fallen,
            served={name for name in services if self._worked(name)},
            own={name for name, service in services.items() if service.image in self.watch.seen.own},
            begun=bool(self.touched),
        )

    def _is_up(self, name: str) -> bool:
        """Return whether a service is as its files say, by this plan or without it."""
        return not self.is_down(name) if name in self.planned else self._worked(name)

    def _worked(self, name: str) -> bool:
        found, service = self.watch.seen.of(name), self.watch.seen.configuration.services[name]
        return bool(found) and all(works(service, one) for one in found)

    def told(self, error: BaseException) -> BaseException:
        """Take everything back and return the error to show; after a partial success, keep what has come up."""
        with signals_deferred():
            if isinstance(error, Partial):
                self.forget()
            else:
                self._take_back(lambda _: True)
            problems = [*self._problems, *self.watch.lost()]
        return told(error, problems, begun=bool(self.touched), by_hand=self._by_hand())

    def _by_hand(self) -> str:
        name = self.watch.seen.name
        back = "git stash    # or otherwise return to what worked"
        return f"invoke env.logs --env {name}\n{back}\ninvoke env.up --env {name}"
