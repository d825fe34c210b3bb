"""How a repository uses its secrets: names, variables, files and places, and no value."""

from __future__ import annotations

from pathlib import Path

from conche.init.sealed import Chosen, SopsFile
from conche.init.secrets import Declared, declared, in_dotenv


def test_of_dotenv_only_names_are_told_and_only_those_of_secrets_with_a_value() -> None:
    text = "DB_PASSWORD=geheim\nexport API_KEY='x'\nPORT=1\nEMPTY_TOKEN=\n# OLD_SECRET=1\nDB_PASSWORD=again\n"
    text += "api_token: decrypted\n"

    assert in_dotenv(text) == ("DB_PASSWORD", "API_KEY", "api_token")


def test_how_the_compose_files_use_a_secret_decides_where_its_value_goes() -> None:
    secrets = {
        "token": {"file": "/shop/docker/secrets/api_token.txt"},
        "both": {"file": "/shop/s/both.txt"},
        "given": {"environment": "given"},
    }
    services = {"web": {"secrets": [{"source": "token"}]}, "db": {}}
    names = ["api_token", "both", "smtp_key", "lower", "unused", "given"]
    chosen = Chosen(SopsFile(Path("secrets.enc.yaml"), {name: (name,) for name in names}))

    found = declared(chosen, ["dev"], {"BOTH", "SMTP_KEY", "lower"}, secrets, services)

    assert found == [
        Declared("api_token", file=True, reads=False, services=("web",)),
        Declared("both", file=True, reads=True),
        Declared("smtp_key"),
        Declared("lower", variable="lower"),
        Declared("unused"),
        Declared("given", variable="given"),
    ]


def test_what_dotenv_gives_to_a_container_keeps_the_name_that_it_has_there() -> None:
    names = ["asked", "low", "high", "elsewhere"]
    chosen = Chosen(SopsFile(Path("secrets.enc.yaml"), {name: (name,) for name in names}))

    found = declared(chosen, ["dev"], {"asked"}, {}, {}, ["ASKED", "low", "HIGH", "other"])

    assert [(one.name, one.variable) for one in found] == [
        ("asked", "asked"), ("low", "low"), ("high", ""), ("elsewhere", ""),
    ]  # fmt: skip


def test_a_place_is_said_where_the_value_would_not_be_looked_for() -> None:
    nested = SopsFile(
        Path("a.yaml"), {"app_key": ("app", "key"), "token": ("token",), "dotted": ("a.b",)}, foreign=True
    )
    dotenv = SopsFile(Path("a.env"), {"db_key": ("DB_KEY",), "lower": ("lower",), "small": ("SMALL",)})
    flat = SopsFile(Path("b.yaml"), {"port": ("port",), "key": ("key",)}, foreign=True)

    def places(file: SopsFile) -> dict[str, str]:
        return {one.name: one.path for one in declared(Chosen(file), ["dev"], {"lower", "small"}, {}, {})}

    assert places(nested) == {"app_key": "app.key", "token": "", "dotted": ""}
    assert places(dotenv) == {"db_key": "", "lower": "lower", "small": "SMALL"}
    assert places(flat) == {"port": "port", "key": "key"}


def test_a_secret_that_not_every_environment_has_names_those_that_do() -> None:
    prod = SopsFile(Path("prod.yaml"), {"both": ("both",), "only": ("only",)})
    rest = SopsFile(Path("all.yaml"), {"both": ("both",)})

    every = ["dev", "staging", "prod"]
    found = {one.name: one.environments for one in declared(Chosen(rest, {"prod": prod}), every, {}, {}, {})}

    assert found == {"both": (), "only": ("prod",)}
