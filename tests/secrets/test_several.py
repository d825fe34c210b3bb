"""Encrypted files of single environments: production's values need not be readable where development's are."""

from __future__ import annotations

import pyrage
import pytest

from conche.errors import KeyUnusable
from conche.secret import Redactor
from conche.stack import StackInvalid, load, parse
from conche.vault.vault import Vault
from tests.secrets.declared import Checkout

FILES = "secrets:\n  files: {dev: secrets.dev.enc.yaml, prod: deploy/prod.enc.yaml}\n"


@pytest.fixture
def several(checkout: Checkout) -> Checkout:
    """Two environments, each with a file of its own, and a key that opens both."""
    checkout.small.replace("stack.yaml", "secrets:\n", FILES)
    checkout.small.replace("stack.yaml", "environments:\n", "environments:\n  prod: {compose: [compose/dev.yaml]}\n")
    (checkout.folder / "deploy").mkdir()
    for name in ("dev", "prod"):
        checkout.ok("secrets.init", "--env", name)
        checkout.ok("secrets.set", "api_key", "--env", name, stdin=f"the key of {name}\n")
    return checkout


@pytest.mark.process
def test_each_environment_has_the_values_of_its_own_file(several: Checkout) -> None:
    stack = load(several.folder)

    for name in ("dev", "prod"):
        values = Vault(stack, several.folder, Redactor(), print).of(name)
        assert values["api_key"].reveal() == f"the key of {name}"
        assert several.ok("secrets.get", "api_key", "--env", name) == f"the key of {name}"
    assert "the key of" not in several.call("secrets.get", "api_key").stdout


@pytest.mark.process
def test_what_is_about_one_file_is_refused_where_no_environment_is_named(several: Checkout) -> None:
    done = several.call("secrets.list")

    assert (done.returncode, "several-secrets-files" in done.stderr) == (2, True)
    assert "Next: invoke secrets.list --env dev" in done.stderr


@pytest.mark.process
def test_recipients_are_each_files_own(several: Checkout) -> None:
    other = pyrage.x25519.Identity.generate()
    several.ok("secrets.recipients.add", str(other.to_public()), "--env", "dev")
    (several.folder / ".sops/age-key.txt").write_text(f"{other}\n")
    stack = load(several.folder)

    assert Vault(stack, several.folder, Redactor(), print).of("dev")["api_key"].reveal() == "the key of dev"
    with pytest.raises(KeyUnusable):
        Vault(stack, several.folder, Redactor(), print).of("prod")


@pytest.mark.process
def test_a_scan_looks_for_the_values_of_every_file_and_says_whose_they_are(several: Checkout) -> None:
    several.small.write("left.txt", "the key of prod\n")
    several.commit()

    done = several.call("secrets.scan")

    assert done.returncode == 1
    assert "Next: invoke secrets.rotate-value api_key --env prod" in done.stdout


def test_a_file_of_an_environment_that_there_is_not_is_refused() -> None:
    with pytest.raises(StackInvalid) as refused:
        parse("name: shop\nsecrets: {files: {prd: a.yaml}}\nenvironments: {prod: {compose: [a.yaml]}}\n")

    assert "an environment of this file" in str(refused.value.evidence)


@pytest.mark.process
def test_an_environment_without_a_file_of_its_own_needs_none(several: Checkout) -> None:
    several.small.replace("stack.yaml", "files: {dev: secrets.dev.enc.yaml, prod:", "files: {prod:")
    vault = Vault(load(several.folder), several.folder, Redactor(), lambda _: None)

    values = vault.of("dev", create=False)

    assert "the key of" not in {one.reveal() for one in values.values()}
    assert vault.unseal(vault.seal("dev", b"a release")) == b"a release"
    assert vault.of("prod")["api_key"].reveal() == "the key of prod"
