"""A checkout with backups whose tasks are faulted, and the checkouts with secrets that the tasks' own tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import warm
from tests.backup.checkouts import Checkout
from tests.backup.test_prune import aged
from tests.faults.faulted import Server
from tests.secrets.conftest import checkout, template

__all__ = ["checkout", "golden", "server", "template"]


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Server:
    (tmp_path / "scratch").mkdir()
    return Server(tmp_path / "scratch", warm.shared, every=request.config.getoption("--every-step"))


@pytest.fixture
def golden(tmp_path: Path) -> Checkout:
    """A small checkout with two backups, the older one of which retention would not keep."""
    made = Checkout.create(tmp_path / "golden")
    made.write("src/big.bin", "x" * 5000)
    made.replace("stack.yaml", "backup:\n", "backup:\n  retention: {daily: {days: 7, least: 1}}\n")
    aged(made.create_backup(), 20)
    aged(made.create_backup(), 10)
    assert made.invoke("backup.verify").returncode == 0
    return made
