"""invoke images.load"""

from __future__ import annotations

from pathlib import Path

from conche.command import Invocation
from conche.engine.connection import Engine, translated
from conche.errors import NotFound, Refused
from conche.images.save import digest_of, sidecar_of
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.process import run

__all__ = ["load"]


def load(call: Invocation, file: str, environment: str | None) -> Outcome:
    """Load images from a file written by images.save; refuse a file that does not match its sha256."""
    source = Path(file).expanduser().absolute()
    if not source.is_file():
        raise NotFound("no-such-file", f"There is no file {source}.")
    engine = Engine(call.environment(environment).engine if environment else None)
    plan = Plan((Step(Action.LOAD, Kind.FILE, str(source), "asked for"),))
    sidecar = sidecar_of(source)
    known = sidecar.read_text(errors="replace").split()[:1] if sidecar.is_file() else []
    if known and known != [digest_of(source)]:
        raise Refused(
            "archive-damaged",
            f"{source.name} is damaged: its sha256 differs from {sidecar.name}. Nothing was loaded.",
            next_command="copy it again",
        )
    if call.dry_run:
        return Outcome(plan=plan)
    with translated(engine.address):
        engine.client.ping()
    with call.output.progress(f"loading {source.name}"):
        done = run(
            ["docker", "image", "load", "--input", str(source)], extra_env=engine.cli_environment(), timeout=3600
        )
    if not done.ok:
        raise Refused(
            "archive-damaged", f"The engine cannot read {source.name}.", evidence=done.last_lines(3),
            next_command="copy it again",
        )  # fmt: skip
    loaded = [line.partition(": ")[2] for line in done.stdout.raw.splitlines() if line.startswith("Loaded image")]
    return Outcome(
        value={"file": str(source), "images": loaded},
        changed=True,
        plan=plan,
        tables=[Table(("image",), tuple((one,) for one in loaded))],
        warnings=[] if known else [f"there is no {sidecar.name}: the file was not verified"],
    )
