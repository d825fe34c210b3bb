"""A component that has lost its data is no good backup of it: the decision, and what a user sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from conche.backup.history import ACCEPTED, Known, amount, history, judged, shrinkage
from conche.backup.manifest import Artifact, ComponentRecord, Link, Manifest, Omission
from conche.backup.mounts import mount_of, unmounted
from conche.stack import Backup, Component, Minimum
from tests.backup.checkouts import Checkout
from tests.backup.test_prune import aged


def packed(size: int, entries: int, file: str = "data/data.tar.gz") -> Artifact:
    return Artifact(path=file, size=100, sha256="", members=entries, content=size, pieces="100")


def archive(*artifacts: Artifact) -> ComponentRecord:
    return ComponentRecord(driver="archive", artifacts=artifacts)


def dumped(size: int, **facts: str) -> ComponentRecord:
    file = Artifact(path="db/db.dump.gz", size=size, sha256="", content=size, pieces="1")
    return ComponentRecord(driver="command", artifacts=(file,), facts=facts)


def asked(command: str, check: str) -> ComponentRecord:
    return dumped(900, check=check, **{"check asked": command})


def counted(check: str) -> ComponentRecord:
    """By a driver's own check."""
    return asked("rows one", check)


def own(check: str) -> ComponentRecord:
    """By a check that somebody wrote."""
    return asked("one", check)


def files(*sizes: int, driver: str = "files") -> ComponentRecord:
    artifacts = tuple(Artifact(path=f"f/{place}", size=size, sha256="") for place, size in enumerate(sizes))
    return ComponentRecord(driver=driver, artifacts=artifacts)


SRC = packed(1_000_000, 50, "code/src.tar.gz")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (archive(packed(300_000, 40)), archive(packed(0, 1)), "0 B in 1 entry, down from 300 kB in 40 entries"),
        (archive(packed(300_000, 40)), archive(packed(0, 0)), "is empty: 0 B in 1 entry"),
        (archive(packed(300_000, 40)), archive(packed(29_000, 40)), "has lost most of its data: 29.0 kB"),
        (archive(packed(300_000, 40)), archive(packed(300_000, 3)), "300 kB in 3 entries, down from 300 kB in 40"),
        (archive(packed(300_000, 40)), archive(packed(30_000, 4)), ""),
        (archive(packed(0, 1)), archive(packed(0, 1)), ""),
        (archive(packed(5, 1)), archive(packed(300_000, 40)), ""),
        (archive(SRC, packed(50, 9, "code/data.tar.gz")), archive(SRC, packed(0, 1, "code/data.tar.gz")), "in code/"),
        (archive(SRC, packed(50, 9, "code/data.tar.gz")), archive(SRC), ""),
        (dumped(50_000), dumped(900), "has lost most of its data: 900 B in 1 entry, down from 50.0 kB in 1"),
        (dumped(50_000), dumped(0), "is empty"),
        (dumped(50_000, form="cold"), dumped(900, form="online"), ""),
        (dumped(50_000), files(900), ""),
        (files(500, 500), files(0, 0), "is empty"),
        (files(500, 500), files(400), ""),
        (files(5000, driver="logs"), files(1, driver="logs"), ""),
        (files(5000), ComponentRecord(driver="files", absent=True), ""),
        (counted("db a.b 500\ndb a.c 2"), counted("db a.b 0\ndb a.c 0"), "0, down from 502"),
        (counted("db a.b 500\ndb a.c 2"), counted("db a.b 40\ndb a.c 2"), "42, down from 502"),
        (counted("db a.b 500\ndb a.c 2"), counted("db a.b 60"), ""),
        (counted("db a.b 500"), counted(""), "has lost most of its rows: 0, down from 500"),
        (counted("db a.b 0"), counted(""), ""),
        (own("12 tables, 7000 rows"), own("12 tables, 1 rows"), ""),
        (own("2 tables, 7 rows"), own("0 tables, 0 rows"), "'0 tables, 0 rows', and answered '2 tables, 7 rows'"),
        (own("2948501733"), own("118223941"), ""),
        (own("500|2026-01-01"), own("0|"), "'0|', and answered '500|2026-01-01'"),
        (own("500|2026-01-01"), own("1|2026-01-02"), ""),
        (own("500|2026-01-01"), own("no such table"), ""),
        (own("0|"), own("0|"), ""),
        (dumped(900), own("0|"), ""),
        (own("9" * 5000), own("0" * 5000), "is empty: its check answers '000"),
        (own("500|"), dumped(900), ""),
        (asked("rows one", "a 500"), asked("rows another", "a 5"), ""),
        (dumped(900, check="app.events 500"), dumped(900, check="app.orders 4"), ""),
    ],
)  # fmt: skip
def test_what_looks_like_lost_data(before: ComponentRecord, now: ComponentRecord, said: str) -> None:
    found = shrinkage(before, now)

    assert said in found
    assert bool(found) == bool(said)


