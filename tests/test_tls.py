"""The trusted certificate authorities are read once, and again when the environment names others."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from conche.notify import ping
from conche.secret import Secret
from conche.tls import trusted


def test_authorities_are_read_once() -> None:
    first = trusted()

    assert trusted() is first
    assert first.get_ca_certs() != []


def test_other_authorities_are_read_where_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before, unnamed = trusted(), trusted(trust_env=False)
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())

    assert trusted() is not before
    assert trusted(trust_env=False) is unnamed


def test_a_ping_without_its_authorities_is_told_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))

    assert "could not be sent: FileNotFoundError" in ping(Secret("https://127.0.0.1:9/canary"), "start")
