"""secrets.scan: every value that stands in the open is found, its place is said, and it is never shown."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import NotFound
from conche.process import ToolFailed
from conche.secret import Secret
from conche.vault import leaks
from conche.vault import leaks_in_images as scan_image_module
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
from conche.vault.leaks_in_images import scan_image

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


# The history


def test_a_deleted_file_is_found_with_the_commit_that_brought_it(
    canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.commit("clean.txt", "clean")
    brought = checkout.commit("conf/app.env", f"A=1\nTOKEN={canary}\nAGAIN={canary}\n")
    checkout.git("mv", "conf/app.env", "moved.env")
    checkout.git("commit", "--quiet", "--message", "moved")
    checkout.git("rm", "--quiet", "moved.env")
    checkout.git("commit", "--quiet", "--message", "removed")

    assert scan_history(checkout.root, needles) == (Leak("token", f"{brought}:conf/app.env", "history", 2),)
    assert scan_worktree(checkout.root, needles) == ()


def test_a_commit_that_was_amended_away_is_found_by_its_blob(canary: str, needles: Needles, checkout: Checkout) -> None:
    checkout.commit("file.txt", canary)
    blob = checkout.git("rev-parse", "HEAD:file.txt")
    checkout.commit("file.txt", "clean", "--amend")
    loose = scan_history(checkout.root, needles)
    checkout.git("repack", "-a", "-d", "--quiet")

    assert loose == (Leak("token", f"blob {blob[:12]}", "history", 1),)
    assert scan_history(checkout.root, needles) == loose


def test_every_version_on_every_branch_tag_and_stash_is_found(
    canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.commit("file.txt", "clean")
    first = checkout.commit("file.txt", f"{canary} first")
    second = checkout.commit("file.txt", f"{canary} second")
    checkout.git("switch", "--quiet", "--create", "side", "HEAD~2")
    third = checkout.commit("side.txt", f"{canary} third")
    checkout.git("tag", "kept")
    checkout.git("switch", "--quiet", "main")
    checkout.git("branch", "--quiet", "-D", "side")
    checkout.write("file.txt", f"{canary} fourth")
    checkout.git("stash", "--quiet")
    stash = checkout.git("rev-parse", "stash")[:12]

    expected = {f"{first}:file.txt", f"{second}:file.txt", f"{third}:side.txt", f"{stash}:file.txt"}
    assert set(places(scan_history(checkout.root, needles))) == expected


def test_what_only_a_merge_brought_is_found(canary: str, needles: Needles, checkout: Checkout) -> None:
    checkout.commit("file.txt", "clean")
    checkout.git("switch", "--quiet", "--create", "side")
    checkout.commit("side.txt", "clean too")
    checkout.git("switch", "--quiet", "main")
    checkout.commit("main.txt", "also clean")
    checkout.git("merge", "--quiet", "--no-commit", "--no-ff", "side")
    merge = checkout.commit("slipped-in.txt", canary)

    assert places(scan_history(checkout.root, needles)) == [f"{merge}:slipped-in.txt"]


def test_messages_of_commits_and_tags_and_names_of_files_are_searched(canary: str, checkout: Checkout) -> None:
    values = {name: f"{name}-{uuid.uuid4().hex}" for name in ("commit", "tag", "tree")}
    needles = Needles({name: Secret(value) for name, value in values.items()})
    checkout.commit(f"folder/{values['tree']}", "one", message=f"uses {values['commit']}")
    commit = checkout.head()
    checkout.commit("folder/another", "two")
    checkout.git("tag", "--annotate", "--message", values["tag"], "v1")

    found = {one.name: one for one in scan_history(checkout.root, needles)}

    assert found["commit"].place == f"commit {commit}"
    assert found["tag"].place == f"tag {checkout.git('rev-parse', 'v1')[:12]}"
    assert found["tree"].place.startswith("tree ")
    assert len(found) == len(scan_history(checkout.root, needles)) == 3


def test_a_replacement_does_not_hide_what_it_replaces(canary: str, needles: Needles, checkout: Checkout) -> None:
    brought = checkout.commit("file.txt", canary)
    clean = checkout.git("hash-object", "-w", "--stdin", stdin=b"clean")
    checkout.git("replace", checkout.git("rev-parse", "HEAD:file.txt"), clean)

    assert f"{brought}:file.txt" in places(scan_history(checkout.root, needles))


def test_objects_of_any_size_are_read_in_bounded_batches(
    canary: str, needles: Needles, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "BATCH", 3000)
    for number in range(5):
        checkout.write(f"small-{number}", f"{number} {canary}\n")
    checkout.write("empty", "")
    checkout.write("no newline", canary)
    checkout.commit("large", b"\xff" * 5000 + canary.encode())
    sizes = [leaks._Object(str(number), "blob", size) for number, size in enumerate([9000, 2000, 1000, 1, 2999])]

    assert [[thing.size for thing in batch] for batch in leaks._batches(sizes)] == [[9000], [2000, 1000], [1, 2999]]
    assert len(scan_history(checkout.root, needles)) == 7


def test_a_repository_without_a_commit_has_nothing(needles: Needles, checkout: Checkout) -> None:
    assert scan_worktree(checkout.root, needles) == ()
    assert scan_index(checkout.root, needles) == ()
    assert scan_history(checkout.root, needles) == ()


@pytest.mark.parametrize("search", [scan_worktree, scan_index, scan_history])
def test_a_folder_that_is_no_repository_fails_in_the_words_of_git(
    search: Callable[[Path, Needles], object], needles: Needles, tmp_path: Path
) -> None:
    with pytest.raises(ToolFailed) as failed:
        search(tmp_path, needles)

    assert [line for line in failed.value.evidence if "not a git repository" in line.lower()]


@pytest.fixture
def fake_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a shell script before the real git, which it knows as $REAL."""

    def place(script: str) -> None:
        program = tmp_path / "bin" / "git"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\nREAL='{shutil.which('git')}'\n{script}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return place


