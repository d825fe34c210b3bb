"""secrets: each mutating task, killed before each of its steps, loses nothing and is finished by saying it again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from conche.secret import Secret
from conche.vault import keys
from conche.vault.store import Edit, Store
from tests import warm
from tests.secrets.declared import Checkout
from tests.stacks import SmallStack

pytestmark = pytest.mark.process

PUBLIC = keys.generate()[1]

TASKS = {
    "init": ("init",),
    "encrypt": ("encrypt", "{given}", "--replace"),
    "encrypt merge": ("encrypt", "{given}", "--merge"),
    "render": ("render",),
    "set": ("set", "optional"),
    "unset": ("unset", "renamed", "--yes"),
    "rotate": ("rotate",),
    "identity": ("rotate", "--identity"),
    "finish": ("rotate", "--identity", "--finish"),
    "add": ("recipients.add", PUBLIC),
    "remove": ("recipients.remove", "{other}"),
    "edit": ("edit", "--allow-disk"),
    "rotate-value": ("rotate-value", "db_password"),
}


@pytest.fixture(scope="module")
def prepared(template: Checkout, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str]:
    """A checkout with something for each task to do, and the recipient that may be removed."""
    folder = tmp_path_factory.mktemp("prepared") / "my checkout"
    shutil.copytree(template.folder, folder)
    made = Checkout(SmallStack(folder, template.small.name, template.small.port))
    other = keys.generate()[1]
    made.ok("secrets.recipients.add", other)
    made.ok("secrets.set", "renamed", stdin="the-value-of-renamed")
    (folder.parent / "given.json").write_text(json.dumps({"api_key": "the-value-of-api-key", "optional": "imported"}))
    (folder.parent / "editor").write_text("#!/bin/sh\nsed -i 's/^optional: .*/optional: edited/' \"$1\"\n")
    (folder.parent / "editor").chmod(0o755)
    return made, other


@pytest.mark.parametrize("name", TASKS)
def test_killed_before_each_step_it_loses_nothing_and_is_finished_by_the_same_command(
    prepared: tuple[Checkout, str], tmp_path: Path, name: str
) -> None:
    source, other = prepared
    given = source.folder.parent / "given.json"
    task, *rest = (word.format(given=given, other=other) for word in TASKS[name])
    killed = 0
    for step in range(1, 1000):
        checkout = Checkout(SmallStack(tmp_path / str(step) / "my checkout", source.small.name, source.small.port))
        shutil.copytree(source.folder, checkout.folder)
        if name == "init":
            for path in (checkout.encrypted, checkout.key_file, checkout.folder / ".sops.yaml"):
                path.unlink()
        editor = {"EDITOR": shlex.quote(str(source.folder.parent / "editor"))}

        ended = warm.run(
            checkout.small.argv(f"secrets.{task}", *rest),
            cwd=checkout.folder, env=checkout.environment(editor), input="new", capture_output=True, timeout=300,
            before="tests.faults.steps:kill_before", told=step,
        )  # fmt: skip
        if ended.returncode != -signal.SIGKILL:
            assert ended.returncode == 0, ended.stderr
            break
        killed += 1

        if name != "init":
            assert store(checkout).read()["api_key"] == Secret("the-value-of-api-key"), f"step {step}"
        again = checkout.call(f"secrets.{task}", *rest, stdin="new", **editor)
        # What was done to its end before the kill is said to be done, or to be gone.
        assert again.returncode == 0 or (name in ("unset", "remove") and again.returncode == 6), again.stderr
        afterwards(checkout, name)
        shutil.rmtree(checkout.folder.parent)

    assert killed > 2, "the hook saw no step"


def store(checkout: Checkout) -> Store:
    return Store(checkout.folder, checkout.encrypted)


def afterwards(checkout: Checkout, name: str) -> None:
    """The next change works, the two lists of recipients agree, and nothing lies around."""
    encrypted = store(checkout)
    encrypted.change("afterwards", lambda _: Edit(put={"shared_token": Secret("afterwards")}))
    assert encrypted.read()["shared_token"] == Secret("afterwards")
    identities = [line for line in checkout.key_file.read_text().splitlines() if not line.startswith("#")]
    if name == "finish":
        assert len(identities) == 1
    left = [path.name for path in checkout.folder.rglob(".*") if path.name.startswith((".sops-tmp-", ".secrets.enc"))]
    assert left == []
    runtime = Path(os.environ["XDG_RUNTIME_DIR"]) / "conche"
    assert [path for path in runtime.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
