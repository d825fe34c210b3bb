"""What a Compose file says, as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.engine.written import named_in, services

VARIABLES = {"PORT": "1", "A": "2", "TOKEN": "3"}


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("ports: ['${CONCHE_PORT}:80']", []),
        ("ports: ['${PORT}:80']", ["PORT"]),
        ("ports: ['$PORT:80']", ["PORT"]),
        ("ports: ['${PORT:-${A}}:80']", ["A", "PORT"]),
        ("environment: [TOKEN, ABC]", ["TOKEN"]),
        ("environment: {TOKEN: , PORTS: A_B}", ["TOKEN"]),
        ("image: x:${TOKEN_OF_ALL}", []),
    ],
)
def test_a_variable_is_found_by_its_whole_name(tmp_path: Path, written: str, names: list[str]) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(f"services: {{web: {{{written}}}}}\n")

    assert sorted(named_in([file], VARIABLES)) == names


FILES = {
    "compose/dev.yaml": """\
include:
  - ci/compose.yaml
  - {path: [../shared/a.yaml, ../shared/b.yaml], project_directory: ..}
  - $ELSEWHERE/compose.yaml
  - gone.yaml
services:
  web: {extends: {file: ../base/common.yaml, service: app}, environment: [MODE=dev]}
  other: {extends: web, build: ./other}
  plain: {image: plain}
  nothing:
""",
    "compose/ci/compose.yaml": "include: [../dev.yaml]\nservices: {runner: {image: runner}}\n",
    "shared/a.yaml": "services: {a: {build: here}}\n",
    "shared/b.yaml": "services: {b: {image: b}}\n",
    "base/common.yaml": """\
services:
  app: {extends: first, build: app, environment: {MODE: base, LEVEL: "1"}}
  first: {extends: app, image: first}
""",
}


def test_services_of_included_and_extended_files_are_read(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)

    found = {one.name: one for one in services(tmp_path / "compose/dev.yaml")}

    assert list(found) == ["web", "other", "plain", "nothing", "runner", "a", "b"]
    places = {name: one.folder.resolve().relative_to(tmp_path).as_posix() for name, one in found.items()}
    assert places == {
        "web": "base", "other": "compose", "plain": "compose", "nothing": "compose", "runner": "compose/ci", "a": ".",
        "b": ".",
    }  # fmt: skip
    web, other = found["web"].body, found["other"].body
    assert (web["image"], web["build"], web["environment"]) == ("first", "app", {"MODE": "dev", "LEVEL": "1"})
    assert (other["build"], other["environment"]) == ("./other", {"MODE": "dev", "LEVEL": "1"})
