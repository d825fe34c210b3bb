"""The same files on a swarm: converged, compared, and the whole stack back on a failure."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conche.command import Invocation
from conche.engine import stacks, swarm
from conche.engine.connection import Engine
from conche.engine.transfer import Credentials
from conche.env.rollout.look import Look
from conche.env.rollout.swarm import SwarmPipeline, docker_config, probing, sent_of
from conche.env.rollout.swarm_stack import to_stack
from conche.env.rollout.view import open_records, opened
from conche.errors import Refused, Restored
from conche.output import Output, Progress
from conche.release.document import Document
from conche.secret import Secret
from conche.session import Session, open_compose
from conche.stack import Deploy, load
from conche.supply.inventory import running
from conche.vault.leaks import Needles
from conche.vault.leaks_in_logs import scan_container_logs
from tests import warm
from tests.edged import EdgedStack
from tests.stacks import free_port, variables_in

pytestmark = pytest.mark.in_order

SECRETS = """\
secrets:
  declared:
    store_token: {outputs: [env], services: [store], environments: [prod]}
    pin: {outputs: [env], services: [store], environments: [prod]}
"""

TOKEN = "first line of it\nsecond 'line' of \"it\""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, swarming: Engine, edge_image: str) -> Iterator[EdgedStack]:
    made = EdgedStack.create(tmp_path_factory.mktemp("swarm") / "checkout", free_port())
    made.replace("stack.yaml", "    deploy:\n", "    engine: swarm\n    deploy:\n")
    made.replace("compose/prod.yaml", f"    container_name: {made.name}-store\n", "    secrets: [kept]\n")
    made.replace("compose/prod.yaml", "volumes:\n  edge:", "secrets:\n  kept: {file: ../kept.txt}\nvolumes:\n  edge:")
    # A swarm waits for the engine's own first look, and nothing else looks before that.
    made.replace("compose/prod.yaml", "interval: 3s", "interval: 1s")
    seldom, often = (f"interval: {every}\n      timeout: 10s\n      retries: " for every in ("15s", "1s"))
    made.replace("compose/prod.yaml", f"{seldom}2", f"{often}3")
    made.write("kept.txt", "swarm-canary-one")
    made.write("stack.yaml", (made.folder / "stack.yaml").read_text() + SECRETS)
    for words, value in (
        (("secrets.init",), ""),
        (("secrets.set", "store_token"), TOKEN),
        (("secrets.set", "pin"), "p7"),
    ):
        argv, environment = made.argv(*words), made.environment()
        warm.run(argv, cwd=made.folder, env=environment, input=value, capture_output=True, check=True)
    for version, how in (("one", "well"), ("two", "well"), ("bad", "crash"), ("wrong", "wrong")):
        made.version(version, how)
    yield made
    swarm.remove(swarming, made.project)
    assert swarm.wait_gone(swarming, made.project, 300)
    swarm.sweep(swarming, made.project, frozenset())
    made.remove_all(swarming)


def image(stack: EdgedStack, version: str) -> str:
    return f"localhost:5000/{stack.name}:{version}"


def deployed(stack: EdgedStack, version: str, *words: str) -> subprocess.CompletedProcess[str]:
    return stack.deploy(image(stack, version), *words)


def answer(stack: EdgedStack) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.port}/") as said:
        return json.loads(said.read())


@pytest.fixture
def serving(stack: EdgedStack) -> str:
    """The version that serves, for a test that may be the first."""
    if not stack.history()["releases"]:
        assert deployed(stack, "one").returncode == 0
    version: str = answer(stack)["version"]
    return version


def test_a_document_becomes_what_swarm_takes() -> None:
    rendered = {
        "name": "x",
        "services": {
            "web": {
                "image": "a",
                "networks": {"in": None},
                "depends_on": {},
                "container_name": "c",
                "deploy": {"replicas": 2},
            },
            "db": {"image": "b", "volumes": [{"type": "volume", "source": "v", "target": "/d", "volume": {}}]},
        },
        "networks": {"in": {"name": "x_in"}},
        "volumes": {"v": {"name": "kept"}, "unused": {"name": "u"}},
        "secrets": {"s": {"environment": "CONCHE_SECRET_S"}},
    }

    sent = to_stack(Document(rendered, {"CONCHE_SECRET_S": "value"}), Deploy(), None)

    services: Any = sent.body["services"]
    assert sent.secrets == {"s": b"value"}
    assert sent.body["volumes"] == {"v": {"name": "kept"}}
    assert services["web"].keys() == {"image", "networks", "deploy"}
    assert services["web"]["deploy"]["replicas"] == 2
    assert services["web"]["deploy"]["update_config"]["order"] == "start-first"
    assert services["db"]["deploy"]["update_config"] == {
        "order": "stop-first", "monitor": "10s", "parallelism": 1, "failure_action": "rollback",
    }  # fmt: skip
    assert json.loads(sent.content({"s": "x_s-1"}))["secrets"] == {"s": {"external": True, "name": "x_s-1"}}


def test_an_external_network_that_is_no_overlay_is_refused() -> None:
    rendered = {"services": {"web": {"image": "a"}}, "networks": {"out": {"external": True, "name": "bridge-one"}}}

    with pytest.raises(Refused, match="out") as refused:
        to_stack(Document(rendered), Deploy(), None)

    assert refused.value.code == "network-not-swarm"
    assert to_stack(Document(rendered), Deploy(), None, {"bridge-one"}).body["networks"] == {
        "out": {"external": True, "name": "bridge-one"}
    }


def test_the_registrys_password_is_told_to_that_registry_alone() -> None:
    config = json.loads(docker_config(Credentials("admin", Secret("pass word")), "localhost:5000"))

    assert config == {"auths": {"localhost:5000": {"auth": "YWRtaW46cGFzcyB3b3Jk"}}}


@pytest.mark.engine
def test_an_engine_without_a_swarm_is_said() -> None:
    class Alone:
        address = "unix:///nowhere"

        class client:  # noqa: N801 - stands for an attribute
            @staticmethod
            def info() -> dict[str, object]:
                return {"Swarm": {"LocalNodeState": "inactive"}}

    with pytest.raises(BaseException, match="not a swarm manager") as refused:
        swarm.require(Alone())  # type: ignore[arg-type]

    assert getattr(refused.value, "code", "") == "no-swarm"


@pytest.mark.engine
def test_a_life_on_a_swarm(stack: EdgedStack, swarming: Engine) -> None:
    first = deployed(stack, "one")
    assert first.returncode == 0, first.stderr
    assert answer(stack)["version"] == "one"

    assert deployed(stack, "two").returncode == 0
    assert answer(stack)["version"] == "two"
    assert "Nothing to do" in deployed(stack, "two").stdout

    for version, words in (("bad", "rolled the update back"), ("wrong", "does not answer its users")):
        failed = deployed(stack, version)
        assert (failed.returncode, words in failed.stderr) == (4, True), failed.stderr
        assert answer(stack)["version"] == "two"

    back = stack.invoke("env.rollback", "--env", "prod")
    assert back.returncode == 0, back.stderr
    assert answer(stack)["version"] == "one"

    assert stack.invoke("env.scale", "web", "2", "--env", "prod").returncode == 0
    assert {one.name: one.wanted for one in swarm.services(swarming, stack.project)}["web"] == 2
    status = json.loads(stack.invoke("env.status", "--env", "prod", "--json").stdout)
    assert (status["value"][0]["healthy"], status["value"][0]["release"]) == (True, "r5")
    assert [one["result"] for one in stack.history()["releases"]] == [
        "succeeded", "restored", "restored", "succeeded", "succeeded",
    ]  # fmt: skip


@pytest.mark.engine
def test_another_secret_is_another_swarm_secret_and_the_old_one_goes(stack: EdgedStack, swarming: Engine) -> None:
    stack.write("kept.txt", "swarm-canary-two")

    done = deployed(stack, "two")

    assert done.returncode == 0, done.stderr
    names = [one.name for one in swarming.client.secrets.list() if one.name.startswith(stack.project)]
    assert len(names) == 1
    assert "swarm-canary" not in done.stdout + done.stderr
    [store] = swarming.client.containers.list(filters={"name": f"{stack.project}_store."})
    assert store.exec_run(["cat", "/run/secrets/kept"]).output == b"swarm-canary-two"


@pytest.mark.engine
def test_secret_values_reach_a_swarms_containers_as_they_are(stack: EdgedStack, swarming: Engine) -> None:
    """Declared or not, short, of several lines or within a URL; in a release, and in one that is gone back to."""
    stack.replace(
        "compose/prod.yaml",
        'STORED: "${STORED:-none}"',
        'STORED: "${STORED:-none}", DB_PASSWORD: "${DB_PASSWORD}", URL: "pg://a:${DB_PASSWORD}@db?pin=${PIN}", '
        'PIN_KEY: "x${K}", TOKEN: "${STORE_TOKEN}", PIN: "${PIN}"',
    )
    stack.write(".env", "DB_PASSWORD='swarm$$pass\"word'\nK=7\n")
    wanted = {
        "DB_PASSWORD": 'swarm$$pass"word', "URL": 'pg://a:swarm$$pass"word@db?pin=p7', "PIN_KEY": "x7",
        "TOKEN": TOKEN, "PIN": "p7",
    }  # fmt: skip

    def has_all(done: subprocess.CompletedProcess[str], stored: str) -> bool:
        assert done.returncode == 0, done.stderr
        assert "swarm$$pass" not in done.stdout + done.stderr
        assert "second 'line'" not in done.stdout + done.stderr
        [store] = swarming.client.containers.list(filters={"name": f"{stack.project}_store."})
        found = variables_in(str(store.id))
        return {name: found.get(name) for name in (*wanted, "STORED")} == {**wanted, "STORED": stored}

    assert has_all(deployed(stack, "two"), "none")
    release = stack.history()["current"]
    assert "Nothing to do" in deployed(stack, "two").stdout
    assert has_all(stack.deploy(image(stack, "two"), STORED="other"), "other")
    assert has_all(stack.rollback("--to", release), "none")


@pytest.mark.long
@pytest.mark.engine
def test_the_number_of_tasks_outlives_a_release_that_fails_and_one_that_is_gone_back_to(
    stack: EdgedStack, swarming: Engine
) -> None:
    assert deployed(stack, "one", "--force").returncode == 0
    serves = stack.history()["current"]
    assert stack.invoke("env.scale", "web", "3", "--env", "prod").returncode == 0

    def tasks() -> tuple[int, int]:
        [web] = [one for one in swarm.services(swarming, stack.project) if one.name == "web"]
        return web.wanted, web.running

    failed = deployed(stack, "bad")
    after = tasks()
    other = deployed(stack, "two")
    then = tasks()
    back = stack.rollback("--to", serves)

    assert (failed.returncode, after) == (4, (3, 3)), failed.stderr
    assert (other.returncode, then) == (0, (3, 3)), other.stderr
    assert (back.returncode, tasks()) == (0, (3, 3)), back.stderr
    assert stack.invoke("env.scale", "web", "2", "--env", "prod").returncode == 0


@pytest.mark.engine
def test_an_edge_on_another_node_is_asked_over_its_network(
    stack: EdgedStack, swarming: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swarm of one has no other node, so its own containers are hidden from the one who asks."""
    assert deployed(stack, "one").returncode == 0
    call = Invocation(stack.folder, Output("env.deploy", stdout=io.StringIO(), stderr=io.StringIO()))
    compose = open_compose(call, "prod")
    records = open_records(Session(call, "prod", compose))
    current = records.current
    assert current is not None
    kept = opened(call, records, current)
    assert kept is not None
    look = Look("prod", compose, call.environment("prod").deploy, kept.body).with_probes_of(records)
    pipeline = SwarmPipeline(
        current.id, swarming, stack.project, sent_of(call, look, kept, {}), look.deploy, lambda _: None, lambda: None,
        probing(look, current.id), look.listening(), Progress(call.output),
    )  # fmt: skip
    monkeypatch.setattr(SwarmPipeline, "_edge_container", lambda _: None)

    pipeline.probe()
    with pytest.raises(Restored, match="does not answer its users correctly") as failed:
        replace(pipeline, probing=replace(pipeline.probing, release="r999")).probe()

    assert failed.value.code == "probe-failed"
    assert f'"release": "{current.id}"' in "".join(failed.value.evidence)


