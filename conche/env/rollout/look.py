"""Live view of an environment and its releases; every call queries the engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.env.rollout import edge as edges
from conche.errors import ConcheError, NotFound
from conche.release.document import RELEASE, Template, alias
from conche.release.records import Record, Records, Result
from conche.stack import Deploy, Probe

__all__ = ["NOTHING", "Look", "number", "probe_kept"]

FAULT = 500
"""The lowest status by which an application admits a fault of its own."""

NOTHING = "nothing"
"""What serves before the first release."""


def number(release: str) -> int:
    """Return the number in a release's id; 0 if it is none."""
    return int(release[1:]) if release[1:].isdigit() else 0


def probe_kept(record: Record) -> Probe | None:
    """Return how a release was asked when it was deployed; None if that was not kept, or cannot be read."""
    known = {key: value for key, value in record.probe.items() if key in Probe.model_fields}
    try:
        return Probe.model_validate(known) if known else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Look:
    """The containers of one environment.

    Args:
        name: the environment's name.
        rendered: the rendered Compose document, which contains the edge's port; without it the engine is asked, which
            knows the port while the edge runs.
        probes: label of a release's containers -> how it is asked, if that was kept with it.
    """

    name: str
    compose: Compose
    deploy: Deploy
    rendered: Any
    probes: Mapping[str, Probe] = field(default_factory=dict)

    def with_probes_of(self, records: Records) -> Look:
        """Return a copy that asks each recorded release as stack.yaml said when it was deployed."""
        told = [e.record for e in records.entries if e.record and e.result is Result.SUCCEEDED]
        unfinished = records.unfinished
        if unfinished is not None and not unfinished.keeps:
            told.append(unfinished)
        kept = {one.label: found for one in told if (found := probe_kept(one))}
        return replace(self, probes={**self.probes, **kept})

    def probe_of(self, release: str) -> Probe:
        """Return how a release is asked: a path of today's may be one that an earlier one does not know."""
        return self.probes.get(release, self.deploy.probe)

    def all(self) -> tuple[Container, ...]:
        """Return every container of the project."""
        return containers.of_project(self.compose.engine, self.compose.project)

    def of(self, service: str) -> tuple[Container, ...]:
        """Return the containers of a service, of any release."""
        return tuple(one for one in self.all() if one.service == service)

    def of_release(self, service: str, release: str) -> tuple[Container, ...]:
        """Return the containers of a service that belong to a release."""
        return tuple(one for one in self.of(service) if one.labels.get(RELEASE) == release)

    def made(self, record: Record) -> dict[str, list[str]]:
        """Return service -> hashes of its containers of a release that the release's record does not know."""
        found: dict[str, set[str]] = {}
        for one in self.all():
            placed = record.services.get(one.service)
            ours = one.service != self.deploy.serves or one.labels.get(RELEASE) == record.id
            if placed is not None and ours and one.config_hash not in placed.hashes:
                found.setdefault(one.service, set()).add(one.config_hash)
        return {name: sorted(hashes) for name, hashes in found.items()}

    def others(self, service: str, keep: Sequence[str]) -> tuple[Container, ...]:
        """Return the containers of a service that belong to none of these releases."""
        return tuple(one for one in self.of(service) if one.labels.get(RELEASE) not in keep)

    def labels(self) -> list[str]:
        """Return the releases that have containers behind the edge, the newest first."""
        found = {one.labels.get(RELEASE, "") for one in self.of(self.deploy.serves or "")}
        return sorted((one for one in found if one), key=number, reverse=True)

    def serving(self) -> str:
        """Return the release to which the edge sends requests; empty if no edge answers."""
        if self.deploy.edge is None or not self.of(self.deploy.edge):
            return ""
        try:
            return self.edge().serving()
        except ConcheError:
            return ""

    def state(self) -> tuple[str, edges.Answer]:
        """Return the release to which the edge sends requests, and what its users are answered."""
        if self.deploy.edge is not None and self.of(self.deploy.edge):
            with contextlib.suppress(ConcheError):
                edge, asked = self.edge(), self.deploy.probe.path
                at, answer = edge.state(asked)
                return (at, answer) if self.probe_of(at).path == asked else edge.state(self.probe_of(at).path)
        return "", edges.Answer(0, "the edge is not running")

    def answers(self, release: str) -> bool:
        """Return whether a release runs, gives the right answer through the edge, and is ready."""
        assert self.deploy.serves is not None
        found = self.of_release(self.deploy.serves, release)
        if not found or any(one.state != "running" or one.health == "unhealthy" for one in found):
            return False
        probe = self.probe_of(release)
        paths = (probe.path, *([probe.ready] if probe.ready else []))
        try:
            answer, *ready = self.edge().probe(paths, f"{alias(self.deploy.serves, release)}:{self.deploy.port}")
        except ConcheError:
            return False
        return self.right(answer, release) and all(one.good for one in ready)

    def edge(self) -> edges.Edge:
        """Return the edge.

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
        """Return the port on which the edge listens in its container."""
        if self.rendered:
            return edges.listening(self.rendered["services"][self.deploy.edge].get("ports") or [])
        published = [port for one in self.of(self.deploy.edge or "") for port in one.ports]
        return edges.listening([{"target": port.rpartition("->")[2].partition("/")[0]} for port in published])

    def configured(self) -> str:
        """Return the name of the edge's configuration in use, maintenance page or not; empty if there is none."""
        if self.deploy.edge is None or not self.of(self.deploy.edge):
            return ""
        found = self.edge().in_place()
        return found.plain if found else ""

    def configured_for_maintenance(self) -> bool:
        """Return whether the edge's configuration in use shows the maintenance page."""
        if self.deploy.edge is None or not self.of(self.deploy.edge):
            return False
        found = self.edge().in_place()
        return found is not None and (found.unnamed or found.name).endswith(edges.MAINTAINED)

    def edge_configuration(self, template: Template, release: str, *, maintenance: bool) -> edges.EdgeConfiguration:
        """Make the edge's configuration for a release; before there is one, it shows the maintenance page."""
        assert self.deploy.serves is not None
        return edges.configure(
            template,
            release=release,
            upstream=f"{alias(self.deploy.serves, release)}:{template.port}",
            listen=self.listening(),
            maintenance=maintenance or release == NOTHING,
        )

    def wrong(self, release: str) -> str:
        """Return what users are answered while the edge runs, if the release should answer otherwise; else empty."""
        if self.deploy.edge is None or not any(one.state == "running" for one in self.of(self.deploy.edge)):
            return ""
        at, answer = self.state()
        return "" if at == release and self.right(answer, release) else answer.brief

    def astray(self, release: str, seen: tuple[str, edges.Answer] | None = None) -> str:
        """Return what users are answered, if it is wrong and the release itself is not at fault; else empty.

        Args:
            seen: what `state` has just returned.
        """
        at, answer = seen or self.state()
        if at == release and self.right(answer, release):
            return ""
        assert self.deploy.serves is not None
        try:
            entry = f"{alias(self.deploy.serves, release)}:{self.deploy.port}"
            own = self.edge().reaches(entry, self.probe_of(release).path)
        except ConcheError:
            return ""
        # An error of the release's own is not the edge's fault; not even saying whom it serves is.
        fine = own.good or 0 < own.status < FAULT
        return answer.brief if at != release or (fine and own.status != answer.status) else ""

    def right(self, answer: edges.Answer, release: str) -> bool:
        """Return whether an answer is good and, if stack.yaml names a field, says that it comes from this release."""
        named = self.probe_of(release).field
        if not answer.good or not named:
            return answer.good
        try:
            said: Any = json.loads(answer.body)
            for part in named.split("."):
                said = said[part]
        except (ValueError, KeyError, TypeError):
            return False
        return bool(said == release)
