"""Which images of other people the project's own stack needs."""

from __future__ import annotations

from pathlib import Path

from conche.images.mirror import upstream
from conche.stack import Environment, Stack, load
from tests.stacks import ROOT


def test_what_is_built_here_counts_by_what_it_is_made_from() -> None:
    named, pinned = upstream(load(ROOT), ROOT)

    assert pinned == ()
    assert {one for one in named if "runner" in one} == {"data.forgejo.org/forgejo/runner:12.12.0"}
    assert {"docker:28.5.1-cli", "python:3.11-slim-bookworm", "registry:2.8"} <= set(named)


def test_what_included_and_extended_files_name_counts_too(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        "include: [more/compose.yaml]\nservices: {web: {extends: {file: more/base.yaml, service: app}}}\n"
    )
    (tmp_path / "more/app").mkdir(parents=True)
    (tmp_path / "more/compose.yaml").write_text("services: {db: {image: 'postgres:17'}}\n")
    (tmp_path / "more/base.yaml").write_text("services: {app: {build: app}}\n")
    (tmp_path / "more/app/Dockerfile").write_text("FROM python:3.13\n")
    stack = Stack(name="small", environments={"dev": Environment(compose=(Path("compose.yaml"),))})

    assert upstream(stack, tmp_path) == (("postgres:17", "python:3.13"), ())
