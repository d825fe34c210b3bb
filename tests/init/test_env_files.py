"""A fresh clone lacks the env files that git ignores; what they are for is understood without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.init.env_files import example_of, missing, without

COMPOSE = """\
x-app: &app {image: a, env_file: [.env, there.env]}
services:
  web: {<<: *app}
  worker: {<<: [*app], env_file: worker.env}
  cron: {image: a, env_file: [{path: cron.env}, {path: maybe.env, required: false}, "${WHERE}/x.env"]}
  db: {image: b}
"""


def test_env_files_that_compose_requires_and_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/compose.yaml").write_text(COMPOSE)
    (tmp_path / "deploy/there.env").touch()
    (tmp_path / "more.yaml").write_text("services: {db: {env_file: deploy.env}, web: !reset null}\n")

    found = missing(tmp_path, [Path("deploy/compose.yaml"), Path("more.yaml")])

    assert found == {
        "web": ("deploy/.env",),
        "worker": ("deploy/worker.env",),
        "cron": ("deploy/cron.env",),
        "db": ("deploy/deploy.env",),
    }
    assert without({"we b": [".env"]}) == 'services:\n  "we b": {env_file: !reset []}\n'


def test_what_is_written_is_looked_for_as_compose_does_and_may_be_no_name_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/there.env").touch()
    long, nul = "n" * 300, '"\\0"'
    (tmp_path / "compose.yaml").write_text(
        f"services: {{web: {{env_file: [~/there.env, ~/gone.env, ~nobody-has-it/a, {long}, {nul}]}}}}\n"
    )

    assert missing(tmp_path, [Path("compose.yaml")]) == {"web": ("~/gone.env", "~nobody-has-it/a", long, "\0")}


@pytest.mark.parametrize(
    "text", ["services: []\n", "a: [\n", "", "services: {web: }\n", "services: {web: {env_file: {a: b}}}\n"]
)
def test_what_compose_will_refuse_anyway_lacks_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "compose.yaml").write_text(text)

    assert missing(tmp_path, [Path("compose.yaml")]) == {}


@pytest.mark.parametrize(
    ("written", "example"),
    [
        (".env", ".env.example"),
        (".env", "env.sample"),
        (".env", "example.env"),
        (".env", ".env-dist"),
        ("deploy/db.env", "deploy/db.example.env"),
        (".env.production", ".env.production.sample"),
    ],
)
def test_an_example_to_copy_is_found_beside_the_file_that_is_missing(
    tmp_path: Path, written: str, example: str
) -> None:
    for name in (example, "example.txt", ".env.local.example", "other.env", "Dockerfile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert example_of(tmp_path, written) == example
    assert example_of(tmp_path, "web.env") == ""
    assert example_of(tmp_path, "nowhere/.env") == ""
