"""A promotion of several tags of which one cannot be moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conche.command import Invocation
from conche.errors import Partial, Unreachable
from conche.images.promote import Move, carry_out
from conche.outcome import Outcome
from conche.output import Output
from conche.supply.reference import parse
from conche.supply.registry import ImageManifest


class Refusing:
    """A registry that takes what it is given, until it is given one repository's."""

    def __init__(self, repository: str) -> None:
        self.refused, self.tags = repository, dict[str, str]()

    def digest(self, repository: str, _: str) -> str | None:
        return self.tags.get(repository)

    def put(self, repository: str, _: str, manifest: ImageManifest) -> None:
        if repository == self.refused:
            raise Unreachable("registry-unreachable", "It is gone.")
        self.tags[repository] = manifest.digest


def test_its_answer_names_the_tags_that_were_moved(tmp_path: Path) -> None:
    registry: Any = Refusing("second")
    moves = [
        Move(parse(f"registry:5000/{name}:production"), ImageManifest(f"sha256:{name}", "", b""), None, "asked for")
        for name in ("first", "second", "third")
    ]

    with pytest.raises(Partial) as raised:
        carry_out(Invocation(tmp_path, Output("images.promote")), registry, moves, "")

    rest: Any = raised.value.rest
    assert isinstance(rest, Outcome)
    assert raised.value.code == "promoted-in-part"
    assert [one["reference"] for one in rest.value] == ["registry:5000/first:production"]  # type: ignore[attr-defined]
    assert (rest.changed, len(rest.plan)) == (True, 3)
