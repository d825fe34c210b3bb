"""env.down, status, logs, health, config, exec and networks, on the real engine."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import threading

import pytest
import yaml

from conche.engine.connection import Engine
from tests import warm
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


def volumes(engine: Engine) -> set[str]:
    return {volume["Name"] for volume in engine.client.api.volumes()["Volumes"] or []}


def test_down_keeps_the_data(small: SmallStack, engine: Engine) -> None:
    small.up()

    done = small.invoke("env.down")

    assert done.returncode == 0, done.stderr
    assert small.containers(engine) == ()
    assert f"{small.name}-kept" in volumes(engine)


def test_down_twice_finds_nothing_to_do(small: SmallStack) -> None:
    document = small.json("env.down")

    assert (document["changed"], document["plan"]) == (False, [])


def test_down_with_volumes_asks_and_without_a_terminal_refuses(small: SmallStack, engine: Engine) -> None:
    small.up()

    refused = small.invoke("env.down", "--volumes")

    assert refused.returncode == 2
    assert f"volume {small.name}-kept and the data in it will be deleted" in refused.stderr
    assert "--yes" in refused.stderr
    assert len(small.containers(engine)) == 1
    assert f"{small.name}-kept" in volumes(engine)


def test_down_with_volumes_and_yes_deletes_the_data(small: SmallStack, engine: Engine) -> None:
    small.up()
    small.invoke("env.freeze", "--reason", "a feast")

    document = small.json("env.down", "--volumes", "--yes")

    assert document["value"]["deleted_volumes"] == [f"{small.name}-kept", f"{small.project}-state"]
    assert {f"{small.name}-kept", f"{small.project}-state"}.isdisjoint(volumes(engine))
    assert small.json("env.down", "--volumes", "--yes")["changed"] is False


def test_a_dry_run_of_down_lists_the_volumes_and_keeps_everything(small: SmallStack, engine: Engine) -> None:
    small.up()

    document = small.json("env.down", "--volumes", "--dry-run")

    assert [(step["action"], step["destroys"]) for step in document["plan"]] == [("stop", False), ("delete", True)]
    assert len(small.containers(engine)) == 1


@pytest.mark.parametrize(
    ("words", "code"), [((), 2), (("--yes",), 2), (("--confirm", "prod"), 2), (("--confirm", "dev"), 0)]
)
def test_a_protected_environment_goes_down_only_by_its_name(
    small: SmallStack, engine: Engine, words: tuple[str, ...], code: int
) -> None:
    small.replace("stack.yaml", "    tag: develop", "    tag: develop\n    protected: true")
    small.up()

    done = small.invoke("env.down", *words)

    assert done.returncode == code
    assert len(small.containers(engine)) == (1 if code else 0)


def test_on_a_terminal_a_protected_environment_wants_its_name_typed(small: SmallStack, engine: Engine) -> None:
    small.replace("stack.yaml", "    tag: develop", "    tag: develop\n    protected: true")
    small.up()
    ours, theirs = pty.openpty()
    asking = warm.Popen[bytes](
        small.argv("env.down"), cwd=small.folder, env=small.environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )

    def drain() -> None:
        # Until all ends on the other side are closed; a terminal that nobody reads makes its writer wait.
        with contextlib.suppress(OSError):
            while os.read(ours, 4096):
                pass

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    os.write(ours, b"dev\n")
    assert asking.wait(300) == 0
    os.close(theirs)
    reader.join()
    os.close(ours)

    assert small.containers(engine) == ()


def test_status_of_a_healthy_environment_ends_with_zero(small: SmallStack) -> None:
    small.up()

    done = small.invoke("env.status", "--json")

    (value,) = json.loads(done.stdout)["value"]
    assert done.returncode == 0
    assert (value["environment"], value["up"], value["healthy"]) == ("dev", True, True)
    assert value["services"][0]["drift"] == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "drift"),
    [
        (
            "compose/dev.yaml",
            "SETTING: ${SETTING:-none}",
            "SETTING: another",
            "its definition changed: environment.SETTING",
        ),
        ("compose/dev.yaml", "  web:\n", "  other:\n", "has no container"),
    ],
)
def test_status_tells_drift_and_ends_with_one(small: SmallStack, file: str, old: str, new: str, drift: str) -> None:
    small.up()
    small.replace(file, old, new)

    done = small.invoke("env.status")

    assert done.returncode == 1
    assert f"drift: {drift}" in done.stdout


def test_status_tells_that_the_image_is_another_one_now(small: SmallStack, engine: Engine, base_image: str) -> None:
    small.up()
    engine.client.images.get(base_image).tag(small.image)

    done = small.invoke("env.status")

    assert done.returncode == 1
    assert "drift: its image changed" in done.stdout


def test_status_of_all_counts_an_environment_that_is_down_as_well(small: SmallStack) -> None:
    everywhere, by_name = small.invoke("env.status"), small.invoke("env.status", "--env", "dev")

    assert (everywhere.returncode, by_name.returncode) == (0, 1)
    assert "dev: stopped, no containers" in everywhere.stdout
    assert "absent" in by_name.stdout


def test_status_of_a_stopped_container_ends_with_one(small: SmallStack, engine: Engine) -> None:
    small.up()
    engine.client.api.stop(small.containers(engine)[0].id)

    done = small.invoke("env.status")

    assert done.returncode == 1
    assert "exited" in done.stdout


def test_logs_show_the_last_lines_of_a_service(small: SmallStack) -> None:
    silent = small.invoke("env.logs")
    assert (silent.returncode, silent.stdout.split(".")[0]) == (0, "dev has no container, or its log is empty")
    small.up()

    assert "server starts: well" in small.invoke("env.logs", "--service", "web", "--tail", "1").stdout
    assert small.json("env.logs", "--tail", "1")["value"][0].endswith("server starts: well")
    assert "\x1b" not in small.invoke("env.logs").stdout


def test_logs_that_are_followed_end_with_an_interrupt(small: SmallStack) -> None:
    small.up()
    with warm.Popen[str](
        small.argv("env.logs", "--follow"),
        cwd=small.folder,
        env=small.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        first = following.stdout.readline()
        following.terminate()
        _, errors = following.communicate(timeout=300)

    assert "server starts: well" in first
    assert following.returncode == 143
    assert "Traceback" not in errors


def test_health_asks_the_url_and_shows_the_answer(small: SmallStack) -> None:
    small.up()

    document = small.json("env.health")

    assert (document["value"]["status"], document["value"]["answer"]) == (200, "one")


def test_health_of_what_does_not_answer_ends_with_one_and_the_next_command(small: SmallStack) -> None:
    failed = small.invoke("env.health")

    assert failed.returncode == 1
    assert "invoke env.logs --env dev --tail 50" in failed.stderr


def test_health_waits_until_it_answers(small: SmallStack) -> None:
    with warm.Popen[bytes](
        small.argv("env.health", "--wait"), cwd=small.folder, env=small.environment(), stdout=subprocess.PIPE
    ) as waiting:
        small.up()
        waiting.communicate(timeout=300)

    assert waiting.returncode == 0


def test_config_masks_what_is_named_like_a_secret(small: SmallStack, canary: str) -> None:
    shown = small.invoke("env.config", WEB_TOKEN=canary, SETTING="plain")

    variables = yaml.safe_load(shown.stdout)["services"]["web"]["environment"]
    assert variables == {"SETTING": "plain", "WEB_TOKEN": "***"}
    assert canary[:20] not in shown.stdout + shown.stderr


def test_exec_keeps_words_apart_and_passes_the_exit_code_on(small: SmallStack) -> None:
    small.up()

    said = small.invoke("env.exec", "--service", "web", "--", "python3", "-c", "print('two  words'); exit(7)")

    assert (said.stdout, said.returncode) == ("two  words\n", 7)


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("--service", "web"), 2, "no-command"),
        (("--service", "wep", "--", "true"), 6, "no-such-service"),
        (("--service", "web", "--", "true"), 2, "not-running"),
    ],
)
def test_exec_of_what_cannot_be_says_why(small: SmallStack, words: tuple[str, ...], code: int, error: str) -> None:
    refused = small.invoke("env.exec", *words)

    assert refused.returncode == code
    assert f"[{error}]" in refused.stderr


def test_networks_tell_what_is_missing_and_make_it(small: SmallStack, engine: Engine) -> None:
    missing, made = small.invoke("env.networks"), small.invoke("env.networks", "--create")

    assert missing.returncode == 1
    assert "invoke env.networks --env dev --create" in missing.stdout
    assert made.returncode == 0
    assert f"{small.name}-outside" in {network["Name"] for network in engine.client.api.networks()}


@pytest.mark.parametrize("task", ["env.up", "env.status", "env.down", "env.config", "env.networks"])
def test_without_an_engine_or_files_every_task_says_so(small: SmallStack, task: str) -> None:
    refused = small.invoke(task, DOCKER_HOST="unix:///nowhere/docker.sock")

    code = 0 if task == "env.config" else 9
    assert refused.returncode == code
    if code:
        assert "No Docker engine answers at unix:///nowhere/docker.sock" in refused.stderr
        assert "Next: " in refused.stderr


@pytest.mark.parametrize("task", ["env.up", "env.status", "env.down", "env.logs", "env.restart", "env.networks"])
def test_a_bad_stack_file_is_refused_by_every_task(small: SmallStack, task: str) -> None:
    small.replace("stack.yaml", "environments:", "enviroments:")

    refused = small.invoke(task)

    assert refused.returncode == 2
    assert "Did you mean 'environments'?" in refused.stderr


def test_an_environment_whose_engine_does_not_answer_hides_no_other(small: SmallStack) -> None:
    small.up()
    text = (small.folder / "stack.yaml").read_text()
    small.write("stack.yaml", text + "  away:\n    compose: [compose/dev.yaml]\n    engine: unix:///nowhere.sock\n")

    done = small.invoke("env.status")

    assert done.returncode == 1
    assert "away: No Docker engine answers at unix:///nowhere.sock." in done.stderr
    assert "healthy" in done.stdout
