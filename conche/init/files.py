"""The files that say how a repository runs: found by their names, read up to a limit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from conche import shallow_yaml
from conche.errors import NotFound
from conche.texts import read_text

__all__ = ["BASES", "LARGEST", "MOST_FILES", "ComposeFiles", "find", "keys_of", "read"]

BASES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
"""The files that Compose looks for by default, in its order."""

OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)

FOLDERS = ("compose", "docker", "deploy", "deployment", "infra")
"""Where Compose files usually are if not at the top."""

LARGEST = 1 << 20
"""Most bytes of a file that is read."""

MOST_FILES = 200
"""Most files of one kind that are looked at."""

_VARIANT = re.compile(r"(?:docker-)?compose[.\-_](?P<name>.+)\.ya?ml|(?P<first>[^.]+)[.\-_](?:docker-)?compose\.ya?ml")
_EXAMPLE = re.compile(r"(?:^|[.\-_])(?:examples?|samples?|template|tmpl|dist|orig|old|bak)(?=[.\-_]|$)", re.IGNORECASE)
"""Matches names of files that are there to be copied, or that are left from before."""

_USED = re.compile(r"docker[- ]compose((?:\s+(?:-f|--file)[ =]\S+)+)")
_SCRIPTS = (
    "Makefile", "makefile", "justfile", "Justfile", "Taskfile.y*ml", "package.json", "README*", "*.sh", "*.md",
    "scripts/*", "bin/*", "docs/*.md", ".gitea/workflows/*", ".forgejo/workflows/*", ".github/workflows/*",
)  # fmt: skip
"""Where people write down how they call Compose."""


@dataclass(frozen=True)
class ComposeFiles:
    """The Compose files of a repository, relative to it.

    Attributes:
        default: what `docker compose` takes by default: a file and its override, or what COMPOSE_FILE in .env says.
        variants: the other files -> the part of their names that says dev, prod and the like.
        used: how scripts and documents call Compose: the lists after `-f`, most frequent first.
        examples: variants that by their names are there to be copied, beside others that are not.
    """

    default: tuple[Path, ...]
    variants: Mapping[Path, str]
    used: tuple[tuple[Path, ...], ...] = ()
    examples: tuple[Path, ...] = ()


def find(root: Path, compose_file: str = "") -> ComposeFiles:
    """Look for Compose files at the top, or else in the folders where they usually are.

    Args:
        compose_file: the value of COMPOSE_FILE in .env.

    Raises:
        NotFound: there is none.
    """
    folders = [Path(), *(Path(name) for name in FOLDERS if (root / name).is_dir())]
    for folder in folders:
        names = sorted(path.name for path in (root / folder).iterdir() if path.is_file())
        named = tuple(Path(one) for one in re.split("[:;]", compose_file) if one and (root / one).is_file())
        default = named or tuple(folder / name for name in _default(names))
        variants = dict(_variants(folder, names, default))
        if folder.name == "compose":
            variants |= {folder / one: Path(one).stem for one in names if _is_compose(root / folder / one)}
        if default or variants:
            used = _used(root)
            called = {file for files in used for file in files}
            examples = [one for one, said in variants.items() if _EXAMPLE.search(said) and one not in called]
            if not default and len(examples) == len(variants):
                examples = []
            kept = [(one, said) for one, said in variants.items() if one not in examples]
            return ComposeFiles(default, dict(kept[:MOST_FILES]), used, tuple(examples[:MOST_FILES]))
    raise NotFound(
        "no-compose-file",
        f"There is no Compose file in {root}.",
        looked_at=[f"{', '.join(BASES)} and their variants, there and in {', '.join(FOLDERS)}"],
        next_command="cd to the folder that `docker compose up` is called in, then: conche init",
    )


def _default(names: Sequence[str]) -> Iterator[str]:
    base = next((name for name in BASES if name in names), None)
    if base is not None:
        yield base
        yield from [name for name in OVERRIDES if name in names][:1]


def _variants(folder: Path, names: Sequence[str], default: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for name in names:
        match = _VARIANT.fullmatch(name)
        if match and name not in OVERRIDES and folder / name not in default:
            yield folder / name, match["name"] or match["first"]


def _is_compose(file: Path) -> bool:
    return file.suffix in (".yaml", ".yml") and file.name not in (*BASES, *OVERRIDES) and "services" in keys_of(file)


def _used(root: Path) -> tuple[tuple[Path, ...], ...]:
    counts: dict[tuple[Path, ...], int] = {}
    texts = [path for pattern in _SCRIPTS for path in sorted(root.glob(pattern)) if path.is_file()]
    for text in texts[:MOST_FILES]:
        if text.stat().st_size > LARGEST:
            continue
        for match in _USED.finditer(text.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")):
            named = re.findall(r"(?:-f|--file)[ =]['\"]?([^\s'\"]+)", match[1])
            files = tuple(Path(one) for one in named)
            if all((root / one).is_file() and not one.is_absolute() for one in files):
                counts[files] = counts.get(files, 0) + 1
    return tuple(sorted(counts, key=lambda files: -counts[files]))


def read(root: Path, name: Path | str) -> str:
    """Read a text file of the repository; `Refused` if it is too large, not UTF-8, or cannot be read."""
    return read_text(root / name, str(name), most=LARGEST)


def keys_of(file: Path, *path: str) -> tuple[str, ...]:
    """Return the keys, as written, of the mapping at a path in a YAML file; none if there is no such mapping.

    No values are constructed, so neither tags nor aliases cost anything.
    """
    if file.stat().st_size > LARGEST:
        return ()
    try:
        node = shallow_yaml.compose(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return ()
    for part in path:
        below = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((value for key, value in below if key.value == part), None)
    return tuple(str(key.value) for key, _ in node.value) if isinstance(node, yaml.MappingNode) else ()
