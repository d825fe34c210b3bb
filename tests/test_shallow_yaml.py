"""YAML of a stranger: how deeply nested it may be, whoever reads it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from conche import shallow_yaml
from conche.ci.workflows.document import WorkflowInvalid
from conche.ci.workflows.document import parse as parse_workflow
from conche.engine import written
from conche.errors import Refused
from conche.shallow_yaml import DEEPEST, NestedTooDeeply
from conche.stack.reading import StackInvalid
from conche.stack.reading import parse as parse_stack
from conche.vault.forms import tree_of
from tests.architecture.source import SOURCES, named, nodes

BOMBS = ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000, "[\n" * 100_000, "a: " + "[" * 100_000]


def levels(count: int) -> str:
    return "[" * count + "]" * count


@pytest.mark.parametrize("text", BOMBS, ids=lambda text: text[:6])
def test_what_is_nested_without_end_is_refused_where_it_becomes_too_deep(text: str) -> None:
    for read in (shallow_yaml.load, shallow_yaml.compose):
        with pytest.raises(NestedTooDeeply, match="nested more than 100 levels deep") as told:
            read(text)
    assert told.value.problem_mark is not None
    assert told.value.problem_mark.index < 1000


@pytest.mark.parametrize("encode", [str, str.encode], ids=["text", "bytes"])
def test_the_levels_are_counted_as_they_stand_within_each_other(encode: type[str]) -> None:
    wide = "".join(f"- {levels(3)}\n" for _ in range(1000))

    assert len(shallow_yaml.load(encode(wide))) == 1000
    assert shallow_yaml.load(encode(levels(DEEPEST))) != []
    assert shallow_yaml.load(encode('"' + "[" * 1000 + '"')) == "[" * 1000
    with pytest.raises(NestedTooDeeply):
        shallow_yaml.load(encode(levels(DEEPEST + 1)))


@pytest.mark.parametrize("text", ["a: [1", "a: \x00", "a: \ud800", "\t: {", "*nobody"])
def test_what_is_no_yaml_is_told_by_its_reader(text: str) -> None:
    with pytest.raises((yaml.YAMLError, ValueError)) as told:
        shallow_yaml.load(text)
    assert not isinstance(told.value, NestedTooDeeply)


@pytest.mark.parametrize("text", BOMBS, ids=lambda text: text[:6])
def test_each_reader_says_so_in_its_own_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "compose.yaml").write_text(text)

    with pytest.raises(ValueError, match="is nested too deeply"):
        tree_of(text.encode(), "yaml")
    with pytest.raises(StackInvalid):
        parse_stack(text)
    with pytest.raises(WorkflowInvalid, match=r"ci.yaml:\d+:\d+ is not YAML: nested more than"):
        parse_workflow(text, "ci.yaml")
    with pytest.raises(Refused, match=r"compose\.yaml is not YAML"):
        written.services(tmp_path / "compose.yaml")


def test_nobody_else_reads_yaml() -> None:
    readers = {"compose", "compose_all", "load", "load_all", "safe_load", "safe_load_all", "parse", "full_load"}
    found = {
        named(source)
        for source in SOURCES
        for node in nodes(source)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        and node.value.id == "yaml" and node.attr in readers
    }  # fmt: skip

    assert found == {"conche/shallow_yaml.py"}
