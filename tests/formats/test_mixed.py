"""An engine and a folder of backups that a newer Conche has used: what this one shows, and that it changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from conche.engine.containers import of_project
from conche.engine.state import State
from conche.formats import WrittenByNewer
from conche.images.needed import needed
from conche.stack import load
from conche.version import version
from tests.formats import made
from tests.formats.test_formats import EVER, LATER
from tests.stacks import SmallStack


def newer_release(number: int) -> bytes:
    """The record of a release as a version of the future has signed it."""
    content = {"format": 2, "conche": LATER, "number": number, "parts": ["in a new shape"]}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "content": content}).encode()


@pytest.mark.engine
def test_an_environment_with_a_newer_release_is_shown_and_left_alone(
    small: SmallStack, engine: Engine, base_image: str
) -> None:
    small.up()
    state = State(engine, small.project, [base_image])
    state.write({"releases/r1/record.json": newer_release(1)})
    before = state.read(), [(one.id, one.state, one.started_at) for one in of_project(engine, small.project)]

    for words in (("env.deploy", "--local"), ("env.rollback",), ("env.recover",), ("env.restart",), ("env.down",),
                  ("env.freeze", "--reason", "x"), ("env.update", "--service", "web", "--build")):  # fmt: skip
        done = small.invoke(*words, "--json")
        said = json.loads(done.stdout)["error"]
        assert (done.returncode, said["code"]) == (2, "format-newer"), (words, said)
        assert f"Conche {LATER} in format 2" in said["message"]
        assert f"This is Conche {version()}" in said["message"]

    assert before == (
        state.read(), [(one.id, one.state, one.started_at) for one in of_project(engine, small.project)]
    )  # fmt: skip
    shown = small.json("env.history")["value"]["releases"]
    assert [(one["id"], one["result"]) for one in shown] == [("r1", "newer")]
    status = small.invoke("env.status")
    assert status.returncode == 0, status.stderr
    assert f"was written by Conche {LATER}" in status.stderr
    with pytest.raises(WrittenByNewer, match=LATER):
        needed(load(small.folder))


@pytest.mark.engine
def test_a_newer_lock_is_not_taken_for_one_that_is_left_over(
    small: SmallStack, engine: Engine, base_image: str
) -> None:
    small.up()
    labels = {"io.conche.lock": small.project, "io.conche.lock.format": "2", "io.conche.lock.conche": LATER}
    lock = engine.client.api.create_container(base_image, ["true"], name=f"{small.project}-lock", labels=labels)["Id"]
    try:
        said = small.json("env.restart")["error"]
        assert said["code"] == "format-newer"
        assert engine.client.api.inspect_container(lock)["State"]["Status"] == "created"
    finally:
        engine.client.api.remove_container(lock, force=True)


@pytest.fixture(params=EVER, ids=lambda folder: f"format {folder.name}")
def guestbook(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkout whose backups were made in one of the formats that there have been."""
    shutil.copytree(request.param / "backups", tmp_path / "guestbook-backups")
    (tmp_path / "guestbook-backups/.store/waiting.json").unlink()
    folder = tmp_path / "guestbook"
    (folder / "pages").mkdir(parents=True)
    files = {
        "tasks.py": "from conche import namespace\nns = namespace(__file__)\n", "compose.yaml": "services: {}\n",
        "stack.yaml": made.STACK.replace("secrets: {", "# secrets: {"), "pages/page.txt": "overwritten\n",
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def invoke(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return SmallStack(folder, "guestbook", 0).invoke(*words)


@pytest.mark.process
def test_a_backup_of_every_format_is_restored(guestbook: Path) -> None:
    done = invoke(guestbook, "backup.restore", made.BACKUP, "--yes")

    assert done.returncode == 0, done.stderr
    assert (guestbook / "pages/page.txt").read_text() == "hello\n"
    assert invoke(guestbook, "backup.verify", made.BACKUP).returncode == 0


VOLUME = """\
name: guestbook
environments: {{dev: {{compose: [compose.yaml], project: {name}}}}}
backup: {{components: {{data: {{driver: volume, volume: {name}, environment: dev}}}}}}
"""


@pytest.fixture
def volume(engine: Engine, base_image: str) -> Iterator[str]:
    """The name of a volume with other data than a backup has."""
    name = f"t{uuid.uuid4().hex[:10]}"
    write = ["sh", "-c", "echo overwritten > /data/notes"]
    engine.client.containers.run(base_image, write, volumes=[f"{name}:/data"], remove=True)
    yield name
    engine.client.api.remove_volume(name, force=True)


@pytest.mark.engine
@pytest.mark.parametrize("kept", EVER, ids=lambda folder: f"format {folder.name}")
def test_a_volume_in_a_backup_of_every_format_is_restored(
    kept: Path, volume: str, engine: Engine, base_image: str, tmp_path: Path
) -> None:
    shutil.copytree(kept / "volumes", tmp_path / "guestbook-backups")
    [backup] = (tmp_path / "guestbook-backups/daily").iterdir()
    folder = tmp_path / "guestbook"
    folder.mkdir()
    mounted = f'services: {{web: {{image: "{base_image}", volumes: ["data:/data"]}}}}\n'
    files = {
        "tasks.py": "from conche import namespace\nns = namespace(__file__)\n",
        "stack.yaml": VOLUME.format(name=volume),
        "compose.yaml": f"{mounted}volumes: {{data: {{name: {volume}}}}}\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content)

    done = invoke(folder, "backup.restore", backup.name, "--yes")

    assert done.returncode == 0, done.stderr
    see = ["sh", "-c", "cd /data && cat last && stat --format '%u %g %a %n' notes notes/page.txt && readlink last"]
    said = engine.client.containers.run(base_image, see, volumes=[f"{volume}:/data"], remove=True)
    assert said.decode().splitlines() == ["hello", "33 33 755 notes", "33 33 640 notes/page.txt", "notes/page.txt"]


@pytest.mark.process
def test_backups_of_a_newer_version_are_listed_and_left_alone(guestbook: Path) -> None:
    mark = guestbook.parent / "guestbook-backups/.conche-target"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"format": 9, "conche": LATER}))

    for words in (("backup.create", "daily"), ("backup.prune",), ("backup.restore", made.BACKUP, "--yes")):
        done = invoke(guestbook, *words)
        assert (done.returncode, "error [format-newer]" in done.stderr) == (2, True), done.stderr

    assert (guestbook / "pages/page.txt").read_text() == "overwritten\n"
    assert made.BACKUP in invoke(guestbook, "backup.list").stdout
