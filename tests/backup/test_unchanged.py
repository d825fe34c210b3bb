"""What is unchanged is not read again, and no change is missed for that, however it hides."""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conche import syscalls
from conche.backup import entries, sight, target, unchanged
from conche.backup.create import CreateOptions, create
from conche.backup.mac import Keys
from conche.backup.site import Site, open_site
from conche.backup.target import CheckRecord
from conche.backup.verify import check
from conche.command import Invocation
from conche.files import state_folder
from conche.output import Output
from conche.secret import Secret

STACK = """\
name: factory
secrets: {declared: {alpha: {required: false}}}
backup:
  components:
    models: {driver: files, paths: [models]}
    code: {driver: archive, paths: [src, scripts]}
environments: {dev: {compose: [compose.yaml]}}
"""
LARGE = b"0123456789abcdef" * 100_000
SOURCES = ("models", "src", "scripts")
KEPT_BY = sight.KEPT_BY


@dataclass
class Factory:
    """A checkout, and which of its files were read since somebody asked."""

    folder: Path
    reading: list[str] = field(default_factory=list)

    @property
    def call(self) -> Invocation:
        return Invocation(self.folder, Output("backup.create"), yes=True)

    @property
    def site(self) -> Site:
        return open_site(self.call)

    def write(self, name: str, content: bytes) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)

    def back_up(self, kind: str = "daily", *, code: int = 0, **options: Any) -> Path:
        self.reading.clear()
        outcome = create(self.call, kind, CreateOptions(**options))
        assert outcome.exit_code == code, outcome.lines
        assert isinstance(outcome.value, dict)
        return Path(str(outcome.value["folder"]))

    @property
    def read(self) -> set[str]:
        """The files that the last backup has read."""
        return set(self.reading)


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
    """A checkout on a file system whose times are believed; what has just been written counts as past."""
    made = Factory(tmp_path / "factory")
    made.write("stack.yaml", STACK.encode())
    made.write("compose.yaml", b"services: {web: {image: x}}\n")
    made.write("tasks.py", b"from conche import namespace\nns = namespace(__file__)\n")
    made.write("src/app/one.py", b"print('one')\n")
    made.write("src/app/two.py", b"print('two')\n")
    made.write("src/large.bin", LARGE)
    made.write("scripts/run.sh", b"#!/bin/sh\n")
    made.write("models/one.pkl", b"model one")
    made.write("models/two.pkl", b"model two")
    made.write("models/large.pkl", LARGE)
    (made.folder / "models/latest").symlink_to("one.pkl")
    (made.folder / "src/latest").symlink_to("app/one.py")
    monkeypatch.setattr(sight, "PAST", 0)
    blocks = entries._blocks

    def watched(stream: Any, before: Any, of: tuple[str, Any, bytes], reading: Any) -> Iterator[bytes]:
        made.reading.append(of[0])
        yield from blocks(stream, before, of, reading)

    monkeypatch.setattr(entries, "_blocks", watched)
    # In a container it is one that is laid over others, which notes times as well, but not of what comes through mmap.
    monkeypatch.setattr(sight, "KEPT_BY", sight.KEPT_BY | {syscalls.file_system(str(tmp_path))})
    return made


def everything(factory: Factory) -> set[str]:
    """Every file that a backup without an earlier one reads."""
    found = (path for top in SOURCES for path in (factory.folder / top).rglob("*"))
    return {str(path.relative_to(factory.folder)) for path in found if path.is_file() and not path.is_symlink()}


def state(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a folder: kind, mode, time, attributes and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))
        attributes = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
        found[str(path.relative_to(folder))] = (oct(seen.st_mode), seen.st_mtime_ns, content, attributes)
    return found


