"""Run tests as a user with an engine in Docker's rootless mode: `python -m tests.rootless -- pytest tests/env`.

It takes root to hand the user subordinate ids. Nothing on this machine is changed: the user, the ids and the network
are those of namespaces that end with the tests. The engine is this machine's own; what rootless mode needs beside it is
Debian's, unpacked and not installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests import announced
from tests.engines import own_packages, save_images
from tests.surroundings import SOMEBODY, as_user, copy_checkout

__all__ = ["main"]

PACKAGES = ("libslirp0", "libsubid4", "rootlesskit", "slirp4netns", "uidmap")

PREPARED = """\
set -eu
folder=$1 user=$2; shift 2
mount --make-rprivate /
ip link set lo up
for name in passwd group subuid subgid; do
  [ ! -e "/etc/$name" ] || cat "/etc/$name" > "$folder/$name"
done
echo "rootless:x:$user:$user::$folder/home:/bin/sh" >> "$folder/passwd"
echo "rootless:x:$user:" >> "$folder/group"
echo "rootless:200000:65536" | tee "$folder/subuid" > "$folder/subgid"
for name in passwd group subuid subgid; do mount --bind "$folder/$name" "/etc/$name"; done
mknod -m 666 "$folder/tun" c 10 200
mount --bind "$folder/tun" /dev/net/tun
exec "$@"
"""
"""What makes the namespaces that it is started in those of a user who may run an engine, before it goes on."""

KIT = (
    "rootlesskit", "--net=slirp4netns", "--mtu=65520", "--disable-host-loopback", "--port-driver=builtin",
    "--copy-up=/etc", "--copy-up=/run", "sh", "-c",
    'rm -f /run/docker /run/containerd /run/xtables.lock; exec "$@"', "sh",
)  # fmt: skip
"""What Docker's own script for rootless mode starts the engine with."""


def run(argv: Sequence[str]) -> int:
    """Run a command beside a rootless engine, and return how it ends; the engine goes with it."""
    there = own_packages(PACKAGES)
    # A socket's path has at most 107 characters, and the images need more room than a file system in memory has.
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        folder.chmod(0o755)
        shutil.copytree(there, folder / "programs", symlinks=True)
        for name in ("newuidmap", "newgidmap"):
            (folder / "programs/usr/bin" / name).chmod(0o4755)
        for name in ("home", "tmp", "run"):
            (folder / name).mkdir()
        save_images(folder / "images.tar")
        (folder / "images.tar").chmod(0o644)
        copy_checkout(folder / "checkout", 0o022)
        for path in (*(folder / name for name in ("home", "tmp", "run", "checkout")), *folder.glob("checkout/**/*")):
            os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
        [libraries] = (folder / "programs/usr/lib").glob("*-linux-gnu")
        environment = {
            **os.environ, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "CONCHE_TEST_WITHOUT": "root",
            "XDG_RUNTIME_DIR": str(folder / "run"), "CONCHE_TEST_DOCKER_HOST": f"unix://{folder}/run/docker.sock",
            "DOCKER_HOST": f"unix://{folder}/run/docker.sock", "LD_LIBRARY_PATH": str(libraries),
            "PATH": f"{folder}/programs/usr/bin:{os.environ['PATH']}",
        }  # fmt: skip
        prepared = ["unshare", "--net", "--mount", "sh", "-c", PREPARED, "sh", str(folder), str(SOMEBODY)]
        words = [sys.executable, "-m", *argv] if argv[0] == "pytest" else argv
        again = [sys.executable, "-m", "tests.rootless", "--inside", str(folder), "--", *words]
        done = subprocess.run(
            [*prepared, *as_user(SOMEBODY, folder, needed=[folder]), *again],
            cwd=folder / "checkout", env=environment, check=False,
        )  # fmt: skip
        return done.returncode


def _inside(folder: Path, argv: Sequence[str]) -> int:
    own = ["--data-root", "home/data", "--exec-root", "run/exec", "--pidfile", "run/pid"]
    placed = [word if word.startswith("--") else str(folder / word) for word in own]
    engine = ["dockerd", *placed, "--host", os.environ["DOCKER_HOST"]]
    with announced.start([*KIT, *engine], folder / "run") as kit:
        try:
            subprocess.run(["docker", "image", "load", "--quiet", "--input", folder / "images.tar"], check=True)
            subprocess.run(["docker", "info", "--format", "{{.ServerVersion}} {{.SecurityOptions}}"], check=True)
            # What the tests start has this machine's libraries.
            environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
            return subprocess.run(argv, env=environment, check=False).returncode
        finally:
            kit.terminate()


def main(words: Sequence[str]) -> int:
    """Parse the command line."""
    own, argv = list(words[: words.index("--")]) if "--" in words else ["?"], list(words[words.index("--") + 1 :])
    if own[:1] == ["--inside"]:
        return _inside(Path(own[1]), argv)
    if own or not argv or os.geteuid() or not shutil.which("unshare"):
        raise SystemExit("rootless: as root, with unshare: python -m tests.rootless -- COMMAND")
    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
