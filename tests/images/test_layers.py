"""What a change of the code costs: layers that differ after a rebuild."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


def layers(engine: Engine, reference: str) -> list[str]:
    found: list[str] = engine.client.images.get(reference).attrs["RootFS"]["Layers"]
    return found


def build(stack: SmallStack) -> None:
    done = stack.invoke("env.up", "--build")
    assert done.returncode == 0, done.stderr


def test_a_change_of_the_code_changes_one_layer(development: SmallStack, engine: Engine) -> None:
    # Of a tree that was never built: a cache that has a step twice takes the one or the other for an old tree.
    development.write("src/fastapi-app/app/marker.py", f"# {development.name}\n")
    build(development)
    before = layers(engine, development.image)
    development.replace("src/fastapi-app/app/api.py", '"status": "healthy"', '"status":  "healthy"')

    build(development)

    after = layers(engine, development.image)
    assert len(after) == len(before)
    assert len([1 for old, new in zip(before, after, strict=True) if old != new]) == 1


def test_the_same_tree_gives_the_same_layers(development: SmallStack, engine: Engine) -> None:
    build(development)
    before = layers(engine, development.image)

    build(development)

    assert layers(engine, development.image) == before


def contents(reference: str, folder: Path) -> list[dict[str, tuple[object, ...]]]:
    """What each layer has: names with type, mode, owner, and the sha256 of what is in it; without times."""
    saved = folder / "image.tar"
    subprocess.run(["docker", "image", "save", "--output", str(saved), reference], check=True)
    with tarfile.open(saved) as image:
        [manifest] = json.load(image.extractfile("manifest.json") or pytest.fail("no manifest"))
        return [dict(_members(image, layer)) for layer in manifest["Layers"]]


def _members(image: tarfile.TarFile, layer: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    with tarfile.open(fileobj=image.extractfile(layer)) as files:
        for member in files:
            stream = files.extractfile(member) if member.isreg() else None
            digest = hashlib.sha256(stream.read()).hexdigest() if stream else ""
            yield member.name, (member.type, member.mode, member.uid, member.gid, member.linkname, digest)


@pytest.mark.long
def test_two_builds_without_cache_have_equal_contents_in_every_layer(development: SmallStack, tmp_path: Path) -> None:
    # Steps of its own: a build without cache puts its results into the cache, beside those that other builds use.
    text = (development.folder / "docker/fastapi.Dockerfile").read_text()
    marked = [
        f"{line}\nENV MARKER={development.name}" if line.startswith("FROM ") else line for line in text.splitlines()
    ]
    development.write("docker/fastapi.Dockerfile", "\n".join(marked) + "\n")
    found = []
    for _ in range(2):
        done = development.invoke("images.build", "--no-cache")
        assert done.returncode == 0, done.stderr
        found.append(contents(development.image, tmp_path))
        for file in development.folder.rglob("src/**/*.py"):
            os.utime(file)

    development.write("docker/fastapi.Dockerfile", text)
    first, second = found
    assert len(first) == len(second) == 5
    assert sum(map(len, first)) > 1000
    for one, other in zip(first, second, strict=True):
        assert {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} == set()


def _checked_out_with(mask: int, owner: int, folder: Path) -> None:
    """Give a tree the modes that git leaves under a mask, and the owner that a checkout has who made it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o777 if path.is_dir() or os.access(path, os.X_OK) else 0o666) & ~mask)
        if os.geteuid() == 0:
            os.chown(path, owner, owner)


def test_a_tree_has_the_same_contents_whoever_checked_it_out(development: SmallStack, engine: Engine) -> None:
    development.write("src/fastapi-app/app/marker.py", f"# {development.name}\n")
    source = development.folder / "src/fastapi-app"
    found = []
    for mask, owner in ((0o077, 0), (0o022, 1000), (0o002, 1234)):
        _checked_out_with(mask, owner, source)
        done = development.invoke("images.build")
        assert done.returncode == 0, done.stderr
        listing = ["sh", "-c", "find /app -printf '%p %m %U %G %l\\n' && find /app -type f -exec sha256sum {} +"]
        listed = engine.client.containers.run(development.image, listing, remove=True)
        found.append((layers(engine, development.image)[:-1], sorted(listed.decode().splitlines())))

    assert "/app/app/marker.py 755 0 0 " in found[0][1]
    assert found[0] == found[1] == found[2]


def test_the_image_says_what_it_is_and_runs_without_root(development: SmallStack, engine: Engine) -> None:
    build(development)

    config = engine.client.images.get(development.image).attrs["Config"]

    labels = config["Labels"]
    assert config["User"] == "1000:1000"
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "app.healthcheck"]
    assert {"org.opencontainers.image.revision", "org.opencontainers.image.version"} <= labels.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["org.opencontainers.image.created"])


def test_no_build_secret_is_in_any_layer_or_in_the_history(
    development: SmallStack, tmp_path: Path, canary: str
) -> None:
    marker = canary[:30]
    bundle = tmp_path / "bundle.crt"
    trusted = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    bundle.write_text((Path(trusted).read_text() if trusted else "") + f"\n# {marker}\n")
    development.replace("docker/fastapi.Dockerfile", "    && PYTHONHASHSEED=0", "    && true && PYTHONHASHSEED=0")

    built = development.invoke("env.up", "--build", SSL_CERT_FILE=str(bundle), PIP_DEFAULT_TIMEOUT="181")

    assert built.returncode == 0, built.stderr
    saved = tmp_path / "image.tar"
    subprocess.run(["docker", "image", "save", "--output", str(saved), development.image], check=True)
    assert marker not in built.stdout + built.stderr
    assert marker.encode() not in saved.read_bytes()
