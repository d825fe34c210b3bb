"""What runs of an environment and its releases, looked at anew each time it is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.env.deploy import edge as edges
from conche.env.deploy.document import RELEASE, alias
from conche.errors import NotFound
from conche.stack import Deploy

__all__ = ["NOTHING", "Look"]

NOTHING = "nothing"
"""What serves before the first release."""


@dataclass(frozen=True)
class Look:
    """The containers of one environment.

    Args:
        name: of the environment.
        rendered: the rendered Compose document, in which the edge's port stands.
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

    def others(self, service: str, keep: Sequence[str]) -> tuple[Container, ...]:
        """Containers of a service that belong to none of these releases."""
        return tuple(one for one in self.of(service) if one.labels.get(RELEASE) not in keep)

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
        return edges.listening(self.rendered["services"][self.deploy.edge].get("ports") or [])

    def edge_configuration(self, root: Path, release: str, *, maintenance: bool | None = None) -> edges.Configuration:
        """The edge's configuration that sends requests to a release; before there is one, everything is maintenance."""
        deploy = self.deploy
        assert deploy.edge is not None
        assert deploy.serves is not None
        return edges.configure(
            root / deploy.template if deploy.template else None,
            release=release,
            upstream=f"{alias(deploy.serves, release)}:{deploy.port}",
            listen=self.listening(),
            drain=deploy.drain,
            maintenance=release == NOTHING if maintenance is None else maintenance,
        )

    def reports(self, body: str, release: str) -> bool:
        """Whether an answer says that it comes from this release; any does where stack.yaml names no field."""
        field = self.deploy.probe.field
        if not field:
            return True
        try:
            said: Any = json.loads(body)
            for part in field.split("."):
                said = said[part]
        except (ValueError, KeyError, TypeError):
            return False
        return bool(said == release)
