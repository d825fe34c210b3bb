"""Provides base images; if no registry answers, makes them from Debian's packages under the name a Dockerfile uses.

An image that is present, or that can be pulled, is never replaced by one made here, which carries a label saying so.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from conche.engine import images, transfer
from conche.engine.connection import Engine
from conche.errors import Unreachable
from conche.files import private_folder
from conche.process import run
from conche.stack import Base
from conche.supply.reference import parse

__all__ = ["LABEL", "Origin", "provide"]

LABEL = "io.conche.base"
"""Label of an image made here; its value is the Debian release."""

LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
"""Paths that no container reads, about a quarter of the size."""


class Origin(Enum):
    """Where a base image came from."""

    PRESENT = "was on the engine"
    PULLED = "pulled"
    MADE = "made from Debian's packages"


def provide(
    engine: Engine, bases: Mapping[str, Base], reference: str, say: Callable[[str], None], *, anew: bool = False
) -> Origin:
    """Ensure that the engine has this image.

    Args:
        anew: pull or make it even if the engine has it already.

    Raises:
        Unreachable: it can neither be pulled nor made.
    """
    if not anew and images.find(engine, reference) is not None:
        return Origin.PRESENT
    try:
        say(f"pulling {reference}")
        at = parse(reference)
        transfer.pull(engine, at.name, at.wanted)
    except transfer.PullFailed as failure:
        if reference not in bases:
            raise Unreachable(
                "base-unavailable",
                f"{reference} cannot be pulled, and stack.yaml does not say how to build it.",
                looked_at=["bases in stack.yaml"],
                evidence=failure.evidence,
                next_command=f"docker pull {reference}    # with a network, or add it under `bases`",
            ) from failure
        say(f"no registry answers for {reference}: making it from Debian's packages (about half a minute)")
        _make(engine, reference, bases[reference])
        return Origin.MADE
    return Origin.PULLED


def _make(engine: Engine, reference: str, wanted: Base) -> None:
    _require_mmdebstrap()
    with private_folder(large=True) as folder:
        tree = folder / "tree.tar"
        run(bootstrap_argv(wanted, tree), extra_env={"TMPDIR": str(folder)}, timeout=1200).require(
            f"making {reference} from Debian's packages"
        )
        run(import_argv(reference, wanted, tree), extra_env=engine.cli_environment(), timeout=600).require(
            f"importing {reference}"
        )


def bootstrap_argv(wanted: Base, tree: Path) -> tuple[str, ...]:
    """Return the mmdebstrap argv; it chooses between root and a user namespace, and Debian's mirror, by itself."""
    return (
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(wanted.packages)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        wanted.suite,
        str(tree),
    )


def import_argv(reference: str, wanted: Base, tree: Path) -> tuple[str, ...]:
    """Return the argv that makes an image from a file system."""
    return (
        "docker", "import",
        "--change", f"LABEL {LABEL}=debian-{wanted.suite}",
        "--change", f"CMD {json.dumps(list(wanted.command))}",
        "--message", "made by conche from Debian's packages",
        str(tree), reference,
    )  # fmt: skip


def _require_mmdebstrap() -> None:
    """Install mmdebstrap if missing, without asking: it comes from Debian's packages like the image itself."""
    if shutil.which("mmdebstrap"):
        return
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "mmdebstrap"]
    privileged = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    completed = None
    # A new machine may have no package lists yet.
    for argv in (["apt-get", "update", "--quiet"], install):
        if shutil.which([*privileged, *argv][0]):
            completed = run([*privileged, *argv], extra_env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=600)
    if completed is None or not completed.ok:
        raise Unreachable(
            "mmdebstrap-missing",
            "No registry answers, and mmdebstrap, which would make the base image, is not installed.",
            looked_at=["PATH"],
            evidence=completed.last_lines(4) if completed else (),
            next_command="sudo apt-get install mmdebstrap",
        )
