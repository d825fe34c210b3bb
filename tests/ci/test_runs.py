"""The tasks on runs and on the server, against servers of one version each; bad answers, and none."""

from __future__ import annotations

import datetime as dt
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conche.ci.forge import Forge
from conche.ci.forge.client import Client
from conche.ci.forge.waiting import explained
from conche.ci.forge.where import origin
from conche.secret import Secret
from conche.testing.forge import FakeForge, FakeJob, FakeRun, serve
from tests.stacks import SmallStack, free_port

pytestmark = pytest.mark.process

TOKEN = "good-token-of-tests"
WORKFLOW = "on: {push: , workflow_dispatch: }\njobs: {test: {runs-on: dev, steps: [{run: make}]}}\n"


def stack_for(folder: Path, address: str) -> SmallStack:
    stack = SmallStack.create(folder / "checkout", port=1)
    section = f"ci: {{server: '{address}', repository: team/app, secrets: [SOPS_AGE_KEY, OTHER_TOKEN]}}\n"
    stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + section)
    stack.write(".gitea/workflows/ci-cd-dual.yml", WORKFLOW)
    return stack


@pytest.fixture
def forge(request: pytest.FixtureRequest) -> Iterator[FakeForge]:
    with serve(getattr(request, "param", "gitea-1.26")) as fake:
        jobs = [
            FakeJob(101, "test-all", ["success"], "all passed\n"),
            FakeJob(102, "deploy-dev", ["failure"], "no room\n"),
        ]
        fake.runs = [FakeRun(40, 6, [FakeJob(90, "test-all", ["success"])], branch="main"), FakeRun(41, 7, jobs)]
        yield fake


@pytest.fixture
def stack(forge: FakeForge, tmp_path: Path) -> SmallStack:
    return stack_for(tmp_path, forge.address)


def ask(stack: SmallStack, *words: str, token: str = TOKEN, **extra: str) -> Any:
    return stack.json(*words, FORGEJO_TOKEN=token, **extra)


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


def runner(state: str, label: str = "dev") -> dict[str, Any]:
    return {"id": 1, "uuid": "x", "name": "first", "status": state, "labels": [label]}


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


# Bad answers, and none

