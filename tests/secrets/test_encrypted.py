"""secrets, the document: what can be said of the encrypted file without a key."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
import yaml

from conche.errors import KeyUnusable
from conche.vault import encrypted

PEOPLE = ("age1aaa", "age1bbb")

ENCRYPTED = "ENC[AES256_GCM,data:eA==,iv:eA==,tag:eA==,type:str]"


def written(values: dict[str, object], **metadata: object) -> bytes:
    """A file as sops writes it, apart from what only a key could tell."""
    age = [{"recipient": one, "enc": "x"} for one in PEOPLE]
    whole = {"age": age, "lastmodified": "2026-01-01T00:00:00Z", "mac": ENCRYPTED, **metadata}
    return yaml.safe_dump({**values, "sops": whole}, sort_keys=False).encode()


def test_names_and_recipients_come_in_the_order_of_the_file() -> None:
    content = written({"zebra": ENCRYPTED, "ant": ENCRYPTED, "empty": ""})

    found = encrypted.examine(content, "secrets.enc.yaml")

    assert found == encrypted.EncryptedFile(
        content, ("zebra", "ant", "empty"), PEOPLE, datetime(2026, 1, 1, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xff\xfe", "is not YAML"),
        (b"a: [", "is not YAML"),
        (b"- a", "not one flat mapping"),
        (b"text", "not one flat mapping"),
        (b"a: 1\n---\nb: 2\n", "not one flat mapping"),
        (b"a: 1\na: 2\n", "has a twice"),
        (f"token: {ENCRYPTED}\n".encode(), "is truncated"),
        (written({"token": "plain"}), "has token unencrypted"),
        (written({"token": 7}), "has token unencrypted"),
        (written({"token": None}), "has token unencrypted"),
        (written({"token": ENCRYPTED + "x"}), "has token unencrypted"),
        (written({"token": ENCRYPTED.replace("str", "int")}), "not as text"),
        (written({"deep": {"inner": ENCRYPTED}}), "is not flat: deep is a dict"),
        (written({"deep": [ENCRYPTED]}), "is not flat: deep is a list"),
        (written({"Token": ENCRYPTED}), "has a name, number 1"),
        (written({"token_unencrypted": "x"}), "has a name, number 1"),
        (written({"token": ENCRYPTED}, mac=ENCRYPTED[:-9]), "is truncated"),
        (written({"token": ENCRYPTED}, lastmodified=""), "is truncated"),
        (written({"token": ENCRYPTED}, age="text"), "recipients that cannot be read"),
        (written({"token": ENCRYPTED}, age=[{}]), "recipients that cannot be read"),
        (written({"token": ENCRYPTED}, kms=[{}]), "more than age keys"),
        (written({"token": ENCRYPTED}, shamir_threshold=2), "more than age keys"),
    ],
)
def test_a_damaged_file_is_said_to_be_so_with_the_way_back(content: bytes, said: str) -> None:
    with pytest.raises(KeyUnusable) as refused:
        encrypted.examine(content, "secrets.enc.yaml")

    assert said in refused.value.message
    assert (refused.value.code, refused.value.status) == ("secrets-damaged", 8)
    kept, back = refused.value.next_command.splitlines()[-2:]
    assert (kept.partition("    #")[0], back) == ("cp -ip secrets.enc.yaml ~/", "git checkout -- secrets.enc.yaml")


@pytest.mark.parametrize("content", [b"token: plain\n", b"token: plain\nsops: yes\n", b"a: {b: plain}\n"])
def test_a_file_in_clear_is_encrypted_and_copied_nowhere_else(content: bytes) -> None:
    with pytest.raises(KeyUnusable, match="NOT ENCRYPTED") as refused:
        encrypted.examine(content, "secrets.enc.yaml")

    assert (refused.value.code, refused.value.status) == ("secrets-damaged", 8)
    assert (
        refused.value.next_command.splitlines()[-1] == "invoke secrets.encrypt /dev/shm/secrets.enc.clear.yaml --merge"
    )
    assert "~" not in refused.value.next_command


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (PEOPLE[:1], "lists age1bbb, which .sops.yaml does not"),
        ((*PEOPLE, "age1ccc"), ".sops.yaml lists age1ccc, which secrets.enc.yaml does not"),
        ((), "lists age1aaa, age1bbb"),
    ],
)
def test_recipients_that_differ_are_named(declared: tuple[str, ...], said: str) -> None:
    found = encrypted.examine(written({}), "secrets.enc.yaml")

    with pytest.raises(KeyUnusable) as refused:
        encrypted.require_same_recipients(found, declared, "secrets.enc.yaml")

    assert said in refused.value.message


def test_recipients_may_stand_in_another_order_and_not_twice() -> None:
    found = encrypted.examine(written({}), "secrets.enc.yaml")
    twice = replace(found, recipients=(*PEOPLE, PEOPLE[0]))

    encrypted.require_same_recipients(found, PEOPLE[::-1], "secrets.enc.yaml")
    with pytest.raises(KeyUnusable, match=f"lists {PEOPLE[0]}"):
        encrypted.require_same_recipients(twice, PEOPLE, "secrets.enc.yaml")


def typed(kind: str) -> str:
    return ENCRYPTED.replace("type:str", f"type:{kind}")


OTHERS: dict[str, object] = {
    "database": {"password": ENCRYPTED, "port": typed("int"), "tls": typed("bool"), "since": typed("time")},
    "hosts": [ENCRYPTED, {"name": ENCRYPTED, "weight": typed("float")}],
    "empty": "",
    "nothing": None,
    "none": {"here": {}, "there": []},
    "last": ENCRYPTED,
}
"""What sops makes of a file that was not written for it."""

PLACED: dict[tuple[str, ...], str] = {("last",): "last"}


def test_whatever_sops_encrypts_in_a_file_of_others_is_a_value() -> None:
    found = encrypted.examine(written(OTHERS), "app.yaml", PLACED)

    names = ["database_password", "database_port", "database_tls", "database_since", "hosts", "empty", "last"]
    assert list(found.names) == names


@pytest.mark.parametrize(
    "rule",
    [
        {"unencrypted_suffix": "_open"},
        {"encrypted_suffix": "_key"},
        {"encrypted_regex": "key$"},
        {"unencrypted_regex": "x"},
    ],
    ids=str,
)
def test_what_the_files_own_rules_leave_open_is_no_secret_unless_stack_yaml_names_it(rule: dict[str, str]) -> None:
    content = written({"app": {"the_key": ENCRYPTED, "port_open": 80, "hosts_open": ["a"]}}, **rule)

    unnamed = encrypted.examine(content, "app.yaml", {("app", "the_key"): "key"})
    named = encrypted.examine(content, "app.yaml", {("app", "port_open"): "port"})

    assert unnamed.names == ("key",)
    assert named.names == ("app_the_key", "port")


@pytest.mark.parametrize(
    "value", ["plain", 7, [ENCRYPTED, "plain"], {"name_open": ENCRYPTED, "name": "plain"}], ids=str
)
def test_what_no_rule_leaves_open_is_damage_also_in_a_file_of_others(value: object) -> None:
    with pytest.raises(KeyUnusable, match="unencrypted"):
        encrypted.examine(written({**OTHERS, "more": value}, unencrypted_suffix="_open"), "app.yaml", PLACED)


@pytest.mark.parametrize("level", ["{{k0: *{0}, k1: *{0}, k2: *{0}}}", "[*{0}, *{0}, *{0}]"])
def test_a_few_lines_of_aliases_are_refused_and_not_expanded(level: str) -> None:
    names = "abcdefghijklmnopqrst"
    lines = [f"{one}: &{one} {level.format(below)}\n" for below, one in pairwise(names)]
    text = f"a: &a {ENCRYPTED}\n{''.join(lines)}".encode() + written({"token": ENCRYPTED})

    with pytest.raises(KeyUnusable, match=r"has more than 10000 values|has \w unencrypted"):
        encrypted.examine(text, "app.yaml", PLACED)
