"""Secrets on their way into containers, on the real engine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests import warm
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

DECLARED = """\
secrets:
  declared:
    web_token: {outputs: [env, file], services: [web], owner: 1000}
    web_extra: {outputs: [file], services: [web], required: false}
environments:
"""


@pytest.fixture
def secretive(small: SmallStack) -> SmallStack:
    """The small stack with two secrets, one of which its container gets as a variable and as a file."""
    small.replace("stack.yaml", "environments:\n", DECLARED)
    small.replace(
        "compose/dev.yaml", "    restart: unless-stopped", "    restart: unless-stopped\n    secrets: [web_token]"
    )
    small.write(
        "compose/dev.yaml",
        (small.folder / "compose/dev.yaml").read_text()
        + "secrets:\n  web_token: {file: ../docker/secrets/web_token.txt}\n",
    )
    return small


def put(stack: SmallStack, value: str, name: str = "web_token") -> None:
    argv = stack.argv("secrets.set", name)
    warm.run(argv, cwd=stack.folder, env=stack.environment(), input=value, text=True, check=True, capture_output=True)


def inside(stack: SmallStack, script: str, user: str = "1000") -> str:
    argv = ["docker", "exec", "--user", user, f"{stack.name}-web", "sh", "-c", script]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_a_secret_reaches_the_container_as_a_variable_and_as_a_file_its_user_can_read(
    secretive: SmallStack, canary: str
) -> None:
    assert secretive.invoke("secrets.init").returncode == 0
    put(secretive, canary)

    planned = secretive.invoke("env.up", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert not (secretive.folder / "docker/secrets").exists()
    done = secretive.invoke("env.up")

    assert done.returncode == 0, done.stderr
    assert inside(secretive, 'printf %s "$WEB_TOKEN"') == canary
    assert inside(secretive, "cat /run/secrets/web_token") == canary
    assert canary not in done.stdout + done.stderr
    assert secretive.json("env.up")["plan"] == []


def test_a_changed_secret_restarts_the_service_that_uses_it_and_nothing_else_does(
    secretive: SmallStack, engine: Engine
) -> None:
    secretive.replace("compose/dev.yaml", "WEB_TOKEN: ${WEB_TOKEN:-}", "OTHER: none")
    assert secretive.invoke("secrets.init").returncode == 0
    put(secretive, "before")
    secretive.up()
    put(secretive, "after")

    document = secretive.json("env.up")

    assert [(step["action"], step["cause"]) for step in document["plan"]] == [
        ("restart", "one of its secret files changed")
    ]
    assert inside(secretive, "cat /run/secrets/web_token") == "after"
    assert secretive.json("env.up")["plan"] == []


BESIDE = """\
services:
  side:
    image: python:3.11-slim-bookworm
    command: [sleep, infinity]
    init: true
    stop_grace_period: 1s
    networks: [outside]
    secrets: [side_key]
