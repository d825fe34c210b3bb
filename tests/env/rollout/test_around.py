"""What surrounds a release: its first one, its command and hooks, its secrets, and the other tasks of env.*."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.state import State
from conche.release.records import Records
from tests.edged import EdgedStack
from tests.load import Load
from tests.stacks import free_port

pytestmark = [pytest.mark.engine, pytest.mark.in_order]

KEEPS = (
    "import os, sys; open('said', 'a').write(os.environ['CONCHE_RESULT'] + ' ' + os.environ['CONCHE_RELEASE'] + '\\n')"
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, engine: Engine, edge_image: str) -> Iterator[EdgedStack]:
    """One with hooks, a release command, a secret file and a secret variable."""
    made = EdgedStack.create(tmp_path_factory.mktemp("around") / "checkout", free_port())
    hooks = "".join(
        f"        {name}: {{command: {json.dumps([sys.executable, '-c', KEEPS])}, timeout: 300}}\n"
        for name in ("pre-deploy", "post-deploy", "on-failure", "on-rollback")
    )
    command = '["python3", "-c", "import os; print(os.uname().nodename, os.environ[\'VERSION\'])"]'
    made.replace(
        "stack.yaml", "      drain: 10\n", f"      drain: 10\n      hooks:\n{hooks}      release_command: {command}\n"
    )
    made.replace("compose/prod.yaml", 'SETTING: "', 'API_TOKEN: "${API_TOKEN:-}", SETTING: "')
    made.replace("compose/prod.yaml", "    stop_grace_period: 3s\n", "    stop_grace_period: 3s\n    secrets: [kept]\n")
    made.replace("compose/prod.yaml", "volumes:\n  edge:", "secrets:\n  kept: {file: ../kept.txt}\nvolumes:\n  edge:")
    made.write("kept.txt", "nothing yet")
    yield made
    made.remove_all(engine)


@pytest.fixture
def released(stack: EdgedStack) -> EdgedStack:
    """The same, with something deployed."""
    if stack.history()["current"] is None:
        done = stack.deploy(stack.version("one"))
        assert done.returncode == 0, done.stderr
    return stack


def ran(stack: EdgedStack) -> list[str]:
    """What the hooks have kept since they were last asked."""
    file = stack.folder / "said"
    said = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return said


def everything(stack: EdgedStack, engine: Engine, base_image: str) -> bytes:
    """All that is kept of an environment's releases, and what is said of its containers and images."""
    state = b"".join(State(engine, stack.project, [base_image]).read().values())
    inspected = [engine.client.images.get(stack.reference(version)).attrs for version in ("one", "two")]
    return state + json.dumps(inspected).encode()


def test_a_first_release_that_fails_leaves_nothing(stack: EdgedStack, engine: Engine) -> None:
    failed = stack.deploy(stack.version("bad", "crash"))

    assert failed.returncode == 4, failed.stderr
    assert "the cause of the crash" in failed.stderr
    assert stack.containers(engine) == ()
    assert f"{stack.name}-inside" not in {network["Name"] for network in engine.client.api.networks()}
    assert [one["result"] for one in stack.history()["releases"]] == ["restored"]
    assert ran(stack) == ["pre-deploy r1", "restored r1"]


def test_a_rollback_without_a_candidate_lists_what_there_is(stack: EdgedStack) -> None:
    refused = stack.rollback()

    assert refused.returncode == 6
    assert "error [no-such-release]" in refused.stderr
    assert "r1: restored" in refused.stderr


def test_env_up_deploys_where_nothing_was_and_then_finds_nothing_to_do(stack: EdgedStack, engine: Engine) -> None:
    subprocess.run(["docker", "tag", stack.version("one"), stack.reference("production")], check=True)
    shown = stack.deploy(stack.reference("production"))
    assert shown.returncode == 0, shown.stderr

    again = stack.invoke("env.up", "--env", "prod")

    assert again.returncode == 0, again.stderr
    assert "Nothing to do" in again.stdout
    assert ran(stack) == ["pre-deploy r2", "succeeded r2"]
    assert [one.name for one in containers.one_off(engine, stack.project)] == []


def test_env_up_deploys_what_was_built_here_where_no_registry_answers(fresh: EdgedStack) -> None:
    subprocess.run(["docker", "tag", fresh.version("one"), fresh.reference("production")], check=True)

    done = fresh.invoke("env.up", "--env", "prod", "--local")

    assert done.returncode == 0, done.stderr
    assert fresh.page()["version"] == "one"


def test_env_up_brings_back_what_was_stopped_or_removed(released: EdgedStack, engine: Engine) -> None:
    stack = released
    release = stack.page()["release"]
    for one in stack.containers(engine):
        if one.service == "web":
            engine.client.api.remove_container(one.id, force=True)
        elif one.service == "edge":
            engine.client.api.stop(one.id)

    ill = stack.invoke("env.status", "--env", "prod")
    done = stack.invoke("env.up", "--env", "prod")

    assert ill.returncode == 1
    assert done.returncode == 0, done.stderr
    assert stack.page()["release"] == release
    assert stack.leftovers(engine) == []


