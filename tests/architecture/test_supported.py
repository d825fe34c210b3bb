"""Each line of docs/reference/supported.md that says that something works or is refused has something to show it."""

from __future__ import annotations

import re

from tests.stacks import ROOT

SHOWN = {
    "Python": {"noxfile.py": "PYTHONS", "tests/installed.py": "for python in pythons"},
    "Docker engine": {
        "noxfile.py": "def engines",
        "tests/engine/test_connection.py": "def test_an_engine_that_is_too_old_is_refused",
    },
    "Compose": {
        "tests/engine/test_compose.py": "def test_an_older_compose_is_refused",
        "tests/engines.py": '"docker-compose"',
    },
    "Linux on x86-64": {".ci/run": "scripts/test"},
    "Linux on arm64": {"noxfile.py": "aarch64-unknown-linux-gnu"},
    "Docker Swarm": {
        "tests/env/rollout/test_swarm.py": "def test_what_a_swarm_does_not_do_is_said_with_what_to_type",
        "tests/e2e/test_leave.py": "on_swarm",
    },
    "an engine over `ssh://`": {
        "tests/engine/test_ssh.py": "def test_a_release_with_an_edge_goes_to_an_engine_behind_ssh",
        "tests/engine/test_connection.py": "def test_an_engine_is_reached_over_ssh",
    },
    "rootless Docker": {"noxfile.py": "def rootless", "tests/rootless.py": "rootlesskit"},
    "macOS": {"noxfile.py": "aarch64-apple-darwin"},
    "Windows": {"tests/test_version.py": "def test_windows_is_refused"},
    "Forge": {
        "tests/contract/test_forge.py": "def test_exactly_what_the_version_has_is_offered",
        "tests/ci/test_doctor.py": "def test_doctor_tells_what_is_there_and_what_is_not",
    },
}
"""Line of the page -> file and words in it that show what the line says."""

SAID_ONLY = {"Podman, Kubernetes"}
"""What is not supported, and cannot be recognised before it fails."""


def test_each_line_of_the_page_is_shown_by_something() -> None:
    page = (ROOT / "docs/reference/supported.md").read_text()
    lines = {line.split("|")[1].strip() for line in page.splitlines() if re.match(r"\| (?!what \|)", line)}

    assert lines == SHOWN.keys() | SAID_ONLY
    gone = [
        f"{name}: {words} in {file}"
        for name, shown in SHOWN.items()
        for file, words in shown.items()
        if words not in (ROOT / file).read_text()
    ]
    assert gone == []
