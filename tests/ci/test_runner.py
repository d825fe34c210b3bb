"""ci.runner.* on the real engine, with small containers in the place of Forgejo and its runner."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine import containers
from conche.engine.connection import Engine
from conche.testing.forge import FakeForge, serve
from tests import warm
from tests.stacks import SmallStack

HEX = "0123456789abcdef0123456789abcdef01234567"

COMPOSE = """\
services:
  forgejo:
    image: {name}/forgejo/forgejo:1
    container_name: {name}-forgejo
    stop_grace_period: 1s
    command: [python3, -c, "import signal; signal.pause()"]
    volumes: [told:/told]
  runner-dev:
    image: {name}-runner:1
    build: {{context: ../docker, dockerfile: runner.Dockerfile}}
    container_name: {name}-runner-dev
    profiles: [runners]
    stop_grace_period: 1s
    environment: {{GITEA_RUNNER_NAME: dev, GITEA_RUNNER_LABELS: "dev:host"}}
    secrets: [{{source: runner_token_dev, target: runner_token}}]
  runner-tests:
    image: {name}-runner:1
    build: {{context: ../docker, dockerfile: runner.Dockerfile}}
    container_name: {name}-runner-tests
    profiles: [runners]
    stop_grace_period: 1s
    environment: [GITEA_RUNNER_NAME=tests, "GITEA_RUNNER_LABELS=ubuntu-latest:host,ubuntu-22.04:host"]
    secrets: [{{source: runner_token_tests, target: runner_token}}]
volumes:
  told: {{name: {name}-told}}
secrets:
  runner_token_dev: {{file: ../docker/secrets/runner_token_dev.txt}}
  runner_token_tests: {{file: ../docker/secrets/runner_token_tests.txt}}
"""

FORGEJO = """\
FROM python:3.11-slim-bookworm
RUN useradd git && install -d -o git /told \\
    && printf '#!/bin/sh\\necho "$(whoami): $* < $(cat)" >>/told/registered\\n' >/usr/local/bin/forgejo \\
    && chmod +x /usr/local/bin/forgejo
VOLUME /told
"""

RUNNER = """\
FROM python:3.11-slim-bookworm
CMD ["python3", "-u", "-c", "import signal; print('at work'); signal.pause()"]
"""

STACK = """\
name: {name}
registry: localhost:5000
bases:
  python:3.11-slim-bookworm: {{suite: bookworm, packages: [python3, python3-venv, ca-certificates]}}
secrets:
  declared:
    runner_token_dev: {{outputs: [file], services: [runner-dev], generate: hex20, required: false}}
    runner_token_tests: {{outputs: [file], services: [runner-tests], generate: hex20, required: false}}
environments:
  git: {{compose: [compose/git.yaml]}}
