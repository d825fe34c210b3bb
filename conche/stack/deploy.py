"""The section `deploy` of an environment in stack.yaml: how releases reach it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from conche.errors import did_you_mean
from conche.stack.section import Section

__all__ = ["Deploy", "FilePath", "FolderPath", "Hook", "Port", "Probe"]

Port = Annotated[int, Field(ge=1, le=65535)]

OF_THE_EDGE = (8081, 8082)
"""Ports at which the edge is asked by us, from inside its container."""


def _present(kind: Literal["file", "folder"]) -> AfterValidator:
    """A path that is relative to the stack file and there; existence is only looked at where the root is known."""

    def check(path: Path, validation: ValidationInfo) -> Path:
        root: Path | None = (validation.context or {}).get("root")
        if root is None:
            return path
        there = root / path
        with contextlib.suppress(OSError):  # such as a name longer than the file system takes
            if there.is_file() if kind == "file" else there.is_dir():
                return path
        raise PydanticCustomError("absent", "a {kind} that exists.{hint}", {"kind": kind, "hint": _near(there)})

    return AfterValidator(check)


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    except (OSError, ValueError):
        return ""


FilePath = Annotated[Path, _present("file")]
FolderPath = Annotated[Path, _present("folder")]


def _network(text: str) -> str:
    """Return an address or a network in the form that nginx reads."""
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise PydanticCustomError("network", "an IP address, or a network such as 10.0.0.0/8") from None


Network = Annotated[str, AfterValidator(_network)]


class Probe(Section):
    """How a new version is asked, through the edge, whether it is the new version."""

    path: str = Field(default="/", pattern=r"^/[^\s]*$", description="path that answers 2xx")
    field: str = Field(
        default="",
        description="field of the JSON answer that must be the release's id, given to containers as CONCHE_RELEASE;"
        " default: any 2xx will do",
    )
    times: int = Field(default=3, ge=1, description="how many times in a row it must answer so")
    ready: str | None = Field(
        default=None, pattern=r"^/[^\s]*$", description="path that answers 2xx once it works with its data behind it"
    )


class Hook(Section):
    """A command that is run on this machine at some point of a deploy."""

    command: tuple[str, ...] = Field(min_length=1, description="the program and its arguments")
    timeout: float = Field(default=60.0, gt=0, description="seconds it may take")


class Deploy(Section):
    """How releases reach an environment."""

    edge: str | None = Field(
        default=None, description="service that is the proxy in front; none: containers are replaced"
    )
    serves: str | None = Field(default=None, description="service that the edge sends requests to")
    port: Port = Field(default=8000, description="port on which that service listens")
    template: FilePath | None = Field(
        default=None, description="configuration of the edge, instead of the built-in one"
    )
    trust: tuple[Network, ...] = Field(
        default=(), description="addresses of proxies in front of the edge, which say who a request is from, and by TLS"
    )
    trusted_port: Port | None = Field(
        default=None,
        description="port of the edge, published nowhere, at which proxies of its network are believed likewise,"
        " whatever their addresses",
    )
    probe: Probe = Field(default_factory=Probe, description="how to ask a new version which release it is")
    release_command: tuple[str, ...] = Field(
        default=(), description="command run once from the new image before anything is switched, such as a migration"
    )
    overlay: tuple[FilePath, ...] = Field(default=(), description="further Compose files, only for deploys")
    drain: float = Field(default=30.0, ge=0, description="seconds for requests under way to complete")
    observe: float = Field(
        default=10.0, ge=0, description="seconds that a new version is watched before the old one is removed"
    )
    keep: int = Field(default=10, ge=2, description="how many releases are remembered")
    hooks: Mapping[Literal["pre-deploy", "post-deploy", "on-failure", "on-rollback"], Hook] = Field(
        default_factory=dict, description="commands run on this machine"
    )

    @property
    def spared(self) -> frozenset[str]:
        """The services that are restarted for none that they follow: users are served by them."""
        return frozenset(one for one in (self.edge, self.serves) if one is not None)

    @model_validator(mode="after")
    def _edge_serves(self) -> Deploy:
        if (self.edge is None) != (self.serves is None):
            raise PydanticCustomError("edge_alone", "`edge` and `serves` together, or neither")
        if self.trusted_port in OF_THE_EDGE:
            raise PydanticCustomError("port_of_the_edge", "another port than 8081 and 8082 for `trusted_port`")
        return self
