"""Finds, builds, tags and removes an engine's images; transfer.py pushes and pulls them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conche.engine.connection import Engine, translated
from conche.engine.logins import missing_helpers, settings
from conche.errors import Refused, Unreachable
from conche.process import Captured, Completed, run

__all__ = [
    "Build",
    "BuildFailed",
    "LocalImage",
    "build",
    "build_failed",
    "contents",
    "dangling",
    "find",
    "labelled",
    "normalises",
    "of_repository",
    "remove",
    "same",
    "tag",
]

BUILT = tuple(f"org.opencontainers.image.{name}" for name in ("revision", "version", "created"))
"""Labels that tell when and from what an image was built, but nothing about its contents."""

TOOLS = ("io.conche.", "com.docker.compose.")
"""Prefixes of labels added by the tools that build images."""

OF_THE_BUILD = ("Labels", "Hostname", "Domainname", "Image", "ArgsEscaped")
"""Keys of an image's configuration that are left over from its build; labels are filtered separately."""

NORMALISES = 26
"""The first engine whose BuildKit can rewrite files' timestamps."""


@dataclass(frozen=True)
class LocalImage:
    """An image that an engine has.

    Attributes:
        id: the id of its configuration.
        tags: its references on the engine, registry/repository:tag.
        digests: registry/repository@sha256:…, if it was pushed or pulled.
        size: bytes, unpacked.
        created: RFC 3339, as the image says.
        user: the user it runs as; empty for root.
        layers: digests of the unpacked layers.
        contents: digest of its contents, computed by `contents`.
        checked: whether it has a healthcheck.
    """

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    created: str = ""
    user: str = ""
    layers: tuple[str, ...] = ()
    contents: str = ""
    checked: bool = False


@dataclass(frozen=True)
class Build:
    """What to build.

    Attributes:
        reference: the tag it gets.
        also: further tags.
        secrets: id -> file or variable, mounted during the build and stored in no layer.
        labels: the image's labels, added to the Dockerfile's own.
        arguments: build arguments; never secret, since the image's history shows them.
        fresh: ignore the build cache.
        archive: write the image to this file first, with files' timestamps rewritten, and load it from there.
    """

    reference: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    fresh: bool = False
    archive: Path | None = None

    def argv(self) -> tuple[str, ...]:
        """Return the command that builds it, and loads it into the engine or writes `archive`."""
        arguments = [part for name, value in self.arguments.items() for part in ("--build-arg", f"{name}={value}")]
        secrets = [part for name, path in self.secrets.items() for part in ("--secret", f"id={name},src={path}")]
        tags = [part for tag in (self.reference, *self.also) for part in ("--tag", tag)]
        labels = [part for name, value in self.labels.items() for part in ("--label", f"{name}={value}")]
        anew = f"type=docker,dest={self.archive},rewrite-timestamp=true"
        output = ("--output", anew, "--provenance=false") if self.archive else ("--load",)
        return (
            "docker", "buildx", "build", "--progress", "plain", *output, *(["--no-cache"] if self.fresh else []),
            "--file", str(self.dockerfile), *tags, *labels, *arguments, *secrets, str(self.context),
        )  # fmt: skip


class BuildFailed(Refused):
    """A Dockerfile failed to build; nothing running was touched."""


def find(engine: Engine, reference: str) -> LocalImage | None:
    """Return the engine's image of that reference; None if there is none.

    Raises:
        Refused: no image can be called that.
    """
    import docker.errors

    with translated(engine.address):
        try:
            found = engine.client.images.get(reference).attrs
        except docker.errors.ImageNotFound:
            return None
        except docker.errors.APIError as error:
            if "invalid reference format" not in str(error.explanation):
                raise
            raise Refused(
                "image-name-invalid",
                f"No image can be called {reference}. A built service without `image:` has the name of its project and"
                " its own.",
                evidence=[str(error.explanation)],
                next_command="give the service an `image:` in lower case in its Compose file",
            ) from error
    config = found["Config"] or {}
    return LocalImage(
        id=found["Id"],
        labels=config.get("Labels") or {},
        tags=tuple(found.get("RepoTags") or ()),
        digests=tuple(found.get("RepoDigests") or ()),
        size=found.get("Size", 0),
        created=found.get("Created", ""),
        user=config.get("User", ""),
        layers=tuple((found.get("RootFS") or {}).get("Layers") or ()),
        contents=contents(found),
        checked=((config.get("Healthcheck") or {}).get("Test") or ["NONE"]) != ["NONE"],
    )


