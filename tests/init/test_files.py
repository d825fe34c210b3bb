"""Which of a repository's files are Compose files that people run."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.init.files import decrypts_into_dotenv, find


def written(folder: Path, *names: str, **more: str) -> Path:
    for name in names:
        (folder / name).write_text("services: {web: {image: a}}\n")
    for name, text in more.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "docker-compose.example.yml",
        "docker-compose.override.example.yml",
        "compose.prod-sample.yaml",
        "docker-compose.dist.yml",
        "docker-compose-old.yml",
        "docker-compose.template.yml",
    ],
)
def test_a_file_to_be_copied_or_from_before_is_no_environment_beside_one_that_runs(tmp_path: Path, name: str) -> None:
    found = find(written(tmp_path, "docker-compose.yml", "docker-compose.prod.yml", name))

    assert (list(found.variants), found.examples) == ([Path("docker-compose.prod.yml")], (Path(name),))


@pytest.mark.parametrize("name", ["docker-compose.distributed.yml", "compose.golden.yaml", "compose.backup.yaml"])
def test_a_name_that_only_has_such_a_word_in_it_is_an_environment(tmp_path: Path, name: str) -> None:
    assert list(find(written(tmp_path, "compose.yaml", name)).variants) == [Path(name)]


def test_an_example_that_is_all_there_is_or_that_a_script_runs_is_an_environment(tmp_path: Path) -> None:
    example = "docker-compose.example.yml"
    assert list(find(written(tmp_path, example)).variants) == [Path(example)]

    written(tmp_path, "docker-compose.yml", Makefile=f"demo:\n\tdocker compose -f {example} up\n")

    assert list(find(tmp_path).variants) == [Path(example)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sops --decrypt secrets.enc.yaml > .env", True),
        ("SOPS_AGE_KEY_FILE=k sops -d --output-type dotenv s.yaml >./.env", True),
        ('sops decrypt secrets.enc.yaml > ".env"', True),
        ("sops --decrypt secrets.enc.yaml > .env.prod.yaml.txt", False),
        ("sops --encrypt .sops/secrets.yaml > secrets.enc.yaml; cp x > .env", False),
    ],
)
def test_a_script_that_writes_the_whole_sops_file_to_dotenv_is_noticed(tmp_path: Path, line: str, found: bool) -> None:
    assert decrypts_into_dotenv(written(tmp_path, **{"decrypt.sh": f"#!/bin/sh\n{line}\n"})) is found


def test_without_a_default_file_the_others_are_merged_over_the_one_that_is_only_called_with_them(
    tmp_path: Path,
) -> None:
    names = ("docker-compose.main.yml", "docker-compose.dev.yml", "docker-compose.prod.yml")
    calls = "".join(f"docker compose --env-file .env -f {names[0]} -f {one} up -d\n" for one in names[1:])
    written(tmp_path, *names, **{"run.sh": calls})

    found = find(tmp_path)

    assert (found.base, [*found.variants]) == (Path(names[0]), [Path(one) for one in names[1:]])


@pytest.mark.parametrize(("name", "is_base"), [("base", True), ("Common", True), ("stage", False)])
def test_a_file_is_merged_under_the_others_by_its_name_unless_it_is_called_by_itself(
    tmp_path: Path, name: str, is_base: bool
) -> None:
    file = f"docker-compose.{name}.yml"
    written(tmp_path, file, "docker-compose.dev.yml")
    assert find(tmp_path).base == (Path(file) if is_base else None)

    written(tmp_path, **{"run.sh": f"docker compose -f {file} up\n"})

    assert find(tmp_path).base is None


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("docker compose -f docker-compose.yml -f ops/live.yml up", [Path("ops/live.yml")]),
        ("docker compose -f docker-compose.yml -f live.yml up", [Path("live.yml")]),
        ("docker compose -f ops/live.yml up", []),
        ("docker compose -f docker-compose.yml -f docker-compose.override.yml up", []),
        ("docker compose -f docker-compose.yml -f ops/none.yml up", []),
    ],
)
def test_a_file_of_any_name_is_an_environment_if_it_is_called_over_one_that_is_found(
    tmp_path: Path, call: str, found: list[Path]
) -> None:
    (tmp_path / "ops").mkdir()
    written(
        tmp_path, "docker-compose.yml", "docker-compose.override.yml", "live.yml", "ops/live.yml", **{"run.sh": call}
    )

    assert list(find(tmp_path).variants) == found
