"""backup.* as a user calls it, on the files of a checkout; containers are in test_engine.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pyrage
import pytest

from tests.backup.checkouts import Checkout, tree

pytestmark = pytest.mark.process


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.create(tmp_path)


def test_the_documented_layout_which_tar_alone_opens(checkout: Checkout, tmp_path: Path) -> None:
    folder = checkout.create_backup("weekly")

    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    assert re.fullmatch(r"factory_weekly_\d{8}_\d{6}", folder.name)
    assert folder.parent == checkout.target / "weekly"
    assert names == {
        "MANIFEST.txt", "manifest.json", "code/src.tar.gz", "code/scripts.tar.gz", "config/compose.yaml",
        "config/nginx.conf", "logs/app.log", "models/latest/prophet.pkl", "models/model_registry.json",
        "config/.conche-tree.tar.gz", "logs/.conche-tree.tar.gz", "models/.conche-tree.tar.gz",
        "models/prophet_1.pkl", "secrets/.sops.yaml", "secrets/age-key.txt", "secrets/secrets.enc.yaml",
    }  # fmt: skip
    assert (folder / "models/latest/prophet.pkl").resolve().read_text() == "model one"
    subprocess.run(["tar", "xzf", folder / "code/src.tar.gz", "-C", tmp_path], check=True)
    assert (tmp_path / "src/big.bin").read_bytes() == (checkout.folder / "src/big.bin").read_bytes()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}


def test_neither_env_files_nor_keys_get_into_archives(checkout: Checkout) -> None:
    key = (checkout.folder / ".sops/age-key.txt").read_text()
    checkout.write("src/app/notes.txt", f"do not lose: {key}")
    checkout.write("src/big-notes.txt", "x" * (1 << 20) + key)
    checkout.write("scripts/.env.local", "TOKEN=canary\n")
    checkout.write("scripts/.env.example", "TOKEN=\n")

    folder = checkout.create_backup()

    listed = "".join(
        subprocess.run(["tar", "tzf", path], capture_output=True, text=True, check=True).stdout
        for path in folder.glob("code/*.tar.gz")
    )
    assert ".env.example" in listed
    assert [line for line in listed.splitlines() if line.endswith((".env", ".env.local", "notes.txt"))] == []
    left = [one["why"] for one in json.loads((folder / "manifest.json").read_text())["components"]["code"]["left_out"]]
    assert left.count("holds a private age key") == 2
    identity = next(line for line in key.splitlines() if line.startswith("AGE-SECRET-KEY-"))
    assert not [path for path in folder.rglob("*") if path.is_file() and identity.encode() in path.read_bytes()]


def test_the_age_key_opens_with_the_recovery_key_and_with_no_other(checkout: Checkout) -> None:
    sealed = (checkout.create_backup() / "secrets/age-key.txt").read_bytes()

    recovery = pyrage.x25519.Identity.from_str(checkout.recovery.read_text().strip())
    opened = pyrage.decrypt(sealed, [recovery]).decode()
    assert opened.strip() in (checkout.folder / ".sops/age-key.txt").read_text()
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(opened.strip())])


def test_age_itself_opens_the_key(checkout: Checkout) -> None:
    if shutil.which("age") is None:
        pytest.skip("age is not installed")
    folder = checkout.create_backup()

    argv = ["age", "--decrypt", "-i", str(checkout.recovery), str(folder / "secrets/age-key.txt")]
    opened = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert opened.stdout.startswith("AGE-SECRET-KEY-1")


def test_without_a_recipient_nothing_is_begun(checkout: Checkout) -> None:
    checkout.write(
        "stack.yaml", re.sub(r"recipients: \[.*\]", "recipients: []", (checkout.folder / "stack.yaml").read_text())
    )

    refused = checkout.invoke("backup.create")
    short = checkout.invoke("backup.create", CONCHE_BACKUP_PASSPHRASE="short")
    by_passphrase = checkout.invoke("backup.create", CONCHE_BACKUP_PASSPHRASE="a long enough passphrase")
    plain = checkout.invoke("backup.create", "--plain-key")

    assert (refused.returncode, short.returncode) == (2, 2)
    assert "no-recovery-recipient" in refused.stderr
    assert "invoke backup.recovery-key" in refused.stderr
    assert (by_passphrase.returncode, plain.returncode) == (0, 0)
    first, second = (path / "secrets/age-key.txt" for path in checkout.backups())
    assert b"AGE-SECRET-KEY" in pyrage.passphrase.decrypt(first.read_bytes(), "a long enough passphrase")
    assert second.read_text().startswith("AGE-SECRET-KEY-1")


def test_the_key_itself_is_no_recovery_recipient(checkout: Checkout) -> None:
    own = checkout.json("secrets.recipients.list")
    public = re.search(r"age1[0-9a-z]{58}", json.dumps(own))
    assert public is not None
    checkout.write(
        "stack.yaml",
        re.sub(r"recipients: \[.*\]", f"recipients: [{public[0]}]", (checkout.folder / "stack.yaml").read_text()),
    )

    refused = checkout.invoke("backup.create")

    assert refused.returncode == 2
    assert "recovery-is-own-key" in refused.stderr


def test_a_recovery_key_is_made_apart_and_its_recipient_works(checkout: Checkout, tmp_path: Path) -> None:
    file = tmp_path / "usb.key"

    made = checkout.json("backup.recovery-key", str(file))
    again = checkout.invoke("backup.recovery-key", str(file))

    assert file.stat().st_mode & 0o777 == 0o600
    assert str(pyrage.x25519.Identity.from_str(file.read_text().splitlines()[-1]).to_public()) == made["recipient"]
    assert (again.returncode, "file-exists" in again.stderr) == (2, True)


def test_what_did_not_change_is_a_hard_link(checkout: Checkout) -> None:
    first = checkout.create_backup()
    checkout.write("src/app/main.py", "print('two')\n")
    second = checkout.create_backup()

    shared = {
        str(path.relative_to(second))
        for path in second.rglob("*")
        if path.is_file() and path.stat().st_ino == (first / path.relative_to(second)).stat().st_ino
    }
    assert {"models/prophet_1.pkl", "code/scripts.tar.gz", "secrets/secrets.enc.yaml"} <= shared
    assert "code/src.tar.gz" not in shared
    shutil.rmtree(first)
    assert checkout.invoke("backup.verify", "--deep").returncode == 0


def test_equal_files_and_what_was_missing_for_days_are_hard_links_too(checkout: Checkout) -> None:
    checkout.write("models/copy.pkl", "model one")
    first = checkout.create_backup()
    (checkout.folder / "models").rename(checkout.folder / "away")
    degraded = [checkout.invoke("backup.create") for _ in range(4)]
    (checkout.folder / "away").rename(checkout.folder / "models")
    last = checkout.create_backup()

    assert [done.returncode for done in degraded] == [3, 3, 3, 3]
    for name in ("models/prophet_1.pkl", "models/copy.pkl"):
        assert (last / name).samefile(first / name)


def test_a_rotten_file_is_not_linked_to(checkout: Checkout) -> None:
    first = checkout.create_backup()
    rotten = first / "models/prophet_1.pkl"
    rotten.write_text("model 0ne")

    second = checkout.create_backup()

    assert (second / "models/prophet_1.pkl").read_text() == "model one"
    verified = checkout.invoke("backup.verify", "--json")
    states = {one["name"]: one["state"] for one in json.loads(verified.stdout)["value"]}
    assert states == {first.name: "DAMAGED", second.name: "ok"}
    assert verified.returncode == 1


def test_a_flipped_byte_is_found_and_not_restored(checkout: Checkout) -> None:
    folder = checkout.create_backup()
    archive = folder / "code/src.tar.gz"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    before = tree(checkout.folder)

    verified = checkout.invoke("backup.verify", folder.name)
    refused = checkout.invoke("backup.restore", folder.name, "--force")
    other = checkout.invoke("backup.restore", folder.name, "--component", "models", "--force")

    assert verified.returncode == 1
    assert "code/src.tar.gz differs from what was written" in verified.stdout
    assert (refused.returncode, "backup-damaged" in refused.stderr) == (1, True)
    assert other.returncode == 0, other.stderr
    assert {n: v for n, v in tree(checkout.folder).items() if not n.startswith(".backup")} == before


def test_everything_comes_back_and_what_no_backup_holds_stays(checkout: Checkout) -> None:
    checkout.write("src/__pycache__/main.pyc", "cache")
    before = tree(checkout.folder, without=(".backup",))
    folder = checkout.create_backup()
    shutil.rmtree(checkout.folder / "models")
    shutil.rmtree(checkout.folder / "src/app")
    checkout.write("src/wrong.py", "wrong")
    checkout.write("src/.env", "TOKEN=newer\n")
    checkout.write("secrets.enc.yaml", "spoiled")

    done = checkout.invoke("backup.restore", folder.name, "--force", "--recovery-key", str(checkout.recovery))

    after = tree(checkout.folder, without=(".backup",))
    assert done.returncode == 0, done.stderr
    assert {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)} <= {
        "src/.env",
        ".sops/age-key.txt",
    }
    assert (checkout.folder / "src/.env").read_text() == "TOKEN=newer\n"
    assert (checkout.folder / ".sops/age-key.txt").read_text().startswith("# public key: age1")
    assert checkout.invoke("secrets.check").returncode in (0, 1)
    [kept] = (checkout.folder / ".backup").glob("pre-restore-*")
    assert (kept / "code/src/wrong.py").read_text() == "wrong"
    checkout.create_backup()
    assert list((checkout.folder / ".backup").glob("pre-restore-*")) == []


def test_a_restore_asks_and_lists(checkout: Checkout) -> None:
    folder = checkout.create_backup()
    before = tree(checkout.folder)

    listed = checkout.invoke("backup.restore")
    asked = checkout.invoke("backup.restore", folder.name)
    planned = checkout.invoke("backup.restore", folder.name, "--dry-run")
    wrong = checkout.invoke("backup.restore", folder.name[:-1] + "x", "--force")
    nothing = checkout.invoke("backup.restore", "latest", "--component", "modles", "--force")

    assert (listed.returncode, folder.name in listed.stdout) == (0, True)
    assert (asked.returncode, "--force" in asked.stderr) == (2, True)
    assert "exchange" in planned.stdout
    assert (wrong.returncode, f"Did you mean '{folder.name}'?" in wrong.stderr) == (6, True)
    assert (nothing.returncode, "Did you mean 'models'?" in nothing.stderr) == (6, True)
    assert tree(checkout.folder) == before


def test_into_a_folder_it_appears_whole_or_not_at_all(checkout: Checkout, tmp_path: Path) -> None:
    folder = checkout.create_backup()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()

    done = checkout.invoke("backup.restore", folder.name, "--target", str(tmp_path / "out"))
    refused = checkout.invoke("backup.restore", folder.name, "--target", str(tmp_path / "full"))

    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out/src") == tree(checkout.folder / "src", without=(".env",))
    assert tree(tmp_path / "out/models") == tree(checkout.folder / "models")
    assert (refused.returncode, "target-not-empty" in refused.stderr) == (2, True)


def test_show_diff_list_and_status_say_what_there_is(checkout: Checkout) -> None:
    nothing = checkout.invoke("backup.status")
    first = checkout.create_backup()
    checkout.write("models/new.pkl", "new")
    second = checkout.create_backup("monthly")

    changes = checkout.json("backup.diff", first.name, second.name)
    shown = checkout.json("backup.show", "latest")
    listed = checkout.json("backup.list")
    status = checkout.invoke("backup.status", "--json")

    assert nothing.returncode == 1
    # The same key encrypted again is another text.
    assert {one["path"]: one["change"] for one in changes} == {
        "models/new.pkl": "added", "models/.conche-tree.tar.gz": "changed", "secrets/age-key.txt": "changed",
    }  # fmt: skip
    assert shown["name"] == second.name
    assert [one["name"] for one in listed] == [second.name, first.name]
    assert all(one["verified"] and one["state"] == "complete" for one in listed)
    assert listed[0]["new"] < listed[0]["size"]
    assert status.returncode == 0
    assert {one["kind"]: one["state"] for one in json.loads(status.stdout)["value"]} == {
        "daily": "ok", "weekly": "none yet", "monthly": "ok",
    }  # fmt: skip


def test_what_is_missing_degrades_the_backup(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / "scripts")
    (checkout.folder / "compose.yaml").rename(checkout.folder / "elsewhere.yaml")
    checkout.replace("stack.yaml", "compose: [compose.yaml]", "compose: [elsewhere.yaml]")

    done = checkout.invoke("backup.create", "--json")

    assert done.returncode == 3
    value = json.loads(done.stdout)["value"]
    assert value["missing"] == ["config: compose.yaml is not there", "code: scripts is not there"]
    assert checkout.invoke("backup.verify").returncode == 0
    assert checkout.invoke("backup.status").returncode == 1


def test_a_backup_needs_no_git(checkout: Checkout, tmp_path: Path) -> None:
    """The revision is only nice to know."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep)[::-1]:
        for program in Path(folder).glob("*"):
            (programs / program.name).unlink(missing_ok=True)
            (programs / program.name).symlink_to(program)
    (programs / "git").unlink(missing_ok=True)

    done = checkout.invoke("backup.create", "--json", PATH=str(programs))

    assert done.returncode == 0, done.stderr
    made = Path(json.loads(done.stdout)["value"]["folder"])
    assert json.loads((made / "manifest.json").read_text())["revision"] == ""


