"""A release whose engine is restarted in the middle, or has no disk left: on an engine of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from conche.engine.connection import Engine
from tests import announced
from tests.edged import EdgedStack

pytestmark = [pytest.mark.engine, pytest.mark.in_order]


@dataclass
class OwnEngine:
    """A dockerd that a test may end and fill up.

    Attributes:
        disk: its data root, a memory file system.
    """

    folder: Path
    disk: Path
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def argv(self, *words: str) -> list[str]:
        """Run something in its network."""
        assert self.daemon is not None
        return ["nsenter", "--net", "--target", str(self.daemon.pid), *words]

    def start(self) -> None:
        """In a network of its own: two engines in one would take each other's bridges and rules away."""
        inside = [
            "dockerd", "--data-root", str(self.disk), "--exec-root", str(self.folder / "exec"),
            "--pidfile", str(self.folder / "pid"), "--host", self.address, "--storage-driver", "overlay2",
        ]  # fmt: skip
        script = 'ip link set lo up && exec "$@"'
        network = self.folder / "net"
        first = not network.exists()
        if first:
            network.touch()
        argv = ["unshare" if first else "nsenter", f"--net={network}", "sh", "-c", script, "sh", *inside]
        self.daemon = announced.start(argv, self.folder)

    def restart(self) -> None:
        assert self.daemon is not None
        self.daemon.terminate()
        self.daemon.wait(300)
        self.start()

    def cut_power(self) -> None:
        """End it with everything of it at once, and lose its network, as a machine does that has lost its power."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(300)
        helpers = [
            one
            for one in psutil.process_iter(["name", "cmdline"])
            if one.info["name"].startswith("containerd") and str(self.folder) in " ".join(one.info["cmdline"] or ())
        ]
        victims = [*helpers, *(child for one in helpers for child in one.children(recursive=True))]
        for one in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(victims, timeout=300)
        subprocess.run(["umount", str(self.folder / "net")], check=True)
        (self.folder / "net").unlink()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with announced.place() as folder:
        yield folder


@pytest.fixture(scope="module")
def own(place: Path, edge_image: str, base_image: str) -> Iterator[OwnEngine]:
    if os.getuid() != 0:
        pytest.skip("starting an engine needs root")
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500m", "tmpfs", str(disk)], check=True)
    made = OwnEngine(place, disk)
    made.start()
    with subprocess.Popen(["docker", "save", edge_image, base_image], stdout=subprocess.PIPE) as saved:
        subprocess.run(["docker", "--host", made.address, "load", "--quiet"], stdin=saved.stdout, check=True)
    yield made
    assert made.daemon is not None
    made.daemon.terminate()
    made.daemon.wait(300)
    subprocess.run(["umount", str(place / "net")], check=False)
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, own: OwnEngine) -> EdgedStack:
    """One whose environment is on that engine; nothing of it needs to be removed."""
    made = EdgedStack.create(tmp_path_factory.mktemp("on-own") / "checkout", 18000)
    made.replace("stack.yaml", "observe: 1", "observe: 5")
    made.replace("stack.yaml", "    tag: production\n", f"    tag: production\n    engine: {own.address}\n")
    for version in ("one", "two"):
        reference = made.version(version)
        with subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE) as saved:
            subprocess.run(["docker", "--host", own.address, "load", "--quiet"], stdin=saved.stdout, check=True)
        subprocess.run(["docker", "rmi", reference], capture_output=True, check=True)
    done = made.deploy(made.reference("one"))
    assert done.returncode == 0, done.stderr
    return made


def page(stack: EdgedStack, own: OwnEngine) -> str:
    asked = own.argv("curl", "--silent", "--fail", f"http://127.0.0.1:{stack.port}/")
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("step", ["start release", pytest.param("watch release", marks=pytest.mark.long)])
def test_an_engine_that_is_restarted_in_the_middle_serves_the_old_version_afterwards(
    stack: EdgedStack, own: OwnEngine, step: str
) -> None:
    with stack.begin("env.deploy", "--env", "prod", "--local", "--image", stack.reference("two")) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if line.startswith(step))
        own.restart()
        said = running.stderr.read()
        running.wait()

    assert running.returncode == 4, said
    assert "Traceback" not in said
    assert '"version": "one"' in page(stack, own)
    assert stack.leftovers(Engine(own.address)) == []


def test_a_disk_that_is_full_is_refused_before_anything_is_changed(stack: EdgedStack, own: OwnEngine) -> None:
    hog = own.disk / "hog"
    free = shutil.disk_usage(own.disk).free
    subprocess.run(["fallocate", "--length", str(free - (20 << 20)), str(hog)], check=True)
    refused = stack.deploy(stack.reference("two"))
    hog.unlink()

    assert refused.returncode == 9, refused.stderr
    assert "error [disk-full]" in refused.stderr
    assert '"version": "one"' in page(stack, own)


def test_a_disk_that_fills_up_in_the_middle_takes_the_release_back(stack: EdgedStack, own: OwnEngine) -> None:
    hog = own.disk / "hog"
    # Most of it beforehand: what is left fills in a moment, and is more than the look before a release asks for.
    free = shutil.disk_usage(own.disk).free
    subprocess.run(["fallocate", "--length", str(free - (200 << 20)), str(hog)], check=True)
    with stack.begin("env.deploy", "--env", "prod", "--local", "--image", stack.reference("two")) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if line.startswith("await release"))
        with hog.open("ab") as stream:
            while True:
                try:
                    stream.write(b"\0" * (1 << 20))
                    stream.flush()
                except OSError:
                    break
        said = running.stderr.read()
        running.wait()
    hog.unlink()

    assert running.returncode == 4, said
    assert "error [disk-full]" in said
    assert '"version": "one"' in page(stack, own)
    done = stack.deploy(stack.reference("two"))
    assert done.returncode == 0, done.stderr
    assert '"version": "two"' in page(stack, own)
    assert stack.leftovers(Engine(own.address)) == []


def states(stack: EdgedStack, own: OwnEngine) -> dict[str, str]:
    return {one.name: one.state for one in stack.containers(Engine(own.address))}


def until(condition: Callable[[], bool]) -> None:
    """Wait for something to be seen; the test's own time-out ends it."""
    while not condition():
        threading.Event().wait(0.1)