def test_env_down_and_up_again_serve_the_release_of_before(released: EdgedStack, engine: Engine) -> None:
    stack = released
    release = stack.page()["release"]

    down, up = stack.invoke("env.down", "--env", "prod"), stack.invoke("env.up", "--env", "prod")

    assert down.returncode == 0, down.stderr
    assert up.returncode == 0, up.stderr
    assert stack.page()["release"] == release


def test_env_restart_and_env_status_know_the_release(released: EdgedStack, engine: Engine) -> None:
    stack = released
    release = stack.page()["release"]

    restarted = stack.invoke("env.restart", "--env", "prod", "--service", "store")
    (status,) = stack.json("env.status", "--env", "prod")["value"]

    assert restarted.returncode == 0, restarted.stderr
    assert (status["release"], status["healthy"], status["leftovers"]) == (release, True, [])


def test_env_status_says_what_has_changed_since_the_release(released: EdgedStack) -> None:
    stack = released
    stack.replace("compose/prod.yaml", "stop_grace_period: 3s", "stop_grace_period: 4s")
    (status,) = stack.json("env.status", "--env", "prod")["value"]
    stack.replace("compose/prod.yaml", "stop_grace_period: 4s", "stop_grace_period: 3s")

    assert status["changed_since_release"] == ["web"]


def test_what_is_kept_and_cannot_be_read_is_told_and_written_anew_on_request(
    released: EdgedStack, engine: Engine, base_image: str
) -> None:
    state = State(engine, released.project, [base_image])
    assert released.invoke("env.maintenance", "--env", "prod", "--on").returncode == 0
    damaged = ["maintenance.json", "scale.json", "handover.json", "scaling.json"]
    state.write(dict.fromkeys(damaged, b'{"half'))

    refused = released.rollback("--json")
    frozen = released.invoke("env.freeze", "--env", "prod", "--reason", "its state is damaged")
    shown = released.invoke("env.history", "--env", "prod")
    planned = json.loads(released.invoke("env.recover", "--env", "prod", "--as-it-is", "--dry-run", "--json").stdout)
    written = released.invoke("env.recover", "--env", "prod", "--as-it-is")

    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["code"]) == (2, "state-damaged")
    assert error["next"].startswith("invoke env.recover --env prod --as-it-is")
    assert (frozen.returncode, shown.returncode) == (0, 0)
    assert "warning: what is kept of prod cannot be read: maintenance.json" in shown.stderr
    assert planned["value"]["written"] == damaged
    assert written.returncode == 0, written.stderr
    assert "maintenance.json: the maintenance page is shown" in written.stdout
    kept = Records(state)
    assert (kept.damaged, kept.maintained, kept.scaling) == ((), True, None)
    for words in (("env.freeze", "--off"), ("env.maintenance", "--off"), ("env.status",)):
        done = released.invoke(*words[:1], "--env", "prod", *words[1:])
        assert done.returncode == 0, done.stderr


def test_a_build_is_no_way_into_an_environment_that_is_run_by_releases(released: EdgedStack) -> None:
    stack = released
    refused = stack.invoke("env.up", "--env", "prod", "--build")

    assert refused.returncode == 2
    assert "invoke images.release --env prod" in refused.stderr


def test_a_release_command_runs_once_from_the_new_image_and_its_failure_ends_the_release(
    released: EdgedStack, engine: Engine
) -> None:
    stack = released
    ran(stack)
    before = stack.page()
    fails = '["python3", "-c", "import sys; sys.exit(\'the tables are not as they should be\')"]'
    told = (stack.folder / "stack.yaml").read_text()
    line = next(line for line in told.splitlines() if "release_command" in line)
    stack.write("stack.yaml", told.replace(line, f"      release_command: {fails}"))
    with Load(stack.port) as users:
        failed = stack.deploy(stack.version("two"))
    stack.write("stack.yaml", told)

    assert failed.returncode == 4, failed.stderr
    assert "error [release-command-failed]" in failed.stderr
    assert "the tables are not as they should be" in failed.stderr
    assert failed.stderr.count("run release-command") == 1
    assert "start release" not in failed.stderr
    assert (stack.page(), users.failures) == (before, [])
    assert containers.one_off(engine, stack.project) == ()
    assert [line.split()[0] for line in ran(stack)] == ["pre-deploy", "restored"]


def test_a_hook_that_says_no_ends_it_before_anything_is_changed(released: EdgedStack) -> None:
    stack = released
    count = len(stack.history()["releases"])
    told = (stack.folder / "stack.yaml").read_text()
    line = next(line for line in told.splitlines() if "pre-deploy" in line)
    stack.write("stack.yaml", told.replace(line, "        pre-deploy: {command: [sh, -c, 'echo not today; exit 3']}"))
    refused = stack.deploy(stack.version("two"))
    stack.write("stack.yaml", told)

    assert refused.returncode == 2
    assert "not today" in refused.stderr
    assert len(stack.history()["releases"]) == count


