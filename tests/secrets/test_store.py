"""secrets, the store: what is in the file comes back as it was, and a change is whole or leaves no trace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.errors import ConcheError, KeyUnusable, Locked, Refused
from conche.secret import Secret
from conche.vault import encrypted, keys
from conche.vault import store as store_module
from conche.vault.recipients import write_recipients
from conche.vault.store import TEMPORARY, Edit, Store

VALUES = {"first": "value one", "second": "value two", "third": "007"}

STRANGER = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keys.Key]:
    """A folder with an encrypted file of three values, made once, and the key to it."""
    folder = tmp_path_factory.mktemp("template")
    secret, public = keys.generate()
    store = Store(folder, folder / "secrets.enc.yaml")
    write_recipients(folder, store.file, (public,))
    key = keys.Key("a test", secret, (public,))
    store.create({name: Secret(value) for name, value in VALUES.items()}, (public,), key, replace=False)
    return folder, key


@pytest.fixture
def made(template: tuple[Path, keys.Key], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An encrypted file of three values, and the key to it in the environment."""
    folder, key = template
    monkeypatch.setenv("SOPS_AGE_KEY", key.identities.reveal())
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (".sops.yaml", "secrets.enc.yaml"):
        shutil.copy2(folder / name, tmp_path)
    return Store(tmp_path, tmp_path / "secrets.enc.yaml")


def plain(store: Store) -> dict[str, str]:
    return {name: value.reveal() for name, value in store.read().items()}


def put(store: Store, **values: str) -> tuple[str, ...]:
    return store.change("a test", lambda _: Edit(put={name: Secret(value) for name, value in values.items()}))


def value_of(text: str, name: str) -> str:
    """What stands behind a name, in the file."""
    found = re.search(rf"^{name}: (.*)$", text, re.MULTILINE)
    assert found
    return found[1]


AWKWARD = {
    "newlines": "one\ntwo\r\nthree\n\n",
    "dollars": "a$b ${c} $$ $(id) `id`",
    "quotes": "'\"'\"\\'\\\"",
    "backslashes": "\\n \\\\ \\",
    "unicode": "schlüssel 🗝 \u2028 \u00a0 \ufeff \x7f\x85",
    "spaces": "  \t x \t ",
    "yaml": "{a: [b, !!binary x]} # no comment",
    "number": "12345678901234567890",
    "octal": "007",
    "float": "1.10",
    "date": "2024-01-01",
    "null": "null",
    "true": "true",
    "tilde": "~",
    "ciphertext": "ENC[AES256_GCM,data:x,iv:x,tag:x,type:str]",
    "empty": "",
    "nul": "a\0b",
}


def test_every_value_comes_back_as_it_was(made: Store) -> None:
    key = keys.require(made.root)
    made.create({name: Secret("before") for name in (*VALUES, *AWKWARD)}, key.public, key, replace=True)

    assert put(made, **AWKWARD) == tuple(sorted(AWKWARD))

    assert plain(made) == {**dict.fromkeys(VALUES, "before"), **AWKWARD}


def test_all_awkward_values_come_back_from_a_new_file_too(made: Store) -> None:
    values = {name: Secret(value) for name, value in AWKWARD.items()}
    key = keys.require(made.root)

    made.create(values, key.public, key, replace=True)

    assert plain(made) == AWKWARD


def test_a_value_of_a_mebibyte_comes_back_as_it_was(made: Store) -> None:
    value = os.urandom(1 << 19).hex()

    put(made, second=value)

    assert plain(made)["second"] == value


@pytest.mark.parametrize(
    "name", ["sops", "sops_token", "x_unencrypted", "A", "a-b", "a.b", "a b", "", "1a", "_a", "é", "a\n", 'a"]["b']
)
def test_a_name_that_sops_or_a_shell_would_mishandle_is_refused(made: Store, name: str) -> None:
    before = made.file.read_bytes()
    key = keys.require(made.root)

    with pytest.raises(Refused) as changed:
        made.change("a test", lambda _: Edit(put={name: Secret("x")}))
    with pytest.raises(Refused) as created:
        made.create({name: Secret("x")}, key.public, key, replace=True)

    assert {changed.value.code, created.value.code} == {"secret-name-unusable"}
    assert made.file.read_bytes() == before


def test_a_change_touches_only_its_own_line_and_the_metadata(made: Store) -> None:
    before = made.file.read_text().splitlines()

    put(made, second="new")

    after = made.file.read_text().splitlines()
    different = [line.split(":")[0].strip() for line, old in zip(after, before, strict=True) if line != old]
    assert set(different) <= {"second", "mac", "lastmodified"}
    assert "second" in different


def test_the_same_value_again_leaves_the_file_as_it_is(made: Store) -> None:
    before = (made.file.read_bytes(), made.file.stat().st_ino)

    assert put(made, second=VALUES["second"]) == ()
    assert made.change("a test", lambda _: Edit(drop=("absent",))) == ()

    assert (made.file.read_bytes(), made.file.stat().st_ino) == before


def test_values_are_put_and_dropped_in_one_change(made: Store) -> None:
    changed = made.change("a test", lambda _: Edit(put={"fourth": Secret("4")}, drop=("first", "second")))

    assert changed == ("first", "fourth", "second")
    assert plain(made) == {"third": "007", "fourth": "4"}


