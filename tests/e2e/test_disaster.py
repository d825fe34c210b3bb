"""The server is gone: from a bare clone, one backup folder and the recovery key, everything is there again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backup.checkouts import Checkout, tree

pytestmark = pytest.mark.e2e


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_from_a_clone_one_folder_and_the_recovery_key(tmp_path: Path) -> None:
    server = Checkout.create(tmp_path / "server")
    assert server.invoke("secrets.set", "alpha", stdin="the value of alpha").returncode == 0
    git(server.folder, "init", "--initial-branch", "main")
    git(server.folder, "add", "stack.yaml", "tasks.py", "compose.yaml", ".gitignore", "scripts", "src/app")
    git(server.folder, "commit", "--message", "all there is in git")
    git(tmp_path, "clone", "--bare", str(server.folder), "bare.git")
    backup = server.create_backup()
    lost = tree(server.folder, without=(".git", ".backup", ".sops", "src/.env"))
    usb = tmp_path / "usb"
    usb.mkdir()
    shutil.copytree(backup, usb / backup.name, symlinks=True)
    shutil.copy(server.recovery, usb / "recovery.key")
    shutil.rmtree(tmp_path / "server")

    home = tmp_path / "new"
    home.mkdir()
    git(home, "clone", str(tmp_path / "bare.git"), "factory")
    fresh = Checkout(home / "factory", usb / "recovery.key")
    (fresh.target / "daily").mkdir(parents=True)
    shutil.copytree(usb / backup.name, fresh.target / "daily" / backup.name, symlinks=True)
    without_key = fresh.invoke("backup.restore", "latest", "--force")
    words = ("backup.restore", "latest", "--force", "--recovery-key", str(usb / "recovery.key"))
    # This clone has no .sops.yaml, so nothing here says that the key is ours.
    unknown = fresh.invoke(*words)
    [accepted] = set(re.findall(r"--accept-key (age1\w+)", unknown.stderr))
    done = fresh.invoke(*words, "--accept-key", accepted)

    assert (without_key.returncode, "recovery-key-needed" in without_key.stderr) == (8, True), without_key.stderr
    assert (unknown.returncode, "key-not-accepted" in unknown.stderr) == (2, True), unknown.stderr
    assert done.returncode == 0, done.stderr
    assert fresh.invoke("secrets.get", "alpha").stdout == "the value of alpha"
    assert (fresh.folder / ".sops/age-key.txt").stat().st_mode & 0o777 == 0o600
    found = tree(fresh.folder, without=(".git", ".backup", ".sops", "src/.env"))
    assert {name: value for name, value in lost.items() if found.get(name) != value} == {
        # In no component: git has it.
        name: lost[name]
        for name in lost
        if name in (".gitignore", "tasks.py", "stack.yaml") and found.get(name) != lost[name]
    }
    assert fresh.invoke("backup.create").returncode == 0


def test_a_user_s_day_with_the_old_names(tmp_path: Path) -> None:
    checkout = Checkout.create(tmp_path)
    (checkout.folder / "scripts").mkdir(exist_ok=True)
    source = Path(__file__).parents[2] / "scripts"
    for name in ("backup.sh", "restore.sh", "backup-verify.sh", "setup-cron-backups.sh"):
        shutil.copy(source / name, checkout.folder / "scripts" / name)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=checkout.folder, env=checkout.environment(), capture_output=True, text=True, check=False
        )

    unasked = call("scripts/setup-cron-backups.sh")
    made = call("scripts/backup.sh", "weekly")
    [folder] = checkout.backups()
    listed = call("scripts/restore.sh")
    checkout.write("models/prophet_1.pkl", "spoiled")
    restored = call("scripts/restore.sh", folder.name, "--force")
    verified = call("scripts/backup-verify.sh", folder.name)

    assert [made.returncode, listed.returncode, restored.returncode, verified.returncode] == [0, 0, 0, 0], (
        restored.stderr
    )
    assert (unasked.returncode, unasked.stderr.split()[0], unasked.stdout) == (2, "Usage:", "")
    assert folder.parent.name == "weekly"
    assert folder.name in listed.stdout
    assert (checkout.folder / "models/prophet_1.pkl").read_text() == "model one"
    assert sys.executable
