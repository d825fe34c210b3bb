"""images.save and images.load: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine import images
from conche.engine.connection import Engine
from tests import warm
from tests.images.registries import Shop

pytestmark = pytest.mark.engine


@pytest.fixture
def built(shop: Shop) -> Shop:
    """A stack with an image on the engine."""
    shop.layered(os.urandom(8 << 20))
    done = shop.invoke("images.build")
    assert done.returncode == 0, done.stderr
    return shop


def forget(shop: Shop, engine: Engine) -> str:
    """Take the image off the engine; its id."""
    found = images.find(engine, shop.image)
    assert found is not None
    for tag in found.tags:
        images.remove(engine, tag)
    return found.id


def test_what_is_saved_is_loaded(built: Shop, engine: Engine, tmp_path: Path) -> None:
    saved = built.json("images.save", "--to", str(tmp_path / "a file.tar"))
    identity = forget(built, engine)

    loaded = built.json("images.load", str(tmp_path / "a file.tar"))

    found = images.find(engine, built.image)
    assert saved["value"]["size"] > 8 << 20
    assert (tmp_path / "a file.tar.sha256").read_text() == f"{saved['value']['sha256']}  a file.tar\n"
    assert loaded["value"]["images"] == [built.image]
    assert found is not None
    assert found.id == identity
    assert built.registry.wire.requests == []


def test_a_damaged_file_is_not_loaded(built: Shop, engine: Engine, tmp_path: Path) -> None:
    built.invoke("images.save", "--to", str(tmp_path / "file.tar"))
    forget(built, engine)
    content = bytearray((tmp_path / "file.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "file.tar").write_bytes(content)

    flipped = built.invoke("images.load", str(tmp_path / "file.tar"))
    (tmp_path / "file.tar.sha256").unlink()
    (tmp_path / "file.tar").write_bytes(b"no archive at all")
    nothing = built.invoke("images.load", str(tmp_path / "file.tar"))

    assert flipped.returncode == nothing.returncode == 2
    assert "sha256 differs" in flipped.stderr
    assert "error [archive-damaged]: The engine cannot read file.tar" in nothing.stderr
    assert images.find(engine, built.image) is None


def test_without_its_sum_a_file_is_loaded_with_a_warning(built: Shop, engine: Engine, tmp_path: Path) -> None:
    built.invoke("images.save", "--to", str(tmp_path / "file.tar"))
    (tmp_path / "file.tar.sha256").unlink()

    done = built.invoke("images.load", str(tmp_path / "file.tar"))

    assert done.returncode == 0, done.stderr
    assert "warning: there is no file.tar.sha256: the file was not verified" in done.stderr


def test_a_file_that_is_there_is_replaced_only_when_that_is_said(built: Shop, tmp_path: Path) -> None:
    (tmp_path / "file.tar").write_text("mine")

    refused = built.invoke("images.save", "--to", str(tmp_path / "file.tar"))
    kept = (tmp_path / "file.tar").read_text()
    forced = built.invoke("images.save", "--to", str(tmp_path / "file.tar"), "--force")

    assert (refused.returncode, kept) == (2, "mine")
    assert "error [file-exists]" in refused.stderr
    assert forced.returncode == 0, forced.stderr


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("images.save", "--to", "/proc/none/file.tar"), "no-such-folder", 6),
        (("images.save", "--to", "x.tar", "--env", "prod"), "no-such-image", 6),
        (("images.load", "/nonexistent.tar"), "no-such-file", 6),
        (("images.load", "stack.yaml", "--env", "nowhere"), "no-such-environment", 6),
    ],
)
def test_what_is_not_there_is_said(built: Shop, words: tuple[str, ...], code: str, status: int) -> None:
    done = built.invoke(*words)

    assert done.returncode == status
    assert f"error [{code}]" in done.stderr
    assert not (built.folder / "x.tar").exists()


def test_a_full_disk_leaves_nothing_behind(built: Shop, small_disk: Path) -> None:
    done = built.invoke("images.save", "--to", str(small_disk / "file.tar"))

    assert done.returncode == 9
    assert "error [disk-full]" in done.stderr
    assert list(small_disk.iterdir()) == []


@pytest.fixture
def half_saved(tmp_path: Path) -> Iterator[str]:
    """A PATH whose docker ends no `image save`, only begins it; it goes when the test does."""
    docker = shutil.which("docker")
    assert docker is not None
    fifo, wrapper = tmp_path / "until", tmp_path / "in-front/docker"
    os.mkfifo(fifo)
    opened = os.open(fifo, os.O_RDWR)
    wrapper.parent.mkdir()
    # The FIFO is opened first: whoever has begun the file is ended by the end of the test.
    half = f'exec 3<"{fifo}"; printf half >"$4"; read -r _ <&3; exit 1'
    wrapper.write_text(f'#!/bin/sh\nif [ "$1 $2" = "image save" ]; then {half}; fi\nexec "{docker}" "$@"\n')
    wrapper.chmod(0o755)
    yield os.pathsep.join((str(wrapper.parent), os.environ["PATH"]))
    os.close(opened)


def test_a_kill_leaves_no_half_file_and_the_next_save_sweeps(built: Shop, half_saved: str, tmp_path: Path) -> None:
    folder = tmp_path / "to"
    folder.mkdir()
    argv, quiet = built.argv("images.save", "--to", str(folder / "file.tar")), subprocess.DEVNULL
    environment = built.environment(PATH=half_saved)
    with warm.Popen[bytes](
        argv, cwd=built.folder, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
    ) as process:
        while not list(folder.glob(".file.tar.partial/*")) and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
    left = {path.name for path in folder.iterdir()}

    done = built.invoke("images.save", "--to", str(folder / "file.tar"))

    assert process.returncode == -signal.SIGKILL
    assert left == {".file.tar.partial"}
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"file.tar", "file.tar.sha256"}


def test_nothing_is_loaded_into_an_engine_that_does_not_answer(built: Shop, tmp_path: Path) -> None:
    built.invoke("images.save", "--to", str(tmp_path / "file.tar"))

    done = built.invoke("images.load", str(tmp_path / "file.tar"), DOCKER_HOST="unix:///nonexistent.sock")

    assert done.returncode == 9
    assert "error [engine-unreachable]" in done.stderr