@pytest.mark.engine
@pytest.mark.parametrize(
    "until", [*(pytest.param(step, marks=pytest.mark.long) for step in ("record", "update", "await")), "commit"]
)
def test_a_killed_release_is_settled_by_the_next_command(stack: EdgedStack, serving: str, until: str) -> None:
    other = "one" if serving == "two" else "two"
    argv = stack.argv("env.deploy", "--env", "prod", "--image", image(stack, other), "--local")
    with warm.Popen[str](
        argv, cwd=stack.folder, env=stack.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        assert any(line.startswith(until) for line in running.stderr)
        running.send_signal(signal.SIGKILL)

    recovered = stack.invoke("env.recover", "--env", "prod")

    assert recovered.returncode == 0, recovered.stderr
    assert answer(stack)["version"] in (serving, other)
    assert stack.history()["releases"][0]["result"] in ("interrupted", "succeeded", "damaged")
    assert deployed(stack, other, "--force").returncode == 0
    assert answer(stack)["version"] == other


@pytest.mark.engine
def test_a_task_on_this_node_is_looked_into(stack: EdgedStack, swarming: Engine) -> None:
    assert deployed(stack, "one").returncode == 0

    inside = stack.invoke("env.exec", "--env", "prod", "--service", "store", "--", "cat", "/run/secrets/kept")
    logs = stack.invoke("env.logs", "--env", "prod", "--service", "web", "--tail", "5")
    quiet = stack.invoke("env.logs", "--env", "prod", "--service", "web", "--tail", "0")
    every = json.loads(stack.invoke("env.logs", "--env", "prod", "--json").stdout)["value"]
    followed = stack.invoke("env.logs", "--env", "prod", "--follow")
    runs = running(load(stack.folder), swarming, "prod")
    hits = scan_container_logs(load(stack.folder), Needles({"spoken": Secret("server one starts")}))

    assert (inside.returncode, inside.stdout.startswith("swarm-canary")) == (0, True), inside.stderr
    assert "server one starts" in logs.stdout
    assert (quiet.returncode, quiet.stdout.split(".")[0]) == (0, "web of prod has no container, or its log is empty")
    assert {line.partition(".")[0] for line in every} >= {f"{stack.project}_{one}" for one in ("web", "edge")}
    assert [(one.service, one.repository, one.state) for one in runs] == [("web", stack.name, "running")]
    assert {(one.name, one.place.partition(f" {stack.project}")[0]) for one in hits} == {("spoken", "prod web")}
    assert (followed.returncode, "error [not-on-swarm]" in followed.stderr) == (2, True)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (("env.restart",), "docker service update --force"),
        (("env.maintenance", "--on"), "docker service scale"),
        (("env.networks", "--create"), "docker network create --driver overlay"),
    ],
)
def test_what_a_swarm_does_not_do_is_said_with_what_to_type(
    stack: EdgedStack, words: tuple[str, ...], instead: str
) -> None:
    done = stack.invoke(*words, "--env", "prod")

    assert (done.returncode, "error [not-on-swarm]" in done.stderr) == (2, True), done.stderr
    assert instead in done.stderr


