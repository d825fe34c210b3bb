"""The runners and the forge that the Compose files describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conche.engine.written import services
from conche.stack import Stack

__all__ = ["LABELS", "SERVERS", "Runner", "runners", "serving"]

LABELS = ("GITEA_RUNNER_LABELS", "FORGEJO_RUNNER_LABELS", "RUNNER_LABELS")
"""Variables of a Compose service from which runners' images take the labels."""

SERVERS = ("forgejo/forgejo", "gitea/gitea")
"""Part of the image name of a service that is a forge."""

NAMES = ("GITEA_RUNNER_NAME", "FORGEJO_RUNNER_NAME", "RUNNER_NAME")

_DEFAULT = re.compile(r"\$\{\w+:?-([^}]*)\}")


@dataclass(frozen=True)
class Runner:
    """A runner that a Compose file describes.

    Attributes:
        name: its name on the server.
        built: the Compose file says how its image is built.
        profiles: its Compose profiles; without one it comes up with its environment.
        secret: the declared secret that holds its token; empty if it has none.
        labels: each `name:scheme` or `name:scheme://image`; a bare name means different things on Gitea and Forgejo.
    """

    environment: str
    service: str
    labels: tuple[str, ...]
    name: str = ""
    image: str = ""
    built: bool = False
    profiles: tuple[str, ...] = ()
    secret: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as `runs-on` names them, without the scheme."""
        return tuple(label.partition(":")[0] for label in self.labels)


def runners(root: Path, stack: Stack) -> list[Runner]:
    """Return the runners in the Compose files of every environment."""
    found = []
    for environment, described in stack.environments.items():
        for file in described.compose:
            for service in services(root / file):
                runner = _runner(environment, service.name, service.body)
                if runner is not None:
                    found.append(runner)
    return found


def serving(root: Path, stack: Stack) -> str | None:
    """Return the environment with a forge in its Compose files, if any."""
    for environment, described in stack.environments.items():
        for service in (one for file in described.compose for one in services(root / file)):
            if any(server in str(service.body.get("image")) for server in SERVERS):
                return environment
    return None


def _runner(environment: str, service: str, definition: Mapping[str, Any]) -> Runner | None:
    variables = _variables(definition.get("environment"))
    labels = _labels(variables)
    if not labels:
        return None
    mounted = [one if isinstance(one, str) else str(one.get("source", "")) for one in definition.get("secrets") or ()]
    return Runner(
        environment,
        service,
        labels,
        name=next((variables[one] for one in NAMES if one in variables), service),
        image=str(definition.get("image", "")),
        built="build" in definition,
        profiles=tuple(definition.get("profiles") or ()),
        secret=next((one for one in mounted if "token" in one), ""),
    )


def _variables(said: Any) -> dict[str, str]:
    if isinstance(said, list):
        return dict(str(line).partition("=")[::2] for line in said)
    return {name: str(value) for name, value in (said or {}).items()}


def _labels(variables: Mapping[str, str]) -> tuple[str, ...]:
    said = next((variables[name] for name in LABELS if name in variables), "")
    return tuple(label.strip() for label in _DEFAULT.sub(r"\1", said).split(",") if label.strip())
