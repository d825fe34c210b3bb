"""A second copy of this repository's stack on one engine: another name and other ports, and nothing else to change."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conche.command import Invocation
from conche.output import Output
from conche.session import open_compose
from conche.stack import load
from tests.stacks import ROOT

ENVIRONMENTS = ("dev", "prod", "git")

OTHER = {
    "name: chocolate-factory\n": "name: second-factory\n", "port: 8001": "port: 8101", "port: 8000": "port: 8100",
    "port: 5000": "port: 5100", "registry: localhost:5000": "registry: localhost:5100",
}  # fmt: skip
"""What changes in stack.yaml."""

PORTS = "FORGEJO_PORT=3100\nFORGEJO_SSH_PORT=2322\nINFLUXDB_PORT=8186\n"
"""What changes in .env."""


@pytest.fixture
def copies(tmp_path: Path) -> tuple[Path, Path]:
    """The folders of the first copy and of the second one."""
    for name in ("first", "second"):
        folder = tmp_path / name
        for part in ("compose", "docker", "secrets.enc.yaml", "stack.yaml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            folder.mkdir(exist_ok=True)
            copy(ROOT / part, folder / part)
    second = tmp_path / "second"
    text = (second / "stack.yaml").read_text()
    for old, new in OTHER.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (second / "stack.yaml").write_text(text)
    (second / ".env").write_text(PORTS)
    return tmp_path / "first", second


def rendered(folder: Path, environment: str) -> Any:
    compose = open_compose(Invocation(folder, Output("env.config")), environment)
    return compose.with_every_profile().configuration(hashed=False).rendered


def taken(document: Any) -> Iterator[str]:
    """Everything that only one of two copies on an engine can have."""
    project = document["name"]
    yield f"project {project}"
    for name, service in document["services"].items():
        yield f"container {service.get('container_name', f'any of {project}-{name}')}"
        for port in service.get("ports") or ():
            yield f"port {port['published']}"
        if not service["image"].startswith(("nginx", "registry:", "influxdb", "tailscale", "codeberg", "chocolate")):
            yield f"image {service['image']}"
        yield from (f"folder {one['source']}" for one in service.get("volumes") or () if "/srv/" in one["source"])
    for kind in ("volumes", "networks"):
        yield from (f"{kind} {one['name']}" for one in (document.get(kind) or {}).values())


@pytest.mark.process
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_two_copies_have_nothing_in_common_on_the_engine(copies: tuple[Path, Path], environment: str) -> None:
    first, second = ([*taken(rendered(folder, environment))] for folder in copies)

    assert not {*first} & {*second}
    assert len(first) == len(second) > 5
    assert [one for one in second if re.search(r"chocolate.factory(?!:(develop|production)$)", one)] == []


@pytest.mark.process
def test_the_first_copy_has_the_documented_names(copies: tuple[Path, Path]) -> None:
    found = {one for environment in ENVIRONMENTS for one in taken(rendered(copies[0], environment))}

    assert {
        "container chocolate_factory_dev", "container chocolate_factory_storage", "container chocolate_factory_forgejo",
        "volumes chocolate-factory_influxdb_prod_data", "networks chocolate-factory_dev-backend",
        "image localhost:5000/chocolate-factory:production", "folder /srv/chocolate-factory/runner-dev",
        "port 8086", "port 3000", "port 2222", "port 8001",
    } <= found  # fmt: skip


@pytest.mark.process
def test_what_forgejo_says_of_itself_has_the_ports_of_its_copy(copies: tuple[Path, Path]) -> None:
    services = rendered(copies[1], "git")["services"]

    forgejo = services["forgejo"]["environment"]
    assert forgejo["FORGEJO__server__ROOT_URL"] == "http://localhost:3100/"
    assert forgejo["FORGEJO__server__SSH_PORT"] == "2322"
    assert {one["environment"]["GITEA_INSTANCE_URL"] for name, one in services.items() if "runner" in name} == {
        "http://localhost:3100/"
    }
    assert services["gitea-runner-tests"]["environment"]["RUNNER_RELAY"] == "3100:forgejo:3000"


def test_each_copy_asks_and_backs_up_its_own(copies: tuple[Path, Path]) -> None:
    first, second = map(load, copies)

    assert (first.environments["dev"].health, second.environments["dev"].health) == (
        "http://localhost:8001/health",
        "http://localhost:8101/health",
    )
    assert first.backup
    assert second.backup
    volumes = [
        {one.volume for one in stack.backup.components.values() if one.volume}
        for stack in (first, second)
        if stack.backup
    ]
    assert "chocolate-factory_models_prod" in volumes[0]
    assert {one.replace("second", "chocolate") for one in volumes[1]} == volumes[0]


def test_no_command_in_stack_yaml_names_a_container_of_the_first_copy() -> None:
    text = (ROOT / "stack.yaml").read_text()

    assert re.findall(r"chocolate.factory.*", text) == ["chocolate-factory", "chocolate-factory"]
    assert "8001" not in (ROOT / "scripts/quickstart").read_text()
