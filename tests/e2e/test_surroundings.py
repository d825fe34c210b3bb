"""The same work from unusual places: another user, a checkout that cannot be written to."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests.stacks import ROOT, SmallStack, free_port

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

SOMEBODY = 54321
"""A user id that owns nothing on this machine."""

NEEDED = (
    "invoke", "docker", "requests", "urllib3", "certifi", "charset-normalizer", "idna", "pydantic", "pydantic-core",
    "annotated-types", "typing-extensions", "typing-inspection", "pyyaml", "python-dotenv", "rich", "markdown-it-py",
    "mdurl", "pygments", "psutil",
)  # fmt: skip
"""The distributions that env.up imports."""


@pytest.fixture
def shared(engine: Engine, base_image: str) -> Iterator[SmallStack]:
    """A small stack in a folder that every user may read."""
    folder = Path(tempfile.mkdtemp(prefix="shared-"))
    folder.chmod(0o755)
    stack = SmallStack.create(folder / "checkout", port=free_port())
    yield stack
    stack.remove_all(engine)
    shutil.rmtree(folder)


def readable_python(folder: Path) -> tuple[str, str]:
    """A Python that another user may run, and a folder with the modules it needs, for PYTHONPATH."""
    modules = folder / "modules"
    for name in NEEDED:
        for file in importlib.metadata.files(name) or []:
            if ".." not in file.parts and file.suffix != ".pyc":
                target = modules / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
    shutil.copytree(ROOT / "conche", modules / "conche", ignore=shutil.ignore_patterns("__pycache__"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (os.path.realpath(sys.executable), f"/usr/bin/python{version}"):
        asked = subprocess.run([*as_somebody(os.getegid()), python, "-c", ""], capture_output=True, check=False)
        if asked.returncode == 0:
            return python, str(modules)
    pytest.fail(f"no Python {version} that another user may run")


def as_somebody(group: int) -> list[str]:
    """The prefix that runs a program as a user of that group; nothing when the tests are not root themselves."""
    if os.getuid() != 0:
        return []
    # setpriv itself still finds programs as root does; the shell it becomes no longer can.
    return ["setpriv", f"--reuid={SOMEBODY}", f"--regid={group}", "--clear-groups", "sh", "-c", 'exec "$@"', "sh"]


def test_a_user_of_the_docker_group_needs_no_root(shared: SmallStack, tmp_path: Path) -> None:
    python, modules = readable_python(shared.folder.parent)
    home = shared.folder.parent / "home"
    home.mkdir()
    home.chmod(0o777)
    group = Path("/var/run/docker.sock").stat().st_gid
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": modules}

    done = subprocess.run(
        [*as_somebody(group), python, "-m", "invoke", "env.up"],
        cwd=shared.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_a_user_outside_the_docker_group_is_told_how_to_join(shared: SmallStack) -> None:
    python, modules = readable_python(shared.folder.parent)
    environment = {"PATH": os.environ["PATH"], "HOME": "/", "TMPDIR": "/tmp", "PYTHONPATH": modules}

    refused = subprocess.run(
        [*as_somebody(SOMEBODY), python, "-m", "invoke", "env.up"],
        cwd=shared.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode == 9
    assert "error [engine-forbidden]" in refused.stderr
    assert "usermod -aG docker" in refused.stderr


def test_a_checkout_that_cannot_be_written_to_comes_up(shared: SmallStack) -> None:
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && shift && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(shared.folder), *shared.argv("env.up")]
    if os.getuid() != 0:
        argv = ["unshare", "--map-root-user", *argv[1:]]

    done = subprocess.run(argv, env=shared.environment(), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert shared.json("env.status")["value"][0]["healthy"] is True