def test_links_are_entries() -> None:
    links = tuple(Link(path=f"f/{place}", target="x") for place in range(3))

    assert str(amount(ComponentRecord(driver="files", links=links))) == "0 B in 3 entries"


def test_an_accepted_loss_is_the_new_measure_and_one_that_is_not_accepted_never_is() -> None:
    full, empty, small = archive(packed(300_000, 40)), archive(packed(0, 1)), archive(packed(50, 2))
    before = Known("monday", full)
    refused = judged("data", small, before, None, accepted=False)
    accepted = judged("data", small, before, None, accepted=True)

    def days(*records: ComponentRecord) -> dict[str, Manifest]:
        return {
            f"day {day}": Manifest(
                name="of-the-test", stack="s", kind="daily", created=datetime(2026, 3, day, tzinfo=UTC), seconds=0,
                complete=not record.harm, components={"data": record},
            )
            for day, record in enumerate(records, 1)
        }  # fmt: skip

    assert (refused.harm[0].endswith("300 kB in 40 entries in monday"), accepted.harm) == (True, ())
    assert accepted.left_out[0].why.startswith(ACCEPTED)
    assert history(days(full, refused, empty).items()).newest["data"].backup == "day 1"
    assert history(days(full, accepted, small).items()).newest["data"].backup == "day 3"
    assert history(days(full, accepted, empty).items()).newest["data"].backup == "day 2"


@pytest.mark.parametrize(
    ("least", "said"),
    [
        ({"size": "10 kB"}, ["db is below its min: 900 B in 1 entry, but 10.0 kB in 0 entries needed"]),
        ({"entries": 2}, ["db is below its min: 900 B in 1 entry, but 0 B in 2 entries needed"]),
        ({"size": 900, "entries": 1}, []),
    ],
)
def test_a_component_has_at_least_its_minimum(least: dict[str, object], said: list[str]) -> None:
    judgement = judged("db", dumped(900), None, Minimum.model_validate(least), accepted=True)

    assert list(judgement.harm) == said


def test_omissions_of_the_driver_stay() -> None:
    record = dumped(900).model_copy(update={"left_out": (Omission(name="x", why="is a socket"),)})

    judgement = judged("db", record, Known("b", dumped(50_000)), None, accepted=False)

    assert [one.name for one in judgement.left_out] == ["x", "db"]


def test_the_nearest_mount_above_counts() -> None:
    points = {Path("/"), Path("/mnt/my disk"), Path("/srv/checkout/bound")}

    assert mount_of(Path("/mnt/my disk/photos/2026"), points) == Path("/mnt/my disk")
    assert mount_of(Path("/srv/checkout/bound"), points) == Path("/srv/checkout/bound")
    assert mount_of(Path("/srv/checkout/boundless"), points) == Path("/")


def test_a_path_that_is_on_no_other_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "process").symlink_to("/proc/self")
    (tmp_path / "data").mkdir()
    wanted = {"driver": "files", "paths": ("data", "gone/*.db", "process/stat*"), "mounted": True}
    component = Component.model_validate(wanted)

    assert list(unmounted(tmp_path, component)) == ["data", "gone/*.db"]
    assert list(unmounted(tmp_path, Component.model_validate({**wanted, "mounted": False}))) == []


def test_only_what_is_here_can_be_wanted_mounted() -> None:
    volume = {"driver": "volume", "volume": "v", "environment": "dev", "mounted": True}

    with pytest.raises(ValueError, match="does not take mounted"):
        Backup.model_validate({"components": {"v": volume}})


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout.create(tmp_path)
    made.replace("stack.yaml", "    code:", "    data: {driver: archive, paths: [data]}\n    code:")
    made.write("data/one.db", "1" * 200_000)
    made.write("data/two.db", "2" * 100_000)
    return made


def emptied(checkout: Checkout, folder: str) -> None:
    shutil.rmtree(checkout.folder / folder)
    (checkout.folder / folder).mkdir()