def test_the_mode_of_the_file_stays(made: Store) -> None:
    made.file.chmod(0o640)

    put(made, second="new")

    assert made.file.stat().st_mode & 0o777 == 0o640


def test_a_rotation_changes_every_line_and_no_value(made: Store) -> None:
    before = made.file.read_text()

    made.rotate("a test")

    after = made.file.read_text()
    assert plain(made) == VALUES
    assert [name for name in VALUES if value_of(before, name) == value_of(after, name)] == []


def test_an_existing_file_is_not_replaced_unasked(made: Store) -> None:
    before = made.file.read_bytes()
    key = keys.require(made.root)

    with pytest.raises(Refused) as refused:
        made.create({}, key.public, key, replace=False)

    assert refused.value.code == "secrets-file-exists"
    assert made.file.read_bytes() == before


def test_a_file_that_is_not_there_is_said_with_the_next_command(made: Store) -> None:
    made.file.unlink()

    with pytest.raises(Refused) as refused:
        made.read()

    assert (refused.value.code, refused.value.next_command) == ("secrets-file-missing", "invoke secrets.init")


def test_the_last_recipient_is_not_removed(made: Store) -> None:
    before = made.file.read_bytes()

    with pytest.raises(Refused) as refused:
        made.rotate("a test", remove=made.document().recipients[0])

    assert refused.value.code == "last-recipient"
    assert made.file.read_bytes() == before


def test_a_change_that_cannot_be_proven_by_the_key_meant_for_it_is_not_written(made: Store) -> None:
    before = made.file.read_bytes()
    secret, public = keys.generate()

    with pytest.raises(KeyUnusable):
        made.rotate("a test", prove=keys.Key("a test", secret, (public,)))

    assert made.file.read_bytes() == before
    assert not list(made.root.glob(f"{TEMPORARY}*"))


def test_what_somebody_changed_by_hand_meanwhile_is_not_overwritten(made: Store) -> None:
    def meanwhile(_: object) -> Edit:
        made.file.write_bytes(made.file.read_bytes() + b"# by hand\n")
        return Edit(put={"second": Secret("new")})

    with pytest.raises(Refused) as refused:
        made.change("a test", meanwhile)

    assert refused.value.code == "changed-meanwhile"
    assert made.file.read_text().endswith("# by hand\n")
    assert plain(made) == VALUES


def test_a_decision_that_fails_leaves_no_lock_and_no_trace(made: Store) -> None:
    before = made.file.read_bytes()

    def fails(_: object) -> Edit:
        raise Refused("no-way", "no")

    with pytest.raises(Refused):
        made.change("a test", fails)

    assert made.file.read_bytes() == before
    assert put(made, second="new") == ("second",)


def test_while_somebody_else_changes_it_a_change_says_who_and_what_for(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "WAIT", 0.0)
    before = made.file.read_bytes()

    with made.locked("a long talk"), pytest.raises(Locked) as refused:
        put(made, second="new")

    assert refused.value.status == 7
    assert f"process {os.getpid()}: a long talk" in refused.value.message
    assert made.file.read_bytes() == before
    assert put(made, second="new") == ("second",)


def test_reading_needs_no_lock(made: Store) -> None:
    with made.locked("a long talk"):
        assert plain(made) == VALUES


def test_a_reader_meanwhile_sees_one_whole_file_or_the_other(made: Store) -> None:
    seen: set[bytes] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.add(made.file.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(5):
            put(made, second=str(number))
    finally:
        ended.set()
        watcher.join()

    assert len(seen) > 1
    assert {encrypted.examine(content, made.file.name).names for content in seen} == {("first", "second", "third")}


def test_what_a_kill_left_is_swept_by_the_next_change(made: Store) -> None:
    left = made.root / f"{TEMPORARY}left"
    left.mkdir(mode=0o700)
    (left / made.file.name).write_text("ciphertext")
    (made.root / f".{made.file.name}.abcd1234").write_text("ciphertext")
    kept = made.root / f".{made.file.name}.swp"
    kept.write_text("an editor's")

    put(made, second="new")

    assert not left.exists()
    assert kept.exists()
    assert sorted(path.name for path in made.root.glob(f".{made.file.name}.*")) == [kept.name]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount one")
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file(made: Store, tiny: Path) -> None:
    for name in (".sops.yaml", "secrets.enc.yaml"):
        (tiny / name).write_bytes((made.root / name).read_bytes())
    store = Store(tiny, tiny / "secrets.enc.yaml")
    before = store.file.read_bytes()
    free = os.statvfs(tiny)

    for size in (free.f_bavail * free.f_bsize, free.f_bavail * free.f_bsize // 2, 20_000):
        with pytest.raises((ConcheError, OSError)) as full:
            put(store, second="x" * size)
        assert "full" in str(full.value) or "No space left" in str(full.value)
        assert store.file.read_bytes() == before
        assert sorted(path.name for path in tiny.iterdir()) == [".sops", ".sops.yaml", "secrets.enc.yaml"]

    assert put(store, second="new") == ("second",)
