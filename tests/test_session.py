"""The variables for Compose files: .env by Compose's rules, and the shell wherever Compose looks there."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conche.command import Invocation
from conche.errors import Refused
from conche.formats import WrittenByNewer
from conche.output import Output
from conche.session import forget_profiles, open_compose, remember_profiles

pytestmark = pytest.mark.process

STACK = "name: shop\nenvironments: {dev: {compose: [compose.yaml]}}\n"

DOTENV = """\
BASE=/srv
DATA=${BASE}/data
export QUOTED='si$ngle # whole'
MANY="one\\ntwo ${BASE}"
DEFAULT=${NOWHERE:-x}
COMMENTED=value # not this
DOLLARS=pa$$word
"""


def written(folder: Path, **files: str) -> Path:
    for name, content in {"stack.yaml": STACK, **files}.items():
        (folder / name.replace("__", "/")).parent.mkdir(exist_ok=True)
        (folder / name.replace("__", "/")).write_text(content)
    return folder


def rendered(folder: Path) -> Any:
    call = Invocation(folder, Output("env.config"))
    return open_compose(call, "dev").configuration(hashed=False).rendered


def plain(folder: Path) -> Any:
    """Return Compose's own result."""
    argv = ["docker", "compose", "--project-name", "shop-dev", "config", "--format", "json"]
    return json.loads(subprocess.run(argv, cwd=folder, check=True, capture_output=True).stdout)


def test_dotenv_means_what_it_means_to_compose(tmp_path: Path) -> None:
    names = ("DATA", "QUOTED", "MANY", "DEFAULT", "COMMENTED", "DOLLARS")
    said = "".join(f"      {name}: ${{{name}}}\n" for name in names)
    compose = f"services:\n  web:\n    image: a\n    environment:\n{said}    volumes: ['./d${{DATA}}:/m']\n"
    folder = written(tmp_path, **{".env": DOTENV, "compose.yaml": compose})

    assert rendered(folder) == plain(folder)


def test_a_dotenv_file_of_decrypted_yaml_is_read_as_compose_reads_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ("influxdb_token", "ree_api_token", "LAST")
    said = "".join(f"      {name}: ${{{name}}}\n" for name in names)
    files = {
        ".env": '# decrypted\ninfluxdb_token: abc-$def\nree_api_token: "two words"\nexport LAST : x\n',
        "compose.yaml": f"services:\n  web:\n    image: a\n    environment:\n{said}",
    }
    folder = written(tmp_path, **files)

    assert rendered(folder) == plain(folder)
    assert rendered(folder)["services"]["web"]["environment"]["influxdb_token"] == "abc-"
    assert "dotenv" not in capfd.readouterr().err


@pytest.mark.parametrize("text", ["ALONE\n", "# nothing\nexport ALONE\n"])
def test_a_dotenv_file_without_any_value_leaves_nothing_behind(tmp_path: Path, text: str) -> None:
    files = {".env": text, "compose.yaml": "services: {web: {image: a, environment: [ALONE]}}\n"}
    folder = written(tmp_path, **files)

    assert rendered(folder) == plain(folder)


def test_the_shell_counts_wherever_compose_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ONLY": "a", "PASSED": "p", "SHELLED": "s", "BASE": "/shell"}.items():
        monkeypatch.setenv(name, value)
    files = {
        ".env": "BASE=/srv\nDATA=${BASE}/data\n",
        "compose.yaml": "include: [db/compose.yaml]\n"
        "services: {web: {image: a, environment: [PASSED, DATA], env_file: w.env}}\n",
        "db__compose.yaml": "services: {db: {image: b, environment: {X: '${ONLY:-none}'}}}\n",
        "w.env": "FROM_SHELL=${SHELLED:-none}\n",
    }
    folder = written(tmp_path, **files)

    assert rendered(folder) == plain(folder)


def test_profiles_in_dotenv_count_and_what_sets_compose_up_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compose = (
        "services: {web: {image: a}, debug: {image: b, profiles: [debug]}, other: {image: c, profiles: [other]}}\n"
    )
    dotenv = (
        "COMPOSE_PROFILES=debug\nDOCKER_HOST=tcp://127.0.0.1:9\nCOMPOSE_PROJECT_NAME=shop\nCOMPOSE_IGNORE_ORPHANS=1\n"
    )
    folder = written(tmp_path, **{".env": dotenv, "compose.yaml": compose})

    call = Invocation(folder, Output("env.config"))
    opened = open_compose(call, "dev")

    assert set(opened.configuration(hashed=False).services) == {"web", "debug"}
    assert "DOCKER_HOST" not in opened.environment()
    assert "warning: COMPOSE_IGNORE_ORPHANS, DOCKER_HOST in .env is ignored" in capsys.readouterr().err


