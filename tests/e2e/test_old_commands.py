"""docs/how-to/from-the-old-commands.md, walked from top to bottom on this project's own stack.

What changes more than the checkout and development is walked by its --dry-run. Commands of production are typed where
it never was up: its images come from elsewhere.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from conche.testing.forge import FakeForge, FakeJob, FakeRun, serve
from tests import warm
from tests.e2e.factories import commit
from tests.e2e.old_commands import WALK
from tests.stacks import SmallStack

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

TOKEN = "good-token-of-tests"


@pytest.fixture
def forge() -> Iterator[FakeForge]:
    with serve("forgejo-16") as fake:
        fake.runs = [FakeRun(41, 7, [FakeJob(101, "test-all", ["success"], "all passed\n")])]
        yield fake


@pytest.fixture
def stack(factory: tuple[SmallStack, str], forge: FakeForge, tmp_path: Path, engine: Engine) -> SmallStack:
    """What the reader has before the first line: own secrets, a registry that is up, a recovery key, a server."""
    made = factory[0]
    made.write("stack.yaml", (made.folder / "stack.yaml").read_text() + f"ci: {{server: '{forge.address}', "
               "repository: team/app}\n")  # fmt: skip
    answered(made, "invoke secrets.init --generate")
    answered(made, "invoke secrets.set registry_user", "admin")
    recipient = re.findall(r"age1\w+", answered(made, f"invoke backup.recovery-key {tmp_path / 'recovery.key'}"))[0]
    made.replace("stack.yaml", "recipients: []", f"recipients: [{recipient}]")
    made.write("old.yaml", "ree_api_token: a token of ree\n")
    made.write("editor", "#!/bin/sh\nsed -i 's/^openweathermap_api_key: .*/openweathermap_api_key: by hand/' \"$1\"\n")
    (made.folder / "editor").chmod(0o755)
    commit(made)
    answered(made, "invoke env.up --env git")
    volume = f"{made.name}_models_prod"
    subprocess.run(["docker", "volume", "create", volume], check=True, capture_output=True)
    fill = ["docker", "run", "--rm", "--volume", f"{volume}:/m", "python:3.11-slim-bookworm", "touch", "/m/prophet.pkl"]
    subprocess.run(fill, check=True, capture_output=True)
    return made


def typed(stack: SmallStack, line: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A line of a person's shell; a pipe after it is left out."""
    words = shlex.split(re.sub(r"\s*\\?\|.*", "", line))
    return warm.run(
        stack.argv(*words[1:]), cwd=stack.folder, input=stdin, text=True, capture_output=True, check=False, timeout=800,
        env=stack.environment(FORGEJO_TOKEN=TOKEN, EDITOR=shlex.quote(str(stack.folder / "editor"))),
    )  # fmt: skip


def answered(stack: SmallStack, line: str, stdin: str = "") -> str:
    done = typed(stack, line, stdin)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_each_command_does_what_its_line_says(stack: SmallStack) -> None:
    wrong = []

    for step in WALK:
        done = typed(stack, step.typed or step.written, step.stdin)
        said = done.stdout + done.stderr
        if done.returncode != step.exit or not re.search(step.says, said) or "Traceback" in said:
            wrong.append(f"{step.typed or step.written}: {done.returncode}\n{said}")
        if subprocess.run(["git", "status", "--porcelain"], cwd=stack.folder, capture_output=True, check=True).stdout:
            commit(stack)  # As the tasks say to do.

    assert not wrong, "\n".join(wrong)
