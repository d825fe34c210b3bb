"""Docker settings that name a credential helper which is not there, or that Docker did not write."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from conche.supply.registry import Registry
from tests.images.registries import USER, PrivateRegistry
from tests.stacks import SmallStack, free_port

pytestmark = pytest.mark.engine

OPEN = "{version: 0.1, storage: {filesystem: {rootdirectory: /tmp}}, http: {addr: ':5000'}}"
"""A registry's configuration in which nobody has to log in."""


@pytest.fixture
def desktop(tmp_path: Path) -> Path:
    """Docker settings that somebody has brought from another machine."""
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "config.json").write_text('{"credsStore": "desktop"}')
    return folder


def with_image(small: SmallStack, image: str) -> None:
    small.write("compose/dev.yaml", f"services:\n  web: {{image: '{image}', command: [sleep, '600'], init: true}}\n")


@pytest.fixture
def open_registry(engine: Engine, registry_image: str, small: SmallStack, tmp_path: Path) -> Iterator[str]:
    """A registry that asks nobody who they are; its host."""
    port, config = free_port(), tmp_path / "registry.yml"
    config.write_text(OPEN)
    one = engine.client.containers.run(
        registry_image,
        name=f"{small.name}-registry",
        volumes=[f"{config}:/etc/docker/registry/config.yml:ro"],
        ports={"5000/tcp": ("127.0.0.1", port)},
        detach=True,
    )
    Registry(f"127.0.0.1:{port}").wait(300)
    yield f"127.0.0.1:{port}"
    one.remove(force=True, v=True)


def pushed(engine: Engine, image: str, auth: dict[str, str]) -> None:
    """Put an image into a registry, and off the engine."""
    api = engine.client.api
    name, _, tag = image.rpartition(":")
    api.tag("python:3.11-slim-bookworm", name, tag)
    assert '"error"' not in api.push(name, tag=tag, auth_config=auth)
    api.remove_image(image)


def test_what_needs_no_login_needs_no_credential_helper(
    small: SmallStack, engine: Engine, open_registry: str, desktop: Path
) -> None:
    image = f"{open_registry}/{small.name}-open:1"
    pushed(engine, image, {})
    with_image(small, image)

    done = small.invoke("env.up", DOCKER_CONFIG=str(desktop))

    assert done.returncode == 0, done.stderr
    assert "docker-credential" not in done.stderr


def test_what_needs_a_login_names_the_helper_and_the_settings(
    small: SmallStack, engine: Engine, registry: PrivateRegistry, desktop: Path
) -> None:
    image = f"{registry.host}/{small.name}-closed:1"
    pushed(engine, image, {"username": USER, "password": registry.password})
    with_image(small, image)

    failed = small.invoke("env.up", DOCKER_CONFIG=str(desktop))

    assert failed.returncode == 9, failed.stderr
    assert "error [credential-helper-unusable]" in failed.stderr
    assert f"docker-credential-desktop, which {desktop}/config.json names, is not installed" in failed.stderr
    assert f"install docker-credential-desktop, or remove the line that names it from {desktop}" in failed.stderr


def test_a_helper_that_fails_is_named_too(
    small: SmallStack, engine: Engine, registry: PrivateRegistry, desktop: Path, tmp_path: Path
) -> None:
    image = f"{registry.host}/{small.name}-closed:1"
    pushed(engine, image, {"username": USER, "password": registry.password})
    with_image(small, image)
    program = tmp_path / "bin" / "docker-credential-desktop"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'the keyring is locked'; exit 1\n")
    program.chmod(0o755)

    failed = small.invoke("env.up", DOCKER_CONFIG=str(desktop), PATH=f"{program.parent}:{os.environ['PATH']}")

    assert failed.returncode == 9, failed.stderr
    assert "error [credential-helper-unusable]" in failed.stderr
    assert "the keyring is locked" in failed.stderr


def test_a_registry_that_is_not_there_is_what_is_told_and_the_helper_beside_it(
    small: SmallStack, desktop: Path
) -> None:
    with_image(small, "registry.invalid/nothing:1")

    failed = small.invoke("env.up", DOCKER_CONFIG=str(desktop))

    assert "No Docker engine answers" not in failed.stderr
    assert failed.stderr.count("error [registry-unreachable]") == 1
    assert f"docker-credential-desktop, which {desktop}/config.json names, is not installed" in failed.stderr
    assert f"install docker-credential-desktop, or remove the line that names it from {desktop}" in failed.stderr


def test_the_doctor_sees_a_credential_helper_that_is_not_there(small: SmallStack, desktop: Path) -> None:
    findings = json.loads(small.invoke("doctor", "--json", DOCKER_CONFIG=str(desktop)).stdout)["value"]

    (found,) = [one for one in findings if one["name"] == "credential helper"]
    assert (found["state"], found["needed"]) == ("missing", "for the login to every registry")
    assert found["found"] == f"no docker-credential-desktop, which {desktop}/config.json names"


@pytest.mark.parametrize("content", ["[]", "3", '{"auths": {"x": "y"}}', '{"auths": {"x": {"auth": "%%%"}}}'])
def test_settings_that_docker_did_not_write_are_named(small: SmallStack, desktop: Path, content: str) -> None:
    (desktop / "config.json").write_text(content)

    refused = small.invoke("env.status", DOCKER_CONFIG=str(desktop))

    assert refused.returncode == 2
    assert (
        f"error [docker-settings-invalid]: {desktop}/config.json is not a valid Docker configuration" in refused.stderr
    )
    assert "Traceback" not in refused.stderr
