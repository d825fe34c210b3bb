"""Where the real values of the secrets stand in the open: files, the index, git's history, images, logs.

A finding names the secret and the place, never the text. What is compressed inside a file, such as an archive that
somebody committed, is not opened.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import io
import os
import re
import stat
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from conche.process import Captured, run
from conche.secret import MASK, Secret, forms
from conche.vault.keys import public_or_none

if TYPE_CHECKING:
    pass

__all__ = [
    "AGE_KEY",
    "UNREADABLE",
    "Leak",
    "Needles",
    "folded",
    "scan_history",
    "scan_index",
    "scan_worktree",
    "shown",
]

AGE_KEY = "age private key"
"""The name under which a private key of age is reported, whoever's it is."""

UNREADABLE = "(unreadable)"
"""The name of a finding that says: this place could not be searched."""

SHORTEST = 8
"""Characters. A shorter value stands in too much innocent text to be searched for."""

SHORTEST_LINE = 16
"""Characters of one line of a value of several lines: `-----BEGIN` and `user: admin` are nobody's secret."""

CHUNK = 1 << 20
"""Bytes searched at a time: small enough for the processor's cache, through which they go once for every form."""

BATCH = 16 << 20
"""Bytes of git objects held at a time; an object that is larger by itself is held alone."""

_AGE_KEY = re.compile(rb"AGE-SECRET-KEY-1[0-9A-Z]{58}")
_AGE_KEY_LENGTH = 74


@dataclass(frozen=True)
class Leak:
    """A secret in the open.

    Attributes:
        name: of the secret, `AGE_KEY` or `UNREADABLE`.
        place: `path:line`; `commit:path` of the commit that brought it, or `blob ID` where no branch and no tag has
            it; `reference layer N path` or `reference config.Env[N]`; `environment service container stream:line`.
        kind: `worktree`, `index`, `history`, `image` or `log`.
        line: in the file or blob, from 1; 0 where the place has no lines.
    """

    name: str
    place: str
    kind: str
    line: int = 0


class Hit(NamedTuple):
    """Where a stream holds a secret: the byte it begins at, from 0, and the line, from 1."""

    name: str
    offset: int
    line: int


class Needles:
    """The values to search for, in the forms in which tools write them; nothing that prints it shows one.

    A value of eight characters or more is found as it is, as base64 (also in the middle of other text, such as
    `user:password`), URL-quoted, JSON-quoted, and with each `$` doubled or each `'` escaped as env files have them.
    """

    def __init__(self, secrets: Mapping[str, Secret], harmless: Collection[str] = ()) -> None:
        self._harmless = frozenset(harmless)
        names: dict[bytes, set[str]] = defaultdict(set)
        for name, secret in secrets.items():
            for form in _searched(secret.reveal()):
                names[form].add(name)
        self._names = {form: tuple(sorted(names[form])) for form in sorted(names, key=len, reverse=True)}
        self._longest = max([_AGE_KEY_LENGTH, *map(len, names)])

    def __repr__(self) -> str:
        return f"Needles({len(self._names)} forms)"

    def hits(self, stream: IO[bytes]) -> Iterator[Hit]:
        """Every secret in what the stream still has, however long it or its lines are, in order."""
        tail, begins, first_line = b"", 0, 1
        while chunk := stream.read(CHUNK):
            block = tail + chunk
            line, counted = first_line, 0
            for start, name in sorted(self._within(block, len(tail))):
                line += block.count(b"\n", counted, start)
                counted = start
                yield Hit(name, begins + start, line)
            kept = max(0, len(block) - self._longest + 1)
            first_line += block.count(b"\n", 0, kept)
            begins += kept
            tail = block[kept:]

    def mask(self, text: str) -> str:
        """The text with every secret in it as `***`: a file can be named after its content."""
        masked = os.fsencode(text)
        for form in self._names:
            masked = masked.replace(form, MASK.encode())
        return os.fsdecode(_AGE_KEY.sub(MASK.encode(), masked))

    def _within(self, block: bytes, seen: int) -> Iterator[tuple[int, str]]:
        """What ends after the first `seen` bytes. One `find` a form is faster than one regular expression for all."""
        for form, names in self._names.items():
            start = block.find(form)
            while start >= 0:
                if start + len(form) > seen:
                    yield from ((start, name) for name in names)
                start = block.find(form, start + 1)
        for match in _AGE_KEY.finditer(block):
            if match.end() > seen and public_or_none(match[0].decode()) not in self._harmless:
                yield match.start(), AGE_KEY


