"""Whether a mount of a container reaches what is about to be exchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conche import mountinfo
from conche.engine import mounting

VOLUMES = mounting.volume_paths(
    [
        {"Name": "plain", "Mountpoint": "/var/lib/docker/volumes/plain/_data", "Options": None},
        {
            "Name": "bound",
            "Mountpoint": "/var/lib/docker/volumes/bound/_data",
            "Options": {"type": "none", "o": "bind,rw", "device": "/srv/bound"},
        },
        {
            "Name": "nfs",
            "Mountpoint": "/var/lib/docker/volumes/nfs/_data",
            "Options": {"type": "nfs", "o": "addr=10.0.0.1", "device": ":/export"},
        },
    ]
)


def bind(source: str, *, writable: bool = True) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Destination": "/x", "RW": writable}


def volume(name: str, *, writable: bool = True) -> dict[str, Any]:
    source = f"/var/lib/docker/volumes/{name}/_data"
    return {"Type": "volume", "Name": name, "Source": source, "Destination": "/x", "RW": writable}


def reaches(place: str, mount: dict[str, Any]) -> bool:
    [parsed] = mounting.mounts([mount], VOLUMES)
    return mounting.Places.of([place], VOLUMES).reached_by(parsed)


@pytest.mark.parametrize(
    ("place", "mount", "expected"),
    [
        ("/srv/data", bind("/srv/data"), True),
        ("/srv/data", bind("/srv/data", writable=False), True),
        ("/srv/data", bind("/srv/data/below", writable=False), True),
        ("/srv/data", bind("/srv"), True),
        ("/srv/data", bind("/"), True),
        ("/srv/data", bind("/srv", writable=False), False),
        ("/srv/data", bind("/srv/data-of-others"), False),
        ("/srv/data", bind("/srv/other"), False),
        ("/srv/nginx.conf", bind("/srv/nginx.conf", writable=False), True),
        ("plain", volume("plain"), True),
        ("plain", volume("plain", writable=False), True),
        ("plain", volume("bound"), False),
        ("plain", bind("/var/lib/docker/volumes/plain/_data/deep"), True),
        ("plain", bind("/var/lib/docker/volumes"), True),
        ("bound", bind("/srv/bound"), True),
        ("/srv/bound", volume("bound"), True),
        ("/srv", volume("bound"), True),
        ("/srv/bound/below", volume("bound"), True),
        ("/export", volume("nfs"), False),
        ("gone", volume("plain"), False),
    ],
)
def test_a_mount_reaches_what_is_at_it_below_it_and_above_what_can_be_written(
    place: str, mount: dict[str, Any], expected: bool
) -> None:
    assert reaches(place, mount) is expected


def test_links_are_followed_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "disk/data").mkdir(parents=True)
    (tmp_path / "data").symlink_to("disk/data")

    def resolve(text: str) -> str:
        return str(Path(text).resolve())

    [mount] = mounting.mounts([bind(str(tmp_path / "disk/data"))], {}, resolve)
    [by_link] = mounting.mounts([bind(str(tmp_path / "data/below"))], {}, resolve)

    assert mounting.Places.of([str(tmp_path / "data")], {}, resolve).reached_by(mount)
    assert not mounting.Places.of([str(tmp_path / "data")], {}).reached_by(mount)
    assert mounting.Places.of([str(tmp_path / "disk")], {}, resolve).reached_by(by_link)


def test_a_mount_whose_source_the_engine_does_not_know_reaches_nothing() -> None:
    [tmpfs] = mounting.mounts([{"Type": "tmpfs", "Source": "", "Destination": "/t"}], {})

    assert tmpfs == mounting.Mount("", frozenset(), writable=True)
    assert not mounting.Places.of(["/srv"], {}).reached_by(tmpfs)


def test_the_container_around_this_process_is_known_by_the_files_that_the_engine_mounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "0123456789abcdef" * 4
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"636 600 8:1 /var/lib/docker/containers/{own}/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n"
    )
    monkeypatch.setattr(mountinfo, "MOUNTINFO", table)
    found = mounting.own_container()
    monkeypatch.setattr(mountinfo, "MOUNTINFO", tmp_path / "none")

    assert (found, mounting.own_container()) == (own, "")