def restored(factory: Factory, backup: Path, out: Path) -> dict[str, dict[str, tuple[Any, ...]]]:
    """What the archives of a backup hold, and its plain files; of these, what the file system says is in an archive."""
    (out / "tree").mkdir(parents=True)
    for top in ("src", "scripts"):
        subprocess.run(["tar", "--xattrs", "-xpzf", backup / f"code/{top}.tar.gz", "-C", out], check=True)
    found = {top: state(out / top) for top in ("src", "scripts")}
    subprocess.run(["tar", "--xattrs", "-xpzf", backup / "models/.conche-tree.tar.gz", "-C", out], check=True)
    found["models"] = {
        name: (mode, moment, (backup / "models" / name).read_bytes() if content == b"" else content, attributes)
        for name, (mode, moment, content, attributes) in state(out / "tree").items()
    }
    return found


def sources(factory: Factory) -> dict[str, dict[str, tuple[Any, ...]]]:
    return {top: state(factory.folder / top) for top in SOURCES}


def test_what_is_unchanged_is_neither_read_nor_stored_again(factory: Factory, tmp_path: Path) -> None:
    first = factory.back_up()
    assert factory.read == everything(factory)
    records = factory.site.target.find(first.name).read.required().components

    second = factory.back_up()

    assert factory.read == set()
    assert factory.site.target.find(second.name).read.required().components.keys() == records.keys()
    for name, record in factory.site.target.find(second.name).read.required().components.items():
        assert record.model_copy(update={"seconds": 0.0}) == records[name].model_copy(update={"seconds": 0.0})
        for one in record.artifacts:
            assert (second / one.path).samefile(first / one.path), one.path
    assert restored(factory, second, tmp_path / "out") == sources(factory)
    assert check(second, factory.site.target.find(second.name).read.required(), deep=True) == []
    factory.back_up()
    assert factory.read == set()


def rewritten(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[::-1])


def with_its_old_time(path: Path) -> None:
    """As rsync does, or a program that hides what it has done."""
    seen = path.stat()
    rewritten(path)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def replaced(path: Path) -> None:
    """By another file of the same size, owner, mode and time."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def swapped(path: Path) -> None:
    """With another file; a rename changes neither content nor time of either."""
    second, aside = path.with_name(path.name.replace("one", "two")), path.with_name("aside")
    path.rename(aside)
    second.rename(path)
    aside.rename(second)


def swapped_folders(path: Path) -> None:
    (path.parent / "left").mkdir()
    (path.parent / "left/x").write_bytes(b"x")


def punched(path: Path) -> None:
    """A hole, where there was content."""
    subprocess.run(["fallocate", "--punch-hole", "--offset", "0", "--length", "4", str(path)], check=True)


def emptied_and_filled(path: Path) -> None:
    content = path.read_bytes()
    os.truncate(path, 0)
    path.write_bytes(content[:-1] + b"#")


def appended(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def mode_changed(path: Path) -> None:
    path.chmod(0o640)


def attribute_set(path: Path) -> None:
    os.setxattr(path, "user.origin", b"elsewhere")


def attribute_of_folder_set(path: Path) -> None:
    os.setxattr(path.parent, "user.origin", b"elsewhere")


def time_set(path: Path) -> None:
    os.utime(path, (1, 1))


def removed(path: Path) -> None:
    path.unlink()


def added(path: Path) -> None:
    path.with_name("zero").write_bytes(b"")


def renamed(path: Path) -> None:
    path.rename(path.with_name("renamed"))


def linked(path: Path) -> None:
    path.with_name("second").hardlink_to(path)


def folder_mode(path: Path) -> None:
    path.parent.chmod(0o711)


def link_led_elsewhere(path: Path) -> None:
    link = next(one for one in (*path.parent.iterdir(), *path.parent.parent.iterdir()) if one.is_symlink())
    to = str(link.readlink()).replace("one", "two")
    link.unlink()
    link.symlink_to(to)


CHANGES = (
    rewritten, with_its_old_time, replaced, swapped, swapped_folders, punched, emptied_and_filled, appended,
    mode_changed, time_set, removed, added, renamed, linked, folder_mode, attribute_set,
    attribute_of_folder_set, link_led_elsewhere,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_is_missed(factory: Factory, tmp_path: Path, change: Callable[[Path], None]) -> None:
    first = factory.back_up()
    before = sources(factory)
    for name in ("src/app/one.py", "models/one.pkl"):
        change(factory.folder / name)

    second = factory.back_up()

    assert sources(factory) != before
    assert restored(factory, second, tmp_path / "out") == sources(factory)
    assert restored(factory, first, tmp_path / "before") == before
    assert (second / "code/scripts.tar.gz").samefile(first / "code/scripts.tar.gz")
    assert "models/large.pkl" not in factory.read


@pytest.mark.parametrize("name", ["src/large.bin", "models/large.pkl"])
def test_what_is_written_through_memory_is_not_missed(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A page that was written to is no new change for the file system until it has been written out."""
    monkeypatch.setattr(sight, "KEPT_BY", KEPT_BY)
    with (factory.folder / name).open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as memory:
        memory[0:5] = b"first"
        factory.back_up()
        assert name in factory.read
        memory[0:5] = b"later"
        second = factory.back_up()

    assert name in factory.read
    assert restored(factory, second, tmp_path / "out") == sources(factory)


