"""Which images of other people the project's own stack needs."""

from __future__ import annotations

from conche.images.mirror import upstream
from conche.stack import load
from tests.stacks import ROOT


def test_what_is_built_here_counts_by_what_it_is_made_from() -> None:
    named, pinned = upstream(load(ROOT), ROOT)

    assert pinned == ()
    assert {one for one in named if "runner" in one} == {"data.forgejo.org/forgejo/runner:12.12.0"}
    assert {"docker:28.5.1-cli", "python:3.11-slim-bookworm", "registry:2.8"} <= set(named)
