"""How an image of this stack is built: its arguments, its base images, and what the build may know of the host."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from conche.engine import images
from conche.engine.connection import Engine
from conche.files import private_folder, write_atomic
from conche.images.fetch import fetch
from conche.images.observe import STACK
from conche.images.reference import parse
from conche.images.revision import Revision, revision
from conche.output import Progress
from conche.process import Captured
from conche.stack import Stack

__all__ = ["build"]

CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Where a host says which authorities it trusts, the most general first."""

PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
"""pip's settings that a build needs to reach what the host's pip reaches; they may hold a password."""

CA_IN_BUILD = "/etc/ssl/certs/ca-certificates.crt"


def build(
    stack: Stack,
    root: Path,
    engine: Engine,
    image: str,
    environment: str,
    progress: Progress,
    *,
    fresh: bool = False,
    reproducible: bool = False,
) -> str:
    """Build one image of the stack under its environment's tag and its git revision's.

    Args:
        fresh: take nothing from the build cache.
        reproducible: let the engine write the files' times anew, where it can; that takes some seconds.

    Returns:
        The reference it has now.
    """
    reference = stack.reference(image, environment)
    dockerfile = root / stack.images[image].dockerfile
    for base in images.references(dockerfile.read_text(encoding="utf-8")):
        fetch(stack, root, engine, base, progress, anew=False)
    at = revision(root)
    progress.step(f"building {reference}" + (f" from {at.name}" if at.tag else ""))
    anew = reproducible and images.normalises(engine)[0]
    with _host_secrets() as secrets, private_folder(large=True) as folder:
        wanted = images.Build(
            reference=reference,
            dockerfile=dockerfile,
            context=root / stack.images[image].context,
            arguments=_arguments(at),
            secrets=secrets,
            labels={STACK: stack.name, **_labels(at)},
            also=(str(parse(reference).tagged(at.tag)),) if at.tag else (),
            fresh=fresh,
            archive=folder / "image.tar" if anew else None,
        )
        images.build(engine, wanted, on_line=_only_steps(progress))
    return reference


def _arguments(at: Revision) -> Mapping[str, str]:
    """BuildKit takes SOURCE_DATE_EPOCH for the image's own times: https://reproducible-builds.org/specs/source-date-epoch/"""
    return {
        "REVISION": at.name,
        "VERSION": at.version,
        "CREATED": at.created,
        "SOURCE_DATE_EPOCH": str(at.epoch),
    }


def _labels(at: Revision) -> Mapping[str, str]:
    """Source: https://github.com/opencontainers/image-spec/blob/main/annotations.md"""
    said = {"revision": at.name, "version": at.version, "created": at.created}
    return {f"org.opencontainers.image.{name}": value for name, value in said.items()}


def _only_steps(progress: Progress) -> Callable[[Captured], None]:
    """Of BuildKit's plain output, the line that names the step under way, such as `[runtime 3/5] RUN …`."""

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
    """The host's CA bundle and pip settings as build secrets: in no layer, gone afterwards."""
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
