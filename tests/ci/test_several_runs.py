"""A push that starts several workflows: which run is watched, told and read, and what stands in for a rerun."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.ci.cancel import cancel
from conche.ci.forge.chosen import RunChoice
from conche.ci.logs import logs
from conche.ci.rerun import rerun
from conche.ci.status import status
from conche.ci.watch import watch
from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.outcome import Outcome
from conche.output import Output
from conche.testing.forge import FakeForge, FakeJob, FakeRun, serve

STACK = (
    "name: t\nenvironments: {{git: {{compose: [compose.yaml]}}}}\nci: {{server: '{address}', repository: team/app}}\n"
)
WORKFLOWS = {
    "deploy.yml": """\
on: {push: {branches: [develop]}, workflow_dispatch: }
jobs: {deploy: {runs-on: dev, steps: [{run: invoke env.deploy --env dev}]}}
""",
    "back.yml": """\
on: {workflow_dispatch: {inputs: {environment: {required: true}, why: {default: x}}}}
jobs: {back: {runs-on: dev, steps: [{run: .venv/bin/invoke env.rollback}]}}
""",
    "a-check.yml": "on: push\njobs: {check: {runs-on: dev, steps: [{run: invoke ci.validate}]}}\n",
}
COMMIT = "a" * 40


@pytest.fixture(params=["forgejo-15"])
def forge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeForge]:
    monkeypatch.setenv("FORGEJO_TOKEN", "good-token-of-tests")
    with serve(request.param) as fake:
        yield fake


@pytest.fixture
def call(tmp_path: Path, forge: FakeForge) -> Invocation:
    root = tmp_path / "checkout"
    (root / ".gitea/workflows").mkdir(parents=True)
    (root / "stack.yaml").write_text(STACK.format(address=forge.address))
    (root / "compose.yaml").write_text("services: {}\n")
    for name, text in WORKFLOWS.items():
        (root / ".gitea/workflows" / name).write_text(text)
    return Invocation(root, Output("ci.watch"))


def add(
    forge: FakeForge, workflow: str, *states: str, branch: str = "develop", sha: str = COMMIT, **more: object
) -> int:
    run = len(forge.runs) + 1
    job = FakeJob(100 + run, workflow.partition(".")[0], list(states), f"of {workflow}\n")
    forge.runs.append(FakeRun(run, run, [job], workflow=workflow, branch=branch, sha=sha, **more))  # type: ignore[arg-type]
    return run


def watched(call: Invocation) -> Outcome:
    return watch(call, RunChoice(commit=COMMIT), 0.0, None)


def number(told: Outcome) -> int:
    assert isinstance(told.value, dict)
    return int(told.value["number"])


def test_the_run_that_deploys_is_watched_and_the_others_are_told(call: Invocation, forge: FakeForge) -> None:
    check = add(forge, "a-check.yml", "running")
    deploy = add(forge, "deploy.yml", "running", "success")

    told = watched(call)

    assert (told.exit_code, number(told)) == (0, deploy)
    assert list(told.lines[-2:]) == [
        f"run {check} of a-check.yml on the same commit: running",
        f"invoke ci.watch --run {check}",
    ]


def test_an_ended_run_that_deploys_comes_before_one_that_goes_on(call: Invocation, forge: FakeForge) -> None:
    add(forge, "a-check.yml", "running")
    deploy = add(forge, "deploy.yml", "failure")

    told = watched(call)

    assert (told.exit_code, number(told)) == (1, deploy)


def test_of_a_run_that_was_overtaken_it_is_said_which_one_counts(call: Invocation, forge: FakeForge) -> None:
    add(forge, "deploy.yml", "failure")
    [alone] = [watched(call).warnings]
    add(forge, "deploy.yml", "success", sha="b" * 40)

    told = watched(call)

    assert alone == []
    assert told.exit_code == 1
    assert list(told.warnings) == [
        "develop is at bbbbbbbbbb by now, and its run counts: invoke ci.watch --commit bbbbbbbbbb"
    ]


def test_a_run_that_deploys_is_waited_for(call: Invocation, forge: FakeForge) -> None:
    add(forge, "a-check.yml", "running")
    deploy = add(forge, "deploy.yml", "success", hidden_for=2)

    assert number(watched(call)) == deploy


def test_where_none_deploys_the_first_that_goes_on_is_watched(call: Invocation, forge: FakeForge) -> None:
    add(forge, "a-check.yml", "success", branch="feature/x")
    other = add(forge, "other.yml", "running", "success", branch="feature/x")
    add(forge, "third.yml", "running", branch="feature/x")

    assert number(watched(call)) == other


def test_another_run_that_failed_is_a_warning(call: Invocation, forge: FakeForge) -> None:
    add(forge, "deploy.yml", "success")
    check = add(forge, "a-check.yml", "failure")

    told = watched(call)

    assert told.exit_code == 0
    assert told.warnings == [f"run {check} of a-check.yml on the same commit: failure: invoke ci.logs --run {check}"]


def test_a_run_that_is_named_is_watched_alone(call: Invocation, forge: FakeForge) -> None:
    check = add(forge, "a-check.yml", "success")
    add(forge, "deploy.yml", "running")

    told = watch(call, RunChoice(check), 0.0, None)

    assert (number(told), [line for line in told.lines if "same commit" in line]) == (check, [])


def test_watch_of_a_branch_takes_the_run_that_deploys(call: Invocation, forge: FakeForge) -> None:
    deploy = add(forge, "deploy.yml", "success")
    add(forge, "a-check.yml", "running")

    assert number(watch(call, RunChoice(branch="develop"), 0.0, None)) == deploy


def test_status_tells_that_any_workflow_of_the_newest_commit_failed(call: Invocation, forge: FakeForge) -> None:
    add(forge, "a-check.yml", "failure", sha="b" * 40)
    add(forge, "deploy.yml", "success")
    assert status(call, None, None, 10).exit_code == 0

    add(forge, "a-check.yml", "failure")
    add(forge, "other.yml", "success")
    assert status(call, None, None, 10).exit_code == 1

    add(forge, "a-check.yml", "success")
    assert status(call, None, None, 10).exit_code == 0


@pytest.mark.parametrize("forge", ["forgejo-16"], indirect=True)
def test_logs_are_those_of_the_run_that_failed(call: Invocation, forge: FakeForge) -> None:
    add(forge, "a-check.yml", "failure", sha="b" * 40)
    add(forge, "deploy.yml", "failure")
    add(forge, "a-check.yml", "running")

    assert logs(call, None, None, None).raw == "of deploy.yml\n"


def test_without_any_run_it_is_told(call: Invocation, forge: FakeForge) -> None:
    assert forge.runs == []
    with pytest.raises(NotFound, match="no run yet"):
        watch(call, RunChoice(branch="develop"), 0.0, None)


@pytest.mark.parametrize("forge", ["forgejo-16"], indirect=True)
def test_what_goes_on_is_cancelled_though_a_newer_run_has_ended(call: Invocation, forge: FakeForge) -> None:
    goes_on = add(forge, "deploy.yml", "running")
    add(forge, "a-check.yml", "success")

    cancel(call, None)

    assert forge.runs[goes_on - 1].jobs[0].states == ["cancelled"]


def refused(call: Invocation) -> list[str]:
    with pytest.raises(Refused, match="no API for running") as told:
        rerun(call, None, failed=True)
    return told.value.next_command.splitlines()


def test_for_a_rerun_the_page_and_the_dispatch_of_the_same_branch_are_named(call: Invocation, forge: FakeForge) -> None:
    deploy = add(forge, "deploy.yml", "failure")
    add(forge, "a-check.yml", "success")

    assert refused(call) == [
        f"open {forge.address}/team/app/actions/runs/{deploy}",
        "invoke ci.dispatch deploy.yml --ref develop    # all its jobs, on what develop is now",
    ]


def test_a_dispatch_that_needs_values_asks_for_them(call: Invocation, forge: FakeForge) -> None:
    add(forge, "back.yml", "failure", event="workflow_dispatch")

    assert refused(call)[1].startswith("invoke ci.dispatch back.yml --ref develop --inputs environment=VALUE    #")


def test_a_pull_requests_run_is_dispatched_on_its_own_branch(call: Invocation, forge: FakeForge) -> None:
    add(forge, "deploy.yml", "failure", branch="feature/x", event="pull_request", pull=3)

    assert refused(call)[1].startswith("invoke ci.dispatch deploy.yml --ref feature/x    #")


@pytest.mark.parametrize("workflow", ["a-check.yml", "of-another-branch.yml"])
def test_where_nothing_starts_it_by_hand_only_the_page_is_named(
    call: Invocation, forge: FakeForge, workflow: str
) -> None:
    run = add(forge, workflow, "failure")

    assert refused(call) == [f"open {forge.address}/team/app/actions/runs/{run}"]


def test_a_commit_without_a_run_of_its_own_is_said_to_be_overtaken(call: Invocation, forge: FakeForge) -> None:
    """Of pushes in a row, a busy server makes a run for what the branch is at by then."""
    first, second, unpushed = (committed(call.root, text) for text in ("one", "two", "three"))
    add(forge, "deploy.yml", "success", sha=second)
    add(forge, "deploy.yml", "success", sha="f" * 40)

    with pytest.raises(NotFound) as overtaken:
        watch(call, RunChoice(commit=first), 0.0, None)
    with pytest.raises(NotFound) as unknown:
        watch(call, RunChoice(commit=unpushed), 0.0, None)

    assert overtaken.value.code == "commit-overtaken"
    assert f"develop was at {second[:10]}" in overtaken.value.message
    assert overtaken.value.next_command == f"invoke ci.watch --commit {second[:10]}"
    assert unknown.value.code == "no-run-of-commit"


def committed(root: Path, text: str) -> str:
    """A commit of a file, in a repository made for it if necessary; its hash."""
    (root / "file").write_text(text)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for words in (("init", "--quiet"), ("add", "file"), (*who, "commit", "--quiet", "--message", text)):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    argv = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
