"""Sealing what a release keeps, and fingerprints of values."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.errors import KeyUnusable
from conche.secret import Secret
from conche.stack import Stack, load
from conche.vault import keys
from conche.vault.seal import fingerprint, seal, unseal
from tests.secrets.checkouts import Checkout


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Stack, Path]:
    """A stack without secrets: what it keeps is sealed to a key of this user's own."""
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (tmp_path / "stack.yaml").write_text(
        "name: plain\nregistry: localhost:5000\nenvironments: {dev: {compose: [compose.yaml]}}\n"
    )
    return load(tmp_path), tmp_path


def test_what_is_sealed_can_be_opened_and_not_read(plain: tuple[Stack, Path], canary: str) -> None:
    sealed = seal(*plain, canary.encode())

    assert canary.encode() not in sealed
    assert unseal(*plain, sealed) == canary.encode()


def test_another_user_without_the_key_is_told_so(
    plain: tuple[Stack, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = seal(*plain, b"content")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))

    with pytest.raises(KeyUnusable) as refused:
        unseal(*plain, sealed)

    assert refused.value.code == "seal-not-opened"


@pytest.mark.process
def test_every_recipient_of_the_secrets_can_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Checkout.create(tmp_path / "checkout")
    other, public = keys.generate()
    added = checkout.invoke("secrets.recipients.add", public)
    assert added.returncode == 0, added.stderr
    stack = load(checkout.folder)

    sealed = seal(stack, checkout.folder, b"content")
    monkeypatch.setenv("SOPS_AGE_KEY", other.reveal())

    assert unseal(stack, checkout.folder, sealed) == b"content"


def test_fingerprints_tell_values_apart_and_depend_on_the_salt_alone() -> None:
    salt = b"of the environment"

    assert fingerprint(salt, Secret("one")) == fingerprint(salt, Secret("one"))
    assert fingerprint(salt, Secret("one")) != fingerprint(salt, Secret("two"))
    assert fingerprint(b"another", Secret("one")) != fingerprint(salt, Secret("one"))
    assert len(fingerprint(salt, Secret("one"))) == 12