def test_no_value_stands_in_argv(
    canary: str, needles: Needles, checkout: Checkout, fake_git: Callable[[str], None], tmp_path: Path
) -> None:
    checkout.commit(f"file-{canary}", canary)
    fake_git(f'echo "$@" >> \'{tmp_path}/said\'; exec "$REAL" "$@"\n')

    scan_worktree(checkout.root, needles)
    scan_index(checkout.root, needles)
    scan_history(checkout.root, needles)

    said = (tmp_path / "said").read_text()
    assert canary[:20] not in said
    assert "--batch-all-objects" in said


def test_a_git_that_dies_over_a_secret_does_not_show_it_in_the_error(
    canary: str, needles: Needles, checkout: Checkout, fake_git: Callable[[str], None]
) -> None:
    fake_git(f'echo "{canary[:30]}"; exit 9\n')

    with pytest.raises(ToolFailed) as failed:
        scan_history(checkout.root, needles)

    assert canary[:30] not in json.dumps(failed.value.as_json())


# Images


def system(folder: Path) -> Path:
    """A tar file of the smallest file system with a shell that can remove a file."""
    programs = ["/bin/sh", "/bin/rm"]
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    libraries = {word for word in linked.split() if word.startswith("/") and not word.endswith(":")}
    packed = folder / "system.tar"
    with tarfile.open(packed, "w") as archive:
        for path in [*programs, *libraries]:
            archive.add(Path(path).resolve(), path)
    return packed


def layered(**values: str) -> str:
    """A Dockerfile that leaks each value in the way it is named after."""
    return (
        "FROM {base}\n"
        f"ENV TOKEN={values['env']}\n"
        "COPY removed.txt /srv/removed.txt\n"
        "RUN rm /srv/removed.txt\n"
        "ARG PASSWORD\n"
        'RUN test -n "$PASSWORD"\n'
        f'LABEL note="{values["label"]}"\n'
        "COPY kept.bin /srv/kept.bin\n"
    )


