"""Files are complete or absent; private folders and locks do not outlive their makers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conche.errors import Locked, Refused
from conche.files import lock, private_folder, runtime_folder, sweep, write_atomic
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


# Private folders


@pytest.fixture(params=[False, True], ids=["small", "large"])
def large(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether folders are made on disk; either way below a base of this test only."""
    for variable in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # tempfile's cache of TMPDIR
    return bool(request.param)


def test_a_private_folder_is_empty_private_and_gone_afterwards(large: bool) -> None:
    before = os.umask(0)
    try:
        with private_folder(large=large) as folder:
            seen = (names(folder), mode(folder), mode(folder.parent) if not large else 0o700)
            (folder / "file").write_text("x")
    finally:
        os.umask(before)

    assert (seen, folder.exists()) == (([], 0o700, 0o700), False)


def test_a_private_folder_is_gone_after_a_fault_too(large: bool) -> None:
    folders: list[Path] = []

    def fail() -> None:
        with private_folder(large=large) as folder:
            folders.append(folder)
            (folder / "below").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert [folder.exists() for folder in folders] == [False]


@pytest.mark.process
def test_folders_of_the_dead_are_swept_and_those_of_the_living_are_not(large: bool) -> None:
    code = "with private_folder(large=bool(int(sys.argv[1]))) as folder:\n    print(folder, flush=True)\n    input()"
    with another_process(code, int(large)) as living:
        kept = Path(line(living))
        with another_process(code, int(large)) as dying:
            left_behind = Path(line(dying))
            (left_behind / "secret").write_text("x")
            dying.kill()
            dying.wait()
            assert left_behind.is_dir()

        with private_folder(large=large) as own, private_folder(large=large):
            assert (kept.is_dir(), left_behind.exists(), own.is_dir()) == (True, False, True)


@pytest.mark.parametrize("name", ["conche", "conche-0", "conche-private", "other-private-x", "xconche-private-x"])
def test_a_folder_of_another_name_is_not_swept(name: str, tmp_path: Path, large: bool) -> None:
    stranger = (tmp_path if large else runtime_folder()) / name
    stranger.mkdir(exist_ok=True)

    with private_folder(large=large):
        assert stranger.is_dir()


def test_a_link_and_a_file_are_left_alone_with_what_they_lead_to(tmp_path: Path, large: bool) -> None:
    base = tmp_path if large else runtime_folder()
    (tmp_path / "elsewhere").mkdir()
    (base / "conche-private-link").symlink_to(tmp_path / "elsewhere")
    (base / "conche-private-file").touch()

    with private_folder(large=large):
        pass

    assert (tmp_path / "elsewhere").is_dir()
    assert {"conche-private-link", "conche-private-file"} <= set(names(base))


@pytest.mark.process
def test_a_folder_whose_maker_has_another_count_of_processes_is_known_by_its_lock(large: bool) -> None:
    """As in a container that shares the folder: the maker's process id means nothing here, and may look dead."""
    code = "with private_folder(large=bool(int(sys.argv[1]))) as folder:\n    print(folder, flush=True)\n    input()"
    with another_process(code, int(large)) as maker:
        folder = Path(line(maker))
        assert str(maker.pid) not in folder.name

        sweep(folder.parent)
        assert folder.is_dir()
        maker.kill()
        maker.wait()
        sweep(folder.parent)
        assert not folder.exists()


def test_a_look_for_leftovers_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    sweep()

    assert names(tmp_path) == []


# The runtime folder


def test_without_a_runtime_directory_one_is_made_under_the_temp_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/no/such/folder")

    folder = runtime_folder()

    assert (folder, mode(folder)) == (tmp_path / f"conche-{os.getuid()}", 0o700)


@pytest.mark.parametrize("foreign", ["owner", "link"])
def test_a_runtime_folder_of_somebody_else_is_not_trusted(
    foreign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    if foreign == "link":
        (tmp_path / "theirs").mkdir()
        (tmp_path / "conche").symlink_to("theirs")
    elif os.getuid() == 0:
        (tmp_path / "conche").mkdir()
        os.chown(tmp_path / "conche", 12345, 12345)
    else:
        pytest.skip("only root can give a folder away")

    with pytest.raises(Locked) as caught:
        runtime_folder()

    assert caught.value.code == "runtime-folder-foreign"


def of_another_user(place: Path) -> None:
    place.mkdir()
    os.chown(place, 12345, 12345)


def link(place: Path) -> None:
    place.symlink_to("/etc")


def link_to_nothing(place: Path) -> None:
    place.symlink_to("/no/such/folder")


def file(place: Path) -> None:
    place.touch()


TAKING = [link, link_to_nothing, file, *([of_another_user] if os.getuid() == 0 else [])]
"""Only root can give a folder away."""


@pytest.mark.parametrize("take", TAKING)
@pytest.mark.parametrize("where", ["temp", "runtime", "base"])
def test_whoever_takes_our_name_in_a_shared_folder_stops_nobody(
    take: Callable[[Path], object], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path) if where == "runtime" else "")
    name = "conche" if where == "runtime" else f"conche-{os.getuid()}"
    take(tmp_path / name)

    with private_folder(base=tmp_path / name if where == "base" else None) as folder:
        assert (folder.parent, mode(folder), folder.stat().st_uid) == (tmp_path, 0o700, os.getuid())
        (folder / "secret").write_text("x")

    assert names(tmp_path) == [name]


