"""Images on an engine: look, pull, build."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conche.engine.connection import Engine, translated
from conche.errors import Refused, Unreachable
from conche.process import Completed, run

__all__ = ["Build", "BuildFailed", "Found", "PullFailed", "build", "find", "pull", "references"]


NO_NETWORK = (
    "no such host", "connection refused", "i/o timeout", "network is unreachable", "no route to host",
    "TLS handshake timeout", "Client.Timeout exceeded", "context deadline exceeded", "server misbehaving",
    "Temporary failure in name resolution",
)  # fmt: skip
"""What the engine says when it reached no registry at all, as against one that answered with no."""


@dataclass(frozen=True)
class Found:
    """An image that an engine has."""

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """What to build.

    Attributes:
        reference: the tag it gets.
        secrets: id -> file or variable, mounted during the build and in no layer.
        arguments: build arguments; never secret, they stand in the image's history.
    """

    reference: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)

    def argv(self) -> tuple[str, ...]:
        """The command that builds it and loads it into the engine."""
        arguments = [part for name, value in self.arguments.items() for part in ("--build-arg", f"{name}={value}")]
        secrets = [part for name, path in self.secrets.items() for part in ("--secret", f"id={name},src={path}")]
        return (
            "docker", "buildx", "build", "--progress", "plain", "--load",
            "--file", str(self.dockerfile), "--tag", self.reference, *arguments, *secrets, str(self.context),
        )  # fmt: skip


class PullFailed(Unreachable):
    """No registry answered for a reference, as against one that answered with no."""


class BuildFailed(Refused):
    """A Dockerfile failed; nothing that runs was touched."""


def find(engine: Engine, reference: str) -> Found | None:
    """The image of that reference on the engine, if it is there."""
    import docker.errors

    with translated(engine.address):
        try:
            attributes = engine.client.images.get(reference).attrs
        except docker.errors.ImageNotFound:
            return None
    return Found(attributes["Id"], (attributes["Config"] or {}).get("Labels") or {})


def references(dockerfile: str, arguments: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The base images that a Dockerfile's text asks for, without its own stages and `scratch`."""
    values: dict[str, str] = {}
    stages: set[str] = {"scratch"}
    found: dict[str, None] = {}
    for line in dockerfile.splitlines():
        if match := re.match(r"\s*ARG\s+(\w+)=(\S+)", line):
            values.setdefault(match[1], (arguments or {}).get(match[1], match[2].strip("\"'")))
        elif match := re.match(r"\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", line, re.IGNORECASE):
            reference = re.sub(r"\$\{?(\w+)\}?", lambda name: values.get(name[1], name[0]), match[1])
            if reference not in stages:
                found[reference] = None
            stages.add(match[2] or "")
    return tuple(found)


def pull(engine: Engine, reference: str, on_line: Callable[[str], None] | None = None) -> None:
    """Pull one image with the CLI, which knows the user's credentials.

    Raises:
        PullFailed: no registry could be reached for it.
        Refused: the registry answered, and has no such image or wants a password.
    """
    completed = run(["docker", "pull", reference], extra_env=engine.cli_environment(), on_line=on_line, timeout=1800)
    if completed.ok:
        return
    words = completed.stderr + completed.stdout
    if any(sign in words for sign in NO_NETWORK):
        raise PullFailed("registry-unreachable", f"{reference} could not be pulled.", evidence=completed.last_lines(4))
    raise Refused(
        "image-not-pulled",
        f"{reference} could not be pulled: its registry, or this engine, says no.",
        evidence=completed.last_lines(4),
        next_command="invoke env.up --build    # builds this stack's own images",
    )


def build(engine: Engine, wanted: Build, on_line: Callable[[str], None] | None = None) -> None:
    """Build an image.

    Raises:
        BuildFailed: with the step that failed and its last lines.
    """
    completed = run(
        wanted.argv(),
        extra_env={**engine.cli_environment(), "DOCKER_BUILDKIT": "1"},
        on_line=on_line or (lambda _: None),
        timeout=3600,
    )
    if not completed.ok:
        raise _build_failed(wanted, completed)


def _build_failed(wanted: Build, completed: Completed) -> Unreachable | BuildFailed:
    words = completed.stderr
    if "is not a docker command" in words or "unknown command" in words:
        return Unreachable(
            "buildx-missing", "buildx is not installed.", evidence=completed.last_lines(3),
            next_command="scripts/install-engine",
        )  # fmt: skip
    if "no space left on device" in words:
        return Unreachable(
            "disk-full", f"The engine's disk is full; {wanted.reference} was not built.",
            evidence=completed.last_lines(5), next_command="docker system df\ndocker builder prune",
        )  # fmt: skip
    return BuildFailed(
        "build-failed",
        f"{wanted.dockerfile.name} does not build.",
        evidence=_failing_step(words.splitlines()),
        next_command=f"docker build --progress=plain -f {wanted.dockerfile} {wanted.context}",
    )


def _failing_step(lines: Sequence[str]) -> tuple[str, ...]:
    """From BuildKit's plain output: the failing step and its last lines, not the wall before them."""
    errors = [number for number, line in enumerate(lines) if re.match(r"#\d+ ERROR", line)]
    if not errors:
        return tuple(lines[-15:])
    step = lines[errors[-1]].split(" ", 1)[0] + " "
    return tuple(line for line in lines if line.startswith(step))[-15:]
