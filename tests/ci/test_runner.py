"""ci.runner.* on the real engine, with small containers in the place of Forgejo and its runner."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conche.ci.forge import Forge
from conche.ci.forge.client import Client
from conche.ci.runner.registration import Registrations
from conche.ci.workflows.runners import Runner
from conche.engine import containers
from conche.engine.connection import Engine
from conche.secret import Secret
from conche.testing.forge import FakeForge, serve
from tests import warm
from tests.stacks import ROOT, SmallStack

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
    assert "any repository of the server can use these runners" in done.stderr
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


GIVEN = str(uuid.UUID(int=7))


@pytest.mark.parametrize(
    ("value", "known", "steps"),
    [
        ("", [], ["register"]),
        (f"{GIVEN}:{HEX}", [GIVEN], []),
        (f"{GIVEN}:{HEX}", [GIVEN, "left by a kill"], ["remove"]),
        (f"{GIVEN}:{HEX}", ["of the token before"], ["register", "remove"]),
        # The server's own command wrote down an owner and a repository, and such a runner falls asleep.
        (HEX, [str(uuid.UUID(bytes=HEX[:16].encode()))], ["register", "remove"]),
    ],
)
def test_what_is_registered_anew(value: str, known: list[str], steps: list[str]) -> None:
    with serve("forgejo-15") as fake:
        fake.runners = [
            {"id": number, "uuid": one, "name": "dev", "status": "idle", "labels": []}
            for number, one in enumerate(known, 1)
        ]
        fake.runners.append({"id": 9, "uuid": "x", "name": "dev", "status": "idle", "labels": []})
        fake.runners[-1]["name"] = "of somebody else"
        forge = Forge(Client(fake.address, Secret(next(iter(fake.tokens)))), fake.repository)
        runner = Runner("git", "runner-dev", ("dev:host",), name="dev", secret="runner_token_dev")

        plan = Registrations(forge, [runner], {"runner_token_dev": Secret(value)}).plan()

    assert [step.action for step in plan] == steps


@pytest.mark.engine
def test_status_of_runners_that_are_not_up(forge_stack: SmallStack) -> None:
    done = forge_stack.invoke("ci.runner.status")

    assert done.returncode == 1
    assert done.stdout.count("absent") == 2
    assert "invoke ci.runner.up" in done.stdout
    assert "the server was not asked" in done.stderr


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


# The git environment of this repository, held to the documents


def rendered(*profiles: str) -> Any:
    wanted = [part for profile in profiles for part in ("--profile", profile)]
    argv = ["docker", "compose", "--file", "compose/git.yaml", *wanted, "config", "--format", "json"]
    return json.loads(subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.process
def test_the_git_environment_is_the_documented_one() -> None:
    alone = rendered()["services"]
    forgejo = alone["forgejo"]

    assert set(alone) == {"registry", "forgejo"}
    assert {int(port["target"]): port["published"] for port in forgejo["ports"]} == {3000: "3000", 2222: "2222"}
    assert set(rendered("runners", "tailnet")["services"]) == {
        "registry", "forgejo", "gitea-runner-dev", "gitea-runner-prod", "gitea-runner-tests", "tailscale",
    }  # fmt: skip


def test_images_are_pinned_and_everything_has_a_healthcheck() -> None:
    for file in ("dev", "prod", "git"):
        for name, service in yaml.safe_load((ROOT / f"compose/{file}.yaml").read_text())["services"].items():
            image = service["image"]
            tag = image.rpartition(":")[2]
            assert image.startswith("localhost:5000/") or any(sign.isdigit() for sign in tag), name
            assert "healthcheck" in service, name


@pytest.mark.process
def test_only_the_runners_that_deploy_have_the_engine() -> None:
    services = rendered("runners")["services"]
    sockets = {
        name for name, one in services.items()
        if any(mount.get("source") == "/var/run/docker.sock" for mount in one.get("volumes") or ())
    }  # fmt: skip
    tests = services["gitea-runner-tests"]

    assert sockets == {"gitea-runner-dev", "gitea-runner-prod"}
    assert list(tests["networks"]) == ["runner-tests"]
    assert {name for name, one in services.items() if "runner-tests" in (one.get("networks") or {})} == {
        "gitea-runner-tests",
        "forgejo",
    }
    assert tests["user"] == "1000:1000"
    assert tests["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("file", ["dev", "prod", "git"])
def test_a_tailscale_sidecar_has_no_privileges_and_its_key_from_a_file(file: str) -> None:
    services = yaml.safe_load((ROOT / f"compose/{file}.yaml").read_text())["services"]
    sidecar = services["tailscale"]
    served = json.loads(sidecar["environment"]["SERVE"].replace("$${", "${"))
    proxies = [handler["Proxy"] for web in served["Web"].values() for handler in web["Handlers"].values()]

    assert sidecar["profiles"] == ["tailnet"]
    assert sidecar["environment"]["TS_USERSPACE"] == "true"
    assert sidecar["environment"]["TS_AUTHKEY"] == "file:/run/secrets/tailscale_authkey"
    assert not sidecar.keys() & {"privileged", "devices", "network_mode"}
    assert sidecar["cap_drop"] == ["ALL"]
    assert "NET_ADMIN" not in sidecar["cap_add"]
    assert [proxy.removeprefix("http://").partition(":")[0] in services for proxy in proxies] == [True]
    assert [mount for mount in sidecar["volumes"] if mount.startswith((".", "/"))] == []


@pytest.mark.process
def test_a_tailscale_sidecar_finds_what_it_serves_where_it_looks_for_it(tmp_path: Path) -> None:
    sidecar = rendered("tailnet")["services"]["tailscale"]
    environment = {"PATH": "/usr/bin:/bin", "SERVE": sidecar["environment"]["SERVE"]}
    said = tmp_path / "serve.json"
    script = sidecar["entrypoint"][-1].replace("$$", "$").replace("/tmp/serve.json", str(said))

    subprocess.run(["sh", "-c", script.replace("/usr/local/bin/containerboot", "true")], env=environment, check=True)

    assert sidecar["environment"]["TS_SERVE_CONFIG"] == "/tmp/serve.json"
    assert list(json.loads(said.read_text().replace("$$", "$"))["Web"]) == ["${TS_CERT_DOMAIN}:443"]


def start(tmp_path: Path, token: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """What runner-start hands to forgejo-runner, which a script stands for."""
    (tmp_path / "token").write_text(token)
    program = tmp_path / "forgejo-runner"
    program.write_text('#!/bin/sh\numask >&2; env >&2; echo "$@ in $TMPDIR" >&2\ncat "$3"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "GITEA_INSTANCE_URL": "http://localhost:3000/",
        "GITEA_RUNNER_LABELS": "ubuntu-latest:host,ubuntu-22.04:host", "RUNNER_WORK": str(tmp_path / "work"),
        "RUNNER_TOKEN_FILE": str(tmp_path / "token"), "RUNNER_CONFIGURATION": str(tmp_path / "runner.yaml"), **extra,
    }  # fmt: skip
    argv = [str(ROOT / "docker/runner/runner-start")]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("token", [HEX, HEX + "\n"])
def test_a_runner_starts_with_a_configuration_of_its_token_and_labels(tmp_path: Path, token: str) -> None:
    done = start(tmp_path, token)

    configuration = yaml.safe_load(done.stdout)
    connection = configuration["server"]["connections"]["forgejo"]
    assert done.stderr.splitlines()[-1].startswith("daemon --config")
    assert connection == {
        "url": "http://localhost:3000/",
        "uuid": str(uuid.UUID(bytes=HEX[:16].encode())),
        "token_url": f"file:{tmp_path / 'runner.yaml.token'}",
        "labels": ["ubuntu-latest:host", "ubuntu-22.04:host"],
    }
    assert configuration["host"]["workdir_parent"] == str(tmp_path / "work")
    assert done.stderr.rstrip().endswith(f" in {tmp_path / 'work' / 'tmp'}")
    assert (tmp_path / "work" / "tmp").is_dir()
    assert (tmp_path / "runner.yaml.token").read_text() == HEX
    assert [file.name for file in tmp_path.glob("runner.yaml*") if file.stat().st_mode & 0o077] == []
    assert HEX not in done.stdout + done.stderr


def test_a_runner_starts_with_the_uuid_that_the_server_gave_with_its_token(tmp_path: Path) -> None:
    given = str(uuid.uuid4())

    connection = yaml.safe_load(start(tmp_path, f"{given}:{HEX}").stdout)["server"]["connections"]["forgejo"]

    assert connection["uuid"] == given
    assert (tmp_path / "runner.yaml.token").read_text() == HEX


def handed_on(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The variables that steps get."""
    return dict(line.partition("=")[::2] for line in done.stderr.splitlines()[1:-1])


