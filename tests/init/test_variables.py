"""Which variables Compose files ask for, in every way in which Compose takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.init.variables import required, variables

COMPOSE = Path("compose.yaml")


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_yaml", ".yaml").replace("_env", ".env")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("services: {a: {image: '${one}', command: $two, labels: [$$three]}}", {"one", "two"}),
        ("services: {a: {environment: [db_password, API_KEY, SET=1, 'EMPTY=']}}", {"db_password", "API_KEY"}),
        (
            "services: {a: {environment: {db_password: , key: null, other: ~, SET: 1, EMPTY: ''}}}",
            {"db_password", "key", "other"},
        ),
        ("services: {a: {build: {context: ., args: [version, SET=1]}}}", {"version"}),
        ("services: {a: {build: {context: ., args: {version: }}}}", {"version"}),
        ("secrets: {tok: {environment: api_token}}", {"api_token"}),
        ("x-env: &env {shared: }\nservices: {a: {environment: {<<: *env, own: }}}", {"shared", "own"}),
        ("x-a: &a {x: }\nx-b: &b {y: }\nservices: {a: {environment: {<<: [*a, *b]}}}", {"x", "y"}),
        ("services: {a: {environment: !override [kept]}}", {"kept"}),
        ("services: {a: {environment: &loop {<<: *loop, own: }}}", {"own"}),
        ("services: [", set()),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_a_file_asks_for_is_found_with_and_without_a_dollar(tmp_path: Path, text: str, names: set[str]) -> None:
    assert variables(written(tmp_path, compose_yaml=text), [COMPOSE]) == names


@pytest.mark.parametrize(
    "how",
    [
        "include: [parts/db.yaml]",
        "include: [{path: parts/db.yaml}]",
        "include: [{path: [parts/other.yaml, parts/db.yaml]}]",
        "services: {a: {extends: {file: parts/db.yaml, service: db}}}",
    ],
)
def test_what_an_included_or_extended_file_asks_for_counts(tmp_path: Path, how: str) -> None:
    db = "include: [../compose.yaml]\nservices: {db: {image: '${TAG:?}', environment: [pw], env_file: db.env}}"
    written(tmp_path, compose_yaml=how, parts__db_yaml=db, parts__db_env="URL=pg://${user}@db\nPLAIN=1\n")

    assert variables(tmp_path, [COMPOSE]) == {"TAG", "pw", "user"}
    assert required(tmp_path, [COMPOSE]) == {"TAG"}
