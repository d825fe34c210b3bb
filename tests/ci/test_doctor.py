"""ci.doctor: what it finds out, and that it writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.testing.forge import FakeForge, FakeJob, FakeRun
from tests.ci.served import ask, runner, stack_for
from tests.stacks import SmallStack, free_port

pytestmark = pytest.mark.process


def test_doctor_tells_what_is_there_and_what_is_not(stack: SmallStack, forge: FakeForge) -> None:
    found = {(one["name"], one["found"]): one for one in ask(stack, "ci.doctor")["value"]}
    states = {name: one["state"] for (name, _), one in found.items()}

    assert states["server"] == states["token"] == states["actions"] == "ok"
    assert (states["secret"], states["runners"]) == ("missing", "optional")
    forge.runners = [{"id": 1, "name": "dev", "status": "online", "busy": False, "labels": ["dev"]}]
    forge.secrets = {"SOPS_AGE_KEY": "", "OTHER_TOKEN": ""}
    states = {one["name"]: one["state"] for one in ask(stack, "ci.doctor")["value"]}
    assert states["secret"] == states["runners"] == "ok"


@pytest.mark.parametrize(
    ("forge", "state"), [("gitea-1.26", "optional"), ("forgejo-15", "ok"), ("forgejo-16", "ok")], indirect=["forge"]
)
def test_doctor_counts_the_runners_of_the_whole_server_where_they_are_told(
    stack: SmallStack, forge: FakeForge, state: str
) -> None:
    forge.runners = [{"id": 1, "name": "everybody's", "status": "online", "busy": False, "labels": ["dev"]}]
    forge.of_the_server = {"everybody's"}

    states = {one["name"]: one["state"] for one in ask(stack, "ci.doctor")["value"]}

    assert states["runners"] == state


def test_doctor_asks_whether_the_token_may_write_and_writes_nothing(stack: SmallStack, forge: FakeForge) -> None:
    forge.tokens["weak-token"] = "read:repository"

    states = {one["name"]: one["state"] for one in ask(stack, "ci.doctor", token="weak-token")["value"]}
    may = {one["name"]: one["state"] for one in ask(stack, "ci.doctor")["value"]}

    assert (states["token"], may["token"]) == ("missing", "ok")
    assert forge.secrets == {}


@pytest.mark.parametrize("forge", ["forgejo-15"], indirect=True)
def test_doctor_sees_a_runner_that_asks_for_no_work(stack: SmallStack, forge: FakeForge) -> None:
    forge.runners = [runner("idle")]
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "test", ["waiting"], labels=["dev"])]))

    [found] = [one for one in ask(stack, "ci.doctor")["value"] if one["name"] == "run"]

    assert (found["state"], found["next"] if "next" in found else found["next_command"]) == (
        "missing",
        "invoke ci.status --run 8",
    )


def test_doctor_without_a_server_still_looks_at_the_rest(tmp_path: Path) -> None:
    stack = stack_for(tmp_path, f"http://127.0.0.1:{free_port()}")

    states = {one["name"]: one["state"] for one in ask(stack, "ci.doctor")["value"]}

    assert (states["act"], states["server"]) == ("ok", "missing")


def test_doctor_without_an_engine_only_says_that_it_could_not_look_at_the_runners_image(stack: SmallStack) -> None:
    runner = "runner: {image: r, build: docker, environment: [RUNNER_LABELS=dev:host]}"
    stack.write("compose/dev.yaml", f"services: {{{runner}}}\n")

    found = {one["name"]: one for one in ask(stack, "ci.doctor", DOCKER_HOST="unix:///nowhere")["value"]}

    assert found["runners' image"]["state"] == "optional"
    assert found["token"]["state"] == "ok"
