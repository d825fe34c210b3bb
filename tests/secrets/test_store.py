"""secrets, the store: what is in the file comes back as it was, and whatever was done to it is found before a write."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

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


def flipped(part: str) -> Callable[[str], str]:
    """The first value with one byte of its data, iv or tag changed."""

    def change(text: str) -> str:
        value = value_of(text, "first")
        found = re.search(rf"{part}:([^,\]]+)", value)
        assert found
        content = bytearray(base64.b64decode(found[1]))
        content[0] ^= 1
        return text.replace(value, value.replace(found[1], base64.b64encode(content).decode()))

    return change


def swapped(text: str) -> str:
    one, two = value_of(text, "first"), value_of(text, "second")
    return text.replace(one, "@").replace(two, one).replace("@", two)


def without(pattern: str) -> Callable[[str], str]:
    """The text without what matches, which must be there."""

    def change(text: str) -> str:
        assert re.search(pattern, text, re.MULTILINE)
        return re.sub(pattern, "", text, count=1, flags=re.MULTILINE)

    return change


def injected(enc: str) -> Callable[[str], str]:
    """One recipient more, as somebody who has no key would write it."""

    def change(text: str) -> str:
        loaded = yaml.safe_load(text)
        loaded["sops"]["age"].append({"recipient": STRANGER, **({"enc": enc} if enc else {})})
        return yaml.safe_dump(loaded, sort_keys=False, width=10_000)

    return change


def in_metadata(**different: object) -> Callable[[str], str]:
    """Other values in the part that sops keeps for itself."""

    def change(text: str) -> str:
        loaded = yaml.safe_load(text)
        loaded["sops"].update(different)
        return yaml.safe_dump(loaded, sort_keys=False, width=10_000)

    return change


DAMAGE: dict[str, Callable[[str], str]] = {
    "a byte of the data": flipped("data"),
    "a byte of the tag": flipped("tag"),
    "a byte of the iv": flipped("iv"),
    "two values swapped": swapped,
    "a value copied to another name": lambda text: text.replace(value_of(text, "second"), value_of(text, "first")),
    "a name changed": lambda text: text.replace("first: ", "frist: "),
    "a name removed": without(r"^second: .*\n"),
    "the order of names": lambda text: "second: " + value_of(text, "second") + "\n" + without(r"^second: .*\n")(text),
    "plaintext for a value": lambda text: text.replace(value_of(text, "first"), "plain"),
    "a number for a value": lambda text: text.replace(value_of(text, "first"), "7"),
    "nothing for a value": lambda text: text.replace(value_of(text, "first"), '""'),
    "null for a value": lambda text: text.replace(value_of(text, "first"), "null"),
    "another type": lambda text: text.replace("type:str", "type:int", 1),
    "bytes for a type": lambda text: text.replace("type:str", "type:bytes", 1),
    "a name more, in clear": lambda text: "fourth: plain\n" + text,
    "a name more, unencrypted": lambda text: "fourth_unencrypted: plain\n" + text,
    "nothing at all": lambda _: "",
    "a newline": lambda _: "\n",
    "the first half": lambda text: text[: len(text) // 2],
    "the values only": lambda text: text[: text.index("sops:")],
    "all but the last 200": lambda text: text[:-200],
    "another document": lambda text: text + "---\nmore: 1\n",
    "a nested value": lambda text: "deep:\n    inner: " + value_of(text, "first") + "\n" + text,
    "a list": lambda text: "deep: [1]\n" + text,
    "a name twice": lambda text: "first: " + value_of(text, "second") + "\n" + text,
    "the metadata twice": lambda text: text + "sops: {}\n",
    "no MAC": without(r"^    mac: .*\n"),
    "an empty MAC": lambda text: re.sub(r"^    mac: .*$", '    mac: ""', text, flags=re.MULTILINE),
    "another MAC": lambda text: re.sub(
        r"(mac: ENC\[AES256_GCM,data:)(..)", lambda found: found[1] + ("AB" if found[2] == "AA" else "AA"), text
    ),
    "another time": in_metadata(lastmodified="2020-01-01T00:00:00Z"),
    "another suffix": in_metadata(unencrypted_suffix="first"),
    "a regular expression": in_metadata(unencrypted_suffix="", encrypted_regex="^first$"),
    "a MAC of less": in_metadata(mac_only_encrypted=True),
    "another kind of key": in_metadata(pgp=[{"fp": "0", "enc": "0"}]),
    "key groups": in_metadata(key_groups=[{"age": []}]),
    "a threshold": in_metadata(shamir_threshold=1),
    "no recipients": in_metadata(age=[]),
    "recipients that are none": in_metadata(age=["text"]),
    "no text": lambda text: text.replace("first", "\x00first"),
    "a sequence": lambda _: "- one\n- two\n",
    "no YAML": lambda text: "{" + text,
    "marks of a merge": lambda text: "<<<<<<< ours\n" + text + "=======\n" + text + ">>>>>>> theirs\n",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_file_that_was_tampered_with_is_neither_read_nor_written(made: Store, how: str) -> None:
    before = made.file.read_text()
    damaged = DAMAGE[how](before)
    made.file.write_text(damaged)
    assert damaged != before

    failures = []
    for action in (made.read, lambda: put(made, second="new"), lambda: made.rotate("a test")):
        with pytest.raises(ConcheError) as refused:
            action()
        failures.append(refused.value.status)

    assert failures == [8, 8, 8]
    assert made.file.read_text() == damaged
    assert not list(made.root.glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize(
    "how",
    [
        injected("junk"),
        injected(""),
        lambda text: re.sub(r"recipient: age1\w+", f"recipient: {STRANGER}", text),
        without(r"^ +(- )?recipient: .*\n"),
        lambda text: text.replace("recipient: age1", "recipient: AGE1"),
    ],
    ids=["added with junk", "added with nothing", "renamed", "removed", "in capitals"],
)
def test_a_recipient_that_sops_yaml_does_not_name_stops_every_change(made: Store, how: Callable[[str], str]) -> None:
    tampered = how(made.file.read_text())
    made.file.write_text(tampered)

    for action in (lambda: put(made, second="new"), lambda: made.rotate("a test"), lambda: made.rotate("x", add="y")):
        with pytest.raises(KeyUnusable) as refused:
            action()
        assert refused.value.code in {"recipients-differ", "secrets-damaged"}

    assert made.file.read_text() == tampered


@pytest.mark.parametrize(
    "how",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "# a comment in clear\n" + text,
        lambda text: re.sub(r"version: .*", "version: 3.0.0", text),
    ],
    ids=["CR at line ends", "a comment", "the version of sops"],
)
def test_a_change_that_sops_does_not_find_is_harmless(made: Store, how: Callable[[str], str]) -> None:
    made.file.write_text(how(made.file.read_text()), newline="")

    assert plain(made) == VALUES
    assert put(made, second="new") == ("second",)
    assert plain(made) == {**VALUES, "second": "new"}
    assert list(made.document().recipients) == list(keys.require(made.root).public)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        ("creation_rules: [", "is broken"),
        ("- a list", "is broken"),
        ("creation_rules: [{path_regex: '*', age: age1}]", "is broken"),
        ("creation_rules: []", "has no rule"),
        ("creation_rules: [{path_regex: other}]", "has no rule"),
        ("creation_rules: [{pgp: x}]", "has no rule"),
        ("", "has no rule"),
    ],
)
def test_a_sops_yaml_that_is_missing_broken_or_of_other_files_stops_a_change_but_no_reading(
    made: Store, content: str | None, said: str
) -> None:
    (made.root / ".sops.yaml").unlink()
    if content is not None:
        (made.root / ".sops.yaml").write_text(content)
    before = made.file.read_bytes()

    with pytest.raises(KeyUnusable, match=said) as refused:
        put(made, second="new")

    assert refused.value.code == "sops-config-unusable"
    assert made.file.read_bytes() == before
    assert plain(made) == VALUES


@pytest.mark.parametrize("tracked", [True, False])
def test_a_missing_sops_yaml_is_taken_from_git_only_if_git_has_it(made: Store, tracked: bool) -> None:
    git = ["git", "-C", str(made.root)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    if tracked:
        subprocess.run([*git, "add", ".sops.yaml"], check=True)
    (made.root / ".sops.yaml").unlink()

    with pytest.raises(KeyUnusable) as refused:
        put(made, second="new")

    first = "git checkout -- .sops.yaml" if tracked else "invoke secrets.init"
    assert refused.value.next_command.startswith(first)


@pytest.mark.parametrize("written", ["{}", "[{}]", "'{} '"], ids=["text", "list", "with a space"])
def test_recipients_in_sops_yaml_are_a_list_or_text(made: Store, written: str) -> None:
    public = made.document().recipients[0]
    rule = f"creation_rules:\n  - path_regex: secrets\n    age: {written.format(public)}\n"
    (made.root / ".sops.yaml").write_text(rule)

    assert put(made, second="new") == ("second",)


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ("", "key-missing"),
        ("AGE-SECRET-KEY-1GARBAGE", "key-malformed"),
        ("another", "key-not-a-recipient"),
    ],
)
def test_without_the_right_key_nothing_is_read_or_written(
    made: Store, monkeypatch: pytest.MonkeyPatch, environment: str, code: str
) -> None:
    given = keys.generate()[0].reveal() if environment == "another" else environment
    monkeypatch.setenv("SOPS_AGE_KEY", given)
    before = made.file.read_bytes()

    for action in (made.read, lambda: put(made, second="new"), lambda: made.rotate("a test")):
        with pytest.raises(KeyUnusable) as refused:
            action()
        assert refused.value.code == code
        assert not given or given not in str(refused.value.as_json())

    assert made.file.read_bytes() == before


def test_a_key_that_only_claims_to_be_a_recipient_is_refused_in_our_words(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, public = keys.generate()
    made.file.write_text(re.sub(r"recipient: age1\w+", f"recipient: {public}", made.file.read_text()))
    write_recipients(made.root, made.file, (public,))
    monkeypatch.setenv("SOPS_AGE_KEY", secret.reveal())

    with pytest.raises(KeyUnusable) as refused:
        made.read()

    assert refused.value.code == "key-not-a-recipient"
    assert "recipients.list" in refused.value.next_command


def test_a_good_key_elsewhere_does_not_hide_a_wrong_one(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    good = os.environ["SOPS_AGE_KEY"]
    for place in (made.root / ".config/sops/age/keys.txt", made.root / ".sops/age-key.txt"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(good)
        place.chmod(0o600)
    monkeypatch.setenv("SOPS_AGE_KEY", keys.generate()[0].reveal())

    with pytest.raises(KeyUnusable) as refused:
        made.read()

    assert refused.value.code == "key-not-a-recipient"


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
