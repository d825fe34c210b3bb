"""The git environment of this repository, and what it shares with the others, held to the documents."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stacks import ROOT


def rendered(*profiles: str) -> Any:
    wanted = [part for profile in profiles for part in ("--profile", profile)]
    argv = ["docker", "compose", "--file", "compose/git.yaml", *wanted, "config", "--format", "json"]
    return json.loads(subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.process
def test_the_git_environment_is_the_documented_one() -> None:
    alone = rendered()["services"]
    forgejo = alone["forgejo"]

    assert set(alone) == {"registry", "forgejo"}
    assert {int(port["target"]): port["published"] for port in forgejo["ports"]} == {3000: "3000", 2222: "2222"}
    assert set(rendered("runners", "tailnet")["services"]) == {
        "registry", "forgejo", "gitea-runner-dev", "gitea-runner-prod", "gitea-runner-toolkit", "gitea-runner-tests",
        "tailscale",
    }  # fmt: skip


def test_images_are_pinned_and_everything_has_a_healthcheck() -> None:
    for file in ("dev", "prod", "git"):
        for name, service in yaml.safe_load((ROOT / f"compose/{file}.yaml").read_text())["services"].items():
            image = service["image"]
            tag = image.rpartition(":")[2]
            assert image.startswith("localhost:5000/") or any(sign.isdigit() for sign in tag), name
            assert "healthcheck" in service, name


@pytest.mark.process
def test_the_runner_of_pull_requests_has_no_engine() -> None:
    services = rendered("runners")["services"]
    sockets = {
        name for name, one in services.items()
        if any(mount.get("source") == "/var/run/docker.sock" for mount in one.get("volumes") or ())
    }  # fmt: skip
    tests = services["gitea-runner-tests"]

    assert sockets == {"gitea-runner-dev", "gitea-runner-prod", "gitea-runner-toolkit"}
    assert list(tests["networks"]) == ["runner-tests"]
    assert {name for name, one in services.items() if "runner-tests" in (one.get("networks") or {})} == {
        "gitea-runner-tests",
        "forgejo",
    }
    assert tests["user"] == "1000:1000"
    assert tests["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("file", ["dev", "prod", "git"])
def test_a_tailscale_sidecar_has_no_privileges_and_its_key_from_a_file(file: str) -> None:
    services = yaml.safe_load((ROOT / f"compose/{file}.yaml").read_text())["services"]
    sidecar = services["tailscale"]
    served = json.loads(sidecar["environment"]["SERVE"].replace("$${", "${"))
    proxies = [handler["Proxy"] for web in served["Web"].values() for handler in web["Handlers"].values()]

    assert sidecar["profiles"] == ["tailnet"]
    assert sidecar["environment"]["TS_USERSPACE"] == "true"
    assert sidecar["environment"]["TS_AUTHKEY"] == "file:/run/secrets/tailscale_authkey"
    assert not sidecar.keys() & {"privileged", "devices", "network_mode"}
    assert sidecar["cap_drop"] == ["ALL"]
    assert "NET_ADMIN" not in sidecar["cap_add"]
    assert [proxy.removeprefix("http://").partition(":")[0] in services for proxy in proxies] == [True]
    assert [mount for mount in sidecar["volumes"] if mount.startswith((".", "/"))] == []


@pytest.mark.parametrize("file", ["dev", "prod", "git"])
def test_a_sidecar_hands_nothing_to_the_tailnet_but_what_it_serves(file: str) -> None:
    """In userspace, what comes for a port that nothing serves is handed to 127.0.0.1 of its container."""
    sidecar = yaml.safe_load((ROOT / f"compose/{file}.yaml").read_text())["services"]["tailscale"]
    served = json.loads(sidecar["environment"]["SERVE"].replace("$${", "${"))
    plain = json.loads(sidecar["environment"]["SERVE_PLAIN"])

    assert sidecar["environment"]["TS_LOCAL_ADDR_PORT"] == "127.0.0.2:9002"
    assert sidecar["healthcheck"]["test"][-1] == "http://127.0.0.2:9002/healthz"
    assert list(served["TCP"]) == ["443"]
    [site] = served["Web"].values()
    assert plain == {"TCP": {"80": {"TCPForward": site["Handlers"]["/"]["Proxy"].removeprefix("http://")}}}


@pytest.mark.process
@pytest.mark.parametrize(
    ("variables", "arguments", "port"),
    [
        ({}, [], "443"),
        ({"TAILNET_SERVER": "https://hs.example.org"}, ["--login-server=https://hs.example.org"], "443"),
        ({"TAILNET_ARGS": "--advertise-tags=tag:a,tag:b"}, ["--advertise-tags=tag:a,tag:b"], "443"),
        ({"TAILNET_HTTPS": "no"}, [], "80"),
    ],
)
def test_a_sidecar_is_told_what_the_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], arguments: list[str], port: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sidecar = rendered("tailnet")["services"]["tailscale"]
    said = tmp_path / "serve.json"
    script = sidecar["entrypoint"][-1].replace("$$", "$").replace("/tmp/serve.json", str(said))
    environment = {"PATH": "/usr/bin:/bin", **sidecar["environment"]}

    subprocess.run(["sh", "-c", script.replace("/usr/local/bin/containerboot", "true")], env=environment, check=True)

    assert sidecar["environment"]["TS_EXTRA_ARGS"].split() == arguments
    assert list(json.loads(said.read_text())["TCP"]) == [port]


@pytest.mark.process
def test_a_tailscale_sidecar_finds_what_it_serves_where_it_looks_for_it(tmp_path: Path) -> None:
    sidecar = rendered("tailnet")["services"]["tailscale"]
    environment = {"PATH": "/usr/bin:/bin", "SERVE": sidecar["environment"]["SERVE"]}
    said = tmp_path / "serve.json"
    script = sidecar["entrypoint"][-1].replace("$$", "$").replace("/tmp/serve.json", str(said))

    subprocess.run(["sh", "-c", script.replace("/usr/local/bin/containerboot", "true")], env=environment, check=True)

    assert sidecar["environment"]["TS_SERVE_CONFIG"] == "/tmp/serve.json"
    assert list(json.loads(said.read_text().replace("$$", "$"))["Web"]) == ["${TS_CERT_DOMAIN}:443"]
