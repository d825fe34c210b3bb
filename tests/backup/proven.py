"""A checkout with proven and unproven backups, and what a stranger may put beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conche.backup import authenticate, envelope, mac, manifest
from conche.backup.create import CreateOptions as Creating
from conche.backup.create import create
from conche.backup.mac import KEYLESS, Keys, Provenance
from conche.backup.site import Site, open_site
from conche.backup.target import StoredBackup
from conche.backup.verify import verify
from conche.command import Invocation
from conche.output import Output
from conche.secret import Secret
from conche.vault import keys, values
from conche.vault.recipients import new_key, write_recipients
from conche.vault.store import Edit, Store

STACK = """\
name: factory
secrets: {declared: {alpha: {required: false}}}
backup:
  recipients: [RECIPIENT]
  components: {models: {driver: files, paths: [models]}, secrets: {driver: secrets}}
environments: {dev: {compose: [compose.yaml]}}
"""
NAME = values.BACKUP_KEYS
NOW = datetime.now(UTC)

Content = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A checkout with secrets, its target, and the recovery key of its backups."""

    folder: Path
    recovery: Path

    @property
    def call(self) -> Invocation:
        return Invocation(self.folder, Output("backup"), yes=True)

    @property
    def site(self) -> Site:
        return open_site(self.call)

    @property
    def store(self) -> Store:
        return Store(self.folder, self.folder / "secrets.enc.yaml")

    @property
    def target(self) -> Path:
        return self.folder.parent / "factory-backups"

    def found(self, name: str) -> StoredBackup:
        return self.site.target.find(name)

    def back_up(self, model: str, *, mode: int = 0o644) -> Path:
        file = self.folder / "models/one"
        file.write_text(model)
        file.chmod(mode)  # to write to it takes rights such as set-user-id from it, but not for root
        outcome = create(self.call, "daily", Creating())
        assert (outcome.exit_code, isinstance(outcome.value, dict)) == (0, True), outcome.lines
        return Path(outcome.value["folder"])  # type: ignore[index]

    def keep(self, *kept: Secret) -> None:
        """Have other keys, or none."""
        one = Edit(put={NAME: mac.written(kept)}) if kept else Edit(drop=(NAME,))
        self.store.change("a test", lambda _: one)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with an unproven, a proven and a newer proven backup, whose key was made between the first two."""
    folder = tmp_path_factory.mktemp("made") / "factory"
    server = Server(folder, folder.parent / "recovery.key")
    identity, recipient = keys.generate()
    server.recovery.parent.mkdir(exist_ok=True)
    (folder / "models").mkdir(parents=True)
    server.recovery.write_text(identity.reveal() + "\n")
    (folder / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (folder / "stack.yaml").write_text(STACK.replace("RECIPIENT", recipient))
    key = new_key(folder / keys.DEFAULT_FILE)
    write_recipients(folder, server.store.file, key.public)
    server.store.create({"alpha": Secret("the value")}, key.public, key, replace=False)
    dated(server, server.back_up("from before the key"), NOW - timedelta(days=20))
    assert authenticate.authenticate(server.call, rotate=False).changed
    dated(server, server.back_up("older"), NOW - timedelta(hours=2))
    dated(server, server.back_up("newest"), NOW - timedelta(hours=1))
    assert verify(server.call, None, every=True, deep=False).exit_code == 0
    return server


@pytest.fixture
def server(made: Server, tmp_path: Path) -> Server:
    shutil.copytree(made.folder.parent, tmp_path / "copy", symlinks=True)
    return Server(tmp_path / "copy/factory", tmp_path / "copy/recovery.key")


def named(moment: datetime, kind: str = "daily") -> str:
    return f"factory_{kind}_{moment.astimezone():%Y%m%d_%H%M%S}"


def dated(server: Server, backup: Path, moment: datetime) -> Path:
    """Have a backup be made at another time, by its name and in its manifest."""
    known = manifest.read(backup).model_copy(
        update={"name": named(moment), "created": moment.replace(microsecond=0), "text": None}
    )
    (backup / manifest.TEXT).unlink()
    (backup / manifest.FILE).write_bytes(known.render(server.site.target.keys()))
    return backup.rename(backup.with_name(named(moment)))


def content(backup: Path) -> Content:
    said: Content = json.loads((backup / manifest.FILE).read_bytes())
    del said["digest"]
    return said


def put(backup: Path, said: Content, with_keys: Keys = KEYLESS) -> str:
    """Write a manifest whose digest fits; the name of the backup."""
    (backup / manifest.FILE).write_bytes(envelope.closed(said, with_keys))
    return backup.name


def copied(backup: Path, moment: datetime, kind: str = "daily") -> Path:
    place = backup.parents[1] / kind / named(moment, kind)
    return Path(shutil.copytree(backup, place, symlinks=True))


LATER = NOW - timedelta(minutes=1)
STRANGERS = Keys((values.make(None),))

Attack = Callable[[Path], str]


def saying(changes: Content, *, without: str = "", by: Keys = KEYLESS) -> Attack:
    """A copy of a backup under a later name, with another manifest."""

    def attack(backup: Path) -> str:
        place = copied(backup, LATER)
        said = {**content(place), "name": place.name, **changes}
        said.pop(without, None)
        said.pop("mac" if by.every else "", None)
        return put(place, said, by)

    return attack


def other_file(backup: Path) -> str:
    said = content(backup)
    said["components"]["models"]["artifacts"][0]["sha256"] = "0" * 64
    return put(backup, said)


def with_tag(change: Callable[[str], str]) -> Attack:
    def attack(backup: Path) -> str:
        said = content(backup)
        return put(backup, {**said, "mac": change(said["mac"])})

    return attack


def for_a_snapshot(backup: Path) -> str:
    """The MAC that the same key would make for something else."""
    server = Server(backup.parents[2] / "factory", backup)
    said = content(backup)
    del said["mac"]
    body = envelope.rendered(said).removesuffix(b"\n}\n")
    return put(backup, {**said, "mac": server.site.target.keys().tag(mac.SNAPSHOT, body).decode()})


ATTACKS: dict[str, tuple[Attack, Provenance]] = {
    "a later time": (saying({"created": LATER.isoformat()}), Provenance.FOREIGN),
    "a later time without a MAC": (saying({"created": LATER.isoformat()}, without="mac"), Provenance.UNPROVEN),
    "a later time with a stranger's MAC": (saying({"created": LATER.isoformat()}, by=STRANGERS), Provenance.FOREIGN),
    "a time in the future": (saying({"created": "2199-01-01T00:00:00Z"}), Provenance.FOREIGN),
    "a folder of a later name": (lambda backup: copied(backup, LATER).name, Provenance.FOREIGN),
    "a folder of another kind": (lambda backup: copied(backup, LATER, "weekly").name, Provenance.FOREIGN),
    "another name in the manifest too": (saying({}), Provenance.FOREIGN),
    "the manifest of another stack": (saying({"stack": "other"}, by=STRANGERS), Provenance.FOREIGN),
    "a claim to be complete": (saying({"complete": True, "seconds": 0.1}), Provenance.FOREIGN),
    "another hash of a file": (other_file, Provenance.FOREIGN),
    "a MAC of zeros": (with_tag(lambda tag: f"{tag[:17]}{'0' * 64}"), Provenance.FOREIGN),
    "a MAC by a key of another name": (with_tag(lambda tag: f"{'0' * 16}{tag[16:]}"), Provenance.FOREIGN),
    "half a MAC": (with_tag(lambda tag: tag[:40]), Provenance.UNPROVEN),
    "an empty MAC": (with_tag(lambda _: ""), Provenance.UNPROVEN),
    "a MAC for something else": (for_a_snapshot, Provenance.FOREIGN),
}
