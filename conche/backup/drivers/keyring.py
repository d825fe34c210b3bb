"""secrets: the encrypted files, their rules, and the age key, itself encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from tarfile import TarInfo

from conche.backup import sealing
from conche.backup.drivers import Dumping
from conche.backup.entries import local_entries
from conche.backup.folder import FolderWriter
from conche.backup.manifest import ComponentRecord
from conche.backup.reading import Reading
from conche.backup.storing import store
from conche.errors import KeyUnusable
from conche.vault import keys

__all__ = ["KEY", "dump"]

KEY = "age-key.txt"


def dump(task: Dumping) -> ComponentRecord:
    """Copy the encrypted files and .sops.yaml, and encrypt the key in use."""
    site = task.site
    section = site.stack.secrets
    reading, writer = Reading(), FolderWriter(task.folder)
    for name in [*map(str, section.all_files), ".sops.yaml"] if section else []:
        if (site.root / name).exists():
            store(local_entries(site.root, name, reading), writer, reading)
        else:
            reading.leave_out(name, "is not there", harmful=task.component.required)
    try:
        key = keys.find(site.root)
    except KeyUnusable as error:
        key = None
        reading.leave_out(KEY, error.message, harmful=True)
    else:
        if key is None:
            reading.leave_out(KEY, "is not there: no age key was found", harmful=task.component.required)
    if key is not None:
        content = (
            key.identities.reveal().encode() + b"\n"
            if task.plain_key
            else sealing.seal(key.identities, site.section.recipients)
        )
        info = TarInfo(KEY)
        info.size, info.mode = len(content), 0o600
        writer.add(info, _once(content))
    artifacts, links = task.stored(writer.stored)
    facts = (
        {"age key": "PLAIN" if task.plain_key else "encrypted", "its public key": ", ".join(key.public)} if key else {}
    )
    return task.record(artifacts=artifacts, links=links, reading=reading, facts=facts)


def _once(content: bytes) -> Iterator[bytes]:
    yield content
