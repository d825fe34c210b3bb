"""backup.sync: a real restic repository in a folder, there and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from conche.backup import envelope, repository
from conche.backup.mac import KEYLESS
from conche.backup.manifest import Manifest
from conche.backup.repository import Repository
from conche.backup.snapshots import Snapshot, snapshot_of, superfluous
from conche.backup.sync import _kind_of
from conche.errors import CheckFailed
from conche.process import Captured, Completed
from conche.stack import KINDS
from tests.backup.checkouts import Checkout, tree

pytestmark = [pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed"), pytest.mark.process]

PASSWORD = "a password of the repository"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout.create(tmp_path)
    made.replace(
        "stack.yaml",
        "backup:\n",
        "backup:\n  offsite: {repository: ../elsewhere, password: restic_password, daily: 2}\n",
    )
    assert made.invoke("secrets.set", "restic_password", stdin=PASSWORD).returncode == 0
    return made


def test_there_and_back_bit_by_bit(checkout: Checkout) -> None:
    folder = checkout.create_backup()
    before = tree(folder)

    sent = checkout.json("backup.sync")
    again = checkout.json("backup.sync")
    shutil.rmtree(checkout.target)
    listed = checkout.json("backup.restore", "--from", "offsite")
    checkout.write("models/prophet_1.pkl", "spoiled")
    done = checkout.invoke("backup.restore", folder.name, "--from", "offsite", "--component", "models", "--force")

    assert (sent["sent"], again["sent"], listed) == ([folder.name], [], [folder.name])
    assert done.returncode == 0, done.stderr
    assert tree(folder) == before
    assert (checkout.folder / "models/prophet_1.pkl").read_text() == "model one"


def test_what_a_stranger_has_put_in_its_place_does_not_hide_a_backup_that_is_elsewhere(checkout: Checkout) -> None:
    assert checkout.invoke("backup.authenticate").returncode == 0
    folder = checkout.create_backup()
    sound = (folder / "manifest.json").read_bytes()
    assert checkout.json("backup.sync")["sent"] == [folder.name]
    said = {key: value for key, value in json.loads(sound).items() if key not in envelope.ADDED}
    (folder / "manifest.json").write_bytes(envelope.closed(said, KEYLESS))

    done = checkout.invoke("backup.restore", folder.name, "--from", "offsite", "--component", "models", "--force")

    assert done.returncode == 0, done.stderr
    assert (folder / "manifest.json").read_bytes() == sound


def test_nothing_but_the_manifest_is_fetched_of_what_it_does_not_prove(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the repository's password can put anything under the tags of a backup."""
    assert checkout.invoke("backup.authenticate").returncode == 0
    folder = checkout.create_backup()
    sound = (folder / "manifest.json").read_bytes()
    said = {key: value for key, value in json.loads(sound).items() if key not in envelope.ADDED}
    checkout.json("backup.sync")
    log = spied(tmp_path, monkeypatch)
    fetching = ("backup.restore", folder.name, "--from", "offsite", "--component", "models", "--force", "--json")

    exchanged(checkout, {"manifest.json": envelope.closed(said, KEYLESS), "models/more": bytes(1000)})
    shutil.rmtree(folder)
    forged = checkout.invoke(*fetching)
    exchanged(checkout, {"manifest.json": sound, "models/more": bytes(1000)})
    padded = checkout.invoke(*fetching)

    assert [json.loads(one.stdout)["error"]["code"] for one in (forged, padded)] == [
        "backup-unproven",
        "offsite-damaged",
    ]
    restored = [line for line in log.read_text().splitlines() if " restore " in line and f"{checkout.target}" in line]
    assert len(restored) == 2
    assert all("--include /manifest.json" in line for line in restored)


