"""Where a token is sent: by TLS or within a private network, and to whom one is sent that is kept in the secrets."""

from __future__ import annotations

import io
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conche.ci.forge.cleartext import is_near
from conche.ci.forge.client import Client
from conche.ci.forge.where import connect
from conche.command import Invocation
from conche.errors import KeyUnusable, Refused
from conche.output import Output
from conche.secret import Secret
from conche.vault.vault import Vault

NEAR = [
    "localhost", "127.0.0.1", "[::1]", "::ffff:127.0.0.1", "10.2.3.4", "192.168.1.9", "172.17.0.1", "100.64.0.7",
    "fd00::5", "fe80::1", "forgejo", "git.lan", "forge.local", "host.docker.internal", "host.docker.internal.",
]  # fmt: skip
FAR = ["8.8.8.8", "[2001:4860:4860::8888]", "::ffff:8.8.8.8"]
NAMES = {
    "git.home.example": ["192.168.1.9"],
    "dual.home.example": ["2001:4860::1", "192.168.1.9"],
    "git.example.org": ["8.8.8.8"],
    "scoped.example.org": ["fe80::1%eth0"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, *_: Any, **__: Any) -> list[Any]:
        if name not in NAMES:
            raise socket.gaierror(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in NAMES[name]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("host", [*NEAR, "git.home.example", "dual.home.example", "scoped.example.org"])
def test_a_host_is_near(host: str) -> None:
    assert is_near(host)


@pytest.mark.parametrize("host", [*FAR, "git.example.org", "absent.example.org", "a..b", "x" * 300 + ".org"])
def test_a_host_is_not_near(host: str) -> None:
    assert not is_near(host)


def test_no_token_is_sent_in_clear_to_a_server_on_the_internet() -> None:
    with pytest.raises(Refused) as told:
        Client("http://git.example.org", Secret("t0ken")).json("GET", "/user")

    assert told.value.code == "server-in-clear"
    assert "https://" in (told.value.next_command or "")
    assert "t0ken" not in str(told.value.as_json())


SECRETS = "secrets: {file: secrets.enc.yaml, declared: {forge_token: {env: FORGEJO_TOKEN}}}\n"


@pytest.mark.parametrize(
    ("server", "remote", "found"),
    [
        ("", "", False),
        ("", "https://git.example.org/team/app.git", True),
        ("ci: {server: 'https://git.example.org', repository: team/app}\n", "", True),
    ],
    ids=["by a variable alone", "by git's remote", "by stack.yaml"],
)
def test_a_token_in_the_secrets_goes_only_to_a_server_that_the_checkout_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, remote: str, found: bool
) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    environments = "environments: {dev: {compose: [compose.yaml]}}\n"
    (tmp_path / "stack.yaml").write_text(f"name: app\n{environments}{SECRETS}{server}")
    subprocess.run(["git", "-C", str(tmp_path), "init", "--quiet"], check=True)
    if remote:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", remote], check=True)
    for name in ("FORGEJO_TOKEN", "GITEA_TOKEN", "FORGEJO_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://elsewhere.example.org")
    monkeypatch.setenv("GITHUB_REPOSITORY", "team/app")
    monkeypatch.setattr(Vault, "key", "a key")
    monkeypatch.setattr(Vault, "known", lambda _: {"forge_token": Secret("t0ken")})
    call = Invocation(tmp_path, Output("ci.status", stdout=io.StringIO(), stderr=io.StringIO()))

    if found:
        assert connect(call).client.address == "https://git.example.org"
        return
    with pytest.raises(KeyUnusable) as told:
        connect(call)
    assert (told.value.code, "elsewhere.example.org" in told.value.message) == ("server-token-missing", True)
