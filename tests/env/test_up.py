"""env.up, on the real engine."""

from __future__ import annotations

import json
import re
import socket
import urllib.request

import pytest

from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


def page(stack: SmallStack) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.port}/") as answer:
        text: str = answer.read().decode()
        return text


def test_a_fresh_checkout_comes_up_healthy_and_answers(small: SmallStack, engine: Engine) -> None:
    document = small.json("env.up")

    assert [(step["action"], step["subject"]) for step in document["plan"]] == [
        ("create", f"network {small.name}-outside"),
        ("build", f"image {small.image}"),
        ("create", "service web"),
    ]
    assert document["changed"] is True
    assert document["value"]["healthy"] is True
    assert [(s["service"], s["state"], s["health"]) for s in document["value"]["services"]] == [
        ("web", "running", "healthy")
    ]
    assert page(small) == "one"


def test_a_second_run_changes_nothing_and_says_so(small: SmallStack, engine: Engine) -> None:
    small.up()
    before = [(c.id, c.started_at) for c in small.containers(engine)]

    again = small.invoke("env.up")
    document = small.json("env.up")

    assert "Nothing to do: it is up and healthy." in again.stdout
    assert (document["changed"], document["plan"]) == (False, [])
    assert [(c.id, c.started_at) for c in small.containers(engine)] == before


def test_a_dry_run_shows_the_plan_and_changes_nothing(small: SmallStack, engine: Engine) -> None:
    planned = small.json("env.up", "--dry-run")

    assert len(planned["plan"]) == 3
    assert planned["changed"] is False
    assert small.containers(engine) == ()


def test_a_changed_definition_replaces_the_container_after_a_trial(small: SmallStack, engine: Engine) -> None:
    small.up()
    (before,) = small.containers(engine)
    small.replace("compose/dev.yaml", "SETTING: ${SETTING:-none}", "SETTING: another")

    done = small.invoke("env.up")

    (after,) = small.containers(engine)
    assert done.returncode == 0
    assert "trying the new web beside the one that serves" in done.stderr
    assert after.id != before.id


def test_what_must_never_run_twice_is_replaced_without_a_trial(small: SmallStack, engine: Engine) -> None:
    small.replace("compose/dev.yaml", "  web:\n", '  web:\n    labels: {io.conche.trial: "no"}\n')
    small.up()
    (before,) = small.containers(engine)
    small.replace("compose/dev.yaml", "SETTING: ${SETTING:-none}", "SETTING: another")

    done = small.invoke("env.up")

    (after,) = small.containers(engine)
    assert done.returncode == 0
    assert "replacing web" in done.stderr
    assert "trying the new web" not in done.stderr
    assert after.id != before.id


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("crash", "the cause of the crash"),
        ("hang", "server starts: hang"),
        ("sick", "server starts: sick"),
        ("memory", r"\(OOM\)|exit code 137"),
    ],
)
def test_what_does_not_start_is_removed_and_shows_its_last_lines(
    small: SmallStack, engine: Engine, behaviour: str, said: str
) -> None:
    small.behave(behaviour)

    failed = small.invoke("env.up")

    assert failed.returncode == 4
    assert "error [start-failed]" in failed.stderr
    assert re.search(said, failed.stderr)
    assert "Traceback" not in failed.stderr
    assert small.containers(engine) == ()
    assert f"{small.name}-outside" not in {network["Name"] for network in engine.client.api.networks()}


@pytest.mark.parametrize(
    "behaviour", ["crash", "sick", *(pytest.param(one, marks=pytest.mark.long) for one in ("hang", "memory"))]
)
def test_what_works_goes_on_serving_when_its_successor_does_not(
    small: SmallStack, engine: Engine, behaviour: str
) -> None:
    small.up()
    (before,) = small.containers(engine)
    small.behave(behaviour)
    small.replace("compose/dev.yaml", "SETTING: ${SETTING:-none}", "SETTING: another")

    failed = small.invoke("env.up")

    assert failed.returncode == 4
    assert "was not touched" in failed.stderr
    (after,) = small.containers(engine)
    assert (after.id, after.started_at) == (before.id, before.started_at)
    assert page(small) == "one"


