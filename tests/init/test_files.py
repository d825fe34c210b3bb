"""Which of a repository's files are Compose files that people run."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.init.files import find


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
