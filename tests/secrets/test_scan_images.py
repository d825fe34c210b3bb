"""secrets.scan of images: every layer, the configuration and the history are searched."""

from __future__ import annotations

import base64
import gzip
import io
import json
import subprocess
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import NotFound
from conche.secret import Secret
from conche.vault import leaks_in_images as scan_image_module
from conche.vault.leaks import (
    UNREADABLE,
    Needles,
)
from conche.vault.leaks_in_images import scan_image
from tests.secrets.test_scan import checkout, needles, places

__all__ = ["checkout", "needles"]


def system(folder: Path) -> Path:
    """A tar file of the smallest file system with a shell that can remove a file."""
    programs = ["/bin/sh", "/bin/rm"]
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    libraries = {word for word in linked.split() if word.startswith("/") and not word.endswith(":")}
    packed = folder / "system.tar"
    with tarfile.open(packed, "w") as archive:
        for path in [*programs, *libraries]:
            archive.add(Path(path).resolve(), path)
    return packed


def layered(**values: str) -> str:
    """A Dockerfile that leaks each value in the way it is named after."""
    return (
        "FROM {base}\n"
        f"ENV TOKEN={values['env']}\n"
        "COPY removed.txt /srv/removed.txt\n"
        "RUN rm /srv/removed.txt\n"
        "ARG PASSWORD\n"
        'RUN test -n "$PASSWORD"\n'
        f'LABEL note="{values["label"]}"\n'
        "COPY kept.bin /srv/kept.bin\n"
    )


@pytest.fixture
def leaking(engine: Engine, tmp_path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A small image that leaks five values in five ways, and the values by the way; gone afterwards."""
    name = f"t{uuid.uuid4().hex[:10]}"
    reference, base = f"{name}:scan", f"{name}-base:scan"
    values = {way: f"{way}-{uuid.uuid4().hex}" for way in ("env", "argument", "label", "removed", "kept")}
    context = tmp_path / "context"
    context.mkdir()
    (context / "removed.txt").write_text(values["removed"])
    (context / "kept.bin").write_bytes(b"\x00\xff" + base64.b64encode(values["kept"].encode()))
    (context / "Dockerfile").write_text(layered(**values).format(base=base))
    try:
        with system(tmp_path).open("rb") as packed:
            subprocess.run(["docker", "import", "-", base], stdin=packed, check=True, capture_output=True)
        images.build(engine, images.Build(reference, context / "Dockerfile", context, {"PASSWORD": values["argument"]}))
        yield reference, values
    finally:
        for made in (reference, base):
            if images.find(engine, made):
                engine.client.images.remove(made, force=True)


@pytest.mark.engine
def test_an_image_is_searched_in_every_layer_its_configuration_and_its_history(
    engine: Engine, leaking: tuple[str, Mapping[str, str]]
) -> None:
    reference, values = leaking
    needles = Needles({way: Secret(value) for way, value in values.items()})

    found = scan_image(engine, reference, needles)

    by_way = {way: [one.place for one in found if one.name == way] for way in values}
    assert by_way["removed"] == [f"{reference} layer 2 srv/removed.txt"]
    assert [place.split(" ", 3)[3] for place in by_way["kept"]] == ["srv/kept.bin"]
    assert any("config.Env[" in place for place in by_way["env"])
    assert any("config.Labels.note" in place for place in by_way["label"])
    assert any("history[" in place for place in by_way["argument"])
    assert {one.kind for one in found} == {"image"}
    assert [value for value in values.values() if value in str(found)] == []


@pytest.mark.engine
def test_an_image_that_the_engine_does_not_have_is_said(engine: Engine, needles: Needles) -> None:
    with pytest.raises(NotFound) as missing:
        scan_image(engine, f"t{uuid.uuid4().hex}:scan", needles)

    assert (missing.value.code, missing.value.status) == ("not-on-engine", 6)


def packed(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_the_layout_of_newer_engines_is_searched_too_with_its_compressed_layers_and_attestations(
    canary: str, needles: Needles, tmp_path: Path
) -> None:
    long = "deep/" * 40
    layer = packed({"clean": b"x" * 3000, f"{long}file": canary.encode(), f"named-{canary}": b"", "last": b""})
    members = {
        "manifest.json": json.dumps([{"Config": "blobs/c", "Layers": ["blobs/1", "blobs/2", "blobs/3"]}]).encode(),
        "blobs/c": json.dumps({"config": {"Cmd": ["run", canary]}, "history": [{"comment": "clean"}]}).encode(),
        "blobs/1": gzip.compress(layer),
        "blobs/2": b"\x28\xb5\x2f\xfd and what cannot be read",
        "blobs/3": packed({}),
        "blobs/attested": json.dumps({"build-arg:PASSWORD": canary}).encode(),
        "oci-layout": b"{}",
    }
    (tmp_path / "image.tar").write_bytes(packed(members))

    found = scan_image_module._in_saved(tmp_path / "image.tar", "a:b", needles)

    assert [(one.name, one.place) for one in found] == [
        (UNREADABLE, "a:b layer 2 (zstd)"),
        ("token", "a:b blobs/attested"),
        ("token", "a:b config.Cmd[1]"),
        ("token", f"a:b layer 1 {long}file"),
        ("token", "a:b layer 1 named-***"),
    ]


def test_an_image_without_layers_is_searched(canary: str, needles: Needles, tmp_path: Path) -> None:
    members = {
        "manifest.json": json.dumps([{"Config": "c.json", "Layers": None}]).encode(),
        "c.json": json.dumps({"config": {"Env": [f"A={canary}"], canary: 1}, "history": None}).encode(),
    }
    (tmp_path / "image.tar").write_bytes(packed(members))

    found = scan_image_module._in_saved(tmp_path / "image.tar", "a:b", needles)

    assert places(found) == ["a:b config.***", "a:b config.Env[0]"]
