"""Checkouts with secrets, made once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.secrets.declared import DECLARED, Checkout
from tests.stacks import SmallStack


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after `secrets.init`, two `set`s and a commit."""
    small = SmallStack.create(tmp_path_factory.mktemp("template") / "my checkout", port=8000)
    small.write("stack.yaml", (small.folder / "stack.yaml").read_text() + DECLARED)
    made = Checkout(small)
    made.git("init", "--quiet", "--initial-branch", "main")
    made.ok("secrets.init")
    made.ok("secrets.set", "api_key", stdin="the-value-of-api-key\n")
    made.ok("secrets.set", "db_password", stdin="the-value-of-db-password\n")
    made.commit()
    return made


@pytest.fixture
def checkout(template: Checkout, tmp_path: Path) -> Checkout:
    """A copy of it."""
    folder = tmp_path / "my checkout"
    shutil.copytree(template.folder, folder)
    return Checkout(SmallStack(folder, template.small.name, template.small.port))
