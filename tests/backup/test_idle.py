"""What is optional, and what is waited for before a container is held."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from conche.backup import idle
from conche.backup.site import Site
from conche.backup.target import Target
from conche.engine.connection import Engine
from conche.stack import load
from tests import warm
from tests.backup.checkouts import with_backup
from tests.stacks import ROOT, SmallStack

IDLE = ROOT / "docker/runner/runner-idle"

AT_WORK = "/kept/at-work"


@pytest.fixture
def stack(small: SmallStack) -> SmallStack:
    """A small stack whose volume is optional, and is read only while there is no file `at-work`."""
    with_backup(small)
    wanted = f"environment: dev, consistency: stop, required: false, idle: {{web: [test, '!', -e, {AT_WORK}]}}}}"
    small.replace("stack.yaml", "  components:\n", "  components:\n    conf: {driver: files, paths: [stack.yaml]}\n")
    small.replace("stack.yaml", "environment: dev}", wanted)
    small.replace("stack.yaml", "      driver: command\n", "      driver: command\n      required: false\n")
    return small


def inside(stack: SmallStack, script: str) -> None:
    subprocess.run(["docker", "exec", f"{stack.name}-web", "sh", "-euc", script], check=True, capture_output=True)


@pytest.mark.engine
def test_what_never_was_is_not_missed_and_what_was_is(stack: SmallStack, engine: Engine) -> None:
    before = stack.invoke("backup.create")
    stack.up()
    inside(stack, "echo first > /kept/journal")
    full = stack.invoke("backup.create")
    engine.client.api.stop(stack.containers(engine)[0].id)
    after = stack.invoke("backup.create")

    assert (before.returncode, full.returncode, after.returncode) == (0, 0, 3), before.stderr + full.stderr
    # The volume is there without its container; what a program in it would dump is not.
    assert "journal" in after.stdout.partition("DEGRADED")[2]
    assert "kept" not in after.stdout.partition("DEGRADED")[2]


@pytest.mark.engine
def test_a_container_is_held_once_it_is_idle(stack: SmallStack, engine: Engine) -> None:
    stack.up()
    inside(stack, f"echo first > /kept/journal; touch {AT_WORK}")
    begun = stack.containers(engine)[0].started_at

    with warm.Popen[str](
        stack.argv("backup.create", "--json"), cwd=stack.folder, env=stack.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as backup:  # fmt: skip
        assert backup.stderr is not None
        assert any("waiting until web is idle" in line for line in backup.stderr)
        assert stack.containers(engine)[0].started_at == begun
        inside(stack, f"rm {AT_WORK}")
        said, _ = backup.communicate()

    folder = Path(json.loads(said)["value"]["folder"])
    assert json.loads((folder / "manifest.json").read_text())["components"]["kept"]["consistency"].startswith("stopped")
    assert backup.returncode == 0


@pytest.mark.engine
@pytest.mark.parametrize(
    ("script", "words"),
    [("touch /kept/at-work", "web was still busy after 0 s"), ("mv /usr/bin/test /kept/", "does not say whether")],
)
def test_a_container_that_stays_at_work_or_says_nothing_is_not_held(
    stack: SmallStack, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setattr(idle, "WAIT", 0.0)
    stack.up()
    inside(stack, script)
    described = load(stack.folder)
    assert described.backup is not None
    site = Site(stack.folder, described, described.backup, Target(tmp_path, stack.name), lambda _: None)

    assert words in idle.wait(site, described.backup.components["kept"], engine)
    assert [one.state for one in stack.containers(engine)] == ["running"]


@pytest.mark.process
class TestTheRunner:
    """docker/runner/runner-idle, over the folders that a runner makes."""

    @pytest.fixture
    def runner(self, tmp_path: Path) -> Path:
        (tmp_path / "configuration").touch()
        os.utime(tmp_path / "configuration", (1_000, 1_000))
        (tmp_path / "work").mkdir()
        return tmp_path

    def asked(self, runner: Path) -> int:
        environment = {
            **os.environ,
            "RUNNER_CONFIGURATION": str(runner / "configuration"),
            "RUNNER_WORK": str(runner / "work"),
        }
        return subprocess.run([IDLE], env=environment, check=False).returncode

    def test_is_idle_without_a_job(self, runner: Path) -> None:
        assert self.asked(runner) == 0

    def test_is_at_work_from_a_job_s_first_moment_to_its_last(self, runner: Path) -> None:
        (runner / "work/0123456789abcdef/hostexecutor").mkdir(parents=True)

        assert self.asked(runner) == 1

    def test_is_idle_beside_what_a_killed_one_has_left(self, runner: Path) -> None:
        left = runner / "work/0123456789abcdef/hostexecutor"
        left.mkdir(parents=True)
        os.utime(left, (900, 900))

        assert self.asked(runner) == 0

    def test_says_nothing_before_it_has_started(self, runner: Path) -> None:
        (runner / "configuration").unlink()

        assert self.asked(runner) == 2
