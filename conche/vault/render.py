"""Writes what containers and tools read: .env, and one file per secret in docker/secrets.

Everything is staged in memory first and written by atomic renames. In .env only the marked block is ours: other lines
stay, unless they assign one of our variables, which would shadow it. In docker/secrets a record lists the files we
wrote: those are removed when their secret is gone, and other people's files stay.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from conche.errors import Refused
from conche.files import lock, write_atomic
from conche.formats import RENDERED
from conche.secret import Secret
from conche.stack import Htpasswd, SecretDeclaration, Secrets
from conche.vault import dotenv, htpasswd
from conche.vault.values import PLACEHOLDERS, variables

__all__ = ["RECORD", "RenderedFile", "emptied", "files", "left_over", "stage", "write"]

BEGIN = "# --- written by invoke secrets.render: do not edit up to the end mark ---"
END = "# --- end of what secrets.render writes ---"

RECORD = ".rendered"
"""The record in the folder of secret files: which files are ours, with the time and size each had when written."""

_ASSIGNED = re.compile(r"\s*(?:export\s+)?([\w.]+)\s*[=:]")
"""The variable that a line of .env assigns, also by Compose's `name: value`."""

WAIT = 10.0
"""Seconds to wait for another command that writes these files."""


@dataclass(frozen=True)
class RenderedFile:
    """One file as it should be.

    Attributes:
        mode: 0600; 0444 in a folder of 0700 if we cannot change the owner, so that the container's user can read it.
        secret: the secret or password file in it; empty for .env.
        services: services that must restart to pick it up.
    """

    path: Path
    content: bytes
    mode: int = 0o600
    owner: int | None = None
    secret: str = ""
    services: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """What writing it would do: created, changed or same."""
        if not self.path.exists():
            return "created"
        seen = self.path.stat()
        owned = self.owner is None or seen.st_uid == self.owner
        same = owned and seen.st_mode & 0o777 == self.mode and self.path.read_bytes() == self.content
        return "same" if same else "changed"

    def write(self) -> None:
        """Write the file, private from its creation."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.secret:
            self.path.parent.chmod(0o700)
        # Remove what a killed command has not renamed; mkstemp's names are eight characters longer.
        for half in self.path.parent.glob(f".{self.path.name}.{'?' * 8}"):
            half.unlink(missing_ok=True)
        write_atomic(self.path, self.content, mode=self.mode, owner=self.owner)


def write(root: Path, section: Secrets, staged: Iterable[RenderedFile], gone: Iterable[Path] = ()) -> None:
    """Write the staged files, remove those in `gone`, and record which are ours; one command at a time."""
    folder, locks = root / section.folder, root / ".sops"
    locks.mkdir(mode=0o700, exist_ok=True)
    with lock("render", "writing secrets", folder=locks, wait=WAIT):
        ours = {path.name for path in _ours(folder)}
        for one in staged:
            if one.state != "same":
                one.write()
            ours |= {one.path.name} if one.secret else set()
        for path in gone:
            path.unlink(missing_ok=True)
        if ours:
            there = {name: _seen(folder / name) for name in sorted(ours) if (folder / name).exists()}
            content = json.dumps(RENDERED.stamped({"files": there}), indent=1)
            write_atomic(folder / RECORD, content.encode(), mode=0o600)


def left_over(root: Path, section: Secrets, staged: Iterable[RenderedFile]) -> list[Path]:
    """Return the files that we wrote, that nobody has changed since, and that are not staged any more."""
    wanted = {one.path for one in staged}
    return [path for path in _ours(root / section.folder) if path not in wanted]


def _ours(folder: Path) -> list[Path]:
    """Return the files that we wrote and nobody has changed.

    Raises:
        WrittenByNewer: a later version wrote them.
        Refused: the list of them cannot be read; the files of secrets that are gone would stay.
    """
    file = folder / RECORD
    try:
        recorded = RENDERED.entries(json.loads(file.read_text(encoding="utf-8")), "files", str(file))
        files = {folder / Path(name).name: seen for name, seen in recorded.items()}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise Refused(
            "rendered-list-unreadable",
            f"The list of rendered secrets {file} cannot be read: {why}. Files of secrets that are gone would stay.",
            looked_at=[str(file)],
            next_command=f"ls -lA '{folder}'    # is there a file of a secret that you have unset?\n"
            f"mv '{file}' '{file}.damaged'    # then try again",
        ) from error
    return sorted(path for path, seen in files.items() if path.is_file() and _seen(path) == seen)


def _seen(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_mtime_ns, found.st_size]


def stage(root: Path, section: Secrets, values: Mapping[str, Secret], *, env: bool, files_: bool) -> list[RenderedFile]:
    """Return the files that should be written for these values, without writing any.

    Raises:
        Refused: a value cannot be written to .env.
    """
    present = {name: value for name, value in values.items() if value.reveal() not in PLACEHOLDERS}
    staged = [_dotenv(root / ".env", section, present)] if env else []
    return staged + (files(root, section, {**_kept_empty(root, section), **present}) if files_ else [])


def _kept_empty(root: Path, section: Secrets) -> dict[str, Secret]:
    """Return empty values for optional secrets whose file exists: a running container may have it mounted."""
    there = [name for name in section.declared if (root / section.folder / f"{name}.txt").exists()]
    return emptied(root, section, there)


def emptied(root: Path, section: Secrets, names: Iterable[str]) -> dict[str, Secret]:
    """Return an empty value for each optional secret of `names`: its file is mounted, so it has to exist.

    A file that somebody else has put there is left out, and so left alone.
    """
    folder = root / section.folder
    ours = _ours(folder)
    optional = [name for name in names if not section.declared[name].required]
    files_ = {name: folder / f"{name}.txt" for name in optional}
    return {name: Secret("") for name, path in files_.items() if path in ours or not path.exists()}


def files(root: Path, section: Secrets, values: Mapping[str, Secret]) -> list[RenderedFile]:
    """Stage the secret files of these values, without a trailing newline, and the password files made from them."""
    folder = root / section.folder
    plain = [
        _file(folder, name, section.declared[name], value.reveal().encode())
        for name, value in values.items()
        if name in section.declared and "file" in section.declared[name].outputs
    ]
    return plain + [
        _file(folder, name, wanted, htpasswd.line(folder / f"{name}.txt", values[wanted.user], values[wanted.password]))
        for name, wanted in section.htpasswd.items()
        if wanted.user in values and wanted.password in values
    ]


def _file(folder: Path, name: str, declared: SecretDeclaration | Htpasswd, content: bytes) -> RenderedFile:
    path = folder / f"{name}.txt"
    mine = declared.owner is None or declared.owner == os.getuid()
    if mine or os.getuid() == 0:
        return RenderedFile(path, content, 0o600, None if mine else declared.owner, name, declared.services)
    return RenderedFile(path, content, 0o444, None, name, declared.services)


def _dotenv(path: Path, section: Secrets, values: Mapping[str, Secret]) -> RenderedFile:
    named = variables(section, {name: value for name, value in values.items() if name in section.declared})
    ours = dotenv.render(named)
    kept = _others(path.read_text(encoding="utf-8"), set(named)) if path.exists() else []
    head = "".join(f"{line}\n" for line in kept)
    return RenderedFile(path, head.encode() + f"{BEGIN}\n".encode() + ours + f"{END}\n".encode())


def _others(text: str, names: set[str]) -> list[str]:
    """Return the lines of a .env that are not ours."""
    kept, inside = [], False
    for line in text.removesuffix("\n").split("\n"):
        if line in (BEGIN, END):
            inside = line == BEGIN
        elif not inside and not ((found := _ASSIGNED.match(line)) and found[1] in names):
            kept.append(line)
    return kept
