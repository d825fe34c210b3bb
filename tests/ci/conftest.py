"""A forge of one version with two runs, and a small stack that names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.testing.forge import FakeForge, FakeJob, FakeRun, serve
from tests.ci.served import stack_for
from tests.stacks import SmallStack


@pytest.fixture
def forge(request: pytest.FixtureRequest) -> Iterator[FakeForge]:
    with serve(getattr(request, "param", "gitea-1.26")) as fake:
        jobs = [
            FakeJob(101, "test-all", ["success"], "all passed\n"),
            FakeJob(102, "deploy-dev", ["failure"], "no room\n"),
        ]
        fake.runs = [FakeRun(40, 6, [FakeJob(90, "test-all", ["success"])], branch="main"), FakeRun(41, 7, jobs)]
        yield fake


@pytest.fixture
def stack(forge: FakeForge, tmp_path: Path) -> SmallStack:
    return stack_for(tmp_path, forge.address)