@pytest.fixture
def hand(tmp_path: Path, swarming: Engine, edge_image: str) -> Iterator[EdgedStack]:
    """A stack of two services that was made by hand, under the name that a checkout would give it."""
    made = EdgedStack.create(tmp_path / "checkout", free_port())
    made.replace("stack.yaml", "    deploy:\n", "    engine: swarm\n    deploy:\n")
    made.replace("compose/prod.yaml", f"    container_name: {made.name}-store\n", "")
    sleeping = {"image": "python:3.11-slim-bookworm", "command": ["sleep", "1000"], "init": True}
    services = {"web": {**sleeping, "stop_grace_period": "1s"}, "other": {**sleeping, "deploy": {"replicas": 2}}}
    content = json.dumps({"version": "3.8", "services": services}).encode()
    assert swarm.deploy(swarming, made.project, content, {}, lambda _: None).ok
    for one in services:
        assert swarm.wait_settled(swarming, made.project, one, 300)
    yield made
    swarm.remove(swarming, made.project)
    assert swarm.wait_gone(swarming, made.project, 300)
    swarm.sweep(swarming, made.project, frozenset())
    made.remove_all(swarming)


@pytest.mark.engine
def test_a_stack_that_was_made_by_hand_is_left_alone_and_survives_a_failed_takeover(
    hand: EdgedStack, swarming: Engine
) -> None:
    before = stacks.standing(swarming, hand.project)
    bad = hand.version("bad", "crash")

    refused = hand.deploy(bad)

    assert (refused.returncode, "error [stack-not-ours]" in refused.stderr) == (2, True), refused.stderr
    assert "other: 2 of 2 run" in refused.stderr
    failed = hand.deploy(bad, "--force", "--timeout", "60")
    assert failed.returncode == 4, failed.stderr
    assert stacks.standing(swarming, hand.project) == before
    assert {one.name: one.running for one in swarm.services(swarming, hand.project)} == {"web": 1, "other": 2}

    swarming.client.api.create_volume(f"{hand.name}-edge")
    foreign = hand.invoke("env.down", "--env", "prod", "--volumes", "--yes")
    assert (foreign.returncode, "error [stack-not-ours]" in foreign.stderr) == (2, True), foreign.stderr
    api: Any = swarming.client.api
    api.remove_service(f"{hand.project}_other")
    unsure = hand.invoke("env.down", "--env", "prod", "--volumes")
    assert (unsure.returncode, "error [confirmation-needed]" in unsure.stderr) == (2, True), unsure.stderr
    down = hand.json("env.down", "--env", "prod", "--volumes", "--yes")
    assert down["value"]["deleted_volumes"] == [f"{hand.name}-edge", f"{hand.project}-state"]
    assert swarm.services(swarming, hand.project) == ()