def spied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have everybody call restic through a script that writes down its arguments; return the file that has them."""
    log, real = folder / "called", shutil.which("restic")
    (folder / "bin").mkdir()
    (folder / "bin/restic").write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec {real} "$@"\n')
    (folder / "bin/restic").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    return log


def exchanged(checkout: Checkout, changed: dict[str, bytes]) -> None:
    """Put other files into the repository's only snapshot, under the tags that it has."""
    place, held = checkout.folder.parent / "elsewhere", checkout.folder.parent / "held"
    env = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(place)}

    def restic(*words: str) -> str:
        return subprocess.run(
            ["restic", "--no-cache", *words], cwd=held, check=True, capture_output=True, text=True, env=env
        ).stdout

    held.mkdir(exist_ok=True)
    [one] = json.loads(restic("snapshots", "--json"))
    restic("restore", one["id"], "--target", ".")
    for name, content in changed.items():
        (held / name).write_bytes(content)
    restic("backup", "--host", one["hostname"], *(word for tag in one["tags"] for word in ("--tag", tag)), ".")
    restic("forget", one["id"])


def test_a_small_change_costs_little_and_old_ones_are_forgotten(checkout: Checkout) -> None:
    (checkout.folder / "src/big.bin").write_bytes(os.urandom(4_000_000))
    for number in range(50):
        (checkout.folder / f"src/{number}.bin").write_bytes(os.urandom(50_000))
    checkout.create_backup()
    checkout.json("backup.sync")
    repository = checkout.folder.parent / "elsewhere"
    first = size(repository)
    for number in range(3):
        (checkout.folder / f"src/{number}.bin").write_bytes(os.urandom(50_000))
        checkout.create_backup()
        there = checkout.json("backup.sync")["there"]

    assert len(there) == 2
    assert size(repository) < first * 1.1


def test_another_password_a_missing_secret_and_no_section_are_said(checkout: Checkout) -> None:
    checkout.create_backup()
    assert checkout.invoke("backup.sync").returncode == 0
    assert checkout.invoke("secrets.set", "restic_password", stdin="another password").returncode == 0
    wrong = checkout.invoke("backup.sync")
    checkout.invoke("secrets.unset", "restic_password", "--yes")
    absent = checkout.invoke("backup.sync")
    checkout.replace("stack.yaml", "  offsite: {repository: ../elsewhere, password: restic_password, daily: 2}\n", "")
    undeclared = checkout.invoke("backup.sync")

    assert (wrong.returncode, "offsite-password-wrong" in wrong.stderr) == (8, True)
    assert (absent.returncode, "offsite-secret-missing" in absent.stderr) == (2, True)
    assert (undeclared.returncode, "no-offsite-declared" in undeclared.stderr) == (2, True)


def test_a_damaged_backup_is_not_sent(checkout: Checkout) -> None:
    folder = checkout.create_backup()
    (folder / "models/prophet_1.pkl").write_text("model 0ne")

    refused = checkout.invoke("backup.sync", "--json")

    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"]["code"] == "backup-damaged"


def test_without_the_toolkit_restic_and_cat_are_enough(checkout: Checkout, tmp_path: Path) -> None:
    (checkout.folder / "src/big.bin").write_bytes(os.urandom(3_000_000))
    folder = checkout.create_backup()
    checkout.json("backup.sync")

    argv = [
        "restic",
        "--no-cache",
        "--repo",
        str(tmp_path / "elsewhere"),
        "restore",
        "latest",
        "--target",
        str(tmp_path / "by-hand"),
    ]
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "RESTIC_PASSWORD": PASSWORD})
    pieces = sorted((tmp_path / "by-hand/code/src.tar.gz.pieces").glob("*/*"))

    assert len(pieces) > 2
    assert b"".join(piece.read_bytes() for piece in pieces) == (folder / "code/src.tar.gz").read_bytes()


@pytest.mark.parametrize(("name", "kind"), [("factory_daily_2", "daily"), ("factory_daily_1", "yearly")])
def test_what_calls_itself_otherwise_than_it_was_asked_for_is_not_taken(name: str, kind: str) -> None:
    made = Manifest(
        name=name, stack="factory", kind=kind, created=datetime(2026, 3, 1, tzinfo=UTC), seconds=1, complete=True,
        components={},
    )  # fmt: skip

    with pytest.raises(CheckFailed, match=f"says it is '{name}', '{kind}'"):
        _kind_of(made, "factory_daily_1", "elsewhere")


