"""From which files the containers of a project were made."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from conche.engine.containers import LABEL, Container
from conche.engine.projects import made_from_others
from tests.stacks import SmallStack

ONE = Container("1", "p-web-1", "p", "web", "running", "healthy", "i", "i", "h")


def made(*files: Path | str) -> Container:
    return replace(ONE, labels={f"{LABEL}.project.config_files": ",".join(map(str, files))})


def test_only_files_of_another_checkout_that_is_there_are_told(tmp_path: Path) -> None:
    here, there, gone = (tmp_path / name for name in ("here.yaml", "there.yaml", "gone.yaml"))
    here.touch()
    there.touch()

    found = [ONE, made(here), made(there, here), made(there), made(gone), made("-"), made("")]

    assert made_from_others(found, [here]) == [there]


def test_a_checkout_is_itself_by_whatever_path_it_was_called(tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()
    here = tmp_path / "checkout/compose.yaml"
    here.write_text("services: {}")
    (tmp_path / "link").symlink_to(tmp_path / "checkout")

    assert made_from_others([made(tmp_path / "link/compose.yaml")], [here]) == []
    assert made_from_others([made(here)], [tmp_path / "link/compose.yaml"]) == []


@pytest.mark.engine
def test_a_second_stack_of_one_name_is_told_before_it_takes_the_first_over(small: SmallStack, tmp_path: Path) -> None:
    small.up()
    shutil.copytree(small.folder, tmp_path / "second")
    second = SmallStack(tmp_path / "second", small.name, small.port)

    warned = second.invoke("env.up", "--dry-run")
    own = small.invoke("env.up")

    assert warned.returncode == 0, warned.stderr
    assert f"warning: dev was brought up from {small.folder / 'compose/dev.yaml'}, and this checkout" in warned.stderr
    assert "change `name` and the ports" in warned.stderr
    assert "warning" not in own.stderr
