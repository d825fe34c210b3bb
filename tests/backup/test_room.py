"""A restore needs room beside the current data, on each of the disks that it unpacks on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker.errors
import pytest

from conche.backup import room
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.source import Source
from conche.engine import host
from conche.engine.connection import Engine
from conche.engine.host import Disk
from conche.errors import Refused
from conche.stack import Component
from tests.engine.answering import answering

GB = 1 << 30
DISKS = {"kept": Disk(Path("/engine"), 2, 5 * GB), "elsewhere": None, "/srv/data": Disk(Path("/srv/data"), 1, 4 * GB)}


@pytest.fixture(autouse=True)
def disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "disk_at", lambda folder: Disk(folder, 1, 4 * GB))
    monkeypatch.setattr(host, "disk_of", lambda _, volume: DISKS[volume])


def source(size: int, volume: str = "") -> Source:
    driver = "volume" if volume else "files"
    more = {"volume": volume, "environment": "dev"} if volume else {"paths": ("x",)}
    component = Component.model_validate({"driver": driver, **more})
    site = SimpleNamespace(section=SimpleNamespace(components={"one": component}), engine=lambda _: Engine())
    record = ComponentRecord(driver=driver, artifacts=(Artifact(path="one/a", size=1, sha256="", content=size),))
    return Source(cast("Any", site), Path("/backup"), "one", record)


@pytest.mark.parametrize(
    "sources",
    [
        [source(5 * GB)],
        [source(5 * GB, "kept")],
        [source(3 * GB, "kept"), source(2 * GB, "kept")],
        [source(2 * GB), source(2 * GB, "/srv/data")],
    ],
    ids=["files", "a volume", "two on one disk", "files and a folder of the engine on one disk"],
)
def test_what_has_no_room_is_refused_before_anything_is_touched(sources: list[Source]) -> None:
    with pytest.raises(Refused) as refused:
        room.require_beside(Path("/checkout"), sources)

    assert refused.value.code == "disk-too-full-to-restore"


def test_each_disk_is_looked_at_by_itself_and_one_that_cannot_be_seen_is_not() -> None:
    room.require_beside(Path("/checkout"), [source(3 * GB), source(4 * GB, "kept"), source(99 * GB, "elsewhere")])


def test_volumes_alone_need_no_room_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "disk_at", lambda folder: Disk(folder, 1, 0))

    room.require_beside(Path("/checkout"), [source(GB, "kept")])


def test_in_a_folder_everything_has_to_find_room() -> None:
    with pytest.raises(Refused):
        room.require_in(Path("/target"), [source(2 * GB), source(3 * GB, "kept")])


class Api:
    def __init__(self, place: Path, known: bool, **seen: object) -> None:
        self._place, self._known = place, known
        self._seen = {"Driver": "local", "Options": None, "Mountpoint": str(place / "not/for/this/user"), **seen}

    def inspect_volume(self, _: str) -> dict[str, object]:
        if not self._known:
            raise docker.errors.NotFound("no such volume")
        return self._seen

    def info(self) -> dict[str, str]:
        return {"DockerRootDir": str(self._place)}


@pytest.mark.parametrize("known", [True, False])
def test_a_volume_that_cannot_be_looked_at_is_where_the_engine_keeps_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.undo()
    engine = answering(Api(tmp_path, known))
    assert host.disk_of(engine, "kept") is None
    engine.__dict__["address"] = "unix:///nowhere"

    found = host.disk_of(engine, "kept")

    assert found is not None
    assert (found.folder, found.device) == (tmp_path, tmp_path.stat().st_dev)


@pytest.mark.parametrize(
    "seen",
    [{"Options": {"type": "nfs", "o": "addr=nas", "device": ":/data"}}, {"Driver": "rclone"}],
    ids=["a share", "a plugin's"],
)
def test_a_volume_that_the_engine_does_not_keep_itself_cannot_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: dict[str, object]
) -> None:
    monkeypatch.undo()
    engine = answering(Api(tmp_path, known=True, **{"Mountpoint": str(tmp_path), **seen}))
    engine.__dict__["address"] = "unix:///nowhere"

    assert host.disk_of(engine, "kept") is None
