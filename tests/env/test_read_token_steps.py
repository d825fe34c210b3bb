"""env.influx.token on a stand-in of a server: which token is stored and which go, wherever an earlier call ended."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conche.backup.influx import Authorization
from conche.command import Invocation
from conche.env.influx import token as module
from conche.env.influx.token import READS, token
from conche.errors import Refused
from conche.output import Output
from conche.secret import Secret

STACK = """\
name: reading
environments: {dev: {compose: [compose.yaml]}}
secrets:
  declared:
    influxdb_token: {outputs: [file]}
    influxdb_token_dev: {required: false}
"""

OPERATOR = Authorization("0", Secret("operator"), "made by the image")


def reader(number: int) -> Authorization:
    return Authorization(str(number), Secret(f"reader {number}"), f"{READS}influxdb_token_dev")


@dataclass
class Server:
    """An InfluxDB with one bucket, and the secret that the token is kept as."""

    there: list[Authorization]
    kept: str = ""
    container: Any = field(default_factory=lambda: SimpleNamespace(name="influxdb"))
    file: Path = Path("secrets.enc.yaml")

    def authorizations(self) -> tuple[Authorization, ...]:
        return tuple(self.there)

    def buckets(self) -> tuple[str, ...]:
        return ("energy",)

    def may(self, asked: Secret, _: str) -> frozenset[str]:
        return frozenset({"read", "write"} if asked == OPERATOR.token else {"read"})

    def make_reader(self, *_: object) -> None:
        self.there.append(reader(max(int(one.id) for one in self.there) + 1))

    def revoke(self, one: Authorization) -> None:
        self.there.remove(one)

    def read(self) -> dict[str, Secret]:
        return {"influxdb_token_dev": Secret(self.kept)} if self.kept else {}

    def change(self, _: str, edit: Any) -> None:
        self.kept = edit({}).put["influxdb_token_dev"].reveal()


@pytest.fixture
def call(tmp_path: Path) -> Invocation:
    (tmp_path / "stack.yaml").write_text(STACK)
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    return Invocation(tmp_path, Output("env.influx.token"))


@pytest.mark.parametrize(
    ("there", "kept", "steps"),
    [
        ([], "", ["create influxdb_token_dev", "set influxdb_token_dev"]),
        ([reader(1)], "", ["set influxdb_token_dev"]),
        ([reader(1)], "reader 1", []),
        # Killed between storing the new one and revoking the one before.
        ([reader(1), reader(2)], "reader 2", ["remove 1"]),
        ([], "changeme", ["create influxdb_token_dev", "set influxdb_token_dev"]),
    ],
)
def test_one_token_is_left_and_it_is_the_one_that_is_stored(
    monkeypatch: pytest.MonkeyPatch, call: Invocation, there: list[Authorization], kept: str, steps: list[str]
) -> None:
    server = Server([OPERATOR, *there], kept)
    monkeypatch.setattr(module, "opened", lambda *_: server)
    monkeypatch.setattr(module, "_store", lambda *_: server)
    monkeypatch.setattr(module, "locked", lambda *_: contextlib.nullcontext())

    done = token(call, "dev", secret="influxdb_token_dev", read_only=True)
    again = token(call, "dev", secret="influxdb_token_dev", read_only=True)

    assert [f"{step.action} {step.name}" for step in done.plan or ()] == steps
    assert [one.token.reveal() for one in server.there] == ["operator", server.kept]
    assert (done.changed, again.changed, list(again.plan or ())) == (bool(steps), False, [])


@pytest.mark.parametrize("kept", ["operator", "of another service"])
def test_a_value_from_elsewhere_is_replaced_only_once_that_is_confirmed(
    monkeypatch: pytest.MonkeyPatch, call: Invocation, kept: str
) -> None:
    server = Server([OPERATOR, reader(1)], kept)
    monkeypatch.setattr(module, "opened", lambda *_: server)
    monkeypatch.setattr(module, "_store", lambda *_: server)
    monkeypatch.setattr(module, "locked", lambda *_: contextlib.nullcontext())

    with pytest.raises(Refused) as refused:
        token(call, "dev", secret="influxdb_token_dev", read_only=True)

    assert (refused.value.code, server.kept, server.there) == ("confirmation-needed", kept, [OPERATOR, reader(1)])

    done = token(replace(call, yes=True), "dev", secret="influxdb_token_dev", read_only=True)

    assert [(str(step.action), step.destroys) for step in done.plan or ()] == [("set", True)]
    assert (server.kept, server.there) == ("reader 1", [OPERATOR, reader(1)])


def test_the_secret_of_the_operator_token_becomes_no_token_that_only_reads(call: Invocation) -> None:
    with pytest.raises(Refused) as refused:
        token(call, "dev", secret="influxdb_token", read_only=True)

    assert refused.value.code == "secret-of-operator"
