"""The engine's host: its disk, its ports, and a refusal before anything is changed."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine import host
from conche.engine.connection import Engine
from tests import announced
from tests.stacks import SmallStack, free_port

pytestmark = pytest.mark.engine


@pytest.fixture
def folder() -> Iterator[Path]:
    with announced.place() as place:
        yield place


@pytest.fixture
def tiny_engine(folder: Path) -> Iterator[str]:
    """A second engine, whose whole disk is a few MiB of memory; its address."""
    if os.getuid() != 0:
        pytest.skip("starting an engine needs root")
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)], check=True)
    address = f"unix://{folder}/docker.sock"
    argv = [
        # A network of its own: `--bridge none` removes docker0, and there is only one in a network namespace.
        "unshare", "--net", "dockerd", "--data-root", str(disk), "--exec-root", str(folder / "exec"),
        "--pidfile", str(folder / "pid"),
        "--host", address, "--bridge", "none", "--iptables=false", "--storage-driver", "vfs",
    ]  # fmt: skip
    daemon = announced.start(argv, folder)
    yield address
    daemon.terminate()
    daemon.wait(300)
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_refused_before_anything_is_changed(small: SmallStack, tiny_engine: str) -> None:
    small.replace("stack.yaml", "    tag: develop", f"    tag: develop\n    engine: {tiny_engine}")

    refused = small.invoke("env.up")

    assert refused.returncode == 9, refused.stderr
    assert "error [disk-full]" in refused.stderr
    assert "docker system df" in refused.stderr
    assert Engine(tiny_engine).client.api.containers(all=True) == []


def test_several_problems_are_named_at_once(small: SmallStack, engine: Engine) -> None:
    small.replace("compose/dev.yaml", "source: ../app", "source: ../nowhere")
    with socket.create_server(("127.0.0.1", small.port)):
        refused = small.invoke("env.up")

    assert refused.returncode == 2
    assert "2 problems were found; nothing was changed." in refused.stderr
    assert "port-taken" in refused.stderr
    assert "file-missing" in refused.stderr


def test_a_port_that_nobody_holds_has_no_holder(engine: Engine) -> None:
    assert host.listener(engine, "127.0.0.1", free_port()) == ""


def test_the_holder_of_a_port_is_named_by_its_process(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        holder = host.listener(engine, "127.0.0.1", server.getsockname()[1])

    assert holder.endswith(f"(pid {os.getpid()})")


def test_a_bind_mount_that_only_root_can_read_is_refused_with_the_cure(small: SmallStack) -> None:
    if os.getuid() != 0:
        pytest.skip("only root owns a folder that the container's user cannot enter")
    small.replace("compose/dev.yaml", "    restart:", '    user: "1000:1000"\n    restart:')
    (small.folder / "app").chmod(0o700)

    refused = small.invoke("env.up")

    assert refused.returncode == 2
    assert "error [bind-mount-unreadable]" in refused.stderr
    assert "chmod o+rx" in refused.stderr
