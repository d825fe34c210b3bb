"""Gets an image onto the engine from wherever it is available."""

from __future__ import annotations

import contextlib
import re

from conche.engine import images, transfer
from conche.engine.connection import Engine
from conche.errors import ConcheError
from conche.output import Progress
from conche.stack import Stack
from conche.supply.base import Origin, provide
from conche.supply.login import credentials, registry_of
from conche.supply.reference import Reference, parse
from conche.vault.vault import Vault

__all__ = ["MIRROR", "fetch", "mirrored"]

MIRROR = "mirror"
"""First part of the names under which images.mirror keeps upstream images in the private registry."""


def mirrored(stack: Stack, upstream: Reference) -> Reference:
    """Return where the private registry keeps a copy of an upstream image: HOST/mirror/docker.io/library/nginx:1.27."""
    # A repository's name cannot have the colons and brackets of ports and addresses.
    host = re.sub(r"[^a-z0-9.]+", "-", upstream.registry.lower()).strip("-")
    return Reference(registry_of(stack), f"{MIRROR}/{host}/{upstream.repository}", upstream.tag)


def fetch(vault: Vault, engine: Engine, reference: str, progress: Progress, *, anew: bool = True) -> None:
    """Get an image: this stack's own from its registry; any other from the mirror, upstream, or Debian's packages.

    Args:
        anew: fetch it even if the engine has one of that name.

    Raises:
        Unreachable: it is available nowhere.
        Refused: its registry refuses.
    """
    if not anew and images.find(engine, reference) is not None:
        return
    at, stack = parse(reference), vault.stack
    if at.registry == stack.registry:
        transfer.pull(engine, at.name, at.wanted, credentials(vault), progress.amount)
        return
    if _from_mirror(vault, engine, reference, progress):
        return
    if anew and reference not in stack.bases:
        transfer.pull(engine, at.name, at.wanted, None, progress.amount)
        return
    if provide(engine, stack.bases, reference, progress.step) is Origin.PRESENT and anew:
        with contextlib.suppress(transfer.PullFailed):
            transfer.pull(engine, at.name, at.wanted, None, progress.amount)


def _from_mirror(vault: Vault, engine: Engine, reference: str, progress: Progress) -> bool:
    """Pull the private registry's copy, and return whether there was one; failing to get it does no harm."""
    upstream, stack = parse(reference), vault.stack
    if (
        stack.registry is None or upstream.digest
    ):  # an engine has no way to give an image a name by digest but to pull it under that name
        return False
    copy = mirrored(stack, upstream)
    try:
        transfer.pull(engine, copy.name, copy.tag, credentials(vault), progress.amount)
    except ConcheError:
        return False
    images.tag(engine, str(copy), upstream.name, upstream.tag)
    images.remove(engine, str(copy))
    progress.step(f"{reference} came from the mirror in {stack.registry}")
    return True