@pytest.mark.process
def test_an_empty_folder_degrades_until_that_is_accepted(checkout: Checkout) -> None:
    first = checkout.create_backup()
    emptied(checkout, "data")

    degraded = [checkout.invoke("backup.create") for _ in range(2)]
    latest = max(checkout.backups(), key=lambda one: one.name).name
    key = str(checkout.folder.parent / "recovery.key")
    wanted = ("--component", "data", "--component", "code", "--recovery-key", key)
    refused = checkout.invoke("backup.restore", "latest", *wanted, "--force")
    as_it_is = checkout.invoke("backup.restore", "latest", "--component", "data", "--force", "--degraded")
    brought_back = checkout.invoke("backup.restore", first.name, "--component", "data", "--force")
    whole = (checkout.folder / "data/one.db").stat().st_size
    emptied(checkout, "data")
    unknown = checkout.invoke("backup.create", "--accept-smaller", "date")
    accepted = checkout.invoke("backup.create", "--accept-smaller", "data")
    after = checkout.invoke("backup.create")

    assert [done.returncode for done in (*degraded, unknown, accepted, after)] == [3, 3, 6, 0, 0]
    for done in degraded:
        assert "data: data is empty: 0 B in" in done.stdout
        assert f"down from 300 kB in 3 entries in {first.name}" in done.stdout
        assert "invoke backup.create daily --accept-smaller data" in done.stdout
    assert "no-such-component" in unknown.stderr
    assert (refused.returncode, "error [component-degraded]" in refused.stderr) == (2, True), refused.stderr
    from_here, from_there, as_they_are = refused.stderr.split("Next: ")[1].strip().splitlines()
    assert from_here == f"invoke backup.restore {latest} --component code --recovery-key {key} --force"
    assert from_there.strip() == f"invoke backup.restore {first.name} --component data --recovery-key {key} --force"
    assert as_they_are.strip().endswith("--force --degraded    # as it is there")
    assert (as_it_is.returncode, brought_back.returncode, whole) == (0, 0, 200_000), as_it_is.stderr
    assert f"data is restored as it is in {latest}" in as_it_is.stderr
    assert checkout.invoke("backup.restore", "latest", "--component", "data", "--force").returncode == 0


@pytest.mark.process
def test_files_that_are_gone_are_said_with_what_there_was(checkout: Checkout) -> None:
    checkout.create_backup()
    emptied(checkout, "models")

    done = checkout.invoke("backup.create")

    [first, _] = sorted(checkout.backups(), key=lambda one: one.name)
    refused = checkout.invoke("backup.restore", "latest", "--force")
    named = checkout.invoke("backup.restore", "latest", "--component", "models", "--force")
    shutil.rmtree(first)
    restored = checkout.invoke("backup.restore", "latest", "--force", "--json")

    assert done.returncode == 3
    assert "models: models is empty: nothing was found; factory_daily_" in done.stdout
    assert (refused.returncode, f"invoke backup.restore {first.name} --component models" in refused.stderr) == (2, True)
    assert (named.returncode, "error [component-degraded]" in named.stderr) == (2, True), named.stderr
    value = json.loads(restored.stdout)
    assert (restored.returncode, "models" in value["value"]["components"]) == (3, False), restored.stderr
    assert [one for one in value["warnings"] if one.startswith("models is not in ")]


@pytest.mark.process
def test_seven_days_without_the_disk_leave_the_backup_that_has_its_data(checkout: Checkout) -> None:
    checkout.replace("stack.yaml", "backup:\n", "backup:\n  retention: {daily: {days: 2, least: 2}}\n")
    good = aged(checkout.create_backup(), 9)
    assert checkout.invoke("backup.verify").returncode == 0
    emptied(checkout, "data")
    for days in (8, 7, 6):
        done = checkout.invoke("backup.create", "--json")
        assert done.returncode == 3
        aged(Path(json.loads(done.stdout)["value"]["folder"]), days)
    assert checkout.invoke("backup.verify").returncode == 0

    assert checkout.invoke("backup.create").returncode == 3
    assert good.is_dir()
    assert checkout.invoke("backup.status").returncode == 1


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_component_that_is_wanted_mounted(checkout: Checkout) -> None:
    checkout.replace("stack.yaml", "paths: [data]", "paths: [data], mounted: true")
    away = checkout.invoke("backup.create")
    data = checkout.folder / "data"
    if subprocess.run(["mount", "--bind", str(data), str(data)], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        there = checkout.invoke("backup.create")
    finally:
        subprocess.run(["umount", str(data)], check=True)

    assert (away.returncode, there.returncode) == (3, 0), there.stderr
    assert "data: data is not mounted" in away.stdout
