"""One suite for every server: each profile of our stand-in, and a real one where the environment names it.

CONCHE_TEST_FORGE=https://git.example.org, CONCHE_TEST_FORGE_REPOSITORY=owner/name and CONCHE_TEST_FORGE_TOKEN let the
looking part of the suite run against a real server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from conche.ci.forge import Forge, ServerJob
from conche.ci.forge.client import Client
from conche.errors import NotFound, Refused
from conche.secret import Secret
from conche.testing.forge import PROFILES, FakeForge, FakeJob, FakeRun, serve

COMMON = {"secret-put"}
LISTED = COMMON | {"secret-list", "registration-token"}
TASKS = LISTED | {"task-list", "dispatch"}
REGISTERS = {"job-waiting", "runner-list", "runner-create", "runner-remove"}
CAN = {
    "gitea-1.22": LISTED,
    "gitea-1.24": TASKS | {"runner-list"},
    "gitea-1.25": TASKS | {"runner-list", "job-log", "run-list", "run-jobs"},
    "gitea-1.26": TASKS | {"runner-list", "job-log", "run-list", "run-jobs", "rerun", "rerun-failed"},
    "forgejo-1.21": COMMON,
    "forgejo-7": COMMON | {"registration-token"},
    "forgejo-11": TASKS | {"job-waiting"},
    "forgejo-15": TASKS | REGISTERS | {"run-list"},
    "forgejo-16": TASKS | REGISTERS | {"run-list", "run-jobs", "job-log", "cancel"},
}
"""What each version can do, by its own description of its API."""

RUN = FakeRun(41, 7, [FakeJob(101, "test-all", ["success"], "all passed\n"), FakeJob(102, "deploy-dev", ["failure"])])


@dataclass
class Subject:
    """A server under test; `fake` is None for a real one."""

    forge: Forge
    fake: FakeForge | None
    can: set[str]


@pytest.fixture(params=[*PROFILES, *(["real"] if "CONCHE_TEST_FORGE" in os.environ else [])])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "real":
        client = Client(os.environ["CONCHE_TEST_FORGE"], Secret(os.environ["CONCHE_TEST_FORGE_TOKEN"]))
        forge = Forge(client, os.environ["CONCHE_TEST_FORGE_REPOSITORY"])
        yield Subject(forge, None, {name for name, there in forge.operations().items() if there})
        return
    with serve(request.param) as fake:
        fake.runs = [FakeRun(RUN.id, RUN.number, [FakeJob(j.id, j.name, list(j.states), j.log) for j in RUN.jobs])]
        fake.runners = [{"id": 1, "name": "dev", "status": "online", "busy": False, "labels": ["dev"]}]
        yield Subject(
            Forge(Client(fake.address, Secret("good-token-of-tests")), fake.repository), fake, CAN[request.param]
        )


@pytest.fixture
def changing(subject: Subject) -> Subject:
    """The part of the suite that changes something: never on a real server."""
    if subject.fake is None:
        pytest.skip("nothing is changed on a real server")
    return subject


def attempt(subject: Subject, operation: str, call: Callable[[], object]) -> object:
    """What a call gives; where the version lacks it, that it says so, with the page to open."""
    if operation in subject.can:
        return call()
    with pytest.raises(Refused) as refused:
        call()
    assert refused.value.code == "server-lacks-this"
    assert refused.value.next_command.startswith(f"open {subject.forge.web}/")
    assert "from" in refused.value.looked_at[0]
    return None


def test_the_server_is_known_by_kind_and_version(subject: Subject) -> None:
    server = subject.forge.server

    assert server.kind in ("gitea", "forgejo")
    if subject.fake is not None:
        kind, _, version = subject.fake.profile.partition("-")
        assert server.kind == kind
        assert str(server).startswith(f"{kind.capitalize()} {version}")


def test_exactly_what_the_version_has_is_offered(subject: Subject) -> None:
    assert {name for name, there in subject.forge.operations().items() if there} == subject.can


def test_the_repository_is_described(subject: Subject) -> None:
    assert subject.forge.described()["permissions"]


def test_a_repository_that_is_not_there_is_told(subject: Subject) -> None:
    elsewhere = Forge(subject.forge.client, "nobody/nothing-like-this")

    with pytest.raises(NotFound) as told:
        elsewhere.described()

    assert told.value.code == "no-such-repository"


def test_secrets_are_put_and_listed_and_never_told(changing: Subject, canary: str) -> None:
    forge, fake = changing.forge, changing.fake
    assert fake is not None

    assert forge.put_secret("SOPS_AGE_KEY", Secret("first")) is True
    assert forge.put_secret("SOPS_AGE_KEY", Secret(canary)) is False

    assert fake.secrets == {"SOPS_AGE_KEY": canary}
    assert canary not in " ".join(fake.asked)
    assert attempt(changing, "secret-list", forge.secret_names) in (None, ["SOPS_AGE_KEY"])


def test_runs_are_told_with_their_state(subject: Subject) -> None:
    operation = "run-list" if "run-list" in subject.can else "task-list"
    runs = attempt(subject, operation, lambda: subject.forge.runs(10))

    if runs is not None and subject.fake is not None:
        assert isinstance(runs, list)
        [run] = runs
        assert (run.number, run.state, run.workflow, run.branch) == (7, "failure", "ci-cd-dual.yml", "develop")
        assert run.url.endswith("/team/app/actions/runs/7")


def test_a_run_has_its_jobs_wherever_the_server_tells_them(subject: Subject) -> None:
    if not {"run-list", "task-list"} & subject.can or subject.fake is None:
        return
    jobs = subject.forge.jobs(subject.forge.run(7))

    assert [(job.name, job.state) for job in jobs] == [("test-all", "success"), ("deploy-dev", "failure")]


def test_a_run_that_is_not_there_is_told(subject: Subject) -> None:
    if {"run-list", "task-list"} & subject.can:
        with pytest.raises(NotFound, match="no run 999999"):
            subject.forge.run(999_999)


def test_a_log_is_text(subject: Subject) -> None:
    job = ServerJob(101, "test-all", "success")
    text = attempt(subject, "job-log", lambda: subject.forge.log(job)) if subject.fake else None

    assert text in (None, "all passed\n")


def test_runners_are_told_with_their_labels(subject: Subject) -> None:
    runners = attempt(subject, "runner-list", subject.forge.runners)

    if runners is not None and subject.fake is not None:
        assert isinstance(runners, list)
        assert [(runner.name, runner.state, runner.labels) for runner in runners] == [("dev", "online", ("dev",))]


def test_a_job_that_a_runner_has_waits_for_none(changing: Subject) -> None:
    assert changing.fake is not None
    jobs = [FakeJob(103, "test", ["running"], labels=["dev"]), FakeJob(104, "build", ["waiting"], labels=["dev"])]
    changing.fake.runs = [FakeRun(42, 8, jobs)]

    waiting = attempt(changing, "job-waiting", lambda: changing.forge.waiting({"dev"}))

    if waiting is not None:
        assert isinstance(waiting, list)
        assert [(job.name, job.state, job.labels) for job in waiting] == [("build", "waiting", ("dev",))]


def test_a_runner_is_registered_and_forgotten(changing: Subject) -> None:
    forge = changing.forge
    made = attempt(changing, "runner-create", lambda: forge.create_runner("tests"))

    if made is not None:
        assert isinstance(made, tuple)
        identity, token = made
        [there] = [one for one in forge.runners(own=True) if one.uuid == identity]
        assert there.name == "tests"
        assert token.reveal() not in str(token)
        forge.remove_runner(there)
        assert identity not in {one.uuid for one in forge.runners()}


def test_a_registration_token_is_a_secret(changing: Subject) -> None:
    token = attempt(changing, "registration-token", changing.forge.registration_token)

    assert token in (None, Secret("registration-token-of-tests"))
    assert "tests" not in str(token)


def test_a_workflow_is_started_with_its_inputs(changing: Subject) -> None:
    page = attempt(changing, "dispatch", lambda: changing.forge.dispatch("ci-cd-dual.yml", "main", {"a": "b"}))

    if page is not None:
        assert changing.fake is not None
        assert str(page).startswith(f"{changing.forge.web}/actions")
        assert changing.fake.dispatched[0]["ref"] == "main"
        assert changing.fake.dispatched[0]["inputs"] == {"a": "b"}


def test_a_branch_that_the_server_lacks_is_told_wherever_a_workflow_can_be_started(subject: Subject) -> None:
    if "dispatch" in subject.can:
        with pytest.raises(NotFound, match="no branch or tag no/such-branch") as told:
            subject.forge.dispatch("ci-cd-dual.yml", "no/such-branch", {})
        assert told.value.code == "no-such-ref"


def test_a_run_is_run_again_and_ended(changing: Subject) -> None:
    if not {"run-list", "task-list"} & changing.can:
        return
    assert changing.fake is not None
    run = changing.forge.run(7)

    attempt(changing, "rerun", lambda: changing.forge.rerun(run, failed=False))
    attempt(changing, "rerun-failed", lambda: changing.forge.rerun(run, failed=True))
    attempt(changing, "cancel", lambda: changing.forge.cancel(run))

    assert changing.fake.reruns == (["41", "41 failed"] if "rerun" in changing.can else [])
    if "cancel" in changing.can:
        assert changing.forge.run(7).state == "cancelled"
