"""ci.run with the real act, on the host; what it plans as values."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from conche.ci.act import act
from conche.ci.workflows.document import parse
from conche.ci.workflows.triggers import matches, starts
from conche.ci.workflows.workflow import parse as read
from conche.engine.connection import Engine
from conche.secret import Secret
from conche.vault import keys
from tests.stacks import ROOT, SmallStack, tracked_files

LABELS = "ci: {labels: [ubuntu-latest, dev], secrets: [SOPS_AGE_KEY, OTHER_TOKEN]}\n"

WORKFLOW = """\
on: {push: {branches: [develop, "release/**"]}, pull_request: {branches: [main]}}
jobs:
  first:
    runs-on: ubuntu-latest
    outputs: {word: "${{ steps.say.outputs.word }}"}
    steps:
      - uses: actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2
      - id: say
        run: echo "word=from $GITHUB_REF" >> "$GITHUB_OUTPUT"
      - run: echo "with ${#OTHER_TOKEN} and $OTHER_TOKEN"
        env: {OTHER_TOKEN: "${{ secrets.OTHER_TOKEN }}"}
      - run: env
  second:
    needs: first
    runs-on: dev
    steps:
      - run: runner-checkout
      - run: echo "heard $WORD in $(ls)"
        env: {WORD: "${{ needs.first.outputs.word }}"}
  third:
    needs: first
    if: github.ref == 'refs/heads/main'
    runs-on: dev
    steps: [{run: echo never}]
