"""A published port has an address and a protocol wherever somebody asks for the container that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conche.command import Invocation
from conche.doctor import doctor
from conche.engine.connection import Engine
from conche.errors import Refused
from conche.output import Output
from conche.supply import collect
from tests.engine.answering import answering

STACK = """\
name: shop
registry: localhost:5000
environments:
  dev: {compose: [compose.yaml], port: 8000}
  vpn: {compose: [compose.yaml], port: 8000, publish: 100.64.0.1}
"""


class Listing:
    """An engine that runs one container of the project shop-dev."""

    def __init__(self, address: str, number: int, protocol: str) -> None:
        self.port = {"IP": address, "PublicPort": number, "PrivatePort": 80, "Type": protocol}

    def containers(self) -> list[dict[str, Any]]:
        labels = {"com.docker.compose.project": "shop-dev", "com.docker.compose.service": "web"}
        return [{"Id": "1", "Names": ["/web"], "Labels": labels, "Ports": [self.port]}]

    def inspect_container(self, name: str) -> dict[str, Any]:
        return {
            "Id": name, "Name": "/web", "Image": "sha256:1", "State": {"Status": "running"}, "Config": {"Image": "web"},
        }  # fmt: skip


@pytest.mark.parametrize(
    ("address", "protocol", "dev", "vpn"),
    [
        ("127.0.0.1", "tcp", "ours", "free"),
        ("100.64.0.1", "tcp", "free", "taken by container web"),
        ("0.0.0.0", "tcp", "ours", "taken by container web"),
        ("127.0.0.1", "udp", "free", "free"),
        ("127.0.0.2", "tcp", "free", "free"),
    ],
)
def test_doctor_tells_whose_each_of_them_is(tmp_path: Path, address: str, protocol: str, dev: str, vpn: str) -> None:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (tmp_path / "stack.yaml").write_text(STACK)
    call = Invocation(tmp_path, Output("doctor"))

    found = doctor._ports(call, answering(Listing(address, 8000, protocol)))

    assert [(one.found, one.needed) for one in found] == [(dev, "free, for dev"), (vpn, "free, for vpn")]


@pytest.mark.parametrize(
    ("host", "address", "protocol", "there"),
    [
        ("localhost:5000", "127.0.0.1", "tcp", True),
        ("localhost:5000", "0.0.0.0", "tcp", True),
        ("127.0.0.2:5000", "127.0.0.2", "tcp", True),
        ("localhost:5000", "100.64.0.1", "tcp", False),
        ("localhost:5000", "127.0.0.1", "udp", False),
        ("localhost:5001", "127.0.0.1", "tcp", False),
        ("registry.example.org:5000", "0.0.0.0", "tcp", False),
    ],
)
def test_the_registry_is_the_container_that_answers_at_its_address(
    monkeypatch: pytest.MonkeyPatch, host: str, address: str, protocol: str, there: bool
) -> None:
    engine: Engine = answering(Listing(address, 5000, protocol))
    monkeypatch.setattr(collect, "Engine", lambda: engine)

    if there:
        assert collect.located(host).name == "web"
    else:
        with pytest.raises(Refused, match="not a container on this engine"):
            collect.located(host)
