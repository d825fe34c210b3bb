"""ci.setup against a stand-in server that serves git too: from a fresh checkout to a push, and cut off anywhere."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conche.ci import setup as tasks
from conche.ci.act.credentials import ci_key
from conche.ci.forge.kept import FILE
from conche.ci.provision import checkout as git_side
from conche.ci.provision import parts, probe
from conche.ci.provision.site import SetupSite
from conche.ci.setup import setup
from conche.command import Invocation
from conche.errors import ConcheError
from conche.output import Output
from conche.testing.forge import FakeForge, go_on, serve
from tests.secrets.checkouts import Checkout
from tests.stacks import free_port

pytestmark = pytest.mark.process

TOKEN = "a-token-of-the-team"

SECTION = """\
  prod: {{compose: [compose.yaml], branch: main, protected: true}}
ci: {{server: '{address}', secrets: [SOPS_AGE_KEY], labels: [dev, tests]}}
"""

WORKFLOW = """\
on: {push: {branches: [develop, main]}}
jobs:
  test: {runs-on: tests, steps: [{run: "true"}]}
  deploy: {needs: test, runs-on: dev, steps: [{run: invoke env.deploy --env dev}]}
"""


@pytest.fixture
def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeForge]:
    monkeypatch.setattr(probe, "PAUSE", 0.0)
    monkeypatch.setattr(probe, "INTERVAL", 0.0)
    monkeypatch.setattr(probe, "SETTLES", 0.0)
    with serve("forgejo-15") as fake:
        fake.git, fake.repository, fake.tokens = tmp_path / "srv", "", {TOKEN: "write:repository,write:user"}
        fake.runners = [
            {"id": number, "uuid": label, "name": label, "status": "idle", "labels": [label]}
            for number, label in enumerate(("dev", "tests"), 1)
        ]
        monkeypatch.setenv("FORGEJO_TOKEN_FILE", str(tmp_path / "token"))
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        yield fake


@pytest.fixture
def checkout(tmp_path: Path, forge: FakeForge) -> Checkout:
    """As it is after a clone from another server, with `main` checked out and somebody's name for commits."""
    made = Checkout.create(tmp_path / "checkout")
    stack = made.folder / "stack.yaml"
    text = stack.read_text().replace(
        "dev: {compose: [compose.yaml]}", "dev: {compose: [compose.yaml], branch: develop}"
    )
    stack.write_text(text + SECTION.format(address=forge.address))
    (made.folder / ".gitea/workflows").mkdir(parents=True)
    (made.folder / ".gitea/workflows/ci.yml").write_text(WORKFLOW)
    made.git("remote", "add", "origin", "https://elsewhere.example.org/them/app.git")
    made.git("config", "user.name", "n")
    made.git("config", "user.email", "e@example.org")
    made.commit("a pipeline")
    return made


def call(checkout: Checkout, *, dry_run: bool = False) -> Invocation:
    return Invocation(checkout.folder, Output("ci.setup"), dry_run=dry_run)


def set_up(checkout: Checkout) -> Any:
    return setup(call(checkout)).value


