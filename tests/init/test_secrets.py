"""The secrets of a repository: names out of files, and no value."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.init.secrets import Declared, SopsFile, declared, in_dotenv, sops_files

SEALED = "ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]"


@pytest.mark.parametrize(
    ("name", "text", "names", "why_not"),
    [
        ("secrets.enc.yaml", f"db_key: {SEALED}\napi_key: {SEALED}\nsops:\n  mac: x\n", ("db_key", "api_key"), ""),
        ("secrets.yaml", f"app:\n  key: {SEALED}\na_unencrypted: a\nsops: {{mac: x}}\n", ("app.key",), "it is nested"),
        ("secrets.json", f'{{\n\t"key": "{SEALED}",\n\t"sops": {{"mac": "x"}}\n}}', ("key",), "it is a json file"),
        ("prod.enc.env", f"DB_PASSWORD={SEALED}\nsops_version=3\n", ("DB_PASSWORD",), "it is a dotenv file"),
        (
            "secrets.enc.yaml", f"DB_PASSWORD: {SEALED}\nsops: {{}}\n", ("DB_PASSWORD",),
            "DB_PASSWORD is not a name of lower-case letters, digits and _",
        ),
    ],
)  # fmt: skip
def test_a_sops_file_tells_its_names_without_a_key(
    tmp_path: Path, name: str, text: str, names: tuple[str, ...], why_not: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)

    assert sops_files(tmp_path) == [SopsFile(Path(name), names, why_not)]


def test_what_sops_has_not_encrypted_is_no_sops_file(tmp_path: Path) -> None:
    (tmp_path / ".sops.yaml").write_text("creation_rules: []\n")
    (tmp_path / "notes.yaml").write_text(f"how: it says {SEALED}\n")
    (tmp_path / "bomb.yaml").write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: sops ENC[AES256_GCM,\n")

    assert sops_files(tmp_path) == []


def test_a_bomb_in_a_sops_file_is_looked_at_no_further_than_needed(tmp_path: Path) -> None:
    levels = "".join(
        f"{name}: &{name} {{{', '.join(f'k{n}: *{below}' for n in range(9))}}}\n"
        for below, name in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    (tmp_path / "secrets.yaml").write_text(f"a: &a {SEALED}\n{levels}sops: {{mac: x}}\n")

    [found] = sops_files(tmp_path)

    assert (len(found.names), found.why_not) == (2000, "it is nested")


def test_of_dotenv_only_names_are_told_and_only_those_of_secrets_with_a_value() -> None:
    text = "DB_PASSWORD=geheim\nexport API_KEY='x'\nPORT=1\nEMPTY_TOKEN=\n# OLD_SECRET=1\nDB_PASSWORD=again\n"
    text += "api_token: decrypted\n"

    assert in_dotenv(text) == ("DB_PASSWORD", "API_KEY", "api_token")


def test_how_the_compose_files_use_a_secret_decides_where_its_value_goes() -> None:
    secrets = {"token": {"file": "/shop/docker/secrets/api_token.txt"}, "both": {"file": "/shop/s/both.txt"}}
    services = {"web": {"secrets": [{"source": "token"}]}, "db": {}}

    found = declared(
        ["api_token", "both", "smtp_key", "lower", "unused"], {"BOTH", "SMTP_KEY", "lower"}, secrets, services
    )

    assert found == [
        Declared("api_token", file=True, reads=False, services=("web",)),
        Declared("both", file=True, reads=True),
        Declared("smtp_key"),
        Declared("lower", variable="lower"),
        Declared("unused"),
    ]
