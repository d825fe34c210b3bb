"""env.scale on the real engine, with users who ask all the while and must notice nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from tests.edged import EdgedStack
from tests.load import Load
from tests.stacks import free_port
from tests.standing import standing

pytestmark = [pytest.mark.engine, pytest.mark.in_order]


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory, engine: Engine, edge_image: str) -> Iterator[EdgedStack]:
    """A stack whose web service answers 503 for its first five seconds."""
    stack = EdgedStack.create(tmp_path_factory.mktemp("scaled") / "checkout", port=free_port())
    stack.replace("compose/prod.yaml", "retries: 2", "retries: 30")
    done = stack.deploy(stack.version("one", "late"))
    assert done.returncode == 0, done.stderr
    yield stack
    stack.remove_all(engine)


def web(stack: EdgedStack, engine: Engine) -> list[str]:
    return [one.id for one in stack.containers(engine) if one.service == "web" and one.state == "running"]


def scale(stack: EdgedStack, count: int) -> tuple[str, ...]:
    return ("env.scale", "web", str(count), "--env", "prod")


def counting(stack: EdgedStack) -> str:
    """The configuration of the edge that counts, as nginx reads it."""
    argv = ["docker", "exec", f"{stack.project}-edge-1", "cat", "/etc/conche/edge/current/nginx.conf"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_nobody_notices_that_there_are_more_or_fewer(late: EdgedStack, engine: Engine) -> None:
    (first,) = web(late, engine)
    plain = counting(late)
    with Load(late.port, rate=25) as users:
        for count in (3, 2, 3, 1):
            done = late.invoke(*scale(late, count))
            assert done.returncode == 0, done.stderr
            assert len(web(late, engine)) == count
            assert counting(late) == plain
            asked = len(users.answers)
            users.until(lambda seen, asked=asked: len(seen.answers) > asked + 25)  # type: ignore[misc]

    assert users.failures == []
    assert web(late, engine) == [first]


def test_what_answers_wrongly_gets_no_request_and_goes_again(late: EdgedStack, engine: Engine) -> None:
    before, plain = web(late, engine), counting(late)
    with Load(late.port, rate=25) as users, late.begin(*scale(late, 2), "--json") as running:
        while len(found := web(late, engine)) < 2:
            assert running.poll() is None, "it ended before there was a second container"
        # Nobody asks it before it is healthy, which takes five seconds.
        (another,) = {*found} - {*before}
        subprocess.run(["docker", "exec", another, "touch", "/tmp/wrong"], check=True)
        said, _ = running.communicate()

    assert (running.returncode, json.loads(said)["error"]["code"]) == (4, "probe-failed"), said
    assert users.failures == []
    assert (web(late, engine), counting(late)) == (before, plain)


@pytest.mark.parametrize(
    ("count", "event", "at"),
    [(3, "subprocess.Popen", "--scale"), (1, "http.client.send", "/stop")],
    ids=["more", "fewer"],
)
def test_a_change_that_is_killed_is_settled_and_nobody_notices(
    late: EdgedStack, engine: Engine, count: int, event: str, at: str
) -> None:
    there = 4 - count
    assert late.invoke(*scale(late, there)).returncode == 0
    plain = counting(late)
    with Load(late.port, rate=25) as users:
        with standing(late, *scale(late, count), event=event, at=at) as running:
            assert counting(late) != plain
            running.kill()
        planned = json.loads(late.invoke("env.recover", "--env", "prod", "--dry-run", "--json").stdout)["plan"]
        done = late.invoke("env.recover", "--env", "prod")

    assert done.returncode == 0, done.stderr
    assert [(one["action"], one["subject"]) for one in planned] == [("scale", "service web")]
    assert users.failures == []
    # What was to be more is as it was; what was to be less is so: requests of those that go may have been cut off else.
    assert len(web(late, engine)) == min(there, count)
    assert counting(late) == plain
    assert "Nothing to recover." in late.invoke("env.recover", "--env", "prod").stdout


def test_env_up_brings_a_lost_container_back_before_users_are_sent_to_it(late: EdgedStack, engine: Engine) -> None:
    assert late.invoke(*scale(late, 2)).returncode == 0
    with Load(late.port, rate=25) as users:
        users.until(lambda seen: len(seen.answers) > 5)
        gone = web(late, engine)[-1]
        engine.client.api.stop(gone)
        before = len(users.failures)
        done = late.invoke("env.up", "--env", "prod")

    assert done.returncode == 0, done.stderr
    assert users.failures[before:] == []
    assert len(web(late, engine)) == 2
