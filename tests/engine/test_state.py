"""Files that an environment keeps in its engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from conche.engine import images
from conche.engine.state import State
from conche.errors import Unreachable
from tests.engine.answering import answering


@dataclass
class Runs:
    """An engine in which every container ends with one code and has written one text."""

    code: int
    said: bytes = b""
    argv: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def create_host_config(self, **_: Any) -> dict[str, Any]:
        return {}

    def create_container(self, _: str, *, entrypoint: list[str], **__: Any) -> dict[str, str]:
        self.argv = entrypoint
        return {"Id": "made"}

    def start(self, _: str) -> None:
        pass

    def wait(self, _: str) -> dict[str, int]:
        return {"StatusCode": self.code}

    def logs(self, _: str) -> bytes:
        return self.said

    def remove_container(self, name: str, **_: Any) -> None:
        self.removed.append(name)


def state(monkeypatch: pytest.MonkeyPatch, api: Runs) -> State:
    monkeypatch.setattr(images, "find", lambda *_: object())
    return State(answering(api), "shop-prod", ["base"])


def test_what_could_not_be_removed_is_said_with_the_words_of_rm(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Runs(1, b"rm: cannot remove '/state/releases/r1': Read-only file system\n")

    with pytest.raises(Unreachable) as raised:
        state(monkeypatch, api).remove(["releases/r1"])

    assert (raised.value.code, api.removed) == ("state-not-removed", ["made"])
    assert raised.value.evidence == ("rm: cannot remove '/state/releases/r1': Read-only file system",)


def test_what_is_removed_is_named_by_its_whole_path(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Runs(0)

    state(monkeypatch, api).remove(["releases/r1", "releases/r2"])

    assert api.argv == ["rm", "-rf", "--", "/state/releases/r1", "/state/releases/r2"]
    assert api.removed == ["made"]