def test_of_each_kind_the_newest_are_kept_and_one_that_keeps_none_is_left_alone() -> None:
    def taken(kind: str, day: int) -> Snapshot:
        return Snapshot(f"{kind}{day}", f"factory_{kind}_{day}", kind, datetime(2026, 3, day, tzinfo=UTC))

    there = [taken(kind, day) for day in (9, 8, 7) for kind in KINDS]

    gone = superfluous(there, {"daily": 2, "weekly": 3, "monthly": 0})

    assert [one.id for one in gone] == ["daily7"]


def off_site(*rows: tuple[int, str, bool]) -> list[Snapshot]:
    """Daily snapshots: day of March, sound components, complete."""
    return [
        Snapshot(str(day), f"b{day}", "daily", datetime(2026, 3, day, tzinfo=UTC), complete, frozenset(parts))
        for day, parts, complete in rows
    ]


@pytest.mark.parametrize(
    ("there", "gone"),
    [
        (off_site((9, "ab", True), (8, "ab", True), (7, "ab", True)), ["7"]),
        (off_site((9, "a", False), (8, "a", False), (7, "a", False), (6, "ab", True)), []),
        (off_site((9, "a", True), (8, "a", True), (7, "ab", True), (6, "ab", True)), ["6"]),
        (off_site((20, "ab", True), (9, "a", True), (8, "b", True)), []),
        (off_site((20, "ab", True), (9, "a", True), (8, "a", True), (7, "b", True), (6, "a", True)), ["6"]),
        (off_site((9, "a", True), (8, "", False), (7, "a", True), (6, "", False)), ["6"]),
    ],
    ids=["all complete", "degraded", "a component that is no more", "future counts not", "nor does it pin", "mixed"],
)
def test_off_site_too_the_newest_good_one_of_each_component_stays(there: list[Snapshot], gone: list[str]) -> None:
    now = datetime(2026, 3, 10, tzinfo=UTC)

    assert [one.id for one in superfluous(there, {"daily": 2}, now)] == gone


def test_what_is_told_of_a_snapshot_is_kept_with_it() -> None:
    [sent] = off_site((9, "ab", False))
    listed = {"id": sent.id, "time": sent.time.isoformat(), "tags": list(sent.tags())}
    older = {**listed, "tags": ["name=b9", "kind=daily"]}

    assert snapshot_of(listed) == sent
    assert snapshot_of(older) == replace(sent, complete=True, sound=None)
    assert snapshot_of({**listed, "tags": ["mine"]}) is None


def test_degraded_ones_do_not_push_the_last_good_one_out_of_the_repository(checkout: Checkout) -> None:
    good = checkout.create_backup()
    assert checkout.json("backup.sync")["sent"] == [good.name]
    listed = restic(checkout, "snapshots", "--json")
    restic(checkout, "tag", "--set", f"name={good.name},kind=daily", json.loads(listed)[0]["id"])
    shutil.rmtree(checkout.folder / "models")
    degraded = []
    for _ in range(3):
        made = checkout.invoke("backup.create", "--json")
        assert made.returncode == 3
        degraded.append(json.loads(made.stdout)["value"]["name"])
        shutil.rmtree(good, ignore_errors=True)
        there = checkout.json("backup.sync")["there"]

    assert there == sorted([good.name, *degraded])
    checkout.write("models/prophet_1.pkl", "model two")
    checkout.write("models/model_registry.json", "{}")
    complete = [checkout.create_backup().name for _ in range(2)]
    assert checkout.json("backup.sync")["there"] == sorted(complete)


def restic(checkout: Checkout, *words: str) -> str:
    argv = ["restic", "--no-cache", "--repo", str(checkout.folder.parent / "elsewhere"), *words]
    environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD}
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=environment).stdout


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_password_in_an_address_is_in_no_list_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(argv: list[str], *, extra_env: dict[str, str], **_: object) -> Completed:
        seen.update(argv=argv, environment=extra_env)
        return Completed(tuple(argv), 0, Captured("[]"), Captured(""))

    monkeypatch.setattr(repository, "run", run)

    Repository("rest:https://user:canary@backups/", "shop", {}).snapshots()

    assert "canary" not in " ".join(seen["argv"])
    assert seen["environment"]["RESTIC_REPOSITORY"] == "rest:https://user:canary@backups/"
