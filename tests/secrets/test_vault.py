"""One decryption of a file for a command, what a release keeps sealed, and fingerprints of values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from conche.errors import KeyUnusable
from conche.secret import Redactor, Secret
from conche.stack import load
from conche.vault import keys, sops
from conche.vault.forms import Path_
from conche.vault.store import Edit
from conche.vault.vault import Vault, fingerprint
from tests.secrets.checkouts import Checkout


def opened(folder: Path) -> Vault:
    return Vault(load(folder), folder, Redactor(), print)


def change(vault: Vault, value: str) -> None:
    vault.store().change("a test", lambda _: Edit(put={"beta": Secret(value)}))


@pytest.fixture
def plain(tmp_path: Path) -> Vault:
    """A stack without secrets: what it keeps is sealed to a key of this user's own."""
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (tmp_path / "stack.yaml").write_text(
        "name: plain\nregistry: localhost:5000\nenvironments: {dev: {compose: [compose.yaml]}}\n"
    )
    return opened(tmp_path)


def test_what_is_sealed_can_be_opened_and_not_read(plain: Vault, canary: str) -> None:
    sealed = plain.seal("dev", canary.encode())

    assert canary.encode() not in sealed
    assert plain.unseal(sealed) == canary.encode()


def test_of_two_commands_that_make_this_users_key_at_once_the_first_counts(
    plain: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier: list[bytes] = []
    generate = keys.generate

    def overtaken() -> tuple[Secret, str]:
        monkeypatch.setattr(keys, "generate", generate)
        earlier.append(plain.seal("dev", b"of the first"))
        return generate()

    monkeypatch.setattr(keys, "generate", overtaken)

    later = plain.seal("dev", b"of the second")

    assert [plain.unseal(one) for one in (*earlier, later)] == [b"of the first", b"of the second"]


def test_another_user_without_the_key_is_told_so(plain: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = plain.seal("dev", b"content")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))

    with pytest.raises(KeyUnusable) as refused:
        plain.unseal(sealed)

    assert refused.value.code == "seal-not-opened"


@pytest.mark.process
def test_a_file_is_decrypted_once_for_a_command_and_again_once_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = opened(Checkout.create(tmp_path / "checkout").folder)
    change(vault, "the first value")
    started: list[Path] = []
    decrypt = sops.decrypt_file

    def counted(file: Path, key: keys.Key, paths: Mapping[str, Path_]) -> dict[str, Secret]:
        started.append(file)
        return decrypt(file, key, paths)

    monkeypatch.setattr(sops, "decrypt_file", counted)

    read = [vault.of("dev"), vault.everything(), vault.known(), vault.of("dev", create=False)]

    assert len(started) == 1
    assert {one["beta"].reveal() for one in read} == {"the first value"}
    assert vault.redact("it is the first value") == "it is ***"

    change(vault, "another value")

    assert vault.of("dev")["beta"].reveal() == "another value"


@pytest.mark.process
def test_every_recipient_of_the_secrets_can_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Checkout.create(tmp_path / "checkout")
    other, public = keys.generate()
    added = checkout.invoke("secrets.recipients.add", public)
    assert added.returncode == 0, added.stderr

    sealed = opened(checkout.folder).seal("dev", b"content")
    monkeypatch.setenv("SOPS_AGE_KEY", other.reveal())

    assert opened(checkout.folder).unseal(sealed) == b"content"


def test_fingerprints_tell_values_apart_and_depend_on_the_salt_alone() -> None:
    salt = b"of the environment"

    assert fingerprint(salt, Secret("one")) == fingerprint(salt, Secret("one"))
    assert fingerprint(salt, Secret("one")) != fingerprint(salt, Secret("two"))
    assert fingerprint(b"another", Secret("one")) != fingerprint(salt, Secret("one"))
    assert len(fingerprint(salt, Secret("one"))) == 12