@pytest.mark.parametrize("cut", [pytest.param(False, marks=pytest.mark.long), True], ids=["shut down", "power lost"])
def test_after_a_reboot_what_ran_serves_again_and_what_was_stopped_stays_so(
    stack: EdgedStack, own: OwnEngine, cut: bool
) -> None:
    assert stack.invoke("env.scale", "web", "2", "--env", "prod").returncode == 0
    served, ran = page(stack, own), states(stack, own)
    stopped = max(name for name in ran if "-web-" in name)
    subprocess.run(["docker", "--host", own.address, "stop", stopped], check=True, capture_output=True)

    if cut:
        own.cut_power()
        own.start()
    else:
        own.restart()

    until(lambda: page(stack, own) == served)
    assert states(stack, own) == {**ran, stopped: "exited"}
    status = stack.json("env.status", "--env", "prod")["value"][0]
    assert {one["service"] for one in status["services"] if one["state"] == "running"} == {"edge", "store", "web"}
    up = stack.invoke("env.up", "--env", "prod")
    assert up.returncode == 0, up.stderr
    assert page(stack, own) == served
    assert states(stack, own) == ran
    assert stack.invoke("env.scale", "web", "1", "--env", "prod").returncode == 0


@pytest.mark.long
def test_a_release_that_a_reboot_has_met_is_not_the_one_that_serves_afterwards(
    stack: EdgedStack, own: OwnEngine
) -> None:
    before = page(stack, own)
    other = stack.reference("two" if '"one"' in before else "one")
    with stack.begin("env.deploy", "--env", "prod", "--local", "--image", other) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if line.startswith("probe release"))
        running.kill()
        own.cut_power()
    own.start()

    until(lambda: page(stack, own) == before)
    done = stack.invoke("env.recover", "--env", "prod")

    assert done.returncode == 0, done.stderr
    assert page(stack, own) == before
    assert stack.leftovers(Engine(own.address)) == []