"""


@pytest.fixture
def stack(tmp_path: Path) -> SmallStack:
    made = SmallStack.create(tmp_path / "checkout", port=1)
    made.write("stack.yaml", (made.folder / "stack.yaml").read_text() + LABELS)
    made.write(".gitea/workflows/ci.yml", WORKFLOW)
    commit(made.folder)
    return made


def commit(folder: Path) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    for words in (("init", "--quiet", "--initial-branch", "develop"), ("add", "-A"), (*identity, "commit", "-qm", "x")):
        subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("branch", "patterns", "passes"),
    [
        ("main", ["main"], True),
        ("main", ["develop"], False),
        ("feature/a", ["feature/*"], True),
        ("feature/a/b", ["feature/*"], False),
        ("feature/a/b", ["feature/**"], True),
        ("feature", ["feature/**"], False),
        ("a/b/main", ["**/main"], True),
        ("main", ["**/main"], True),
        ("v1", ["v[0-9]"], True),
        ("v10", ["v[0-9]+"], True),
        ("mai", ["main?"], True),
        ("release/1", ["**", "!release/**"], False),
        ("release/1", ["!release/**", "**"], True),
        ("a.b", ["axb"], False),
    ],
)
def test_branch_patterns(branch: str, patterns: list[str], passes: bool) -> None:
    assert matches(branch, patterns) is passes


@pytest.mark.parametrize(
    ("on", "event", "branch", "started"),
    [
        ("push", "push", "any", True),
        ("push", "pull_request", "any", False),
        ("{push: {branches-ignore: [main]}}", "push", "main", False),
        ("{push: {branches-ignore: [main]}}", "push", "other", True),
        ("{push: {tags: ['v*']}}", "push", "main", False),
        ("{pull_request: {branches: main}}", "pull_request", "main", True),
        ("{push: {paths: ['conche/**', '*.lock']}}", "push", "main", True),
        ("{push: {paths: ['tests/**']}}", "push", "main", False),
        ("{push: {branches: [main], paths: ['conche/**']}}", "push", "develop", False),
        ("{push: {paths-ignore: ['**.md', 'conche/**']}}", "push", "main", True),
        ("{push: {paths-ignore: ['src/**', 'conche/**', '*.lock']}}", "push", "main", False),
    ],
)
def test_an_event_starts_what_its_filters_let_through(on: str, event: str, branch: str, started: bool) -> None:
    changed = {"conche/ci/act/act.py", "src/app.py", "requirements.lock"}

    assert starts(read(parse(f"on: {on}", "x.yml")), event, branch, changed) is started


def test_act_is_told_every_label_and_that_its_own_files_are_empty() -> None:
    told = act.argv(
        "act", workflow="w.yml", event="push", event_file=Path("/e"), labels={"b", "a"}, job="", cache=Path("/c")
    )

    assert told == (
        "act", "push", "--workflows", "w.yml", "--platform", "a=-self-hosted", "--platform", "b=-self-hosted",
        "--env-file", "/dev/null", "--var-file", "/dev/null", "--input-file", "/dev/null",
        "--secret-file", "/dev/stdin", "--json", "--eventpath", "/e", "--action-cache-path", "/c", "--no-cache-server",
    )  # fmt: skip


@pytest.mark.process
def test_a_push_runs_its_jobs_with_outputs_and_needs(stack: SmallStack) -> None:
    done = stack.invoke("ci.run", "--branch", "develop")

    assert done.returncode == 0, done.stderr
    assert "heard from refs/heads/develop in app" in done.stderr
    results = {row.split()[1]: row.split()[2] for row in done.stdout.splitlines() if row.startswith(".gitea")}
    assert results == {"first": "ok", "second": "ok", "third": "not"}


@pytest.mark.process
def test_a_dry_run_shows_the_jobs_and_runs_none(stack: SmallStack) -> None:
    everything = stack.invoke("ci.run", "--branch", "develop", "--dry-run")
    second = stack.json("ci.run", "--job", "second", "--dry-run")

    assert everything.stderr == ""
    assert "job second" in everything.stdout
    assert "job third" not in everything.stdout
    assert [step["subject"] for step in second["plan"]] == ["job first", "job second"]


def test_an_action_that_cannot_be_fetched_is_why_its_job_failed() -> None:
    fetched = {"jobID": "tests", "stage": "Pre", "step": "actions/setup-python@v5", "stepID": ["1"]}
    record = act.ActRecord()
    for line in (
        fetched | {"level": "info", "msg": "  ☁  git clone 'https://example.org/setup-python' # ref=v5"},
        fetched | {"level": "error", "msg": "Unable to clone refs/heads/v5: no such host"},
        fetched | {"level": "error", "msg": "lookup example.org: no such host"},
        {"jobID": "tests", "jobResult": "failure", "level": "info", "msg": "Job failed"},
    ):
        list(record.take(json.dumps(line)))

    failed = record.failed()

    assert failed is not None
    assert (failed[0], failed[1].name) == ("tests", "actions/setup-python@v5")
    assert failed[1].said == ["Unable to clone refs/heads/v5: no such host", "lookup example.org: no such host"]


@pytest.mark.process
def test_a_step_has_the_names_and_the_token_that_a_runner_gives_it(stack: SmallStack) -> None:
    said = '"$FORGEJO_REF" "$GITEA_EVENT_NAME" "${#FORGEJO_TOKEN}" && echo one=1 >>"$FORGEJO_OUTPUT"'
    stack.replace(".gitea/workflows/ci.yml", "- run: env", f"- run: printf '<%s %s %s>' {said}")

    done = stack.invoke("ci.run", "--job", "first", "--branch", "develop")

    assert done.returncode == 0, done.stderr
    assert f"<refs/heads/develop push {len(act.TOKEN)}>" in done.stderr


@pytest.mark.process
def test_a_filter_of_paths_is_kept_to(stack: SmallStack) -> None:
    stack.write(".gitea/workflows/docs.yml", "on: {push: {paths: ['docs/**']}}\njobs: {d: {runs-on: dev, steps: []}}\n")
    commit(stack.folder)
    (stack.folder / "app/version").write_text("two")
    before = {step["subject"] for step in stack.json("ci.run", "--branch", "develop", "--dry-run")["plan"]}
    stack.write("docs/new.md", "# New\n")

    after = {step["subject"] for step in stack.json("ci.run", "--branch", "develop", "--dry-run")["plan"]}

    assert after - before == {"job d"}


@pytest.mark.process
def test_a_pull_request_runs_by_the_branch_it_goes_into(stack: SmallStack) -> None:
    document = stack.json("ci.run", "--event", "pull_request", "--branch", "main")

    jobs = document["value"][".gitea/workflows/ci.yml"]
    assert {name: job["result"] for name, job in jobs.items()} == {
        "first": "success", "second": "success", "third": "not run",
    }  # fmt: skip
    assert {name: job["seconds"] > 0 for name, job in jobs.items()} == {"first": True, "second": True, "third": False}


@pytest.mark.process
def test_the_environment_is_a_clean_one_and_a_secret_is_in_its_step_alone(stack: SmallStack, canary: str) -> None:
    (stack.folder / ".env").write_text("FROM_DOTENV=x\n")
    (stack.folder / ".secrets").write_text("OTHER_TOKEN=wrong\n")

    done = stack.invoke("ci.run", "--json", OTHER_TOKEN=canary, FROM_CALLER="x", VIRTUAL_ENV="/x")

    assert done.returncode == 0, done.stderr
    assert f"with {len(canary)} and ***" in done.stderr
    assert canary not in done.stderr + done.stdout
    seen = {line.split(" | ")[1].partition("=")[0] for line in done.stderr.splitlines() if line.startswith("first | ")}
    assert {"PATH", "HOME", "GITHUB_REF"} <= seen
    assert seen & {"FROM_DOTENV", "FROM_CALLER", "VIRTUAL_ENV", "OTHER_TOKEN", "PYTHONPATH"} == set()
    [path] = [line.partition("PATH=")[2] for line in done.stderr.splitlines() if line.startswith("first | PATH=")]
    assert str(Path(sys.executable).parent) not in path.split(os.pathsep)


@pytest.mark.process
def test_the_age_key_is_handed_over_as_the_secret_and_never_in_argv(stack: SmallStack) -> None:
    identity, _ = keys.generate()
    stack.replace(".gitea/workflows/ci.yml", "secrets.OTHER_TOKEN", "secrets.SOPS_AGE_KEY")
    stack.replace(
        ".gitea/workflows/ci.yml", "- run: env", "- run: cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' ' || true"
    )

    done = stack.invoke("ci.run", "--job", "first", SOPS_AGE_KEY=identity.reveal())

    assert done.returncode == 0, done.stderr
    assert f"with {len(identity)} and ***" in done.stderr
    assert "--secret-file /dev/stdin" in done.stderr
    assert identity.reveal() not in done.stderr + done.stdout


@pytest.mark.process
def test_a_secret_of_several_lines_and_signs_reaches_its_step_whole(stack: SmallStack) -> None:
    value = 'one\ntwo "$HOME" \\ `three\' #'

    done = stack.invoke("ci.run", "--job", "first", OTHER_TOKEN=value)

    assert done.returncode == 0, done.stderr
    assert f"with {len(value)} and" in done.stderr


@pytest.mark.process
def test_a_job_that_fails_is_named_with_its_last_words(stack: SmallStack) -> None:
    stack.replace(".gitea/workflows/ci.yml", "- run: env", "- run: echo the cause; exit 3")

    done = stack.invoke("ci.run")

    assert done.returncode == 1
    assert "first failed at: echo the cause; exit 3" in done.stdout
    assert "  | the cause" in done.stdout


@pytest.mark.process
@pytest.mark.parametrize("attempt", range(5))
def test_the_last_words_of_a_step_that_fails_are_never_lost(stack: SmallStack, attempt: int) -> None:
    failing = f"- run: env | grep BASH_ENV || true; echo words {attempt}; exit 3"
    stack.replace(".gitea/workflows/ci.yml", "- run: env", failing)

    done = stack.invoke("ci.run", "--job", "first")

    assert f"  | words {attempt}" in done.stdout
    assert "BASH_ENV=" not in done.stdout


@pytest.mark.process
def test_a_label_that_no_runner_carries_is_an_error(stack: SmallStack) -> None:
    stack.replace(".gitea/workflows/ci.yml", "runs-on: dev\n    steps:\n", "runs-on: gpu\n    steps:\n")

    refused = stack.invoke("ci.run")

    assert refused.returncode == 2
    assert "[label-unmapped]: No runner has the label gpu (job second)." in refused.stderr
    assert "looked at: labels: dev, ubuntu-latest" in refused.stderr


@pytest.mark.process
def test_a_branch_that_the_filters_leave_out_starts_nothing(stack: SmallStack) -> None:
    refused = stack.invoke("ci.run", "--branch", "feature/x")

    assert refused.returncode == 2
    assert "[nothing-starts]: push on 'feature/x' starts no workflow." in refused.stderr
    assert "develop, release/**" in refused.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("--workflow", "cii"), "no-such-workflow", 6),
        (("--job", "secnd"), "no-such-job", 6),
        (("--event", "pull-request"), "event-unknown", 2),
    ],
)
def test_a_name_that_is_not_there_is_told_with_one_that_is(
    stack: SmallStack, words: tuple[str, ...], code: str, status: int
) -> None:
    refused = stack.invoke("ci.run", *words)

    assert refused.returncode == status
    assert f"[{code}]" in refused.stderr
    assert "Did you mean" in refused.stderr


# On the engine

DEPLOYMENT = """\
on: {{push: {{branches: [develop]}}}}
jobs:
  build:
    runs-on: ubuntu-latest
    outputs: {{project: "${{{{ steps.look.outputs.name }}}}"}}
    env: {{PYTHONPATH: "{root}"}}
    steps:
      - uses: actions/checkout@v4
      - id: look
        run: {python} -m invoke env.config
  deploy:
    needs: build
    runs-on: dev
    env: {{PYTHONPATH: "{root}"}}
    steps:
      - uses: actions/checkout@v4
      - run: {python} -m invoke env.update --service web --build
