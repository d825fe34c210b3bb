"""Run tests with the Docker of a later Debian release: its engine, containerd, Compose, buildx and command line.

    python -m tests.engines forky -- pytest tests/compose

The packages are unpacked and not installed. The engine and the tests share namespaces of their own: its network is not
that of the engine in use, and its programs stand in the place of this machine's. Nothing in there reaches another
machine, so the base images come from the engine in use.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from conche.engine.connection import Engine
from conche.stack import load
from conche.supply.base import provide
from tests import announced
from tests.backup import servers
from tests.stacks import ROOT

__all__ = ["main", "own_packages", "save_images", "unpacked"]

CACHE = ROOT / ".nox/engines"
"""Where the packages are kept, about 60 MB for a release."""

PACKAGES = ("containerd", "docker-buildx", "docker-cli", "docker-compose", "docker.io")
"""All that is taken from the other release; runc stays this machine's, since the other may need a later C library."""

IMAGES = ("python:3.11-slim-bookworm", "nginx:1.27", "registry:2.8")
"""The base images that tests start from."""

INSIDE = """\
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run && install -d -m 1777 /run/lock
ip link set lo up
unpacked=$1 folder=$2; shift 2
while read -r program; do
  if there=$(command -v "$(basename "$program")"); then mount --bind "$unpacked/$program" "$there"; fi
done < "$folder/programs"
mount --bind "$unpacked/usr/libexec/docker/cli-plugins" /usr/libexec/docker/cli-plugins
mount --bind "$folder/data" /var/lib/docker
exec "$@"
"""
"""What makes the namespaces that it is started in those of another engine, before it becomes the tests."""


def _apt(folder: Path, *words: str, cwd: Path | None = None) -> str:
    """Run apt on a list of sources and a state of its own, which change nothing that is installed."""
    options = [
        f"Dir::Etc::sourcelist={folder}/sources.list", "Dir::Etc::sourceparts=/dev/null",
        "Dir::Etc::preferencesparts=/dev/null", f"Dir::State={folder}/state", f"Dir::Cache={folder}/cache",
        "APT::Sandbox::User=root", "Acquire::Retries=3",
    ]  # fmt: skip
    argv = ["apt-get", "--quiet", "--quiet", *(word for one in options for word in ("-o", one)), *words]
    return subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def _mirror() -> str:
    """The address from which this machine has its own packages."""
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Component: main"]
    known = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    if not known:
        raise SystemExit("engines: apt has no source of Debian's packages; see /etc/apt/sources.list")
    return known[0]


def unpacked(release: str) -> Path:
    """Return the folder with a release's packages, which are fetched once and checked by apt."""
    folder = CACHE / release
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as text:
        making = Path(text)
        for name in ("state/lists/partial", "cache/archives/partial", "root"):
            (making / name).mkdir(parents=True)
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (making / "sources.list").write_text(f"deb [signed-by={keys}] {_mirror()} {release} main\n")
        _apt(making, "update")
        _apt(making, "download", *PACKAGES, cwd=making)
        for package in making.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, making / "root"], check=True)
        (making / "root").rename(folder)
    return folder


def own_packages(names: Sequence[str]) -> Path:
    """Return the folder with packages of this machine's own release, fetched by its own apt."""
    folder = CACHE / "-".join(("own", *names))
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as text:
        making = Path(text)
        argv = ["apt-get", "--quiet", "--quiet", "-o", "APT::Sandbox::User=root", "download", *names]
        subprocess.run(argv, cwd=making, check=True)
        for package in making.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, making / "root"], check=True)
        (making / "root").rename(folder)
    return folder


def _programs(folder: Path) -> Iterator[str]:
    for place in ("usr/bin", "usr/sbin"):
        yield from (str(one.relative_to(folder)) for one in sorted((folder / place).iterdir()) if one.is_file())


def _say(line: str) -> None:
    sys.stderr.write(f"engines: {line}\n")


def save_images(archive: Path, *further: str) -> None:
    """Write the base images to a file.

    Args:
        further: other images that this machine's engine has.
    """
    engine, bases = Engine(), load(ROOT).bases
    for reference in IMAGES:
        provide(engine, bases, reference, _say)
    subprocess.run(["docker", "image", "save", "--output", archive, *IMAGES, *further], check=True)


def run(release: str, argv: Sequence[str]) -> int:
    """Run a command beside a release's engine, and return how it ends; the engine goes with it."""
    there = unpacked(release)
    # A socket's path has at most 107 characters, and the images need more room than a file system in memory has.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as text:
        folder = Path(text)
        (folder / "data").mkdir()
        (folder / "programs").write_text("".join(f"{one}\n" for one in _programs(there)))
        servers.provide_base(Engine())
        save_images(folder / "images.tar", servers.BASE)
        inside = ["unshare", "--net", "--mount", "sh", "-c", INSIDE, "sh", str(there), str(folder)]
        again = [sys.executable, "-m", "tests.engines", "--inside", str(folder), "--", *argv]
        return subprocess.run([*inside, *again], cwd=ROOT, check=False).returncode


def _inside(folder: Path, argv: Sequence[str]) -> int:
    daemon = announced.start(["dockerd", "--pidfile", str(folder / "pid")], folder)
    with daemon:
        try:
            subprocess.run(["docker", "image", "load", "--quiet", "--input", folder / "images.tar"], check=True)
            subprocess.run(["docker", "version", "--format", "engine {{.Server.Version}}"], check=True)
            subprocess.run(["docker", "compose", "version"], check=True)
            return subprocess.run(argv, check=False).returncode
        finally:
            daemon.terminate()


def main(words: Sequence[str]) -> int:
    """Parse the command line."""
    if "--" not in words or os.geteuid() or not shutil.which("unshare"):
        raise SystemExit("engines: as root, with unshare: python -m tests.engines RELEASE -- COMMAND")
    own, argv = list(words[: words.index("--")]), list(words[words.index("--") + 1 :])
    if own[:1] == ["--inside"]:
        return _inside(Path(own[1]), argv)
    return run(own[0], argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
