"""env.up and env.deploy, and who holds their ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from tests.edged import EdgedStack
from tests.stacks import SmallStack, free_port

pytestmark = pytest.mark.engine


def publishing(stack: SmallStack, *ports: str) -> None:
    stack.write(
        "compose/dev.yaml",
        "services:\n  dns:\n    image: python:3.11-slim-bookworm\n    command: [sleep, infinity]\n    init: true\n"
        f"    stop_grace_period: 1s\n    ports: {list(ports)}\n",
    )


@pytest.fixture
def number(small: SmallStack, engine: Engine, base_image: str) -> Iterator[int]:
    """A port that a stranger's container publishes on 127.0.0.2."""
    port = free_port()
    one = engine.client.containers.run(
        base_image, ["sleep", "600"], init=True, detach=True, name=f"{small.name}-stranger",
        ports={"53/tcp": ("127.0.0.2", port)},
    )  # fmt: skip
    yield port
    one.remove(force=True)


def test_the_same_port_of_another_address_is_another_port(small: SmallStack, number: int) -> None:
    publishing(small, f"127.0.0.1:{number}:53", f"127.0.0.2:{number}:53/udp")

    done = small.invoke("env.up")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("address", ["127.0.0.2:", "0.0.0.0:", ""])
def test_a_wildcard_meets_every_address(small: SmallStack, engine: Engine, number: int, address: str) -> None:
    publishing(small, f"{address}{number}:53")

    refused = small.invoke("env.up")

    assert refused.returncode == 2
    assert f"Port {number}, which dns publishes, is taken by container {small.name}-stranger" in refused.stderr
    assert small.containers(engine) == ()


def test_our_own_container_does_not_hide_a_process_on_another_address(small: SmallStack, engine: Engine) -> None:
    port = free_port()
    publishing(small, f"127.0.0.2:{port}:53")
    small.up()
    (before,) = small.containers(engine)
    with socket.create_server(("127.0.0.1", port)):
        publishing(small, f"127.0.0.1:{port}:53")
        refused = small.invoke("env.up")

    assert refused.returncode == 2, refused.stderr
    assert f"Port {port}, which dns publishes, is taken by process" in refused.stderr
    assert [(one.id, one.started_at) for one in small.containers(engine)] == [(before.id, before.started_at)]


def test_our_own_container_gives_its_port_to_its_successor(small: SmallStack, engine: Engine) -> None:
    port = free_port()
    publishing(small, f"{port}:53")
    small.up()
    publishing(small, f"127.0.0.1:{port}:53")

    done = small.invoke("env.up")

    assert done.returncode == 0, done.stderr
    assert [one.ports for one in small.containers(engine)] == [(f"127.0.0.1:{port}->53/tcp",)]


def test_a_release_is_refused_for_a_port_too_before_anything_is_touched(fresh: EdgedStack, engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", fresh.port)):
        refused = fresh.deploy(fresh.version("one"))

    assert refused.returncode == 2, refused.stderr
    assert f"Port {fresh.port}, which edge publishes, is taken by process" in refused.stderr
    assert fresh.containers(engine) == ()