"""


@pytest.fixture
def deployable(small: SmallStack) -> SmallStack:
    """A stack whose image holds its code: what a workflow deploys must not hang on its workspace."""
    compose = (small.folder / "compose/dev.yaml").read_text()
    bind = "      - type: bind\n        source: ../app\n        target: /app\n        read_only: true\n"
    assert bind in compose
    small.write("compose/dev.yaml", compose.replace(bind, ""))
    small.replace("stack.yaml", "context: docker,", "context: .,")
    small.replace("docker/web.Dockerfile", "COPY server.py", "COPY app /app\nCOPY docker/server.py")
    small.write("stack.yaml", (small.folder / "stack.yaml").read_text() + LABELS)
    small.write(".gitea/workflows/ci.yml", DEPLOYMENT.format(root=ROOT, python=sys.executable))
    commit(small.folder)
    return small


def version(stack: SmallStack) -> str:
    return httpx.get(f"http://127.0.0.1:{stack.port}/", timeout=300).text


def deploying(process: subprocess.Popen[str]) -> psutil.Process:
    """act, once the deployment's new container is being tried."""
    assert process.stderr is not None
    for line in process.stderr:
        if "trying" in line or "trial" in line:
            break
    return next(child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "act")


@pytest.mark.engine
@pytest.mark.e2e
def test_a_push_builds_and_deploys_on_the_real_engine(deployable: SmallStack) -> None:
    deployable.up()
    deployable.write("app/version", "two")

    done = deployable.invoke("ci.run", "--branch", "develop")

    assert done.returncode == 0, done.stderr
    assert version(deployable) == "two"