def test_a_dry_run_writes_nothing(checkout: Checkout) -> None:
    done = checkout.invoke("backup.create", "weekly", "--dry-run")

    assert done.returncode == 0
    assert "component models" in done.stdout
    assert not checkout.target.exists()


@pytest.mark.parametrize("word", ["hourly", "dayly"])
def test_another_kind_is_refused(checkout: Checkout, word: str) -> None:
    refused = checkout.invoke("backup.create", word)

    assert (refused.returncode, "no-such-kind" in refused.stderr) == (2, True)


def test_without_a_section_it_says_what_to_do(tmp_path: Path) -> None:
    checkout = Checkout.create(tmp_path)
    text = (checkout.folder / "stack.yaml").read_text()
    checkout.write("stack.yaml", re.sub(r"backup:\n(  .*\n)+", "", text))

    refused = checkout.invoke("backup.list")

    assert (refused.returncode, "no-backup-declared" in refused.stderr) == (2, True)


def test_a_target_that_cannot_be_written_is_said(checkout: Checkout) -> None:
    checkout.target.parent.joinpath("factory-backups").write_text("a file")

    refused = checkout.invoke("backup.create")

    assert (refused.returncode, "target-unwritable" in refused.stderr) == (2, True)
    assert "Traceback" not in refused.stderr


