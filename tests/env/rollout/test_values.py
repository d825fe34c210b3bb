"""What stands in a container's environment is what was meant, whatever it looks like, and nothing shows it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conche.engine.connection import Engine
from conche.engine.state import State
from conche.release.document import Document
from conche.secret import Redactor
from conche.stack import load
from conche.vault.vault import Vault
from tests.canary import Watch
from tests.stacks import SmallStack, variables_in

DECLARED = """\
secrets:
  declared:
    web_token: {outputs: [env], services: [web]}
    web_lines: {outputs: [env], services: [web]}
    web_pin: {outputs: [env], services: [web]}
environments:
"""

LINES = "first line of it\nsecond 'line' of \"it\""

DOTENV = """\
PLAIN_PASSWORD=plainpw12345
SHORT_KEY=ab1
DOLLAR_SECRET='pa$$wo$HOME{x}'
STARS_KEY='***'
HARMLESS=value
"""

COMPOSE = """\
services:
  dep:
    image: python:3.11-slim-bookworm
    command: [sleep, infinity]
    init: true
    environment: {DEP_PASSWORD: "${PLAIN_PASSWORD}"}
  web:
    image: localhost:5000/%s:develop
    init: true
    depends_on: [dep]
    command: [sleep, infinity]
    environment:
      WEB_TOKEN: "${WEB_TOKEN}"
      WEB_LINES: "${WEB_LINES}"
      WEB_PIN: "${WEB_PIN}"
      PLAIN_PASSWORD: "${PLAIN_PASSWORD}"
      SHORT_KEY: "${SHORT_KEY}"
      DOLLAR_SECRET: "${DOLLAR_SECRET}"
      STARS_KEY: "${STARS_KEY}"
      HARMLESS: "${HARMLESS}"
      URL: "postgres://app:${PLAIN_PASSWORD}@db/app?token=${SHORT_KEY}"
      LEVEL: "${LEVEL:-1}"
    healthcheck:
      test: [CMD-SHELL, "test \\"$$PLAIN_PASSWORD$$SHORT_KEY\\" = plainpw12345ab1"]
      interval: 1s
      retries: 2