FAULTS = {
    "500": ("server-failed", 9, "as the test wanted"),
    "html": ("server-answers-no-json", 9, "Sign in to the proxy"),
    "redirect": ("server-moved", 2, "elsewhere.example.org"),
    "429": ("server-wants-a-pause", 9, "7 s"),
    "404": ("server-has-no-such-thing", 6, "404"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_answer_is_told_in_words(stack: SmallStack, forge: FakeForge, fault: str) -> None:
    code, status, words = FAULTS[fault]
    forge.fault = fault

    failed = stack.invoke("ci.status", FORGEJO_TOKEN=TOKEN)

    assert failed.returncode == status
    assert f"[{code}]" in failed.stderr
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr
    assert TOKEN not in failed.stderr


def test_no_server_there(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"

    error = ask(stack_for(tmp_path, address), "ci.status")["error"]

    assert (error["code"], error["exit_code"]) == ("server-unreachable", 9)
    assert error["looked_at"] == [address]
    assert error["next"] == "correct ci.server in stack.yaml"


def test_a_server_of_the_stack_that_is_down_is_named_by_its_environment(tmp_path: Path) -> None:
    stack = stack_for(tmp_path, f"http://127.0.0.1:{free_port()}")
    stack.write("compose/dev.yaml", "services: {forge: {image: 'codeberg.org/forgejo/forgejo:15-rootless'}}\n")

    error = ask(stack, "ci.status")["error"]

    assert error["next"] == "invoke env.status --env dev    # or correct ci.server in stack.yaml"


def test_a_server_that_speaks_no_tls(stack: SmallStack, forge: FakeForge) -> None:
    stack.replace("stack.yaml", forge.address, forge.address.replace("http:", "https:"))

    assert ask(stack, "ci.status")["error"]["code"] == "server-certificate-refused"


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / "certificate.pem"
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return file


def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        error = ask(stack_for(tmp_path, f"https://localhost:{server.server_port}"), "ci.status")["error"]
    finally:
        server.shutdown()
        server.server_close()

    assert error["code"] == "server-certificate-refused"
    assert "SSL_CERT_FILE" in error["next"]


def test_a_token_that_the_server_does_not_know(stack: SmallStack) -> None:
    error = ask(stack, "ci.status", token="another-token")["error"]

    assert (error["code"], error["exit_code"]) == ("server-token-refused", 8)
    assert "/user/settings/applications" in error["next"]


def test_a_token_that_was_not_copied_whole_is_not_sent(stack: SmallStack, forge: FakeForge) -> None:
    error = ask(stack, "ci.status", token="0123456789…")["error"]

    assert (error["code"], error["exit_code"]) == ("server-token-refused", 8)
    assert "0123456789" not in str(error)
    assert forge.asked == []


def test_an_address_that_is_none(tmp_path: Path) -> None:
    error = ask(stack_for(tmp_path, "http://localhost:port"), "ci.status")["error"]

    assert (error["code"], error["exit_code"]) == ("server-unreachable", 9)


def test_a_token_without_rights_says_which_right_is_missing(stack: SmallStack, forge: FakeForge) -> None:
    forge.tokens["weak-token"] = "read:repository"

    error = ask(stack, "ci.rerun", token="weak-token")["error"]

    assert (error["code"], error["exit_code"]) == ("server-token-lacks-right", 8)
    assert "it lacks the scope write:repository" in error["message"]


def test_without_a_token_it_says_where_one_comes_from(stack: SmallStack, forge: FakeForge) -> None:
    error = stack.json("ci.status")["error"]

    assert (error["code"], error["exit_code"]) == ("server-token-missing", 8)
    assert f"{forge.address}/user/settings/applications" in error["next"]
    assert forge.asked == []


def test_a_repository_that_is_not_there(stack: SmallStack) -> None:
    stack.replace("stack.yaml", "team/app", "team/ap")

    assert ask(stack, "ci.status")["error"]["code"] == "no-such-repository"


@pytest.mark.parametrize(
    ("remote", "place"),
    [
        ("http://localhost:3000/team/app.git", ("http://localhost:3000", "team/app")),
        ("https://git.example.org/below/team/app", ("https://git.example.org/below", "team/app")),
        ("ssh://git@git.example.org:2222/team/app.git", ("https://git.example.org", "team/app")),
        ("git@git.example.org:team/app.git", ("https://git.example.org", "team/app")),
        ("http://git.example.org:port/team/app.git", None),
        ("http://[::1/team/app.git", None),
        ("/srv/git/app.git", None),
        ("https://git.example.org/app", None),
        ("", None),
    ],
)
def test_the_server_is_found_by_gits_origin(remote: str, place: tuple[str, str] | None) -> None:
    assert origin(remote) == place


def test_without_server_and_origin_it_says_what_to_set(stack: SmallStack, forge: FakeForge) -> None:
    stack.replace("stack.yaml", f"server: '{forge.address}', ", "")
    subprocess.run(["git", "-C", str(stack.folder), "init", "--quiet"], check=True)

    assert ask(stack, "ci.status")["error"]["code"] == "server-unknown"

    subprocess.run(
        ["git", "-C", str(stack.folder), "remote", "add", "origin", f"{forge.address}/team/app.git"], check=True
    )
    assert [run["number"] for run in ask(stack, "ci.status")["value"]] == [7, 6]


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


def test_a_dispatch_of_a_branch_that_the_server_lacks_is_told(stack: SmallStack, forge: FakeForge) -> None:
    error = ask(stack, "ci.dispatch", "ci-cd-dual", "--ref", "feature/y")["error"]

    assert (error["code"], error["exit_code"]) == ("no-such-ref", 6)
    assert "feature/y" in error["message"]


def test_doctor_without_a_server_still_looks_at_the_rest(tmp_path: Path) -> None:
    stack = stack_for(tmp_path, f"http://127.0.0.1:{free_port()}")

    states = {one["name"]: one["state"] for one in ask(stack, "ci.doctor")["value"]}

    assert (states["act"], states["server"]) == ("ok", "missing")
