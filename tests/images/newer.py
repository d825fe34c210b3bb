"""An engine newer than that of this machine's release, from Debian's own packages, beside the one that is in use.

It stands in a network namespace of its own: an engine without a bridge would remove that of the other one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests import announced
from tests.engines import unpacked

RELEASE = "trixie"
"""The first Debian release with an engine that can write files' times anew."""


@contextlib.contextmanager
def newer(folder: Path) -> Iterator[Engine]:
    """Run it, with an image store of its own."""
    if os.geteuid() or not all(map(shutil.which, ("unshare", "ip", "containerd", "runc"))):
        pytest.skip("a second engine needs root, unshare, ip, containerd and runc")
    (folder / "daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": True}}))
    address = f"unix://{folder}/socket"
    options = {
        "--data-root": folder / "data",
        "--exec-root": folder / "exec",
        "--pidfile": folder / "pid",
        "--config-file": folder / "daemon.json",
        "--host": address,
    }
    flags = [str(part) for option in options.items() for part in option]
    inside = 'ip link set lo up; exec "$@"'
    argv = [
        "unshare",
        "--net",
        "sh",
        "-c",
        inside,
        "sh",
        str(unpacked(RELEASE) / "usr/sbin/dockerd"),
        "--bridge",
        "none",
        "--iptables=false",
        *flags,
    ]
    try:
        daemon = announced.start(argv, folder)
    except AssertionError as error:
        pytest.skip(f"the newer engine does not start here: {error}")
    with daemon:
        try:
            yield Engine(address)
        finally:
            daemon.terminate()
