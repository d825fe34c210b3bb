"""Find the files that sops has encrypted, by their content; name their values, and choose whose environment each is.

Names and places are all that is read: no key is needed, and no value is known.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from conche.errors import ConcheError
from conche.init.environments import KNOWN
from conche.init.files import LARGEST
from conche.vault import encrypted, forms
from conche.vault.forms import Path_

__all__ = ["Chosen", "SopsFile", "choose", "sops_files", "spellings"]

FORMS = (".yaml", ".yml", ".json", ".env")
"""Endings of names by which sops tells a file's form; it takes any other file for bytes."""

OTHERS = (".enc", ".ini", ".sops")

SKIPPED = frozenset({"node_modules", "vendor", "venv", "site-packages", "__pycache__", "dist", "build", "target"})
"""Folders of what other people wrote, or what is made; hidden folders are skipped too, but for `SHOWN`."""

SHOWN = frozenset({".sops", ".secrets", ".envs", ".config", ".deploy"})

DEEPEST, MOST_LOOKED = 4, 20_000
"""How far below the top, and at how many entries, is looked."""

LONGEST = 63
"""Characters of a secret's name in stack.yaml."""

_ELSEWHERE: Mapping[Path_, str] = {("", ""): ""}
"""A place in no file: with any, a file is read as one of other people."""


@dataclass(frozen=True)
class SopsFile:
    """A file that sops has encrypted.

    Attributes:
        file: relative to the repository.
        paths: name -> the place of its value.
        foreign: whether Conche takes it only if stack.yaml gives the place of a value.
        why_not: why secrets.* cannot work on it; empty if they can.
    """

    file: Path
    paths: Mapping[str, Path_]
    foreign: bool = False
    why_not: str = ""

    def usual(self, name: str) -> bool:
        """Return whether a value is where it is looked for if stack.yaml does not say."""
        return self.paths[name] == forms.new_path(name, forms.form_of(self.file.name))


@dataclass(frozen=True)
class Chosen:
    """The files for stack.yaml.

    Attributes:
        shared: the file of all environments without one of their own.
        own: environment -> its own file.
        others: files that are left as they are.
    """

    shared: SopsFile | None = None
    own: Mapping[str, SopsFile] = field(default_factory=dict)
    others: Sequence[SopsFile] = ()

    @property
    def files(self) -> tuple[SopsFile, ...]:
        return (*([self.shared] if self.shared else []), *self.own.values())

    def of(self, environment: str) -> SopsFile | None:
        return self.own.get(environment, self.shared)


def sops_files(root: Path, mentioned: Collection[str] = ()) -> list[SopsFile]:
    """Return the SOPS files of a repository, those at the top first.

    Args:
        mentioned: variables that the Compose files mention; a nested value is called by its last key if that is one.
    """
    return [_read(root, file, mentioned) for file in _candidates(root)]


def _candidates(root: Path) -> Iterator[Path]:
    left, looked = deque([(root, 0)]), 0
    while left:
        folder, depth = left.popleft()
        for entry in _entries(folder):
            looked += 1
            if looked > MOST_LOOKED:
                return
            if entry.is_dir(follow_symlinks=False):
                hidden = entry.name.startswith(".") and entry.name not in SHOWN
                if depth < DEEPEST and not hidden and entry.name not in SKIPPED:
                    left.append((Path(entry.path), depth + 1))
            elif Path(entry.name).suffix in (*FORMS, *OTHERS) and _is_sealed(Path(entry.path)):
                yield Path(entry.path).relative_to(root)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return a folder's entries in order; none of one that only a container's user may read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda one: one.name)
    except OSError:
        return []


def _is_sealed(file: Path) -> bool:
    try:
        if not file.is_file() or file.stat().st_size > LARGEST:
            return False
        text = file.read_bytes()
    except OSError:
        return False
    return (
        b"ENC[AES256_GCM," in text and re.search(rb"^sops_|^sops:|[\"']sops[\"']\s*:", text, re.MULTILINE) is not None
    )


def _read(root: Path, file: Path, mentioned: Collection[str]) -> SopsFile:
    if file.suffix not in FORMS:
        return SopsFile(file, {}, why_not=f"its name ends with {file.suffix}, by which sops does not know its form")
    content = (root / file).read_bytes()
    try:
        found = encrypted.examine(content, file.name, _ELSEWHERE)
    except ConcheError as problem:
        said = problem.message.removeprefix(f"{file.name} ").removesuffix(". Nothing was written.")
        return SopsFile(file, _names(content, file), why_not=f"it {said}")
    return SopsFile(file, _called(found.paths, mentioned), foreign=not _is_ours(content, file.name))


def _is_ours(content: bytes, name: str) -> bool:
    try:
        encrypted.examine(content, name)
    except ConcheError:
        return False
    return True


def _names(content: bytes, file: Path) -> dict[str, Path_]:
    """Return the names of a file that cannot be used, as far as they can be told."""
    try:
        tree = forms.tree_of(content, forms.form_of(file.name))
        paths = [path for path, _ in islice(forms.flat(tree), encrypted.MOST) if path[0] != "sops"]
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {forms.called(path)[:LONGEST].rstrip("_"): path for path in paths}


def _called(paths: Mapping[str, Path_], mentioned: Collection[str]) -> dict[str, Path_]:
    """Return the places by the names that stack.yaml will give them."""
    named: dict[str, Path_] = {}
    for default, path in paths.items():
        last = forms.called(path[-1:])
        short = default.upper() not in mentioned and (last in mentioned or last.upper() in mentioned)
        name = last if short and last not in paths and last not in named else default
        named[name[:LONGEST].rstrip("_")] = path
    return named


def spellings(name: str, path: Path_) -> tuple[str, ...]:
    """Return the variables by which Compose files may ask for a value, the likeliest first."""
    return (name.upper(), name, *path[-1:])


def choose(found: Sequence[SopsFile], environments: Sequence[str]) -> Chosen:
    """Choose among the files that can be used: by the names of environments in theirs, else the first for all.

    Values of one name have to be at one place, so a file with others is left as it is.
    """
    shared: SopsFile | None = None
    own: dict[str, SopsFile] = {}
    others = [one for one in found if one.why_not]
    for one in found:
        name = _environment(one.file, environments) if len(environments) > 1 else ""
        agree = all(_agree(one, other) for other in (*own.values(), *([shared] if shared else [])))
        if one.why_not:
            continue
        if name and name not in own and agree:
            own[name] = one
        elif not name and shared is None and agree:
            shared = one
        else:
            why = "stack.yaml has one file for all environments, or one for each" if agree else "its keys are others"
            others.append(SopsFile(one.file, one.paths, why_not=why))
    return Chosen(shared, {name: own[name] for name in environments if name in own}, tuple(others))


def _environment(file: Path, environments: Sequence[str]) -> str:
    """Return the environment that a file's name or folders name; empty if none or several."""
    words = {KNOWN.get(word, word) for word in re.split(r"[^a-z0-9]+", str(file).lower())}
    named = [one for one in environments if one in words]
    return named[0] if len(named) == 1 else ""


def _agree(one: SopsFile, other: SopsFile) -> bool:
    both = one.paths.keys() & other.paths.keys()
    return all(one.paths[n] == other.paths[n] or (one.usual(n) and other.usual(n)) for n in both)
