"""Whether what has ended with 0 has done its work or is a server that is gone: without the secrets' key, too."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from conche.command import Invocation
from conche.engine import containers, images, kept, lock
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.report import is_well
from conche.env.rollout.view import look_at_release
from conche.output import Output
from conche.release.records import Records
from conche.session import Session
from tests.env.rollout.test_plan import container, record

STACK = """\
name: x
environments: {prod: {compose: [compose.yaml]}}
secrets: {declared: {token: {environments: [prod]}}}
"""


@pytest.mark.parametrize(
    ("ends", "policy", "healthcheck", "well"),
    [
        (False, "no", (), False),
        (True, "no", ("true",), True),
        (None, "no", (), True),
        (None, "no", ("true",), False),
        (None, "always", (), False),
    ],
    ids=["a server", "a one-shot", "perhaps a one-shot", "one that is asked for its health", "one that is restarted"],
)
def test_what_has_ended_with_0_is_well_only_if_it_was_meant_to_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: bool | None,
    policy: str,
    healthcheck: tuple[str, ...],
    well: bool,
) -> None:
    (tmp_path / "stack.yaml").write_text(STACK)
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    ended = replace(container("store", state="exited"), restart_policy=policy, healthcheck=healthcheck)
    found = tuple(replace(one, image_id="sha256:0") for one in (ended, container("web"), container("edge")))
    monkeypatch.setattr(containers, "of_project", lambda _, project: found if project == "x-prod" else ())
    monkeypatch.setattr(kept, "twins", lambda *_: ())
    monkeypatch.setattr(images, "find", lambda *_: None)
    monkeypatch.setattr(lock, "holder", lambda *_: None)
    placed = {**record(1).services, "store": replace(record(1).services["store"], ends=ends)}
    records = SimpleNamespace(
        current=replace(record(1), services=placed), unfinished=None, newer=None, maintained=False, damaged=(),
        entries=(), sealed=lambda _: None,
    )  # fmt: skip
    call = Invocation(tmp_path, Output("env.status", stdout=io.StringIO(), stderr=io.StringIO()))

    seen = look_at_release(Session(call, "prod", Compose(Engine(), "x-prod", ())), cast("Records", records))

    assert seen is not None
    assert is_well(seen) is well
