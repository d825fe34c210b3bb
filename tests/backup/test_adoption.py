"""backup.adopt: what nothing proves becomes the stack's own, by name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from conche.backup import adopt
from conche.backup.mac import Provenance
from conche.backup.verify import verify
from conche.errors import Refused
from conche.vault import values
from tests.backup.proven import LATER, NOW, Server, copied, named


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