"""


class Valued:
    """A small stack whose containers have secrets of every kind as variables."""

    def __init__(self, stack: SmallStack, watch: Watch) -> None:
        self.stack, self.watch = stack, watch
        stack.replace("stack.yaml", "environments:\n", DECLARED)
        stack.write("compose/dev.yaml", COMPOSE % stack.name)
        stack.write(".env", DOTENV)
        (stack.folder / ".env").chmod(0o600)
        self.call("secrets.init")
        for name, value in (("web_token", watch.canary), ("web_lines", LINES), ("web_pin", "p7")):
            self.call("secrets.set", name, stdin=value)

    def call(self, *words: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        before = len(self.watch.argvs)
        done = self.watch.call(self.stack.argv(*words), self.stack.folder, self.stack.environment(**extra), stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        if words[0].startswith("env."):
            decrypting = [argv for argv in self.watch.argvs[before:] if "decrypt" in argv]
            assert len(decrypting) <= 1, decrypting
        for value in ("plainpw12345", "second 'line'", "pa$$wo$HOME"):
            assert value not in done.stdout + done.stderr
        return done

    @property
    def expected(self) -> dict[str, str]:
        return {
            "WEB_TOKEN": self.watch.canary,
            "WEB_LINES": LINES,
            "WEB_PIN": "p7",
            "PLAIN_PASSWORD": "plainpw12345",
            "SHORT_KEY": "ab1",
            "DOLLAR_SECRET": "pa$$wo$HOME{x}",
            "STARS_KEY": "***",
            "HARMLESS": "value",
            "URL": "postgres://app:plainpw12345@db/app?token=ab1",
        }

    def ids(self, engine: Engine) -> dict[str, str]:
        return {one.service: one.id for one in self.stack.containers(engine)}

    def variables(self, engine: Engine, service: str = "web") -> dict[str, str]:
        return variables_in(self.ids(engine)[service])

    def has_all(self, engine: Engine) -> bool:
        found = self.variables(engine)
        return {name: found.get(name) for name in self.expected} == self.expected


@pytest.fixture
def valued(small: SmallStack, canary: str, tmp_path: Path) -> Valued:
    return Valued(small, Watch.create(canary, tmp_path / "watch", ("age-key.txt", ".env")))


@pytest.mark.engine
def test_a_release_and_a_way_back_to_it_have_the_values_themselves(valued: Valued, engine: Engine) -> None:
    valued.call("images.build")

    valued.call("env.deploy", "--env", "dev", "--local")
    assert valued.has_all(engine)
    assert valued.variables(engine, "dep")["DEP_PASSWORD"] == "plainpw12345"
    first = valued.ids(engine)
    assert "Nothing to do" in valued.call("env.deploy", "--env", "dev", "--local").stdout
    valued.call("env.status", "--env", "dev")

    valued.call("env.deploy", "--env", "dev", "--local", LEVEL="2")
    assert valued.has_all(engine)
    assert valued.variables(engine)["LEVEL"] == "2"
    assert valued.ids(engine)["web"] != first["web"]
    assert valued.ids(engine)["dep"] == first["dep"]

    valued.call("env.rollback", "--env", "dev", "--to", "r1")
    assert valued.has_all(engine)
    assert valued.variables(engine)["LEVEL"] == "1"
    valued.call("env.history", "--env", "dev", "--json")
    assert valued.watch.leaks == []


@pytest.mark.engine
def test_what_depends_on_another_is_tried_with_its_values_and_then_left_alone(valued: Valued, engine: Engine) -> None:
    valued.call("env.up")
    first = valued.ids(engine)
    assert valued.has_all(engine)

    valued.call("env.status", "--env", "dev")
    assert "Nothing to do" in valued.call("env.up").stdout
    assert valued.ids(engine) == first

    # The trial has to be healthy, which it is with the values alone.
    changed = valued.call("env.up", LEVEL="2")
    assert "trying the new web" in changed.stderr
    assert (valued.has_all(engine), valued.variables(engine)["LEVEL"]) == (True, "2")
    assert valued.ids(engine)["dep"] == first["dep"]
    assert "Nothing to do" in valued.call("env.up", LEVEL="2").stdout
    assert valued.watch.leaks == []


@pytest.mark.engine
def test_a_release_that_was_kept_masked_is_not_gone_back_to_and_is_deployed_upon(
    valued: Valued, engine: Engine
) -> None:
    valued.call("images.build")
    valued.call("env.deploy", "--env", "dev", "--local")
    mask_as_before(valued.stack, engine, "r1")

    deployed = valued.stack.invoke("env.deploy", "--env", "dev", "--local", LEVEL="2")
    assert deployed.returncode == 0, deployed.stderr
    assert valued.has_all(engine)
    serving = valued.ids(engine)

    refused = valued.stack.invoke("env.rollback", "--env", "dev", "--json")

    said = json.loads(refused.stdout)["error"]
    assert (said["code"], refused.returncode) == ("release-masked", 2)
    assert "environment.PLAIN_PASSWORD" in " ".join(said["looked_at"])
    assert "invoke env.deploy --env dev" in said["next"]
    assert valued.ids(engine) == serving
    assert valued.stack.invoke("env.scale", "web", "2", "--env", "dev").returncode == 0


def mask_as_before(stack: SmallStack, engine: Engine, release: str) -> None:
    """Make of a release's document what versions kept that read their values from redacted text."""
    state = State(engine, stack.project, [stack.image])
    vault = Vault(load(stack.folder), stack.folder, Redactor(), print)
    file = f"releases/{release}/document.age"
    said: Any = json.loads(vault.unseal(state.read()[file]))
    del said["masked"]
    for service in said["body"]["services"].values():
        environment = service["environment"]
        environment.update({name: "***" for name in environment if name.endswith(("PASSWORD", "SECRET", "TOKEN"))})
    state.write({file: vault.seal("dev", json.dumps(said).encode())})


@pytest.mark.parametrize(
    ("value", "says", "masked"),
    [("plain", {}, False), ("***", {}, True), ("a***b", {}, True), ("***", {"masked": False}, False)],
    ids=["nothing was masked", "masked", "masked within", "it is the value itself"],
)
def test_a_masked_document_is_told_from_one_that_holds_stars(value: str, says: dict[str, bool], masked: bool) -> None:
    body = {"services": {"web": {"environment": {"KEY": value}, "image": "a"}}}

    document = Document.unpacked(json.dumps({"body": body, "variables": {}, **says}).encode())

    assert document.masked is masked
    assert document.masked_in() == ({"web": ["environment.KEY"]} if "***" in value else {})
    assert Document.unpacked(document.packed()) == document
