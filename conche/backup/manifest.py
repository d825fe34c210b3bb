"""The manifest of a backup: manifest.json for programs, MANIFEST.txt for people.

manifest.json lists every file with size and sha256 and ends with a MAC, where the stack has a key for it, and a digest
of itself. Both are compared with its bytes before anything in it is read, so that even a single changed bit that leaves
valid JSON is found.

The digest has no key: whoever can write to the target makes it fit. So nothing in a manifest is believed for having the
right digest, and a stranger's may be read too: `Manifest` admits only paths below the backup's own folder, modes
without set-user-id, and the like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from conche.backup import envelope, within
from conche.backup.admitted import Below, Count, Few, Part, Series, Words, below, place, shown
from conche.backup.envelope import Envelope
from conche.backup.mac import KEYLESS, Keys, Provenance
from conche.errors import CheckFailed
from conche.formats import MANIFEST
from conche.inert import inert
from conche.version import version

__all__ = [
    "FILE",
    "TEXT",
    "Artifact",
    "ComponentRecord",
    "Link",
    "Manifest",
    "Omission",
    "Read",
    "UnknownFormat",
    "examined",
    "human_size",
    "read",
    "text",
]

FILE = "manifest.json"
TEXT = "MANIFEST.txt"
SCHEMA = f"conche-backup/{MANIFEST.number}"
KNOWN = frozenset(f"conche-backup/{number}" for number in range(1, MANIFEST.number + 1))

LARGEST = 256 << 20
"""Maximum bytes of a manifest that are read; a million artifacts need less."""

LARGEST_UNPROVEN = 8 << 20
"""Maximum bytes where the stack has keys and none proves the manifest, unless it was asked for: reading takes some
thirty times as much memory."""


class UnknownFormat(CheckFailed):
    """A manifest that is undamaged, but in a format that this version does not know."""

    def __init__(self, folder: Path, schema: str, tools: object) -> None:
        made = tools.get("conche") if isinstance(tools, Mapping) else None
        by = (
            f"Conche {made}"
            if isinstance(made, str) and re.fullmatch(r"[0-9A-Za-z.+-]{1,64}", made)
            else "another tool"
        )
        super().__init__(
            "manifest-schema-unknown",
            f"{folder.name} was made by {by}: its {FILE} is {schema[:40]!r}. This is Conche {version()}, which knows"
            f" {SCHEMA}.",
            looked_at=[str(folder / FILE)],
            next_command="use the version that its MANIFEST.txt names under `Made with`\n"
            "tar xzf ARCHIVE.tar.gz -C FOLDER    # by hand: the files are ordinary archives",
        )
        self.by = by


class Artifact(Part):
    """One file of a backup.

    Attributes:
        path: relative to the backup.
        mode: the mode of the source; the file in the backup is 0600.
        members: number of entries of the tar in it; 0 if it is no archive.
        content: total size of the files in that tar, unpacked, in bytes; if it is no tar, of what was compressed.
        pieces: compressed size of each of its gzip members in bytes, separated by spaces.
    """

    path: Below
    size: Count
    sha256: str
    mode: int = Field(default=0o600, ge=0, le=0o777)
    members: Count = 0
    content: Count = 0
    pieces: str = Field(default="", pattern=r"^[0-9 ]*$")


class Link(Part):
    """A symbolic link of a backup."""

    path: Below
    target: str


class Omission(Part):
    """Something that is not in the backup, and whether that degrades it."""

    name: str
    why: str
    harmful: bool = False


class ComponentRecord(Part):
    """One component as it was backed up.

    Attributes:
        consistency: as of which moment the data are, in words.
        absent: nothing of it is in the backup.
    """

    driver: str
    consistency: str = ""
    absent: bool = False
    seconds: float = 0.0
    artifacts: Series[Artifact] = ()
    links: Series[Link] = ()
    left_out: Series[Omission] = ()
    facts: Words = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_where(self) -> ComponentRecord:
        """Admit only facts that name a place for each archive, or a folder for the files, below stack.yaml."""
        if self.driver == "archive":
            for one in self.artifacts:
                place(self.facts.get(Path(one.path).name, ""))
        place(self.facts.get("folder", ""))
        if not re.fullmatch(r"[0-9]{1,10}:[0-9]{1,10}", self.facts.get("owner", "0:0")):
            raise ValueError(f"{shown(self.facts['owner'])} is no owner")
        return self

    @property
    def size(self) -> int:
        """Total size of its artifacts in bytes."""
        return sum(artifact.size for artifact in self.artifacts)

    @property
    def harm(self) -> tuple[str, ...]:
        """What somebody will miss."""
        return tuple(f"{one.name} {one.why}" for one in self.left_out if one.harmful)


class Manifest(Part):
    """A backup.

    Attributes:
        created: when it was begun, in UTC.
        seconds: how long it took.
        complete: nothing that should be there is missing.
        text: MANIFEST.txt.
    """

    schema_: str = SCHEMA
    name: str
    stack: str
    kind: str
    created: AwareDatetime
    seconds: float
    complete: bool
    revision: str = ""
    images: Words = Field(default_factory=dict)
    tools: Words = Field(default_factory=dict)
    components: Few[ComponentRecord]
    text: Artifact | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Manifest:
        """Admit only files below the folder of their component, each once, and none below a link or a file."""
        below(self.name)
        if self.text is not None and self.text.path != TEXT:
            raise ValueError(f"{shown(self.text.path)} is not {TEXT}")
        listed = {FILE, TEXT}
        for name, record in self.components.items():
            if "/" in below(name) or name in (FILE, TEXT):
                raise ValueError(f"{shown(name)} is no name of a component")
            for path in (*(one.path for one in record.artifacts), *(one.path for one in record.links)):
                if not path.startswith(f"{name}/"):
                    raise ValueError(f"{shown(path)} is not below {name}")
                if path in listed:
                    raise ValueError(f"{shown(path)} occurs twice")
                listed.add(path)
        for path in listed:
            if any(str(parent) in listed for parent in Path(path).parents):
                raise ValueError(f"{shown(path)} is below a file or link")
        return self

    @property
    def size(self) -> int:
        """Total size of all artifacts in bytes."""
        return sum(record.size for record in self.components.values())

    @property
    def harm(self) -> tuple[str, ...]:
        """What degrades it, with the component's name first."""
        return tuple(f"{name}: {words}" for name, record in self.components.items() for words in record.harm)

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every file except the manifest itself."""
        for record in self.components.values():
            yield from record.artifacts
        if self.text is not None:
            yield self.text

    def render(self, keys: Keys = KEYLESS) -> bytes:
        """Return the bytes of manifest.json, with a MAC by the key in use, if there is one."""
        return envelope.closed(self.model_dump(mode="json"), keys)


@dataclass(frozen=True)
class Read:
    """What reading a manifest has shown.

    Attributes:
        manifest: what it says; None if it cannot be read.
        error: why it cannot; None if it can.
        has_mac: whether some key has proven it once.
    """

    provenance: Provenance = Provenance.UNPROVEN
    manifest: Manifest | None = None
    error: CheckFailed | None = None
    has_mac: bool = False

    def required(self) -> Manifest:
        """Return what it says; raises `error` if it cannot be read."""
        if self.error is not None:
            raise self.error
        assert self.manifest is not None
        return self.manifest


def read(folder: Path) -> Manifest:
    """Read the manifest of the backup in `folder`.

    Raises:
        CheckFailed: it is missing, differs from what was written by as little as a bit, or says what no backup says.
        UnknownFormat: another version has written it in a format that this one does not know.
    """
    return examined(folder).required()


def examined(folder: Path, keys: Keys = KEYLESS, unproven: int = LARGEST) -> Read:
    """Read the manifest of the backup in `folder`, and judge by its MAC whose it is, before anything else in it.

    Args:
        unproven: maximum bytes of one that is not proven.
    """
    try:
        raw = within.content(folder, FILE, LARGEST)
    except FileNotFoundError:
        return Read(error=CheckFailed("manifest-missing", f"{folder.name} has no {FILE}.", looked_at=[str(folder)]))
    except OSError:
        return Read(error=_damaged(folder))
    opened = Envelope.of(raw)
    if opened is None:
        return Read(error=_damaged(folder))
    provenance = opened.provenance(keys)
    if provenance is not Provenance.OURS and len(raw) > unproven:
        return Read(provenance, error=_too_large(folder, len(raw)))
    try:
        return Read(provenance, _parsed(folder, raw), has_mac=bool(opened.tag))
    except CheckFailed as error:
        return Read(provenance, error=error)


def _parsed(folder: Path, raw: bytes) -> Manifest:
    try:
        content = json.loads(raw)
        for name in envelope.ADDED:
            content.pop(name, None)
        if content["schema_"] not in KNOWN:
            raise UnknownFormat(folder, str(content["schema_"]), content.get("tools"))
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise _refused(folder, error) from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise _damaged(folder) from None


def _damaged(folder: Path) -> CheckFailed:
    return CheckFailed(
        "manifest-damaged",
        f"The {FILE} of {folder.name} is damaged.",
        looked_at=[str(folder / FILE)],
        next_command="invoke backup.list    # restore another one",
    )


def _too_large(folder: Path, size: int) -> CheckFailed:
    return CheckFailed(
        "manifest-too-large",
        f"The {FILE} of {folder.name} has {human_size(size)}, and nothing proves that it is this stack's: it is not"
        " looked into.",
        looked_at=[str(folder / FILE)],
        next_command=f"invoke backup.adopt {folder.name}    # if you know that it is",
    )


def _refused(folder: Path, error: ValidationError) -> CheckFailed:
    """Return the error for a manifest that is as it was written, but not by Conche: no backup of ours says that."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    return CheckFailed(
        "manifest-refused",
        f"The {FILE} of {folder.name} says what no backup says; nothing of it is believed.",
        looked_at=[str(folder / FILE)],
        evidence=[f"{shown(where)[1:-1]}: {said}" if where else said],
        next_command="invoke backup.list    # restore another one, and find out who can write to the target",
    )


