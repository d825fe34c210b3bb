"""The tasks on runs, against servers of one version each."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from conche.ci.forge import Forge
from conche.ci.forge.client import Client
from conche.ci.forge.waiting import explained
from conche.secret import Secret
from conche.testing.forge import FakeForge, FakeJob, FakeRun, serve
from tests.ci.served import TOKEN, ask, runner, stack_for
from tests.stacks import SmallStack

pytestmark = pytest.mark.process

EVERY_LISTING = ["gitea-1.24", "gitea-1.26", "forgejo-11", "forgejo-15", "forgejo-16"]


@pytest.mark.parametrize("forge", EVERY_LISTING, indirect=True)
def test_status_lists_the_newest_runs_first_whatever_the_server(stack: SmallStack) -> None:
    done = stack.invoke("ci.status", FORGEJO_TOKEN=TOKEN)

    rows = [line.split() for line in done.stdout.splitlines()[2:4]]
    assert done.returncode == 1
    assert [(row[0], row[1], row[2], row[3]) for row in rows] == [
        ("7", "failed", "ci-cd-dual.yml", "develop"),
        ("6", "ok", "ci-cd-dual.yml", "main"),
    ]


def test_status_of_a_branch_and_of_one_run(stack: SmallStack) -> None:
    assert [run["number"] for run in ask(stack, "ci.status", "--branch", "main")["value"]] == [6]
    assert [job["name"] for job in ask(stack, "ci.status", "--run", "7")["value"]["jobs"]] == ["test-all", "deploy-dev"]


@pytest.mark.parametrize("forge", EVERY_LISTING, indirect=True)
def test_watch_tells_each_change_and_ends_with_the_run(stack: SmallStack, forge: FakeForge) -> None:
    states = ["running", "running", "running", "running", "success"]
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "build", states)]))

    done = stack.invoke("ci.watch", "--interval", "0", FORGEJO_TOKEN=TOKEN)

    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("run 8")]
    assert told[-1] == "run 8: success"
    assert len(told) == len(set(told)) >= 2


@pytest.mark.parametrize("forge", ["gitea-1.24", "forgejo-11"], indirect=True)
def test_watch_waits_for_a_job_that_no_runner_has_yet(stack: SmallStack, forge: FakeForge) -> None:
    states = ["blocked", "blocked", "waiting", "running", "success"]
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "test", ["success"]), FakeJob(104, "build", states)]))

    done = stack.invoke("ci.watch", "--interval", "0", FORGEJO_TOKEN=TOKEN)

    told = [line for line in done.stderr.splitlines() if line.startswith(("run 8", "build"))]
    assert (done.returncode, told[0], told[-1]) == (0, "run 8: running", "build: success"), done.stderr


@pytest.mark.parametrize("forge", ["gitea-1.24", "forgejo-11"], indirect=True)
def test_of_a_job_that_ran_twice_the_second_time_counts(stack: SmallStack, forge: FakeForge) -> None:
    jobs = [FakeJob(103, "deploy", ["failure"]), FakeJob(104, "deploy", ["success"]), FakeJob(99, "test", ["success"])]
    forge.runs.append(FakeRun(42, 8, jobs))
    forge.of_attempts_before = {103}

    run = ask(stack, "ci.status", "--run", "8")["value"]

    assert (run["state"], {job["name"]: job["state"] for job in run["jobs"]}) == (
        "success",
        {"deploy": "success", "test": "success"},
    )


def test_watch_goes_on_until_every_job_has_ended(tmp_path: Path) -> None:
    with serve("gitea-1.24") as forge:
        jobs = [FakeJob(103, "lint", ["failure"]), FakeJob(104, "test", ["running", "running", "running", "success"])]
        forge.runs = [FakeRun(42, 8, jobs, event="workflow_dispatch")]

        done = stack_for(tmp_path, forge.address).invoke("ci.watch", "--interval", "0", FORGEJO_TOKEN=TOKEN)

    assert done.returncode == 1
    assert "what its jobs wrote: invoke ci.logs --run 8" in done.stdout.splitlines()
    assert "test: success" in done.stderr.splitlines()
    assert "does not tell whether a workflow_dispatch run has jobs that wait" in done.stderr


def git(stack: SmallStack, *words: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    argv = ["git", "-C", str(stack.folder), *identity, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("forge", ["gitea-1.24", "forgejo-11", "forgejo-15"], indirect=True)
def test_watch_waits_for_the_run_of_the_commit_that_was_pushed(stack: SmallStack, forge: FakeForge) -> None:
    for words in (("init", "-qb", "develop"), ("add", "stack.yaml"), ("commit", "-qm", "x")):
        git(stack, *words)
    commit = git(stack, "rev-parse", "HEAD")
    git(stack, "update-ref", "refs/remotes/origin/develop", commit)
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "test", ["success"])], sha=commit, hidden_for=4))

    done = stack.invoke("ci.watch", "--interval", "0", FORGEJO_TOKEN=TOKEN)

    assert done.returncode == 0, done.stderr
    assert "run 8: success" in done.stderr
    never = ask(stack, "ci.watch", "--interval", "0", "--commit", "f" * 40)["error"]
    assert (never["code"], never["exit_code"]) == ("no-run-of-commit", 6)


@pytest.mark.parametrize("forge", ["forgejo-11", "forgejo-15", "forgejo-16"], indirect=True)
def test_a_pull_request_is_found_by_its_number_and_by_its_branch(stack: SmallStack, forge: FakeForge) -> None:
    jobs = [FakeJob(103, "quick-test", ["success"])]
    forge.runs.append(FakeRun(42, 8, jobs, branch="feature/x", event="pull_request", pull=3))

    assert [run["number"] for run in ask(stack, "ci.status", "--branch", "feature/x")["value"]] == [8]
    assert [run["number"] for run in ask(stack, "ci.status", "--branch", "#3")["value"]] == [8]


@pytest.mark.parametrize("forge", ["forgejo-15"], indirect=True)
def test_a_dispatched_run_has_its_event(stack: SmallStack, forge: FakeForge) -> None:
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "test", ["success"])], event="workflow_dispatch"))

    assert ask(stack, "ci.status", "--run", "8")["value"]["event"] == "workflow_dispatch"


@pytest.mark.parametrize("forge", ["forgejo-15", "forgejo-16"], indirect=True)
@pytest.mark.parametrize(
    ("state", "runners", "words"),
    [
        ("waiting", [], "test waits for a runner with dev, but there is none: invoke ci.validate"),
        ("waiting", [runner("active", "prod")], "but there is none"),
        ("waiting", [runner("offline")], "test waits for dev, but first is offline: invoke ci.runner.up"),
        ("waiting", [runner("idle")], "first is idle; if it stays so, it has stalled"),
        ("waiting", [runner("active")], "first is busy with another job"),
        ("running", [runner("idle")], "no runner is busy: if one was killed"),
    ],
)
def test_why_a_run_goes_on_is_said(forge: FakeForge, state: str, runners: list[dict[str, Any]], words: str) -> None:
    forge.runners = runners
    forge.runs = [FakeRun(42, 8, [FakeJob(103, "test", [state], labels=["dev"])])]
    server = Forge(Client(forge.address, Secret(TOKEN)), forge.repository)
    run = server.run(8)

    [said] = explained(server, run, server.jobs(run), {"dev"})

    assert words in said


def test_watch_says_what_a_run_waits_for_once(stack: SmallStack, forge: FakeForge) -> None:
    states = ["waiting"] * 12 + ["success"]
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "test", states, labels=["gpu"])]))

    done = stack.invoke("ci.watch", "--interval", "0", FORGEJO_TOKEN=TOKEN)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("test waits for a runner with gpu") == 1


def test_watch_ends_with_1_for_a_run_that_failed(stack: SmallStack) -> None:
    assert stack.invoke("ci.watch", FORGEJO_TOKEN=TOKEN).returncode == 1


def test_watch_gives_up_after_its_time(stack: SmallStack, forge: FakeForge) -> None:
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "build", ["running"])]))

    document = ask(stack, "ci.watch", "--interval", "1", "--timeout", "0")

    assert document["error"]["code"] == "run-goes-on"
    assert "build: running" in document["error"]["looked_at"]


def test_logs_are_those_of_the_jobs_that_failed(stack: SmallStack) -> None:
    assert stack.invoke("ci.logs", FORGEJO_TOKEN=TOKEN).stdout == "no room\n"
    assert ask(stack, "ci.logs", "--job", "test-all")["value"]["logs"] == {"test-all": "all passed\n"}


def test_a_job_that_is_not_there_is_told_with_one_that_is(stack: SmallStack) -> None:
    error = ask(stack, "ci.logs", "--job", "test-al")["error"]

    assert (error["code"], error["exit_code"]) == ("no-such-job", 6)
    assert "Did you mean 'test-all'?" in error["message"]


@pytest.mark.parametrize("forge", ["forgejo-11"], indirect=True)
@pytest.mark.parametrize(
    "words", [("ci.logs",), ("ci.rerun",), ("ci.cancel", "--run", "8")], ids=lambda words: words[0]
)
def test_where_the_server_lacks_it_the_web_address_is_told(
    stack: SmallStack, forge: FakeForge, words: tuple[str, ...]
) -> None:
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "build", ["running"])]))

    error = ask(stack, *words)["error"]

    assert error["code"] == "server-lacks-this"
    assert error["message"].startswith("Forgejo 11.0.8 has no API for")
    assert error["next"].splitlines()[0] == f"open {forge.address}/team/app/actions/runs/8"


def test_dispatch_starts_the_workflow_and_a_dry_run_does_not(stack: SmallStack, forge: FakeForge) -> None:
    words = ("ci.dispatch", "ci-cd-dual", "--ref", "develop", "--inputs", "to=dev", "--inputs", "why=a=b")
    ask(stack, *words, "--dry-run")
    assert forge.dispatched == []

    document = ask(stack, *words)

    assert document["value"]["url"] == f"{forge.address}/team/app/actions/runs/8"
    assert forge.dispatched[0]["inputs"] == {"to": "dev", "why": "a=b"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ci.dispatch", "ci-cd-dul"), "no-such-workflow"),
        (("ci.dispatch", "ci-cd-dual", "--inputs", "alone"), "input-malformed"),
    ],
)
def test_dispatch_refuses_what_makes_no_sense(stack: SmallStack, words: tuple[str, ...], code: str) -> None:
    assert ask(stack, *words)["error"]["code"] == code


def test_dispatch_of_a_workflow_that_does_not_begin_by_hand_is_refused(stack: SmallStack) -> None:
    stack.replace(".gitea/workflows/ci-cd-dual.yml", ", workflow_dispatch: ", "")

    assert ask(stack, "ci.dispatch", "ci-cd-dual")["error"]["code"] == "workflow-not-dispatched"


def test_a_dispatch_of_a_branch_that_the_server_lacks_is_told(stack: SmallStack, forge: FakeForge) -> None:
    error = ask(stack, "ci.dispatch", "ci-cd-dual", "--ref", "feature/y")["error"]

    assert (error["code"], error["exit_code"]) == ("no-such-ref", 6)
    assert "feature/y" in error["message"]


def test_rerun_of_all_and_of_failed_jobs(stack: SmallStack, forge: FakeForge) -> None:
    ask(stack, "ci.rerun", "--dry-run")
    ask(stack, "ci.rerun")
    ask(stack, "ci.rerun", "--run", "6", "--failed")

    assert forge.reruns == ["41", "40 failed"]


@pytest.mark.parametrize("forge", ["forgejo-16"], indirect=True)
def test_cancel_ends_a_run_and_leaves_one_that_has_ended_alone(stack: SmallStack, forge: FakeForge) -> None:
    forge.runs.append(FakeRun(42, 8, [FakeJob(103, "build", ["running"])]))

    assert ask(stack, "ci.cancel")["changed"] is True
    assert forge.runs[-1].jobs[0].states == ["cancelled"]
    assert ask(stack, "ci.cancel")["changed"] is False
