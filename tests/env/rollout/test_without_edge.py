"""Releases of an environment without an edge: what a container is told of itself, and when it is replaced."""

from __future__ import annotations

import subprocess

import pytest

from conche.engine.connection import Engine
from conche.engine.inside import file_in
from tests import warm
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


def running(stack: SmallStack, engine: Engine) -> tuple[str, dict[str, str]]:
    """The id of its one container, and its environment."""
    [container] = stack.containers(engine)
    said = engine.client.api.inspect_container(container.id)["Config"]["Env"]
    return container.id, dict(line.split("=", 1) for line in said)


def deploy(stack: SmallStack, *words: str, **extra: str) -> str:
    """The release of a good deploy."""
    said = stack.json("env.deploy", "--env", "dev", "--local", *words, **extra)
    assert "error" not in said or said["error"] is None, said
    return str(said["value"]["release"])


def test_a_container_knows_its_release_and_image_and_is_not_replaced_for_them(
    small: SmallStack, engine: Engine
) -> None:
    built = small.invoke("images.build")
    assert built.returncode == 0, built.stderr

    assert deploy(small) == "r1"
    first, told = running(small, engine)
    assert told["CONCHE_RELEASE"] == "r1"
    assert told["CONCHE_IMAGE_DIGEST"] == engine.client.images.get(small.image).id

    deploy(small)
    assert running(small, engine)[0] == first

    assert deploy(small, SETTING="other") == "r2"
    second, told = running(small, engine)
    assert second != first
    assert told["CONCHE_RELEASE"] == "r2"

    assert deploy(small, "--force", SETTING="other") == "r3"
    assert running(small, engine)[1]["CONCHE_RELEASE"] == "r3"

    back = small.json("env.rollback", "--env", "dev", "--to", "r1")
    assert back["value"]["release"] == "r4"
    assert running(small, engine)[1]["CONCHE_RELEASE"] == "r4"
    assert running(small, engine)[1]["SETTING"] == "none"


def test_without_a_key_too_a_release_is_left_alone_until_its_files_change(small: SmallStack, engine: Engine) -> None:
    declared = "secrets: {declared: {web_token: {generate: hex16}}}\n"
    small.replace("stack.yaml", "environments:\n", f"{declared}environments:\n")
    assert small.invoke("images.build").returncode == 0
    assert deploy(small) == "r1"
    first = running(small, engine)
    assert first[1]["WEB_TOKEN"]

    assert small.invoke("env.status", "--env", "dev").returncode == 0
    assert small.json("env.up")["plan"] == []
    assert running(small, engine) == first

    small.replace("compose/dev.yaml", "mem_limit: 64m", "mem_limit: 65m")
    assert "changed since r1: web" in small.invoke("env.status", "--env", "dev").stdout
    assert [step["action"] for step in small.json("env.up")["plan"]] == ["recreate"]


def test_what_shares_a_network_has_no_drift_in_a_release(small: SmallStack, engine: Engine) -> None:
    sleeper = (
        "image: python:3.11-slim-bookworm, command: [sleep, infinity], init: true, stop_grace_period: 0s,"
        " healthcheck: {test: [CMD, 'true']}"
    )
    shape = f"services: {{vpn: {{{sleeper}}}, web: {{{sleeper}, network_mode: 'service:vpn'}}, other: {{{sleeper}}}}}\n"
    small.write("compose/dev.yaml", shape)

    def ids() -> dict[str, str]:
        status = small.json("env.status", "--env", "dev")["value"][0]
        assert [one["drift"] for one in status["services"]] == ["", "", ""], status
        return {one.service: one.id for one in small.containers(engine)}

    assert deploy(small) == "r1"
    first = ids()
    assert "Nothing to do" in small.invoke("env.deploy", "--env", "dev", "--local").stdout

    small.write("compose/dev.yaml", shape.replace("vpn: {", "vpn: {hostname: another, "))
    changed = small.json("env.deploy", "--env", "dev", "--local")
    assert {one["service"]: one["cause"] for one in changed["value"]["changes"] if one["strategy"] != "keep"} == {
        "vpn": "its definition changed: hostname", "web": "shares resources of vpn, which is recreated",
    }  # fmt: skip
    second = ids()
    assert {name for name in first if first[name] != second[name]} == {"vpn", "web"}
    assert "Nothing to do" in small.invoke("env.deploy", "--env", "dev", "--local").stdout


SLEEPER = """\
services:
  web:
    image: python:3.11-slim-bookworm
    command: [sleep, infinity]
    init: true
    stop_grace_period: 0s
    healthcheck: {test: [CMD, 'true']}
    configs: [{source: rules, target: /etc/rules.conf}]
configs: {rules: {%s}}
"""


@pytest.mark.parametrize("given", ['content: "level=${LEVEL:-1}"', "file: ../rules.conf"])
def test_what_env_up_gave_another_content_or_a_file_of_the_checkout_is_made_anew(
    small: SmallStack, engine: Engine, given: str
) -> None:
    small.write("rules.conf", "level=1")
    small.write("compose/dev.yaml", SLEEPER % given)
    assert small.invoke("env.up", LEVEL="2").returncode == 0

    assert deploy(small) == "r1"

    [web] = small.containers(engine)
    (small.folder / "rules.conf").unlink()
    engine.client.api.restart(web.id, timeout=0)
    found = file_in(engine, web.id, "/etc/rules.conf")
    assert found is not None
    assert found[0] == b"level=1"