def contents(attributes: Mapping[str, Any]) -> str:
    """Return a digest of an image's layers and of its configuration, without traces of the build.

    Two builds of the same content get different ids as soon as a label names another revision, yet containers made
    from them do not differ.

    Args:
        attributes: the engine's answer to an inspect.
    """
    layers = (attributes.get("RootFS") or {}).get("Layers")
    if not layers:
        return str(attributes["Id"])
    config = attributes.get("Config") or {}
    labels = {
        name: value
        for name, value in (config.get("Labels") or {}).items()
        if name not in BUILT and not name.startswith(TOOLS)
    }
    # Builders write unset values as null, as empty, or not at all.
    said = {key: value for key, value in config.items() if value and key not in OF_THE_BUILD}
    platform = [attributes.get(key) or "" for key in ("Os", "Architecture", "Variant")]
    text = json.dumps([layers, said, labels, platform], sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def same(engine: Engine, one: str, other: str) -> bool:
    """Return whether two images, by id or reference, have the same contents; a missing image equals none."""
    first, second = find(engine, one), find(engine, other)
    return first is not None and second is not None and first.contents == second.contents


def of_repository(engine: Engine, name: str) -> tuple[LocalImage, ...]:
    """Return the engine's images of one repository, registry included, newest first."""
    with translated(engine.address):
        ids = dict.fromkeys(image["Id"] for image in engine.client.api.images(name=name))
    found = [find(engine, one) for one in ids]
    return tuple(sorted((one for one in found if one), key=lambda one: one.created, reverse=True))


def dangling(engine: Engine, label: str) -> tuple[LocalImage, ...]:
    """Return the images with this label that have lost their last tag, as a rebuild leaves them."""
    with translated(engine.address):
        found = engine.client.api.images(filters={"dangling": True, "label": label})
    return tuple(image for one in found if (image := find(engine, one["Id"])))


def labelled(engine: Engine, label: str) -> tuple[LocalImage, ...]:
    """Return the engine's tagged images with this label."""
    with translated(engine.address):
        ids = dict.fromkeys(image["Id"] for image in engine.client.api.images(filters={"label": label}))
    return tuple(image for one in ids if (image := find(engine, one)) and image.tags)


def tag(engine: Engine, reference: str, name: str, new: str) -> None:
    """Give an image of the engine an additional name and tag."""
    with translated(engine.address):
        engine.client.api.tag(reference, name, new, force=True)


def remove(engine: Engine, reference: str) -> None:
    """Remove a reference, and with its last reference the image; it may be gone already.

    Raises:
        EngineRefused: a container uses the image.
    """
    import docker.errors

    with translated(engine.address):
        try:
            engine.client.api.remove_image(reference)
        except docker.errors.ImageNotFound:
            return


def normalises(engine: Engine) -> tuple[bool, str]:
    """Return whether this engine can rewrite files' timestamps in an image, so that equal contents have equal digests.

    BuildKit can since 0.13, which is in engine 26; but the older kind of image store leaves timestamps as they are.

    Returns:
        Whether it can, and a description of the engine.
    """
    with translated(engine.address):
        info = engine.client.info()
    version = str(info["ServerVersion"])
    store = any("io.containerd.snapshotter" in str(value) for value in info.get("DriverStatus") or ())
    said = f"engine {version} with {'containerd' if store else 'the older'} image store"
    major = re.match(r"\d+", version)
    return store and major is not None and int(major[0]) >= NORMALISES, said


def build(engine: Engine, wanted: Build, on_line: Callable[[Captured], None] | None = None) -> None:
    """Build an image.

    Raises:
        BuildFailed: with the failed step and its last lines.
    """
    completed = run(
        wanted.argv(),
        extra_env={**engine.cli_environment(), "DOCKER_BUILDKIT": "1"},
        on_line=on_line or (lambda _: None),
        timeout=3600,
    )
    if not completed.ok:
        raise _build_failed(wanted, completed)
    if wanted.archive is not None:
        argv = ["docker", "image", "load", "--quiet", "--input", str(wanted.archive)]
        run(argv, extra_env=engine.cli_environment(), timeout=1800).require(f"Loading {wanted.reference}")


def _build_failed(wanted: Build, completed: Completed) -> Unreachable | Refused:
    by_hand = ["docker", "build", "--progress=plain", "--file", str(wanted.dockerfile), str(wanted.context)]
    return build_failed(completed, wanted.reference, wanted.dockerfile.name, shlex.join(by_hand))


def build_failed(completed: Completed, reference: str, dockerfile: str, by_hand: str) -> Unreachable | Refused:
    """Translate a failed build into the error to raise.

    Args:
        dockerfile: the Dockerfile's name.
        by_hand: a command that shows more.
    """
    words = completed.stderr.raw
    if "is not a docker command" in words or "unknown command" in words:
        return Unreachable(
            "buildx-missing", "buildx is not installed.", evidence=completed.last_lines(3),
            next_command="scripts/install-engine",
        )  # fmt: skip
    if "no space left on device" in words:
        return Unreachable(
            "disk-full", f"The engine's disk is full; {reference} was not built.",
            evidence=completed.last_lines(5), next_command="docker system df\ndocker builder prune",
        )  # fmt: skip
    if "error getting credentials" in words:
        return Unreachable(
            "credential-helper-unusable",
            f"{reference} was not built: a credential helper that {settings()} names cannot be run.",
            looked_at=[str(settings()), *missing_helpers()],
            evidence=completed.last_lines(3),
            next_command=f"install it, or remove the line that names it from {settings()}",
        )
    if "moby.buildkit.frontend.contexts" in words:
        return Unreachable(
            "builder-too-old",
            f"{reference} was not built: this engine's BuildKit does not know `additional_contexts`.",
            evidence=completed.last_lines(1),
            next_command=f"write `# syntax=docker/dockerfile:1` as the first line of {dockerfile}: Docker Hub is then"
            " asked for what reads it;\nor use Docker Engine 23 or later",
        )
    if found := re.search(r'unable to prepare context: path "(.*)" not found', words):
        return Refused(
            "build-context-missing",
            f"{reference} was not built: the folder of its build context does not exist.",
            looked_at=[found[1]],
            next_command="correct `build.context` in the Compose file, or `context` in stack.yaml, then run it again",
        )
    # buildx writes everything to stderr; Compose writes the steps to stdout and errors to stderr.
    steps, said = completed.stdout.lines(), completed.stderr.lines()
    return BuildFailed(
        "build-failed",
        f"{dockerfile} failed to build.",
        evidence=_failing_step([*steps, *said]),
        next_command=by_hand,
    )


def _failing_step(lines: Sequence[str]) -> tuple[str, ...]:
    """Extract the failing step and its last lines from BuildKit's plain output."""
    errors = [number for number, line in enumerate(lines) if re.match(r"#\d+ ERROR", line)]
    if not errors:
        return tuple(lines[-15:])
    step = lines[errors[-1]].split(" ", 1)[0] + " "
    said = [line for line in lines if line.startswith(step)]
    return tuple(said if len(said) <= 15 else [said[0], *said[-14:]])
