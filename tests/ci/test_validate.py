"""ci.validate on our own workflows, with and without faults put into them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conche.ci.checks.examine import examine
from conche.ci.checks.findings import RULES, Complaint
from conche.ci.workflows.invoked import reader
from conche.ci.workflows.runners import runners
from conche.ci.workflows.surroundings import surroundings
from conche.ci.workflows.workflow import workflows
from conche.stack import load
from tests.stacks import ROOT, SmallStack

STACK = load(ROOT)
MAIN, QUICK = ".gitea/workflows/ci-cd-dual.yml", ".gitea/workflows/quick-test.yml"
READ = reader(ROOT)

SEEDED = {
    "a job that is needed and not there": (MAIN, "needs: test-all", "needs: [test-all, test-al]", "needs-unknown"),
    "a circle of needs": (MAIN, "    name: Tests\n", "    name: Tests\n    needs: deploy-dev\n", "needs-cycle"),
    "an output that no job has": (MAIN, "build-image.outputs.image", "build-image.outputs.img", "output-unknown"),
    "a label that no runner has": (MAIN, "runs-on: prod", "runs-on: prod-deploy", "label-unknown"),
    "a context of one server alone": (MAIN, "if: github.ref", "if: gitea.ref", "context-unknown"),
    "an injection": (MAIN, 'images.release --env "$ENVIRONMENT"', "images.release --env ${{ github.head_ref }}",
                     "expression-in-run"),
    "a retired action": (MAIN, "run: runner-checkout --newest", "uses: actions/checkout@v3", "action-retired"),
    "a branch without an environment": (MAIN, "'refs/heads/develop'", "'refs/heads/devel'", "branch-unknown"),
    "a Nox session that is not there": (QUICK, "nox -s app unit", "nox -s app units", "session-unknown"),
    "an option that a task does not have": (MAIN, "--env \"$ENVIRONMENT\"", "--environment \"$ENVIRONMENT\"",
                                            "task-unknown"),
    "a secret that nobody puts": (MAIN, "secrets.SOPS_AGE_KEY", "secrets.SOPS_KEY", "secret-undeclared"),
    "a deployment that needs nothing": (MAIN, "    needs: build-image\n    if: github.ref == 'refs/heads/main'",
                                        "    if: github.ref == 'refs/heads/main'", "deploy-without-needs"),
}  # fmt: skip

MORE = {
    "needs that are read and not said": (MAIN, "needs: build-image\n    if: github.ref == 'refs/heads/main'",
                                         "needs: test-all\n    if: github.ref == 'refs/heads/main'", "needs-missing"),
    "a step id that is not there": (MAIN, "steps.release.outputs", "steps.releases.outputs", "output-unknown"),
    "a property that github does not have": (MAIN, "github.ref ==", "github.rev ==", "context-unknown"),
    "a function that is not there": (MAIN, "if: github.ref == 'refs/heads/develop'", "if: includes(github.ref, 'x')",
                                     "context-unknown"),
    "a secret for the whole job": (QUICK, "    runs-on:", '    env: {KEY: "${{ secrets.SOPS_AGE_KEY }}"}\n    runs-on:',
                                   "secret-too-wide"),
    "another environment's branch": (MAIN, "--env prod --image", "--env dev --image", "branch-unknown"),
    "an environment that is not there": (MAIN, "--env prod --image", "--env prd --image", "environment-unknown"),
    "a key that the schema does not know": (MAIN, "    timeout-minutes: 40", "    timeout-hours: 1", "schema"),
    "a trigger that act does not know": (QUICK, "  pull_request:\n", "  pull_requests:\n", "act"),
    "credentials left in the checkout": (
        MAIN, "run: runner-checkout",
        "uses: actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2", "zizmor",
    ),
    "a context of called workflows alone": (MAIN, "needs.build-image.outputs", "jobs.build-image.outputs",
                                            "context-unknown"),
    "a word that the shell would split": (QUICK, "run: invoke ci.validate", "run: ls $HOME",
                                          "shellcheck"),
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / ".gitea", tmp_path / ".gitea")
    return tmp_path


def found(root: Path) -> set[Complaint]:
    return set(examine(root, workflows(root, STACK), surroundings(ROOT, STACK, READ)))


@pytest.mark.process
@pytest.mark.parametrize(("file", "old", "new", "rule"), (SEEDED | MORE).values(), ids=(SEEDED | MORE).keys())
def test_a_seeded_fault_is_found(checkout: Path, file: str, old: str, new: str, rule: str) -> None:
    before = {(one.rule, one.message) for one in found(checkout)}
    text = (checkout / file).read_text()
    assert old in text
    changed = text.replace(old, new, 1)
    (checkout / file).write_text(changed)

    now = {one for one in found(checkout) if (one.rule, one.message) not in before}

    differing = [number for number, line in enumerate(changed.splitlines(), 1) if line not in text.splitlines()]
    assert rule in {one.rule for one in now}
    assert {one.file for one in now} == {file}
    assert all(1 <= one.line <= len(changed.splitlines()) for one in now)
    if differing and rule not in ("needs-cycle", "schema", "act"):
        assert differing[0] in {one.line for one in now if one.rule == rule}


def test_nothing_is_found_in_our_own_workflows() -> None:
    assert found(ROOT) == set()


SET_UP_AND_RUN = ("runner-checkout", "scripts/bootstrap", "scripts/install-test-tools", "nox", "invoke")


def test_our_own_workflows_hold_to_the_rules_of_the_house() -> None:
    read = workflows(ROOT, STACK)
    steps = [step for workflow in read for job in workflow.jobs.values() for step in job.steps]
    document = {workflow.file: workflow.document.content for workflow in read}
    runs = [step.run for step in steps if step.run]

    assert sum(len(workflow.document.text.splitlines()) for workflow in read) <= 200
    assert [run for run in runs if run.split()[0] not in SET_UP_AND_RUN] == []
    assert [run for run in runs if "\n" in run.strip() or set(";&|`") & set(run)] == []
    for workflow in read:
        for job in workflow.jobs.values():
            said = document[workflow.file]["jobs"][job.name]
            assert "timeout-minutes" in said
            assert [one for one in said["steps"] if "run" in one and "timeout-minutes" not in one] == []
            assert said["steps"][0]["run"] in ("runner-checkout", "runner-checkout --newest")
    assert [step.uses for step in steps if step.uses] == []


def test_the_pipeline_is_the_documented_one() -> None:
    main, quick, release, rollback, toolkit = workflows(ROOT, STACK)
    others = (release, rollback, toolkit)

    assert main.triggers["push"] == {"branches": ["main", "develop"]}
    assert [one.name for one in (main, quick, *others) if "pull_request" in one.triggers] == [quick.name]
    assert {name: job.needs for name, job in main.jobs.items()} == {
        "test-all": (),
        "build-image": ("test-all",),
        "deploy-dev": ("build-image",),
        "deploy-prod": ("build-image",),
    }
    assert list(quick.triggers) == ["pull_request", "workflow_dispatch"]
    assert all("workflow_dispatch" in one.triggers for one in (main, *others))


def test_the_runners_carry_the_documented_labels_with_a_scheme() -> None:
    carried = {runner.service: runner for runner in runners(ROOT, STACK)}

    assert {name: runner.names for name, runner in carried.items()} == {
        "gitea-runner-dev": ("dev",),
        "gitea-runner-prod": ("prod",),
        "gitea-runner-toolkit": ("toolkit",),
        "gitea-runner-tests": ("ubuntu-latest", "ubuntu-22.04"),
    }
    assert [label for runner in carried.values() for label in runner.labels if not label.endswith(":host")] == []


def test_a_step_in_another_language_is_not_for_shellcheck(checkout: Path) -> None:
    text = (checkout / QUICK).read_text()
    python = "shell: python\n        run: print('$HOME'); x = [one for one in ()]"
    (checkout / QUICK).write_text(text.replace("run: invoke ci.validate", python))

    assert found(checkout) == set()


def test_sh_is_checked_as_sh(checkout: Path) -> None:
    text = (checkout / QUICK).read_text()
    (checkout / QUICK).write_text(text.replace("run: invoke ci.validate", "shell: sh\n        run: '[[ 1 == 1 ]]'"))

    assert "SC3010" in {one.message.partition(":")[0] for one in found(checkout)}


def stack_with(tmp_path: Path, workflow: str) -> SmallStack:
    stack = SmallStack.create(tmp_path / "checkout", port=1)
    stack.write(".gitea/workflows/ci.yml", workflow)
    return stack


@pytest.mark.process
def test_a_file_that_is_no_yaml_is_found_beside_what_is_wrong_with_the_others(tmp_path: Path) -> None:
    stack = stack_with(tmp_path, "on: push\njobs:\n  test:\n    steps: [one\n    runs-on: x\n")
    stack.write(".gitea/workflows/z.yml", "on: push\njobs:\n  test: {runs-on: x, needs: y, steps: [{run: ls}]}\n")

    document = stack.json("ci.validate")
    drawn = stack.json("ci.graph")["error"]

    [unreadable, *others] = document["value"]["findings"]
    assert (unreadable["rule"], unreadable["line"]) == ("unreadable", 5)
    assert ".gitea/workflows/ci.yml:5:12" in unreadable["message"]
    assert "needs-unknown" in {one["rule"] for one in others}
    assert (drawn["code"], drawn["exit_code"]) == ("workflow-invalid", 2)


@pytest.mark.process
def test_a_workflow_that_calls_a_task_that_is_not_there_is_found(tmp_path: Path) -> None:
    stack = stack_with(
        tmp_path, "on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - run: invoke env.deply\n"
    )

    done = stack.invoke("ci.validate")

    assert done.returncode == 1
    assert ".gitea/workflows/ci.yml:6" in done.stdout
    assert "No idea what 'env.deply' is!" in done.stdout
    assert "labels were not checked" in done.stderr


@pytest.mark.process
def test_a_repository_without_workflows_is_told_so(tmp_path: Path) -> None:
    stack = SmallStack.create(tmp_path / "checkout", port=1)

    refused = stack.invoke("ci.validate")

    assert refused.returncode == 2
    assert "[no-workflows]" in refused.stderr


def test_every_rule_is_in_the_guide() -> None:
    guide = (ROOT / "docs/how-to/pipeline.md").read_text()

    assert [rule for rule in RULES if f"`{rule}`" not in guide] == []
