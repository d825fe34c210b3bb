"""Has Compose build the images that its own `build:` describes, and finds their base images.

Compose interprets `build:` itself: context, target, arguments, secrets, ssh, caches, networks and anything else it
supports. We only add what identifies the image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conche.engine.compose import Compose
from conche.engine.dockerfile import references, text_of
from conche.engine.images import build_failed
from conche.engine.rendered import plain
from conche.process import Captured

__all__ = ["ServiceBuild", "base_images", "build", "built_outside"]


@dataclass(frozen=True)
class ServiceBuild:
    """What to build, and additions to the service's `build:`, which takes precedence.

    Attributes:
        tags: further references.
        secrets: id -> file, mounted during the build and stored in no layer.
        arguments: build arguments; never secret, since the image's history shows them.
        fresh: ignore the build cache.
    """

    service: str
    reference: str
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    fresh: bool = False

    def document(self, rendered: Mapping[str, Any]) -> dict[str, Any]:
        """The Compose document of this build alone.

        Args:
            rendered: Compose's own rendering of the files, in which every path is absolute and each `$` doubled.
        """
        service = rendered["services"][self.service]
        said = {key: value for key, value in service["build"].items() if value is not None}
        defined = dict(rendered.get("secrets") or {})
        added = {name: path for name, path in self.secrets.items() if name not in defined}
        said["args"] = {**_doubled(self.arguments), **(said.get("args") or {})}
        said["labels"] = {**(said.get("labels") or {}), **_doubled(self.labels)}
        said["tags"] = [*(said.get("tags") or []), *self.tags]
        said["secrets"] = [*(said.get("secrets") or []), *({"source": name} for name in added)]
        if len(said.get("platforms") or []) > 1:
            # As `docker compose up` does: an engine runs images of one platform.
            said["platforms"] = [service["platform"]] if service.get("platform") else []
        return {
            "name": rendered["name"],
            "services": {self.service: {"image": self.reference, "build": said}},
            "secrets": {**defined, **{name: {"file": str(path)} for name, path in added.items()}},
        }


def build(
    compose: Compose, rendered: Mapping[str, Any], wanted: ServiceBuild, on_line: Callable[[Captured], None]
) -> None:
    """Have Compose build a service's image.

    Raises:
        BuildFailed: with the failed step and its last lines.
    """
    fresh = ("--no-cache",) if wanted.fresh else ()
    document = json.dumps(wanted.document(rendered)).encode()
    alone = replace(compose, files=(), document=document)
    done = alone.call(alone.argv("--progress", "plain", "build", *fresh, wanted.service), on_line=on_line, timeout=3600)
    if not done.ok:
        said = rendered["services"][wanted.service]["build"]
        file = Path(plain(said.get("dockerfile") or "Dockerfile")).name
        raise build_failed(done, wanted.reference, file, f"docker compose build --progress=plain '{wanted.service}'")


def base_images(rendered: Mapping[str, Any], service: str) -> tuple[str, ...]:
    """Return the base images that a service's build needs; none if its Dockerfile cannot be read here."""
    said = rendered["services"][service]["build"]
    found = references(text_of(said), said.get("args") or {}, said.get("target") or "")
    named = said.get("additional_contexts") or {}
    return tuple(one for one in found if one not in named and "$" not in one)


def built_outside(rendered: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Yield a warning for each service whose build context is no part of the repository at `root`."""
    for service, body in rendered["services"].items():
        context = plain((body.get("build") or {}).get("context") or "")
        if context.startswith("/") and not Path(context).is_relative_to(root):
            yield f"{service} is built from {context}, outside this repository: a clone would lack it"


def _doubled(values: Mapping[str, str]) -> dict[str, str]:
    """Double each `$`, because Compose interpolates what it reads."""
    return {name: value.replace("$", "$$") for name, value in values.items()}