def test_what_has_just_changed_is_read_again(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change could have the same time, as far as it is kept."""
    monkeypatch.setattr(sight, "PAST", 3600 * 10**9)
    factory.back_up()
    factory.back_up()

    assert factory.read == everything(factory)


def test_after_a_clock_was_set_back_what_was_changed_before_is_read_again(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time comes a second time."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3600 * 10**9)
    factory.back_up()
    monkeypatch.setattr(time, "time_ns", now)
    factory.back_up()

    assert factory.read == everything(factory)


@pytest.mark.parametrize("without", [{"KEPT_BY": frozenset()}, {"write_out": lambda _: False}], ids=["kind", "pages"])
def test_where_times_are_not_to_be_believed_everything_is_read(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, without: dict[str, Any]
) -> None:
    for name, value in without.items():
        monkeypatch.setattr(syscalls if name == "write_out" else sight, name, value)
    factory.back_up()
    factory.back_up()

    assert factory.read == everything(factory)


def test_a_file_system_in_memory_is_none_whose_times_are_believed() -> None:
    assert syscalls.file_system("/dev/shm") not in sight.KEPT_BY


@pytest.mark.parametrize(("kind", "options"), [("daily", {"reread": True}), ("monthly", {})], ids=["asked", "monthly"])
def test_everything_is_read_where_somebody_asks_for_it_and_once_a_month(
    factory: Factory, kind: str, options: dict[str, Any]
) -> None:
    first = factory.back_up()
    second = factory.back_up(kind, **options)

    assert factory.read == everything(factory)
    assert (second / "code/src.tar.gz").samefile(first / "code/src.tar.gz")
    factory.back_up()
    assert factory.read == set()


def test_another_rule_for_what_is_left_out_is_followed_at_once(factory: Factory) -> None:
    factory.back_up()
    text = (factory.folder / "stack.yaml").read_text()
    factory.write("stack.yaml", text.replace("scripts]", "scripts], exclude: [two.py]").encode())

    second = factory.back_up()

    assert "src/app/one.py" in factory.read
    listed = subprocess.run(["tar", "tzf", second / "code/src.tar.gz"], capture_output=True, text=True, check=True)
    assert "src/app/two.py" not in listed.stdout
    assert factory.read.isdisjoint({"models/one.pkl", "models/two.pkl"})


def rotten(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the size and time that it had."""
    for path in (backup / "models/one.pkl", backup / "code/src.tar.gz"):
        with_its_old_time(path)


def rotted_on_disk(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was written, and it was not read for a week."""
    rotten(backup, monkeypatch)
    monkeypatch.setattr(unchanged, "_told", lambda *_: "as ever")
    file = next(state_folder().glob("factory/unchanged-*.json"))
    content = json.loads(file.read_text())
    for one in content["components"].values():
        one["places"] = dict.fromkeys(one["places"], "as ever")
    file.write_text(json.dumps(content))
    verified(backup, datetime.now(UTC) - timedelta(days=8))


def gone(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (backup / "models/one.pkl").unlink()
    (backup / "code/src.tar.gz").unlink()


def writable(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (backup / "models/one.pkl").chmod(0o666)
    (backup / "code/src.tar.gz").chmod(0o666)


def a_link(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (backup / "models/one.pkl", backup / "code/src.tar.gz"):
        path.rename(path.with_name("aside"))
        path.symlink_to("aside")


def verified(backup: Path, moment: datetime | None) -> None:
    site = open_site(Invocation(backup.parents[2] / "factory", Output("backup.verify")))
    site.target.note(site.target.find(backup.name), CheckRecord(verified=moment))


@pytest.mark.parametrize("change", [rotten, rotted_on_disk, gone, writable, a_link])
def test_what_is_no_longer_what_was_stored_is_not_taken_over(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]
) -> None:
    first = factory.back_up()
    change(first, monkeypatch)

    second = factory.back_up()

    assert {"models/one.pkl", "src/app/one.py"} <= factory.read
    assert "scripts/run.sh" not in factory.read
    assert restored(factory, second, tmp_path / "out") == sources(factory)
    assert check(second, factory.site.target.find(second.name).read.required(), deep=True) == []
    assert not (second / "models/one.pkl").is_symlink()


def unverified(factory: Factory, backup: Path) -> None:
    verified(backup, None)


def deleted(factory: Factory, backup: Path) -> None:
    factory.site.target.discard(factory.site.target.find(backup.name))


def forged(factory: Factory, backup: Path) -> None:
    """A manifest that says the same in other bytes: it is not the one that was remembered."""
    read = factory.site.target.find(backup.name).read.required()
    (backup / "manifest.json").write_bytes(read.model_copy(update={"revision": "another"}).render())
    verified(backup, datetime.now(UTC))


def from_the_future(factory: Factory, backup: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=2)
    read = factory.site.target.find(backup.name).read.required()
    (backup / "manifest.json").write_bytes(read.model_copy(update={"created": later}).render())
    verified(backup, datetime.now(UTC))
    remembered(factory, manifest=target.digest_of(factory.site.target.find(backup.name)))


def others_may_write(factory: Factory, backup: Path) -> None:
    memory(factory).chmod(0o666)


def nonsense(factory: Factory, backup: Path) -> None:
    memory(factory).write_text('{"format": 1, "conche": "0.1", "mac": "", "components": {"code": [], "models": 7}}')


def of_a_later_version(factory: Factory, backup: Path) -> None:
    content = json.loads(memory(factory).read_text())
    memory(factory).write_text(json.dumps({**content, "format": 9, "conche": "9.0.0"}))


def of_another_version(factory: Factory, backup: Path) -> None:
    remembered(factory, how="0" * 64)


def memory(factory: Factory) -> Path:
    [file] = state_folder().glob("factory/unchanged-*.json")
    return file


def remembered(factory: Factory, **said: str) -> None:
    content = json.loads(memory(factory).read_text())
    for one in content["components"].values():
        one.update(said)
    memory(factory).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [unverified, deleted, forged, from_the_future, others_may_write, nonsense, of_a_later_version, of_another_version],
)
def test_a_backup_or_memory_that_cannot_be_relied_on_counts_for_nothing(
    factory: Factory, change: Callable[[Factory, Path], None]
) -> None:
    first = factory.back_up()
    change(factory, first)

    factory.back_up()

    assert factory.read == everything(factory)


def test_a_component_that_was_degraded_is_taken_from_the_backup_before_it(factory: Factory) -> None:
    first = factory.back_up()
    (factory.folder / "src").rename(factory.folder / "away")
    degraded = factory.back_up(code=3)
    (factory.folder / "away").rename(factory.folder / "src")

    third = factory.back_up()

    assert not (degraded / "code/src.tar.gz").exists()
    # Its folder was renamed, so that is another one for the file system; nothing else of it is.
    assert {name for name in factory.read if not name.startswith("src/")} == set()
    assert (third / "code/src.tar.gz").stat().st_size == (first / "code/src.tar.gz").stat().st_size
    assert (third / "models/one.pkl").samefile(first / "models/one.pkl")


def test_a_file_that_is_left_out_for_what_is_in_it_is_named_again_without_being_read(factory: Factory) -> None:
    factory.write("src/key.txt", b"AGE-SECRET-KEY-1" + b"Q" * 58)
    factory.write("models/key.txt", b"AGE-SECRET-KEY-1" + b"Q" * 58)
    first, second = factory.back_up(), factory.back_up()

    said = [factory.site.target.find(one.name).read.required() for one in (first, second)]
    left = [{(n, one) for n, record in read.components.items() for one in record.left_out} for read in said]
    assert left[0] == left[1]
    assert {one.name for _, one in left[1]} == {"src/key.txt", "key.txt"}
    assert factory.read == {"models/key.txt"}
    assert not (second / "models/key.txt").exists()


def test_it_counts_as_verified_when_its_files_last_were(factory: Factory) -> None:
    first = factory.back_up()
    moment = datetime.now(UTC) - timedelta(days=3)
    verified(first, moment)
    second = factory.back_up()
    third = factory.back_up(reread=True)

    site = factory.site
    assert site.target.record(site.target.find(second.name)).verified == moment
    latest = site.target.record(site.target.find(third.name)).verified
    assert latest is not None
    assert latest > moment + timedelta(days=2)


def test_without_hard_links_plain_files_are_read_and_of_archives_only_their_ends(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory.back_up()

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    second = factory.back_up()

    assert {name for name in everything(factory) if name.startswith("models/")} <= factory.read
    assert "src/app/one.py" not in factory.read
    assert restored(factory, second, tmp_path / "out") == sources(factory)


def test_hard_links_are_hard_links_again(factory: Factory, tmp_path: Path) -> None:
    for name in ("src/app/one.py", "models/one.pkl"):
        linked(factory.folder / name)
    factory.back_up()
    appended(factory.folder / "models/two.pkl")

    second = factory.back_up()

    assert factory.read == {"models/two.pkl"}
    assert restored(factory, second, tmp_path / "out")["src"] == sources(factory)["src"]
    assert (tmp_path / "out/src/app/second").samefile(tmp_path / "out/src/app/one.py")
    assert (tmp_path / "out/tree/second").samefile(tmp_path / "out/tree/one.pkl")
    assert (second / "models/second").read_bytes() == b"model one"


@pytest.mark.parametrize("keys", [Keys(), Keys((Secret("a" * 64),))], ids=["without a key", "with a key"])
def test_what_somebody_else_has_written_into_the_memory_is_not_believed_where_there_is_a_key(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, keys: Keys
) -> None:
    monkeypatch.setattr("conche.backup.site.known_keys", lambda *_: keys)
    factory.back_up()
    factory.back_up()
    assert factory.read == set()
    remembered(factory, by="somebody")

    factory.back_up()

    assert factory.read == (everything(factory) if keys.exist else set())


def test_of_an_archive_only_what_has_changed_is_read(factory: Factory, tmp_path: Path) -> None:
    for number in range(200):
        factory.write(f"src/many/{number:03}.py", f"print({number})\n".encode())
    factory.back_up()
    appended(factory.folder / "src/many/100.py")

    second = factory.back_up()

    assert "src/many/100.py" in factory.read
    assert len(factory.read) < 60  # what is compressed together with it, and the end of the archive
    assert "src/large.bin" not in factory.read
    assert restored(factory, second, tmp_path / "out") == sources(factory)
    known = factory.site.target.find(second.name).read.required()
    assert check(second, known, deep=True) == []
    assert (
        sum(map(int, next(one.pieces for one in known.artifacts() if "src" in one.path).split()))
        == (second / "code/src.tar.gz").stat().st_size
    )


def test_parts_of_an_archive_that_has_rotted_are_not_taken_over(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would get into the new archive, and its digest would fit."""
    first = factory.back_up()
    archive = first / "code/src.tar.gz"
    content = bytearray(archive.read_bytes())
    content[len(content) // 3] ^= 1
    archive.write_bytes(content)
    appended(factory.folder / "src/app/two.py")

    second = factory.back_up()

    assert {"src/large.bin", "src/app/one.py", "src/app/two.py"} <= factory.read
    assert restored(factory, second, tmp_path / "out") == sources(factory)
    assert check(second, factory.site.target.find(second.name).read.required(), deep=True) == []


def test_parts_that_hold_something_else_than_is_remembered_are_not_taken_over(factory: Factory, tmp_path: Path) -> None:
    """Whatever has gone wrong there: no archive is put together that does not unpack."""
    factory.back_up()
    content = json.loads(memory(factory).read_text())
    whole, said, groups = content["components"]["code"]["archives"]["src.tar.gz"]
    moved = [[seen, pieces + 1, *rest] for seen, pieces, *rest in groups]
    content["components"]["code"]["archives"]["src.tar.gz"] = [whole, said, moved]
    memory(factory).write_text(json.dumps(content))
    appended(factory.folder / "src/app/two.py")

    second = factory.back_up()

    assert restored(factory, second, tmp_path / "out") == sources(factory)
    assert check(second, factory.site.target.find(second.name).read.required(), deep=True) == []


@pytest.mark.parametrize("seed", range(4))
def test_after_any_changes_a_backup_holds_what_there_is(factory: Factory, tmp_path: Path, seed: int) -> None:
    """Twelve backups, each after changes of all kinds in any order."""
    source = random.Random(seed)
    for number in range(60):
        factory.write(f"src/{number % 7}/{number:02}", source.randbytes(source.choice((0, 9, 3000, 40_000, 1_200_000))))
        factory.write(f"models/{number % 5}/{number:02}", source.randbytes(source.choice((0, 9, 3000))))
    for turn in range(12):
        for _ in range(source.choice((0, 1, 3, 20))):
            top = factory.folder / source.choice(("src", "models"))
            files = sorted(path for path in top.rglob("*") if path.is_file() and not path.is_symlink())
            one, two = source.choice(files), source.choice(files)
            source.choice(KINDS)(one, two, source)

        backup = factory.back_up()

        assert restored(factory, backup, tmp_path / str(turn)) == sources(factory), turn
        assert check(backup, factory.site.target.find(backup.name).read.required(), deep=True) == []
        shutil.rmtree(tmp_path / str(turn))


def with_other_content(one: Path, _: Path, source: random.Random) -> None:
    seen = one.stat()
    one.write_bytes(source.randbytes(seen.st_size))
    os.utime(one, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def cut(one: Path, _: Path, source: random.Random) -> None:
    os.truncate(one, one.stat().st_size // 2)


def with_another_mode(one: Path, _: Path, source: random.Random) -> None:
    one.chmod(source.choice((0o600, 0o644, 0o755)))


def with_another_time(one: Path, _: Path, source: random.Random) -> None:
    os.utime(one, ns=(source.randrange(10**18), source.randrange(10**18)))


def with_another_name(one: Path, _: Path, source: random.Random) -> None:
    one.rename(one.with_name(f"n{source.randrange(1000)}"))


def moved(one: Path, two: Path, _: random.Random) -> None:
    one.rename(two.with_name(one.name))


def without(one: Path, _: Path, source: random.Random) -> None:
    if one.name not in ("one.py", "one.pkl"):
        one.unlink()


def beside(one: Path, _: Path, source: random.Random) -> None:
    one.with_name(f"a{source.randrange(1000)}").write_bytes(source.randbytes(100))


def exchanged(one: Path, two: Path, _: random.Random) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    if one != two:
        two.rename(one)
    aside.rename(two)


def with_a_second_name(one: Path, _: Path, source: random.Random) -> None:
    other = one.with_name(f"l{source.randrange(1000)}")
    if not other.exists():
        other.hardlink_to(one)


KINDS: tuple[Callable[[Path, Path, random.Random], None], ...] = (
    with_other_content, with_other_content, cut, with_another_mode, with_another_time, with_another_name, moved,
    without, beside, exchanged, with_a_second_name,
)  # fmt: skip
