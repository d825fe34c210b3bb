"""What was brought up has no drift, for Conche and for plain Compose, either way round: files of many shapes."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests.stacks import TASKS, SmallStack

pytestmark = pytest.mark.engine

STACK = "name: {name}\nregistry: localhost:5000\nenvironments: {{dev: {{compose: [compose.yaml]{more}}}}}\n"

PY = "image: python:3.11-slim-bookworm, command: [sleep, infinity], init: true, stop_grace_period: 0s"
ONCE = 'image: python:3.11-slim-bookworm, command: ["true"]'
WELL = "healthcheck: {test: [CMD, 'true'], interval: 1s}"

SHAPES = {
    "env_file": f"services: {{web: {{{PY}, env_file: [web.env]}}}}",
    "env_file that is missing": f"services: {{web: {{{PY}, env_file: [{{path: no.env, required: false}}]}}}}",
    "network of another": f'services: {{vpn: {{{PY}}}, web: {{{PY}, network_mode: "service:vpn"}}}}',
    "memory of another": f'services: {{x: {{{PY}, ipc: shareable}}, web: {{{PY}, ipc: "service:x"}}}}',
    "processes of another": f'services: {{x: {{{PY}}}, web: {{{PY}, pid: "service:x"}}}}',
    "volumes of another": f"services: {{x: {{{PY}, volumes: [data:/data]}}, web: {{{PY}, volumes_from: ['x:ro']}}}}\n"
    "volumes: {data: {}}",
    "depends on others": f"services: {{a: {{{PY}, {WELL}}}, b: {{{PY}, depends_on: [a]}}, c: {{{PY}, depends_on: "
    f"{{b: {{condition: service_started}}, a: {{condition: service_healthy, restart: true}}}}}}}}",
    "depends on a one-shot": f"services: {{once: {{{ONCE}}}, web: {{{PY}, depends_on: "
    "{once: {condition: service_completed_successfully}}}}",
    "depends on what shares": f'services: {{vpn: {{{PY}}}, web: {{{PY}, network_mode: "service:vpn", '
    f"env_file: [web.env]}}, last: {{{PY}, depends_on: [web], links: [vpn]}}}}",
    "variables of every kind": f"services: {{web: {{{PY}, environment: [PASSED, EMPTY=, 'DOLLAR=a$$b', "
    "'URL=pg://a:${DB_PASSWORD}@db', 'T=${TEXT}']}}",
    "build, develop and pull_policy": "services: {web: {image: python:3.11-slim-bookworm, command: [sleep, infinity], "
    "init: true, build: {context: ., args: {A: b}}, pull_policy: never, "
    "develop: {watch: [{path: ., action: rebuild}]}}}",
    "extends and fragments": f"x-base: &base {{{PY}, labels: {{a: b}}}}\nservices: {{web: {{<<: *base, extends: "
    "{file: other.yaml, service: base}, x-own: 1}}",
    "include": f"include: [inner/compose.yaml]\nservices: {{web: {{{PY}, depends_on: [inner]}}}}",
    "profiles": f"services: {{web: {{{PY}}}, tool: {{{PY}, profiles: [tools]}}}}",
    "replicas": f"services: {{web: {{{PY}, deploy: {{replicas: 2, resources: {{limits: {{memory: 64m}}}}}}}}}}",
    "scale": f"services: {{web: {{{PY}, scale: 2}}}}",
    "named networks and addresses": f"services: {{web: {{{PY}, networks: {{in: {{aliases: [w]}}, out: null}}, "
    "extra_hosts: ['a:127.0.0.2'], dns: 127.0.0.1, hostname: h, labels: [a=b, c]}}\n"
    "networks: {in: {name: '${COMPOSE_PROJECT_NAME}-named'}, out: {}}",
    "configs and secrets": f"services: {{web: {{{PY}, secrets: [one], configs: [{{source: two, target: /two}}]}}}}\n"
    "secrets: {one: {file: web.env}}\nconfigs: {two: {file: web.env}}",
    "limits, units and lists": "services: {web: {image: python:3.11-slim-bookworm, mem_limit: 64m, shm_size: 16mb, "
    "ulimits: {nofile: 1024}, tmpfs: /t:size=1m, cap_drop: [ALL], sysctls: {net.core.somaxconn: 1024}, "
    "expose: ['80'], cpus: 0.5, "
    "volumes: ['./web.env:/e:ro', /anonymous], entrypoint: sleep, command: infinity, user: '1', working_dir: /tmp, "
    "healthcheck: {test: 'true', interval: 1m30s, start_period: 1s}, logging: {driver: json-file, "
    "options: {max-size: 1m}}}}",
    "disabled healthcheck and restart": f"services: {{web: {{{PY}, healthcheck: {{disable: true}}, "
    "restart: 'on-failure:3', security_opt: ['no-new-privileges:true'], annotations: {a: b}}}",
}

ENVIRONMENT = {"TEXT": 'it\'s "${quoted}" $$ #x'}


FEW = ("env_file", "network of another", "depends on a one-shot", "replicas", "configs and secrets")
"""The shapes that each run of all tests brings up; the others are long."""

EACH = [pytest.param(name, marks=[] if name in FEW else pytest.mark.long) for name in SHAPES]


class Project:
    """A stack of one Compose file, that Conche and plain Compose bring up in turn."""

    def __init__(self, folder: Path, shape: str, more: str = "") -> None:
        self.stack = SmallStack(folder, f"t{uuid.uuid4().hex[:10]}", 0)
        self.stack.write("tasks.py", TASKS)
        self.stack.write("stack.yaml", STACK.format(name=self.stack.name, more=more))
        self.stack.write("compose.yaml", shape)
        self.stack.write("web.env", "F=from file\nG=${F}-${DB_PASSWORD}\n")
        self.stack.write("other.yaml", f"services: {{base: {{{PY}, environment: {{FROM: other}}}}}}")
        self.stack.write("inner/compose.yaml", f"services: {{inner: {{{PY}, env_file: [inner.env]}}}}")
        self.stack.write("inner/inner.env", "I=1\n")
        self.stack.write(".env", "DB_PASSWORD=plainpw12345\nPASSED=p q\n")

    def invoke(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.stack.invoke(*words, **ENVIRONMENT)

    def compose(self, *words: str) -> None:
        """Plain Compose on the same files and project."""
        argv = ["docker", "compose", "--project-name", self.stack.project, *words]
        done = subprocess.run(
            argv, cwd=self.stack.folder, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def ids(self, engine: Engine) -> list[tuple[str, str]]:
        return [(one.service, one.id) for one in self.stack.containers(engine)]

    def see_no_drift(self) -> None:
        """For Conche."""
        status = self.invoke("env.status", "--env", "dev")
        assert (status.returncode, "drift:" in status.stdout) == (0, False), status.stdout + status.stderr
        planned = json.loads(self.invoke("env.up", "--dry-run", "--json").stdout)
        assert not planned["plan"], planned["plan"]
        again = self.invoke("env.up")
        assert (again.returncode, "Nothing to do" in again.stdout) == (0, True), again.stdout + again.stderr


@pytest.fixture
def make(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[Callable[[str], Project]]:
    made: list[Project] = []

    def project(shape: str) -> Project:
        made.append(Project(tmp_path / f"checkout{len(made)}", shape))
        return made[-1]

    yield project
    for one in made:
        one.stack.remove_all(engine)


@pytest.mark.parametrize("shape", EACH)
def test_what_was_brought_up_is_left_alone_by_conche_and_by_compose(
    shape: str, make: Callable[[str], Project], engine: Engine
) -> None:
    project = make(SHAPES[shape])

    done = project.invoke("env.up")

    assert done.returncode == 0, done.stderr
    first = project.ids(engine)
    project.see_no_drift()
    assert project.ids(engine) == first
    project.compose("up", "--detach", "--no-build", "--pull", "never")
    assert project.ids(engine) == first


@pytest.mark.parametrize(
    "shape",
    [
        "env_file",
        "depends on what shares",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("network of another", "volumes of another", "depends on others", "replicas")
        ),
    ],
)
def test_what_plain_compose_brought_up_is_left_alone(
    shape: str, make: Callable[[str], Project], engine: Engine
) -> None:
    project = make(SHAPES[shape])

    project.compose("up", "--detach", "--no-build", "--pull", "never")

    first = project.ids(engine)
    project.see_no_drift()
    assert project.ids(engine) == first


def test_what_shares_the_network_of_a_replaced_service_is_replaced_with_it_and_once(
    make: Callable[[str], Project], engine: Engine
) -> None:
    shape = SHAPES["depends on what shares"]
    project = make(shape)
    assert project.invoke("env.up").returncode == 0
    first = dict(project.ids(engine))

    project.stack.write("compose.yaml", shape.replace("vpn: {", "vpn: {hostname: other, "))
    status = project.invoke("env.status", "--env", "dev")
    changed = project.invoke("env.up")

    assert (status.returncode, "shares resources of vpn" in status.stdout) == (1, True), status.stdout
    assert changed.returncode == 0, changed.stderr
    second = dict(project.ids(engine))
    assert {name for name in first if first[name] != second[name]} == {"vpn", "web"}
    project.see_no_drift()
    project.compose("up", "--detach", "--no-build", "--pull", "never")
    assert dict(project.ids(engine)) == second


def test_what_an_env_file_says_is_part_of_the_definition(make: Callable[[str], Project], engine: Engine) -> None:
    project = make(SHAPES["env_file"])
    assert project.invoke("env.up").returncode == 0
    first = project.ids(engine)

    project.stack.write("web.env", "F=another\n")

    assert project.invoke("env.status", "--env", "dev").returncode == 1
    assert project.invoke("env.up").returncode == 0
    assert project.ids(engine) != first
    project.see_no_drift()


def test_a_changed_definition_is_told_by_the_names_of_its_keys(make: Callable[[str], Project], engine: Engine) -> None:
    shape = f"services: {{web: {{{PY}, environment: {{LEVEL: '1', URL: 'pg://${{DB_PASSWORD}}@db', SAME: 'a$$b'}}}}}}"
    project = make(shape)
    changed = shape.replace("LEVEL: '1'", "LEVEL: 'level-two', MORE: x").replace("init: true", "init: true, user: '1'")

    def said() -> str:
        status = project.invoke("env.status", "--env", "dev")
        planned = project.invoke("env.up", "--dry-run")
        assert (status.returncode, planned.returncode) == (1, 0), planned.stderr
        assert "level-two" not in status.stdout + planned.stdout
        [cause] = {step["cause"] for step in json.loads(project.invoke("env.up", "--dry-run", "--json").stdout)["plan"]}
        assert cause in status.stdout
        return str(cause)

    # Made by plain Compose, then by Conche, which remembers more than inspection shows.
    project.compose("up", "--detach", "--no-build", "--pull", "never")
    project.stack.write("compose.yaml", changed)
    assert said() == "its definition changed: environment.LEVEL, environment.MORE, user"
    assert project.invoke("env.up").returncode == 0
    project.see_no_drift()

    project.stack.write("compose.yaml", changed.replace("user: '1'", "user: '1', shm_size: 16mb"))
    assert said() == "its definition changed: shm_size"


def test_what_has_a_profile_no_more_is_left_alone_and_what_is_in_no_file_is_named(
    make: Callable[[str], Project], engine: Engine
) -> None:
    shape = f"services: {{web: {{{PY}}}, tool: {{{PY}, profiles: [tools]}}}}"
    project = make(shape)
    plain = (project.stack.folder / ".env").read_text()
    project.stack.write(".env", f"{plain}COMPOSE_PROFILES=tools\n")
    assert project.invoke("env.up").returncode == 0
    first = project.ids(engine)
    assert [name for name, _ in first] == ["tool", "web"]

    project.stack.write(".env", plain)
    project.see_no_drift()
    assert project.ids(engine) == first

    project.stack.write("compose.yaml", f"services: {{web: {{{PY}}}}}")
    status = project.invoke("env.status", "--env", "dev")
    up = project.invoke("env.up")
    assert (status.returncode, up.returncode) == (1, 0), up.stderr
    for said in (status.stdout, up.stderr):
        assert f"docker rm --force {project.stack.project}-tool-1" in said
    assert "Nothing to do: it is up as the files say." in up.stdout
    assert project.ids(engine) == first


@pytest.mark.parametrize("needs", ["depends_on: [a], ", ""])
def test_a_replacement_goes_on_to_its_end_when_the_command_is_killed_in_the_middle_of_it(
    needs: str, make: Callable[[str], Project], engine: Engine
) -> None:
    deaf = "image: python:3.11-slim-bookworm, command: [sleep, infinity], stop_grace_period: 2s"
    shape = f"services: {{a: {{{PY}}}, web: {{{deaf}, {needs}environment: {{LEVEL: '1'}}}}}}"
    project = make(shape)
    assert project.invoke("env.up").returncode == 0
    before = dict(project.ids(engine))["web"]
    project.stack.write("compose.yaml", shape.replace("LEVEL: '1'", "LEVEL: '2'"))

    # It ends late, so the old one is still being stopped when its successor is there.
    argv, folder = project.stack.argv("env.up"), project.stack.folder
    with subprocess.Popen(argv, cwd=folder, env=project.stack.environment(**ENVIRONMENT)) as killed:
        while killed.poll() is None and len(project.ids(engine)) < 3:
            continue
        killed.kill()

    again = project.invoke("env.up")

    assert again.returncode == 0, again.stderr
    [web] = [one for one in project.stack.containers(engine) if one.service == "web"]
    assert (web.state, web.id != before) == ("running", True)
    assert "LEVEL=2" in engine.client.api.inspect_container(web.id)["Config"]["Env"]
    assert "replacing web" not in again.stderr