@pytest.mark.engine
@pytest.mark.e2e
@pytest.mark.parametrize("to", [pytest.param("act", marks=pytest.mark.long), "ci.run"])
def test_sigterm_in_mid_deploy_leaves_the_old_version_serving_and_no_lock(
    deployable: SmallStack, engine: Engine, to: str
) -> None:
    deployable.up()
    deployable.write("app/version", "two")
    deployable.behave("hang")
    running = subprocess.Popen(
        deployable.argv("ci.run", "--branch", "develop"), cwd=deployable.folder, env=deployable.environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = deploying(running)

    (found if to == "act" else psutil.Process(running.pid)).send_signal(signal.SIGTERM)
    running.communicate(timeout=300)

    assert running.returncode == (1 if to == "act" else 143)
    assert version(deployable) == "one"
    assert [container.name for container in deployable.containers(engine)] == [f"{deployable.name}-web"]
    deployable.behave("well")
    again = deployable.invoke("ci.run", "--branch", "develop")
    assert again.returncode == 0, again.stderr
    assert version(deployable) == "two"


@pytest.mark.process
def test_the_copy_for_a_run_leaves_nothing_behind(stack: SmallStack, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    stack.invoke("ci.run", TMPDIR=str(temporary))

    assert list(temporary.iterdir()) == []


def test_every_tracked_workflow_is_where_the_stack_says() -> None:
    workflows = [file for file in tracked_files(ROOT) if file.parts[:2] == (".gitea", "workflows")]

    names = {"ci-cd-dual.yml", "quick-test.yml", "release.yml", "rollback.yml", "toolkit.yml"}
    assert {file.name for file in workflows} == names


def test_a_release_is_started_by_hand_and_walks_the_documented_roads() -> None:
    release = read(parse((ROOT / ".gitea/workflows/release.yml").read_text(), "release.yml"))
    [job] = release.jobs.values()

    assert list(release.triggers) == ["workflow_dispatch"]
    assert [step.run for step in job.steps if step.run.startswith("nox")] == ["nox -s build", "nox -s real"]


def test_the_secret_file_is_what_act_reads() -> None:
    assert act.secret_file({"A": Secret('x"y\n$z\\')}) == b'A="x\\"y\\n\\$z\\\\"\n'
