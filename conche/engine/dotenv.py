"""Reads a .env file by Compose's own rules: references to other variables, defaults, quotes, comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from conche.engine.compose import complaint
from conche.engine.connection import Engine
from conche.process import run

__all__ = ["as_compose_reads"]


def as_compose_reads(engine: Engine, file: Path, names: Iterable[str], shell: Mapping[str, str]) -> dict[str, str]:
    """Return a .env file's values, by having Compose interpolate each of its names.

    Args:
        names: the names of its variables.
        shell: variables that override the file's, and that it may refer to.

    Raises:
        Refused: Compose cannot read it; the line is named but not shown, since it may hold a secret.
    """
    wanted = {name: f"${{{name}}}" for name in names}
    document = {"name": "dotenv", "services": {"dotenv": {"image": "dotenv", "environment": wanted}}}
    argv = (
        "docker",
        "compose",
        "--env-file",
        str(file),
        "--file",
        "-",
        "--project-name",
        "dotenv",
        "config",
        "--format",
        "json",
    )
    extra = {**shell, **engine.cli_environment()}
    done = run(argv, stdin=json.dumps(document).encode(), extra_env=extra, cwd=file.parent, timeout=60)
    if not done.ok:
        refused = complaint(done)
        refused.message = f"Compose cannot read {file.name}."
        refused.evidence = tuple(re.sub(r"(in variable name) .*", r"\1", line) for line in refused.evidence)
        raise refused
    found = json.loads(done.stdout.raw)["services"]["dotenv"]["environment"]
    # Compose doubles each dollar sign it renders.
    return {name: str(found[name] or "").replace("$$", "$") for name in wanted}
