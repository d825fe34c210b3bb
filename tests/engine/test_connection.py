"""Which engine is meant, and what is said when it does not answer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from conche.errors import NotFound, Unreachable
from tests.answering import Answer, answering
from tests.stacks import SmallStack


def write_context(folder: Path, name: str, host: str) -> str:
    """A context as the CLI stores it; the id of its folders."""
    identity = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / identity / "meta.json"
    meta.parent.mkdir(parents=True, exist_ok=True)
    endpoint = {"Host": host, "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    return identity


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker settings of the test's own, with one context."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    write_context(tmp_path, "faraway", "ssh://deploy@faraway")
    return tmp_path


def test_without_any_setting_the_local_engine_is_meant(settings: Path) -> None:
    assert Engine().address == "unix:///var/run/docker.sock"


def test_the_environments_address_comes_before_everything(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")

    engine = Engine("ssh://deploy@host")

    assert engine.address == "ssh://deploy@host"
    assert engine.cli_environment() == {"DOCKER_HOST": "ssh://deploy@host"}
    assert not engine.is_local


def test_docker_host_comes_before_the_context(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    monkeypatch.setenv("DOCKER_CONTEXT", "faraway")

    assert (Engine().address, Engine().cli_environment()) == ("tcp://elsewhere:2375", {})


@pytest.mark.process
def test_the_context_of_the_environment_variable_is_used(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "faraway")

    assert Engine().address == "ssh://deploy@faraway"


@pytest.mark.process
def test_the_context_in_use_is_used(settings: Path) -> None:
    (settings / "config.json").write_text('{"currentContext": "faraway"}')

    assert Engine().address == "ssh://deploy@faraway"


@pytest.mark.process
def test_a_context_that_is_not_there_is_named(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "nearby")

    with pytest.raises(NotFound, match="nearby") as refused:
        _ = Engine().address

    assert refused.value.next_command == "docker context ls"


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("unix:///nowhere/docker.sock", "docker --host unix:///nowhere/docker.sock info"),
        ("tcp://127.0.0.1:1", "docker --host tcp://127.0.0.1:1 info"),
    ],
)
def test_an_engine_that_does_not_answer_is_said_with_the_next_command(address: str, remedy: str) -> None:
    with pytest.raises(Unreachable, match="No Docker engine answers") as refused:
        _ = Engine(address).client

    assert (refused.value.code, refused.value.status) == ("engine-unreachable", 9)
    assert remedy in refused.value.next_command


def test_an_engine_that_is_too_old_is_refused_before_anything_is_asked_of_it() -> None:
    asked = []

    def old(path: str, headers: Mapping[str, str]) -> Answer:
        asked.append(path)
        return 200, {"Content-Type": "application/json"}, b'{"Version": "19.03.15", "ApiVersion": "1.40"}'

    with answering(old) as there, pytest.raises(Unreachable) as refused:
        _ = Engine(f"tcp://{there}").client

    assert refused.value.code == "engine-too-old"
    assert "speaks API 1.40, and 1.41 is needed, which engine 20.10 has" in refused.value.message
    assert asked == ["/version"]


@pytest.mark.engine
def test_an_environment_reaches_its_engine_by_its_own_address(small: SmallStack) -> None:
    small.replace("stack.yaml", "    tag: develop", "    tag: develop\n    engine: unix:///var/run/docker.sock")

    document = small.json("env.status", DOCKER_HOST="unix:///nowhere/docker.sock")

    assert document["value"][0]["environment"] == "dev"


@pytest.mark.engine
def test_a_docker_context_is_followed_from_the_command_line(small: SmallStack, tmp_path: Path) -> None:
    folder = tmp_path / "settings"
    environment = {**os.environ, "DOCKER_CONFIG": str(folder)}
    create = ["docker", "context", "create", "here", "--docker", "host=unix:///var/run/docker.sock"]
    subprocess.run(create, env=environment, check=True, capture_output=True)

    document = small.json("env.status", DOCKER_CONFIG=str(folder), DOCKER_CONTEXT="here")

    assert document["value"][0]["environment"] == "dev"


@pytest.mark.engine
def test_an_engine_is_reached_over_ssh(small: SmallStack, tmp_path: Path) -> None:
    """The ssh here is a stand-in that starts on this machine what the real one would start on the other."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\nexec env --unset=DOCKER_HOST docker system dial-stdio\n")
    ssh.chmod(0o755)
    small.replace("stack.yaml", "    tag: develop", "    tag: develop\n    engine: ssh://deploy@faraway")

    done = small.invoke("env.up", PATH=f"{ssh.parent}:{os.environ['PATH']}")

    assert done.returncode == 0, done.stderr
    assert small.json("env.health")["value"]["status"] == 200


@pytest.mark.process
def test_a_context_brings_its_own_certificates(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = write_context(settings, "secured", "tcp://127.0.0.1:1")
    authority = settings / "contexts" / "tls" / identity / "docker" / "ca.pem"
    authority.parent.mkdir(parents=True)
    authority.write_text("certificate")
    monkeypatch.setenv("DOCKER_CONTEXT", "secured")

    engine = Engine()

    assert engine.address == "tcp://127.0.0.1:1"
    assert engine._tls().ca_cert == str(authority)