@pytest.fixture
def leaking(engine: Engine, tmp_path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A small image that leaks five values in five ways, and the values by the way; gone afterwards."""
    name = f"t{uuid.uuid4().hex[:10]}"
    reference, base = f"{name}:scan", f"{name}-base:scan"
    values = {way: f"{way}-{uuid.uuid4().hex}" for way in ("env", "argument", "label", "removed", "kept")}
    context = tmp_path / "context"
    context.mkdir()
    (context / "removed.txt").write_text(values["removed"])
    (context / "kept.bin").write_bytes(b"\x00\xff" + base64.b64encode(values["kept"].encode()))
    (context / "Dockerfile").write_text(layered(**values).format(base=base))
    try:
        with system(tmp_path).open("rb") as packed:
            subprocess.run(["docker", "import", "-", base], stdin=packed, check=True, capture_output=True)
        images.build(engine, images.Build(reference, context / "Dockerfile", context, {"PASSWORD": values["argument"]}))
        yield reference, values
    finally:
        for made in (reference, base):
            if images.find(engine, made):
                engine.client.images.remove(made, force=True)


@pytest.mark.engine
def test_an_image_is_searched_in_every_layer_its_configuration_and_its_history(
    engine: Engine, leaking: tuple[str, Mapping[str, str]]
) -> None:
    reference, values = leaking
    needles = Needles({way: Secret(value) for way, value in values.items()})

    found = scan_image(engine, reference, needles)

    by_way = {way: [one.place for one in found if one.name == way] for way in values}
    assert by_way["removed"] == [f"{reference} layer 2 srv/removed.txt"]
    assert [place.split(" ", 3)[3] for place in by_way["kept"]] == ["srv/kept.bin"]
    assert any("config.Env[" in place for place in by_way["env"])
    assert any("config.Labels.note" in place for place in by_way["label"])
    assert any("history[" in place for place in by_way["argument"])
    assert {one.kind for one in found} == {"image"}
    assert [value for value in values.values() if value in str(found)] == []


@pytest.mark.engine
def test_an_image_that_the_engine_does_not_have_is_said(engine: Engine, needles: Needles) -> None:
    with pytest.raises(NotFound) as missing:
        scan_image(engine, f"t{uuid.uuid4().hex}:scan", needles)

    assert (missing.value.code, missing.value.status) == ("not-on-engine", 6)


def packed(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_the_layout_of_newer_engines_is_searched_too_with_its_compressed_layers_and_attestations(
    canary: str, needles: Needles, tmp_path: Path
) -> None:
    long = "deep/" * 40
    layer = packed({"clean": b"x" * 3000, f"{long}file": canary.encode(), f"named-{canary}": b"", "last": b""})
    members = {
        "manifest.json": json.dumps([{"Config": "blobs/c", "Layers": ["blobs/1", "blobs/2", "blobs/3"]}]).encode(),
        "blobs/c": json.dumps({"config": {"Cmd": ["run", canary]}, "history": [{"comment": "clean"}]}).encode(),
        "blobs/1": gzip.compress(layer),
        "blobs/2": b"\x28\xb5\x2f\xfd and what cannot be read",
        "blobs/3": packed({}),
        "blobs/attested": json.dumps({"build-arg:PASSWORD": canary}).encode(),
        "oci-layout": b"{}",
    }
    (tmp_path / "image.tar").write_bytes(packed(members))

    found = scan_image_module._in_saved(tmp_path / "image.tar", "a:b", needles)

    assert [(one.name, one.place) for one in found] == [
        (UNREADABLE, "a:b layer 2 (zstd)"),
        ("token", "a:b blobs/attested"),
        ("token", "a:b config.Cmd[1]"),
        ("token", f"a:b layer 1 {long}file"),
        ("token", "a:b layer 1 named-***"),
    ]


def test_an_image_without_layers_is_searched(canary: str, needles: Needles, tmp_path: Path) -> None:
    members = {
        "manifest.json": json.dumps([{"Config": "c.json", "Layers": None}]).encode(),
        "c.json": json.dumps({"config": {"Env": [f"A={canary}"], canary: 1}, "history": None}).encode(),
    }
    (tmp_path / "image.tar").write_bytes(packed(members))

    found = scan_image_module._in_saved(tmp_path / "image.tar", "a:b", needles)

    assert places(found) == ["a:b config.***", "a:b config.Env[0]"]