def _searched(value: str) -> set[bytes]:
    if len(value) < SHORTEST:
        return set()
    lines = value.splitlines()
    several = len(lines) > 1
    ordinary = {line for line in lines if several and (len(line) < SHORTEST_LINE or line.startswith("-----"))}
    texts = {*forms(value), value.replace("'", "\\'")} - ordinary
    found = {*(text.encode() for text in texts), *_inside_base64(value.encode())}
    # Whatever holds a longer form holds the shorter one that stands in it.
    return {form for form in found if not any(other in form for other in found - {form})}


def _inside_base64(value: bytes) -> Iterator[bytes]:
    """What base64, of either alphabet, makes of the value wherever it begins in the encoded text.

    The first and last characters depend on the neighbours, and are left out.
    """
    for before, affected in enumerate((0, 2, 3)):
        padded = b"\0" * before + value
        certain = slice(affected, len(padded) * 8 // 6)
        yield base64.b64encode(padded)[certain]
        yield base64.urlsafe_b64encode(padded)[certain]


def scan_worktree(root: Path, needles: Needles) -> tuple[Leak, ...]:
    """The files of the checkout that git tracks, or would: untracked ones that it does not ignore. Names too."""
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard")
    found: list[Leak] = []
    for path in {_unquoted(line) for line in listed.split("\n") if line}:
        try:
            with _content(root / path) as stream:
                found += _in_file(needles, path, stream, "worktree")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            found.append(Leak(UNREADABLE, shown(needles, path), "worktree"))
    return folded(found)


def _content(path: Path) -> IO[bytes]:
    """What git would store of it: a link's own text; of a folder, which is another repository, nothing."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return io.BytesIO(os.fsencode(path.readlink()))
    return path.open("rb") if stat.S_ISREG(mode) else io.BytesIO()


def scan_index(root: Path, needles: Needles) -> tuple[Leak, ...]:
    """What is staged and differs from HEAD: the content that the next commit brings, whatever the files hold now.

    In a hook of `git commit -a` git means another index than usual, by `GIT_INDEX_FILE`; so do we.
    """
    index = os.environ.get("GIT_INDEX_FILE")
    _git(root, "rev-parse", "--git-dir")  # without a repository, git diff would go on and compare files
    changes = _git(
        root, "diff", "--cached", "--raw", "--no-abbrev", "--no-renames", "--no-relative", "--diff-filter=ACMRT",
        extra_env={"GIT_INDEX_FILE": str(Path(index).absolute())} if index else None,
    )  # fmt: skip
    paths: dict[str, list[str]] = defaultdict(list)
    for blob, path in map(_change, changes.splitlines()):
        paths[blob].append(path)
    sizes = _git(root, "cat-file", "--batch-check", stdin="".join(f"{blob}\n" for blob in paths).encode())
    found: list[Leak] = []
    for staged, content in _contents(root, _objects(sizes)):
        for path in paths[staged.id]:
            found += _in_file(needles, path, io.BytesIO(content), "index")
    return folded(found)


def scan_history(root: Path, needles: Needles) -> tuple[Leak, ...]:
    """Every object that git has, also those that no branch reaches any more: files, names, messages.

    A blob is reported once, with the line of the first occurrence.
    """
    everything = _git(root, "cat-file", "--batch-all-objects", "--unordered", "--batch-check")
    lines: dict[tuple[str, _Object], int] = {}
    for thing, content in _contents(root, _objects(everything)):
        for hit in needles.hits(io.BytesIO(content)):
            lines.setdefault((hit.name, thing), hit.line if thing.kind == "blob" else 0)
    origins = _origins(root, {thing.id for _, thing in lines if thing.kind == "blob"})
    found: dict[tuple[str, str], Leak] = {}
    for (name, thing), line in sorted(lines.items()):
        commit, path = origins.get(thing.id, ("", ""))
        place = f"{commit}:{shown(needles, path)}" if commit else f"{thing.kind} {thing.id[:12]}"
        # A file that is named after a secret stands in every version of its folder: one of them is enough.
        found.setdefault((name, "tree" if thing.kind == "tree" else thing.id), Leak(name, place, "history", line))
    return folded(found.values())


def _origins(root: Path, blobs: set[str]) -> dict[str, tuple[str, str]]:
    """For each blob that a branch or tag has: the first commit with it, and its path there."""
    if not blobs:
        return {}
    commits = _git(root, "rev-list", "--all", "--topo-order", "--reverse")
    changes = _git(root, "diff-tree", "--stdin", "-r", "--root", "-m", "--no-renames", stdin=commits.encode())
    found: dict[str, tuple[str, str]] = {}
    commit = ""
    for line in changes.splitlines():
        if not line.startswith(":"):
            commit = line[:12]
            continue
        blob, path = _change(line)
        if blob in blobs:
            found.setdefault(blob, (commit, path))
    return found


class _Object(NamedTuple):
    id: str
    kind: str
    size: int


def _objects(checked: str) -> Iterator[_Object]:
    """From what `cat-file --batch-check` says; a submodule's commit is `missing`, because it is elsewhere."""
    for line in checked.split("\n"):
        match line.split(" "):
            case [name, kind, size]:
                yield _Object(name, kind, int(size))


def _contents(root: Path, objects: Iterable[_Object]) -> Iterator[tuple[_Object, bytes]]:
    """The objects' contents, in which every byte that is not UTF-8 has become U+FFFD: no secret has such a byte.

    `run` hands over text, so git's own framing by size does not hold; a mark that nobody can know stands between.
    """
    for batch in _batches(objects):
        known = {thing.id: thing for thing in batch}
        mark = uuid.uuid4().hex
        wanted = "".join(f"{thing.id}\n" for thing in batch).encode()
        said = _git(root, "cat-file", f"--batch={mark}%(objectname)", "--buffer", stdin=wanted).encode()
        for part in said.split(mark.encode())[1:]:
            name, _, content = part.partition(b"\n")
            yield known[name.decode()], content


def _batches(objects: Iterable[_Object]) -> Iterator[list[_Object]]:
    batch: list[_Object] = []
    size = 0
    for thing in objects:
        if batch and size + thing.size > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(thing)
        size += thing.size
    if batch:
        yield batch


def _in_file(needles: Needles, path: str, stream: IO[bytes], kind: str) -> Iterator[Leak]:
    path_shown = shown(needles, path)
    for hit in needles.hits(io.BytesIO(os.fsencode(path))):
        yield Leak(hit.name, path_shown, kind)
    for hit in needles.hits(stream):
        yield Leak(hit.name, f"{path_shown}:{hit.line}", kind, hit.line)


def shown(needles: Needles, path: str) -> str:
    """A path on one line: what a terminal would not print as it is, is escaped; a secret is masked."""
    text = needles.mask(path)
    return text if text.isprintable() else repr(text)[1:-1]


def folded(found: Iterable[Leak]) -> tuple[Leak, ...]:
    """In order of name, file and line, each once."""
    return tuple(sorted(set(found), key=lambda one: (one.name, one.place.removesuffix(f":{one.line}"), one.line)))


def _git(root: Path, *words: str, stdin: bytes = b"", extra_env: Mapping[str, str] | None = None) -> str:
    """What a git command says: the objects as they are, names in C quotes, which text can carry byte by byte."""
    argv = ["git", "--no-replace-objects", "-c", "core.quotePath=true", "-C", str(root), *words]
    completed = run(argv, stdin=stdin, extra_env=extra_env)
    if not completed.ok:
        # An error shows a tool's last words, and git's stdout may be the secret itself.
        dataclasses.replace(completed, stdout=Captured("")).require(f"git {words[0]}")
    return completed.stdout.raw


def _change(line: str) -> tuple[str, str]:
    """The new blob and the path, from a line such as `:100644 100644 OLD NEW M<tab>path`."""
    fields, _, path = line.partition("\t")
    return fields.split(" ")[3], _unquoted(path)


def _unquoted(path: str) -> str:
    """A path as git writes it: in C quotes, whose escapes are those of Python too, if anything in it is special."""
    return os.fsdecode(ast.literal_eval("b" + path)) if path.startswith('"') else path
