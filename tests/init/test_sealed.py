"""The SOPS files of a repository: found by their content, named without a key, and each for its environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conche.init.sealed import Chosen, SopsFile, choose, sops_files

SEALED = "ENC[AES256_GCM,data:eA==,iv:eA==,tag:eA==,type:str]"

METADATA = {"age": [{"recipient": "age1a", "enc": "x"}], "lastmodified": "2026-01-01T00:00:00Z", "mac": SEALED}


def put(root: Path, name: str, values: dict[str, Any], **metadata: Any) -> None:
    """Write a file as sops writes it, apart from what only a key could tell."""
    file, said = root / name, {**METADATA, **metadata}
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps({**values, "sops": said}, indent="\t"))
    elif file.suffix == ".env":
        beside = {"age__list_0__map_recipient": "age1a", "lastmodified": said["lastmodified"], "mac": said["mac"]}
        lines = [*values.items(), *((f"sops_{key}", value) for key, value in beside.items())]
        file.write_text("#ENC[AES256_GCM,type:comment]\n" + "".join(f"{key}={value}\n" for key, value in lines))
    else:
        file.write_text("# a comment\n" + yaml.safe_dump({**values, "sops": said}, sort_keys=False))


NESTED = {"app": {"key": SEALED, "debug": SEALED.replace("str", "bool")}, "smtp": {"password": SEALED}}


@pytest.mark.parametrize(
    ("name", "values", "paths", "foreign"),
    [
        ("secrets.enc.yaml", {"db_key": SEALED}, {"db_key": ("db_key",)}, False),
        ("a/b/c/d/secrets.yml", {"DB_KEY": SEALED}, {"db_key": ("DB_KEY",)}, True),
        ("port.yaml", {"port": SEALED.replace("str", "int")}, {"port": ("port",)}, True),
        (
            "config/app.json", NESTED,
            {"app_key": ("app", "key"), "app_debug": ("app", "debug"), "password": ("smtp", "password")}, True,
        ),
        ("ops/prod.env", {"DB_KEY": SEALED, "low": SEALED}, {"db_key": ("DB_KEY",), "low": ("low",)}, False),
    ],
)  # fmt: skip
def test_a_sops_file_of_any_form_is_found_and_named(
    tmp_path: Path, name: str, values: dict[str, Any], paths: dict[str, tuple[str, ...]], foreign: bool
) -> None:
    put(tmp_path, name, values)

    [found] = sops_files(tmp_path, {"PASSWORD", "APP_KEY", "KEY"})

    assert (found.file, dict(found.paths), found.why_not) == (Path(name), paths, "")
    assert found.foreign == (foreign and not name.endswith(".json"))


@pytest.mark.parametrize(
    ("name", "metadata", "why"),
    [
        ("a.yaml", {"pgp": [{"fp": "x"}]}, "it is encrypted to more than age keys (pgp)"),
        ("a.enc", {}, "its name ends with .enc, by which sops does not know its form"),
        ("a.yaml", {"mac": "x"}, "it is truncated: it has no complete MAC, or no time of last change"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, name: str, metadata: dict[str, Any], why: str) -> None:
    put(tmp_path, name, {"token": SEALED}, **metadata)

    [found] = sops_files(tmp_path)

    assert found.why_not == why


def test_what_sops_has_not_encrypted_is_no_sops_file(tmp_path: Path) -> None:
    (tmp_path / ".sops.yaml").write_text("creation_rules: []\n")
    (tmp_path / "notes.yaml").write_text(f"how: it says {SEALED}\n")
    put(tmp_path, "node_modules/theirs.yaml", {"token": SEALED})
    put(tmp_path, ".git/hidden.yaml", {"token": SEALED})
    put(tmp_path, "1/2/3/4/5/deep.yaml", {"token": SEALED})
    (tmp_path / "loop").symlink_to(tmp_path)

    assert sops_files(tmp_path) == []


def test_a_bomb_in_a_sops_file_is_looked_at_no_further_than_needed(tmp_path: Path) -> None:
    levels = "".join(
        f"{name}: &{name} {{{', '.join(f'k{n}: *{below}' for n in range(9))}}}\n"
        for below, name in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    put(tmp_path, "secrets.yaml", {"token": SEALED})
    (tmp_path / "secrets.yaml").write_text(f"a: &a {SEALED}\n{levels}" + (tmp_path / "secrets.yaml").read_text())

    [found] = sops_files(tmp_path)

    assert found.why_not == "it has more than 10000 values"


def file(name: str, why_not: str = "", **paths: str) -> SopsFile:
    return SopsFile(Path(name), {key: tuple(path.split(".")) for key, path in paths.items()}, why_not=why_not)


def test_files_that_name_environments_are_theirs_and_the_first_other_one_is_for_all() -> None:
    prod, staging = file("ops/production/secrets.yaml", a="a"), file("secrets.staging.json", a="a")
    rest, more, broken = file("secrets.enc.yaml", b="b"), file("more.yaml", c="c"), file("x.yaml", "it is truncated")

    found = choose([prod, rest, broken, staging, more], ["dev", "staging", "prod"])

    assert (found.shared, found.own) == (rest, {"staging": staging, "prod": prod})
    assert [(one.file.name, one.why_not) for one in found.others] == [
        ("x.yaml", "it is truncated"),
        ("more.yaml", "stack.yaml has one file for all environments, or one for each"),
    ]


def test_of_files_with_other_places_for_the_same_names_the_first_counts() -> None:
    prod, dev = file("prod.yaml", db_key="db.key"), file("dev.yaml", db_key="db_key")
    dotenv, usual = file("prod.env", db_key="DB_KEY"), file("dev.yaml", db_key="db_key")

    assert [one.file.name for one in choose([prod, dev], ["dev", "prod"]).others] == ["dev.yaml"]
    assert choose([dotenv, usual], ["dev", "prod"]).own == {"dev": usual, "prod": dotenv}


def test_the_only_environment_needs_no_file_of_its_own() -> None:
    prod = file("prod.yaml", a="a")

    assert choose([prod], ["prod"]) == Chosen(shared=prod)
