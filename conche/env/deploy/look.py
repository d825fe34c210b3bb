"""What runs of an environment and its releases, looked at anew each time it is asked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.env.deploy import edge as edges
from conche.env.deploy.document import RELEASE, alias
from conche.env.deploy.records import Record
from conche.errors import ConcheError, NotFound
from conche.stack import Deploy

__all__ = ["NOTHING", "Look", "number"]

FAULT = 500
"""The lowest status by which an application says that the fault is its own."""

NOTHING = "nothing"
"""What serves before the first release."""


def number(release: str) -> int:
    """The number in a release's id; 0 where it is none."""
    return int(release[1:]) if release[1:].isdigit() else 0


@dataclass(frozen=True)
class Look:
    """The containers of one environment.

    Args:
        name: of the environment.
        rendered: the rendered Compose document, in which the edge's port stands; without it the engine is asked, which
            knows the port while the edge runs.
    """

    name: str
    compose: Compose
    deploy: Deploy
    rendered: Any

    def all(self) -> tuple[Container, ...]:
        """Every container of the project."""
        return containers.of_project(self.compose.engine, self.compose.project)

    def of(self, service: str) -> tuple[Container, ...]:
        """The containers of a service, of any release."""
        return tuple(one for one in self.all() if one.service == service)

    def of_release(self, service: str, release: str) -> tuple[Container, ...]:
        """The containers of a service that belong to a release."""
        return tuple(one for one in self.of(service) if one.labels.get(RELEASE) == release)

    def made(self, record: Record) -> dict[str, list[str]]:
        """Service -> hashes of its containers of a release that the record of it does not know."""
        found: dict[str, set[str]] = {}
        for one in self.all():
            placed = record.services.get(one.service)
            ours = one.service != self.deploy.serves or one.labels.get(RELEASE) == record.id
            if placed is not None and ours and one.config_hash not in placed.hashes:
                found.setdefault(one.service, set()).add(one.config_hash)
        return {name: sorted(hashes) for name, hashes in found.items()}

    def others(self, service: str, keep: Sequence[str]) -> tuple[Container, ...]:
        """Containers of a service that belong to none of these releases."""
        return tuple(one for one in self.of(service) if one.labels.get(RELEASE) not in keep)

    def labels(self) -> list[str]:
        """The releases that have containers behind the edge, the newest first."""
        found = {one.labels.get(RELEASE, "") for one in self.of(self.deploy.serves or "")}
        return sorted((one for one in found if one), key=number, reverse=True)

    def serving(self) -> str:
        """The release to which the edge sends requests; empty where no edge answers."""
        if self.deploy.edge is None or not self.of(self.deploy.edge):
            return ""
        try:
            return self.edge().serving()
        except ConcheError:
            return ""

    def state(self) -> tuple[str, edges.Answer]:
        """The release to which the edge sends requests, and what its users are answered."""
        if self.deploy.edge is not None and self.of(self.deploy.edge):
            with contextlib.suppress(ConcheError):
                return self.edge().state(self.deploy.probe.path)
        return "", edges.Answer(0, "the edge does not run")

    def answers(self, release: str) -> bool:
        """Whether a release runs and gives the right answer through the edge."""
        assert self.deploy.serves is not None
        found = self.of_release(self.deploy.serves, release)
        if not found or any(one.state != "running" or one.health == "unhealthy" for one in found):
            return False
        probe = self.deploy.probe
        try:
            (answer,) = self.edge().probe(probe.path, f"{alias(self.deploy.serves, release)}:{self.deploy.port}")
        except ConcheError:
            return False
        return self.right(answer, release)

    def edge(self) -> edges.Edge:
        """The edge.

        Raises:
            NotFound: it has no container.
        """
        assert self.deploy.edge is not None
        found = self.of(self.deploy.edge)
        if not found:
            raise NotFound(
                "no-edge",
                f"The edge of {self.name} has no container.",
                next_command=f"invoke env.deploy --env {self.name}",
            )
        return edges.Edge(self.compose.engine, found[0].id, self.listening())

    def listening(self) -> int:
        """The port on which the edge listens in its container."""
        if self.rendered:
            return edges.listening(self.rendered["services"][self.deploy.edge].get("ports") or [])
        published = [port for one in self.of(self.deploy.edge or "") for port in one.ports]
        return edges.listening([{"target": port.rpartition("->")[2].partition("/")[0]} for port in published])

    def configured(self) -> str:
        """The name of the edge's configuration that counts, maintenance page or not; empty where there is none."""
        if self.deploy.edge is None or not self.of(self.deploy.edge):
            return ""
        found = self.edge().in_place()
        return found.plain if found else ""

    def edge_configuration(self, template: edges.Template, release: str, *, maintenance: bool) -> edges.Configuration:
        """The edge's configuration that sends requests to a release; before there is one, everything is maintenance."""
        assert self.deploy.serves is not None
        return edges.configure(
            template,
            release=release,
            upstream=f"{alias(self.deploy.serves, release)}:{template.port}",
            listen=self.listening(),
            maintenance=maintenance or release == NOTHING,
        )

    def wrong(self, release: str) -> str:
        """What users are answered while the edge runs, where that is not what the release should answer; else empty."""
        if self.deploy.edge is None or not any(one.state == "running" for one in self.of(self.deploy.edge)):
            return ""
        at, answer = self.state()
        return "" if at == release and self.right(answer, release) else answer.brief

    def astray(self, release: str, seen: tuple[str, edges.Answer] | None = None) -> str:
        """What users are answered, where that is wrong and the release itself is not what is wrong; else empty.

        Args:
            seen: what `state` has just told.
        """
        at, answer = seen or self.state()
        if at == release and self.right(answer, release):
            return ""
        assert self.deploy.serves is not None
        try:
            entry = f"{alias(self.deploy.serves, release)}:{self.deploy.port}"
            own = self.edge().reaches(entry, self.deploy.probe.path)
        except ConcheError:
            return ""
        # An error of the release's own is no fault of the edge; one that does not even say whom it serves is.
        fine = own.good or 0 < own.status < FAULT
        return answer.brief if at != release or (fine and own.status != answer.status) else ""

    def right(self, answer: edges.Answer, release: str) -> bool:
        """Whether an answer is good, and says that it comes from this release where stack.yaml names a field."""
        field = self.deploy.probe.field
        if not answer.good or not field:
            return answer.good
        try:
            said: Any = json.loads(answer.body)
            for part in field.split("."):
                said = said[part]
        except (ValueError, KeyError, TypeError):
            return False
        return bool(said == release)
