"""The files that say how a repository runs: found by their names, read up to a limit."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from conche import shallow_yaml
from conche.errors import NotFound
from conche.texts import read_text

__all__ = [
    "BASES",
    "FOLDERS",
    "LARGEST",
    "MOST_FILES",
    "ComposeFiles",
    "decrypts_into_dotenv",
    "find",
    "keys_of",
    "read",
]

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
_BELOW = frozenset({"base", "common", "core", "shared"})
"""Names of files that others are merged over."""

_EXAMPLE = re.compile(r"(?:^|[.\-_])(?:examples?|samples?|template|tmpl|dist|orig|old|bak)(?=[.\-_]|$)", re.IGNORECASE)
"""Matches names of files that are there to be copied, or that are left from before."""

_DECRYPTED = re.compile(r"\bsops\b[^\n|;&]*\s(?:-d|--decrypt|decrypt)\b[^\n|;&]*>\s*['\"]?(?:\./)?\.env(?![\w./-])")

_USED = re.compile(
    r"docker[- ]compose(?:\s+(?:-p|--project-name|--env-file|--profile)[ =]\S+)*((?:\s+(?:-f|--file)[ =]\S+)+)"
)
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
        base: without default files, the file that the variants are merged over; None if each stands alone.
    """

    default: tuple[Path, ...]
    variants: Mapping[Path, str]
    used: tuple[tuple[Path, ...], ...] = ()
    examples: tuple[Path, ...] = ()
    base: Path | None = None


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
            variants |= dict(_called(root, used, {*default, *variants}))
            called = {file for files in used for file in files}
            examples = [one for one, said in variants.items() if _EXAMPLE.search(said) and one not in called]
            if not default and len(examples) == len(variants):
                examples = []
            base = None if default else _base(variants, used)
            kept = [(one, said) for one, said in variants.items() if one not in examples and one != base]
            return ComposeFiles(default, dict(kept[:MOST_FILES]), used, tuple(examples[:MOST_FILES]), base)
    raise NotFound(
        "no-compose-file",
        f"There is no Compose file in {root}.",
        looked_at=[f"{', '.join(BASES)} and their variants, there and in {', '.join(FOLDERS)}"],
        next_command="cd to the folder that `docker compose up` is called in, then: conche init",
    )


def _called(root: Path, used: Sequence[Sequence[Path]], known: Collection[Path]) -> Iterator[tuple[Path, str]]:
    """Yield files of other names or folders that people merge over one of these, with what their names say."""
    for first, last in ((files[0], files[-1]) for files in used):
        told = first in known and last not in known and last.name not in (*BASES, *OVERRIDES)
        if told and "services" in keys_of(root / last):
            match = _VARIANT.fullmatch(last.name)
            yield last, (match["name"] or match["first"]) if match else last.stem


def _base(variants: Mapping[Path, str], used: Sequence[Sequence[Path]]) -> Path | None:
    """Return the variant that others are merged over: the one that is only called with others, or by its name."""
    below = [files[0] for files in used if len(files) > 1 and files[0] in variants]
    below += [one for one, said in variants.items() if said.lower() in _BELOW]
    last = {files[-1] for files in used}
    return next((one for one in below if one not in last and len(variants) > 1), None)


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


def decrypts_into_dotenv(root: Path) -> bool:
    """Return whether a script, workflow or document has sops write its whole file to .env, where names stay."""
    return any(map(_DECRYPTED.search, _scripts(root)))


def _scripts(root: Path) -> Iterator[str]:
    texts = [path for pattern in _SCRIPTS for path in sorted(root.glob(pattern)) if path.is_file()]
    for text in texts[:MOST_FILES]:
        if text.stat().st_size <= LARGEST:
            yield text.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")


def _used(root: Path) -> tuple[tuple[Path, ...], ...]:
    counts: dict[tuple[Path, ...], int] = {}
    for text in _scripts(root):
        for match in _USED.finditer(text):
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
