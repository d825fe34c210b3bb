"""`invoke --list`, `--help` and completion import nothing heavier than Invoke."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]

HEAVY = {"docker", "requests", "pydantic", "rich", "httpx", "psutil", "dotenv"}

ALLOWED = {
    "conche",
    "conche.backup",
    "conche.backup.tasks",
    "conche.ci",
    "conche.ci.runner",
    "conche.ci.runner.tasks",
    "conche.ci.tasks",
    "conche.command",
    "conche.doctor",
    "conche.doctor.tasks",
    "conche.env",
    "conche.env.influx",
    "conche.env.influx.tasks",
    "conche.env.tasks",
    "conche.errors",
    "conche.images",
    "conche.images.tasks",
    "conche.options",
    "conche.secrets",
    "conche.secrets.recipients",
    "conche.secrets.recipients.tasks",
    "conche.secrets.tasks",
}
"""A module joins this list when a task file needs it at import, which it hardly ever does."""


def imported(*words: str, check: bool = True) -> set[str]:
    """The modules that a call of invoke imports."""
    argv = [sys.executable, "-X", "importtime", "-m", "invoke", *words]
    called = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=check)
    return {line.rpartition("|")[2].strip() for line in called.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "words", [("--list",), ("env.up", "--help"), ("--complete", "--", "invoke env.")], ids=["list", "help", "complete"]
)
def test_only_light_modules_are_imported(words: tuple[str, ...]) -> None:
    modules = imported(*words)

    assert modules & HEAVY == set()
    assert {module for module in modules if module.partition(".")[0] == "conche"} == ALLOWED


def test_the_measurement_would_see_a_heavy_import() -> None:
    assert "docker" in imported("doctor", "--json", check=False)
