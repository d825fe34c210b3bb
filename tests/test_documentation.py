"""`conche docs`: the documentation for whoever has the package alone."""

from __future__ import annotations

import ast
import re

import pytest

from conche.__main__ import main
from conche.documentation import pages
from tests.stacks import ROOT


def test_every_page_is_listed_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs"]) == 0

    said = capsys.readouterr().out
    assert re.search(r"^stack +stack\.yaml$", said, re.MULTILINE)
    assert len(said.splitlines()) == 2 + len([*(ROOT / "docs").rglob("*.md")])


def test_a_page_is_printed_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "errors"]) == 0

    assert capsys.readouterr().out == (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")


def test_a_page_that_is_not_there_is_told_with_one_that_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "eror"]) == 6

    assert "conche docs errors" in capsys.readouterr().err


def test_what_messages_name_is_a_page() -> None:
    named = [
        (file.name, name)
        for file in sorted((ROOT / "conche").rglob("*.py"))
        for name in re.findall(r"conche docs ([\w-]+)", file.read_text(encoding="utf-8"))
    ]

    assert named
    assert [one for one in named if one[1] not in pages()] == []


def test_no_message_names_a_page_by_a_file_that_only_a_checkout_has() -> None:
    texts = [
        (file.name, node.value)
        for file in sorted((ROOT / "conche").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
        if re.search(r"docs/[\w-]+/[\w-]+\.md", node.value)
    ]

    assert texts == [("formats.py", "All formats; docs/reference/formats.md lists the same.")]