ci: {{repository: us/shop, server: '{server}'}}
"""


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeForge]:
    """The HTTP side of the Forgejo in the stack."""
    with serve(getattr(request, "param", "forgejo-11")) as fake:
        fake.repository = "us/shop"
        monkeypatch.setenv("FORGEJO_TOKEN", next(iter(fake.tokens)))
        yield fake


@pytest.fixture
def forge_stack(tmp_path: Path, engine: Engine, base_image: str, server: FakeForge) -> Iterator[SmallStack]:
    stack = SmallStack(tmp_path / "checkout", f"t{uuid.uuid4().hex[:10]}", 1)
    stack.write("tasks.py", "from conche import namespace\nns = namespace(__file__)\n")
    stack.write("stack.yaml", STACK.format(name=stack.name, server=server.address))
    stack.write("compose/git.yaml", COMPOSE.format(name=stack.name))
    stack.write("docker/forgejo.Dockerfile", FORGEJO)
    stack.write("docker/runner.Dockerfile", RUNNER)
    build = ["docker", "build", "--quiet", "--tag", f"{stack.name}/forgejo/forgejo:1", "--file"]
    subprocess.run([*build, "docker/forgejo.Dockerfile", "docker"], cwd=stack.folder, check=True, capture_output=True)
    subprocess.run(["git", "-C", str(stack.folder), "init", "--quiet"], check=True)
    assert stack.invoke("secrets.init").returncode == 0
    yield stack
    stack.remove_all(engine)


def give_tokens(stack: SmallStack, *names: str, token: str = HEX) -> None:
    for name in names:
        argv = stack.argv("secrets.set", name)
        done = warm.run(argv, cwd=stack.folder, env=stack.environment(), input=token, text=True, check=False)
        assert done.returncode == 0


def services(stack: SmallStack, engine: Engine) -> dict[str, str]:
    return {one.service: one.state for one in containers.of_project(engine, f"{stack.name}-git")}


def registered(stack: SmallStack) -> list[str]:
    argv = ["docker", "exec", f"{stack.name}-forgejo", "cat", "/told/registered"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.engine
def test_what_the_image_is_made_from_is_had_before_anything_starts(forge_stack: SmallStack, engine: Engine) -> None:
    give_tokens(forge_stack, "runner_token_dev", "runner_token_tests")
    forge_stack.replace("docker/runner.Dockerfile", "FROM ", "FROM registry.invalid/runner:1 AS runner\nFROM ")
    forge_stack.replace("docker/runner.Dockerfile", "CMD ", "COPY --from=runner /runner /runner\nCMD ")

    plan = forge_stack.json("ci.runner.up", "--dry-run")["plan"]
    error = forge_stack.json("ci.runner.up")["error"]

    assert (plan[0]["action"], plan[0]["subject"]) == ("pull", "image registry.invalid/runner:1")
    assert (error["code"], error["exit_code"]) == ("base-unavailable", 9)
    assert "docker pull registry.invalid/runner:1" in error["next"]
    assert services(forge_stack, engine) == {}


@pytest.mark.engine
def test_up_builds_registers_and_starts_the_runners(forge_stack: SmallStack, engine: Engine) -> None:
    give_tokens(forge_stack, "runner_token_dev", "runner_token_tests")

    dry = forge_stack.json("ci.runner.up", "--dry-run")
    assert dry.get("error") is None, dry["error"]
    assert services(forge_stack, engine) == {}
    silent = forge_stack.invoke("ci.runner.logs")
    assert [line.split(" has no container")[0] for line in silent.stdout.splitlines()] == ["Runner dev", "Runner tests"]
    done = forge_stack.invoke("ci.runner.up")

    assert done.returncode == 0, done.stderr
    assert HEX not in done.stdout + done.stderr
    assert [(step["action"], step["subject"]) for step in dry["plan"]] == [
        ("build", f"image {forge_stack.name}-runner:1"),
        ("register", "runner dev"),
        ("register", "runner tests"),
        ("start", "service runner-dev"),
        ("start", "service runner-tests"),
    ]
    assert services(forge_stack, engine) == dict.fromkeys(("forgejo", "runner-dev", "runner-tests"), "running")
    said = "git: forgejo-cli actions register --secret-stdin=true --keep-labels --scope us --name"
    assert registered(forge_stack) == [f"{said} dev < {HEX}", f"{said} tests < {HEX}"]
    assert forge_stack.json("ci.runner.up")["changed"] is False

    status = forge_stack.invoke("ci.runner.status")
    assert status.returncode == 0, status.stderr
    assert "ubuntu-latest:host, ubuntu-22.04:host" in status.stdout
    logs = forge_stack.json("ci.runner.logs")["value"]
    assert [line for line in logs if "runner-dev" in line and "at work" in line]
    one = forge_stack.invoke("ci.runner.logs", "--runner", "tests").stdout
    assert "runner-tests" in one
    assert "runner-dev" not in one
    assert "[one-is-followed]" in forge_stack.invoke("ci.runner.logs", "--follow").stderr

    again = forge_stack.invoke("env.up", "--env", "git")
    assert again.returncode == 0, again.stderr
    assert "is in no Compose file" not in again.stderr
    assert len(services(forge_stack, engine)) == 3
    seen = forge_stack.invoke("env.status", "--env", "git")
    assert "is in no Compose file" not in seen.stdout
    assert seen.returncode == 0, seen.stdout
    assert forge_stack.invoke("env.down", "--env", "git").returncode == 0
    assert services(forge_stack, engine) == {}
    assert forge_stack.invoke("env.status", "--env", "git").returncode == 1
    assert forge_stack.invoke("env.up", "--env", "git").returncode == 0
    assert services(forge_stack, engine) == dict.fromkeys(("forgejo", "runner-dev", "runner-tests"), "running")
    assert forge_stack.invoke("env.down", "--env", "git", "--volumes", "--yes").returncode == 0
    assert forge_stack.invoke("env.up", "--env", "git").returncode == 0
    assert services(forge_stack, engine) == {"forgejo": "running"}


@pytest.mark.engine
def test_an_image_of_other_sources_is_said_and_built_anew_and_its_runners_get_it(
    forge_stack: SmallStack, engine: Engine
) -> None:
    give_tokens(forge_stack, "runner_token_dev", "runner_token_tests")
    image = f"{forge_stack.name}-runner:1"
    assert forge_stack.invoke("ci.runner.up").returncode == 0
    fresh = forge_stack.invoke("ci.runner.status")
    forge_stack.replace("docker/runner.Dockerfile", "at work", "at other work")

    said = forge_stack.invoke("ci.runner.status")
    [found] = [one for one in forge_stack.json("ci.doctor")["value"] if one["name"] == "runners' image"]
    done = forge_stack.json("ci.runner.up")

    assert f"{image} was built from other sources" not in fresh.stderr
    assert f"{image} was built from other sources" in said.stderr
    assert (found["state"], found["next_command"]) == ("missing", "invoke ci.runner.up")
    assert [(one["action"], one["subject"], one["cause"]) for one in done["plan"]] == [
        ("build", f"image {image}", "it was built from other sources"),
        ("register", "runner dev", "it may not be registered with forgejo yet"),
        ("register", "runner tests", "it may not be registered with forgejo yet"),
        ("recreate", "service runner-dev", "its image changed"),
        ("recreate", "service runner-tests", "its image changed"),
    ]
    assert [line for line in forge_stack.json("ci.runner.logs")["value"] if "at other work" in line]
    assert forge_stack.json("ci.runner.up")["changed"] is False


@pytest.mark.engine
def test_runners_still_belong_to_the_environment_after_an_up_that_failed(
    forge_stack: SmallStack, engine: Engine
) -> None:
    give_tokens(forge_stack, "runner_token_dev", "runner_token_tests")
    assert forge_stack.invoke("ci.runner.up").returncode == 0
    forge_stack.replace("compose/git.yaml", "/forgejo/forgejo:1", "/forgejo/forgejo:2")
    failed = forge_stack.invoke("ci.runner.up")
    forge_stack.replace("compose/git.yaml", "/forgejo/forgejo:2", "/forgejo/forgejo:1")
    down = forge_stack.invoke("env.down", "--env", "git")

    back = forge_stack.invoke("env.up", "--env", "git")

    assert (failed.returncode, down.returncode, back.returncode) == (9, 0, 0), failed.stderr
    assert services(forge_stack, engine) == dict.fromkeys(("forgejo", "runner-dev", "runner-tests"), "running")


@pytest.mark.engine
def test_a_new_token_reaches_forgejo_and_its_runner_and_no_other(forge_stack: SmallStack, engine: Engine) -> None:
    give_tokens(forge_stack, "runner_token_dev", "runner_token_tests")
    assert forge_stack.invoke("ci.runner.up").returncode == 0
    before = {one.service: one.started_at for one in containers.of_project(engine, f"{forge_stack.name}-git")}
    give_tokens(forge_stack, "runner_token_dev", token=HEX[::-1])

    done = forge_stack.invoke("ci.runner.up")

    assert done.returncode == 0, done.stderr
    after = {one.service: one.started_at for one in containers.of_project(engine, f"{forge_stack.name}-git")}
    assert {service for service, started in after.items() if started != before[service]} == {"runner-dev"}
    assert registered(forge_stack)[2].endswith(f"dev < {HEX[::-1]}")
    argv = ["docker", "exec", f"{forge_stack.name}-runner-dev", "cat", "/run/secrets/runner_token"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == HEX[::-1]


@pytest.mark.engine
def test_runners_of_a_repository_that_nobody_names_serve_the_whole_server_and_that_is_said(
    forge_stack: SmallStack,
) -> None:
    give_tokens(forge_stack, "runner_token_dev", "runner_token_tests")
    forge_stack.replace("stack.yaml", "ci: {repository: us/shop, ", "ci: {")

    done = forge_stack.invoke("ci.runner.up")

    assert done.returncode == 0, done.stderr
    assert "any repository on the server can use these runners" in done.stderr
    assert [line.partition(" --name")[0] for line in registered(forge_stack)] == [
        "git: forgejo-cli actions register --secret-stdin=true --keep-labels"
    ] * 2


@pytest.mark.engine
def test_a_runner_without_a_token_is_refused_before_anything_is_started(
    forge_stack: SmallStack, engine: Engine
) -> None:
    give_tokens(forge_stack, "runner_token_dev")

    error = forge_stack.json("ci.runner.up")["error"]

    assert error["code"] == "runner-token-missing"
    assert error["next"] == "invoke secrets.rotate-value runner_token_tests"
    assert services(forge_stack, engine) == {}


@pytest.mark.engine
@pytest.mark.parametrize("server", ["forgejo-15"], indirect=True)
def test_where_the_api_has_it_runners_are_registered_for_the_repository_and_anew_after_a_rotation(
    forge_stack: SmallStack, server: FakeForge
) -> None:
    first = forge_stack.invoke("ci.runner.up")
    before = {one["name"]: one["uuid"] for one in server.runners}
    again = forge_stack.json("ci.runner.up")
    give_tokens(forge_stack, "runner_token_dev")
    rotated = forge_stack.json("ci.runner.up")

    assert first.returncode == 0, first.stderr
    assert again["changed"] is False
    assert [(step["action"], step["subject"]) for step in rotated["plan"][:2]] == [
        ("register", "runner dev"),
        ("remove", f"runner dev ({before['dev']})"),
    ]
    after = {one["name"]: one["uuid"] for one in server.runners}
    assert len(server.runners) == 2
    assert {name for name in after if after[name] != before[name]} == {"dev"}
    argv = ["docker", "exec", f"{forge_stack.name}-runner-dev", "cat", "/run/secrets/runner_token"]
    held = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert held.startswith(f"{after['dev']}:")
    assert held.partition(":")[2] not in first.stdout + first.stderr + str(rotated)


@pytest.mark.engine
def test_status_of_runners_that_are_not_up(forge_stack: SmallStack) -> None:
    done = forge_stack.invoke("ci.runner.status")

    assert done.returncode == 1
    assert done.stdout.count("absent") == 2
    assert "invoke ci.runner.up" in done.stdout
    assert "could not ask the server" in done.stderr


@pytest.mark.process
def test_the_token_goes_into_a_pipe(tmp_path: Path) -> None:
    with serve("gitea-1.26") as fake:
        stack = SmallStack.create(tmp_path / "checkout", port=1)
        section = f"ci: {{server: '{fake.address}', repository: team/app}}\n"
        stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + section)

        told = stack.invoke("ci.runner.token", FORGEJO_TOKEN="good-token-of-tests")

    assert told.stdout == "registration-token-of-tests"


@pytest.mark.process
def test_without_runners_in_the_compose_files_it_says_what_to_write(tmp_path: Path) -> None:
    error = SmallStack.create(tmp_path / "checkout", port=1).json("ci.runner.up")["error"]

    assert (error["code"], error["exit_code"]) == ("no-runners", 6)
