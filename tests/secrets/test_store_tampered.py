"""secrets, the store: whatever was done to the file, its recipients or the key is found before a write."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Callable

import pytest
import yaml

from conche.errors import ConcheError, KeyUnusable
from conche.vault import keys
from conche.vault.recipients import write_recipients
from conche.vault.store import TEMPORARY, Store
from tests.secrets.test_store import STRANGER, VALUES, made, plain, put, template, value_of

__all__ = ["made", "template"]


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