def complete(checkout: Checkout, forge: FakeForge) -> dict[str, object]:
    """What has to be so afterwards, whatever happened on the way."""
    heads = subprocess.run(
        ["git", "-C", str(forge.git / "team/secretive.git"), "for-each-ref", "--format=%(refname:short)"],  # type: ignore[operator]
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    key = ci_key(checkout.folder)
    return {
        "repository": forge.repository,
        "branches there": heads,
        "actions": forge.settings["has_actions"],
        "protected": list(forge.protected),
        "secret": key is not None and forge.secrets == {"SOPS_AGE_KEY": key.identities.reveal()},
        "left to commit": checkout.git("status", "--porcelain").stdout,
        "branch here": checkout.git("branch", "--show-current").stdout.strip(),
        "runs of main": [run.number for run in forge.runs if run.branch == "main"],
    }


AS_IT_IS_TO_BE = {
    "repository": "team/secretive",
    "branches there": ["main"],
    "actions": True,
    "protected": ["main"],
    "secret": True,
    "left to commit": "",
    "branch here": "develop",
    "runs of main": [],
}


def test_a_fresh_checkout_becomes_one_whose_first_push_runs(checkout: Checkout, forge: FakeForge) -> None:
    told = setup(call(checkout))

    assert complete(checkout, forge) == AS_IT_IS_TO_BE
    assert told.lines[-1] == "Next: git push && invoke ci.watch"
    assert [branch for branch, _ in forge.pushed].count(probe.BRANCH) == 2
    pushed = checkout.git("push")
    assert pushed.returncode == 0, pushed.stderr
    go_on(forge, calls=20)
    assert [(run.branch, run.workflow) for run in forge.runs][-1] == ("develop", "ci.yml")


def test_a_key_that_is_made_counts_for_what_comes_after_it(checkout: Checkout) -> None:
    for file in (".sops/age-key.txt", ".sops.yaml", "secrets.enc.yaml"):
        (checkout.folder / file).unlink()
    site = SetupSite(call(checkout), None, "https://git.example.org", "team/app")
    before = site.call.vault.key

    parts.make_secrets(site)

    made = site.call.vault.key
    assert (before, made and made.source) == (None, str(checkout.folder / ".sops/age-key.txt"))


def test_the_token_is_kept_for_its_owner_and_its_server_alone(checkout: Checkout, forge: FakeForge) -> None:
    set_up(checkout)

    file = checkout.folder / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert checkout.git("check-ignore", "--quiet", str(FILE)).returncode == 0
    assert TOKEN not in (checkout.folder / ".git/config").read_text()
    without = {"FORGEJO_TOKEN_FILE": ""}
    assert json.loads(checkout.invoke("ci.status", "--json", **without).stdout).get("error") is None
    stack = checkout.folder / "stack.yaml"
    stack.write_text(stack.read_text().replace("127.0.0.1", "localhost"))
    elsewhere = json.loads(checkout.invoke("ci.status", "--json", **without).stdout)["error"]
    assert elsewhere["code"] == "server-token-missing"


def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(checkout: Checkout, forge: FakeForge) -> None:
    before = checkout.git("rev-parse", "HEAD").stdout

    plan = setup(call(checkout, dry_run=True)).plan

    assert [f"{step.action} {step.kind}" for step in plan or ()] == [
        "keep file", "create repository", "add remote", "set git's credentials", "create branch", "create key",
        "add recipient", "commit file", "commit file", "put secret", "push branch", "protect branch", "try branch",
    ]  # fmt: skip
    assert [line for line in forge.asked if not line.startswith("GET")] == []
    assert (checkout.git("rev-parse", "HEAD").stdout, checkout.git("remote").stdout) == (before, "origin\n")
    assert not (checkout.folder / FILE).exists()


def test_what_is_shown_is_what_is_done(checkout: Checkout, forge: FakeForge) -> None:
    shown = setup(call(checkout, dry_run=True)).plan

    done = setup(call(checkout)).plan

    assert [(step.action, step.kind) for step in done or ()] == [(step.action, step.kind) for step in shown or ()]


def test_a_second_run_repeats_only_what_the_server_does_not_tell(checkout: Checkout, forge: FakeForge) -> None:
    set_up(checkout)

    again = setup(call(checkout))

    assert [step.action for step in again.plan or ()] == ["put", "try"]
    assert complete(checkout, forge) == AS_IT_IS_TO_BE


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("part", range(len(tasks.PARTS)), ids=[make.__name__ for _, make in tasks.PARTS])
def test_after_a_kill_behind_any_part_the_next_run_finishes(
    checkout: Checkout, forge: FakeForge, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    look, make = tasks.PARTS[part]

    def killed(site: Any) -> None:
        make(site)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(tasks, "PARTS", (*tasks.PARTS[:part], (look, killed)))
        with contextlib.suppress(Killed):
            set_up(checkout)
    set_up(checkout)

    assert complete(checkout, forge) == AS_IT_IS_TO_BE


def test_after_a_kill_with_actions_switched_off_they_are_on_again(
    checkout: Checkout, forge: FakeForge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(git_side.Checkout, "push", killed)
        with pytest.raises(Killed):
            set_up(checkout)
    assert forge.settings["has_actions"] is False

    set_up(checkout)

    assert complete(checkout, forge) == AS_IT_IS_TO_BE


def test_what_the_server_does_not_tell_of_leaves_actions_off(
    checkout: Checkout, forge: FakeForge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(probe, "LOOKS", 1)
        error = refused(checkout)

    assert error.code == "push-not-handled"
    assert (forge.settings["has_actions"], forge.runs) == (False, [])
    set_up(checkout)
    assert complete(checkout, forge) == AS_IT_IS_TO_BE


def refused(checkout: Checkout) -> ConcheError:
    with pytest.raises(ConcheError) as told:
        set_up(checkout)
    return told.value


def test_a_runner_that_sleeps_after_its_first_job_is_found(
    checkout: Checkout, forge: FakeForge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "LOOKS", 24)
    forge.runners[0] |= {"owner_id": 1, "repo_id": 1}

    error = refused(checkout)

    assert error.code == "runner-takes-no-job"
    assert "Test job 2 of 2" in error.message
    assert "no runner took the job for dev" in error.message
    assert probe.BRANCH not in complete(checkout, forge)["branches there"]  # type: ignore[operator]


def test_a_repository_with_other_content_is_left_as_it_is(checkout: Checkout, forge: FakeForge, tmp_path: Path) -> None:
    set_up(checkout)
    checkout.git("push")
    checkout.git("checkout", "--orphan", "other")
    checkout.commit("something else")
    for branch in ("main", "develop"):
        checkout.git("checkout", "-B", branch)
    before = list(forge.pushed)

    error = refused(checkout)

    assert error.code == "repository-has-other-content"
    assert "develop, main" in error.message
    assert forge.pushed == before


@pytest.mark.parametrize(
    ("scope", "code"), [("read:repository,read:user", "server-token-lacks-right"), (None, "server-token-refused")]
)
def test_a_token_that_cannot_do_it_is_refused_before_anything_is_changed(
    checkout: Checkout, forge: FakeForge, scope: str | None, code: str
) -> None:
    forge.repository = "team/secretive"
    forge.tokens = {TOKEN: scope} if scope else {}

    error = refused(checkout)

    assert error.code == code
    assert (forge.secrets, checkout.git("remote").stdout) == ({}, "origin\n")


def test_a_repository_of_somebody_else_needs_a_right_of_theirs(checkout: Checkout, forge: FakeForge) -> None:
    stack = checkout.folder / "stack.yaml"
    stack.write_text(stack.read_text().replace("secrets: [SOPS", "repository: others/app, secrets: [SOPS"))

    assert refused(checkout).code == "server-token-lacks-right"


def test_a_workflow_that_is_no_yaml_is_refused_before_anything_is_done(checkout: Checkout, forge: FakeForge) -> None:
    (checkout.folder / ".gitea/workflows/z.yml").write_text("on: [push\njobs: {}\n")

    assert refused(checkout).code == "workflow-invalid"
    assert forge.asked == []


def test_a_server_that_is_away_is_told(checkout: Checkout, forge: FakeForge) -> None:
    stack = checkout.folder / "stack.yaml"
    stack.write_text(stack.read_text().replace(forge.address, f"http://127.0.0.1:{free_port()}"))

    assert refused(checkout).code == "server-unreachable"


def test_another_branch_than_the_deployed_one_is_refused(checkout: Checkout) -> None:
    checkout.git("branch", "develop")

    error = refused(checkout)

    assert error.code == "branch-not-checked-out"
    assert error.next_command == "git switch develop\ninvoke ci.setup"


def test_a_password_in_a_remote_is_shown_to_nobody(checkout: Checkout, forge: FakeForge) -> None:
    with_password = forge.address.replace("http://", f"http://me:{TOKEN}@") + "/team/secretive.git"
    checkout.git("remote", "set-url", "origin", with_password)

    told = setup(call(checkout))

    assert told.warnings == ["the remote origin has a password in its address: git remote set-url origin ADDRESS"]
    assert TOKEN not in str(told)


def test_two_remotes_that_are_elsewhere_are_left_alone(checkout: Checkout) -> None:
    checkout.git("remote", "add", "forge", "https://u:opensesame@elsewhere.example.org/them/app.git")

    error = refused(checkout)

    assert error.code == "remote-elsewhere"
    assert "opensesame" not in str(error.as_json())


@pytest.mark.parametrize("fault", ["html", "429", "500"])
def test_a_server_that_answers_badly_leaves_everything_as_it_was(
    checkout: Checkout, forge: FakeForge, fault: str
) -> None:
    forge.fault = fault

    assert refused(checkout).code.startswith("server-")
    assert checkout.git("remote").stdout == "origin\n"
