"""One suite for every server: each profile of our stand-in, and a real one where the environment names it.

CONCHE_TEST_FORGE=https://git.example.org and CONCHE_TEST_FORGE_TOKEN (write:repository, write:user) run the whole suite
on a real server too, in repositories that it makes there for the account of the token, and throws away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conche.ci.forge import Forge
from conche.ci.forge.releases import Releases
from conche.errors import ConcheError, NotFound, Refused
from conche.secret import Secret
from conche.testing.forge import PROFILES, serve
from tests.contract.forges import JOBS, LOG, WORKFLOW, RealSite, Site, StandIn

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


@pytest.fixture(params=[*PROFILES, *(["real"] if "CONCHE_TEST_FORGE" in os.environ else [])])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if request.param == "real":
        real = RealSite(os.environ["CONCHE_TEST_FORGE"], os.environ["CONCHE_TEST_FORGE_TOKEN"])
        try:
            yield real
        finally:
            real.close()
        return
    with serve(request.param) as fake:
        yield StandIn(fake, CAN[request.param])


def attempt(site: Site, operation: str, call: Callable[[], object]) -> object:
    """What a call gives; where the version lacks it, that it says so, with the page to open."""
    if operation in site.can:
        return call()
    with pytest.raises(Refused) as refused:
        call()
    assert refused.value.code == "server-lacks-this"
    assert refused.value.next_command.startswith(f"open {site.forge.web}/")
    assert "from" in refused.value.looked_at[0]
    return None


def lists_runs(site: Site) -> bool:
    return bool({"run-list", "task-list"} & site.can)


def test_the_server_is_known_by_kind_and_version(site: Site) -> None:
    server = site.forge.server

    assert server.kind in ("gitea", "forgejo")
    if site.fake is not None:
        kind, _, version = site.fake.profile.partition("-")
        assert server.kind == kind
        assert str(server).startswith(f"{kind.capitalize()} {version}")


def test_exactly_what_the_version_has_is_offered(site: Site) -> None:
    assert {name for name, there in site.forge.operations().items() if there} == site.can


def test_the_repository_is_described(site: Site) -> None:
    assert site.forge.described()["permissions"]["admin"]
    assert site.forge.exists()
    assert site.forge.repository.startswith(f"{site.forge.user()}/")


def test_a_repository_that_is_not_there_is_told(site: Site) -> None:
    elsewhere = Forge(site.forge.client, "nobody/nothing-like-this")

    with pytest.raises(NotFound) as told:
        elsewhere.described()

    assert told.value.code == "no-such-repository"


def test_secrets_are_put_and_listed_and_never_told(site: Site, canary: str) -> None:
    forge, fake = site.forge, site.fake

    assert forge.put_secret("SOPS_AGE_KEY", Secret("first")) is True
    assert forge.put_secret("SOPS_AGE_KEY", Secret(canary)) is False

    assert attempt(site, "secret-list", forge.secret_names) in (None, ["SOPS_AGE_KEY"])
    if fake is not None:
        assert fake.secrets == {"SOPS_AGE_KEY": canary}
        assert canary not in " ".join(fake.asked)


def test_a_secret_without_a_value_is_refused(site: Site) -> None:
    with pytest.raises(ConcheError, match="answered with an error"):
        site.forge.put_secret("SOPS_AGE_KEY", Secret(""))


def test_asking_whether_the_token_may_write_writes_nothing(site: Site) -> None:
    assert site.forge.may_write()
    assert attempt(site, "secret-list", site.forge.secret_names) in (None, [])


def test_a_push_is_told_and_starts_the_workflow_of_its_commit(site: Site, tmp_path: Path) -> None:
    commit = site.push(tmp_path)

    assert site.until(lambda: site.forge.tells_push("develop", commit))
    assert not site.forge.tells_push("main", commit)
    assert (site.forge.head("develop"), site.forge.head("none")) == (commit, "")
    if "run-list" in site.can:
        [run] = site.until(lambda: site.forge.runs_of(commit))
        assert (run.number, run.workflow, run.branch, run.event) == (1, WORKFLOW, "develop", "push")


def test_actions_are_switched_off_and_on(site: Site) -> None:
    site.forge.switch_actions(on=False)
    assert site.forge.described()["has_actions"] is False

    site.forge.switch_actions(on=True)
    assert site.forge.described()["has_actions"] is True


def test_a_branch_is_protected(site: Site) -> None:
    assert site.forge.protected() == set()

    site.forge.protect("main")

    assert site.forge.protected() == {"main"}


def test_runs_are_told_with_their_state(site: Site) -> None:
    number = site.run("success", "failure")
    operation = "run-list" if "run-list" in site.can else "task-list"
    runs = attempt(site, operation, lambda: site.forge.runs(10))

    if runs is not None:
        assert isinstance(runs, list)
        [run] = runs
        assert (run.number, run.state, run.workflow, run.branch) == (number, "failure", WORKFLOW, "develop")
        assert run.url == f"{site.forge.web}/actions/runs/{number}"


def test_a_run_has_its_jobs_wherever_the_server_tells_them(site: Site) -> None:
    number = site.run("success", "failure")
    if lists_runs(site):
        jobs = site.forge.jobs(site.forge.run(number))

        assert {job.name: job.state for job in jobs} == dict(zip(JOBS, ("success", "failure"), strict=True))


def test_a_run_goes_on_while_one_of_its_jobs_waits(site: Site) -> None:
    number = site.run("success", "waiting")
    if lists_runs(site):
        assert site.forge.run(number).state in ("running", "waiting")


def test_a_run_that_is_not_there_is_told(site: Site) -> None:
    if lists_runs(site):
        with pytest.raises(NotFound, match="no run 999999"):
            site.forge.run(999_999)


def test_a_log_is_text(site: Site) -> None:
    number = site.run("success", "failure")
    if lists_runs(site):
        [job] = [one for one in site.forge.jobs(site.forge.run(number)) if one.name == JOBS[0]]
        text = attempt(site, "job-log", lambda: site.forge.log(job))

        assert text is None or str(text).endswith(f"{LOG}\n")


def test_a_public_repository_has_the_log_on_a_page_where_the_api_has_none(site: Site) -> None:
    number = site.run("success", "failure")
    if site.forge.server.kind != "forgejo" or site.forge.server.version[0] != 15:
        return
    run = site.forge.run(number)
    jobs = {job.name: job for job in site.forge.jobs(run)}

    with pytest.raises(NotFound, match="hands out no log of test-all"):
        site.forge.public_log(run, jobs["test-all"])

    site.forge.client.json("PATCH", f"/repos/{site.forge.repository}", {"private": False})
    for name in JOBS:
        assert site.forge.public_log(run, jobs[name]).endswith(f"{LOG}\n")
    with pytest.raises(NotFound):
        site.forge.public_log(run, replace(jobs["test-all"], id=999_999))


def test_runners_are_told_with_their_labels(site: Site) -> None:
    if "runner-list" not in site.can:
        attempt(site, "runner-list", site.forge.runners)
        return
    site.runner("first")

    [runner] = site.forge.runners(own=True)

    assert (runner.name, runner.labels) == ("first", (site.label,))
    assert runner.state in ("online", "idle")


def test_a_job_that_a_runner_has_waits_for_none(site: Site) -> None:
    if "job-waiting" not in site.can:
        attempt(site, "job-waiting", lambda: site.forge.waiting({site.label}))
        return
    assert site.forge.waiting({site.label}) == []
    site.run("running", "waiting")

    waiting = site.forge.waiting({site.label})

    assert [(job.name, job.state, job.labels) for job in waiting] == [(JOBS[1], "waiting", (site.label,))]


def test_a_runner_is_registered_and_forgotten(site: Site) -> None:
    forge = site.forge
    made = attempt(site, "runner-create", lambda: forge.create_runner("tests"))

    if made is not None:
        assert isinstance(made, tuple)
        identity, token = made
        [there] = [one for one in forge.runners(own=True) if one.uuid == identity]
        assert (there.name, there.state, there.labels) == ("tests", "offline", ())
        assert token.reveal() not in str(token)
        assert site.knows(identity, token)
        forge.remove_runner(there)
        assert identity not in {one.uuid for one in forge.runners()}
        assert not site.knows(identity, token)


def test_two_runners_may_have_one_name(site: Site) -> None:
    if "runner-create" in site.can:
        made = {site.forge.create_runner("tests")[0] for _ in range(2)}

        assert {one.uuid for one in site.forge.runners(own=True) if one.name == "tests"} == made


def test_a_registration_token_is_a_secret(site: Site) -> None:
    token = attempt(site, "registration-token", site.forge.registration_token)

    assert token is None or (isinstance(token, Secret) and len(token.reveal()) > 10)
    assert token is None or token.reveal() not in str(token)


def test_a_workflow_is_started_with_its_inputs(site: Site) -> None:
    site.run("waiting", "waiting")
    page = attempt(site, "dispatch", lambda: site.forge.dispatch(WORKFLOW, "develop", {"a": "b"}))

    if page is not None and site.fake is not None:
        assert (site.fake.dispatched[0]["ref"], site.fake.dispatched[0]["inputs"]) == ("develop", {"a": "b"})
    if page is not None and "run-list" in site.can:
        run = site.until(lambda: next((one for one in site.forge.runs(10) if one.event == "workflow_dispatch"), None))
        assert (run.workflow, run.branch) == (WORKFLOW, "develop")
        assert page in (run.url, f"{site.forge.web}/actions")


def test_a_branch_that_the_server_lacks_is_told_wherever_a_workflow_can_be_started(site: Site) -> None:
    site.run("waiting", "waiting")
    if "dispatch" in site.can:
        with pytest.raises(NotFound, match="no branch or tag no/such-branch") as told:
            site.forge.dispatch(WORKFLOW, "no/such-branch", {})
        assert told.value.code == "no-such-ref"


def test_a_run_is_run_again(site: Site) -> None:
    number = site.run("success", "failure")
    if lists_runs(site):
        run = site.forge.run(number)

        attempt(site, "rerun", lambda: site.forge.rerun(run, failed=False))
        attempt(site, "rerun-failed", lambda: site.forge.rerun(run, failed=True))

        if site.fake is not None:
            assert site.fake.reruns == ([str(run.id), f"{run.id} failed"] if "rerun" in site.can else [])


def test_a_run_is_ended(site: Site) -> None:
    number = site.run("running", "waiting")
    if lists_runs(site):
        run = site.forge.run(number)

        attempt(site, "cancel", lambda: site.forge.cancel(run))

        if "cancel" in site.can:
            assert site.forge.run(number).state == "cancelled"


def test_a_release_takes_files_and_gives_them_back_byte_for_byte(site: Site, tmp_path: Path) -> None:
    releases, file = Releases(site.forge.client, site.forge.repository), tmp_path / "a wheel.whl"
    file.write_bytes(bytes(range(256)) * 400)
    site.tag("v1.0.0")

    assert len(releases.commit_of("v1.0.0")) == 40
    assert (releases.commit_of("v2.0.0"), releases.find("v1.0.0")) == ("", None)
    page = releases.draft("v1.0.0", "What is new")
    assert (page.draft, page.files) == (True, ())
    releases.attach(page, file)
    found = releases.find("v1.0.0")
    assert found is not None
    assert (found.draft, [one.name for one in found.files]) == (True, ["a wheel.whl"])
    assert releases.has(found, file)

    assert found.ours
    releases.show(found, "What is new")
    file.write_bytes(bytes(range(256)) * 399 + bytes(256))
    assert not releases.has(found, file)
    releases.attach(found, file)
    two = releases.find("v1.0.0")
    assert two is not None
    assert (two.draft, two.ours, len(two.named("a wheel.whl"))) == (False, False, 2)
    releases.detach(two, found.files[0])
    one = releases.find("v1.0.0")
    assert one is not None
    assert releases.has(one, file)
