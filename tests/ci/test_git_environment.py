"""The git environment of this repository, and what it shares with the others, held to the documents."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from conche.stack import load
from tests.stacks import ROOT

OWN = {
    "CONCHE_PUBLISH", "CONCHE_PORT", "CONCHE_UID", "CONCHE_GID", "CONCHE_NAME", "CONCHE_CONTAINERS", "CONCHE_REGISTRY",
    "INFLUXDB_TOKEN_DEV",
}  # fmt: skip
"""What stack.yaml or the encrypted secrets say."""


def rendered(*profiles: str, file: str = "git") -> Any:
    wanted = [part for profile in profiles for part in ("--profile", profile)]
    argv = ["docker", "compose", "--file", f"compose/{file}.yaml", *wanted, "config", "--format", "json"]
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
            assert image.startswith("${CONCHE_REGISTRY:-localhost:5000}/") or any(sign.isdigit() for sign in tag), name
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
def test_no_service_gains_privileges_and_each_has_only_the_capabilities_that_it_names(file: str) -> None:
    services = yaml.safe_load((ROOT / f"compose/{file}.yaml").read_text())["services"]
    # A runner of deployments has the engine itself, and nginx becomes another user for its workers and signals them.
    others = {name: one for name, one in services.items() if "/var/run/docker.sock:" not in str(one)}

    assert others
    for name, service in others.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert name == "edge" or service["cap_drop"] == ["ALL"], name
        assert not {"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"}.intersection(service.get("cap_add", ())), name


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
    if file == "prod":  # Plain TCP may say anything of its client, and goes where that is not believed.
        port = load(ROOT).environments["prod"].deploy.trusted_port
        assert site["Handlers"]["/"]["Proxy"] == f"http://edge:{port}"
        site = {"Handlers": {"/": {"Proxy": "http://edge:8000"}}}
    assert plain == {"TCP": {"80": {"TCPForward": site["Handlers"]["/"]["Proxy"].removeprefix("http://")}}}


def started(tmp_path: Path, sidecar: Any, **variables: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """What a sidecar's own start does before the image's start program, and what that is to serve."""
    said = tmp_path / "serve.json"
    script = sidecar["entrypoint"][-1].replace("$$", "$").replace("/tmp/serve.json", str(said))
    script = script.replace("/etc/ssl/host-authorities.pem", str(tmp_path / "authorities.pem"))
    environment = {"PATH": "/usr/bin:/bin", **sidecar["environment"], **variables}
    argv = ["sh", "-c", script.replace("/usr/local/bin/containerboot", "env")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    return done, json.loads(said.read_text().replace("$$", "$")) if said.exists() else None


@pytest.mark.process
@pytest.mark.parametrize(
    ("variables", "arguments", "ports"),
    [
        ({}, [], {"443"}),
        ({"TAILNET_SERVER": "https://hs.example.org"}, ["--login-server=https://hs.example.org"], {"443"}),
        ({"TAILNET_ARGS": "--advertise-tags=tag:a,tag:b"}, ["--advertise-tags=tag:a,tag:b"], {"443"}),
        ({"TAILNET_HTTPS": "no"}, [], {"80"}),
        ({"TAILNET_TCP_GIT": "2222:forgejo:2222 5000:registry:5000"}, [], {"443", "2222", "5000"}),
        ({"TAILNET_TCP_GIT": "22:forgejo:2222", "TAILNET_HTTPS": "no"}, [], {"80", "22"}),
        ({"TAILNET_TCP_DEV": "1:a:1"}, [], {"443"}),
    ],
)
def test_a_sidecar_is_told_what_the_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], arguments: list[str], ports: set[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    done, served = started(tmp_path, rendered("tailnet")["services"]["tailscale"])

    told = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert told["TS_EXTRA_ARGS"].split() == arguments
    assert set(served["TCP"]) == ports
    assert ("443" in ports) == ("Web" in served)
    for one in variables.get("TAILNET_TCP_GIT", "").split():
        port, _, target = one.partition(":")
        assert served["TCP"][port] == {"TCPForward": target}


@pytest.mark.process
@pytest.mark.parametrize("file", ["dev", "prod", "git"])
def test_a_forward_that_is_none_is_named_by_its_variable(tmp_path: Path, file: str) -> None:
    sidecar = rendered("tailnet", file=file)["services"]["tailscale"]

    for forward in ("2222", "2222:forgejo", "x:forgejo:1", "1:forgejo:x", "1::2", '1:a":1'):
        done, served = started(tmp_path, sidecar, TAILNET_TCP=f"1:web:1 {forward}")

        assert (done.returncode, served) == (1, None)
        assert done.stderr == f"error: TAILNET_TCP_{file.upper()}: {forward} is not PORT:SERVICE:PORT\n"


@pytest.mark.process
def test_a_sidecar_trusts_the_authorities_of_this_network(tmp_path: Path) -> None:
    sidecar = rendered("tailnet")["services"]["tailscale"]

    for authorities, known in (("", False), ("a certificate", True)):
        (tmp_path / "authorities.pem").write_text(authorities)
        done, _ = started(tmp_path, sidecar)
        assert ("SSL_CERT_FILE=" in done.stdout) == known


@pytest.mark.process
def test_forgejo_has_one_address_for_the_tailnet_the_host_and_its_runners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the lines of the how-to: under the tailnet's name and the port that is published here, too."""
    text = (ROOT / "docs/how-to/pipeline.md").read_text()
    said = dict(re.findall(r"^  (FORGEJO_URL|FORGEJO_NAME|TAILNET_TCP_GIT)=\"?([^\"\n]+)", text, re.MULTILINE))
    for name, value in said.items():
        monkeypatch.setenv(name, value)

    services = rendered("runners", "tailnet")["services"]
    _, served = started(tmp_path, services["tailscale"])

    forgejo, url = services["forgejo"], urlsplit(said["FORGEJO_URL"])
    runners = {name: one for name, one in services.items() if "runner" in name}
    assert len(runners) == 4
    assert url.netloc == f"{said['FORGEJO_NAME']}:{url.port}"
    for one in runners.values():
        assert one["environment"]["GITEA_INSTANCE_URL"] == said["FORGEJO_URL"]
        assert one["extra_hosts"] == [f"{said['FORGEJO_NAME']}=127.0.0.1"]
    assert served["TCP"][str(url.port)] == {"TCPForward": "forgejo:3000"}
    assert {one["published"]: one["target"] for one in forgejo["ports"]}[str(url.port)] == 3000
    assert runners["gitea-runner-tests"]["environment"]["RUNNER_RELAY"] == f"{url.port}:forgejo:3000"
    assert {name for name, one in runners.items() if one.get("network_mode") != "host"} == {"gitea-runner-tests"}
    assert forgejo["environment"]["FORGEJO__server__ROOT_URL"] == said["FORGEJO_URL"]
    assert served["TCP"][forgejo["environment"]["FORGEJO__server__SSH_PORT"]] == {"TCPForward": "forgejo:2222"}


@pytest.mark.process
def test_a_deployment_by_a_runner_knows_what_dot_env_says_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("dev", "prod"):
        said = yaml.safe_load((ROOT / f"compose/{file}.yaml").read_text())["services"]
        named = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", json.dumps(said))) - OWN
        for name in named:
            monkeypatch.setenv(name, f"/said/{name}")

        runner = rendered("runners")["services"][f"gitea-runner-{file}"]["environment"]

        assert {name: runner.get(name) for name in named} == {name: f"/said/{name}" for name in named}


@pytest.mark.process
def test_a_tailscale_sidecar_finds_what_it_serves_where_it_looks_for_it(tmp_path: Path) -> None:
    _, served = started(tmp_path, rendered("tailnet")["services"]["tailscale"])

    assert rendered("tailnet")["services"]["tailscale"]["environment"]["TS_SERVE_CONFIG"] == "/tmp/serve.json"
    assert list(served["Web"]) == ["${TS_CERT_DOMAIN}:443"]
