"""backup.* in a world that is not as it should be: full disks, other commands, missing links, hands of users."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.backup import manifest
from conche.backup.verify import check
from conche.files import lock
from tests import warm
from tests.backup.checkouts import Checkout, tree
from tests.backup.test_prune import aged
from tests.faults.faulted import Server
from tests.surroundings import as_user, readable_toolkit

pytestmark = pytest.mark.process

INVOKE = (sys.executable, "-m", "invoke")
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.create(tmp_path)


def damage(folder: Path) -> list[object]:
    return [*check(folder, manifest.read(folder))]


@pytest.fixture
def small_disk(checkout: Checkout) -> Iterator[Path]:
    """The target on a file system of 24 MB, with few inodes."""
    checkout.target.mkdir()
    options = "size=24m,nr_inodes=200"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(checkout.target)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield checkout.target
    subprocess.run(["umount", str(checkout.target)], check=True)


@ROOT_ONLY
def test_a_full_disk_leaves_the_old_ones_and_lets_prune_make_room(checkout: Checkout, small_disk: Path) -> None:
    checkout.replace("stack.yaml", "backup:\n", "backup:\n  retention: {daily: {days: 7, least: 1}}\n")
    old = [aged(checkout.create_backup(), days) for days in (20, 10)]
    assert checkout.invoke("backup.verify").returncode == 0
    (checkout.folder / "src/big.bin").write_bytes(os.urandom(30_000_000))
    full = checkout.invoke("backup.create")
    ballast = ["dd", "if=/dev/zero", f"of={small_disk / 'ballast'}", "bs=64k"]
    assert b"No space left" in subprocess.run(ballast, check=False, capture_output=True).stderr
    brim = checkout.invoke("backup.create")
    pruned = checkout.invoke("backup.prune")

    assert (full.returncode, "target-full" in full.stderr) == (2, True), full.stderr
    assert (brim.returncode, "Traceback" in brim.stderr) == (2, False), brim.stderr
    assert pruned.returncode == 0, pruned.stderr
    assert checkout.backups() == [old[1]]
    assert damage(old[1]) == []
    assert not list((small_disk / ".store").glob("building-*"))


@ROOT_ONLY
def test_a_disk_without_inodes_is_a_full_disk(checkout: Checkout, small_disk: Path) -> None:
    checkout.create_backup()
    for number in range(250):
        (checkout.folder / f"models/{number}.pkl").write_text(str(number))

    refused = checkout.invoke("backup.create")

    assert (refused.returncode, "target-full" in refused.stderr) == (2, True), refused.stderr
    assert [damage(folder) for folder in checkout.backups()] == [[]]
    assert checkout.invoke("backup.verify").returncode == 0


def test_where_there_are_no_hard_links_copies_are_made(checkout: Checkout, server: Server) -> None:
    first = checkout.create_backup()

    code = server.run(checkout, "backup.create", fault="no-links")

    assert code == 0, server.said
    assert "has no hard links" in server.said
    second = checkout.backups()[-1]
    assert second != first
    assert damage(second) == []
    assert (second / "models/prophet_1.pkl").stat().st_nlink == 1


def test_the_target_may_be_on_another_file_system(checkout: Checkout) -> None:
    elsewhere = Path("/dev/shm") / f"conche-{os.getpid()}"
    checkout.replace("stack.yaml", "backup:\n", f"backup:\n  target: {elsewhere}\n")
    try:
        made = checkout.invoke("backup.create")
        checkout.write("src/app/main.py", "spoiled")
        done = checkout.invoke("backup.restore", "latest", "--force")
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)

    assert (made.returncode, done.returncode) == (0, 0), made.stderr + done.stderr
    assert (checkout.folder / "src/app/main.py").read_text() == "print('one')\n"


@pytest.mark.parametrize(
    "words",
    [
        ("backup.create",),
        ("backup.prune",),
        ("backup.verify",),
        ("backup.restore", "latest", "--force"),
        ("backup.drill",),
    ],
    ids=lambda words: words[0],
)
def test_while_another_command_is_at_work_they_refuse(checkout: Checkout, words: tuple[str, ...]) -> None:
    checkout.create_backup()
    before = tree(checkout.folder)
    script = (
        "import pathlib, sys, conche.files as f\n"
        "with f.lock('backup', 'the other one', folder=pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", script, str(checkout.target / ".store")]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=checkout.environment()
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        if words[0] == "backup.create":
            refused = checkout.invoke(*words)
            assert (refused.returncode, "the other one" in refused.stderr) == (7, True), refused.stderr
        reading = [checkout.invoke(task).returncode for task in ("backup.list", "backup.status")]
        other.send_signal(signal.SIGKILL)
    done = checkout.invoke(*words)

    assert reading == [0, 0]
    assert done.returncode == 0, done.stderr
    assert tree(checkout.folder, without=(".backup",)) == {
        name: value for name, value in before.items() if not name.startswith(".backup")
    }


def test_two_at_once_one_waits_for_the_other(checkout: Checkout) -> None:
    argv = [sys.executable, "-m", "invoke", "backup.create", "--wait", "600"]
    both = [
        warm.Popen[str](argv, cwd=checkout.folder, env=checkout.environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    said = [one.communicate()[1] for one in both]

    assert [one.returncode for one in both] == [0, 0], said
    assert len(checkout.backups()) == 2
    assert [damage(folder) for folder in checkout.backups()] == [[], []]


def test_a_lock_dies_with_its_holder(checkout: Checkout) -> None:
    store = checkout.target / ".store"
    store.mkdir(parents=True)
    with lock("backup", "a command", folder=store):
        held = checkout.invoke("backup.create")
    freed = checkout.invoke("backup.create")

    assert (held.returncode, freed.returncode) == (7, 0)


def test_what_users_do_by_hand_does_not_hurt_the_others(checkout: Checkout, tmp_path: Path) -> None:
    first, second, third = (checkout.create_backup() for _ in range(3))
    shutil.rmtree(third)
    shutil.rmtree(checkout.target / ".store")
    copied = tmp_path / "another host"
    shutil.copytree(checkout.target, copied / "factory-backups", symlinks=True)

    verified = checkout.invoke("backup.verify")
    checkout.replace("stack.yaml", "backup:\n", f"backup:\n  target: {copied / 'factory-backups'}\n")
    restored = checkout.invoke("backup.restore", second.name, "--force")
    again = checkout.invoke("backup.create")

    assert verified.returncode == 0, verified.stderr
    assert restored.returncode == 0, restored.stderr
    assert again.returncode == 0, again.stderr
    assert damage(first) == []


def test_a_copied_or_renamed_backup_is_no_backup_of_that_name(checkout: Checkout) -> None:
    folder = checkout.create_backup()
    shutil.copytree(folder, folder.with_name("factory_daily_20200101_000000"), symlinks=True)
    listed = checkout.json("backup.list")

    # It is in the list, by the time in its manifest; the name does not make it old.
    assert len(listed) == 2
    assert checkout.invoke("backup.prune").returncode == 0
    assert len(checkout.backups()) == 2


@ROOT_ONLY
def test_one_that_cannot_be_deleted_is_said_and_the_others_stay(checkout: Checkout) -> None:
    checkout.replace("stack.yaml", "backup:\n", "backup:\n  retention: {daily: {days: 7, least: 1}}\n")
    # Both before they are aged: a create prunes what is old.
    old, newer = checkout.create_backup(), checkout.create_backup()
    old, newer = aged(old, 20), aged(newer, 10)
    assert checkout.invoke("backup.verify").returncode == 0
    done = subprocess.run(["chattr", "+i", str(old / "MANIFEST.txt")], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    try:
        refused = checkout.invoke("backup.prune")
    finally:
        for path in checkout.target.rglob("MANIFEST.txt"):
            subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)

    assert refused.returncode in (0, 2)
    assert "Traceback" not in refused.stderr
    assert damage(newer) == []
    assert checkout.invoke("backup.prune").returncode == 0
    assert checkout.backups() == [newer]


@ROOT_ONLY
def test_what_this_user_may_not_read_is_named_and_degrades(checkout: Checkout, tmp_path: Path) -> None:
    for path in (tmp_path, checkout.folder, *checkout.folder.rglob("*")):
        os.chown(path, 54321, 54321, follow_symlinks=False)
    os.chown(checkout.folder / "src/app/main.py", 0, 0)
    (checkout.folder / "src/app/main.py").chmod(0o600)
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 54321, 54321)
    folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"), str(state))

    done = subprocess.run(
        [*as_user(54321, tmp_path, needed=[tmp_path]), sys.executable, "-m", "invoke", "backup.create"],
        cwd=checkout.folder,
        env=checkout.environment(**readable_toolkit(tmp_path), **folders),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 3, done.stderr
    assert "code: src/app/main.py cannot be read: Permission denied" in done.stdout
    assert [damage(folder) for folder in checkout.backups()] == [[]]
