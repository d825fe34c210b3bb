"""Describes an image in a registry: of one platform, or an index of several with their attestations.

Source: https://github.com/opencontainers/image-spec/blob/main/image-index.md
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from conche.errors import ConcheError, NotFound
from conche.supply.registry import ImageManifest, Registry

__all__ = ["CREATED", "Description", "describe", "moment"]

CREATED = "org.opencontainers.image.created"

ATTESTS = "vnd.docker.reference.type"
"""Annotation of an index's entries that are not images, such as their provenance.

Source: https://docs.docker.com/build/metadata/attestations/attestation-storage/
"""

MOST = 64
"""The most images of one index that are read."""

DEEPEST = 3
"""How many levels of nested indexes are read."""

MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""The kernel's name of an architecture -> the registries'."""


@dataclass(frozen=True)
class Description:
    """What an image's manifests and configuration tell about it.

    Attributes:
        size: bytes of its compressed layers; for an index those of all platforms, counting each layer once.
        created: RFC 3339; for an index when its newest image was made; empty if unknown.
        configuration: the image's; for an index that of this machine's platform, or else of its first image.
        parts: digests of the manifests that belong to it, including attestations.
        problem: why some of it is unknown; empty if nothing is.
    """

    size: int = 0
    created: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    problem: str = ""

    @property
    def labels(self) -> Mapping[str, str]:
        return _mapping(_mapping(self.configuration.get("config")).get("Labels"))


def moment(created: str) -> datetime | None:
    """Parse an image's creation time; None if it is absent, or is the epoch, as in reproducible builds."""
    try:
        found = datetime.fromisoformat(created)
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found if found.year > 1970 else None


def describe(registry: Registry, repository: str, manifest: ImageManifest) -> Description:
    """Read what a manifest describes: an image's configuration, or an index's images with theirs."""
    found = _read(registry, repository, manifest, DEEPEST)
    return replace(found.described, size=sum(found.layers.values()))


@dataclass(frozen=True)
class _Part:
    """A description, and the sizes of the layers it counts, by digest."""

    described: Description
    layers: Mapping[str, int]


def _read(registry: Registry, repository: str, manifest: ImageManifest, depth: int) -> _Part:
    listed = manifest.listed
    if listed is None:
        return _one(registry, repository, manifest)
    entries = [one for one in listed if ATTESTS not in _mapping(one.get("annotations"))]
    parts = frozenset(str(one["digest"]) for one in listed)
    if not entries or not depth or len(entries) > MOST:
        said = "lists no image" if not entries else "lists too many images"
        return _Part(Description(parts=parts, problem=f"the index {said}"), {})
    read = [_child(registry, repository, entry, depth) for entry in sorted(entries, key=_foreign)]
    return _together(parts, [one.described for one in read], {k: v for one in read for k, v in one.layers.items()})


def _together(parts: frozenset[str], read: Sequence[Description], layers: Mapping[str, int]) -> _Part:
    """Combine several descriptions; if one has no date, the whole has none."""
    dates = [one.created for one in read]
    created = "" if not all(map(moment, dates)) else max(dates, key=lambda one: str(moment(one)))
    problems = [one.problem for one in read if one.problem]
    below = parts.union(*(one.parts for one in read))
    return _Part(Description(0, created, read[0].configuration, below, "; ".join(problems)), layers)


def _child(registry: Registry, repository: str, entry: Mapping[str, Any], depth: int) -> _Part:
    digest = str(entry["digest"])
    try:
        return _read(registry, repository, registry.manifest(repository, digest), depth - 1)
    except ConcheError as error:
        if not isinstance(error, NotFound) and error.code != "registry-failed":
            raise
        said = "/".join(str(part) for part in _mapping(entry.get("platform")).values()) or digest[:19]
        return _Part(Description(problem=f"the image for {said} cannot be read: {error.message}"), {})


def _one(registry: Registry, repository: str, manifest: ImageManifest) -> _Part:
    configuration = registry.configuration(repository, manifest)
    described = Description(configuration=configuration)
    created = described.labels.get(CREATED) or configuration.get("created") or ""
    return _Part(replace(described, created=str(created)), dict(_layers(manifest)))


def _layers(manifest: ImageManifest) -> Iterator[tuple[str, int]]:
    layers = manifest.document.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        size = _mapping(layer).get("size")
        if isinstance(size, int) and size > 0:
            yield str(layer.get("digest")), size


def _foreign(entry: Mapping[str, Any]) -> bool:
    """Return whether an image of an index is for another architecture than this machine's."""
    here = platform.machine()
    return _mapping(entry.get("platform")).get("architecture") != MACHINES.get(here, here)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
