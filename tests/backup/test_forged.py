"""Manifests whose digest fits and whose words are an attack: whoever can write to the target can write such a one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conche.backup import manifest
from conche.errors import CheckFailed
from tests.backup.checkouts import Checkout, tree

pytestmark = pytest.mark.process

Content = dict[str, Any]
Forgery = Callable[[Content], None]


def written(content: Content) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode()


def forge(backup: Path, forgery: Forgery) -> None:
    """Change what the manifest of a backup says, and make its digest fit."""
    content = json.loads((backup / manifest.FILE).read_bytes())
    del content["digest"]
    forgery(content)
    digest = hashlib.sha256(written(content)).hexdigest()
    (backup / manifest.FILE).write_bytes(written({**content, "digest": digest}))


def artifact(path: str) -> Content:
    return {**one(path), "mode": 0o600, "members": 0, "content": 0, "pieces": ""}


def one(path: str) -> Content:
    return {"path": path, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}


def has(component: str, part: str, said: Content) -> Forgery:
    """One more file or link of a component."""
    return lambda content: content["components"][component][part].append(said)


def says(component: str, fact: str, value: str) -> Forgery:
    return lambda content: content["components"][component]["facts"].update({fact: value})


def first(component: str, key: str, value: object) -> Forgery:
    return lambda content: content["components"][component]["artifacts"][0].update({key: value})


def called(name: str) -> Forgery:
    """A component under another name, with a file that is below it."""
    record = {"driver": "files", "artifacts": [artifact(f"{name}/x")], "facts": {"folder": "models"}}
    return lambda content: content["components"].update({name: record})


def top(key: str, value: object) -> Forgery:
    return lambda content: content.update({key: value})


def link(path: str, target: str) -> Content:
    return {"path": path, "target": target}


FORGERIES: dict[str, Forgery] = {
    "a folder that is absolute": says("models", "folder", "/tmp"),
    "a folder outside": says("models", "folder", "../victim"),
    "a folder that leaves and comes back": says("models", "folder", "models/../../victim"),
    "a folder of a user": says("models", "folder", "~root"),
    "a folder with a zero byte": says("models", "folder", "models\0"),
    "a folder that is too deep": says("models", "folder", "a/" * 3000),
    "an archive's place that is absolute": says("code", "src.tar.gz", "/etc"),
    "an archive's place outside": says("code", "src.tar.gz", "../victim"),
    "an owner that is none": says("models", "owner", "root:root"),
    "an owner that is a huge number": says("models", "owner", f"{10**40}:0"),
    "a file outside": has("models", "artifacts", artifact("models/../../victim")),
    "a file that is absolute": has("models", "artifacts", artifact("/etc/passwd")),
    "a file of another component": has("models", "artifacts", artifact("config/other.conf")),
    "a file below no component": has("models", "artifacts", artifact("stranger")),
    "a file that is the manifest": has("models", "artifacts", artifact("manifest.json")),
    "a file twice": has("models", "artifacts", artifact("models/prophet_1.pkl")),
    "a file below a file": has("models", "artifacts", artifact("models/prophet_1.pkl/below")),
    "a file below a link": has("models", "artifacts", artifact("models/latest/prophet.pkl/below")),
    "a file with an empty name": has("models", "artifacts", artifact("models/")),
    "a file with a dot for a name": has("models", "artifacts", artifact("models/./x")),
    "a file with a zero byte": has("models", "artifacts", artifact("models/x\0y")),
    "a file with half a letter": has("models", "artifacts", artifact("models/../\ud800")),
    "a link outside": has("models", "links", link("models/../../victim", "/etc")),
    "a link in place of a file": has("models", "links", link("models/prophet_1.pkl", "/etc/passwd")),
    "a link in place of the component": has("models", "links", link("models", "/etc")),
    "set-user-id": first("models", "mode", 0o4755),
    "a mode below zero": first("models", "mode", -1),
    "a size below zero": first("models", "size", -1),
    "contents below zero": first("code", "content", -1),
    "pieces that are no numbers": first("code", "pieces", "-1 5"),
    "a component outside": called("../victim"),
    "a component with a dot for a name": called("."),
    "a component with an empty name": called(""),
    "a component that is the manifest": called("manifest.json"),
    "a component in a folder": called("models/deeper"),
    "a text that is elsewhere": top("text", artifact("../MANIFEST.txt")),
    "a name that is a path": top("name", "../../factory_daily_20260101_000000"),
    "a time without a zone": top("created", "2026-01-01T00:00:00"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout.create(tmp_path_factory.mktemp("forged"))
    checkout.create_backup()
    return checkout


@pytest.fixture
def checkout(made: Checkout) -> Iterator[Checkout]:
    """A checkout with one backup; what a test does to its manifest is undone."""
    [backup] = made.backups()
    whole, before = (backup / manifest.FILE).read_bytes(), tree(made.folder, without=(".backup",))
    yield made
    (backup / manifest.FILE).write_bytes(whole)
    assert tree(made.folder, without=(".backup",)) == before


@pytest.mark.parametrize("name", FORGERIES)
def test_what_no_backup_says_is_not_believed(checkout: Checkout, name: str) -> None:
    [backup] = checkout.backups()
    assert manifest.read(backup).components

    forge(backup, FORGERIES[name])

    with pytest.raises(CheckFailed) as refused:
        manifest.read(backup)
    assert refused.value.code == "manifest-refused"
    assert len("".join(refused.value.evidence)) < 300


@pytest.mark.parametrize(
    "words",
    [("backup.restore", "latest", "--force"), ("backup.restore", "latest", "--target", "../new"), ("backup.drill",)],
)
def test_no_command_writes_where_a_forged_manifest_says(checkout: Checkout, words: tuple[str, ...]) -> None:
    [backup] = checkout.backups()
    victim = checkout.folder.parent / "victim"
    victim.mkdir()
    (victim / "prophet_1.pkl").write_text("of the user")
    forge(backup, says("models", "folder", "../victim"))

    done = checkout.invoke(*words)

    assert done.returncode == 1, done.stderr
    assert tree(victim) == {"prophet_1.pkl": tree(victim)["prophet_1.pkl"]}
    assert (victim / "prophet_1.pkl").read_text() == "of the user"
    assert not (checkout.folder.parent / "new").exists()
    shutil.rmtree(victim)


@pytest.mark.parametrize(
    ("forgery", "component"),
    [
        (says("models", "folder", "scripts"), "models"),
        (says("models", "folder", ""), "models"),
        (says("models", "folder", "models/.sops"), "models"),
        (says("code", "src.tar.gz", "models"), "code"),
        (has("secrets", "artifacts", artifact("secrets/tasks.py")), "secrets"),
        (lambda content: content["components"]["models"].update(driver="logs"), "models"),
    ],
    ids=[
        "another folder",
        "the checkout",
        "what no backup holds",
        "an archive elsewhere",
        "a program",
        "another driver",
    ],
)
def test_a_restore_puts_nothing_where_the_stack_does_not_declare_it(
    checkout: Checkout, forgery: Forgery, component: str
) -> None:
    [backup] = checkout.backups()
    forge(backup, forgery)

    for more in ((), ("--dry-run",)):
        done = checkout.invoke("backup.restore", "latest", "--component", component, "--force", "--json", *more)
        error = json.loads(done.stdout)["error"]

        assert done.returncode == 2, done.stderr
        assert error["code"] == "restore-not-declared"
        assert f"--component {component} --target FOLDER" in error["next"]


def test_a_component_that_the_stack_no_longer_has_is_not_said_to_be_restored(checkout: Checkout) -> None:
    whole = (checkout.folder / "stack.yaml").read_text()
    checkout.replace("stack.yaml", '    logs: {driver: logs, paths: ["logs/*.log"]}\n', "")
    try:
        done = checkout.invoke("backup.restore", "latest", "--component", "logs", "--force")
        aside = checkout.invoke("backup.restore", "latest", "--component", "logs", "--target", "../logs-of-then")
    finally:
        checkout.write("stack.yaml", whole)

    assert done.returncode == 2
    assert "[restore-not-declared]: logs of factory_daily_" in done.stderr
    assert aside.returncode == 0, aside.stderr
    assert [path.name for path in (checkout.folder.parent / "logs-of-then/logs").iterdir()] == ["app.log"]
    shutil.rmtree(checkout.folder.parent / "logs-of-then")
