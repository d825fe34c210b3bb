"""Builds an image of this stack: its arguments, its base images, and the host's settings that the build gets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conche.engine import images, sources
from conche.engine.builds import ServiceBuild, base_images
from conche.engine.builds import build as build_service
from conche.engine.connection import Engine
from conche.engine.dockerfile import references
from conche.files import private_folder, write_atomic
from conche.output import Progress
from conche.process import Captured
from conche.stack import Stack
from conche.supply.fetch import fetch
from conche.supply.inventory import STACK
from conche.supply.own import Own
from conche.supply.reference import parse
from conche.supply.revision import Revision, revision
from conche.vault.vault import Vault

__all__ = ["Builder", "sources_of"]

CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that point to the host's CA bundle, the most general first."""

PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
"""pip's settings that a build needs to reach the same indexes as the host's pip; they may hold a password."""

CA_IN_BUILD = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True)
class Builder:
    """Builds images of the stack on one engine.

    Attributes:
        fresh: ignore the build cache.
        reproducible: have the engine rewrite files' timestamps, if it can; that takes some seconds.
    """

    vault: Vault
    engine: Engine
    progress: Progress
    fresh: bool = False
    reproducible: bool = False

    def build(self, own: Own) -> str:
        """Build one image under its own name and its git revision's tag, and return its reference."""
        stack, root, engine = self.vault.stack, self.vault.root, self.engine
        at = revision(root)
        said = f"building {own.reference}" + (f" from {at.name}" if at.tag else "")
        if own.compose is not None:
            self._by_compose(own, at, said)
            return own.reference
        reference, image = own.reference, own.name
        dockerfile = root / stack.images[image].dockerfile
        for base in references(dockerfile.read_text(encoding="utf-8")):
            self._fetch(base)
        self.progress.step(said)
        anew = self.reproducible and images.normalises(engine)[0]
        with _host_secrets() as secrets, private_folder(large=True) as folder:
            wanted = images.Build(
                reference=reference,
                dockerfile=dockerfile,
                context=root / stack.images[image].context,
                arguments=_arguments(at),
                secrets=secrets,
                labels={STACK: stack.name, **_labels(at)},
                also=_further(reference, at),
                fresh=self.fresh,
                archive=folder / "image.tar" if anew else None,
            )
            images.build(engine, wanted, on_line=_only_steps(self.progress))
        return reference

    def _by_compose(self, own: Own, at: Revision, said: str) -> None:
        """Build what a service's `build:` describes through Compose, which supports every key of it."""
        assert own.compose is not None
        stack, root = self.vault.stack, self.vault.root
        services = own.rendered["services"]
        made_here = {service["image"] for service in services.values() if service.get("build")}
        for base in base_images(own.rendered, own.name):
            if base not in made_here:
                self._fetch(base)
        self.progress.step(said)
        built_from = sources_of(stack, root, services[own.name]["build"])
        with _host_secrets() as secrets:
            wanted = ServiceBuild(
                own.name,
                own.reference,
                tags=_further(own.reference, at),
                labels={STACK: stack.name, **_labels(at), **built_from},
                arguments=_arguments(at),
                secrets=secrets,
                fresh=self.fresh,
            )
            build_service(own.compose, own.rendered, wanted, _only_steps(self.progress))

    def _fetch(self, base: str) -> None:
        fetch(self.vault, self.engine, base, self.progress, anew=False)


def sources_of(stack: Stack, root: Path, said: Mapping[str, Any]) -> dict[str, str]:
    """Return the label of an image that is built now from a service's `build:`.

    Secret files may lie in its context; they belong in no image, so they do not count.
    """
    spared = (root / stack.secrets.folder).absolute() if stack.secrets else None
    return {sources.LABEL: sources.fingerprint(said, without=spared)}


def _further(reference: str, at: Revision) -> tuple[str, ...]:
    """Return the reference with the revision's tag, in addition to the environment's, if there is a revision."""
    return (parse(reference).tagged(at.tag).familiar,) if at.tag else ()


def _arguments(at: Revision) -> Mapping[str, str]:
    """Return the build arguments.

    BuildKit uses SOURCE_DATE_EPOCH for the image's own times.
    Source: https://reproducible-builds.org/specs/source-date-epoch/
    """
    return {
        "REVISION": at.name,
        "VERSION": at.version,
        "CREATED": at.created,
        "SOURCE_DATE_EPOCH": str(at.epoch),
    }


def _labels(at: Revision) -> Mapping[str, str]:
    """Return the labels that identify a revision.

    Source: https://github.com/opencontainers/image-spec/blob/main/annotations.md
    """
    said = {"revision": at.name, "version": at.version, "created": at.created}
    return {f"org.opencontainers.image.{name}": value for name, value in said.items()}


def _only_steps(progress: Progress) -> Callable[[Captured], None]:
    """Show only those lines of BuildKit's plain output that name the current step, such as `[runtime 3/5] RUN …`."""

    def show(line: Captured) -> None:
        _, _, words = str(line).partition(" ")
        if words.startswith("["):
            counted = re.match(r"\[[^\]]*?(\d+)/(\d+)\]", words)
            if counted:
                progress.amount(f"building: {words}", int(counted[1]) - 1, int(counted[2]))
            else:
                progress.detail(f"building: {words}")

    return show


@contextmanager
def _host_secrets() -> Iterator[Mapping[str, Path]]:
    """Provide the host's CA bundle and pip settings as build secrets: stored in no layer, deleted afterwards."""
    bundle = next((Path(os.environ[name]) for name in CA_VARIABLES if os.environ.get(name)), None)
    bundle = bundle if bundle and bundle.is_file() else None
    with private_folder() as folder:
        secrets = {"ca": bundle} if bundle else {}
        settings = [
            f"{name[4:].lower().replace('_', '-')} = {os.environ[name]}"
            for name in PIP_VARIABLES
            if os.environ.get(name)
        ]
        if bundle:
            settings.append(f"cert = {CA_IN_BUILD}")
        if settings:
            write_atomic(folder / "pip.conf", ("[global]\n" + "\n".join(settings) + "\n").encode(), mode=0o600)
            secrets["pip"] = folder / "pip.conf"
        yield secrets
