"""env.deploy and env.rollback on the real engine, with users who ask all the while and must notice nothing."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from conche.engine import lock
from conche.engine.connection import Engine
from conche.engine.state import State
from tests.edged import EdgedStack
from tests.load import Load

pytestmark = [pytest.mark.engine, pytest.mark.in_order]


@pytest.fixture(scope="module")
def serving(edged: EdgedStack) -> EdgedStack:
    """Version one serves, as r1."""
    done = edged.deploy(edged.version("one"))
    assert done.returncode == 0, done.stderr
    return edged


@pytest.fixture
def users(serving: EdgedStack, engine: Engine) -> Iterator[Load]:
    """Users of it; none of them may notice anything, and nothing may be left over, whatever the test does."""
    with Load(serving.port) as load:
        load.until(lambda seen: len(seen.answers) > 5)
        yield load
    assert load.failures == []
    assert serving.leftovers(engine) == []


def deployed(stack: EdgedStack, version: str, *words: str, how: str = "well", **extra: str) -> Any:
    """The JSON document of a deploy."""
    done = stack.deploy(stack.version(version, how), "--json", *words, **extra)
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def newest(stack: EdgedStack) -> Any:
    return stack.history()["releases"][0]


def store(stack: EdgedStack, engine: Engine) -> tuple[str, str]:
    found = engine.client.api.inspect_container(f"{stack.name}-store")
    return found["Id"], found["State"]["StartedAt"]


def test_a_good_release_takes_over_and_nobody_notices(serving: EdgedStack, users: Load, engine: Engine) -> None:
    before, untouched = serving.page()["release"], store(serving, engine)

    document = deployed(serving, "two")

    release = document["value"]["release"]
    users.until(lambda seen: len(seen.releases()) == 2)
    assert document["changed"] is True
    assert users.releases() == {before, release}
    assert users.versions() == {"one", "two"}
    assert serving.page() == {"version": "two", "release": release, "setting": "none"}
    assert store(serving, engine) == untouched
    assert 0 < document["value"]["switched_after"] < document["value"]["seconds"]


def test_once_switched_no_request_reaches_the_old_release(serving: EdgedStack, users: Load) -> None:
    with serving.begin("env.deploy", "--env", "prod", "--image", serving.version("three"), "--local") as running:
        assert running.stderr is not None
        drained = next(line for line in running.stderr if line.startswith("drain edge"))
        asked, at = len(users.answers), time.monotonic()
        users.until(lambda seen: len(seen.answers) > asked + 20)
        running.communicate()

    assert running.returncode == 0
    release = serving.page()["release"]
    late = [by for sent, _, by, _ in users.answers if sent > at]
    assert set(late) == {release}, drained


def test_the_same_again_is_nothing_to_do(serving: EdgedStack, users: Load, engine: Engine) -> None:
    before = [(one.id, one.started_at) for one in serving.containers(engine)]
    version = serving.page()["version"]

    document = deployed(serving, version)

    assert (document["changed"], document["plan"]) == (False, [])
    assert [(one.id, one.started_at) for one in serving.containers(engine)] == before


def test_a_dry_run_says_it_all_and_changes_nothing(serving: EdgedStack, users: Load, engine: Engine) -> None:
    before, count = [one.id for one in serving.containers(engine)], len(serving.history()["releases"])

    document = deployed(serving, "four", "--dry-run")

    value = document["value"]
    assert (document["changed"], value["before"]) == (False, serving.page()["release"])
    assert value["images"]["web"].startswith("sha256:")
    assert [(one["service"], one["strategy"]) for one in value["changes"]] == [
        ("edge", "keep"), ("store", "keep"), ("web", "beside"),
    ]  # fmt: skip
    assert [one.id for one in serving.containers(engine)] == before
    assert len(serving.history()["releases"]) == count


@pytest.mark.parametrize(
    ("how", "code", "evidence"),
    [
        ("crash", "release-failed", "the cause of the crash"),
        ("sick", "release-failed", "HTTP Error 500"),
        pytest.param("wrong", "probe-failed", '"release": "r0"', marks=pytest.mark.long),
        ("unready", "release-not-ready", "/ready: 503"),
        pytest.param("sick-through-edge", "probe-failed", "/: 500", marks=pytest.mark.long),
        ("sick-to-users", "probe-failed", "/: 500"),
    ],
)
def test_a_bad_release_is_taken_back(serving: EdgedStack, engine: Engine, how: str, code: str, evidence: str) -> None:
    before = serving.page()
    with Load(serving.port) as users:
        document = deployed(serving, "bad", how=how)

    error = document["error"]
    assert (error["exit_code"], error["code"]) == (4, code)
    assert evidence in "\n".join(error["evidence"])
    assert serving.page() == before
    assert serving.leftovers(engine) == []
    kept = newest(serving)
    assert (kept["result"], kept["ending"]["cause"]) == ("restored", f"{code}: {error['message']}")
    assert kept["ending"]["evidence"] == error["evidence"]
    # What only its users can see has been seen by some of them, for as short as that can be; nobody got no answer.
    assert {why for _, why in users.failures} <= ({"500 "} if how == "sick-to-users" else set()) or all(
        how == "sick-to-users" and why.startswith("500") for _, why in users.failures
    )


def test_a_release_that_dies_while_it_is_watched_is_taken_back(serving: EdgedStack, engine: Engine) -> None:
    before = serving.page()["version"]
    serving.replace("stack.yaml", "observe: 1", "observe: 20")
    with Load(serving.port) as users:
        document = deployed(serving, "dies", how="dies")
    serving.replace("stack.yaml", "observe: 20", "observe: 1")

    assert document["error"]["exit_code"] == 4
    assert "server dies starts: dies" in "\n".join(document["error"]["evidence"])
    assert serving.page()["version"] == before
    assert "dies" in users.versions()
    assert serving.leftovers(engine) == []


def test_an_image_that_is_not_there_is_refused_before_anything_is_locked(serving: EdgedStack, users: Load) -> None:
    count = len(serving.history()["releases"])

    refused = serving.deploy(serving.reference("no-such-version"))

    assert refused.returncode == 6
    assert "error [no-such-image]" in refused.stderr
    assert len(serving.history()["releases"]) == count


def test_an_image_of_another_repository_is_refused(serving: EdgedStack, users: Load) -> None:
    refused = serving.deploy("localhost:5000/somebody-elses:1")

    assert refused.returncode == 6
    assert f"localhost:5000/{serving.name}:production" in refused.stderr


def test_a_configuration_that_nginx_does_not_take_changes_nothing(serving: EdgedStack, users: Load) -> None:
    before = serving.page()["release"]
    serving.write("docker/own.conf", "events { }\nhttp { server { lisen @listen@; } }\n")
    serving.replace("stack.yaml", "      drain: 10\n", "      drain: 10\n      template: docker/own.conf\n")
    document = deployed(serving, "five")
    serving.replace("stack.yaml", "      template: docker/own.conf\n", "")

    assert (document["error"]["code"], document["error"]["exit_code"]) == ("edge-broken", 4)
    assert 'unknown directive "lisen"' in "\n".join(document["error"]["evidence"])
    assert serving.page()["release"] == before


def test_a_second_one_on_this_machine_waits_or_says_who_is_at_work(serving: EdgedStack, users: Load) -> None:
    version = serving.version("six" if serving.page()["version"] != "six" else "seven")
    eight = serving.version("eight")
    serving.replace("stack.yaml", "observe: 1", "observe: 5")
    with serving.begin("env.deploy", "--env", "prod", "--image", version, "--local") as first:
        assert first.stderr is not None
        next(line for line in first.stderr if line.startswith("start release"))
        refused = serving.deploy(eight)
        waited = serving.deploy(eight, "--lock-wait", "600")
        first.communicate()
    serving.replace("stack.yaml", "observe: 5", "observe: 1")

    assert first.returncode == 0
    assert refused.returncode == 7
    assert f"process {first.pid}" in refused.stderr
    assert "invoke env.deploy --env prod" in refused.stderr
    assert waited.returncode == 0, waited.stderr
    assert serving.page()["version"] == "eight"


def test_a_second_one_from_another_machine_meets_the_lock_in_the_engine(
    serving: EdgedStack, users: Load, tmp_path: Any
) -> None:
    """Another state folder is another user, or another machine, to whom only the engine is common."""
    version = serving.version("nine" if serving.page()["version"] != "nine" else "ten")
    eleven = serving.version("eleven")
    serving.replace("stack.yaml", "observe: 1", "observe: 5")
    with serving.begin("env.deploy", "--env", "prod", "--image", version, "--local") as first:
        assert first.stderr is not None
        next(line for line in first.stderr if line.startswith("start release"))
        refused = serving.deploy(eleven, XDG_STATE_HOME=str(tmp_path))
        first.communicate()
    serving.replace("stack.yaml", "observe: 5", "observe: 1")

    assert first.returncode == 0
    assert refused.returncode == 7
    assert "error [environment-locked]" in refused.stderr
    assert f"(process {first.pid})" in refused.stderr


def test_a_lock_that_is_taken_away_before_the_switch_ends_the_release(
    serving: EdgedStack, users: Load, engine: Engine
) -> None:
    before = serving.page()
    with serving.begin(
        "env.deploy", "--env", "prod", "--image", serving.version("twelve", "slow"), "--local"
    ) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if line.startswith("await release"))
        engine.client.api.remove_container(f"{serving.project}-lock", force=True)
        said = running.stderr.read()
        running.wait()

    assert running.returncode == 4, said
    assert "error [lock-lost]" in said
    assert serving.page() == before


def test_a_new_container_that_is_taken_away_while_it_is_watched_takes_the_release_back(
    serving: EdgedStack, engine: Engine
) -> None:
    before = serving.page()
    serving.replace("stack.yaml", "observe: 1", "observe: 20")
    with serving.begin("env.deploy", "--env", "prod", "--image", serving.version("thirteen"), "--local") as running:
        assert running.stderr is not None
        line = next(line for line in running.stderr if line.startswith("watch release"))
        release = line.split()[2]
        (new,) = [one for one in serving.containers(engine) if one.labels.get("io.conche.release") == release]
        engine.client.api.remove_container(new.id, force=True)
        said = running.stderr.read()
        running.wait()
    serving.replace("stack.yaml", "observe: 20", "observe: 1")

    assert running.returncode == 4, said
    assert serving.page() == before
    assert serving.leftovers(engine) == []


def test_an_old_container_that_was_taken_away_by_hand_does_not_keep_a_new_release_back(
    serving: EdgedStack, engine: Engine
) -> None:
    (old,) = [one for one in serving.containers(engine) if one.service == "web"]
    engine.client.api.remove_container(old.id, force=True)

    document = deployed(serving, serving.page_or("fourteen"))

    assert document["changed"] is True
    assert serving.page()["release"] == document["value"]["release"]
    assert serving.leftovers(engine) == []


def test_a_frozen_environment_is_not_deployed_and_says_why(serving: EdgedStack, users: Load) -> None:
    frozen = serving.invoke("env.freeze", "--env", "prod", "--reason", "the big sale")
    refused, back = serving.deploy(serving.version("fifteen")), serving.rollback()
    shown = serving.history()["frozen"]
    thawed = serving.invoke("env.freeze", "--env", "prod", "--off")

    assert (frozen.returncode, refused.returncode, back.returncode, thawed.returncode) == (0, 2, 2, 0)
    assert "error [environment-frozen]" in refused.stderr
    assert "the big sale" in refused.stderr
    assert shown["reason"] == "the big sale"
    assert serving.history()["frozen"] is None


def test_a_freeze_names_what_it_does_not_stop_and_is_met_by_whoever_waits(
    serving: EdgedStack, users: Load, engine: Engine, base_image: str
) -> None:
    version = serving.version("sixteen")
    with ExitStack() as taken:
        taken.enter_context(lock.hold(engine, serving.project, "already under way", [base_image]))
        with serving.begin(
            "env.deploy", "--env", "prod", "--image", version, "--local", "--lock-wait", "600"
        ) as waiting:
            assert waiting.stderr is not None
            next(line for line in waiting.stderr if "waiting for" in line)
            frozen = json.loads(serving.invoke("env.freeze", "--env", "prod", "--reason", "a sale", "--json").stdout)
            taken.close()
            said = waiting.stderr.read()
    thawed = json.loads(serving.invoke("env.freeze", "--env", "prod", "--off", "--json").stdout)

    (warning,) = frozen["warnings"]
    assert "already under way" in warning
    assert (waiting.returncode, thawed["warnings"]) == (2, [])
    assert "error [environment-frozen]" in said
    assert serving.page()["version"] != "sixteen"


def test_a_freeze_without_a_reason_is_refused(serving: EdgedStack) -> None:
    refused = serving.invoke("env.freeze", "--env", "prod")

    assert refused.returncode == 2
    assert "error [reason-missing]" in refused.stderr


def test_a_changed_setting_is_a_release_and_its_name_is_said_but_not_its_value(
    serving: EdgedStack, users: Load, engine: Engine
) -> None:
    untouched = store(serving, engine)

    document = deployed(serving, serving.page()["version"], SETTING="another")

    assert document["value"]["changed_variables"] == ["SETTING"]
    assert serving.page()["setting"] == "another"
    assert store(serving, engine) == untouched


def test_a_store_is_recreated_only_when_its_own_definition_changes(serving: EdgedStack, engine: Engine) -> None:
    before = store(serving, engine)
    version = serving.page()["version"]
    planned = deployed(serving, version, "--dry-run", STORED="anew")
    document = deployed(serving, version, STORED="anew")

    change = next(one for one in planned["value"]["changes"] if one["service"] == "store")
    assert (change["strategy"], change["cause"]) == ("recreate", "its definition changed: environment.STORED")
    assert change["downtime"].startswith("it stops first")
    assert document["changed"] is True
    assert store(serving, engine) != before


def test_maintenance_is_shown_stays_over_a_release_and_goes(serving: EdgedStack, engine: Engine) -> None:
    on = serving.invoke("env.maintenance", "--env", "prod", "--on")
    page = subprocess.run(
        ["curl", "--silent", "--include", f"http://127.0.0.1:{serving.port}/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    document = deployed(serving, serving.page_or("sixteen"))
    still = subprocess.run(
        ["curl", "--silent", "--include", f"http://127.0.0.1:{serving.port}/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    off, again = (serving.invoke("env.maintenance", "--env", "prod", "--off") for _ in range(2))

    assert (on.returncode, off.returncode, again.returncode) == (0, 0, 0)
    for shown in (page, still):
        assert shown.startswith("HTTP/1.1 503")
        assert "Retry-After: 120" in shown
        assert "Back soon" in shown
    assert "Nothing to do" in again.stdout
    assert serving.page()["release"] == document["value"]["release"]


def test_maintenance_wants_to_know_which(serving: EdgedStack) -> None:
    assert serving.invoke("env.maintenance", "--env", "prod").returncode == 2


def test_a_rollback_goes_to_the_last_good_release_with_the_environment_of_its_time(
    serving: EdgedStack, users: Load
) -> None:
    good = deployed(serving, "old", SETTING="of then")["value"]["release"]
    now = deployed(serving, "young", SETTING="of now")["value"]["release"]

    done = serving.rollback("--json", SETTING="of today")

    value = json.loads(done.stdout)["value"]
    assert (value["before"], done.returncode) == (now, 0)
    assert serving.page() == {"version": "old", "release": value["release"], "setting": "of then"}
    kept = newest(serving)
    assert (kept["kind"], f"r{kept['of']}", kept["result"]) == ("rollback", good, "succeeded")


def test_a_rollback_to_a_release_by_its_id(serving: EdgedStack, users: Load) -> None:
    good = [one for one in serving.history()["releases"] if one["result"] == "succeeded" and one["kind"] == "deploy"]
    wanted = next(one for one in good if not one["asked"].endswith(":" + serving.page()["version"]))

    done = serving.rollback("--to", wanted["id"])

    assert done.returncode == 0, done.stderr
    assert wanted["asked"].endswith(":" + serving.page()["version"])


def test_a_rollback_asks_a_release_as_it_was_asked_in_its_time(serving: EdgedStack, users: Load) -> None:
    """The version to come may say where its release id is; the one that is gone back to does not know of that."""
    before = serving.page()["release"]
    assert serving.deploy(serving.version("asked")).returncode == 0
    serving.replace("stack.yaml", "field: release, times: 3, ready: /ready", "field: app.release, times: 3")

    done = serving.rollback("--to", before)
    status = serving.invoke("env.status", "--env", "prod")
    serving.replace("stack.yaml", "field: app.release, times: 3", "field: release, times: 3, ready: /ready")

    assert done.returncode == 0, done.stderr
    assert status.returncode == 0, status.stdout


def test_what_a_client_says_of_itself_does_not_reach_the_application(serving: EdgedStack, users: Load) -> None:
    lies = {
        "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.org",
        "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6", "Upgrade": "h2c", "Connection": "Upgrade",
    }  # fmt: skip
    asked = urllib.request.Request(f"http://127.0.0.1:{serving.port}/told", headers=lies)

    def told() -> dict[str, str]:
        with urllib.request.urlopen(asked) as answer:
            found: dict[str, str] = json.loads(answer.read())
        return found

    before = told()
    serving.replace(
        "stack.yaml",
        "      observe: 1\n",
        "      observe: 1\n      trust: [127.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 10.0.0.0/8]\n",
    )
    assert serving.deploy(serving.reference(serving.page()["version"])).returncode == 0
    believed = told()
    serving.replace("stack.yaml", "      trust: [127.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 10.0.0.0/8]\n", "")

    assert "6.6.6.6" not in str(before)
    assert before["x-forwarded-for"] == before["x-real-ip"]
    assert (before["x-forwarded-proto"], before["x-forwarded-host"]) == ("http", asked.host)
    assert before.keys().isdisjoint({"forwarded", "upgrade"})
    assert (believed["x-forwarded-for"], believed["x-forwarded-proto"]) == ("6.6.6.6", "https")
    assert (believed["x-forwarded-host"], "forwarded" in believed) == (asked.host, False)


def test_a_proxy_of_the_edges_own_network_is_believed_at_a_port_that_nobody_else_reaches(
    serving: EdgedStack, users: Load
) -> None:
    """Whatever its address; it is the last one of X-Forwarded-For that the proxy has seen itself."""
    serving.replace("stack.yaml", "      observe: 1\n", "      observe: 1\n      trusted_port: 8080\n")
    assert serving.deploy(serving.reference(serving.page()["version"])).returncode == 0
    lies = {"X-Forwarded-For": "6.6.6.6, 100.64.0.7", "X-Forwarded-Proto": "https"}

    def told(port: int) -> Any:
        ask = (
            "import sys, urllib.request as u;"
            f"print(u.urlopen(u.Request('http://edge:{port}/told', headers={lies!r}), timeout=300).read().decode())"
        )
        argv = ["docker", "exec", f"{serving.name}-store", "python3", "-c", ask]
        return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    believed, others = told(8080), told(8000)
    serving.replace("stack.yaml", "      trusted_port: 8080\n", "")

    assert (believed["x-forwarded-for"], believed["x-real-ip"]) == ("100.64.0.7", "100.64.0.7")
    assert believed["x-forwarded-proto"] == "https"
    assert "100.64.0.7" not in str(others)
    assert others["x-forwarded-proto"] == "http"


@pytest.mark.parametrize("to", ["r999", "nonsense"])
def test_a_rollback_to_what_never_was_lists_what_there_is(serving: EdgedStack, users: Load, to: str) -> None:
    refused = serving.rollback("--to", to)

    assert refused.returncode == 6
    assert "error [no-such-release]" in refused.stderr
    assert f"{serving.history()['current']}: succeeded" in refused.stderr
    assert "invoke env.history --env prod" in refused.stderr


def test_the_history_shows_one_release_with_its_evidence(serving: EdgedStack) -> None:
    deployed(serving, "bad", how="crash")
    failed = newest(serving)

    shown = serving.invoke("env.history", "--env", "prod", "--show", failed["id"])
    missing = serving.invoke("env.history", "--env", "prod", "--show", "r999")

    assert shown.returncode == 0
    assert failed["result"] == "restored"
    assert failed["ending"]["evidence"][0].split(" ")[0] in shown.stdout
    assert missing.returncode == 6


def test_a_clock_that_is_set_back_changes_nothing(serving: EdgedStack, users: Load, tmp_path: Any) -> None:
    """The deployer's clock, ten days behind: releases count up, and the lock knows its holder is alive."""
    (tmp_path / "sitecustomize.py").write_text(
        "import datetime, time\n"
        "class Late(datetime.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None):\n"
        "        return super().now(tz) - datetime.timedelta(days=10)\n"
        "datetime.datetime = Late\n"
        "real = time.time\n"
        "time.time = lambda: real() - 864000\n"
    )
    before = newest(serving)
    environment = serving.environment()

    document = deployed(serving, serving.page_or("late"), PYTHONPATH=f"{tmp_path}:{environment['PYTHONPATH']}")

    after = newest(serving)
    assert document["changed"] is True
    assert (after["number"], after["result"]) == (before["number"] + 1, "succeeded")
    assert after["started"] < before["started"]
    assert serving.history()["current"] == after["id"]


