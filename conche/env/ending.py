"""Sums up a plan that failed, at least in part: what is up, what is not and why, in one error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from conche.engine.ports import Port
from conche.engine.service import Service
from conche.errors import ConcheError, Partial, Restored

__all__ = ["FailedServices"]


@dataclass(frozen=True)
class FailedServices:
    """The end of a plan in which some services failed.

    Attributes:
        environment: its name.
        url: where its users find it.
        up: services that were asked for and are up, as their files say.
        failures: service -> why it is not up.
        fallen: service -> a service it needs that is not up.
        served: services that worked before; those of them that failed are as they were.
        own: services whose image is built here.
        begun: whether anything that people notice had been begun.
    """

    environment: str
    url: str | None
    up: Mapping[str, Service]
    failures: Mapping[str, ConcheError]
    fallen: Mapping[str, str]
    served: Collection[str]
    own: Collection[str]
    begun: bool

    def error(self) -> ConcheError:
        """Return `Partial` if anything that was asked for is up; else the failure, or one error for several."""
        if self.up:
            return Partial(
                "brought-up-in-part",
                f"{self.environment} is up{self._where()}, but for {_listed([*self.failures, *self.fallen])}.",
                evidence=[*self._lines(), *self._evidence()],
                next_command=self._next(),
            )
        first, *others = dict.fromkeys(self.failures.values())
        if not self.begun:
            said = " ".join(one.message for one in (first, *others))
            return type(first)(
                first.code, said, looked_at=first.looked_at, evidence=self._evidence(), next_command=self._next()
            )
        return Restored(
            first.code,
            f"{'; '.join(_sentence(one) for one in (first, *others))}; all changes were undone.",
            evidence=[*(self._lines() if others or self.fallen else ()), *self._evidence()],
            next_command=self._next(),
        )

    def _where(self) -> str:
        """Return the address for users if a service that is up publishes its port."""
        try:
            number = urlsplit(self.url or "").port
        except ValueError:
            number = None
        found = any(port.number <= number <= max(port.number, port.last) for port in self._ports()) if number else False
        return f" on {self.url}" if found else ""

    def _ports(self) -> list[Port]:
        return [port for service in self.up.values() for port in service.ports]

    def _lines(self) -> list[str]:
        """Return a line per service: first those that are not up, with the reason."""
        failed = [f"{self._state(name)}: {_named(name, error)}" for name, error in self.failures.items()]
        fallen = [f"{self._state(name)}: {name}, which needs {other}" for name, other in self.fallen.items()]
        return failed + fallen + [f"up: {name}{_address(service)}" for name, service in self.up.items()]

    def _state(self, name: str) -> str:
        return "as before" if name in self.served else "not up"

    def _evidence(self) -> list[str]:
        return [words for error in dict.fromkeys(self.failures.values()) for words in error.evidence]

    def _next(self) -> str:
        """Return commands that fit the failures: only an image built here may be older than its sources."""
        again = f"invoke env.up --env {self.environment}            # after correcting it"
        build = f"invoke env.up --env {self.environment} --build    # if an image is older than its sources"
        said = [one.next_command for one in self.failures.values() if one.next_command]
        return "\n".join(dict.fromkeys([*said, *([] if said else [again]), *([build] if self._built() else [])]))

    def _built(self) -> bool:
        return any(name in self.own and isinstance(one, Restored) for name, one in self.failures.items())


def _sentence(error: ConcheError) -> str:
    return error.message.removesuffix(".")


def _named(service: str, error: ConcheError) -> str:
    said = _sentence(error)
    return said if said.startswith(f"{service} ") else f"{service}: {said}"


def _address(service: Service) -> str:
    said = ", ".join(f"{port.address or '0.0.0.0'}:{port}" for port in service.ports)  # noqa: S104 - shown, not bound
    return f" on {said}" if said else ""


def _listed(names: Collection[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
