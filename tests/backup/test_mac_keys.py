"""The keys that prove backups: made, changed, lost, and found again by the recovery key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conche.backup import authenticate, mac, mac_keys, trust
from conche.backup.mac import Provenance
from conche.backup.restore import RestoreOptions, restore
from conche.backup.site import open_site
from conche.backup.verify import verify
from conche.errors import KeyUnusable, NotFound
from conche.secret import Secret
from conche.secrets.encrypt import encrypt
from conche.vault import keys, values
from conche.vault.recipients import new_key, write_recipients
from conche.vault.store import Edit, Store
from tests.backup.proven import ATTACKS, NAME, Server


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


def test_what_is_kept_of_replaced_secrets_is_what_is_there_once_they_are_locked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = server.store.read()[NAME]
    authenticate.authenticate(server.call, rotate=True)
    rotated, after = server.store.file.read_bytes(), server.store.read()
    server.keep(*mac.parsed(before))
    (tmp_path / "new.env").write_text("ALPHA=another\n")
    really = Store.locked

    @contextmanager
    def second(store: Store, purpose: str, wait: float | None = None) -> Iterator[None]:
        with really(store, purpose, wait):
            store.file.write_bytes(rotated)  # by who had the lock before
            yield

    monkeypatch.setattr(Store, "locked", second)
    encrypt(server.call, str(tmp_path / "new.env"), merge=False, replace=True)

    assert before != after[NAME]
    assert server.store.read() == {**after, "alpha": Secret("another")}


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
    known = mac_keys.known_keys(call.vault)
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


def emptied(server: Server) -> Server:
    """The same on a host that has only what git has, and the recovery key."""
    (server.folder / keys.DEFAULT_FILE).unlink()
    (server.folder / "models/one").unlink()
    return server


def test_on_an_empty_host_the_recovery_key_proves_the_latest(server: Server) -> None:
    host = emptied(server)

    restore(host.call, "latest", RestoreOptions(force=True, recovery_key=str(host.recovery)))

    assert (host.folder / "models/one").read_text() == "newest"
    assert host.found("latest").provenance is Provenance.OURS


def test_an_age_key_that_a_stranger_has_sealed_proves_nothing(server: Server) -> None:
    host = emptied(server)
    stranger, _ = keys.generate()
    for backup in (host.target / "daily").iterdir():
        (backup / "secrets/age-key.txt").write_text(stranger.reveal() + "\n")

    with pytest.raises(NotFound) as refused:
        restore(host.call, "latest", RestoreOptions(force=True, recovery_key=str(host.recovery)))

    assert refused.value.code == "no-proven-backup"


def test_our_age_key_in_a_stranger_s_backup_proves_only_ours(server: Server) -> None:
    host = emptied(server)
    older, newest = sorted((host.target / "daily").iterdir())[-2:]
    forged = ATTACKS["a later time without a MAC"][0](older)

    site = trust.recovered(host.site, host.call.vault, host.recovery.read_bytes())

    assert site.target.find("latest").name == newest.name
    assert site.target.find(forged).provenance is Provenance.UNPROVEN