def test_a_drill_records_what_it_saw_and_leaves_nothing(checkout: Checkout) -> None:
    folder = checkout.create_backup()
    before = tree(checkout.folder)

    done = checkout.invoke("backup.drill", "--json")

    results = {one["component"]: one["well"] for one in json.loads(done.stdout)["value"]["results"]}
    assert done.returncode == 0, done.stderr
    assert results == dict.fromkeys(("all files", "models", "config", "secrets", "code", "logs"), True)
    assert checkout.json("backup.list")[0]["drilled"]
    assert tree(checkout.folder, without=(".backup",)) == before
    (folder / "logs/app.log").write_text("another")
    assert checkout.invoke("backup.drill").returncode == 1


def test_pings_and_notifications_go_out_and_their_failure_does_not_matter(checkout: Checkout) -> None:
    checkout.replace("stack.yaml", "backup:\n", "notifications: {to: [alpha]}\nbackup:\n  ping: ping_url\n")
    assert checkout.invoke("secrets.set", "ping_url", stdin="http://127.0.0.1:9/canary-url").returncode == 0
    assert checkout.invoke("secrets.set", "alpha", stdin="nonsense://canary-address").returncode == 0
    shutil.rmtree(checkout.folder / "scripts")

    done = checkout.invoke("backup.create")

    assert done.returncode == 3
    assert "the ping (start) could not be sent" in done.stderr
    assert "1 of 1 notification addresses are not known to Apprise" in done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_the_report_is_one_page_without_anything_to_load(checkout: Checkout) -> None:
    folder = checkout.create_backup()

    done = checkout.invoke("backup.report")

    text = (checkout.target / "report.html").read_text()
    assert done.returncode == 0, done.stderr
    assert folder.name in text
    assert "<script" not in text
    assert not re.search(r"(src|href)\s*=|url\(|@import", text)


