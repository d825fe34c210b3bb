"""Files that few backups think of go in and come out as they were, or are named as left out; nothing is waited for."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tarfile import TarInfo
from typing import Any

import pytest

from conche.backup import manifest
from conche.backup.archive import Archive, ArchiveWriter, compressing
from conche.backup.entries import local_entries
from conche.backup.folder import FolderWriter
from conche.backup.reading import Reading
from conche.backup.storing import store
from conche.backup.strict import DEEPEST, Limits
from conche.backup.verify import check
from tests.backup.checkouts import Checkout, tree
from tests.backup.hostile import deep_folder
from tests.backup.reading import extract

SMALL_FILES = 20_000
"""Of the 100,000 of the fault matrix: in CI those would take most of a minute, and find nothing else."""


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    yield Checkout.create(tmp_path)
    # Not shutil's: pytest could not remove a folder that is deeper than Python's recursion.
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


def code(checkout: Checkout) -> dict[str, Any]:
    """What the manifest of the newest backup says of the component `code`."""
    folder = max(checkout.backups(), key=lambda path: path.name)
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["components"]["code"]
    return found


def restored(checkout: Checkout) -> None:
    done = checkout.invoke("backup.restore", "latest", "--component", "code", "--force")
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_a_sparse_file_of_10_gb_is_neither_read_nor_written_in_full(checkout: Checkout) -> None:
    sparse = checkout.folder / "src/sparse"
    with sparse.open("wb") as stream:
        stream.write(b"begin")
        stream.seek(5 << 30)
        stream.write(b"middle")
        stream.truncate(10 << 30)
    folder = checkout.create_backup()
    sparse.unlink()

    restored(checkout)

    assert (folder / "code/src.tar.gz").stat().st_size < 20_000_000
    assert sparse.stat().st_size == 10 << 30
    assert sparse.stat().st_blocks * 512 < 1 << 20
    with sparse.open("rb") as stream:
        assert stream.read(5) == b"begin"
        assert stream.seek(5 << 30, os.SEEK_DATA) == 5 << 30
        assert stream.read(6) == b"middle"


@pytest.mark.process
def test_odd_names_special_files_and_second_names(checkout: Checkout) -> None:
    source = checkout.folder / "src/odd"
    source.mkdir()
    names = [b"new\nline", b"not-utf8-\xff\xfe", b"n" * 255, "a\u0301".encode(), "\u00e1".encode(), b"-rf", b"'\"$(x)`"]
    for name in names:
        (source / os.fsdecode(name)).write_bytes(name)
    os.link(source / "-rf", source / "second name")
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        descriptor = os.open(source, os.O_RDONLY)  # an address has 108 bytes at most
        bound.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
    before = tree(source, without=("fifo", "socket"))

    checkout.create_backup()
    for path in source.iterdir():
        path.unlink()
    restored(checkout)

    assert tree(source) == before
    assert (source / "second name").read_bytes() == b"-rf"
    assert {(one["name"], one["why"]) for one in code(checkout)["left_out"] if "odd" in one["name"]} == {
        ("src/odd/fifo", "is a FIFO"), ("src/odd/socket", "is a socket"),
    }  # fmt: skip


@pytest.mark.process
def test_a_name_that_a_manifest_cannot_list_comes_back_too(checkout: Checkout) -> None:
    odd = checkout.folder / "models" / os.fsdecode(b"not-utf8-\xff.pkl")
    odd.write_text("x")
    (checkout.folder / "models/new\nline.pkl").write_text("y")
    before = tree(checkout.folder / "models", without=())

    folder = checkout.create_backup()
    odd.unlink()
    done = checkout.invoke("backup.restore", "latest", "--component", "models", "--force")

    assert done.returncode == 0, done.stderr
    assert tree(checkout.folder / "models", without=()) == before
    assert (folder / "models/new\nline.pkl").read_text() == "y"
    assert checkout.invoke("backup.verify", "--deep").returncode == 0


@pytest.mark.process
@pytest.mark.parametrize(
    ("depth", "name"),
    [(30, "d" * 200), (DEEPEST, "d"), (1_200, "d")],
    ids=["a path of 6,000 bytes", "one folder too deep", "deeper than Python's recursion"],
)
def test_what_lies_too_deep_is_said_and_the_rest_comes_back(checkout: Checkout, depth: int, name: str) -> None:
    deep_folder(checkout.folder / "src", depth, name)

    made = checkout.invoke("backup.create")
    verified = checkout.invoke("backup.verify", "--deep")
    checkout.write("src/app/main.py", "spoiled")
    restored(checkout)

    assert (made.returncode, "Traceback" in made.stderr) == (3, False), made.stderr
    assert "DEGRADED" in made.stdout
    assert len([one for one in code(checkout)["left_out"] if one["harmful"]]) == 1
    assert verified.returncode == 0, verified.stdout
    assert (checkout.folder / "src/app/main.py").read_text() == "print('one')\n"


@pytest.mark.process
def test_the_deepest_folder_that_is_taken_comes_back(checkout: Checkout) -> None:
    deep_folder(checkout.folder / "src", DEEPEST - 2, "d")
    before = tree(checkout.folder / "src", without=(".env",))

    checkout.create_backup()
    restored(checkout)

    assert tree(checkout.folder / "src", without=(".env",)) == before


@pytest.mark.process
@pytest.mark.parametrize("target", ["/etc/hostname", "../../elsewhere", "app/../../../elsewhere"])
def test_a_link_that_leads_outside_does_not_make_the_backup_useless(checkout: Checkout, target: str) -> None:
    (checkout.folder / "src/out").symlink_to(target)
    (checkout.folder / "src/in").symlink_to("app/main.py")

    made = checkout.invoke("backup.create")
    verified = checkout.invoke("backup.verify", "--deep")
    checkout.write("src/app/main.py", "spoiled")
    restored(checkout)

    assert made.returncode == 3
    assert "code: src/out is a link that leads outside" in made.stdout
    assert verified.returncode == 0, verified.stdout
    assert (checkout.folder / "src/in").read_text() == "print('one')\n"


def test_links_of_a_volume_may_lead_anywhere_and_are_not_followed(tmp_path: Path) -> None:
    archive, canary = tmp_path / "a.tar.gz", tmp_path / "canary"
    canary.mkdir()
    link = tarfile.TarInfo("localtime")
    link.type, link.linkname = tarfile.SYMTYPE, str(canary)
    with compressing(archive) as compressor:
        writer = ArchiveWriter(compressor)
        writer.add(link)
        made = writer.finish()
    (tmp_path / "into").mkdir()

    extract(archive, tmp_path / "into", Limits(made.members, made.content, exact=True, links_out=True))

    assert (tmp_path / "into/localtime").readlink() == canary
    assert list(canary.iterdir()) == []


def archived(folder: Path, reading: Reading) -> Archive:
    """`src` of a folder as `a.tar.gz` in it."""
    with compressing(folder / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        store(local_entries(folder, "src", reading), writer, reading)
        return writer.finish()


def highest() -> int:
    """Memory that this process has had at most, in kB. (`ru_maxrss` is handed down by whoever starts a program.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def there_and_back(folder: Path) -> tuple[int, int, int, int]:
    """Archive `src` and extract it: members, bytes of content, number of what was left out, growth of memory in kB."""
    before, reading = highest(), Reading()
    made = archived(folder, reading)
    (folder / "out").mkdir()
    walked = extract(folder / "a.tar.gz", folder / "out", Limits(made.members, made.content, exact=True))
    return walked.members, made.content, len(reading.left_out), highest() - before


def measured(folder: Path) -> tuple[int, int, int, int]:
    """The same in a process of its own: another test of this one may have had more memory already."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(there_and_back, folder).result()


@pytest.mark.large
def test_many_small_files_stay_within_memory(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / f"src/{folder}").mkdir(parents=True)
        for number in range(SMALL_FILES // 20):
            (tmp_path / f"src/{folder}/{number}").write_bytes(number.to_bytes(4, "big") * 1024)

    members, _, left_out, growth = measured(tmp_path)

    assert (members, left_out) == (SMALL_FILES + 21, 0)
    assert (tmp_path / "out/src/19/7").read_bytes() == (7).to_bytes(4, "big") * 1024
    assert growth < 60_000


@pytest.mark.large
def test_a_large_dense_file_is_never_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with (tmp_path / "src/dense").open("wb") as stream:
        for _ in range(128):
            stream.write(os.urandom(1 << 20))

    _, content, left_out, growth = measured(tmp_path)

    assert (content, left_out) == (128 << 20, 0)
    assert growth < 60_000


@pytest.mark.process
def test_an_empty_file_is_a_file(checkout: Checkout) -> None:
    checkout.write("models/empty.pkl", "")
    checkout.write("src/empty", "")
    folder = checkout.create_backup()

    restored(checkout)

    assert check(folder, manifest.read(folder), deep=True) == []
    assert (folder / "models/empty.pkl").stat().st_size == 0
    assert (checkout.folder / "src/empty").stat().st_size == 0


class Vfat(FolderWriter):
    """A writer to a file system as vfat is: no links, and one name for `A` and `a`."""

    def add(self, info: TarInfo, blocks: Iterable[bytes] = ()) -> None:
        info.name = info.name.lower()
        if info.issym():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), info.name)
        super().add(info, blocks)


def test_what_a_poorer_file_system_cannot_hold_is_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/A.pkl").write_text("large A")
    (tmp_path / "models/a.pkl").write_text("small a")
    (tmp_path / "models/latest").symlink_to("a.pkl")
    reading, writer = Reading(), Vfat(tmp_path / "stored")

    store(local_entries(tmp_path, "models", reading), writer, reading)

    assert (tmp_path / "stored/models/a.pkl").read_text() == "large A"
    assert [(one.name, one.harmful) for one in reading.left_out] == [("models/a.pkl", True), ("models/latest", True)]
    assert [one.name for one in writer.stored] == ["models/a.pkl"]