def test_what_a_killed_command_has_left_beside_a_taken_name_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    (tmp_path / f"conche-{os.getuid()}").touch()
    (tmp_path / "conche-private-dead").mkdir()

    sweep()

    assert names(tmp_path) == [f"conche-{os.getuid()}"]


# Locks

HOLD = "with lock('dev', 'env.up dev'):\n    print('held', flush=True)\n    input()"


@pytest.mark.process
def test_a_lock_excludes_a_second_process_and_tells_who_holds_it() -> None:
    with another_process(HOLD) as holder:
        assert line(holder) == "held"

        with pytest.raises(Locked) as caught, lock("dev", "env.down dev"):
            pytest.fail("two hold the lock")

        assert (caught.value.code, caught.value.status, caught.value.message) == (
            "already-running",
            7,
            f"dev is locked by process {holder.pid}: env.up dev.",
        )
        assert caught.value.next_command == "wait for it to end, and try again"
        with lock("prod", "another name"):
            pass


@pytest.mark.process
def test_whoever_waits_for_a_lock_says_once_for_whom() -> None:
    said: list[str] = []
    with another_process(HOLD) as holder:
        assert line(holder) == "held"

        def told(words: str) -> None:
            said.append(words)
            holder.kill()
            holder.wait()

        with lock("dev", "env.down dev", wait=60, say=told):
            pass

    assert said == [f"waiting for process {holder.pid}: env.up dev"]


def test_a_lock_excludes_the_same_process_too() -> None:
    with lock("dev", "first"), pytest.raises(Locked, match="first"), lock("dev", "second"):
        pytest.fail("the lock is held twice")


@pytest.mark.process
def test_a_lock_is_free_after_its_holder_was_killed() -> None:
    with another_process(HOLD) as holder:
        assert line(holder) == "held"
        holder.kill()
        holder.wait()

        with lock("dev", "next"), pytest.raises(Locked, match=f"process {os.getpid()}: next"):
            lock("dev", "third").__enter__()


def test_a_lock_is_free_after_its_end_and_after_a_fault() -> None:
    held: list[str] = []
    for purpose in ("first", "a long, long second purpose", "third"):
        with contextlib.suppress(ZeroDivisionError), lock("dev", purpose):
            held.append(purpose)
            raise ZeroDivisionError

    assert held == ["first", "a long, long second purpose", "third"]


def test_a_holder_in_another_container_is_not_taken_for_dead(tmp_path: Path) -> None:
    with lock("dev", "here", folder=tmp_path):
        (tmp_path / "dev.lock").write_text(f"{a_dead_process()} pid:[1] env.up dev")

        with pytest.raises(Locked, match=r"of another container: env\.up dev"), lock("dev", "there", folder=tmp_path):
            pytest.fail("two hold the lock")


@pytest.mark.process
def test_who_comes_after_a_killed_holder_waits_for_the_child_that_holds_on(tmp_path: Path) -> None:
    """Since the child writes before it lets go, the next holder must find what it wrote."""
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    code = """
from conche.process import run
with lock('dev', 'env.up dev') as held:
    script = 'echo started >&2; read -r word <"$1/gate"; echo done >"$1/result"'
    argv = ["sh", "-c", script, "sh", sys.argv[1]]
    run(argv, outlives=True, keep_open=[held], on_line=lambda text: print(text, flush=True))
"""
    with another_process(code, tmp_path) as holder:
        assert line(holder) == "started"
        holder.kill()
        holder.wait()
        with another_process(
            "with lock('dev', 'next'): print(Path(sys.argv[1]).read_text())", tmp_path / "result"
        ) as following:
            os.write(gate, b"go\n")
            assert line(following) == "done"
    os.close(gate)


@pytest.mark.parametrize(("name", "advice"), [("compose.yaml", "include:"), ("CHANGELOG.md", "make it smaller")])
def test_a_text_that_is_too_large_is_refused_with_what_helps(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_text("12345")

    with pytest.raises(Refused) as refused:
        read_text(tmp_path / name, name, most=4)

    assert refused.value.code == "text-too-large"
    assert advice in refused.value.next_command
