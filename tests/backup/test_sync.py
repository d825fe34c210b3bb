"""backup.sync: a real restic repository in a folder, there and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from conche.backup.sync import Snapshot, superfluous
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


def test_of_each_kind_the_newest_are_kept_and_one_that_keeps_none_is_left_alone() -> None:
    def taken(kind: str, day: int) -> Snapshot:
        return Snapshot(f"{kind}{day}", f"factory_{kind}_{day}", kind, datetime(2026, 3, day, tzinfo=UTC))

    there = [taken(kind, day) for day in (9, 8, 7) for kind in KINDS]

    gone = superfluous(there, {"daily": 2, "weekly": 3, "monthly": 0})

    assert [one.id for one in gone] == ["daily7"]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
