"""ci.run in front of env.deploy: a push to main puts a release in service, and a broken-off one leaves the old one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from conche.engine.connection import Engine
from tests.edged import EdgedStack
from tests.stacks import ROOT, free_port

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

WORKFLOW = """\
on: {{push: {{branches: [main]}}}}
jobs:
  build:
    runs-on: dev
    outputs: {{image: "${{{{ steps.build.outputs.image }}}}"}}
    steps:
      - uses: actions/checkout@v4
      - id: build
        run: |
          docker build --quiet --build-arg VERSION="$(cat version)" --build-arg HOW="$(cat how)" \\
            --tag "localhost:5000/{name}:$(cat version)" --file docker/web.Dockerfile docker
          echo "image=localhost:5000/{name}:$(cat version)" >> "$GITHUB_OUTPUT"
  deploy:
    needs: build
    if: github.ref == 'refs/heads/main'
    runs-on: prod
    steps:
      - uses: actions/checkout@v4
      - run: {python} -m invoke env.deploy --env prod --local --allow-dirty --image "$IMAGE"
        env:
          IMAGE: ${{{{ needs.build.outputs.image }}}}
          PYTHONPATH: "{root}"
"""


@pytest.fixture
def stack(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[EdgedStack]:
    made = EdgedStack.create(tmp_path / "checkout", free_port())
    made.write("stack.yaml", (made.folder / "stack.yaml").read_text() + "ci: {labels: [dev, prod]}\n")
    made.write(".gitea/workflows/ci.yml", WORKFLOW.format(name=made.name, python=sys.executable, root=ROOT))
    made.write("version", "one")
    made.write("how", "well")
    subprocess.run(["git", "-C", str(made.folder), "init", "--quiet"], check=True)
    first = made.deploy(made.version("one"), "--allow-dirty")
    assert first.returncode == 0, first.stderr
    yield made
    made.remove_all(engine)


def served(stack: EdgedStack) -> str:
    return str(httpx.get(f"http://127.0.0.1:{stack.port}/", timeout=300).json()["version"])


class Users:
    """Somebody who asks all the time; `bad` is what they got that was no good answer."""

    def __init__(self, stack: EdgedStack) -> None:
        self.seen: set[str] = set()
        self.asked = 0
        self.bad: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(f"http://127.0.0.1:{stack.port}/",))

    def _ask(self, url: str) -> None:
        while not self._over.is_set():
            self.asked += 1
            try:
                answer = httpx.get(url, timeout=60)
                self.seen.add(answer.json()["version"])
                if answer.status_code != 200:
                    self.bad.append(str(answer.status_code))
            except (httpx.HTTPError, ValueError) as error:
                self.bad.append(repr(error))

    def __enter__(self) -> Users:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_push_to_main_deploys_without_losing_a_request(stack: EdgedStack) -> None:
    stack.write("version", "two")

    with Users(stack) as users:
        done = stack.invoke("ci.run", "--branch", "main")

    assert done.returncode == 0, done.stderr
    assert served(stack) == "two"
    assert users.bad == []
    assert users.seen == {"one", "two"}
    assert users.asked > 20


def test_a_push_elsewhere_deploys_nothing(stack: EdgedStack) -> None:
    stack.write("version", "two")

    assert stack.invoke("ci.run", "--branch", "develop").returncode == 2
    assert served(stack) == "one"


@pytest.mark.parametrize("to", [pytest.param("act", marks=pytest.mark.long), "ci.run"])
def test_sigterm_in_mid_release_leaves_the_old_one_serving_and_no_lock(stack: EdgedStack, to: str) -> None:
    stack.write("version", "two")
    stack.write("how", "sick")
    running = subprocess.Popen(
        stack.argv("ci.run", "--branch", "main"), cwd=stack.folder, env=stack.environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    with Users(stack) as users:
        said = []
        for line in running.stderr:
            said.append(line)
            if "deploy |" in line and "healthy" in line:
                break
        found = next((one for one in psutil.Process(running.pid).children(recursive=True) if one.name() == "act"), None)
        assert found is not None, "".join(said)
        (found if to == "act" else psutil.Process(running.pid)).send_signal(signal.SIGTERM)
        running.communicate(timeout=300)

    assert running.returncode == (1 if to == "act" else 143)
    assert served(stack) == "one"
    assert users.bad == []
    stack.write("version", "three")
    stack.write("how", "well")
    again = stack.invoke("ci.run", "--branch", "main")
    assert again.returncode == 0, again.stderr
    assert served(stack) == "three"
