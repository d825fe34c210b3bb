"""Everything that this version keeps, written by its own code: `python -m tests.formats.made FOLDER`.

When a format gets another number, its present files go on in tests/data/formats/NUMBER, and this makes the new ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pyrage

from conche.backup import holding, scaling
from conche.backup.exchange import Aside, Journal, Pair, Stopped
from conche.backup.manifest import FILE, TEXT, Artifact, ComponentRecord, Manifest, text
from conche.backup.swap import Swap
from conche.backup.target import CheckRecord, StoredBackup, Target
from conche.engine.compose import Configuration
from conche.engine.containers import Container
from conche.engine.service import Service
from conche.env import definitions
from conche.files import state_folder
from conche.release.document import Document
from conche.release.records import Ending, Placed, Record, Records
from conche.secret import Redactor, Secret
from conche.stack import parse
from conche.vault import render
from conche.vault.vault import Vault

ROOT = Path(__file__).resolve().parents[2]
KEY = ROOT / "tests/data/demonstration-age-key.txt"

STACK = """\
name: guestbook
registry: localhost:5000
secrets: {declared: {web_token: {outputs: [file], development: for-development}}}
environments: {dev: {compose: [compose.yaml]}}
backup: {components: {pages: {driver: archive, paths: [pages]}}}
"""

BACKUP = "guestbook_daily_20261127_204016"
HASH = "5f2c"
CONFIGURATION = Configuration(
    "guestbook-dev", {"web": Service("web", "web:1", frozenset({HASH}))}, (), (), {"services": {"web": {"init": True}}}
)
CONTAINER = Container("c0ffee", "web", "guestbook-dev", "web", "running", "none", "web:1", "sha256:1", HASH)
PLACED = {"web": Placed("localhost:5000/web@sha256:1", "sha256:1", "abc1234", "0123", (HASH,))}
SUCCEEDED = Ending("succeeded", "2026-11-27T20:40:16+00:00", 1.5, made={"web": ["7e57"]})
FAILED = Ending("restored", "2026-11-27T20:50:16+00:00", 2.5, "it crashed", ("the cause",))
DOCUMENT = Document({"services": {"web": {"image": "web:1"}}}, {"CONCHE_SECRET_TOKEN": "of-a-release"})
FREEZE = {"who": "somebody@somewhere", "since": "2026-11-27T20:40:16+00:00", "reason": "holidays"}
REPLICAS = {"web": 3, "format": 2, "conche": 1}
JOURNAL = Journal(
    "0123abcd",
    ["database", "guestbook-data", "pages"],
    [Pair("/srv/.backup/restore-0123abcd/pages", "/srv/pages", 42, fresh=False)],
    [Swap(None, "guestbook-data")],
    [Stopped(None, "c0ffee", "web")],
    begun=True,
    fed=["database"],
)
PATH = "/srv/guestbook-backups"


class Folder:
    """What a state volume does, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> dict[str, bytes]:
        files = (file for file in self.folder.rglob("*") if file.is_file())
        return {file.relative_to(self.folder).as_posix(): file.read_bytes() for file in files}

    def write(self, files: Mapping[str, bytes]) -> None:
        for path, content in files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(content)

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            shutil.rmtree(self.folder / path)


def records(folder: Path) -> Records:
    """The records of releases in a folder."""
    return Records(Folder(folder))  # type: ignore[arg-type]


def record(number: int) -> Record:
    """The release that is kept under a number."""
    return Record(
        number, "dev", "deploy", "2026-11-27T20:40:10+00:00", "somebody", "somewhere", "web:1", "abc1234",
        dirty=False, services=PLACED, files={"web": "89ab"}, fingerprints={"TOKEN": "cdef"}, edge="conche-1.conf",
    )  # fmt: skip


def make_releases(folder: Path) -> None:
    """The state of an environment with three releases, the last of which was killed."""
    to = pyrage.x25519.Recipient.from_str(KEY.read_text().split("# public key: ")[1].split()[0])
    sealed, salt = pyrage.encrypt(DOCUMENT.packed(), [to]), pyrage.encrypt(b"salt" * 8, [to])
    for number, ending in enumerate((SUCCEEDED, FAILED, None), 1):
        records(folder).begin(record(number), sealed, salt)
        if ending is not None:
            records(folder).end(record(number), ending)
    kept = records(folder)
    kept.freeze(FREEZE)
    kept.maintain(on=True)
    kept.scale(REPLICAS)
    kept.note_handover("r3", ["c0ffee"])
    kept.note_scaling("web", 2)