def test_a_timeout_overrides_what_the_healthcheck_allows(small: SmallStack) -> None:
    small.behave("hang")
    small.replace("compose/dev.yaml", "start_period: 3s", "start_period: 600s")

    failed = small.invoke("env.up", "--timeout", "1.5")

    assert failed.returncode == 4
    assert "was not healthy within 1.5 s" in failed.stderr


def test_a_port_taken_by_a_process_is_refused_with_its_name(small: SmallStack, engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", small.port)):
        refused = small.invoke("env.up")

    assert refused.returncode == 2
    assert f"Port {small.port}, which web publishes, is taken by process" in refused.stderr
    assert "(pid " in refused.stderr
    assert small.containers(engine) == ()


def test_a_port_taken_by_a_container_is_refused_with_its_name(
    small: SmallStack, engine: Engine, base_image: str
) -> None:
    stranger = engine.client.containers.run(
        base_image,
        ["sleep", "600"],
        name=f"{small.name}-stranger",
        ports={"8000/tcp": ("127.0.0.1", small.port)},
        detach=True,
    )

    refused = small.invoke("env.up")

    assert stranger.name is not None
    assert refused.returncode == 2
    assert f"is taken by container {small.name}-stranger" in refused.stderr


def test_a_network_that_is_there_already_is_used_as_it_is(small: SmallStack, engine: Engine) -> None:
    engine.client.api.create_network(f"{small.name}-outside")

    document = small.json("env.up")

    assert [step["action"] for step in document["plan"]] == ["build", "create"]


def test_an_unhealthy_service_is_restarted(small: SmallStack, engine: Engine) -> None:
    small.up()
    small.behave("ill")
    wait_for(engine, small, "health_status: unhealthy")
    small.behave("well")

    document = small.json("env.up")

    assert [(step["action"], step["cause"]) for step in document["plan"]] == [("restart", "is unhealthy")]
    assert document["value"]["healthy"] is True


def wait_for(engine: Engine, stack: SmallStack, action: str) -> None:
    """Until the engine reports this event of the stack's container."""
    events = engine.client.api.events(decode=True, filters={"container": f"{stack.name}-web"})
    next(event for event in events if event["Action"] == action)
    events.close()


def test_values_from_the_shell_reach_the_files_that_name_them(small: SmallStack, engine: Engine) -> None:
    done = small.invoke("env.up", SETTING="from the shell", UNNAMED="stays behind")

    assert done.returncode == 0, done.stderr
    (container,) = small.containers(engine)
    variables = engine.client.api.inspect_container(container.id)["Config"]["Env"]
    assert "SETTING=from the shell" in variables
    assert not [variable for variable in variables if variable.startswith("UNNAMED")]


def test_env_update_replaces_one_service_with_a_new_image(small: SmallStack, engine: Engine) -> None:
    small.up()
    (before,) = small.containers(engine)
    small.replace("docker/server.py", "server starts:", "server starts anew:")

    done = small.invoke("env.update", "--service", "web", "--build")

    (after,) = small.containers(engine)
    assert done.returncode == 0, done.stderr
    assert after.image_id != before.image_id
    assert "server starts anew: well" in small.invoke("env.logs").stdout


def test_env_update_builds_where_no_registry_has_the_image(small: SmallStack) -> None:
    small.up()
    small.replace("docker/server.py", "server starts:", "server starts anew:")

    done = small.invoke("env.update", "--service", "web")

    assert done.returncode == 0, done.stderr
    assert "Building it from this checkout instead" in done.stderr
    assert "server starts anew: well" in small.invoke("env.logs").stdout


def test_env_update_of_an_unknown_service_names_the_ones_there_are(small: SmallStack) -> None:
    refused = small.invoke("env.update", "--service", "wep")

    assert refused.returncode == 6
    assert "Did you mean 'web'?" in refused.stderr


def test_env_restart_starts_the_container_anew(small: SmallStack, engine: Engine) -> None:
    small.up()
    (before,) = small.containers(engine)

    done = small.invoke("env.restart")

    (after,) = small.containers(engine)
    assert done.returncode == 0, done.stderr
    assert after.id == before.id
    assert after.started_at is not None
    assert before.started_at is not None
    assert after.started_at > before.started_at


def test_an_unknown_environment_is_answered_with_the_one_that_was_meant(small: SmallStack) -> None:
    refused = small.invoke("env.up", "--env", "dve")

    assert refused.returncode == 6
    assert "Did you mean 'dev'?" in refused.stderr
    assert "invoke env.up --env dev" in refused.stderr


def test_a_checkout_path_with_spaces_and_quotes_works(small: SmallStack, engine: Engine) -> None:
    folder = small.folder.rename(small.folder.parent / "my check'out")
    moved = SmallStack(folder, small.name, small.port)

    done = moved.invoke("env.up")

    assert done.returncode == 0, done.stderr
    assert page(moved) == "one"


def test_a_broken_dockerfile_ends_with_the_failing_step(small: SmallStack, engine: Engine) -> None:
    small.write("docker/web.Dockerfile", "FROM python:3.11-slim-bookworm\nRUN echo before\nRUN echo why && exit 3\n")

    failed = small.invoke("env.up")

    assert failed.returncode == 2
    assert "error [build-failed]" in failed.stderr
    assert "why" in failed.stderr
    assert "exit code: 3" in failed.stderr
    assert small.containers(engine) == ()


def test_an_invalid_compose_file_is_refused_in_the_words_of_compose(small: SmallStack) -> None:
    small.replace("compose/dev.yaml", "restart: unless-stopped", "restrat: unless-stopped")

    refused = small.invoke("env.up")

    assert refused.returncode == 2
    assert "restrat" in refused.stderr
    assert "compose/dev.yaml" in refused.stderr


def test_a_restart_into_a_crash_says_that_what_worked_is_gone(small: SmallStack) -> None:
    small.up()
    small.behave("crash")

    failed = small.invoke("env.restart")

    assert failed.returncode == 5
    assert "error [previous-state-lost]" in failed.stderr
    assert "the cause of the crash" in failed.stderr
    assert "git stash" in failed.stderr


def test_a_change_that_brings_a_new_volume_is_tried_with_a_stand_in(small: SmallStack, engine: Engine) -> None:
    small.up()
    small.replace("compose/dev.yaml", "      - kept:/kept\n", "      - kept:/kept\n      - new:/new\n")
    small.replace("compose/dev.yaml", "volumes:\n  kept:", f"volumes:\n  new: {{name: {small.name}-new}}\n  kept:")

    done = small.invoke("env.up")

    assert done.returncode == 0, done.stderr
    volumes = {volume["Name"] for volume in engine.client.api.volumes()["Volumes"]}
    assert {name for name in volumes if small.name in name} == {f"{small.name}-kept", f"{small.name}-new"}


def test_services_start_after_what_they_depend_on(small: SmallStack, engine: Engine) -> None:
    small.replace(
        "compose/dev.yaml",
        "services:\n  web:\n",
        "services:\n  early:\n    image: python:3.11-slim-bookworm\n    command: [sleep, '600']\n    init: true\n"
        "    healthcheck: {test: [CMD, 'true'], interval: 1s}\n    networks: [outside]\n"
        "  web:\n    depends_on: {early: {condition: service_healthy}}\n",
    )

    done = small.invoke("env.up")

    said = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    order = [line for line in said if line.startswith(("create service", "waiting"))]
    assert order == [
        "create service early (has no container)",
        "create service web (has no container)",
        "waiting until early is healthy",
        "waiting until early, web are healthy",
    ]
    assert small.json("env.up")["plan"] == []
    assert small.invoke("env.status").returncode == 0


def test_a_successor_that_ends_by_itself_does_not_replace_what_serves(small: SmallStack, engine: Engine) -> None:
    small.up()
    (before,) = small.containers(engine)
    small.replace("compose/dev.yaml", "    restart: unless-stopped", "    command: ['true']")

    failed = small.invoke("env.up")

    assert failed.returncode == 4
    assert [container.id for container in small.containers(engine)] == [before.id]
    assert page(small) == "one"


def test_a_new_port_that_a_stranger_holds_is_refused_before_anything_changes(small: SmallStack, engine: Engine) -> None:
    small.up()
    (before,) = small.containers(engine)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        small.replace("stack.yaml", f"port: {small.port}", f"port: {taken}")
        refused = small.invoke("env.up")

    assert refused.returncode == 2
    assert f"Port {taken}, which web publishes, is taken by process" in refused.stderr
    assert [container.id for container in small.containers(engine)] == [before.id]


def test_a_paused_service_goes_on(small: SmallStack, engine: Engine) -> None:
    small.up()
    (before,) = small.containers(engine)
    engine.client.api.pause(before.id)

    document = small.json("env.up")

    (now,) = small.containers(engine)
    assert [(step["action"], step["cause"]) for step in document["plan"]] == [("unpause", "is paused")]
    assert (now.id, now.state, now.started_at) == (before.id, "running", before.started_at)
    assert page(small) == "one"


def test_an_update_with_the_same_image_changes_nothing(small: SmallStack, engine: Engine) -> None:
    small.up()
    (before,) = small.containers(engine)

    document = small.json("env.update", "--service", "web", "--build")

    assert document["changed"] is False
    assert [container.id for container in small.containers(engine)] == [before.id]


def test_a_healthcheck_that_hangs_does_not_hang_the_command(small: SmallStack) -> None:
    small.replace("compose/dev.yaml", '"python3", "-ISc",', '"sh", "-c", "exec sleep 600",')
    small.replace("compose/dev.yaml", "timeout: 10s", "timeout: 1s")

    failed = small.invoke("env.up", "--timeout", "4")

    assert failed.returncode == 4
    assert "error [start-failed]" in failed.stderr


def test_a_restart_leaves_what_is_in_no_file_alone(small: SmallStack, engine: Engine) -> None:
    small.up()
    small.replace("compose/dev.yaml", "  web:\n", "  other:\n")

    refused = small.invoke("env.restart")

    assert refused.returncode == 2
    assert "error [nothing-runs]" in refused.stderr


def test_a_secret_of_dotenv_stays_out_of_what_is_said_of_a_crash(small: SmallStack, canary: str) -> None:
    token = canary[:30]
    small.write(".env", f"WEB_TOKEN={token}\n")
    small.replace("docker/server.py", 'sys.exit("the cause of the crash")', 'sys.exit(os.environ["WEB_TOKEN"])')
    small.behave("crash")

    failed = small.invoke("env.up")

    assert failed.returncode == 4
    assert "***" in failed.stderr
    assert token not in failed.stdout + failed.stderr


@pytest.mark.parametrize("protected", ["false", "true"])
def test_a_service_whose_image_cannot_be_had_does_not_keep_the_others_down(
    engine: Engine, small: SmallStack, protected: str
) -> None:
    small.replace("stack.yaml", "    tag: develop\n", f"    tag: develop\n    protected: {protected}\n")
    small.replace(
        "compose/dev.yaml",
        "services:\n",
        "services:\n  other: {image: 'registry.invalid/nothing:1', networks: [outside], restart: always}\n",
    )

    done = small.invoke("env.up", "--json")

    document = json.loads(done.stdout)
    assert (done.returncode, "brought-up-in-part" in done.stderr) == (3, True), done.stderr
    states = {one["service"]: one["state"] for one in document["value"]["services"]}
    assert (document["changed"], document["error"]["exit_code"], states["web"]) == (True, 3, "running")
    assert [(one.service, one.state) for one in small.containers(engine)] == [("web", "running")]
