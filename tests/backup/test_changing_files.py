"""Sources that change while they are read: what is stored was the file at one moment, or it is said to be missing."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import TarInfo
from types import SimpleNamespace
from typing import cast

import pytest

from conche.backup.archive import ArchiveWriter, compressing
from conche.backup.drivers import Dumping
from conche.backup.drivers.local import _matching
from conche.backup.entries import Entry, local_entries
from conche.backup.reading import Reading
from conche.backup.site import Site
from conche.backup.storing import store
from conche.stack import Component

OLD, NEW = b"a" * (3 << 20), b"b" * (3 << 20)


def during(entry: Entry, change: Callable[[], None]) -> Entry:
    """The same entry; the change comes after its first block, once."""
    read = entry.read
    changed: list[bool] = []
    assert read is not None

    def reading() -> tuple[TarInfo, Iterator[bytes]]:
        info, blocks = read()

        def through() -> Iterator[bytes]:
            for block in blocks:
                yield block
                if not changed:
                    changed.append(True)
                    change()

        return info, through()

    return Entry(entry.info, reading)


def until_later_than(file: Path) -> None:
    """Until a change gets another time than the file has: kernels before 6.13 know only that of the last tick."""
    probe = file.parent.with_name("probe")
    for _ in range(1_000_000):
        probe.touch()
        if probe.stat().st_ctime_ns > file.stat().st_ctime_ns:
            return
    pytest.fail("the file system's clock stands still")


def stored(tmp_path: Path, change: Callable[[Path], None], *, before: bool = False) -> tuple[bytes | None, list[str]]:
    """What an archive has of a file that is changed before or while it is read, and why it was left out."""
    (tmp_path / "src").mkdir()
    file = tmp_path / "src/file"
    file.write_bytes(OLD)
    until_later_than(file)
    reading = Reading()
    with compressing(tmp_path / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        for entry in local_entries(tmp_path, "src", reading):
            if entry.read is not None and before:
                change(file)
            moving = entry.read is not None and not before
            store([during(entry, lambda: change(file)) if moving else entry], writer, reading)
        writer.finish()
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "xzf", tmp_path / "a.tar.gz", "-C", out], check=True)
    place = out / "src/file"
    assert all(one.harmful for one in reading.left_out)
    return place.read_bytes() if place.exists() else None, [one.why for one in reading.left_out]


def rewritten(file: Path) -> None:
    file.write_bytes(NEW)


def rewritten_with_its_old_time(file: Path) -> None:
    seen = file.stat()
    file.write_bytes(NEW)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def grown(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"more")


def truncated(file: Path) -> None:
    os.truncate(file, 1 << 20)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize(
    ("change", "then"),
    [
        (rewritten, NEW),
        (rewritten_with_its_old_time, NEW),
        (grown, OLD + b"more"),
        (truncated, OLD[: 1 << 20]),
        (emptied, b""),
    ],
)
def test_what_changes_while_it_is_read_is_read_again(
    tmp_path: Path, change: Callable[[Path], None], then: bytes
) -> None:
    assert stored(tmp_path, change) == (then, [])


def replaced(file: Path) -> None:
    file.with_name("new").write_bytes(NEW)
    file.with_name("new").replace(file)


def folder_renamed(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))


@pytest.mark.parametrize("change", [Path.unlink, replaced, folder_renamed])
def test_what_loses_its_name_while_it_is_read_is_what_it_was(tmp_path: Path, change: Callable[[Path], None]) -> None:
    assert stored(tmp_path, change) == (OLD, [])


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/hostname")


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (Path.unlink, "cannot be read: No such file or directory"),
        (folder_renamed, "cannot be read: No such file or directory"),
        (link, "cannot be read: Too many levels of symbolic links"),
        (fifo, "changed while it was read, 3 times"),
        (folder, "cannot be read: Is a directory"),
    ],
)
def test_what_is_something_else_by_the_time_it_is_opened_is_said_and_not_waited_for(
    tmp_path: Path, change: Callable[[Path], None], why: str
) -> None:
    assert stored(tmp_path, change, before=True) == (None, [why])


class Rotating(Reading):
    """Files are gone once they have been looked at."""

    root: Path

    def excludes(self, name: str) -> bool:
        (self.root / name).unlink(missing_ok=True)
        return False


def test_a_log_that_goes_while_the_folder_is_listed_is_none_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "app.log.1").write_text("rotated")
    reading = Rotating()
    reading.root = tmp_path
    component = Component(driver="logs", paths=("*.log*",))
    task = Dumping(cast("Site", SimpleNamespace(root=tmp_path)), "logs", component, tmp_path)

    assert list(_matching(task, "*.log*", reading)) == []
    assert reading.left_out == []


def test_a_link_that_goes_while_it_is_looked_at_is_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other error would be taken for one of the target."""
    (tmp_path / "current").symlink_to("first")
    reading, gone = Reading(), FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    monkeypatch.setattr(os, "readlink", lambda *_: raised(gone))

    assert list(local_entries(tmp_path, "current", reading)) == []
    assert [(one.name, one.harmful) for one in reading.left_out] == [("current", True)]


def raised(error: Exception) -> str:
    raise error