def make_backups(folder: Path) -> None:
    """A target with one backup, what is known of it, and a note of containers that wait."""
    target = Target(folder, "guestbook")
    place = folder / "daily" / BACKUP
    (place / "pages").mkdir(parents=True)
    archive = place / "pages" / "pages.tar.gz"
    archive.write_bytes(ARCHIVE)
    artifact = Artifact(
        path="pages/pages.tar.gz", size=len(ARCHIVE), sha256=SHA256, members=2, content=6, pieces=str(len(ARCHIVE))
    )
    part = ComponentRecord(driver="archive", artifacts=(artifact,), facts={"pages.tar.gz": "pages"})
    described = Manifest(
        name=BACKUP, stack="guestbook", kind="daily", created=datetime(2026, 11, 27, 20, 40, 16, tzinfo=UTC),
        seconds=1.5, complete=True, components={"pages": part},
    )  # fmt: skip
    words = text(described).encode()
    (place / TEXT).write_bytes(words)
    said = Artifact(path=TEXT, size=len(words), sha256=hashlib.sha256(words).hexdigest())
    described = described.model_copy(update={"text": said})
    (place / FILE).write_bytes(described.render())
    with target.locked("making what is kept"):
        found = StoredBackup(place, "daily", datetime(2026, 11, 27, 20, 40, 16, tzinfo=UTC))
        target.note(found, CheckRecord(verified=datetime(2026, 11, 27, 20, 41, tzinfo=UTC)))
        holding._write(target.store, holding._Note(None, ("guestbook-data",), ("c0ffee",), ("decaf",)))
        scaling._write(target.store, scaling.Scaled("swarm", "guestbook-data", {"guestbook_web": 2}))


def make_restores(folder: Path) -> None:
    """What a restore keeps in the checkout."""
    folder.mkdir(parents=True)
    JOURNAL.write(folder)
    Aside.add(folder, JOURNAL)
    replace(JOURNAL, pairs=[])._keep(folder)


def make_secrets(root: Path) -> None:
    """Development values in the user's state, and files rendered from them."""
    stack = parse(STACK)
    assert stack.secrets is not None
    made = Vault(stack, root, Redactor(), print).of("dev")
    (root / stack.secrets.folder).mkdir(parents=True)
    staged = render.stage(root, stack.secrets, {name: Secret(one.reveal()) for name, one in made.items()},
                          env=False, files_=True)  # fmt: skip
    render.write(root, stack.secrets, staged)


def make(folder: Path, by: str = "0.2.0") -> None:
    """All of it: what engines keep, what stands beside backups and checkouts, and what a user's state remembers.

    Args:
        by: the version that is said to write it.
    """
    with patch("conche.version.version", lambda: by), patch.dict(os.environ, XDG_STATE_HOME=str(folder / "user")):
        _make(folder)
    for left in folder.rglob("*.lock"):
        left.unlink()


def _make(folder: Path) -> None:
    make_releases(folder / "releases")
    make_backups(folder / "backups")
    [seen] = (state_folder() / "guestbook").glob("target-*.json")
    seen.write_text(seen.read_text().replace(str(folder / "backups"), PATH))
    seen.rename(seen.with_name("target.json"))
    make_restores(folder / "restores")
    definitions.remember("guestbook", CONFIGURATION, [CONTAINER])
    make_secrets(folder / "checkout")


ARCHIVE = bytes.fromhex(
    "1f8b0800000000000203edd13d0e83300c4061cf9c8213d0f063e73c0ca81d904024481c9f90ad1dd852a9eafb063bcae2e1"
    "ade3730a0f29ca255e35efe473e777abbdeb7ad3ceae7fdf3a955ae50bf610c72d9d94ffb4e6fed76ce211cbf5b761b8e96f"
    "effd537d35a91dfd8b7b4df3bc5402000000000000000000000000e0079d5a13f38500280000"
)
"""A tar of `pages/` with `page.txt` in it, which holds `hello`."""
SHA256 = "839b2ff1cd06970dd7abe5e84d7dc5a1747b7b5bf96b49a004c84402366fbeac"


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
