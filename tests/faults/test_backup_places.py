"""backup.* on disks and with keys that are not as they should be: immutable, foreign, rotated, of another version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from conche.backup import manifest
from conche.backup.verify import check
from conche.vault import keys
from tests.backup.checkouts import Checkout, tree
from tests.surroundings import as_user, readable_toolkit

pytestmark = pytest.mark.process

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.create(tmp_path)


@pytest.fixture
def own_disk(tmp_path: Path) -> Iterator[Checkout]:
    """A checkout and its backups on an ext4 of the test's own, mounted noexec."""
    image, place = tmp_path / "ext4.img", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as stream:
        stream.truncate(160 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop,noexec", str(image), str(place)], check=True)
    yield Checkout.create(place / "inside")
    subprocess.run(["chattr", "-R", "-i", str(place)], check=False, capture_output=True)
    subprocess.run(["umount", str(place)], check=True)


def left(checkout: Checkout) -> list[str]:
    """What a command has left half done."""
    kept = {path.name for path in (checkout.folder / ".backup").glob("pre-restore-*")}
    own = [path.name for path in (checkout.folder / ".backup").glob("*") if path.name not in kept]
    own = [name for name in own if not (kept and (name == "aside.json" or name.startswith("restored-")))]
    building = [path.name for path in checkout.target.glob(".store/building-*")]
    return [*(name for name in own if name != ".gitignore"), *building]


@ROOT_ONLY
def test_an_immutable_folder_takes_the_whole_restore_back(own_disk: Checkout) -> None:
    checkout = own_disk
    folder = checkout.create_backup()
    checkout.write("src/app/main.py", "print('later')\n")
    checkout.write("models/prophet_1.pkl", "later")
    before = tree(checkout.folder, without=(".backup",))
    words = ("backup.restore", folder.name, "--force", "--component", "code", "--component", "models")

    subprocess.run(["chattr", "+i", str(checkout.folder / "models")], check=True)
    refused = checkout.invoke(*words)
    subprocess.run(["chattr", "-i", str(checkout.folder / "models")], check=True)

    assert (refused.returncode, "restore-taken-back" in refused.stderr) == (4, True), refused.stderr
    assert "Operation not permitted" in refused.stderr
    assert tree(checkout.folder, without=(".backup",)) == before
    assert left(checkout) == []
    done = checkout.invoke(*words)
    assert done.returncode == 0, done.stderr
    assert (checkout.folder / "models/prophet_1.pkl").read_text() == "model one"
    assert os.access(checkout.folder / "scripts/run.sh", os.R_OK)  # noexec: nothing here has to be run


@ROOT_ONLY
def test_an_immutable_target_is_named(own_disk: Checkout) -> None:
    old = own_disk.create_backup()
    subprocess.run(["chattr", "+i", str(own_disk.target / "daily")], check=True)
    refused = own_disk.invoke("backup.create")
    subprocess.run(["chattr", "-i", str(own_disk.target / "daily")], check=True)

    assert (refused.returncode, "target-unwritable" in refused.stderr) == (2, True), refused.stderr
    assert str(own_disk.target) in refused.stderr
    assert own_disk.backups() == [old]
    assert left(own_disk) == []


@ROOT_ONLY
def test_a_target_of_another_user_is_named(checkout: Checkout, tmp_path: Path) -> None:
    old = checkout.create_backup()
    for path in (tmp_path, checkout.folder, *checkout.folder.rglob("*")):
        os.chown(path, 54321, 54321, follow_symlinks=False)
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 54321, 54321)
    folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"), str(state))
    before = tree(checkout.folder)

    refused = subprocess.run(
        [*as_user(54321, tmp_path, needed=[tmp_path]), sys.executable, "-m", "invoke", "backup.create"],
        cwd=checkout.folder,
        env=checkout.environment(**readable_toolkit(tmp_path), **folders),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (refused.returncode, "target-unwritable" in refused.stderr) == (2, True), refused.stderr
    assert tree(checkout.folder) == before
    assert check(old, manifest.read(old)) == []


def test_backups_from_before_and_after_a_rotation_open_with_the_recovery_key(checkout: Checkout) -> None:
    first = checkout.create_backup()
    rotated = checkout.invoke("secrets.rotate", "--identity", "--finish")
    assert rotated.returncode == 0, rotated.stderr
    second = checkout.create_backup()
    recovery = pyrage.x25519.Identity.from_str(checkout.recovery.read_text().strip())
    opened = [pyrage.decrypt((one / "secrets/age-key.txt").read_bytes(), [recovery]) for one in (first, second)]
    assert opened[0] != opened[1]

    for folder, key in zip((first, second), opened, strict=True):
        shutil.rmtree(checkout.folder / ".sops")
        words = ("backup.restore", folder.name, "--component", "secrets", "--force")
        without = checkout.invoke(*words)
        public = keys.public_of(key.decode().strip())
        other = checkout.invoke(*words, "--recovery-key", str(checkout.recovery))
        done = checkout.invoke(*words, "--recovery-key", str(checkout.recovery), "--accept-key", public)

        assert (without.returncode, "recovery-key-needed" in without.stderr) == (8, True), without.stderr
        # .sops.yaml is from after the rotation at first, and then from before it.
        assert (other.returncode, f"--accept-key {public}" in other.stderr) == (2, True), other.stderr
        assert done.returncode == 0, done.stderr
        listed = checkout.invoke("secrets.list")
        assert listed.returncode == 0, listed.stderr


@pytest.mark.parametrize("content", ["", "# only a comment\n", "AGE-SECRET-KEY-1GARBAGE\n", "\udcff\udcfe"])
def test_a_recovery_key_that_is_none_is_refused_before_anything(checkout: Checkout, content: str) -> None:
    folder = checkout.create_backup()
    shutil.rmtree(checkout.folder / ".sops")
    checkout.recovery.write_bytes(content.encode(errors="surrogateescape"))
    before = tree(checkout.folder)

    refused = checkout.invoke("backup.restore", folder.name, "--force", "--recovery-key", str(checkout.recovery))

    assert (refused.returncode, "recovery-key-wrong" in refused.stderr) == (8, True), refused.stderr
    assert tree(checkout.folder) == before


@pytest.mark.parametrize("recipients", ["age1garbage", "ssh-rsa", "not a key"])
def test_recipients_that_are_none_are_refused_before_anything(checkout: Checkout, recipients: str) -> None:
    text = (checkout.folder / "stack.yaml").read_text()
    checkout.write("stack.yaml", re.sub(r"recipients: \[.*\]", f"recipients: [{recipients}]", text))

    refused = checkout.invoke("backup.create")

    assert (refused.returncode, "not-a-recipient-line" in refused.stderr) == (2, True), refused.stderr
    assert not checkout.target.exists()


@pytest.mark.parametrize("schema", ["conche-backup/0", "conche-backup/3"])
def test_a_backup_of_another_version_says_so(checkout: Checkout, schema: str) -> None:
    folder = checkout.create_backup()
    other = manifest.read(folder).model_copy(update={"schema_": schema})
    (folder / manifest.FILE).write_bytes(other.render())
    before = tree(checkout.folder)

    listed = checkout.invoke("backup.list")
    verified = checkout.invoke("backup.verify")
    refused = checkout.invoke("backup.restore", folder.name, "--force")

    assert listed.returncode == 0, listed.stderr
    assert (verified.returncode, schema in verified.stdout) == (1, True)
    assert (refused.returncode, "manifest-schema-unknown" in refused.stderr) == (1, True), refused.stderr
    assert {n: v for n, v in tree(checkout.folder).items() if not n.startswith(".backup")} == before
    assert checkout.invoke("backup.prune").returncode == 0
    assert checkout.backups() == [folder]


@pytest.mark.parametrize(("program", "name"), [("zstd", "src.tar.zst"), ("zstd", "src.tar.gz"), ("xz", "src.tar.xz")])
def test_an_old_archive_of_another_program_is_named_with_what_to_type(
    checkout: Checkout, program: str, name: str
) -> None:
    begin = {"zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\0"}[program]
    old = checkout.target / "daily/factory_daily_20251022_020000"
    (old / "code").mkdir(parents=True)
    (old / "code" / name).write_bytes(begin + bytes(40))

    verified = checkout.invoke("backup.verify")
    refused = checkout.invoke("backup.restore", old.name, "--component", "code", "--force")

    assert verified.returncode == 1
    assert f"{name} was compressed by {program}" in verified.stdout
    assert (refused.returncode, "archive-not-gzip" in refused.stderr) == (1, True), refused.stderr
    assert f"{program} -dc" in refused.stderr


def test_an_old_archive_of_many_gzip_members_is_restored(checkout: Checkout) -> None:
    """As pigz --independent and concatenated files give it."""
    old = checkout.target / "daily/factory_daily_20251022_020000"
    (old / "code").mkdir(parents=True)
    packed = subprocess.run(
        ["tar", "-cf", "-", "-C", str(checkout.folder), "./src"], capture_output=True, check=True
    ).stdout
    with (old / "code/src.tar.gz").open("wb") as stream:
        for place in range(0, len(packed), 100_000):
            part = subprocess.run(["gzip"], input=packed[place : place + 100_000], capture_output=True, check=True)
            stream.write(part.stdout)
    checkout.write("src/app/main.py", "spoiled")

    done = checkout.invoke("backup.restore", old.name, "--component", "code", "--force")

    assert done.returncode == 0, done.stderr
    assert (checkout.folder / "src/app/main.py").read_text() == "print('one')\n"