def killed_at_work(small: SmallStack, engine: Engine) -> None:
    """Kill a release once it has started its web, of level 2, in the place of what was there."""
    argv = small.argv("env.deploy", "--env", "dev", "--local")
    # It stays in the midst of its work: what it has started does not become healthy.
    small.replace("compose/dev.yaml", "[CMD, 'true']", "[CMD, 'false']")
    starts = engine.client.api.events(
        decode=True, filters={"event": "start", "label": f"com.docker.compose.project={small.project}"}
    )
    with warm.Popen[str](
        argv, cwd=small.folder, env=small.environment(LEVEL="2"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, text=True,
    ) as running:  # fmt: skip
        next(one for one in starts if one["Actor"]["Attributes"].get("com.docker.compose.service") == "web")
        running.kill()
    starts.close()
    small.replace("compose/dev.yaml", "[CMD, 'false']", "[CMD, 'true']")


def results(small: SmallStack) -> list[str]:
    return [one["result"] for one in small.json("env.history", "--env", "dev")["value"]["releases"]]


@pytest.mark.parametrize("task", ["env.recover", "env.up", pytest.param("env.deploy", marks=pytest.mark.long)])
def test_what_a_killed_release_had_replaced_comes_back_with_the_next_command(
    small: SmallStack, engine: Engine, task: str
) -> None:
    small.write("compose/dev.yaml", SLEEPER % 'content: "level=${LEVEL:-1}"')
    assert deploy(small) == "r1"
    killed_at_work(small, engine)
    said = small.invoke("env.status", "--env", "dev").stdout
    planned = small.json(task, "--env", "dev", "--dry-run", *(["--local"] if task == "env.deploy" else []))["plan"]

    done = small.invoke(task, "--env", "dev", *(["--local"] if task == "env.deploy" else []))

    assert done.returncode == 0, done.stderr
    assert "r2 was interrupted. Next: invoke env.recover --env dev" in said
    assert "service web" in {step["subject"] for step in planned}
    [web] = small.containers(engine)
    found = file_in(engine, web.id, "/etc/rules.conf")
    assert found is not None
    assert found[0] == b"level=1"
    assert "interrupted" in results(small)
    assert "running" not in results(small)
    status = small.invoke("env.status", "--env", "dev")
    assert (status.returncode, "was interrupted" in status.stdout) == (0, False)


def killed(engine: Engine, container: str) -> None:
    """Kill a container, and wait until the engine knows that it has died: it answers before."""
    engine.client.api.kill(container)
    engine.client.api.wait(container)


def test_a_service_that_was_meant_to_end_is_well_in_a_release(small: SmallStack, engine: Engine) -> None:
    python = "image: python:3.11-slim-bookworm, stop_grace_period: 0s"
    small.write(
        "compose/dev.yaml",
        f"services:\n  seed: {{{python}, command: ['true'], restart: on-failure}}\n"
        f"  migrate: {{{python}, command: ['true'], healthcheck: {{test: ['CMD', 'true']}}}}\n"
        f"  web: {{{python}, command: [sleep, infinity], init: true,"
        " depends_on: {migrate: {condition: service_completed_successfully}}}\n",
    )
    assert deploy(small) == "r1"

    status = small.invoke("env.status", "--env", "dev")
    [web] = [one for one in small.containers(engine) if one.service == "web"]
    killed(engine, web.id)

    assert status.returncode == 0, status.stdout + status.stderr
    assert small.invoke("env.status", "--env", "dev").returncode == 1


def test_a_first_release_that_was_killed_is_said_and_settled_by_env_up(small: SmallStack, engine: Engine) -> None:
    small.write("compose/dev.yaml", SLEEPER % 'content: "level=${LEVEL:-1}"')
    killed_at_work(small, engine)
    # As a trial leaves it.
    labels = {"project": f"{small.project}-trial", "service": "web", "oneoff": "False", "container-number": "1"}
    said = [part for name, value in labels.items() for part in ("--label", f"com.docker.compose.{name}={value}")]
    argv = ["docker", "create", "--name", f"{small.project}-trial-web-1", *said, "python:3.11-slim-bookworm", "true"]
    subprocess.run(argv, check=True, capture_output=True)

    shown = small.invoke("env.status", "--env", "dev").stdout
    done = small.invoke("env.up")

    assert done.returncode == 0, done.stderr
    assert "r1 was interrupted. Next: invoke env.recover --env dev" in shown
    assert results(small) == ["interrupted"]
    assert [one.project for one in small.containers(engine)] == [small.project]
    assert small.invoke("env.status", "--env", "dev").returncode == 0


def test_what_env_up_has_brought_up_meanwhile_becomes_a_release_as_it_is(small: SmallStack, engine: Engine) -> None:
    small.write("compose/dev.yaml", SLEEPER % 'content: "level=1"')
    assert deploy(small) == "r1"
    small.replace("compose/dev.yaml", "    init: true", "    init: true\n    hostname: another")
    assert small.invoke("env.up").returncode == 0
    [before] = small.containers(engine)

    said = small.json("env.deploy", "--env", "dev", "--local")

    assert [step["action"] for step in said["plan"]] == ["record", "commit"]
    assert "Nothing to do: r2" in small.invoke("env.deploy", "--env", "dev", "--local").stdout
    assert [one.id for one in small.containers(engine)] == [before.id]
    assert small.json("env.rollback", "--env", "dev")["value"]["changes"][0]["cause"].endswith("hostname")


def test_env_up_leaves_alone_what_a_release_of_the_same_files_has_made(small: SmallStack, engine: Engine) -> None:
    """A release gives its containers labels and contents of its own, so Compose would make them anew."""
    small.write("compose/dev.yaml", SLEEPER % 'content: "level=${LEVEL:-1}"')
    deploy(small)
    [before] = small.containers(engine)

    assert small.invoke("env.status", "--env", "dev").returncode == 0
    assert small.json("env.up", "--dry-run")["plan"] == []
    done = small.invoke("env.up")
    assert (done.returncode, "Nothing to do" in done.stdout) == (0, True), done.stdout + done.stderr
    assert [one.id for one in small.containers(engine)] == [before.id]

    small.replace("compose/dev.yaml", "    init: true", "    init: true\n    hostname: another")
    assert "web" in small.invoke("env.status", "--env", "dev").stdout.partition("changed since r1")[2]
    assert [step["action"] for step in small.json("env.up", "--dry-run")["plan"]] == ["recreate"]
    assert small.invoke("env.up").returncode == 0
    assert [one.id for one in small.containers(engine)] != [before.id]


def test_env_up_brings_back_what_has_died_of_a_release_and_nothing_else(small: SmallStack, engine: Engine) -> None:
    other = (
        "  other: {image: 'python:3.11-slim-bookworm', command: [sleep, infinity], init: true, stop_grace_period: 0s,"
        " configs: [rules]}\nconfigs: {rules"
    )
    small.write("compose/dev.yaml", (SLEEPER % 'content: "level=${LEVEL:-1}"').replace("configs: {rules", other))
    deploy(small)
    before = {one.service: (one.id, one.started_at) for one in small.containers(engine)}
    killed(engine, before["other"][0])

    planned = small.json("env.up", "--dry-run")["plan"]
    done = small.invoke("env.up")

    assert [(step["action"], step["subject"]) for step in planned] == [("start", "service other")]
    assert done.returncode == 0, done.stderr
    after = {one.service: (one.id, one.started_at) for one in small.containers(engine)}
    assert (after["web"], after["other"][0]) == (before["web"], before["other"][0])
    assert small.invoke("env.status", "--env", "dev").returncode == 0
    assert "Nothing to do" in small.invoke("env.up").stdout


def test_what_env_up_gave_the_same_content_stays(small: SmallStack, engine: Engine) -> None:
    small.write("compose/dev.yaml", SLEEPER % 'content: "level=${LEVEL:-1}"')
    assert small.invoke("env.up").returncode == 0
    [before] = small.containers(engine)

    deploy(small)

    assert [one.id for one in small.containers(engine)] == [before.id]


def test_what_follows_a_service_is_restarted_with_it_and_again_when_that_is_taken_back(
    small: SmallStack, engine: Engine
) -> None:
    sleeper = "image: python:3.11-slim-bookworm, init: true, stop_grace_period: 0s, restart: always"
    follows = "{condition: service_started, restart: true}"
    small.write(
        "compose/dev.yaml",
        f"services:\n  db: {{{sleeper}, command: [sleep, infinity], environment: {{LEVEL: '${{LEVEL:-1}}'}}}}\n"
        f"  app: {{{sleeper}, command: [sleep, infinity], depends_on: {{db: {follows}}}}}\n"
        f"  plain: {{{sleeper}, command: [sleep, infinity], depends_on: [db]}}\n"
        f"  late: {{{sleeper}, command: [sh, -c, '${{LATE:-exec sleep infinity}}'], depends_on: [app]}}\n",
    )

    def seen() -> dict[str, tuple[str, object]]:
        return {one.service: (one.id, one.started_at) for one in small.containers(engine)}

    assert deploy(small) == "r1"
    first = seen()
    assert deploy(small, LEVEL="2") == "r2"
    second = seen()
    failed = small.invoke("env.deploy", "--env", "dev", "--local", LEVEL="3", LATE="exit 3")
    third = seen()

    assert second["db"][0] != first["db"][0]
    assert (second["app"][0], second["app"][1] != first["app"][1]) == (first["app"][0], True)
    assert (second["plain"], second["late"]) == (first["plain"], first["late"])
    assert failed.returncode == 4, failed.stderr
    assert "unwinding: restart what follows db" in failed.stderr
    assert third["app"][0] == first["app"][0]
    assert str(third["app"][1]) > str(third["db"][1]) > str(second["app"][1])
    assert deploy(small, LEVEL="2") in ("r2", "r4")
