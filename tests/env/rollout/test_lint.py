"""What keeps Compose files from being deployed: every reason, with the words that name it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.rollout.lint import begins_empty, check, stays_down
from conche.errors import Refused
from conche.stack import Deploy, Environment, load
from tests.stacks import ROOT

pytestmark = pytest.mark.process

DEPLOY = Deploy(edge="edge", serves="web")

GOOD: dict[str, dict[str, Any]] = {
    "web": {"image": "own/web", "networks": ["in"], "restart": "always", "healthcheck": {"test": ["CMD", "true"]}},
    "edge": {"image": "nginx", "networks": ["in"], "ports": ["8000:8000"], "volumes": ["edge:/etc/conche/edge"]},
}


def complaints(
    folder: Path, services: dict[str, Any], deploy: Deploy = DEPLOY, *, protected: bool = False
) -> tuple[str, ...]:
    file = folder / "compose.yaml"
    named: dict[str, Any] = {"networks": {"in": {}, "out": {}}, "volumes": {"edge": {}}}
    named["secrets"] = {"key": {"file": "key.txt"}}
    file.write_text(json.dumps({"services": services, **named}))
    configuration = Compose(Engine(), "x-prod", (file,)).configuration(hashed=False)
    environment = Environment(compose=(file,), deploy=deploy, protected=protected)
    try:
        check(configuration, environment, folder, {"own/web": "web"})
    except Refused as refused:
        return refused.evidence
    return ()


def changed(service: str, **said: Any) -> dict[str, Any]:
    body = {key: value for key, value in {**GOOD[service], **said}.items() if value is not None}
    return {**GOOD, service: body}


def test_the_port_that_is_believed_is_not_published(tmp_path: Path) -> None:
    deploy = DEPLOY.model_copy(update={"trusted_port": 8080})

    assert complaints(tmp_path, GOOD, deploy) == ()
    [said] = complaints(tmp_path, changed("edge", ports=["8000:8080"]), deploy)
    assert said == "edge publishes port 8080, which is `deploy.trusted_port`: anybody would be believed"


def test_good_files_are_not_complained_of(tmp_path: Path) -> None:
    assert complaints(tmp_path, GOOD, protected=True) == ()


@pytest.mark.parametrize(
    ("services", "words"),
    [
        (changed("web", container_name="fixed"), "web has a container_name"),
        (changed("web", ports=["8001:8000"]), "web publishes a port"),
        (changed("web", healthcheck=None), "web has no healthcheck"),
        (changed("web", healthcheck=None, restart="no"), "web is a one-shot"),
        (changed("web", networks=None, network_mode="host"), "web has a network_mode"),
        (
            {**GOOD, "vpn": {"image": "x", "network_mode": "service:web"}},
            "vpn is in the network, processes or memory of web",
        ),
        (
            {**GOOD, "shell": {"image": "x", "pid": "service:web"}},
            "shell is in the network, processes or memory of web",
        ),
        (changed("web", networks=["out"]), "edge and web share no network"),
        (changed("web", read_only=True, secrets=["key"]), "web is read_only and uses secrets"),
        (changed("edge", ports=None), "edge publishes no port"),
        (changed("edge", volumes=None), "edge has no volume at /etc/conche/edge"),
        ({"web": GOOD["web"]}, "names the service edge, which no Compose file has"),
        ({"edge": GOOD["edge"]}, "names the service web, which no Compose file has"),
    ],
)
def test_what_cannot_be_deployed_is_named(tmp_path: Path, services: dict[str, Any], words: str) -> None:
    assert any(words in said for said in complaints(tmp_path, services))


def test_every_reason_is_named_at_once(tmp_path: Path) -> None:
    said = complaints(tmp_path, changed("web", container_name="fixed", ports=["8001:8000"], healthcheck=None))

    assert len(said) == 3


@pytest.mark.parametrize(("protected", "count"), [(True, 1), (False, 0)])
def test_a_protected_environment_runs_what_is_in_its_image(tmp_path: Path, protected: bool, count: int) -> None:
    services = changed("web", volumes=["./src:/app"])

    assert len(complaints(tmp_path, services, protected=protected)) == count


def test_our_own_production_can_be_deployed() -> None:
    stack = load(ROOT)
    prod = stack.environments["prod"]
    configuration = Compose(Engine(), "x-prod", (ROOT / "compose/prod.yaml",)).configuration(hashed=False)

    check(configuration, prod, ROOT, {})

    assert configuration.rendered["services"]["fastapi-app-prod"]["secrets"]


def test_a_volume_without_a_name_behind_the_edge_is_said(tmp_path: Path) -> None:
    file, volumes = tmp_path / "compose.yaml", ["/uploads", "kept:/kept", "./here:/here"]
    named: dict[str, Any] = {"volumes": {"kept": {}, "edge": {}}, "networks": {"in": {}}}
    file.write_text(json.dumps({"services": changed("web", volumes=volumes), **named}))
    bodies = Compose(Engine(), "x-prod", (file,)).configuration(hashed=False).rendered["services"]

    [said] = begins_empty(bodies, DEPLOY)

    assert said.startswith("web has a volume without a name at /uploads: ")
    assert begins_empty(bodies, Deploy()) == []


def test_what_a_reboot_would_leave_down_is_said() -> None:
    deploy = Deploy(edge="edge", serves="web")
    bodies = {"edge": {"restart": "unless-stopped"}, "web": {}, "job": {}}

    assert stays_down({**bodies, "web": {"restart": "always"}}, deploy) == []
    assert stays_down({**bodies, "web": {"deploy": {"restart_policy": {"condition": "any"}}}}, deploy) == []
    assert [one.partition(" ")[0] for one in stays_down(bodies, deploy)] == ["web"]
