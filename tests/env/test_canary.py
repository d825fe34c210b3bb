"""A canary through the commands of env.* that handle secrets, on the real engine, also when Compose complains."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.canary import Watch
from tests.env.test_secrets import DECLARED
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

PRIVATE = ("web_token.txt", "web_extra.txt", "age-key.txt", ".env")

SHOWING = """\
import os, pathlib
print("token", os.environ.get("WEB_TOKEN"), pathlib.Path("/run/secrets/web_token").read_text(), flush=True)
"""


class Scene:
    """A small stack whose container has the canary as a variable and as a file, and writes both into its log."""

    def __init__(self, stack: SmallStack, watch: Watch) -> None:
        self.stack, self.watch = stack, watch
        stack.replace("stack.yaml", "environments:\n", DECLARED)
        compose = (stack.folder / "compose/dev.yaml").read_text()
        compose = compose.replace(
            "    restart: unless-stopped", "    restart: unless-stopped\n    secrets: [web_token]"
        )
        stack.write("compose/dev.yaml", compose + "secrets: {web_token: {file: ../docker/secrets/web_token.txt}}\n")
        stack.write("docker/server.py", SHOWING + (stack.folder / "docker/server.py").read_text())
        self.call("secrets.init")
        self.call("secrets.set", "web_token", stdin=watch.canary)

    def call(self, *words: str, stdin: str = "", shows: bool = False) -> subprocess.CompletedProcess[str]:
        environment = self.stack.environment()
        return self.watch.call(self.stack.argv(*words), self.stack.folder, environment, stdin, shows=shows)

    def every_way(self, *words: str, options: tuple[str, ...] = ("--json",)) -> subprocess.CompletedProcess[str]:
        first = self.call(*words)
        for option in options:
            self.call(*words, option)
        return first


@pytest.fixture
def scene(small: SmallStack, canary: str, tmp_path: Path) -> Scene:
    return Scene(small, Watch.create(canary, tmp_path / "watch", PRIVATE))


def test_up_and_everything_that_looks_or_changes(scene: Scene) -> None:
    exec_ = ("env.exec", "--service", "web")
    shown = ("--", "sh", "-c", 'echo "$WEB_TOKEN"; cat /run/secrets/web_token; exit 3')

    assert scene.every_way("env.up", options=("--dry-run", "--json")).returncode == 0
    for task in ("env.status", "env.health", "env.config", "env.networks", "env.logs"):
        assert scene.every_way(task).returncode == 0, task
    scene.call("secrets.scan", "--logs")
    assert scene.call(*exec_, "--json", *shown).returncode == 3
    assert scene.call(*exec_, *shown, shows=True).returncode == 3
    scene.call(*exec_, "--", "no-such-program")
    scene.call("secrets.set", "web_token", stdin=scene.watch.canary + " changed")
    scene.every_way("env.up", options=("--json",))
    scene.every_way("env.restart")
    scene.every_way("env.update", "--service", "web", options=("--json", "--dry-run"))
    scene.every_way("env.down", options=("--dry-run", "--json"))

    said = scene.stack.invoke("env.up", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert scene.watch.leaks == []
    assert any("compose" in argv for argv in scene.watch.argvs), "the watch saw no call of Compose"


@pytest.mark.parametrize("behaviour", [pytest.param("crash", marks=pytest.mark.long), "sick"])
def test_a_container_that_fails_is_quoted_without_its_secrets(scene: Scene, behaviour: str) -> None:
    scene.stack.behave(behaviour)

    done = scene.call("env.up")

    assert done.returncode == 4
    assert "token *** ***" in done.stderr
    assert scene.call("env.up", "--json").returncode == 4
    assert scene.watch.leaks == []


@pytest.mark.parametrize(
    "wrong",
    [
        ('ports: ["127.0.0.1', 'ports: ["${WEB_TOKEN}'),
        ("mem_limit: 64m", "mem_limit: ${WEB_TOKEN}"),
        ("retries: 2", "retries: ${WEB_TOKEN}"),
        ("stop_grace_period: 1s", "stop_grace_period: ${WEB_TOKEN}"),
        ("SETTING: ${SETTING:-none}", "SETTING: ${SETTING:?$WEB_TOKEN}"),
        ("networks: [outside]", "networks: ['${WEB_TOKEN}']"),
        ("container_name: ", "container_name: ${WEB_TOKEN}"),
        ("    image: localhost", "    image: ${WEB_TOKEN}/localhost"),
    ],
    ids=lambda pair: pair[1].split(":")[0].strip(),
)
def test_what_compose_or_the_engine_complains_of_is_shown_without_the_value(
    scene: Scene, wrong: tuple[str, str]
) -> None:
    scene.stack.replace("compose/dev.yaml", *wrong)

    for task in ("env.up", "env.config", "env.status", "env.logs", "env.down"):
        done = scene.every_way(task)
        assert "Traceback" not in done.stderr, done.stderr
        if task == "env.up":
            assert done.returncode != 0, done.stdout

    assert scene.watch.leaks == []


@pytest.mark.parametrize("declared", ["env: COMPOSE_FILE, ", "env: PATH, "])
def test_a_variable_that_means_something_to_compose(scene: Scene, declared: str) -> None:
    scene.stack.replace("stack.yaml", "web_token: {", f"web_token: {{{declared}")

    scene.every_way("env.up")
    scene.every_way("env.config")

    assert scene.watch.leaks == []
