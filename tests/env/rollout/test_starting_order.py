"""The edge and what it serves start in any order, as after a reboot: the edge finds by name what runs just now."""

from __future__ import annotations

import subprocess
import time
import urllib.error
from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from tests.edged import EdgedStack
from tests.stacks import free_port

pytestmark = pytest.mark.engine

STRANGER = """
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"version": "stranger"}')
http.server.HTTPServer(("", 8000), Page).serve_forever()
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, engine: Engine, edge_image: str) -> Iterator[EdgedStack]:
    stack = EdgedStack.create(tmp_path_factory.mktemp("ordered") / "checkout", port=free_port())
    subnet = f"198.18.{stack.port % 256}.0/24"
    plain = f"inside: {{name: {stack.name}-inside}}"
    stack.replace("compose/prod.yaml", plain, f"{plain[:-1]}, ipam: {{config: [{{subnet: {subnet}}}]}}}}")
    done = stack.deploy(stack.version("one"))
    assert done.returncode == 0, done.stderr
    yield stack
    stack.remove_all(engine)


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


def names(stack: EdgedStack, engine: Engine) -> tuple[str, str]:
    found = {one.service: one.name for one in stack.containers(engine)}
    return found["edge"], found["web"]


def answered(stack: EdgedStack) -> str:
    """The version that answers, or the status of what does."""
    try:
        return str(stack.page()["version"])
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError:
        return "nobody"


def past_what_is_remembered(stack: EdgedStack) -> set[str]:
    """Ask until no worker of the edge can still use an address that it has looked up before; what came meanwhile.

    The edge keeps an address for one second, and nginx counts whole seconds, so two of them may pass.
    """
    begun = time.monotonic()
    seen: set[str] = set()
    while time.monotonic() < begun + 2:
        seen.add(answered(stack))
    return seen


def until(stack: EdgedStack, wanted: str) -> set[str]:
    """Ask until the wanted answer comes; what came before it. The test's own time-out ends it."""
    seen: set[str] = set()
    while (now := answered(stack)) != wanted:
        seen.add(now)
    return seen


def test_an_edge_that_starts_first_waits_for_what_it_serves(serving: EdgedStack, engine: Engine) -> None:
    edge, web = names(serving, engine)
    docker("stop", edge, web)

    docker("start", edge)
    until(serving, "502")
    docker("start", web)
    seen = until(serving, "one")

    assert seen <= {"502"}
    assert docker("inspect", "--format", "{{.State.Status}} {{.RestartCount}}", edge) == "running 0"


def test_an_edge_that_starts_last_serves_at_once(serving: EdgedStack, engine: Engine) -> None:
    edge, web = names(serving, engine)
    docker("stop", edge, web)

    docker("start", web)
    docker("start", edge)

    assert until(serving, "one") <= {"nobody", "502"}


def test_an_address_that_somebody_else_has_by_now_is_not_served(serving: EdgedStack, engine: Engine) -> None:
    _, web = names(serving, engine)
    network, stranger = f"{serving.name}-inside", f"{serving.name}-stranger"
    template = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    address = docker("inspect", "--format", template, web)
    docker("stop", web)
    assert past_what_is_remembered(serving) <= {"502", "504"}

    code = ("python:3.11-slim-bookworm", "python3", "-c", STRANGER)
    docker("run", "--detach", "--init", "--name", stranger, "--network", network, "--ip", address, *code)
    seen = {answered(serving) for _ in range(20)}
    docker("start", web)
    seen |= until(serving, "one") | {answered(serving) for _ in range(20)}
    docker("rm", "--force", stranger)

    assert seen == {"502", "one"}