def text(manifest: Manifest) -> str:
    """Return the content of MANIFEST.txt."""
    local = manifest.created.astimezone()
    lines = [
        f"Backup: {manifest.name}",
        f"Created: {local:%Y-%m-%d %H:%M:%S %z} ({manifest.created.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)",
        f"Git revision: {manifest.revision or 'unknown'}",
        f"Complete: {'yes' if manifest.complete else 'NO, see below'}",
        "",
        "Restore it: invoke backup.restore " + manifest.name,
        "By hand:    tar xzf ARCHIVE.tar.gz -C FOLDER",
        "",
    ]
    for name, record in manifest.components.items():
        state = "absent" if record.absent else f"{human_size(record.size)}, {record.consistency or record.driver}"
        lines.append(f"{name}: {state}")
        lines += [f"  {one.path}  {one.size}  sha256 {one.sha256}" for one in record.artifacts]
        lines += [f"  {one.path} -> {one.target}" for one in record.links]
        lines += [f"  warning: {line}" for line in record.facts.get("warnings", "").splitlines()]
        lines += [f"  {'MISSING' if one.harmful else 'left out'}: {one.name} {one.why}" for one in record.left_out]
    if manifest.images:
        lines += ["", "Images:", *(f"  {service}: {image}" for service, image in sorted(manifest.images.items()))]
    lines += [
        "",
        "Made with: " + ", ".join(f"{tool} {version}" for tool, version in sorted(manifest.tools.items())),
        "",
    ]
    # File names come from strangers, and people print this file on a terminal.
    return "\n".join(inert(line, one_line=True) for line in lines)


def human_size(size: float) -> str:
    """Format a number of bytes for people, such as 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