def test_a_record_that_was_damaged_is_said_and_what_serves_goes_on_serving(
    serving: EdgedStack, users: Load, engine: Engine, base_image: str
) -> None:
    current = serving.history()["current"]
    State(engine, serving.project, [base_image]).write({f"releases/{current}/record.json": b'{"sha256": "0"'})
    before = serving.page()

    shown, recovered = newest(serving), serving.invoke("env.recover", "--env", "prod")

    assert (shown["id"], shown["result"]) == (current, "damaged")
    assert recovered.returncode == 0, recovered.stderr
    assert serving.page() == before

    document = deployed(serving, serving.page_or("after"))

    assert document["value"]["before"] == current
    assert serving.page()["release"] == document["value"]["release"]


def test_when_every_record_is_lost_the_next_release_takes_over_all_the_same(
    serving: EdgedStack, users: Load, engine: Engine, base_image: str
) -> None:
    number = int(serving.page()["release"][1:])
    State(engine, serving.project, [base_image]).remove(["releases"])

    document = deployed(serving, serving.page_or("lost"))

    assert document["value"]["release"] == f"r{number + 1}"
    assert serving.page()["release"] == f"r{number + 1}"
    assert serving.history()["current"] == f"r{number + 1}"


def test_what_it_writes_for_people(serving: EdgedStack, users: Load) -> None:
    version = serving.page_or("shown")
    done = serving.deploy(serving.version(version))

    assert done.returncode == 0
    assert "web" in done.stdout
    assert "beside" in done.stdout
    assert "serves, after" in done.stdout
    assert f"{serving.name}:{version}" in serving.invoke("env.history", "--env", "prod").stdout