def test_steps_have_the_mask_of_their_user_and_a_cache_that_pip_can_write(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        done = start(tmp_path, HEX)
    finally:
        os.umask(mask)

    cache = Path(handed_on(done)["PIP_CACHE_DIR"])
    assert done.stderr.splitlines()[0] == "0022"
    assert cache.is_dir()
    assert cache.is_relative_to(tmp_path / "work")


def test_steps_know_the_authority_and_the_index_of_the_host(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("a certificate")
    index = "https://packages.example.org/simple"

    steps = handed_on(start(tmp_path, HEX, RUNNER_CA=str(bundle), PIP_INDEX_URL=index, HTTPS_PROXY=""))

    assert {steps[name] for name in ("SSL_CERT_FILE", "PIP_CERT", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")} == {
        str(bundle)
    }
    assert (steps["PIP_INDEX_URL"], "HTTPS_PROXY" in steps) == (index, False)


def test_a_host_without_an_authority_of_its_own_leaves_steps_the_usual_ones(tmp_path: Path) -> None:
    assert not handed_on(start(tmp_path, HEX, RUNNER_CA="/dev/null")).keys() & {"SSL_CERT_FILE", "PIP_CERT"}


@pytest.mark.parametrize(
    "token", ["", "your_token_here", HEX[:-1], HEX + HEX, f"{HEX}\n{HEX}", f"some-uuid:{HEX}", f"{HEX[:36]}:"]
)
def test_a_runner_refuses_what_is_no_token(tmp_path: Path, token: str) -> None:
    done = start(tmp_path, token)

    assert done.returncode == 2
    assert "40 hexadecimal digits" in done.stderr
    assert not (tmp_path / "runner.yaml").exists()


def checked_out(tmp_path: Path, ref: str, mask: int = 0o022) -> tuple[Path, dict[str, str]]:
    """What runner-checkout makes of a commit of a repository on this disk; the folder, and what later steps get."""
    source, job, work = tmp_path / "srv/us/shop", tmp_path / "job", tmp_path / "work"
    for folder in (source / "app", job, work / "tmp/job-of-before", work / "tmp/of-the-runner"):
        folder.mkdir(parents=True)
    (source / "app/main.py").write_text("print()\n")
    git = ("git", "-C", str(source), "-c", "user.name=n", "-c", "user.email=e@example.org")
    for words in (("init", "-q", "-b", "develop"), ("add", "-A"), ("commit", "-qm", "x")):
        subprocess.run([*git, *words], check=True)
    sha = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    environment = {
        **os.environ, "GITHUB_SERVER_URL": f"file://{tmp_path}/srv", "GITHUB_REPOSITORY": "us/shop", "GITHUB_SHA": sha,
        "GITHUB_REF": ref, "GITHUB_TOKEN": HEX, "GITHUB_ENV": str(tmp_path / "env"), "RUNNER_WORK": str(work),
    }  # fmt: skip
    argv = [str(ROOT / "docker/runner/runner-checkout")]
    subprocess.run(argv, cwd=job, env=environment, check=True, umask=mask)
    return job, dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())


@pytest.mark.parametrize(("ref", "branch"), [("refs/heads/develop", "develop"), ("refs/pull/7/head", "HEAD")])
def test_a_commit_is_checked_out_without_an_action_and_without_leaving_the_token(
    tmp_path: Path, ref: str, branch: str
) -> None:
    job, _ = checked_out(tmp_path, ref)

    argv = ["git", "-C", str(job), "rev-parse", "--abbrev-ref", "HEAD"]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip() == branch
    assert (job / "app/main.py").read_text() == "print()\n"
    assert HEX not in (job / ".git/config").read_text()


def test_what_jobs_before_left_is_swept_and_what_is_the_runners_own_stays(tmp_path: Path) -> None:
    _, later = checked_out(tmp_path, "refs/heads/develop")

    left = {path.name for path in (tmp_path / "work/tmp").iterdir()}
    assert left == {"of-the-runner", Path(later["TMPDIR"]).name}
    assert Path(later["TMPDIR"]).is_dir()


def test_code_has_the_same_modes_in_images_whatever_the_mask_of_its_checkout() -> None:
    """A step of a build copies files with the modes that they have in the checkout, unless it says others."""
    bare = []
    for file in sorted((ROOT / "docker").glob("*.Dockerfile")):
        last = file.read_text().rpartition("\nFROM ")[2]
        bare += [line for line in last.splitlines() if line.startswith("COPY ") and "--chmod=" not in line]

    assert [line for line in bare if "--from=" not in line] == []
