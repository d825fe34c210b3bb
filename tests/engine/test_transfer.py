"""Pushing and pulling: what the engine says, told; who we are, and what was stored for others."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from conche.engine.transfer import Credentials, PullFailed, _failure, _Layers, stored
from conche.secret import Secret

REFERENCE = "127.0.0.1:40143/denied-eof:401"
"""Everything in it could be taken for a status, and is none."""


@pytest.mark.parametrize(
    ("said", "verb", "code", "status"),
    [
        (f"Head http://127.0.0.1:40143/v2/: no basic auth credentials for {REFERENCE}", "pushed", "registry-denied", 8),
        ("unauthorized: authentication required", "pulled", "registry-denied", 8),
        ("denied: requested access to the resource is denied", "pushed", "registry-denied", 8),
        ("dial tcp 127.0.0.1:40143: connect: connection refused", "pulled", "registry-unreachable", 9),
        ("Put http://127.0.0.1:40143/v2/x/blobs/uploads/y: EOF", "pushed", "registry-unreachable", 9),
        ("received unexpected HTTP status: 500 Internal Server Error", "pushed", "registry-failed", 9),
        ("write /var/lib/registry/x: no space left on device", "pushed", "registry-failed", 9),
        ("failed to register layer: write /x: no space left on device", "pulled", "disk-full", 9),
        ("manifest unknown: manifest unknown", "pulled", "image-not-pulled", 2),
        (f"manifest for {REFERENCE} not found: manifest unknown", "pulled", "image-not-pulled", 2),
        ("pull access denied for x, repository does not exist or may require 'docker login'", "pulled",
         "image-not-pulled", 2),
        (f"An image does not exist locally with the tag: {REFERENCE}", "pushed", "image-not-pushed", 2),
    ],
)  # fmt: skip
def test_what_the_engine_says_is_told_apart(said: str, verb: str, code: str, status: int) -> None:
    error = _failure(said, REFERENCE, verb)

    assert (error.code, error.status) == (code, status)
    assert error.evidence == (said,)
    assert error.next_command


def test_only_a_pull_that_reached_nobody_lets_a_base_be_made() -> None:
    lost = "connection refused"

    assert isinstance(_failure(lost, REFERENCE, "pulled"), PullFailed)
    assert not isinstance(_failure(lost, REFERENCE, "pushed"), PullFailed)
    assert not isinstance(_failure("manifest unknown", REFERENCE, "pulled"), PullFailed)


def test_layers_are_counted_and_their_bytes_added_up() -> None:
    amounts: list[tuple[str, int, int]] = []
    layers = _Layers(lambda *amount: amounts.append(amount), "pushing a:b")

    for event in (
        {"id": "a", "status": "Preparing"},
        {"id": "b", "status": "Layer already exists"},
        {"id": "a", "status": "Pushing", "progressDetail": {"current": 10, "total": 100}},
        {"id": "c", "status": "Pushing", "progressDetail": {"current": 5, "total": 50}},
        {"id": "a", "status": "Pushing", "progressDetail": {"current": 120, "total": 100}},
        {"id": "a", "status": "Retrying in 5 seconds"},
        {"id": "a", "status": "Pushed"},
        {"id": "d", "status": "Mounted from other"},
    ):
        layers.see(event)

    assert (layers.moved, layers.known) == ({"a"}, {"b", "d"})
    assert amounts == [
        ("pushing a:b: 10 B of 100 B", 10, 100),
        ("pushing a:b: 15 B of 150 B", 15, 150),
        ("pushing a:b: 125 B of 170 B", 125, 170),
        ("pushing a:b: the registry was lost. Retrying in 5 seconds", 125, 170),
    ]


def test_what_docker_login_has_stored_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, canary: str) -> None:
    auth = base64.b64encode(f"admin:{canary}".encode()).decode()
    auths = {"localhost:5000": {"auth": auth}, "token.example": {"identitytoken": canary}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    assert stored("localhost:5000") == Credentials("admin", Secret(canary))
    assert stored("elsewhere:5000") is None
    assert stored("token.example") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"auths": {"localhost:5000": {"auth": "%%%"}}}'])
def test_settings_of_docker_that_cannot_be_read_are_no_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    assert stored("localhost:5000") is None


def test_a_password_is_in_no_representation(canary: str) -> None:
    credentials = Credentials("admin", Secret(canary))

    assert canary not in repr(credentials) + str(credentials)
    assert credentials.header() == {"username": "admin", "password": canary}
