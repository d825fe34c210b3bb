"""How each kind of component is dumped: by a module of its own, or by programs in a container (programs.py)."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from conche.backup.archive import Archive
from conche.backup.folder import Stored
from conche.backup.manifest import Artifact, ComponentRecord, Link, Omission
from conche.backup.reading import Reading
from conche.backup.site import Site
from conche.backup.tree import FILE
from conche.backup.unchanged import Earlier, Seen
from conche.stack import Component

__all__ = ["FOREIGN", "Dumping", "by_programs", "dump", "in_container", "printable"]

MODULES = {
    "archive": "local", "files": "local", "logs": "local", "secrets": "keyring",
    "volume": "volume", "influxdb": "influxdb",
}  # fmt: skip

FOREIGN = ("volume", "influxdb")
"""Drivers whose archives hold a container's folders, where links are relative to the container's root."""


@dataclass(frozen=True)
class Dumping:
    """A component that is being dumped.

    Attributes:
        folder: the empty folder for its artifacts.
        plain_key: store the age key unencrypted, as the user asked.
        earlier: what an earlier backup has of it; None to read everything.
        archives: what was seen of the sources of each archive, by its name.
        files: what was seen of each file that is stored as it is.
    """

    site: Site
    name: str
    component: Component
    folder: Path
    plain_key: bool = False
    earlier: Earlier | None = None
    archives: dict[str, Seen] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def artifact(self, file: str, archive: Archive) -> Artifact:
        """Return the manifest's entry for an archive."""
        return Artifact(
            path=f"{self.name}/{file}",
            size=archive.size,
            sha256=archive.sha256,
            members=archive.members,
            content=archive.content,
            pieces=" ".join(map(str, archive.pieces)),
        )

    def stored(self, files: list[Stored]) -> tuple[tuple[Artifact, ...], tuple[Link, ...]]:
        """Return the manifest's entries for plain files and links."""
        artifacts = [
            Artifact(path=f"{self.name}/{one.name}", size=one.size, sha256=one.sha256, mode=one.mode)
            for one in files
            if not one.link
        ]
        links = [Link(path=f"{self.name}/{one.name}", target=one.link) for one in files if one.link]
        return tuple(artifacts), tuple(links)

    def with_tree(self, files: list[Stored], tree: Archive | None) -> tuple[tuple[Artifact, ...], tuple[Link, ...]]:
        """Return the manifest's entries for plain files and links, and for what they have beside their content."""
        artifacts, links = self.stored(files)
        return (*artifacts, *([self.artifact(FILE, tree)] if tree else [])), links

    def record(
        self,
        *,
        artifacts: tuple[Artifact, ...] = (),
        links: tuple[Link, ...] = (),
        consistency: str = "",
        reading: Reading | None = None,
        facts: dict[str, str] | None = None,
    ) -> ComponentRecord:
        """Return the manifest's record of the component."""
        left_out = reading.left_out if reading else []
        return ComponentRecord(
            driver=self.component.driver,
            consistency=consistency,
            absent=not artifacts and not links,
            artifacts=artifacts,
            links=links,
            left_out=tuple(Omission(name=printable(one.name), why=one.why, harmful=one.harmful) for one in left_out),
            facts=facts or {},
        )


def dump(task: Dumping) -> ComponentRecord:
    """Dump one component into its folder."""
    begun = time.monotonic()
    module = importlib.import_module(f"{__name__}.{MODULES.get(task.component.driver, 'program')}")
    work: Callable[[Dumping], ComponentRecord] = module.dump
    record = work(task)
    return record.model_copy(update={"seconds": round(time.monotonic() - begun, 2)})


def by_programs(driver: str) -> bool:
    """Return whether programs in a running container dump and load components of this driver."""
    return driver not in MODULES


def in_container(driver: str) -> bool:
    """Return whether what components of this driver hold is in containers or their volumes, and not in the checkout."""
    return driver in FOREIGN or by_programs(driver)


def printable(name: str) -> str:
    """Return a file name as text that any program can read."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
