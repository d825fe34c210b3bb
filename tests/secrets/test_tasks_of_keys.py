"""secrets.*, as a user calls them: who can read the file, what is compared, searched for and taken over."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from pyrage import passphrase

from conche.vault import keys
from tests.secrets.declared import Checkout, mode

pytestmark = pytest.mark.process


# rotate, recipients


def test_rotate_changes_the_data_key_and_no_value(checkout: Checkout) -> None:
    before = checkout.encrypted.read_text()

    checkout.ok("secrets.rotate")

    after = checkout.encrypted.read_text()
    assert re.findall(r"enc: \|.*?END", before, re.DOTALL) != re.findall(r"enc: \|.*?END", after, re.DOTALL)
    assert before.splitlines()[0] != after.splitlines()[0]
    assert checkout.ok("secrets.get", "api_key") == "the-value-of-api-key"


def test_a_new_identity_works_beside_the_old_one_until_that_is_removed(checkout: Checkout) -> None:
    old = checkout.key_file.read_text().splitlines()[-1]

    checkout.ok("secrets.rotate", "--identity")

    new = checkout.key_file.read_text().splitlines()[-1]
    assert old != new
    for identity in (old, new):
        assert checkout.ok("secrets.get", "api_key", SOPS_AGE_KEY=identity) == "the-value-of-api-key"
    checkout.ok("secrets.recipients.remove", keys.public_of(old))
    assert checkout.call("secrets.get", "api_key", SOPS_AGE_KEY=old).returncode == 8
    assert checkout.ok("secrets.get", "api_key", SOPS_AGE_KEY=new) == "the-value-of-api-key"
    assert mode(checkout.key_file) == 0o600


def test_a_finished_new_identity_takes_the_old_ones_place(checkout: Checkout) -> None:
    old = checkout.key_file.read_text().splitlines()[-1]

    checkout.ok("secrets.rotate", "--identity", "--finish")

    assert old not in checkout.key_file.read_text()
    assert checkout.call("secrets.get", "api_key", SOPS_AGE_KEY=old).returncode == 8
    assert checkout.ok("secrets.get", "api_key") == "the-value-of-api-key"
    assert keys.public_of(old) not in (checkout.folder / ".sops.yaml").read_text()
    checkout.ok("secrets.set", "api_key", stdin="and it goes on")


def test_rotate_value_makes_a_new_value(checkout: Checkout) -> None:
    checkout.ok("secrets.rotate-value", "db_password")

    assert re.fullmatch("[A-Za-z0-9]{24}", checkout.ok("secrets.get", "db_password"))


def test_rotate_value_leaves_a_value_that_a_server_keeps_and_says_how_that_makes_a_new_one(checkout: Checkout) -> None:
    kept = "generate: password, renew: 'make-one | invoke secrets.set db_password', services"
    checkout.small.replace("stack.yaml", "generate: password, services", kept)
    checkout.ok("secrets.unset", "db_password", "--yes")
    checkout.ok("secrets.set", "db_password", "--generate")  # the first one, with which the server begins
    checkout.ok("secrets.set", "db_password", stdin="the old one")

    checkout.small.write("made", "by the server")
    refused = checkout.call("secrets.rotate-value", "db_password", "--json")
    generated = checkout.call("secrets.set", "db_password", "--generate")
    before = checkout.ok("secrets.get", "db_password")
    checkout.ok("secrets.rotate-value", "db_password", "--from-file", "made")

    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["code"]) == (2, "value-kept-by-a-server")
    assert (generated.returncode, "error [value-kept-by-a-server]" in generated.stderr) == (2, True)
    assert error["next"] == "make-one | invoke secrets.set db_password"
    assert before == "the old one"
    assert checkout.ok("secrets.get", "db_password") == "by the server"


def test_a_recipient_can_read_from_when_it_is_added_to_when_it_is_removed(checkout: Checkout) -> None:
    secret, public = keys.generate()
    theirs = secret.reveal()
    assert checkout.call("secrets.get", "api_key", SOPS_AGE_KEY=theirs).returncode == 8

    checkout.ok("secrets.recipients.add", public)
    checkout.ok("secrets.recipients.add", public)

    assert checkout.ok("secrets.get", "api_key", SOPS_AGE_KEY=theirs) == "the-value-of-api-key"
    listed = json.loads(checkout.ok("secrets.recipients.list", "--json"))["value"]
    assert [row["recipient"] for row in listed].count(public) == 1
    assert {row["file"] for row in listed} == {row["declared"] for row in listed} == {True}
    checkout.ok("secrets.recipients.remove", public)
    assert checkout.call("secrets.get", "api_key", SOPS_AGE_KEY=theirs).returncode == 8
    assert public not in checkout.encrypted.read_text() + (checkout.folder / ".sops.yaml").read_text()


def test_a_kill_between_the_file_and_sops_yaml_is_mended_by_the_same_command(checkout: Checkout) -> None:
    config, public = checkout.folder / ".sops.yaml", keys.generate()[1]
    before = config.read_bytes()
    checkout.ok("secrets.recipients.add", public)
    added = config.read_bytes()

    config.write_bytes(before)
    assert checkout.call("secrets.rotate").returncode == 8
    checkout.ok("secrets.recipients.add", public)
    assert config.read_bytes() == added
    checkout.ok("secrets.recipients.remove", public)
    config.write_bytes(added)
    assert checkout.call("secrets.rotate").returncode == 8
    checkout.ok("secrets.recipients.remove", public)

    checkout.ok("secrets.rotate")
    assert public not in checkout.encrypted.read_text() + config.read_text()


def test_neither_the_last_recipient_nor_oneself_is_removed_unasked(checkout: Checkout) -> None:
    mine = keys.public_of(checkout.key_file.read_text().splitlines()[-1])
    before = checkout.encrypted.read_bytes()
    last = checkout.call("secrets.recipients.remove", mine, "--force")
    assert (last.returncode, checkout.encrypted.read_bytes()) == (2, before)
    secret, public = keys.generate()
    checkout.ok("secrets.recipients.add", public)

    assert checkout.call("secrets.recipients.remove", mine).returncode == 2
    checkout.ok("secrets.recipients.remove", mine, "--force")

    assert checkout.call("secrets.get", "api_key").returncode == 8
    assert checkout.ok("secrets.get", "api_key", SOPS_AGE_KEY=secret.reveal()) == "the-value-of-api-key"


@pytest.mark.parametrize("task", ["set", "unset", "rotate", "identity", "add"])
def test_an_injected_recipient_stops_every_task_that_writes(checkout: Checkout, task: str) -> None:
    stranger = keys.generate()[1]
    injected = checkout.encrypted.read_text().replace(
        "    age:\n", f"    age:\n        - recipient: {stranger}\n          enc: junk\n"
    )
    checkout.encrypted.write_text(injected)
    assert stranger in injected
    words = {
        "set": ("secrets.set", "api_key"),
        "unset": ("secrets.unset", "api_key", "--yes"),
        "rotate": ("secrets.rotate",),
        "identity": ("secrets.rotate", "--identity", "--finish"),
        "add": ("secrets.recipients.add", keys.generate()[1]),
    }

    done = checkout.call(*words[task], stdin="new")

    assert done.returncode == 8, done.stdout
    assert stranger in done.stderr
    assert checkout.encrypted.read_text() == injected
    assert stranger not in (checkout.folder / ".sops.yaml").read_text()


# diff, scan, encrypt, backup-key, and the plain binary


def test_diff_says_which_names_differ_and_no_value(checkout: Checkout) -> None:
    checkout.ok("secrets.set", "api_key", stdin="something-else")
    checkout.ok("secrets.unset", "optional", "--yes")
    checkout.ok("secrets.recipients.add", public := keys.generate()[1])

    found = json.loads(checkout.ok("secrets.diff", "--json"))["value"]
    said = checkout.ok("secrets.diff")

    assert found == {"secrets": {"api_key": "~", "optional": "-"}, "recipients": {public: "+"}}
    assert "the-value" not in said
    assert "something-else" not in said


@pytest.mark.parametrize("where", ["checkout", "staged", "history"])
def test_scan_names_a_leaked_value_and_does_not_show_it(checkout: Checkout, where: str) -> None:
    leak = checkout.folder / "notes.txt"
    leak.write_text("one\nthe password is the-value-of-db-password\n")
    if where == "staged":
        checkout.git("add", "--all")
    if where == "history":
        checkout.commit()
        leak.unlink()
        checkout.commit()
    assert where != "history" or checkout.call("secrets.scan").returncode == 0

    done = checkout.call("secrets.scan", *([] if where == "checkout" else [f"--{where}"]))

    assert done.returncode == 1
    assert "notes.txt" in done.stdout
    assert "invoke secrets.rotate-value db_password" in done.stdout
    assert "the-value" not in done.stdout + done.stderr


def test_encrypt_imports_text_as_text_and_replaces_nothing_unasked(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("api_key: 007\noptional: 1.10\n")
    source = str(tmp_path / "values.yaml")
    assert checkout.call("secrets.encrypt", source).returncode == 2

    checkout.ok("secrets.encrypt", source, "--merge")
    assert checkout.ok("secrets.get", "api_key") == "007"
    assert checkout.ok("secrets.get", "db_password") == "the-value-of-db-password"
    checkout.ok("secrets.encrypt", source, "--replace")
    assert checkout.ok("secrets.get", "optional") == "1.10"
    assert checkout.call("secrets.get", "db_password").returncode == 6


@pytest.mark.parametrize("content", ["a: {b: c}\n", "- a\n", "a: [", "a: the-canary: x\n", "", "A: x\n"])
def test_encrypt_refuses_what_is_not_flat_and_does_not_repeat_it(
    checkout: Checkout, tmp_path: Path, content: str
) -> None:
    (tmp_path / "values.yaml").write_text(content)
    before = checkout.encrypted.read_bytes()

    done = checkout.call("secrets.encrypt", str(tmp_path / "values.yaml"), "--replace")

    assert done.returncode == 2
    assert "the-canary" not in done.stderr + done.stdout
    assert checkout.encrypted.read_bytes() == before


def test_a_backup_of_the_key_is_read_with_its_passphrase_only(checkout: Checkout, tmp_path: Path) -> None:
    target = tmp_path / "backup.age"
    assert checkout.call("secrets.backup-key", str(target), stdin="short").returncode == 2

    checkout.ok("secrets.backup-key", str(target), stdin="a long passphrase\n")

    identity = checkout.key_file.read_text().splitlines()[-1]
    assert passphrase.decrypt(target.read_bytes(), "a long passphrase").decode() == identity
    assert mode(target) == 0o600
    assert checkout.call("secrets.backup-key", str(target), stdin="a long passphrase").returncode == 2


def test_the_plain_binary_reads_and_changes_our_file(checkout: Checkout) -> None:
    plain = {"SOPS_AGE_KEY_FILE": ".sops/age-key.txt"}

    decrypted = checkout.sops("--decrypt", "secrets.enc.yaml", **plain)
    changed = checkout.sops("set", "secrets.enc.yaml", '["api_key"]', '"by hand"', **plain)

    assert "api_key: the-value-of-api-key\n" in decrypted.stdout
    assert changed.returncode == 0, changed.stderr
    assert checkout.ok("secrets.get", "api_key") == "by hand"
    assert checkout.sops("--decrypt", "secrets.enc.yaml").returncode == 128


# What is never shown


def test_a_value_is_in_no_output_and_in_no_file_but_private_ones(checkout: Checkout, canary: str) -> None:
    identity = checkout.key_file.read_text().splitlines()[-1]
    calls = [
        checkout.call("secrets.set", "shared_token", stdin=canary),
        checkout.call("secrets.set", "shared_token", "--json", stdin=canary),
        checkout.call("secrets.set", "shared_token", "--dry-run", stdin=canary),
        checkout.call("secrets.set", canary, stdin="x"),
        checkout.call("secrets.set", "api_key", "--from-file", "/nowhere", stdin=canary),
        checkout.call("secrets.list"),
        checkout.call("secrets.list", "--json"),
        checkout.call("secrets.check", "--json"),
        checkout.call("secrets.diff"),
        checkout.call("secrets.render"),
        checkout.call("secrets.render", "--json"),
        checkout.call("secrets.render", "--dry-run", "--json"),
        checkout.call("secrets.scan"),
        checkout.call("secrets.rotate"),
        checkout.call("secrets.rotate", "--identity", "--json"),
        checkout.call("secrets.init"),
        checkout.call("secrets.recipients.list", "--json"),
        checkout.call("secrets.run", "--", "no-such-program"),
        checkout.call("secrets.get", "shared_token", "--fingerprint"),
        checkout.call("secrets.encrypt", "-", "--merge", stdin=f"shared_token: [{canary}"),
    ]

    named = calls.pop(3)
    assert "[secret-not-declared]" in named.stderr
    said = [call.args for call in calls if canary[:39] in call.stdout + call.stderr]
    assert said == []
    assert [call.args for call in calls if identity in call.stdout + call.stderr] == []
    content = {path: path.read_bytes() for path in checkout.folder.parent.rglob("*") if path.is_file()}
    holding = {path for path in content if canary[:39].encode() in content[path]}
    assert {path.name for path in holding} == {".env", "shared_token.txt"}
    assert {mode(path) for path in holding} == {0o600}
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    assert [path for path in runtime.rglob("*") if path.is_file()] == []
