"""What is kept about secrets and cannot be read is never taken for nothing, nor written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.errors import ConcheError, Refused
from conche.secret import Redactor, Secret
from conche.stack import parse
from conche.vault import render
from conche.vault.vault import Vault

STACK = parse(
    "name: shop\n"
    "secrets: {declared: {token: {generate: hex32, services: [web], outputs: [file]}}}\n"
    "environments: {dev: {compose: [compose.yaml]}}\n"
)

DAMAGED = pytest.mark.parametrize("content", ["", "[]", '{"values": {"tok', "[" * 100_000])


@DAMAGED
def test_no_new_development_values_are_made_beside_a_database_that_has_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = Vault(STACK, tmp_path, Redactor(), print).of("dev")
    file = tmp_path / "conche/shop/dev.json"
    file.write_text(content)

    for create in (True, False):
        with pytest.raises(Refused, match="does not open with others") as refused:
            Vault(STACK, tmp_path, Redactor(), print).of("dev", create=create)

    assert refused.value.code == "development-values-unreadable"
    assert file.read_text() == content
    file.rename(file.with_suffix(".damaged"))  # as the error says
    again = Vault(STACK, tmp_path, Redactor(), print).of("dev")
    assert again["token"].reveal() != first["token"].reveal()


@DAMAGED
def test_files_of_secrets_that_are_gone_do_not_stay_because_the_list_of_them_is_damaged(
    tmp_path: Path, content: str
) -> None:
    section = STACK.secrets
    assert section is not None
    staged = render.files(tmp_path, section, {"token": Secret("canary")})
    render.write(tmp_path, section, staged)
    listed = tmp_path / section.folder / render.RECORD
    listed.write_text(content)

    for work in (lambda: render.left_over(tmp_path, section, ()), lambda: render.write(tmp_path, section, staged)):
        with pytest.raises(Refused, match=r"\.rendered cannot be read: it is damaged") as refused:
            work()

    assert refused.value.code == "rendered-list-unreadable"
    assert listed.read_text() == content


PROD = """\
name: shop
secrets:
  file: secrets.enc.yaml
  declared: {token: {env: token, required: false}, key: {required: false, outputs: [file]}}
environments: {prod: {compose: [compose.yaml], protected: true}}
"""


@pytest.mark.parametrize(
    ("dotenv", "file", "declared", "refused"),
    [
        ("token: decrypted\n", "value", PROD, False),
        ("export token=x\n", "value", PROD, False),
        ("token=\n", "value", PROD, True),
        ("TOKEN=x\n", "value", PROD, True),
        ("token=x\n", "", PROD, True),
        ("token=x\n", "value", PROD.replace("env: token, required: false", "env: token"), True),
    ],
)
def test_without_a_key_a_protected_environment_goes_by_what_is_there_if_that_is_all_and_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dotenv: str, file: str, declared: str, refused: bool
) -> None:
    for name in ("SOPS_AGE_KEY", "SOPS_AGE_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / ".env").write_text(dotenv)
    (tmp_path / "docker/secrets").mkdir(parents=True)
    (tmp_path / "docker/secrets/key.txt").write_text(file)
    said: list[str] = []
    vault = Vault(parse(declared), tmp_path, Redactor(), said.append)

    if refused:
        with pytest.raises(ConcheError):
            vault.of("prod")
    else:
        assert vault.of("prod") == {}
        assert "no age key: the values of prod come from .env" in said[0]
