"""invoke doctor: found, needed, next command."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

import conche
from conche.vault.keys import generate
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


def findings(stack: SmallStack, **extra: str) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in stack.json("doctor", **extra)["value"]}


def test_a_machine_that_has_everything_ends_with_zero(small: SmallStack) -> None:
    done = small.invoke("doctor")

    assert done.returncode == 0, done.stdout
    assert "Nothing is missing." in done.stdout


def test_every_prerequisite_is_looked_at(small: SmallStack) -> None:
    assert list(findings(small)) == [
        "conche", "system", "packages", "python", "stack.yaml", "engine", "compose", "buildx", "sops", "age key", "git",
        "cron", "disk", f"port {small.port}", "clock", "file modes", "registry",
    ]  # fmt: skip


def test_the_versions_of_everything_are_told_by_name(small: SmallStack) -> None:
    known = {name: one for finding in small.json("doctor")["value"] for name, one in finding["versions"].items()}

    assert known.keys() >= {
        "conche", "python", "kernel", "engine", "api", "containerd", "runc", "compose", "buildx", "sops", "git",
        "invoke", "docker", "pydantic", "zizmor",
    }  # fmt: skip
    assert known["conche"] == conche.__version__
    assert [name for name, one in known.items() if not one[:1].isdigit()] == []


def test_where_backups_go_off_site_restic_is_looked_for(small: SmallStack) -> None:
    section = "secrets: {declared: {key: {}}}\nbackup:\n  components: {code: {driver: archive, paths: [docker]}}\n"
    section += "  offsite: {repository: ../offsite, password: key}\n"
    small.write("stack.yaml", (small.folder / "stack.yaml").read_text() + section)

    assert findings(small)["restic"]["state"] == ("ok" if shutil.which("restic") else "missing")
    assert findings(small, PATH=str(small.folder))["restic"]["next_command"] == "sudo apt-get install restic"


def test_without_an_engine_the_rest_is_still_looked_at(small: SmallStack) -> None:
    done = small.invoke("doctor", DOCKER_HOST="unix:///nowhere/docker.sock")
    found = findings(small, DOCKER_HOST="unix:///nowhere/docker.sock")

    assert done.returncode == 1
    assert found["engine"]["state"] == "missing"
    assert found["engine"]["next_command"]
    assert found["sops"]["state"] == "ok"


def test_loose_modes_of_secret_files_are_named_with_the_chmod(small: SmallStack) -> None:
    small.write(".env", "A=b\n")
    (small.folder / ".env").chmod(0o644)

    found = findings(small)["file modes"]

    assert (found["state"], found["found"]) == ("missing", ".env")
    assert found["next_command"].startswith("chmod 600")


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o640, "missing")])
def test_an_age_key_must_be_private(small: SmallStack, mode: int, state: str) -> None:
    small.write(".sops/age-key.txt", generate()[0].reveal())
    (small.folder / ".sops/age-key.txt").chmod(mode)

    assert findings(small)["age key"]["state"] == state


def test_a_taken_port_names_its_holder(small: SmallStack) -> None:
    with socket.create_server(("127.0.0.1", small.port)):
        found = findings(small)[f"port {small.port}"]

    assert found["found"].startswith("taken by process")


def test_our_own_port_is_ours(small: SmallStack) -> None:
    small.up()

    assert findings(small)[f"port {small.port}"]["found"] == "ours"


def test_a_bad_stack_file_is_a_finding(small: SmallStack) -> None:
    (small.folder / "stack.yaml").write_text("nonsense")

    done = small.invoke("doctor")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_compose_v1_alone_is_a_finding(small: SmallStack, tmp_path: Path) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho \"docker: '$1' is not a docker command.\" >&2; exit 1\n")
    docker.chmod(0o755)

    found = findings(small, PATH=f"{docker.parent}:/usr/bin:/bin")

    assert (found["compose"]["state"], found["buildx"]["state"]) == ("missing", "missing")
    assert "scripts/install-engine" in found["compose"]["next_command"]