def killed_at(stack: EdgedStack, step: str, *words: str) -> None:
    """Kill a task once it says that it takes this step."""
    with stack.begin(*words) as running:
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            said.append(line)
            if line.startswith(f"{step} "):
                running.kill()
                break
        running.communicate()
    assert said[-1].startswith(step), "".join(said)


@pytest.mark.engine
def test_a_killed_release_that_runs_and_answers_wrongly_is_taken_back(stack: EdgedStack, swarming: Engine) -> None:
    first = deployed(stack, "one")
    assert first.returncode == 0, first.stderr
    before = stacks.standing(swarming, stack.project).specs
    killed_at(stack, "probe", "env.deploy", "--env", "prod", "--local", "--image", image(stack, "wrong"))

    settled = stack.invoke("env.recover", "--env", "prod")

    assert settled.returncode == 0, settled.stderr
    assert "runs, but: The new release does not answer its users correctly." in settled.stderr
    assert stacks.standing(swarming, stack.project).specs == before
    assert answer(stack)["version"] == "one"


@pytest.mark.long
@pytest.mark.engine
def test_a_stack_that_was_made_by_hand_survives_a_takeover_that_was_killed(
    hand: EdgedStack, swarming: Engine, request: pytest.FixtureRequest
) -> None:
    every = ("record", "provide", "update", "await")
    before = stacks.standing(swarming, hand.project)
    bad = hand.version("bad", "crash")
    words = ("env.deploy", "--env", "prod", "--local", "--image", bad, "--force")

    for step in every if request.config.getoption("--every-step") else every[-1:]:
        killed_at(hand, step, *words)

        settled = hand.invoke("env.recover", "--env", "prod")

        assert settled.returncode == 0, settled.stderr
        assert stacks.standing(swarming, hand.project) == before, step
        assert {one.name: one.running for one in swarm.services(swarming, hand.project)} == {"web": 1, "other": 2}
    assert hand.history()["releases"][0]["ending"]["cause"] == "it was interrupted, and taken back"
