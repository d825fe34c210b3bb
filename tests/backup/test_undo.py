"""backup.undo: what a restore has put aside comes back, what is there now is put aside, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conche.backup.exchange import Journal
from tests.backup.checkouts import Checkout, tree

pytestmark = pytest.mark.process

OWN = (".backup", "logs")
PARTS = ("--component=models", "--component=code")


@pytest.fixture
def restored(tmp_path: Path) -> tuple[Checkout, dict[str, str], dict[str, str]]:
    """A checkout after a restore, what it held before, and what it holds now."""
    made = Checkout.create(tmp_path)
    made.create_backup()
    made.write("src/app/main.py", "print('later')\n")
    made.write("models/later.pkl", "later")
    shutil.rmtree(made.folder / "scripts")
    before = tree(made.folder, without=OWN)
    done = made.invoke("backup.restore", "latest", "--force", *PARTS)
    assert done.returncode == 0, done.stderr
    assert "Put them back: invoke backup.undo" in done.stdout
    return made, before, tree(made.folder, without=OWN)


Restored = tuple[Checkout, dict[str, str], dict[str, str]]


def test_what_was_there_comes_back_and_so_does_what_was_restored(restored: Restored) -> None:
    made, before, after = restored
    assert before != after

    for wanted in (before, after, before):
        done = made.invoke("backup.undo", "--force", "--json")
        value = json.loads(done.stdout)["value"]

        assert (done.returncode, value["components"]) == (0, ["models", "code"]), done.stderr
        assert tree(made.folder, without=OWN) == wanted
        assert Path(value["old_data"]).name == f"pre-restore-{value['restore']}"
        assert [one.name for one in (made.folder / ".backup").glob("pre-restore-*")] == [Path(value["old_data"]).name]


def test_what_no_backup_holds_stays_in_its_place(restored: Restored) -> None:
    made, before, _ = restored
    made.write("src/app/.env", "TOKEN=later\n")

    done = made.invoke("backup.undo", "--force")

    found = tree(made.folder, without=OWN)
    assert done.returncode == 0, done.stderr
    assert (made.folder / "src/app/.env").read_text() == "TOKEN=later\n"
    assert {name: one for name, one in found.items() if name != "src/app/.env"} == before


def test_a_dry_run_shows_it_and_changes_nothing(restored: Restored) -> None:
    made, _, _ = restored
    before = tree(made.folder)

    done = made.invoke("backup.undo", "--dry-run", "--json")
    unsure = made.invoke("backup.undo")

    steps = [(one["action"], one["subject"], one["destroys"]) for one in json.loads(done.stdout)["plan"]]
    assert steps == [("exchange", "component models", True), ("exchange", "component code", True)]
    assert "as before the restore of factory_daily_" in done.stdout
    assert (unsure.returncode, "--force" in unsure.stderr) == (2, True), unsure.stderr
    assert tree(made.folder) == before


def test_the_next_complete_backup_ends_it(restored: Restored) -> None:
    made, _, _ = restored
    made.create_backup()

    done = made.invoke("backup.undo", "--force")

    assert (done.returncode, "error [no-such-restore]" in done.stderr) == (6, True), done.stderr
    assert "Next: invoke backup.list" in done.stderr
    assert list((made.folder / ".backup").glob("*.json")) == []


def test_each_of_several_is_undone_by_its_number(restored: Restored) -> None:
    made, before, _ = restored
    number = next((made.folder / ".backup").glob("pre-restore-*")).name.removeprefix("pre-restore-")
    made.write("models/later.pkl", "later still")
    between = tree(made.folder, without=OWN)
    assert made.invoke("backup.restore", "latest", "--force", *PARTS).returncode == 0

    unknown = made.invoke("backup.undo", f"{number}1", "--force")
    newest = made.invoke("backup.undo", "--force")
    then = tree(made.folder, without=OWN)
    first = made.invoke("backup.undo", number, "--force")

    assert (unknown.returncode, number in unknown.stderr) == (6, True)
    assert (newest.returncode, then) == (0, between), newest.stderr
    assert (first.returncode, tree(made.folder, without=OWN)) == (0, before), first.stderr


def test_one_that_cannot_be_taken_back_is_left_with_all_that_was_put_aside(restored: Restored) -> None:
    made, _, after = restored
    own = made.folder / ".backup"
    [old], _ = Journal.restored(own)
    Journal("20301231T000000000000", old.components, begun=True, stuck="why", again=old.number).write(own)

    refused = made.invoke("backup.undo", "--force")
    left = made.invoke("backup.settle", "--as-it-is", "--json")
    made.create_backup()

    assert (refused.returncode, "error [restore-unsettled]" in refused.stderr) == (2, True), refused.stderr
    kept = own / f"not-taken-back-{old.number}"
    assert json.loads(left.stdout)["value"]["kept"] == [str(kept)]
    assert (kept / "models/models/later.pkl").read_text() == "later"
    assert tree(made.folder, without=OWN) == after
    assert list(own.glob("*.json")) == []


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_nothing_is_touched_where_not_all_of_it_is_there_any_more(restored: Restored, how: str) -> None:
    made, _, _ = restored
    if how == "deleted":
        shutil.rmtree(next((made.folder / ".backup").glob("pre-restore-*/models")))
    else:
        made.folder.rename(made.folder.with_name("moved"))
        made = Checkout(made.folder.with_name("moved"), made.recovery)
    before = tree(made.folder)

    done = made.invoke("backup.undo", "--force")

    assert (done.returncode, "error [copy-gone]" in done.stderr) == (6, True), done.stderr
    assert tree(made.folder) == before
