"""Backups that a stranger has put into the target: what none of the stack's keys proves counts for nothing."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from datetime import timedelta

import pytest

from conche.backup import adopt, envelope, prune, status
from conche.backup.create import CreateOptions, create
from conche.backup.drill import drill
from conche.backup.list import list_
from conche.backup.mac import KEYLESS, Keys, Provenance
from conche.backup.restore import RestoreOptions, restore
from conche.backup.verify import verify
from conche.errors import CheckFailed, KeyUnusable, NotFound, Refused
from conche.secret import Secret
from conche.vault import keys
from tests.backup.proven import ATTACKS, NOW, STRANGERS, Server, content, copied, named, put


@pytest.fixture(scope="module")
def decrypted(made: Server) -> Keys:
    return made.site.target.keys()


@pytest.mark.parametrize("name", ATTACKS)
def test_what_no_key_proves_counts_for_nothing(
    server: Server, decrypted: Keys, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conche.backup.site.known_keys", lambda *_: decrypted)  # once for all attacks: it starts sops
    attack, provenance = ATTACKS[name]
    older, newest = sorted((server.target / "daily").iterdir())[-2:]

    forged = attack(older)

    site = server.site
    found = site.target.find(forged)
    assert (found.provenance, found.trusted) == (provenance, False)
    assert site.target.find("latest").name == newest.name
    states = [(one["state"], one["newest"]) for one in status.status(server.call).value]  # type: ignore[attr-defined]
    assert states == [("ok", newest.name), ("none yet", None), ("none yet", None)]
    assert {one["name"]: one["provenance"] for one in list_(server.call).value}[forged] == provenance  # type: ignore[attr-defined]
    [decided] = [one for one in prune._asked(site, future=False)[1] if one.name == forged]
    assert (decided.keep, str(provenance) in decided.why) == (True, True)
    with pytest.raises(Refused) as refused:
        restore(server.call, forged, RestoreOptions())
    assert refused.value.code == f"backup-{provenance}"
    assert f"invoke backup.restore {forged} --unproven  " in refused.value.next_command
    assert (server.folder / "models/one").read_text() == "newest"


def test_no_number_of_forged_ones_lets_ours_be_deleted(server: Server) -> None:
    ours = sorted((server.target / "daily").iterdir())
    put(ours[1], {**content(ours[1]), "created": (NOW - timedelta(days=100)).isoformat()})
    kept = server.back_up("again")
    for number in range(20):
        moment = NOW - timedelta(minutes=number + 2)
        put(copied(ours[1], moment), {**content(kept), "name": named(moment), "created": moment.isoformat()})

    prune.prune(server.call, future=False)

    assert [one for one in [*ours, kept] if not one.exists()] == []


def test_where_there_is_no_key_everything_goes_on_as_before(server: Server) -> None:
    server.keep()
    older, newest = sorted((server.target / "daily").iterdir())[-2:]

    site = server.site
    restored = restore(server.call, older.name, RestoreOptions(components=["models"], force=True))

    assert [one.provenance for one in site.target.backups()] == [Provenance.UNPROVEN] * 3
    assert site.target.find("latest").name == newest.name
    seen = status.status(server.call)
    assert (seen.exit_code, "Was conche_backup_keys lost?" in seen.lines[0]) == (0, True)
    assert (restored.exit_code, (server.folder / "models/one").read_text()) == (0, "older")


def test_where_the_secrets_cannot_be_read_all_is_unproven_and_can_be_looked_at(server: Server) -> None:
    (server.folder / keys.DEFAULT_FILE).unlink()

    names = {one.provenance for one in server.site.target.backups()}
    listed, checked = list_(server.call), verify(server.call, None, every=True, deep=False)
    with pytest.raises(NotFound) as none:
        restore(server.call, "latest", RestoreOptions())
    with pytest.raises(KeyUnusable) as unread:
        adopt.adopt(server.call, None, every=True, foreign=False)

    assert names == {Provenance.UNPROVEN}
    assert any("There is no age key" in line for line in listed.lines)
    assert ([one["state"] for one in checked.value], checked.exit_code) == (["ok, unproven"] * 3, 0)  # type: ignore[attr-defined]
    assert (none.value.code, unread.value.code) == ("no-proven-backup", "backup-keys-unread")
    assert status.status(server.call).exit_code == 1


def test_a_backup_that_nothing_proves_though_there_is_a_key_is_kept_and_ends_with_3(server: Server) -> None:
    kept = server.site.target.keys().every
    server.keep(Secret("no key"))

    made = create(server.call, "daily", CreateOptions())
    server.keep(*kept)

    assert isinstance(made.value, dict)
    assert (made.exit_code, made.value["complete"]) == (3, True)
    name, said = made.value["name"], "\n".join(made.lines)
    assert "is malformed" in said
    assert server.site.target.find(name).provenance is Provenance.UNPROVEN
    assert f"invoke backup.adopt {name}" in said
    adopt.adopt(server.call, name, every=False, foreign=False)
    assert server.site.target.find(name).provenance is Provenance.OURS


def test_a_stack_whose_secrets_have_no_key_for_backups_needs_none(server: Server) -> None:
    server.keep()

    made = create(server.call, "daily", CreateOptions())

    assert (made.exit_code, "UNPROVEN" in "".join(made.lines)) == (0, False)


def test_what_cannot_be_proven_is_restored_where_that_is_asked_for(server: Server) -> None:
    before, *_ = sorted((server.target / "daily").iterdir())

    with pytest.raises(Refused) as refused:
        restore(server.call, before.name, RestoreOptions(components=["models"], force=True))
    restore(server.call, before.name, RestoreOptions(components=["models"], force=True, unproven=True))

    assert refused.value.next_command.splitlines()[1].startswith(
        f"invoke backup.restore {before.name} --component models --force --unproven  "
    )
    assert (server.folder / "models/one").read_text() == "from before the key"


@pytest.mark.parametrize(
    ("asked", "advice"),
    [(resource.getrlimit, "ulimit -f unlimited"), (lambda _: (resource.RLIM_INFINITY,) * 2, "move the target to ext4")],
    ids=["for this user", "for the target"],
)
def test_a_file_that_is_too_large_costs_its_component_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, asked: Callable[[int], tuple[int, int]], advice: str
) -> None:
    (server.folder / "models/one").write_bytes(os.urandom(3 << 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(resource, "getrlimit", asked)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        made = create(server.call, "daily", CreateOptions())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert isinstance(made.value, dict)
    assert made.exit_code == 3
    assert [one.partition(":")[0] for one in made.value["missing"]] == ["models"]
    assert advice in "".join(made.value["missing"])


def test_a_drill_ends_as_a_restore_would_where_something_does_not_come_back(server: Server) -> None:
    server.back_up("plain")
    plain = drill(server.call, None)
    server.back_up("with rights", mode=0o4755)

    less = drill(server.call, None)
    stack = server.folder / "stack.yaml"
    stack.write_text(stack.read_text().replace("driver: files,", "driver: files, privileged: true,"))
    declared = drill(server.call, None)

    assert [one.exit_code for one in (plain, less, declared)] == [0, 3, 0], less.lines
    assert any("set-user-id" in line for line in less.lines)


def test_a_huge_manifest_that_nothing_proves_is_not_parsed_unless_asked_for(server: Server) -> None:
    before, *_ = sorted((server.target / "daily").iterdir())
    said = content(before)
    said["images"] = {str(number): "x" * 1000 for number in range(9000)}
    put(before, said)

    found = server.found(before.name)

    assert (found.manifest, found.provenance) == (None, Provenance.UNPROVEN)
    with pytest.raises(CheckFailed, match="not looked into"):
        found.read.required()
    assert found.asked_for().manifest is not None


@pytest.mark.parametrize("with_keys", [STRANGERS, KEYLESS], ids=["with a MAC", "without"])
def test_every_changed_or_lost_byte_of_a_manifest_is_found(with_keys: Keys) -> None:
    whole = envelope.closed({"name": "x", "facts": {"ä": [1, 2]}}, with_keys)
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    shorter = [whole[:at] for at in range(len(whole))]

    assert envelope.Envelope.of(whole) is not None
    assert [one for one in (*changed, *shorter, whole + b"\n") if envelope.Envelope.of(one) is not None] == []
