"""A canary through every command of secrets.*: in no argv, no output, no file that others can read, no leftover."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from invoke import Collection

import conche
from conche.vault import keys
from tests.canary import Watch
from tests.secrets.declared import Checkout
from tests.stacks import ROOT

pytestmark = pytest.mark.process

PRIVATE = (".env", "shared_token.txt", "optional.txt", "age-key.txt", "given.yaml", "given.json", "given.env", "given")
"""Files that may hold it: what render writes, the key, and what a test gives to a command."""


class Scene:
    """A checkout in which `shared_token` is the canary, and a watch over every task that is called in it."""

    def __init__(self, checkout: Checkout, watch: Watch) -> None:
        self.checkout, self.watch = checkout, watch
        self.folder = checkout.folder
        self.canary = watch.canary
        self.given = checkout.folder.parent
        self.call("set", "shared_token", stdin=self.canary)

    def call(self, task: str, *words: str, stdin: str = "", shows: bool = False, **extra: str) -> int:
        """A task; its exit code."""
        argv = self.checkout.small.argv(f"secrets.{task}", *words)
        environment = self.checkout.environment(extra)
        return self.watch.call(argv, self.folder, environment, stdin, shows=shows).returncode

    def every_way(self, task: str, *words: str, stdin: str = "", options: Sequence[str] = ("--json",)) -> list[int]:
        """The exit codes of a task as it is, and with each option."""
        return [self.call(task, *words, stdin=stdin)] + [self.call(task, *words, one, stdin=stdin) for one in options]

    def give(self, name: str, content: str) -> str:
        """A file of a user, with the canary in it."""
        path = self.given / name
        path.touch(mode=0o600)
        path.write_text(content.replace("{}", self.canary))
        return str(path)

    def editor(self, script: str) -> str:
        path = self.given / "editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return shlex.quote(str(path))


@pytest.fixture
def scene(checkout: Checkout, canary: str, tmp_path: Path) -> Scene:
    made = Scene(checkout, Watch.create(canary, tmp_path / "watch", PRIVATE))
    assert made.checkout.ok("secrets.get", "shared_token") == canary
    return made


BOTH = ("--json", "--dry-run")


def test_looks(scene: Scene) -> None:
    for task in ("list", "check", "diff", "recipients.list", "scan", "init"):
        scene.every_way(task)
    scene.every_way("scan", "--history")
    scene.every_way("scan", "--staged")
    scene.every_way("get", "shared_token", "--length")
    scene.every_way("get", "shared_token", "--fingerprint")
    scene.call("get", "shared_token", shows=True)
    scene.call("get", "shared_token", "--json", shows=True)
    scene.call("get", "shared_tokens")

    assert scene.watch.leaks == []


def test_set_and_unset(scene: Scene) -> None:
    canary = scene.canary
    for name in ("shared_token", "optional", "no_such_secret", "rather-a-value"):
        scene.every_way("set", name, stdin=canary, options=(*BOTH, "--raw"))
    scene.call("set", canary, stdin=canary)
    scene.call("set", "optional", "--from-file", scene.give("given", "{}"))
    scene.call("set", "optional", "--from-file", f"/nowhere/{canary}")
    scene.call("set", "optional", stdin=canary + "\\'$\r")
    scene.call("set", "optional", stdin=canary * 5000)
    scene.call("set", "optional", stdin=canary, SOPS_AGE_KEY="no key")
    scene.call("rotate-value", "optional", "--from-file", scene.give("given", "{} again"))
    scene.every_way("rotate-value", "shared_token", options=BOTH)
    scene.every_way("unset", "optional", "--yes", options=BOTH)
    scene.every_way("unset", "optional")

    assert scene.watch.leaks == []


@pytest.mark.parametrize(
    "content", ["shared_token: '{}", "shared_token: [{}]", "shared_token: {}\n{}: x\n", "{}", "- {}", "x: {}\nx: {}\n"]
)
def test_encrypt(scene: Scene, content: str) -> None:
    quoted = content.replace("{}", json.dumps(scene.canary))
    for name in ("given.yaml", "given.json", "given.env"):
        scene.every_way("encrypt", scene.give(name, content), "--merge")
        scene.call("encrypt", scene.give(name, quoted), "--merge")
        scene.call("encrypt", str(scene.given / name))
    scene.call("encrypt", "-", "--merge", stdin=quoted)
    scene.call("encrypt", scene.give("given.json", json.dumps({"shared_token": "{}", "optional": "{}"})), "--replace")
    scene.every_way("declare", "--all", options=BOTH)
    scene.call("declare", scene.canary)

    assert scene.watch.leaks == []


def test_deliver(scene: Scene) -> None:
    for options in ((), ("--env-only",), ("--files-only",), ("--check",)):
        scene.every_way("render", *options, options=BOTH)
    scene.call("run", "--", "true")
    scene.call("run", "--", "no-such-program")
    scene.call("run", "--only", "shared_token,nothing", "--", "true")
    scene.call("run", "--", "env", shows=True)
    scene.call("set", "shared_token", stdin=scene.canary + "changed")
    scene.call("render", "--check")
    scene.call("unset", "shared_token", "--yes")
    scene.every_way("render")

    assert scene.watch.leaks == []
    assert scene.watch.exposing(scene.folder) == []


def test_keys_and_recipients(scene: Scene) -> None:
    public = keys.generate()[1]
    scene.every_way("backup-key", str(scene.given / "backup.age"), stdin="a long passphrase", options=BOTH)
    scene.call("backup-key", str(scene.given / "short.age"), stdin="short")
    scene.every_way("rotate", options=BOTH)
    scene.every_way("recipients.add", public, options=BOTH)
    scene.call("recipients.add", scene.checkout.key_file.read_text().splitlines()[-1])
    scene.every_way("recipients.remove", public, options=BOTH)
    scene.every_way("rotate", "--identity", options=BOTH)
    scene.every_way("rotate", "--identity", "--finish")
    scene.checkout.encrypted.unlink()
    scene.every_way("init", "--generate", options=BOTH)
    scene.checkout.key_file.unlink()
    scene.every_way("init")
    scene.every_way("list")

    assert scene.watch.leaks == []


@pytest.mark.parametrize(
    "script",
    [
        "true",
        'sed -i s/api-key/another/ "$1"',
        "exit 3",
        "exec kill -9 $$",
        'echo "api_key: [" >> "$1"',
        'echo "api_key: {a: b}" >> "$1"',
        'echo "undeclared: x" >> "$1"',
        ': > "$1"',
        "sed -i 's/^shared_token: /&&/' \"$1\"",
        "sed -i 's/^shared_token: //' \"$1\"",
        "sed -i 's/^shared_token: /- /' \"$1\"",
    ],
)
def test_edit(scene: Scene, script: str) -> None:
    editor = scene.editor(script)
    scene.call("edit", "--allow-disk", EDITOR=editor)
    scene.call("edit", "--allow-disk", "--json", EDITOR=editor)
    scene.call("edit", "--allow-disk", "--name", "shared_token", EDITOR=editor)
    scene.call("edit", EDITOR=editor)
    scene.call("edit", EDITOR="no-such-editor")

    assert scene.watch.leaks == []


@pytest.mark.parametrize("theirs", ["{} theirs", "the-value-of-api-key"], ids=["conflict", "no conflict"])
def test_merge_by_git_itself(scene: Scene, theirs: str) -> None:
    checkout = scene.checkout
    checkout.git("config", "merge.sops.driver", " ".join([*checkout.small.argv("secrets.merge"), "%O", "%A", "%B"]))
    (scene.folder / ".gitattributes").write_text("secrets.enc.yaml merge=sops\n")
    checkout.commit()
    checkout.git("switch", "--quiet", "--create", "other")
    scene.call("set", "shared_token", stdin=theirs.replace("{}", scene.canary))
    checkout.commit()
    checkout.git("switch", "--quiet", "main")
    scene.call("set", "api_key" if "{}" not in theirs else "shared_token", stdin=scene.canary + " ours")
    checkout.commit()

    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "merge", "--no-edit", "other"]
    merged = scene.watch.call(git, scene.folder, checkout.environment({}))

    assert merged.returncode == (1 if "{}" in theirs else 0), merged.stdout + merged.stderr
    assert scene.watch.leaks == []


@pytest.mark.parametrize(
    "damage",
    [
        "# {}\n",
        "added: {}\n",
        "{}\n",
        "{}: [\n",
        "--- {}\n",
        "sops: {}\n",
    ],
)
def test_a_file_that_somebody_wrote_the_value_into(scene: Scene, damage: str) -> None:
    scene.checkout.encrypted.write_text(scene.checkout.encrypted.read_text() + damage.replace("{}", scene.canary))
    watch = Watch.create(scene.canary, scene.given / "another", [*PRIVATE, "secrets.enc.yaml"])
    scene.checkout.encrypted.chmod(0o600)
    scene.watch = watch

    for task in ("list", "check", "diff", "render", "rotate", "scan"):
        scene.every_way(task)
    scene.call("get", "api_key")
    scene.call("set", "api_key", stdin="x")
    scene.call("run", "--", "true")
    scene.call("edit", "--allow-disk", EDITOR="true")

    assert watch.leaks == []


@pytest.mark.parametrize("size", [0, 200, 2000])
def test_a_disk_that_is_full_and_the_traceback_it_may_bring(scene: Scene, size: int) -> None:
    limited = ["prlimit", f"--fsize={size}"]
    calls = (("set", "optional"), ("render",), ("rotate",), ("edit", "--allow-disk"), ("unset", "db_password", "--yes"))

    for task, *words in calls:
        argv = [*limited, *scene.checkout.small.argv(f"secrets.{task}", *words)]
        environment = scene.checkout.environment({"EDITOR": scene.editor('echo "optional: x" >> "$1"')})
        scene.watch.call(argv, scene.folder, environment, scene.canary)

    assert scene.watch.leaks == []
    assert scene.checkout.ok("secrets.get", "api_key") == "the-value-of-api-key"


def test_the_watch_sees_what_it_is_there_for(scene: Scene) -> None:
    code = """
import os, subprocess, sys, tempfile
value = sys.stdin.read()
subprocess.run(["true", value])
open("loose", "w").write(value)
os.rename("loose", "named")
open(tempfile.gettempdir() + "/left", "w").write("x")
sys.stderr.write(value)
"""
    scene.watch.call(["python3", "-c", code], scene.folder, scene.checkout.environment({}), scene.canary)

    said = " ".join(scene.watch.leaks)
    assert all(word in said for word in ("output", "argv", "loose", "left", "named"))


def test_no_task_is_left_out() -> None:
    secrets: Collection = conche.namespace(ROOT).collections["secrets"]
    tasks = {*secrets.tasks, *(f"recipients.{name}" for name in secrets.collections["recipients"].tasks)}
    nodes = ast.walk(ast.parse(Path(__file__).read_text()))

    named = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}

    assert tasks - named == set()