"""


def test_a_first_key_restarts_who_has_it_mounted_and_an_unset_one_does_not_stay(
    small: SmallStack, engine: Engine
) -> None:
    declared = "secrets:\n  declared:\n    side_key: {outputs: [file], required: false}\n"
    small.replace(
        "stack.yaml",
        "environments:\n",
        f"{declared}    web_token: {{outputs: [file], services: [web], required: false}}\nenvironments:\n",
    )
    small.replace("compose/dev.yaml", "services:\n", BESIDE)
    small.replace(
        "compose/dev.yaml",
        "volumes:\n  kept:",
        "secrets:\n  side_key: {file: ../docker/secrets/side_key.txt}\nvolumes:\n  kept:",
    )
    assert small.invoke("secrets.init").returncode == 0
    small.up()
    put(small, "a first key", "side_key")

    first = small.json("env.up")
    warm.run(small.argv("secrets.unset", "side_key", "--yes"), cwd=small.folder, env=small.environment(), check=True)
    second = small.json("env.up")

    expected = [("restart", "service side", "one of its secret files changed")]
    assert [(step["action"], step["subject"], step["cause"]) for step in first["plan"]] == expected
    assert [(step["action"], step["subject"], step["cause"]) for step in second["plan"]] == expected
    assert (small.folder / "docker/secrets/side_key.txt").read_text() == ""


def test_a_profile_that_needs_a_secret_is_refused_without_it_before_anything(small: SmallStack, engine: Engine) -> None:
    declared = "{outputs: [file], required: false, required_with: [net], source: https://keys.example}"
    small.replace("stack.yaml", "environments:\n", f"secrets:\n  declared:\n    side_key: {declared}\nenvironments:\n")
    small.replace("stack.yaml", "    tag: develop\n", "    tag: develop\n    profiles: [net]\n")

    refused = small.invoke("env.up")

    assert (refused.returncode, small.containers(engine)) == (2, ()), refused.stderr
    assert "error [secrets-incomplete]: dev with the Compose profiles net requires side_key" in refused.stderr
    assert "Next: invoke secrets.set side_key" in refused.stderr


def test_without_a_key_development_makes_values_of_its_own_and_says_so(secretive: SmallStack) -> None:
    first = secretive.invoke("env.up")
    value = inside(secretive, "cat /run/secrets/web_token")

    again = secretive.invoke("env.up")

    assert first.returncode == 0, first.stderr
    assert "no age key: dev uses generated development values, kept in " in first.stderr
    assert len(value) == 64
    assert value not in first.stdout + first.stderr
    assert "Nothing to do" in again.stdout
    assert not (secretive.folder / "secrets.enc.yaml").exists()


def test_without_a_key_a_protected_environment_refuses(secretive: SmallStack, engine: Engine) -> None:
    assert secretive.invoke("secrets.init").returncode == 0
    put(secretive, "value")
    secretive.replace("stack.yaml", "    tag: develop", "    tag: develop\n    protected: true")
    (secretive.folder / ".sops/age-key.txt").unlink()

    refused = secretive.invoke("env.up")

    assert refused.returncode == 8
    assert "error [key-missing]" in refused.stderr
    assert ".sops/age-key.txt" in refused.stderr
    assert secretive.containers(engine) == ()


def test_a_protected_environment_refuses_without_what_it_requires(secretive: SmallStack) -> None:
    assert secretive.invoke("secrets.init").returncode == 0
    secretive.replace("stack.yaml", "    tag: develop", "    tag: develop\n    protected: true")

    refused = secretive.invoke("env.up")

    assert refused.returncode == 2
    assert "error [secrets-incomplete]" in refused.stderr
    assert "invoke secrets.set web_token" in refused.stderr


def test_a_secret_file_written_by_a_command_that_was_killed_is_taken_up_by_the_next(secretive: SmallStack) -> None:
    secretive.replace("compose/dev.yaml", "WEB_TOKEN: ${WEB_TOKEN:-}", "OTHER: none")
    assert secretive.invoke("secrets.init").returncode == 0
    put(secretive, "before")
    secretive.up()
    put(secretive, "after")
    assert secretive.invoke("secrets.render").returncode == 0

    document = secretive.json("env.up")

    assert [step["cause"] for step in document["plan"]] == ["one of its secret files changed"]
    assert inside(secretive, "cat /run/secrets/web_token") == "after"
    assert secretive.json("env.up")["plan"] == []


def test_a_look_makes_no_development_values(secretive: SmallStack, tmp_path: Path) -> None:
    state = tmp_path / "state"

    looked = secretive.invoke("env.status", XDG_STATE_HOME=str(state))

    assert looked.returncode == 0, looked.stderr
    assert not state.exists()


def test_a_state_folder_that_cannot_be_written_is_said(secretive: SmallStack, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    refused = secretive.invoke("env.up", XDG_STATE_HOME=str(tmp_path / "file"))

    assert refused.returncode == 2
    assert "error [development-values-not-kept]" in refused.stderr


def test_a_value_too_long_for_an_environment_stops_before_anything_is_changed_and_is_fine_in_a_file(
    secretive: SmallStack, engine: Engine, tmp_path: Path
) -> None:
    value = "0123456789abcdef" * (1 << 16)
    (tmp_path / "given.json").write_text(json.dumps({"web_token": value}))
    assert secretive.invoke("secrets.init").returncode == 0
    assert secretive.invoke("secrets.encrypt", str(tmp_path / "given.json"), "--merge").returncode == 0

    refused = secretive.invoke("env.up")

    assert refused.returncode == 2
    assert "error [value-not-for-environment]" in refused.stderr
    assert "give web_token `outputs: [file]` in stack.yaml" in refused.stderr
    assert secretive.containers(engine) == ()
    assert not (secretive.folder / "docker/secrets").exists()

    secretive.replace("stack.yaml", "web_token: {outputs: [env, file]", "web_token: {outputs: [file]")
    secretive.up()
    assert inside(secretive, "cat /run/secrets/web_token") == value
