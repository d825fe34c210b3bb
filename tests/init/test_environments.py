"""Which environments there are: decided by names, by what is in the files, and by how people call Compose."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from conche.init.environments import ProposedEnvironment, candidates, named_projects, slug
from conche.init.files import ComposeFiles
from conche.stack import parse

BASE, DEV, PROD = (Path(name) for name in ("docker-compose.yml", "docker-compose.dev.yml", "docker-compose.prod.yml"))
OVERRIDE = Path("docker-compose.override.yml")


def decided(
    found: ComposeFiles, services: Mapping[Path, Collection[str]], alone: Collection[Path] = ()
) -> dict[str, tuple[tuple[Path, ...], tuple[Path, ...]]]:
    return {one.name: (one.files, one.otherwise) for one in candidates(found, services, lambda file: file in alone)}


def test_what_compose_takes_by_itself_is_dev() -> None:
    assert decided(ComposeFiles((BASE, OVERRIDE), {}), {}) == {"dev": ((BASE, OVERRIDE), ())}


def test_a_file_that_cannot_stand_alone_is_merged_with_the_first() -> None:
    found = ComposeFiles((BASE,), {PROD: "prod"})

    assert decided(found, {BASE: ["web", "db"], PROD: ["web"]}) == {"dev": ((BASE,), ()), "prod": ((BASE, PROD), ())}


def test_a_file_that_names_every_service_again_and_can_stand_alone_does_and_the_other_way_is_a_choice() -> None:
    found = ComposeFiles((BASE,), {PROD: "production"})

    said = decided(found, {BASE: ["web"], PROD: ["web", "db"]}, alone=[PROD])

    assert said["prod"] == ((PROD,), (BASE, PROD))


def test_a_file_that_names_some_services_is_merged_and_its_standing_alone_is_a_choice() -> None:
    found = ComposeFiles((BASE,), {PROD: "prod"})

    said = decided(found, {BASE: ["web", "db"], PROD: ["web"]}, alone=[PROD])

    assert said["prod"] == ((BASE, PROD), (PROD,))


def test_without_a_default_file_those_that_cannot_stand_alone_are_merged_over_their_base() -> None:
    found = ComposeFiles((), {DEV: "dev", PROD: "prod"}, base=BASE)

    said = decided(found, {BASE: ["web", "db"], DEV: ["web"], PROD: ["web"]})

    assert said == {"dev": ((BASE, DEV), ()), "prod": ((BASE, PROD), ())}


def test_files_without_a_service_in_common_are_environments_of_their_own() -> None:
    found = ComposeFiles((BASE,), {DEV: "dev", Path("docker-compose.git.yml"): "git"})
    services = {BASE: ["web"], DEV: ["api"], Path("docker-compose.git.yml"): ["forge"]}

    said = decided(found, services, alone=[DEV, Path("docker-compose.git.yml")])

    assert {name: files for name, (files, _) in said.items()} == {
        "main": (BASE,),
        "dev": (DEV,),
        "git": (Path("docker-compose.git.yml"),),
    }


def test_where_dev_is_made_from_the_first_file_that_one_alone_is_no_environment() -> None:
    found = ComposeFiles((BASE,), {DEV: "dev", PROD: "prod"})

    assert list(decided(found, {BASE: ["web"], DEV: ["web"], PROD: ["web"]})) == ["dev", "prod"]


def test_how_scripts_call_compose_decides() -> None:
    both = (BASE, OVERRIDE, PROD)
    found = ComposeFiles((BASE, OVERRIDE), {PROD: "prod"}, used=(both,))

    assert decided(found, {BASE: ["web"], PROD: ["web"]}, alone=[PROD])["prod"] == (both, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("My.Shop", "my-shop"), ("3d_app", "stack-3d_app"), ("--", "stack"), ("a" * 99, "a" * 60), ("Ä_b__c-", "b_c")],
)
def test_any_name_becomes_one_that_stack_yaml_takes(text: str, expected: str) -> None:
    assert slug(text) == expected
    assert parse(f"name: {slug(text)}\nenvironments: {{dev: {{compose: [x.yaml]}}}}\n").name == expected


def projects(runs: dict[str, list[str]]) -> dict[str, tuple[str, str]]:
    found = [ProposedEnvironment("dev", (BASE,)), ProposedEnvironment("prod", (BASE, PROD))]
    named = named_projects(found, "shop", {"dev": "shop", "prod": "shop"}, runs)
    return {one.name: (one.project, one.rival) for one in named}


def test_only_one_environment_keeps_the_project_that_is_there_and_it_is_the_one_that_runs() -> None:
    assert projects({}) == {"dev": ("shop", ""), "prod": ("", "dev")}
    assert projects({"prod": ["web"]}) == {"dev": ("", "prod"), "prod": ("shop", "")}
