"""Searches files, the index, git's history, images and logs for the secrets' real values.

A finding names the secret and the place, never the text. Compressed content inside a file, such as a committed archive,
is not opened.
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
from typing import IO, NamedTuple

from conche.process import Captured, run
from conche.secret import MASK, Secret, forms
from conche.vault.keys import public_or_none

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
"""The name under which any private age key is reported."""

UNREADABLE = "(unreadable)"
"""The name of a finding for a place that could not be searched."""

SHORTEST = 8
"""Characters. A shorter value occurs in too much innocent text to be searched for."""

SHORTEST_LINE = 16
"""Characters of one line of a multi-line value: `-----BEGIN` and `user: admin` are nobody's secret."""

CHUNK = 1 << 20
"""Bytes searched at a time: few enough to stay in the processor's cache while they are searched for each form."""

BATCH = 16 << 20
"""Bytes of git objects held at a time; a larger object is held alone."""

_AGE_KEY = re.compile(rb"AGE-SECRET-KEY-1[0-9A-Z]{58}")
_AGE_KEY_LENGTH = 74


@dataclass(frozen=True)
class Leak:
    """A secret in the open.

    Attributes:
        name: the secret's name, `AGE_KEY` or `UNREADABLE`.
        place: `path:line`; `commit:path` of the commit that introduced it, or `blob ID` if no branch or tag has it;
            `reference layer N path` or `reference config.Env[N]`; `environment service container stream:line`.
        kind: `worktree`, `index`, `history`, `image` or `log`.
        line: line in the file or blob, from 1; 0 if the place has no lines.
    """

    name: str
    place: str
    kind: str
    line: int = 0


class Hit(NamedTuple):
    """An occurrence of a secret in a stream: the offset of its first byte, from 0, and the line, from 1."""

    name: str
    offset: int
    line: int


class Needles:
    """The values to search for, in the forms in which tools write them; printing it shows none of them.

    A value of eight characters or more is found as it is, as base64 (even inside other text, such as `user:password`),
    URL-quoted, JSON-quoted, and with each `$` doubled or each `'` escaped as in env files.
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
        """Yield every secret in the rest of the stream, in order, however long the stream or its lines are."""
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
        """Return the text with every secret replaced by `***`: a file can be named after its content."""
        masked = os.fsencode(text)
        for form in self._names:
            masked = masked.replace(form, MASK.encode())
        return os.fsdecode(_AGE_KEY.sub(MASK.encode(), masked))

    def _within(self, block: bytes, seen: int) -> Iterator[tuple[int, str]]:
        """Yield what ends after the first `seen` bytes; one `find` per form is faster than one regex for all."""
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
    # Text that contains a longer form also contains any shorter form within it.
    return {form for form in found if not any(other in form for other in found - {form})}


def _inside_base64(value: bytes) -> Iterator[bytes]:
    """Yield the value's base64, in either alphabet, for every alignment within the encoded text.

    The first and last characters depend on the neighbouring bytes, and are left out.
    """
    for before, affected in enumerate((0, 2, 3)):
        padded = b"\0" * before + value
        certain = slice(affected, len(padded) * 8 // 6)
        yield base64.b64encode(padded)[certain]
        yield base64.urlsafe_b64encode(padded)[certain]


def scan_worktree(root: Path, needles: Needles) -> tuple[Leak, ...]:
    """Search the names and contents of the checkout's files that git tracks or does not ignore."""
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
    """Open what git would store of a path: a link's target as text, and nothing for a folder (another repository)."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return io.BytesIO(os.fsencode(path.readlink()))
    return path.open("rb") if stat.S_ISREG(mode) else io.BytesIO()


def scan_index(root: Path, needles: Needles) -> tuple[Leak, ...]:
    """Search what is staged and differs from HEAD, whatever the files contain now.

    In a hook of `git commit -a`, `GIT_INDEX_FILE` names another index than usual, which we use too.
    """
    index = os.environ.get("GIT_INDEX_FILE")
    _git(root, "rev-parse", "--git-dir")  # outside a repository, git diff would compare files instead
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
    """Search every git object, even those that no branch reaches any more: files, names, messages.

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
        # A file named after a secret is in every version of its folder: one finding is enough.
        found.setdefault((name, "tree" if thing.kind == "tree" else thing.id), Leak(name, place, "history", line))
    return folded(found.values())


def _origins(root: Path, blobs: set[str]) -> dict[str, tuple[str, str]]:
    """Return, for each blob that a branch or tag has, the first commit with it and its path there."""
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
    """Parse the output of `cat-file --batch-check`, skipping `missing` objects such as a submodule's commit."""
    for line in checked.split("\n"):
        match line.split(" "):
            case [name, kind, size]:
                yield _Object(name, kind, int(size))


def _contents(root: Path, objects: Iterable[_Object]) -> Iterator[tuple[_Object, bytes]]:
    """Yield the objects' contents, with every non-UTF-8 byte replaced by U+FFFD: no secret has such a byte.

    `run` returns text, so git's own framing by size does not hold; an unpredictable mark separates the objects instead.
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
    """Format a path on one line, with unprintable characters escaped and secrets masked."""
    text = needles.mask(path)
    return text if text.isprintable() else repr(text)[1:-1]


def folded(found: Iterable[Leak]) -> tuple[Leak, ...]:
    """Sort by name, file and line, and remove duplicates."""
    return tuple(sorted(set(found), key=lambda one: (one.name, one.place.removesuffix(f":{one.line}"), one.line)))


def _git(root: Path, *words: str, stdin: bytes = b"", extra_env: Mapping[str, str] | None = None) -> str:
    """Return a git command's output: objects unreplaced, and paths in C quotes, which preserve every byte as text."""
    argv = ["git", "--no-replace-objects", "-c", "core.quotePath=true", "-C", str(root), *words]
    completed = run(argv, stdin=stdin, extra_env=extra_env)
    if not completed.ok:
        # An error shows a tool's last lines, and git's stdout may be the secret itself.
        dataclasses.replace(completed, stdout=Captured("")).require(f"git {words[0]}")
    return completed.stdout.raw


def _change(line: str) -> tuple[str, str]:
    """Parse the new blob and the path from a line such as `:100644 100644 OLD NEW M<tab>path`."""
    fields, _, path = line.partition("\t")
    return fields.split(" ")[3], _unquoted(path)


def _unquoted(path: str) -> str:
    """Decode a path from git's output: one with special characters is in C quotes, with the escapes of Python."""
    return os.fsdecode(ast.literal_eval("b" + path)) if path.startswith('"') else path
