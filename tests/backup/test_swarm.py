"""Volumes of a swarm's services: a service rests while one is read, and none is taken for that of another node."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from conche.engine import swarm
from conche.engine.connection import Engine
from tests.stacks import SmallStack, free_port
from tests.standing import standing
from tests.swarming import joined

pytestmark = [pytest.mark.engine, pytest.mark.in_order]

WRITES = "while :; do hostname >> /data/log; sleep 0.05; done"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[SmallStack]:
    """A stack on a swarm of one, whose service writes into a volume all the time."""
    made = SmallStack.create(tmp_path_factory.mktemp("swarm") / "checkout", free_port())
    made.replace("stack.yaml", "    tag: develop\n", "    tag: develop\n    engine: swarm\n")
    volume = f"{made.project}_data"
    component = f"{{driver: volume, environment: dev, volume: {volume}, consistency: stop}}"
    text = (made.folder / "stack.yaml").read_text()
    made.write("stack.yaml", f"{text}backup:\n  components:\n    data: {component}\n")
    service = {
        "image": base_image, "command": ["sh", "-c", WRITES.replace("$", "$$")], "init": True,
        "stop_grace_period": "1s", "volumes": ["data:/data"],
    }  # fmt: skip
    described = {"version": "3.8", "services": {"web": service}, "volumes": {"data": {}}}
    with joined(engine):
        assert swarm.deploy(engine, made.project, json.dumps(described).encode(), {}, lambda _: None).ok
        assert swarm.wait_settled(engine, made.project, "web", 300)
        yield made
        swarm.remove(engine, made.project)
        assert swarm.wait_gone(engine, made.project, 300)
        remove_unused(engine, volume)
        made.remove_all(engine)


def remove_unused(engine: Engine, volume: str) -> None:
    """Remove a volume once the containers of its last tasks are gone: a swarm forgets the tasks before them."""
    while True:
        try:
            engine.client.api.remove_volume(volume, force=True)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
        else:
            return


def tasks(stack: SmallStack, engine: Engine) -> list[str]:
    """The containers that run of the service."""
    wanted = {"label": f"com.docker.stack.namespace={stack.project}", "status": "running"}
    return [str(one["Id"]) for one in engine.client.api.containers(filters=wanted)]


def written(stack: SmallStack, engine: Engine) -> list[str]:
    """Which tasks have written, line by line, once the one that runs has."""
    [container] = tasks(stack, engine)
    shown = 'until grep -q "$(hostname)" /data/log; do sleep 0.05; done; cat /data/log'
    argv = ["docker", "exec", container, "sh", "-c", shown]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300).stdout.splitlines()


def runs_once_more(stack: SmallStack, engine: Engine) -> list[str]:
    assert swarm.wait_settled(engine, stack.project, "web", 300)
    return tasks(stack, engine)


def test_a_service_is_scaled_to_nothing_while_its_volume_is_read_and_back(stack: SmallStack, engine: Engine) -> None:
    with standing(stack, "backup.create", event="http.client.send", at="/exec") as reading:
        meanwhile = tasks(stack, engine)
        code, said = reading.go_on()

    assert (code, meanwhile) == (0, []), said
    [after] = runs_once_more(stack, engine)
    [folder] = (stack.folder.parent / f"{stack.name}-backups/daily").iterdir()
    packed = subprocess.run(["tar", "xOzf", folder / "data/data.tar.gz", "log"], capture_output=True, check=True)
    read, now = packed.stdout.decode().splitlines(), written(stack, engine)
    record: Any = json.loads((folder / "manifest.json").read_text())["components"]["data"]
    assert record["consistency"].startswith("stopped for")
    # One task has written until it was read, and another one since.
    assert now[: len(read)] == read
    assert {*now[len(read) :]} == {after[:12]}
    assert after[:12] not in read


def test_a_service_that_a_killed_backup_has_left_at_nothing_is_scaled_back(stack: SmallStack, engine: Engine) -> None:
    with standing(stack, "backup.create", event="http.client.send", at="/exec") as reading:
        reading.kill()
    left = tasks(stack, engine)

    done = stack.invoke("backup.verify")

    assert left == []
    assert done.returncode == 0, done.stderr
    assert len(runs_once_more(stack, engine)) == 1
    assert not list((Path(stack.folder.parent) / f"{stack.name}-backups/.store").glob("*scaled*"))


def test_a_task_that_is_only_paused_is_the_same_afterwards(stack: SmallStack, engine: Engine) -> None:
    before = runs_once_more(stack, engine)
    stack.replace("stack.yaml", "consistency: stop", "consistency: pause")
    with standing(stack, "backup.create", event="http.client.send", at="/unpause") as reading:
        paused = [one["State"] for one in engine.client.api.containers(filters={"id": before})]
        code, said = reading.go_on()
    stack.replace("stack.yaml", "consistency: pause", "consistency: stop")

    assert (code, paused) == (0, ["paused"]), said
    assert tasks(stack, engine) == before


def at_once(command: str) -> None:
    """Type a command without waiting until what it says is so for seconds."""
    subprocess.run([*shlex.split(command), "--detach"], check=True, capture_output=True)


def test_a_restore_is_refused_with_what_to_type_and_works_once_that_is_done(stack: SmallStack, engine: Engine) -> None:
    runs_once_more(stack, engine)
    assert stack.invoke("backup.create").returncode == 0
    runs_once_more(stack, engine)
    words = ("backup.restore", "latest", "--force", "--json")

    planned, refused = stack.invoke(*words, "--dry-run"), stack.invoke(*words)
    error = json.loads(refused.stdout)["error"]
    rest, back = re.fullmatch(r"(docker .*=0)    # .*: (docker .*=1)", error["next"]).groups()  # type: ignore[union-attr]
    at_once(rest)
    while tasks(stack, engine):
        pass
    restored = stack.invoke("backup.restore", "latest", "--force")
    at_once(back)

    assert (planned.returncode, refused.returncode, error["code"]) == (2, 2, "restore-under-swarm")
    assert restored.returncode == 0, restored.stderr
    assert "The old data are kept until the next complete backup: in volumes, .pre-restore-" in restored.stdout
    [task] = runs_once_more(stack, engine)
    assert written(stack, engine)[-1] == task[:12]
