"""Backups that a stranger has put into the target: what none of the stack's keys proves counts for nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conche.backup import adopt, authenticate, envelope, mac, mac_keys, manifest, prune, status, trust
from conche.backup.create import Wishes as Creating
from conche.backup.create import create
from conche.backup.drill import drill
from conche.backup.list import list_
from conche.backup.mac import KEYLESS, Keys, Provenance
from conche.backup.repository import by_name
from conche.backup.restore import Wishes, restore
from conche.backup.site import Site, open_site
from conche.backup.snapshots import Snapshot, snapshot_of, superfluous
from conche.backup.target import Found
from conche.backup.verify import verify
from conche.command import Invocation
from conche.errors import CheckFailed, KeyUnusable, NotFound, Refused
from conche.output import Output
from conche.secret import Secret
from conche.secrets.encrypt import encrypt
from conche.vault import keys, values
from conche.vault.recipients import new_key, write_recipients
from conche.vault.store import Edit, Store

STACK = """\
name: factory
secrets: {declared: {alpha: {required: false}}}
backup:
  recipients: [RECIPIENT]
  components: {models: {driver: files, paths: [models]}, secrets: {driver: secrets}}
environments: {dev: {compose: [compose.yaml]}}
"""
NAME = values.BACKUP_KEYS
NOW = datetime.now(UTC)

Content = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A checkout with secrets, its target, and the recovery key of its backups."""

    folder: Path
    recovery: Path

    @property
    def call(self) -> Invocation:
        return Invocation(self.folder, Output("backup"), yes=True)

    @property
    def site(self) -> Site:
        return open_site(self.call)

    @property
    def store(self) -> Store:
        return Store(self.folder, self.folder / "secrets.enc.yaml")

    @property
    def target(self) -> Path:
        return self.folder.parent / "factory-backups"

    def found(self, name: str) -> Found:
        return self.site.target.find(name)

    def back_up(self, model: str, *, mode: int = 0o644) -> Path:
        file = self.folder / "models/one"
        file.write_text(model)
        file.chmod(mode)  # to write to it takes rights such as set-user-id from it, but not for root
        outcome = create(self.call, "daily", Creating())
        assert (outcome.exit_code, isinstance(outcome.value, dict)) == (0, True), outcome.lines
        return Path(outcome.value["folder"])  # type: ignore[index]

    def keep(self, *kept: Secret) -> None:
        """Have other keys, or none."""
        one = Edit(put={NAME: mac.written(kept)}) if kept else Edit(drop=(NAME,))
        self.store.change("a test", lambda _: one)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with an unproven, a proven and a newer proven backup, whose key was made between the first two."""
    folder = tmp_path_factory.mktemp("made") / "factory"
    server = Server(folder, folder.parent / "recovery.key")
    identity, recipient = keys.generate()
    server.recovery.parent.mkdir(exist_ok=True)
    (folder / "models").mkdir(parents=True)
    server.recovery.write_text(identity.reveal() + "\n")
    (folder / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (folder / "stack.yaml").write_text(STACK.replace("RECIPIENT", recipient))
    key = new_key(folder / keys.DEFAULT_FILE)
    write_recipients(folder, server.store.file, key.public)
    server.store.create({"alpha": Secret("the value")}, key.public, key, replace=False)
    dated(server, server.back_up("from before the key"), NOW - timedelta(days=20))
    assert authenticate.authenticate(server.call, rotate=False).changed
    dated(server, server.back_up("older"), NOW - timedelta(hours=2))
    dated(server, server.back_up("newest"), NOW - timedelta(hours=1))
    assert verify(server.call, None, every=True, deep=False).exit_code == 0
    return server


@pytest.fixture
def server(made: Server, tmp_path: Path) -> Server:
    shutil.copytree(made.folder.parent, tmp_path / "copy", symlinks=True)
    return Server(tmp_path / "copy/factory", tmp_path / "copy/recovery.key")


def named(moment: datetime, kind: str = "daily") -> str:
    return f"factory_{kind}_{moment.astimezone():%Y%m%d_%H%M%S}"


def dated(server: Server, backup: Path, moment: datetime) -> Path:
    """Have a backup be made at another time, by its name and in its manifest."""
    known = manifest.read(backup).model_copy(
        update={"name": named(moment), "created": moment.replace(microsecond=0), "text": None}
    )
    (backup / manifest.TEXT).unlink()
    (backup / manifest.FILE).write_bytes(known.render(server.site.target.keys()))
    return backup.rename(backup.with_name(named(moment)))


def content(backup: Path) -> Content:
    said: Content = json.loads((backup / manifest.FILE).read_bytes())
    del said["digest"]
    return said


def put(backup: Path, said: Content, with_keys: Keys = KEYLESS) -> str:
    """Write a manifest whose digest fits; the name of the backup."""
    (backup / manifest.FILE).write_bytes(envelope.closed(said, with_keys))
    return backup.name


def copied(backup: Path, moment: datetime, kind: str = "daily") -> Path:
    place = backup.parents[1] / kind / named(moment, kind)
    return Path(shutil.copytree(backup, place, symlinks=True))


LATER = NOW - timedelta(minutes=1)
STRANGERS = Keys((values.make(None),))

Attack = Callable[[Path], str]


def saying(changes: Content, *, without: str = "", by: Keys = KEYLESS) -> Attack:
    """A copy of a backup under a later name, with another manifest."""

    def attack(backup: Path) -> str:
        place = copied(backup, LATER)
        said = {**content(place), "name": place.name, **changes}
        said.pop(without, None)
        said.pop("mac" if by.every else "", None)
        return put(place, said, by)

    return attack


def other_file(backup: Path) -> str:
    said = content(backup)
    said["components"]["models"]["artifacts"][0]["sha256"] = "0" * 64
    return put(backup, said)


def with_tag(change: Callable[[str], str]) -> Attack:
    def attack(backup: Path) -> str:
        said = content(backup)
        return put(backup, {**said, "mac": change(said["mac"])})

    return attack


def for_a_snapshot(backup: Path) -> str:
    """The MAC that the same key would make for something else."""
    server = Server(backup.parents[2] / "factory", backup)
    said = content(backup)
    del said["mac"]
    body = envelope.rendered(said).removesuffix(b"\n}\n")
    return put(backup, {**said, "mac": server.site.target.keys().tag(mac.SNAPSHOT, body).decode()})


ATTACKS: dict[str, tuple[Attack, Provenance]] = {
    "a later time": (saying({"created": LATER.isoformat()}), Provenance.FOREIGN),
    "a later time without a MAC": (saying({"created": LATER.isoformat()}, without="mac"), Provenance.UNPROVEN),
    "a later time with a stranger's MAC": (saying({"created": LATER.isoformat()}, by=STRANGERS), Provenance.FOREIGN),
    "a time in the future": (saying({"created": "2199-01-01T00:00:00Z"}), Provenance.FOREIGN),
    "a folder of a later name": (lambda backup: copied(backup, LATER).name, Provenance.FOREIGN),
    "a folder of another kind": (lambda backup: copied(backup, LATER, "weekly").name, Provenance.FOREIGN),
    "another name in the manifest too": (saying({}), Provenance.FOREIGN),
    "the manifest of another stack": (saying({"stack": "other"}, by=STRANGERS), Provenance.FOREIGN),
    "a claim to be complete": (saying({"complete": True, "seconds": 0.1}), Provenance.FOREIGN),
    "another hash of a file": (other_file, Provenance.FOREIGN),
    "a MAC of zeros": (with_tag(lambda tag: f"{tag[:17]}{'0' * 64}"), Provenance.FOREIGN),
    "a MAC by a key of another name": (with_tag(lambda tag: f"{'0' * 16}{tag[16:]}"), Provenance.FOREIGN),
    "half a MAC": (with_tag(lambda tag: tag[:40]), Provenance.UNPROVEN),
    "an empty MAC": (with_tag(lambda _: ""), Provenance.UNPROVEN),
    "a MAC for something else": (for_a_snapshot, Provenance.FOREIGN),
}


@pytest.fixture(scope="module")
def decrypted(made: Server) -> Keys:
    return made.site.target.keys()


@pytest.mark.parametrize("name", ATTACKS)
def test_what_no_key_proves_counts_for_nothing(
    server: Server, decrypted: Keys, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conche.backup.site.known", lambda *_: decrypted)  # once for all attacks: it starts sops
    attack, provenance = ATTACKS[name]
    older, newest = sorted((server.target / "daily").iterdir())[-2:]

    forged = attack(older)

    site = server.site
    found = site.target.find(forged)
    assert (found.provenance, found.believed) == (provenance, False)
    assert site.target.find("latest").name == newest.name
    states = [(one["state"], one["newest"]) for one in status.status(server.call).value]  # type: ignore[attr-defined]
    assert states == [("ok", newest.name), ("none yet", None), ("none yet", None)]
    assert {one["name"]: one["provenance"] for one in list_(server.call).value}[forged] == provenance  # type: ignore[attr-defined]
    [decided] = [one for one in prune._decided(site)[1] if one.name == forged]
    assert (decided.keep, str(provenance) in decided.why) == (True, True)
    with pytest.raises(Refused) as refused:
        restore(server.call, forged, Wishes())
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
    restored = restore(server.call, older.name, Wishes(components=["models"], force=True))

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
        restore(server.call, "latest", Wishes())
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

    made = create(server.call, "daily", Creating())
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

    made = create(server.call, "daily", Creating())

    assert (made.exit_code, "UNPROVEN" in "".join(made.lines)) == (0, False)


def test_what_cannot_be_proven_is_restored_where_that_is_asked_for(server: Server) -> None:
    before, *_ = sorted((server.target / "daily").iterdir())

    with pytest.raises(Refused) as refused:
        restore(server.call, before.name, Wishes(components=["models"], force=True))
    restore(server.call, before.name, Wishes(components=["models"], force=True, unproven=True))

    assert refused.value.next_command.splitlines()[1].startswith(
        f"invoke backup.restore {before.name} --component models --force --unproven  "
    )
    assert (server.folder / "models/one").read_text() == "from before the key"


# Keys


def test_a_rotation_orphans_no_backup(server: Server) -> None:
    [first] = server.site.target.keys().every

    authenticate.authenticate(server.call, rotate=True)
    server.back_up("by the second key")

    second, earlier = server.site.target.keys().every
    assert (earlier, second == first) == (first, False)
    assert [one.provenance for one in server.site.target.backups()] == [Provenance.OURS] * 3 + [Provenance.UNPROVEN]


def test_secrets_whose_key_is_lost_can_be_replaced_and_are_kept_aside(server: Server, tmp_path: Path) -> None:
    (server.folder / keys.DEFAULT_FILE).unlink()
    key = new_key(server.folder / keys.DEFAULT_FILE)
    (server.folder / ".sops.yaml").unlink()
    write_recipients(server.folder, server.store.file, key.public)
    before = server.store.file.read_bytes()
    (tmp_path / "new.env").write_text("ALPHA=another\n")

    outcome = encrypt(server.call, str(tmp_path / "new.env"), merge=False, replace=True)

    assert {name: value.reveal() for name, value in server.store.read().items()} == {"alpha": "another"}
    assert (server.folder / "secrets.enc.yaml.unread").read_bytes() == before
    said = "\n".join(outcome.lines)
    assert "is kept as secrets.enc.yaml.unread" in said
    assert "backup.authenticate" in said


def test_a_key_that_is_gone_leaves_its_backups_foreign(server: Server) -> None:
    server.keep(values.make(None))

    checked = verify(server.call, None, every=True, deep=False)

    assert [one.provenance for one in server.site.target.backups()] == [Provenance.FOREIGN] * 2 + [Provenance.UNPROVEN]
    assert (checked.exit_code, [one["state"] for one in checked.value]) == (  # type: ignore[attr-defined]
        1,
        ["ok, foreign", "ok, foreign", "ok, unproven"],
    )


@pytest.mark.parametrize("said", ["", "x", "00", "0" * 63, "0" * 65, f"{'0' * 64} x", "A" * 64])
def test_another_value_under_that_name_is_no_key(said: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        mac.parsed(Secret(said))


@pytest.mark.parametrize("conflict", [False, True], ids=["cut off", "in conflict"])
def test_a_damaged_file_counts_for_a_lost_key_only_if_it_has_had_one(server: Server, conflict: bool) -> None:
    whole = server.store.file.read_text()
    server.store.file.write_text(f"<<<<<<< HEAD\n{whole}" if conflict else "alpha: ENC[AES256_GCM,da")

    assert bool(server.site.target.keys().unknown) is conflict
    assert server.site.target.keys().exist is conflict


def test_a_value_that_is_no_key_is_said_and_not_replaced(server: Server) -> None:
    server.store.change("a test", lambda _: Edit(put={NAME: Secret("x")}))

    assert "malformed" in server.site.target.keys().unknown
    with pytest.raises(KeyUnusable, match="cannot be used"):
        authenticate.authenticate(server.call, rotate=True)
    assert server.store.read()[NAME].reveal() == "x"


def test_a_second_call_makes_no_second_key(server: Server) -> None:
    before = server.site.target.keys()

    assert not authenticate.authenticate(server.call, rotate=False).changed

    assert server.site.target.keys() == before


def test_a_key_made_meanwhile_is_kept() -> None:
    theirs, ours = values.make(None), values.make(None)
    there = {NAME: mac.written((theirs,))}

    assert mac.parsed(authenticate._with(ours, there, rotate=False)) == (theirs,)
    assert mac.parsed(authenticate._with(ours, there, rotate=True)) == (ours, theirs)


def test_the_keys_are_never_shown(server: Server) -> None:
    call = server.call
    known = mac_keys.known(call.vault)
    site = open_site(call)
    site.target.find("latest")

    [key] = known.every
    assert key.reveal() not in repr(known)
    assert key.reveal() not in call.output.redact(f"an error with {key.reveal()}")


def test_every_encrypted_file_that_can_be_read_is_looked_into(server: Server) -> None:
    other = values.make(None)
    stack = (server.folder / "stack.yaml").read_text()
    (server.folder / "stack.yaml").write_text(
        stack.replace("secrets: {declared", "secrets: {file: secrets.enc.yaml, files: {dev: dev.enc.yaml}, declared")
    )
    rules = (server.folder / ".sops.yaml").read_text().replace("secrets", "(secrets|dev)")
    (server.folder / ".sops.yaml").write_text(rules)
    key = keys.require(server.folder)
    second = Store(server.folder, server.folder / "dev.enc.yaml")
    second.create({NAME: mac.written((other,))}, key.public, key, replace=False)

    assert server.site.target.keys().every[1:] == (other,)


# Losses


def test_a_file_that_is_too_large_for_the_target_costs_its_component_alone(server: Server) -> None:
    (server.folder / "models/one").write_bytes(os.urandom(3 << 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        made = create(server.call, "daily", Creating())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert isinstance(made.value, dict)
    assert made.exit_code == 3
    assert [one.partition(":")[0] for one in made.value["missing"]] == ["models"]
    assert "move the target to ext4" in "".join(made.value["missing"])


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


# Adoption


def test_adopted_it_counts_as_ours(server: Server) -> None:
    before, *ours = sorted((server.target / "daily").iterdir())

    outcome = adopt.adopt(server.call, None, every=True, foreign=False)
    again = adopt.adopt(server.call, before.name, every=False, foreign=False)

    assert [one["adopted"] for one in outcome.value] == [True]  # type: ignore[attr-defined]
    assert (again.changed, again.lines) == (False, ["Nothing to adopt."])
    found = server.found(before.name)
    assert (found.provenance, server.site.target.record(found).verified is not None) == (Provenance.OURS, True)
    assert [one.provenance for one in server.site.target.backups()] == [Provenance.OURS] * (len(ours) + 1)


def test_killed_once_its_manifest_is_written_it_is_ours_and_not_verified(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, *_ = sorted((server.target / "daily").iterdir())
    monkeypatch.setattr("conche.backup.target.Target.note", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        adopt.adopt(server.call, before.name, every=False, foreign=False)

    found = server.found(before.name)
    assert (found.provenance, server.site.target.record(found).verified) == (Provenance.OURS, None)


def test_a_damaged_one_is_not_adopted(server: Server) -> None:
    before, *_ = sorted((server.target / "daily").iterdir())
    (before / "models/one").write_text("from before the k3y")

    outcome = adopt.adopt(server.call, None, every=True, foreign=False)

    assert (outcome.exit_code, outcome.changed) == (1, False)
    assert server.found(before.name).provenance is Provenance.UNPROVEN


def test_a_foreign_one_is_adopted_only_by_name_and_where_that_is_said(server: Server) -> None:
    server.keep(values.make(None))
    _, older, newest = sorted((server.target / "daily").iterdir())

    with pytest.raises(Refused) as refused:
        adopt.adopt(server.call, older.name, every=False, foreign=False)
    adopt.adopt(server.call, None, every=True, foreign=False)
    adopt.adopt(server.call, older.name, every=False, foreign=True)

    assert refused.value.code == "backup-foreign"
    assert [server.found(one.name).provenance for one in (older, newest)] == [Provenance.OURS, Provenance.FOREIGN]


def test_one_under_another_s_name_is_never_adopted(server: Server) -> None:
    before, *_ = sorted((server.target / "daily").iterdir())
    forged = copied(before, LATER)

    outcome = adopt.adopt(server.call, forged.name, every=False, foreign=True)

    assert (outcome.exit_code, server.found(forged.name).provenance) == (1, Provenance.UNPROVEN)


def test_a_backup_of_the_old_script_is_adopted_with_everything_in_it(server: Server) -> None:
    place = server.target / "daily" / named(NOW - timedelta(days=30))
    for name, text in (("MANIFEST.txt", "by the script"), ("models/one", "old"), ("influxdb/data.tar", "x")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    assert server.found(place.name).provenance is Provenance.UNPROVEN

    outcome = adopt.adopt(server.call, place.name, every=False, foreign=False)

    assert outcome.exit_code == 0, outcome.value
    found = server.found(place.name)
    assert found.manifest is not None
    assert (found.provenance, sorted(found.manifest.components)) == (Provenance.OURS, ["influxdb", "models"])
    assert verify(server.call, place.name, every=False, deep=True).exit_code == 0
    (place / "influxdb/data.tar").write_text("y")
    assert verify(server.call, place.name, every=False, deep=False).exit_code == 1


def test_without_a_key_nothing_can_be_adopted(server: Server) -> None:
    server.keep()

    with pytest.raises(Refused) as refused:
        adopt.adopt(server.call, None, every=True, foreign=False)

    assert (refused.value.code, refused.value.next_command) == ("backup-keys-missing", "invoke backup.authenticate")


# Off-site, where whoever has the repository's password gives any tags and any time to anything

PROVEN = Keys((values.make(None), values.make(None)))
SENT = Snapshot("1", named(LATER), "daily", LATER.replace(microsecond=0), sound=frozenset({"models", "code"}))


def listed(*tags: str) -> Content:
    return {"id": "1", "time": "2099-01-01T00:00:00+00:00", "tags": list(tags)}


def test_a_snapshot_is_what_it_was_sent_as() -> None:
    tags = SENT.tags(PROVEN)

    assert snapshot_of(listed(*reversed(tags)), PROVEN) == SENT
    assert snapshot_of(listed(*tags), Keys(PROVEN.every[::-1])) == SENT
    assert snapshot_of(listed(*tags), KEYLESS) == SENT
    assert snapshot_of(listed(*SENT.tags()), KEYLESS) == SENT


RETAGGED: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "another name": (lambda tags: ["name=factory_daily_20300101_000000", *tags[1:]], "foreign"),
    "another kind": (lambda tags: [tags[0], "kind=monthly", *tags[2:]], "foreign"),
    "complete after all": (lambda tags: [*tags[:2], "state=degraded", *tags[3:]], "foreign"),
    "a later time": (lambda tags: [*tags[:3], "created=2030-01-01T00:00:00+00:00", *tags[4:]], "foreign"),
    "one more sound component": (lambda tags: [*tags, "sound=database"], "foreign"),
    "without a sound component": (lambda tags: [one for one in tags if one != "sound=code"], "foreign"),
    "without its time": (lambda tags: [one for one in tags if not one.startswith("created=")], "foreign"),
    "without a MAC": (lambda tags: [one for one in tags if not one.startswith("mac=")], "unproven"),
    "with the MAC of a manifest": (
        lambda tags: [*tags[:-1], f"mac={PROVEN.tag(mac.MANIFEST, chr(0).join(tags[:-1]).encode()).decode()}"],
        "foreign",
    ),
    "with a stranger's MAC": (lambda _: list(SENT.tags(STRANGERS)), "foreign"),
}


@pytest.mark.parametrize("name", RETAGGED)
def test_another_tag_proves_nothing(name: str) -> None:
    change, doubt = RETAGGED[name]
    forged = snapshot_of(listed(*change(list(SENT.tags(PROVEN)))), PROVEN)

    assert forged is not None
    assert forged.doubt == doubt
    older = [replace(SENT, id=str(day), time=NOW - timedelta(days=day)) for day in range(1, 4)]
    newer = [replace(forged, id=f"forged {number}") for number in range(9)]
    assert superfluous([*newer, *older], {"daily": 3}) == ()
    assert by_name([*newer, *older])[SENT.name] == "1"


def test_a_time_that_is_none_is_no_snapshot_of_ours() -> None:
    assert snapshot_of(listed("name=x", "kind=daily", "created=yesterday"), KEYLESS) is None


# An empty host


def emptied(server: Server) -> Server:
    """The same on a host that has only what git has, and the recovery key."""
    (server.folder / keys.DEFAULT_FILE).unlink()
    (server.folder / "models/one").unlink()
    return server


def test_on_an_empty_host_the_recovery_key_proves_the_latest(server: Server) -> None:
    host = emptied(server)

    restore(host.call, "latest", Wishes(force=True, recovery_key=str(host.recovery)))

    assert (host.folder / "models/one").read_text() == "newest"
    assert host.found("latest").provenance is Provenance.OURS


def test_an_age_key_that_a_stranger_has_sealed_proves_nothing(server: Server) -> None:
    host = emptied(server)
    stranger, _ = keys.generate()
    for backup in (host.target / "daily").iterdir():
        (backup / "secrets/age-key.txt").write_text(stranger.reveal() + "\n")

    with pytest.raises(NotFound) as refused:
        restore(host.call, "latest", Wishes(force=True, recovery_key=str(host.recovery)))

    assert refused.value.code == "no-proven-backup"


def test_our_age_key_in_a_stranger_s_backup_proves_only_ours(server: Server) -> None:
    host = emptied(server)
    older, newest = sorted((host.target / "daily").iterdir())[-2:]
    forged = ATTACKS["a later time without a MAC"][0](older)

    site = trust.recovered(host.site, host.call.vault, host.recovery.read_bytes())

    assert site.target.find("latest").name == newest.name
    assert site.target.find(forged).provenance is Provenance.UNPROVEN


# Bounds


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