def test_variables_that_only_begin_like_settings_of_compose_and_docker_count_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_INFLUXDB_INIT_MODE", "setup")
    monkeypatch.setenv("DOCKER_SOCKET_LOCATION", "/run/user/1000/docker.sock")
    files = {
        ".env": "COMPOSE_PORT_HTTP='9000'\nDOCKER_SOCKET_LOCATION=/var/run/docker.sock\n",
        "compose.yaml": "services: {web: {image: a, environment: [DOCKER_INFLUXDB_INIT_MODE],"
        " ports: ['${COMPOSE_PORT_HTTP}:9000'], volumes: ['${DOCKER_SOCKET_LOCATION}:/var/run/docker.sock']}}\n",
    }
    folder = written(tmp_path, **files)

    assert rendered(folder) == plain(folder)
    assert rendered(folder)["services"]["web"]["environment"] == {"DOCKER_INFLUXDB_INIT_MODE": "setup"}
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("line", ["DB PASSWORD geheim123", 'DB_PASSWORD="geheim123'])
def test_a_line_that_compose_cannot_read_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    folder = written(tmp_path, **{".env": f"A='x'\n{line}\n", "compose.yaml": "services: {web: {image: a}}\n"})

    with pytest.raises(Refused) as refused:
        rendered(folder)

    assert re.search(r"line \d", " ".join(refused.value.evidence))
    assert "geheim123" not in " ".join(refused.value.evidence)


@pytest.mark.parametrize("name", [".env", "compose.yaml"])
def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, **{"compose.yaml": "services: {web: {image: a}}\n"})
    (folder / name).write_bytes("# caf\xe9\n".encode("latin-1"))

    with pytest.raises(Refused) as refused:
        rendered(folder)

    assert (refused.value.code, refused.value.looked_at) == ("text-not-utf8", (f"{name}:1",))


def test_profiles_that_were_brought_up_belong_to_the_environment_until_they_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    body = "services: {web: {image: a}}\n"
    folder = written(tmp_path, **{"compose.yaml": body, "stack.yaml": STACK.replace("]}}", "], profiles: [tailnet]}}")})
    call = Invocation(folder, Output("env.up"))

    def profiles(call: Invocation = call) -> str:
        return open_compose(call, "dev").environment()["COMPOSE_PROFILES"]

    remember_profiles(call.stack, "dev", ["others"])
    remember_profiles(call.stack, "dev", ["runners", "tailnet"])
    without = profiles(replace(call, forgetful=True))
    remembered = profiles()
    [file] = (tmp_path / "state/conche").rglob("profiles-*.json")
    forget_profiles(call.stack, "dev")

    assert (without, remembered, profiles()) == ("tailnet", "tailnet,runners", "tailnet")

    file.write_text('{"format": 99, "conche": "9.0.0", "profiles": []}')
    remember_profiles(call.stack, "dev", ["runners"])
    assert "9.0.0" in file.read_text()
    with pytest.raises(WrittenByNewer):
        profiles()
    file.write_text("[[[")
    assert profiles() == "tailnet"


LISTS = "".join(
    f"x-{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMB = f"services: {{web: {{image: a}}}}\nx-a: &a [x, y]\n{LISTS}"
LARGE = f"services: {{web: {{image: a}}}}\n# {'x' * (1 << 20)}\n"


@pytest.mark.parametrize(
    ("naming", "name", "content"),
    [
        ("", "compose.yaml", BOMB),
        ("include: [inner/more.yaml]", "inner/more.yaml", BOMB),
        ("include: [{path: [more.yaml], project_directory: inner}]", "inner/more.yaml", BOMB),
        ("services: {web: {extends: {file: '${FOLDER:-inner}/more.yaml', service: web}}}", "inner/more.yaml", BOMB),
        ("include: ['$FOLDER/more.yaml']", "more/more.yaml", LARGE),
        ("services: {web: {image: a, env_file: web.env}}", "web.env", LARGE),
        ("x-all: &all {env_file: [{path: web.env}]}\nservices: {web: {image: a, <<: *all}}", "web.env", LARGE),
        ("include: [{path: inner.yaml, env_file: [more.env]}]", "more.env", LARGE),
    ],
)
def test_what_compose_would_read_for_minutes_is_refused_before_it_does(
    tmp_path: Path, naming: str, name: str, content: str
) -> None:
    written(
        tmp_path, **{"compose.yaml": naming, ".env": "FOLDER=more\n" if name.startswith("more/") else "", name: content}
    )

    with pytest.raises(Refused) as refused:
        rendered(tmp_path)

    assert refused.value.code == "text-too-large"
    assert refused.value.message.startswith(f"{name} has ")


def test_what_included_files_include_is_looked_at_too_and_a_circle_is_left_to_compose(tmp_path: Path) -> None:
    files = {"compose.yaml": "include: [a/a.yaml]", "a/a.yaml": "include: [../compose.yaml, b.yaml]", "a/b.yaml": BOMB}
    written(tmp_path, **files)

    with pytest.raises(Refused) as bomb:
        rendered(tmp_path)
    (tmp_path / "a/b.yaml").unlink()
    with pytest.raises(Refused) as circle:
        rendered(tmp_path)

    assert (bomb.value.code, circle.value.code) == ("text-too-large", "compose-file-invalid")
