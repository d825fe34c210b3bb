"""secrets.scan: every value that stands in the open is found, its place is said, and it is never shown."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from conche.secret import Secret
from conche.vault.leaks import (
    AGE_KEY,
    CHUNK,
    UNREADABLE,
    Leak,
    Needles,
    scan_history,
    scan_index,
    scan_worktree,
)

ROOT = Path(__file__).parents[2]

IDENTITY = "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" + "QPZRY9X8GF2TVDW0S3JN54KHCE"

AROUND_THE_END = range(CHUNK - len(IDENTITY) - 1, CHUNK + 2)


class Checkout:
    """A git repository of its own, with nobody's configuration."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *words: str, stdin: bytes = b"", **extra: str) -> str:
        who = {"NAME": "a", "EMAIL": "a@example.org", "DATE": "2026-01-01T00:00:00Z"}
        people = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
        env = {**os.environ, **people, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", **extra}
        argv = ["git", "-C", str(self.root), *words]
        return subprocess.run(argv, input=stdin, capture_output=True, check=True, env=env).stdout.decode().strip()

    def write(self, path: str | bytes, content: str | bytes) -> None:
        file = self.root / os.fsdecode(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, path: str, content: str | bytes, *options: str, message: str = "a change") -> str:
        """The abbreviated id of a commit that brings this file."""
        self.write(path, content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message, *options)
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")[:12]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "my checkout")


@pytest.fixture
def needles(canary: str) -> Needles:
    return Needles({"token": Secret(canary)})


def places(found: tuple[Leak, ...]) -> list[str]:
    return [finding.place for finding in found]


def names(needles: Needles, content: str | bytes) -> list[str]:
    """The secrets in this content."""
    stream = io.BytesIO(content.encode() if isinstance(content, str) else content)
    return [hit.name for hit in needles.hits(stream)]


# What is searched for


@pytest.mark.parametrize(
    "written",
    [
        lambda value: value,
        lambda value: base64.b64encode(value.encode()).decode(),
        lambda value: base64.b64encode(value.encode()).decode().rstrip("="),
        lambda value: base64.b64encode(f"me:{value}".encode()).decode(),
        lambda value: base64.b64encode(f"you:{value}\n".encode()).decode(),
        lambda value: base64.b64encode(f"she:{value};".encode()).decode(),
        lambda value: base64.urlsafe_b64encode(f"me:{value}??>>".encode()).decode(),
        lambda value: urllib.parse.quote(value, safe=""),
        lambda value: json.dumps({"password": value}),
        lambda value: f"PASSWORD={value.replace('$', '$$')}",
        lambda value: "PASSWORD='" + value.replace("'", "\\'") + "'",
    ],
    ids=["raw", "base64", "unpadded", "basic-1", "basic-2", "basic-0", "urlsafe", "url", "json", "compose", "env"],
)
def test_a_value_is_found_in_the_forms_in_which_tools_write_it(canary: str, written: Callable[[str], str]) -> None:
    needles = Needles({"token": Secret(canary + "?>ü~")})

    assert set(names(needles, f"before {written(canary + '?>ü~')} after")) == {"token"}


def test_a_value_of_less_than_eight_characters_is_not_searched() -> None:
    needles = Needles({"short": Secret("seven77"), "empty": Secret(""), "long": Secret("eight888")})

    assert names(needles, "seven77 eight888 c2V2ZW43Nw==") == ["long"]


def test_a_plain_value_is_searched_for_in_four_forms_and_no_more() -> None:
    assert repr(Needles({"token": Secret(uuid.uuid4().hex)})) == "Needles(4 forms)"


def test_a_value_inside_another_and_a_value_of_two_names_are_all_reported(canary: str) -> None:
    secrets = {"url": f"https://me:{canary}@example.org", "password": canary, "same": canary}
    needles = Needles({name: Secret(value) for name, value in secrets.items()})

    assert set(names(needles, secrets["url"])) == {"url", "password", "same"}
    assert set(names(needles, canary)) == {"password", "same"}


def test_of_a_value_of_several_lines_the_telling_ones_are_searched_too() -> None:
    body = uuid.uuid4().hex * 2
    needles = Needles({"pem": Secret(f"-----BEGIN PRIVATE KEY-----\n{body}\nuser: admin\n-----END PRIVATE KEY-----\n")})

    assert names(needles, f"    {body}\r\n") == ["pem"]
    assert names(needles, "-----BEGIN PRIVATE KEY-----\nsomebody else's\nuser: admin\n") == []


def test_the_private_key_of_anybody_is_found() -> None:
    needles = Needles({})

    assert names(needles, f"# created\n{IDENTITY}\n") == [AGE_KEY]
    assert names(needles, IDENTITY[:-1]) == []
    assert needles.mask(f"key-{IDENTITY}.txt") == "key-***.txt"


def test_a_value_that_is_not_ascii_is_found_among_bytes_that_are_no_text() -> None:
    needles = Needles({"word": Secret("Schlüssel-€-🗝")})

    assert names(needles, b"\xff\xc3\x00" + "Schlüssel-€-🗝".encode() + b"\xe2\x82") == ["word"]


@pytest.mark.parametrize(
    "before", [0, 1, CHUNK - 120, CHUNK - 60, CHUNK - 30, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 20]
)
def test_a_value_is_found_once_wherever_it_stands_in_a_long_line(before: int) -> None:
    value = uuid.uuid4().hex
    needles = Needles({"token": Secret(value), "longer": Secret("z" * 100)})
    content = b"\n\n" + b"x" * before + value.encode() + IDENTITY.encode() + b"\n" + b"y" * CHUNK + value.encode()

    first, key, second = needles.hits(io.BytesIO(content))

    assert first == ("token", 2 + before, 3)
    assert key == (AGE_KEY, 2 + before + 32, 3)
    assert second == ("token", len(content) - 32, 4)


def test_the_longest_form_is_found_wherever_a_chunk_ends_in_it() -> None:
    needles = Needles({})

    found = {before: list(needles.hits(io.BytesIO(b"x" * before + IDENTITY.encode()))) for before in AROUND_THE_END}

    assert found == {before: [(AGE_KEY, before, 1)] for before in AROUND_THE_END}


def test_nothing_that_is_printed_shows_a_value(canary: str, needles: Needles, checkout: Checkout) -> None:
    checkout.commit(f"{canary}.txt", canary, message=canary)

    shown = repr(needles) + str(scan_worktree(checkout.root, needles)) + str(scan_history(checkout.root, needles))

    assert canary[:20] not in shown
    assert "***.txt" in shown


# The files


def test_tracked_and_untracked_files_are_searched_and_ignored_ones_are_not(
    canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.write(".gitignore", "ignored/\n.env\n")
    checkout.commit("tracked.txt", f"one\ntwo {canary}\n{canary} {canary}\n")
    checkout.write("new folder/untracked.txt", canary)
    checkout.write("ignored/file.txt", canary)
    checkout.write(".env", canary)

    found = scan_worktree(checkout.root, needles)

    assert found == (
        Leak("token", "new folder/untracked.txt:1", "worktree", 1),
        Leak("token", "tracked.txt:2", "worktree", 2),
        Leak("token", "tracked.txt:3", "worktree", 3),
    )


def test_findings_are_sorted_by_name_file_and_line(canary: str, checkout: Checkout) -> None:
    needles = Needles({"b": Secret(canary), "a": Secret("the other value")})
    checkout.write("x", "\n" * 8 + f"{canary}\n{canary}\nthe other value\n")
    checkout.write("w", canary)

    found = scan_worktree(checkout.root, needles)

    assert [(one.name, one.place) for one in found] == [("a", "x:11"), ("b", "w:1"), ("b", "x:9"), ("b", "x:10")]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"two words.txt", "two words.txt"),
        (b"two\nlines", r"two\nlines"),
        (b'"quoted" \\ back', '"quoted" \\ back'),
        ("kakao-bäume".encode(), "kakao-bäume"),
        (b"latin-\xfc", r"latin-\udcfc"),
        (b"-dash", "-dash"),
        (b"\x1b[31mred", r"\x1b[31mred"),
    ],
    ids=["space", "newline", "quote", "utf-8", "latin-1", "dash", "escape"],
)
def test_a_file_of_any_name_is_searched_and_named_on_one_line(
    name: bytes, shown: str, canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.write(name, canary)
    untracked = scan_worktree(checkout.root, needles)
    checkout.git("add", "--all")
    staged = scan_index(checkout.root, needles)
    checkout.git("commit", "--quiet", "--message", "a")

    assert places(untracked) == places(staged) == [f"{shown}:1"]
    assert places(scan_history(checkout.root, needles)) == [f"{checkout.head()}:{shown}"]


def test_binary_files_are_searched(canary: str, needles: Needles, checkout: Checkout) -> None:
    commit = checkout.commit("app.bin", bytes(range(256)) * 20 + canary.encode() + b"\xff\x00\xfe")

    assert places(scan_worktree(checkout.root, needles)) == ["app.bin:21"]
    assert places(scan_history(checkout.root, needles)) == [f"{commit}:app.bin"]


def test_of_a_link_its_own_text_is_searched_and_not_what_it_leads_to(
    canary: str, needles: Needles, checkout: Checkout, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text(canary)
    (checkout.root / "leads-out").symlink_to(tmp_path / "outside")
    (checkout.root / "leads-nowhere").symlink_to(f"/nowhere/{canary}")
    (checkout.root / "loop").symlink_to("loop")

    assert places(scan_worktree(checkout.root, needles)) == ["leads-nowhere:1"]


def test_a_tracked_file_that_is_gone_and_a_repository_inside_are_passed_over(
    canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.commit("gone/file", canary)
    shutil.rmtree(checkout.root / "gone")
    checkout.write("gone", "a file where a folder was")
    Checkout(checkout.root / "inside").commit("file", canary)

    assert scan_worktree(checkout.root, needles) == ()


def test_a_file_that_cannot_be_read_is_said(
    canary: str, needles: Needles, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.write("closed", canary)
    checkout.write("open", canary)
    really = Path.open

    def refuse(path: Path, mode: str = "r") -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return really(path, mode)

    monkeypatch.setattr(Path, "open", refuse)  # root, who runs tests in containers, is refused nothing

    assert scan_worktree(checkout.root, needles) == (
        Leak(UNREADABLE, "closed", "worktree"),
        Leak("token", "open:1", "worktree", 1),
    )


# The index


def test_what_is_staged_is_searched_and_not_what_the_file_holds_by_now(
    canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.commit("old.txt", f"committed long ago: {canary}")
    checkout.write("staged.txt", f"\n{canary}")
    checkout.git("add", "staged.txt")
    checkout.write("staged.txt", "clean again")
    checkout.write("not-staged.txt", canary)

    assert scan_index(checkout.root, needles) == (Leak("token", "staged.txt:2", "index", 2),)


def test_the_first_commit_a_rename_a_copy_and_a_link_are_staged_changes_too(
    canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.write("first.txt", canary)
    checkout.git("add", "--all")
    assert places(scan_index(checkout.root, needles)) == ["first.txt:1"]

    checkout.git("commit", "--quiet", "--message", "a")
    assert scan_index(checkout.root, needles) == ()

    checkout.git("mv", "first.txt", "renamed.txt")
    checkout.write("copy.txt", canary)
    (checkout.root / "link").symlink_to(canary)
    checkout.git("add", "--all")
    assert places(scan_index(checkout.root, needles)) == ["copy.txt:1", "link:1", "renamed.txt:1"]


def test_a_submodule_and_a_deleted_file_have_no_content(canary: str, needles: Needles, checkout: Checkout) -> None:
    checkout.commit("deleted.txt", canary)
    inside = Checkout(checkout.root / "inside")
    inside.commit("file", canary)
    (checkout.root / "deleted.txt").unlink()
    checkout.git("add", "--all")

    assert scan_index(checkout.root, needles) == ()


def test_as_a_hook_it_sees_what_commit_all_is_about_to_commit(
    canary: str, needles: Needles, checkout: Checkout, tmp_path: Path
) -> None:
    checkout.commit("file.txt", "clean")
    hook = checkout.root / ".git/hooks/pre-commit"
    program = (
        "import sys; from pathlib import Path; from conche.secret import Secret; from conche.vault.leaks import *\n"
        f"value = Path({str(tmp_path / 'value')!r}).read_text()\n"
        "print(*(one.place for one in scan_index(Path('.'), Needles({'token': Secret(value)}))), file=sys.stderr)\n"
        "sys.exit(1)\n"
    )
    (tmp_path / "value").write_text(canary)
    (tmp_path / "hook.py").write_text(program)
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nPYTHONPATH='{ROOT}' exec '{sys.executable}' '{tmp_path / 'hook.py'}'\n")
    hook.chmod(0o755)
    checkout.write("file.txt", canary)

    with pytest.raises(subprocess.CalledProcessError) as refused:
        checkout.git("commit", "--all", "--message", "a")

    assert refused.value.stderr.decode().strip() == "file.txt:1"
    assert scan_index(checkout.root, needles) == ()