def test_a_hook_afterwards_that_fails_is_a_warning(released: EdgedStack) -> None:
    stack = released
    told = (stack.folder / "stack.yaml").read_text()
    line = next(line for line in told.splitlines() if "post-deploy" in line)
    stack.write("stack.yaml", told.replace(line, "        post-deploy: {command: [sleep, '60'], timeout: 0.5}"))
    done = stack.deploy(stack.version("two"))
    stack.write("stack.yaml", told)

    assert done.returncode == 0, done.stderr
    assert "the post-deploy hook failed, which does not affect the result: sleep timed out after 0.5 s" in done.stderr
    assert stack.page()["version"] == "two"


def test_a_store_that_does_not_come_up_is_brought_back_as_it_was(released: EdgedStack, engine: Engine) -> None:
    stack = released
    before = stack.page()
    stack.replace("compose/prod.yaml", '["python3", "-m", "http.server", "9000"]', '["python3", "-c", "exit(7)"]')
    with Load(stack.port) as users:
        failed = stack.deploy(stack.version("one"))
    stack.replace("compose/prod.yaml", '["python3", "-c", "exit(7)"]', '["python3", "-m", "http.server", "9000"]')

    assert failed.returncode == 4, failed.stderr
    (store,) = [one for one in stack.containers(engine) if one.service == "store"]
    assert (store.state, containers.asked(engine, store).health) == ("running", "healthy")
    assert (stack.page(), users.failures) == (before, [])


def test_no_secret_is_seen_anywhere(
    released: EdgedStack, engine: Engine, base_image: str, canary: str, tmp_path: Path
) -> None:
    """In .env and in a secret file, through a deploy, a failure, a rollback to it, and every look."""
    stack = released
    written = canary.replace("'", "").replace('"', "").replace("$", "")
    stack.write(".env", f"API_TOKEN={written}-variable\n")
    stack.write("kept.txt", f"{written}-file")
    shows = (
        '["python3", "-c", "import os; print(os.environ[\'API_TOKEN\'], open(\'/run/secrets/kept\').read()); exit(1)"]'
    )
    said = [stack.deploy(stack.version("one"), "--dry-run", "--json"), stack.deploy(stack.version("one"), "--json")]
    inside = subprocess.run(
        [*stack.argv("env.exec", "--env", "prod", "--service", "web", "--"), "cat", "/run/secrets/kept"],
        cwd=stack.folder, env=stack.environment(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    stack.write(".env", "API_TOKEN=another-that-is-long-enough\n")
    stack.write("kept.txt", "another file that is long enough")
    said.append(stack.deploy(stack.version("two"), "--json"))
    # The environment of then comes back, and what it writes when it fails must not be shown either.
    failing = (stack.folder / "stack.yaml").read_text()
    line = next(line for line in failing.splitlines() if "release_command" in line)
    stack.write("stack.yaml", failing.replace(line, f"      release_command: {shows}"))
    said.append(stack.rollback("--json"))
    stack.write("stack.yaml", failing)
    said += [stack.invoke(task, "--env", "prod", "--json") for task in ("env.history", "env.status", "env.recover")]
    said.append(stack.rollback("--json"))

    assert [done.returncode for done in said] == [0, 0, 0, 4, 0, 0, 0, 0], [done.stderr for done in said]
    assert inside == f"{written}-file"
    assert json.loads(said[0].stdout)["value"]["changed_variables"] == ["API_TOKEN", "kept"]
    assert json.loads(said[3].stdout)["error"]["evidence"] == ["*** ***"]
    streams = "".join(done.stdout + done.stderr for done in said)
    assert written not in streams
    assert written.encode() not in everything(stack, engine, base_image)
    argv = [one.labels for one in stack.containers(engine)]
    assert written not in str(argv)
    (web,) = [one for one in stack.containers(engine) if one.service == "web"]
    command = engine.client.api.inspect_container(web.id)
    assert written not in json.dumps([command["Path"], command["Args"], command["Config"]["Cmd"]])
    assert stack.page()["version"] == "one"


@pytest.mark.parametrize(("words", "code"), [((), 2), (("--allow-dirty", "--dry-run"), 0)])
def test_a_protected_environment_wants_a_commit(released: EdgedStack, words: tuple[str, ...], code: int) -> None:
    stack = released
    stack.replace("stack.yaml", "    tag: production\n", "    tag: production\n    protected: true\n")
    done = stack.deploy(stack.version("two"), *words)
    stack.replace("stack.yaml", "    protected: true\n", "")

    assert done.returncode == code, done.stderr
    assert ("error [tree-dirty]" in done.stderr) is bool(code)


def test_files_that_cannot_be_deployed_are_refused_with_every_reason(released: EdgedStack) -> None:
    stack = released
    stack.replace(
        "compose/prod.yaml", "    stop_grace_period: 3s\n", "    stop_grace_period: 3s\n    container_name: web-1\n"
    )
    refused = stack.deploy(stack.version("two"))
    stack.replace("compose/prod.yaml", "    container_name: web-1\n", "")

    assert refused.returncode == 2
    assert "error [not-deployable]" in refused.stderr
    assert "web has a container_name" in refused.stderr
