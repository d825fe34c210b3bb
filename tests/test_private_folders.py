"""Private folders, and the folder that they are in, are ours alone and do not outlive their makers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conche.errors import Locked
from conche.files import private_folder, runtime_folder, sweep
from tests.test_files import another_process, line, mode, names

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
