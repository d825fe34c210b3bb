"""The image with this machine's GNU tar: made once, runs alone, and is what volumes are packed by."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from conche.engine import containers, gnutar, packing
from conche.engine.connection import Engine
from conche.engine.packing import helping

DEBIAN = """\
\tlinux-vdso.so.1 (0x00007f998d024000)
\tlibacl.so.1 => /lib/x86_64-linux-gnu/libacl.so.1 (0x00007f998cf85000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f998cd75000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f998d026000)
"""

NEVER = "\tlibgone.so.1 => not found\n\tstatically linked\n"


def test_the_libraries_of_a_program_are_those_that_ldd_finds() -> None:
    assert libraries_of(DEBIAN) == [
        "/lib/x86_64-linux-gnu/libacl.so.1", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2",
    ]  # fmt: skip
    assert libraries_of(NEVER) == []


def test_a_machine_whose_tar_cannot_be_copied_has_none_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its libraries are not known without ldd(1), which Alpine has only on request."""
    for name in ("tar", "sleep"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path))

    assert gnutar.provide(cast("Engine", None)) is None


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    name = str(engine.client.api.create_volume()["Name"])
    yield name
    engine.client.api.remove_volume(name, force=True)


def libraries_of(said: str) -> list[str]:
    return [str(one) for one in gnutar.libraries(said)]


@pytest.mark.engine
def test_a_volume_is_packed_by_this_machines_tar_whatever_images_there_are(
    engine: Engine, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "images", lambda *_: iter(()))

    first, second = gnutar.provide(engine), gnutar.provide(engine)
    with helping(engine, volume) as helper:
        made = containers.read(engine, helper.id)
        assert made is not None
        assert (helper.packs, made.image_id) == (True, first)

    assert first == second


@pytest.mark.engine
def test_a_machine_without_gnu_tar_leaves_it_to_the_images_of_the_engine(
    engine: Engine, base_image: str, volume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tar").write_text("#!/bin/sh\necho 'tar (busybox) 1.36'\n")
    (tmp_path / "tar").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert gnutar.provide(engine) is None
    with helping(engine, volume) as helper:
        assert helper.packs
