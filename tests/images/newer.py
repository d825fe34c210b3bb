"""An engine newer than that of this machine's release, from Debian's own packages, beside the one that is in use.

It stands in a network namespace of its own: an engine without a bridge would remove that of the other one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from conche.engine.images import NORMALISES
from tests import announced
from tests.stacks import ROOT

CACHE = ROOT / ".nox/newer-engine"
"""Where the package is kept, which has 23 MB."""


def program() -> Path:
    """dockerd of a release that is new enough; the package is unpacked, and not installed."""
    found = CACHE / "usr/sbin/dockerd"
    if found.is_file():
        return found
    listed = subprocess.run(["apt-cache", "madison", "docker.io"], capture_output=True, text=True, check=False).stdout
    versions = re.findall(r"docker\.io \| (\S+)", listed)
    wanted = next((one for one in versions if int(re.split(r"\D", one)[0] or 0) >= NORMALISES), None)
    if wanted is None:
        pytest.skip(
            "apt knows no newer docker.io; on Debian 12 scripts/install-engine adds the source of the next release"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    argv = ["apt-get", "--quiet", "-o", "APT::Sandbox::User=root", "download", f"docker.io={wanted}"]
    fetched = subprocess.run(argv, cwd=CACHE, capture_output=True, text=True, check=False)
    packages = list(CACHE.glob("docker.io_*.deb"))
    if fetched.returncode or not packages:
        pytest.skip(f"docker.io {wanted} cannot be had: {fetched.stderr.strip()}")
    subprocess.run(["dpkg", "-x", str(packages[0]), str(CACHE)], check=True)
    packages[0].unlink()
    return found


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
        str(program()),
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