def test_a_backup_of_the_old_script_can_be_listed_verified_and_restored(checkout: Checkout) -> None:
    old = checkout.target / "daily/factory_daily_20251022_020000"
    for name in ("models", "code", "config"):
        (old / name).mkdir(parents=True)
    (old / "MANIFEST.txt").write_text("Backup: old\n")
    shutil.copytree(checkout.folder / "models", old / "models", symlinks=True, dirs_exist_ok=True)
    argv = ["tar", "-I", "gzip", "-cf", str(old / "code/src.tar.gz"), "-C", str(checkout.folder), "./src"]
    subprocess.run(argv, check=True)
    before = tree(checkout.folder)
    checkout.write("models/prophet_1.pkl", "spoiled")
    checkout.write("src/app/main.py", "spoiled")

    verified = checkout.invoke("backup.verify")
    done = checkout.invoke("backup.restore", old.name, "--component", "models", "--component", "code", "--force")

    assert (verified.returncode, "readable, not hashed" in verified.stdout) == (0, True)
    assert done.returncode == 0, done.stderr
    after = tree(checkout.folder, without=(".backup",))
    assert {n for n in after if after[n] != before.get(n)} <= {"models"}
    with tarfile.open(old / "code/src.tar.gz") as archive:
        assert archive.getnames()[0] == "./src"


def test_foreign_names_and_links_are_no_backups(checkout: Checkout) -> None:
    folder = checkout.create_backup()
    daily = checkout.target / "daily"
    for name in (
        "notes",
        "other_daily_20200101_000000",
        "factory_weekly_20200101_000000",
        "factory_daily_20209901_000000",
    ):
        (daily / name).mkdir()
    (daily / "factory_daily_20200101_000000").symlink_to(folder)

    assert [one["name"] for one in checkout.json("backup.list")] == [folder.name]
    assert checkout.invoke("backup.prune").returncode == 0
    assert len(list(daily.iterdir())) == 6
