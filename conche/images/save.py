"""invoke images.save: writes images to one file, for hosts without a registry."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from conche.command import Invocation
from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import NotFound, Refused, Unreachable
from conche.files import write_atomic
from conche.images.chosen import chosen
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.process import run
from conche.units import size

__all__ = ["digest_of", "save", "sidecar_of"]


def save(call: Invocation, environment: str, image: str | None, to: str, *, force: bool) -> Outcome:
    """Write images to a file atomically, with a file beside it that holds its sha256."""
    engine = Engine(call.environment(environment).engine)
    references = [one.reference for one in chosen(call, environment, image)]
    missing = [one for one in references if images.find(engine, one) is None]
    if missing:
        raise NotFound(
            "no-such-image",
            f"The engine does not have {', '.join(missing)}.",
            looked_at=[engine.address],
            next_command=f"invoke images.pull --env {environment}\ninvoke images.build --env {environment}",
        )
    target = Path(to).expanduser().absolute()
    if target.exists() and not force:
        raise Refused("file-exists", f"{target} already exists; nothing was written.", next_command="--force")
    if not target.parent.is_dir():
        raise NotFound("no-such-folder", f"There is no folder {target.parent}.")
    plan = Plan((Step(Action.WRITE, Kind.FILE, str(target), f"images {', '.join(references)}"),))
    if call.dry_run:
        return Outcome(plan=plan)
    with call.output.progress(f"saving {', '.join(references)}"):
        digest = _saved(engine, references, target)
    written = target.stat().st_size
    return Outcome(
        value={"file": str(target), "images": references, "size": written, "sha256": digest},
        changed=True,
        plan=plan,
        tables=[Table(("file", "size", "sha256"), ((str(target), size(written), digest),))],
        lines=[f"On the other host: invoke images.load '{target.name}'    # with {sidecar_of(target).name} beside it"],
    )


def _saved(engine: Engine, references: Sequence[str], target: Path) -> str:
    """Write the file by way of a folder beside it, which the next run removes after a kill, and return its sha256."""
    folder = target.with_name(f".{target.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
        argv = ["docker", "image", "save", "--output", str(folder / "images.tar"), *references]
        done = run(argv, extra_env=engine.cli_environment(), timeout=3600)
        if not done.ok and "no space left" in done.stderr.raw:
            raise Unreachable(
                "disk-full", f"The disk of {target.parent} is full; {target.name} was not written.",
                evidence=done.last_lines(3), next_command=f"df -h {shlex.quote(str(target.parent))}",
            )  # fmt: skip
        done.require("saving images")
        digest = digest_of(folder / "images.tar")
        # The sha256 goes first: a kill in between leaves a pair that images.load refuses.
        write_atomic(sidecar_of(target), f"{digest}  {target.name}\n".encode())
        os.replace(folder / "images.tar", target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return digest


def sidecar_of(archive: Path) -> Path:
    """Return the path of the file beside an archive that holds its sha256."""
    return archive.with_name(f"{archive.name}.sha256")


def digest_of(file: Path) -> str:
    """Return a file's sha256 in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
