"""Conche's version, from git or from what a build has written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import conche
from conche.__main__ import main
from conche.version import BUILT, UNKNOWN, is_packaged, version_of


def git(folder: Path, *words: str) -> str:
    argv = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@localhost", *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Make a checkout with one commit and the folder of the package."""
    (tmp_path / "conche").mkdir()
    (tmp_path / "conche" / "code.py").write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "a")
    return tmp_path / "conche"


def commit(package: Path) -> str:
    return git(package, "rev-parse", "--short=7", "HEAD")


def test_a_tagged_commit_is_the_version_of_its_tag(package: Path) -> None:
    git(package, "tag", "v0.2.0")
    git(package, "tag", "working-name")

    assert version_of(package) == "0.2.0"


def test_a_commit_after_a_tag_says_how_many_there_are_since(package: Path) -> None:
    git(package, "tag", "v0.2.0")
    git(package, "commit", "--quiet", "--allow-empty", "--message", "b")

    assert version_of(package) == f"0.2.0.post1+g{commit(package)}"


def test_a_checkout_without_a_tag_is_known_by_its_commit(package: Path) -> None:
    assert version_of(package) == f"0+g{commit(package)}"


@pytest.mark.parametrize("tagged", [True, False])
def test_a_change_that_is_not_committed_is_said(package: Path, *, tagged: bool) -> None:
    if tagged:
        git(package, "tag", "v0.2.0")
    (package / "code.py").write_text("2\n")

    assert version_of(package) == ("0.2.0+dirty" if tagged else f"0+g{commit(package)}.dirty")


def test_what_an_old_build_has_left_in_a_checkout_counts_for_nothing(package: Path) -> None:
    git(package, "tag", "v0.3.0")
    (package / BUILT).write_text('version = "0.2.0"\n')

    assert version_of(package) == "0.3.0"


def test_an_installed_package_is_what_its_build_has_written(tmp_path: Path) -> None:
    (tmp_path / BUILT).write_text('version = "0.2.0"\n')

    assert version_of(tmp_path) == "0.2.0"


def test_another_repository_around_an_installed_package_says_nothing_of_it(package: Path) -> None:
    installed = package.parent / "venv" / "conche"
    installed.mkdir(parents=True)
    (installed / BUILT).write_text('version = "0.2.0"\n')
    git(package, "tag", "v7.0.0")

    assert version_of(installed) == "0.2.0"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"version = 3\n", None])
def test_a_copy_without_history_has_no_version(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / BUILT).write_bytes(content)

    assert version_of(tmp_path) == UNKNOWN


def test_the_command_and_the_attribute_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"conche {conche.__version__}\n"
    assert not is_packaged()


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["-h"], 0), ([], 2), (["--versoin"], 2)])
def test_anything_else_shows_how_it_is_called(
    words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    shown = capsys.readouterr()
    assert "usage: conche [-h] [--version]" in (shown.err if status else shown.out)


@pytest.mark.parametrize("begin", [lambda: main(["--version"]), lambda: conche.namespace(__file__)])
def test_windows_is_refused_with_what_works_there(
    begin: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "win32")

    with pytest.raises(SystemExit) as ended:
        begin()

    assert ended.value.code == 2
    assert "error [windows-unsupported]" in (said := capsys.readouterr().err)
    assert "inside WSL it does" in said


def test_the_package_has_no_other_attributes_than_it_had() -> None:
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        getattr(conche, "versoin")  # noqa: B009 - a type checker knows better
