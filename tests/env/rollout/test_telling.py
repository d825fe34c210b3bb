"""Who is told how a release ended: by the address in the secrets, and never to the release's harm."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conche.command import Invocation
from conche.env.rollout.telling import tell
from conche.output import Output
from conche.release.records import Placed, Record, Result
from conche.stack import load
from tests import warm
from tests.stacks import SmallStack

pytestmark = pytest.mark.process

RECORD = Record(
    number=7,
    environment="prod",
    kind="deploy",
    started="2026-01-01T00:00:00",
    who="ada",
    where="laptop",
    asked="x:production",
    revision="abc",
    dirty=False,
    services={"web": Placed("registry/x@sha256:1", "sha256:2", "abc", "d", ("h",))},
)

SECTION = """\
secrets:
  declared:
    release_address: {environments: [prod]}
notifications: {to: [release_address]}
"""


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address, as Apprise takes it, and what was sent there."""
    sent: list[dict[str, str]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_address[1]}/told", sent
        server.shutdown()


@pytest.fixture
def checkout(tmp_path: Path) -> SmallStack:
    stack = SmallStack.create(tmp_path / "checkout", 8100)
    stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + SECTION)
    subprocess.run(["git", "init", "--quiet"], cwd=stack.folder, check=True)
    made = stack.invoke("secrets.init")
    assert made.returncode == 0, made.stderr
    return stack


def invocation(stack: SmallStack) -> Invocation:
    return Invocation(stack.folder, Output("env.deploy"), _stack=load(stack.folder))


def given(stack: SmallStack, address: str) -> None:
    argv = stack.argv("secrets.set", "release_address")
    warm.run(argv, cwd=stack.folder, env=stack.environment(), input=address, check=True)


def test_a_release_is_told_with_what_it_was_and_why_it_failed(
    checkout: SmallStack, listener: tuple[str, list[dict[str, str]]]
) -> None:
    address, sent = listener
    given(checkout, address)
    call = invocation(checkout)

    assert tell(call, RECORD, Result.SUCCEEDED) == []
    assert tell(call, RECORD, Result.RESTORED, "release-failed: web does not become healthy.") == []

    assert [one["title"] for one in sent] == [
        f"{checkout.name} prod: deploy r7 succeeded",
        f"{checkout.name} prod: deploy r7 restored",
    ]
    assert "release-failed" in sent[1]["message"]
    assert call.output.redact(address) == "***"


def test_an_address_that_does_not_answer_is_a_warning(checkout: SmallStack) -> None:
    given(checkout, "json://127.0.0.1:1/nobody")

    assert tell(invocation(checkout), RECORD, Result.SUCCEEDED) == ["a notification could not be sent"]


def test_without_a_key_nobody_is_told_and_that_is_said(checkout: SmallStack) -> None:
    (checkout.folder / ".sops/age-key.txt").unlink()

    [said] = tell(invocation(checkout), RECORD, Result.SUCCEEDED)

    assert said.startswith("could not notify anyone:")
