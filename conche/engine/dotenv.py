"""Reads a .env file by Compose's own rules: `NAME=value` and `NAME: value`, references, defaults, quotes, comments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from conche.engine.compose import complaint
from conche.engine.connection import Engine
from conche.process import run

__all__ = ["as_compose_reads"]


def as_compose_reads(engine: Engine, file: Path, shell: Mapping[str, str]) -> dict[str, str]:
    """Return a .env file's values, by having Compose give them to a service as its `env_file`.

    So the names are Compose's too: it takes lines that no other reader does, such as the YAML of
    `sops --decrypt secrets.enc.yaml > .env`.

    Args:
        shell: variables that override the file's, and that it may refer to.

    Raises:
        Refused: Compose cannot read it; the line is named but not shown, since it may hold a secret.
    """
    document = {"name": "dotenv", "services": {"dotenv": {"image": "dotenv", "env_file": [str(file)]}}}
    # What the file says of Compose itself is not meant for this question.
    argv = (
        "docker",
        "compose",
        "--env-file",
        os.devnull,
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
        raise refused
    found = json.loads(done.stdout.raw)["services"]["dotenv"].get("environment") or {}
    # Compose doubles each dollar sign it renders.
    values = {name: str(value).replace("$$", "$") for name, value in found.items() if value is not None}
    return {name: shell.get(name, value) for name, value in values.items()}
