"""Files are complete or absent, private from their first byte, and keep their owner and mode."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conche.errors import Refused
from conche.files import write_atomic
from conche.texts import read_text

REPOSITORY = Path(__file__).parents[1]

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextlib.contextmanager
def another_process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a Python process that uses `conche.files`, and kill it with SIGKILL at the end."""
    lines = f"import sys, os\nfrom pathlib import Path\nfrom conche.files import *\n{code}"
    argv = [sys.executable, "-c", lines, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def a_dead_process() -> int:
    with subprocess.Popen(["true"]) as ended:
        pass
    return ended.pid


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# Atomic writes


@settings(max_examples=50, deadline=None)
@given(contents=st.lists(st.binary(max_size=5000), min_size=1, max_size=4), bits=st.sampled_from([0o600, 0o644, 0o755]))
def test_what_is_written_is_what_is_there_and_nothing_beside_it(contents: list[bytes], bits: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        before: bytes | None = None
        for content in contents:
            assert write_atomic(path, content, mode=bits) == (content != before)
            assert (path.read_bytes(), mode(path), names(Path(folder))) == (content, bits, ["file"])
            before = content


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("bits", [0o600, 0o644])
def test_the_mode_does_not_depend_on_the_umask(umask: int, bits: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "file", b"x", mode=bits)
    finally:
        os.umask(before)

    assert mode(tmp_path / "file") == bits


@pytest.mark.process
def test_a_private_file_is_private_before_its_first_byte(tmp_path: Path) -> None:
    """Check every mode that the file system ever showed, from an audit hook that looks at each step."""
    code = """
seen = set()
def look(event, details):
    if event.startswith("os.") or event == "open":
        seen.update(oct(Path(entry.path).lstat().st_mode & 0o777) for entry in entries(sys.argv[1]))
def entries(folder):
    looking.append(1)
    return os.scandir(folder) if len(looking) == 1 else []
looking = []
def hook(event, details):
    if not looking:
        try: look(event, details)
        finally: looking.clear()
os.umask(0)
sys.addaudithook(hook)
write_atomic(Path(sys.argv[1]) / "file", b"x" * 100_000, mode=0o600)
print(seen)
"""
    with another_process(code, tmp_path) as writer:
        assert line(writer) == "{'0o600'}"


def test_equal_content_is_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"same")
    os.utime(path, ns=(1, 1))
    before = path.stat().st_ino

    assert (write_atomic(path, b"same"), path.stat().st_ino, path.stat().st_mtime_ns) == (False, before, 1)


def test_a_wrong_mode_is_put_right_though_the_content_is_equal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"same", mode=0o644)

    assert (write_atomic(path, b"same", mode=0o600), mode(path)) == (True, 0o600)


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o664, 0o755])
def test_the_mode_of_what_is_replaced_stays_unless_another_is_asked_for(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(bits)

    assert (write_atomic(path, b"new"), mode(path)) == (True, bits)
    assert (write_atomic(path, b"new"), mode(path)) == (False, bits)
    assert (write_atomic(path, b"newer", mode=0o644), mode(path)) == (True, 0o644)
    assert (write_atomic(tmp_path / "first", b"new"), mode(tmp_path / "first")) == (True, 0o644)


def test_the_owner_and_the_group_of_what_is_replaced_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []

    def refuse(_: int, user: int, group: int) -> None:
        given.append((user, group))
        raise PermissionError

    path = tmp_path / "file"
    path.write_bytes(b"old")
    there = path.stat()
    monkeypatch.setattr(os, "fchown", refuse)

    write_atomic(path, b"new")
    write_atomic(tmp_path / "first", b"new")
    (tmp_path / "link").symlink_to(path)
    write_atomic(tmp_path / "link", b"new")

    assert path.read_bytes() == b"new"
    assert given == [(-1, there.st_gid), (there.st_uid, -1)]


@ROOT_ONLY
@pytest.mark.parametrize(
    ("folder", "file", "after"),
    [(4321, 4321, (4321, 8765)), (4321, 0, (0, 8765)), (4321, 1234, (0, 0)), (0, 1234, (0, 0))],
    ids=["a user's checkout", "root's file there", "a third one's file there", "a user's file in a folder of root's"],
)
def test_what_root_replaces_stays_its_owners_if_the_folder_is_theirs(
    tmp_path: Path, folder: int, file: int, after: tuple[int, int]
) -> None:
    """Whoever else may put a file into a folder must not get what is written there."""
    place = tmp_path / "checkout"
    place.mkdir()
    (place / "stack.yaml").write_bytes(b"old")
    os.chown(place / "stack.yaml", file, 8765)
    os.chown(place, folder, folder)

    write_atomic(place / "stack.yaml", b"new")

    found = (place / "stack.yaml").stat()
    assert (found.st_uid, found.st_gid) == after


def test_a_reader_that_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomic(path, b"new")

        assert (reader.read(), path.read_bytes()) == (b"old", b"new")


@pytest.mark.process
def test_a_writer_that_is_killed_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    """Kill it at twenty points, early and late; the file's size makes a partial write likely to be seen."""
    whole = {bytes([letter]) * 2_000_000 for letter in b"ab"}
    path = tmp_path / "file"
    write_atomic(path, b"a" * 2_000_000)
    code = """
print("ready", flush=True)
while True:
    for letter in b"ba":
        write_atomic(Path(sys.argv[1]), bytes([letter]) * 2_000_000)
"""
    for reads in range(20):
        with another_process(code, path) as writer:
            assert line(writer) == "ready"
            seen = {path.read_bytes() for _ in range(reads)}
            writer.kill()
            writer.wait()
            seen.add(path.read_bytes())
        assert seen <= whole


@pytest.mark.process
@pytest.mark.parametrize("limit", [0, 1, 4096, 99_999])
def test_a_full_disk_leaves_the_old_file_and_no_other(limit: int, tmp_path: Path) -> None:
    """Have the kernel cut the file at so many bytes, as a full disk does."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    write_atomic(Path(sys.argv[1]), b"n" * 100_000)
except OSError as error:
    os.write(1, type(error).__name__.encode())
# What counts the lines that ran writes when this ends.
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
"""
    with another_process(code, path, limit) as writer:
        assert writer.communicate() == ("OSError", "")
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["file"])


def test_a_file_cannot_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", b"x")

    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize(("name", "advice"), [("compose.yaml", "include:"), ("CHANGELOG.md", "make it smaller")])
def test_a_text_that_is_too_large_is_refused_with_what_helps(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_text("12345")

    with pytest.raises(Refused) as refused:
        read_text(tmp_path / name, name, most=4)

    assert refused.value.code == "text-too-large"
    assert advice in refused.value.next_command
