"""What a restore has left that can be neither finished nor taken back: everything else goes on, and it is settled."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from conche.backup import running, settling, within
from conche.backup.exchange import JOURNAL, KEPT, Aside, Journal, Pair
from conche.backup.holding import NOTE
from conche.backup.site import open_site
from conche.backup.swap import Swap
from conche.command import Invocation
from conche.engine import volumes
from conche.errors import Refused
from conche.output import Output
from conche.vault.store import Store
from tests.backup.checkouts import Checkout

NUMBER = "20261127T020000000000"

EARLIER = {
    "number": NUMBER,
    "pairs": [
        {
            "staged": "/shop/.backup/restore-20261127T020000000000/code/src",
            "live": "/shop/src",
            "inode": 7,
            "fresh": False,
            "base": "",
            "base_inode": 0,
        }
    ],
    "swaps": [{"engine": None, "volume": "shop-kept"}],
    "stopped": [{"engine": None, "id": "c" * 64, "name": "shop-web-1"}],
    "fed": ["db"],
    "done": False,
}
"""A journal as versions have written it that knew no components and no beginning."""


def read(folder: Path, content: dict[str, Any]) -> Journal:
    folder.mkdir(exist_ok=True)
    (folder / JOURNAL).write_text(json.dumps(content).replace("/shop/.backup", str(folder)))
    found = Journal.read(folder)
    assert found is not None
    return found


def test_a_journal_of_an_earlier_version_is_read_as_one_whose_exchange_may_have_begun(tmp_path: Path) -> None:
    found = read(tmp_path / ".backup", EARLIER)

    assert (found.components, found.begun, found.stuck) == (["code", "db", "shop-kept"], True, "")
    assert [one.name for one in found.stopped] == ["shop-web-1"]


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Journal(NUMBER, ["db"], begun=True, fed=["db"], answers={"db": "3"}, blind=["db"], stuck="why")
    written.write(tmp_path)

    assert Journal.read(tmp_path) == written


def test_what_a_killed_restore_still_runs_in_a_volume_is_ended_before_anything_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (tmp_path / "stack.yaml").write_text(
        "name: shop\nenvironments: {dev: {compose: [compose.yaml]}}\n"
        "backup: {components: {app: {driver: files, paths: [a]}}}\n"
    )
    site, steps = open_site(Invocation(tmp_path, Output("backup.settle"))), list[str]()
    site.make_own()
    monkeypatch.setattr(volumes, "clear_helpers", lambda _, volume: steps.append(f"{volume} is left alone"))
    monkeypatch.setattr(Journal, "back", lambda _: steps.append("taken back"))
    journal = Journal(NUMBER, ["kept"], swaps=[Swap(None, "shop-kept")])
    journal.write(site.own)

    settling.undo(site, journal, wait=False)

    assert steps == ["shop-kept is left alone", "taken back"]


@pytest.fixture
def stuck(tmp_path: Path) -> Checkout:
    """A checkout with a restore of `models` that was killed, and whose staging folder somebody has deleted."""
    made = Checkout.create(tmp_path)
    made.create_backup()
    own, live = made.folder / ".backup", made.folder / "models"
    own.mkdir(exist_ok=True)
    pair = Pair(str(own / f"restore-{NUMBER}/models/models"), str(live), live.stat().st_ino, fresh=True)
    Journal(NUMBER, ["models"], [pair], begun=True).write(own)
    return made


@pytest.mark.process
def test_other_commands_go_on_and_say_how_to_settle_it(stuck: Checkout) -> None:
    created = stuck.invoke("backup.create", "--json")
    again = stuck.invoke("backup.create", "--json")
    verified = stuck.invoke("backup.verify")
    refused = stuck.invoke("backup.restore", "latest", "--component", "code", "--force")
    settled = stuck.invoke("backup.settle")

    for done in (created, again):
        value = json.loads(done.stdout)["value"]
        parts = json.loads((Path(value["folder"]) / "manifest.json").read_text())["components"]
        assert done.returncode == 3
        assert [one.partition(":")[0] for one in value["missing"]] == ["models"]
        assert "an earlier restore was not undone" in value["missing"][0]
        assert all(part["artifacts"] for part in parts.values())
    assert "a killed restore is undone" in created.stderr
    assert "a killed restore is undone" not in again.stderr
    assert (verified.returncode, "run: invoke backup.settle" in verified.stderr) == (0, True)
    assert (refused.returncode, "restore-unsettled" in refused.stderr) == (2, True)
    assert (settled.returncode, "restore-not-taken-back" in settled.stderr) == (5, True)
    assert "invoke backup.settle --as-it-is" in settled.stderr


@pytest.mark.process
def test_it_can_be_left_as_it_is(stuck: Checkout) -> None:
    planned = stuck.invoke("backup.settle", "--as-it-is", "--dry-run")
    journal = (stuck.folder / ".backup" / JOURNAL).exists()
    left = stuck.invoke("backup.settle", "--as-it-is")
    again = stuck.invoke("backup.settle")

    assert (planned.returncode, "component models" in planned.stdout, journal) == (0, True, True)
    assert (left.returncode, "Everything is left as it is" in left.stdout) == (0, True)
    assert (again.returncode, "There is nothing to settle" in again.stdout) == (0, True)
    assert (stuck.folder / "models/prophet_1.pkl").read_text() == "model one"
    stuck.create_backup()


@pytest.mark.process
def test_it_is_taken_back_once_that_can_be_done(stuck: Checkout) -> None:
    failed = stuck.invoke("backup.verify")
    staging = stuck.folder / f".backup/restore-{NUMBER}/models"
    staging.mkdir(parents=True)

    unasked = stuck.invoke("backup.verify")
    there = (stuck.folder / "models").exists()
    settled = stuck.invoke("backup.settle")

    assert (failed.returncode, unasked.returncode, there) == (0, 0, True)
    assert (settled.returncode, "Settled" in settled.stdout) == (0, True), settled.stderr
    assert not (stuck.folder / "models").exists()
    assert not staging.exists()
    restored = stuck.invoke("backup.restore", "latest", "--component", "models", "--force")
    assert restored.returncode == 0, restored.stderr
    assert (stuck.folder / "models/prophet_1.pkl").read_text() == "model one"


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "advice"),
    [(NOTE, "docker ps --all --filter status=paused"), (f"7e57.{running.NOTE}", "may have left a dump in a container")],
    ids=["waits", "runs"],
)
def test_a_damaged_note_is_kept_and_named_until_somebody_has_looked(tmp_path: Path, name: str, advice: str) -> None:
    made = Checkout.create(tmp_path)
    made.create_backup()
    store = made.target / ".store"
    (store / name).write_text('{"engine": null, "ids": ["c0ffee')

    told, again = made.invoke("backup.verify"), made.invoke("backup.create")
    planned, refused = made.invoke("backup.settle", "--dry-run"), made.invoke("backup.settle")
    kept = [one.read_text() for one in store.glob("*.json")]
    left = made.invoke("backup.settle", "--as-it-is")
    after = made.invoke("backup.verify")

    assert (told.returncode, again.returncode, left.returncode) == (0, 0, 0), left.stderr
    for done in (told, again):
        assert advice in done.stderr
        assert "invoke backup.settle --as-it-is" in done.stderr
    assert [(one.returncode, "error [note-damaged]" in one.stderr) for one in (planned, refused)] == [(1, True)] * 2
    assert kept == ['{"engine": null, "ids": ["c0ffee']
    assert "damaged" not in after.stderr
    assert list(store.glob("*.json")) == []


@pytest.fixture
def unlisted(tmp_path: Path) -> Checkout:
    """A checkout that restored something, and whose list of what that has put aside is damaged."""
    made = Checkout.create(tmp_path)
    made.create_backup()
    made.write("models/prophet_1.pkl", "model two")
    restored = made.invoke("backup.restore", "latest", "--component", "models", "--force")
    assert restored.returncode == 0, restored.stderr
    listed = made.folder / ".backup" / KEPT
    listed.write_bytes(listed.read_bytes()[:40])
    return made


@pytest.mark.process
def test_nothing_put_aside_is_deleted_while_the_list_of_it_is_damaged(unlisted: Checkout) -> None:
    own = unlisted.folder / ".backup"
    before = files(own)

    created = unlisted.invoke("backup.create")
    restored = unlisted.invoke("backup.restore", "latest", "--component", "models", "--force")
    settled = unlisted.invoke("backup.settle")

    assert created.returncode == 0, created.stderr
    assert f"{own / KEPT} is damaged. Nothing that it may be about is deleted" in created.stderr
    for done in (restored, settled):
        assert (done.returncode, "error [note-damaged]" in done.stderr) == (1, True), done.stderr
        assert "invoke backup.settle --as-it-is" in done.stderr
    assert files(own) == before


@pytest.mark.process
def test_a_damaged_list_can_be_left_and_what_was_put_aside_stays_for_good(unlisted: Checkout) -> None:
    own = unlisted.folder / ".backup"
    before = files(own)
    planned = unlisted.invoke("backup.settle", "--as-it-is", "--dry-run")
    unchanged = files(own) == before

    left = unlisted.invoke("backup.settle", "--as-it-is", "--json")
    unlisted.create_backup()
    restored = unlisted.invoke("backup.restore", "latest", "--component", "models", "--force")

    assert (planned.returncode, f"note {KEPT}" in planned.stdout, unchanged) == (0, True, True)
    kept = [Path(one.removesuffix(", the list")) for one in json.loads(left.stdout)["value"]["kept"]]
    assert (kept[0] / "models/models/prophet_1.pkl").read_text() == "model two"
    assert kept[1].read_bytes() == before[KEPT]
    assert restored.returncode == 0, restored.stderr


def test_a_list_that_another_user_may_not_read_is_not_taken_for_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_: Path, __: str, ___: int) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(within, "content", refuses)  # root may read everything

    with pytest.raises(Refused, match=r"aside\.json cannot be read: Permission denied"):
        Aside.every(tmp_path)


@pytest.fixture
def damaged(stuck: Checkout) -> Checkout:
    """The same with what was there before, and half of the journal."""
    own = stuck.folder / ".backup"
    (own / f"restore-{NUMBER}/models/models").mkdir(parents=True)
    (own / f"restore-{NUMBER}/models/models/before").write_text("what was there before")
    (own / JOURNAL).write_bytes((own / JOURNAL).read_bytes()[:40])
    return stuck


def files(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.mark.process
def test_a_damaged_journal_stops_what_it_may_concern_and_is_named_with_the_way_out(damaged: Checkout) -> None:
    before = files(damaged.folder)

    for words in (["backup.create"], ["backup.verify"], ["backup.settle"], ["backup.settle", "--dry-run"]):
        done = damaged.invoke(*words)
        assert (done.returncode, "error [journal-damaged]" in done.stderr) == (1, True), words
        assert f"restore-{NUMBER}, of models" in done.stderr
        assert "invoke backup.settle --as-it-is" in done.stderr
    assert files(damaged.folder) == before


@pytest.mark.process
def test_with_a_damaged_journal_everything_can_be_left_and_nothing_is_lost(damaged: Checkout) -> None:
    own = damaged.folder / ".backup"
    before = files(damaged.folder)
    planned = damaged.invoke("backup.settle", "--as-it-is", "--dry-run")
    unchanged = files(damaged.folder) == before

    left = damaged.invoke("backup.settle", "--as-it-is", "--json")
    damaged.create_backup()
    again = damaged.invoke("backup.settle")

    assert (planned.returncode, f"journal {JOURNAL}" in planned.stdout, unchanged) == (0, True, True)
    kept = [Path(one.removesuffix(", the journal")) for one in json.loads(left.stdout)["value"]["kept"]]
    assert kept[0] == own / f"not-taken-back-{NUMBER}"
    assert (kept[0] / "models/models/before").read_text() == "what was there before"
    assert kept[1].read_bytes() == before[f".backup/{JOURNAL}"]
    assert (again.returncode, "There is nothing to settle" in again.stdout) == (0, True)
    assert sorted(before.values()) == sorted(files(damaged.folder).values())


@pytest.mark.process
def test_a_restore_of_the_encrypted_file_waits_for_who_changes_it(tmp_path: Path) -> None:
    made = Checkout.create(tmp_path)
    made.create_backup()
    before = (made.folder / "secrets.enc.yaml").read_bytes()
    held = Store(made.folder, made.folder / "secrets.enc.yaml").locked("invoke secrets.edit")

    with held:
        words = ("backup.restore", "latest", "--force", "--lock-wait", "0", "--component")
        refused, done = made.invoke(*words, "secrets"), made.invoke(*words, "models")

    assert (refused.returncode, "secrets.enc.yaml is locked by" in refused.stderr) == (7, True), refused.stderr
    assert "invoke secrets.edit" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert (made.folder / "secrets.enc.yaml").read_bytes() == before
