"""ci.graph: the same jobs as text, Mermaid and SVG."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from conche.ci.graph import as_mermaid, as_svg, as_text
from conche.ci.workflows.document import parse
from conche.ci.workflows.workflow import Workflow, needed, ordered
from conche.ci.workflows.workflow import parse as read
from tests.stacks import SmallStack

DIAMOND = """\
name: A "diamond" <of> jobs
on: {push: {branches: [main]}}
jobs:
  last: {needs: [left, right], runs-on: prod, if: "github.ref == 'refs/heads/main'", steps: []}
  left: {needs: first, runs-on: [dev, big], steps: []}
  right: {needs: first, runs-on: dev, steps: []}
  first: {runs-on: ubuntu-latest, steps: []}
"""


@pytest.fixture
def diamond() -> Workflow:
    return read(parse(DIAMOND, "x.yml"))


def test_the_text_is_a_tree_that_names_what_it_cannot_draw(diamond: Workflow) -> None:
    assert as_text([diamond]).splitlines() == [
        'A "diamond" <of> jobs (x.yml)',
        "  on push: main",
        "└── first  [ubuntu-latest]",
        "    ├── left  [dev, big]",
        "    └── right  [dev]",
        "        └── last  [prod]  if github.ref == 'refs/heads/main'  also after left",
    ]


def test_the_flowchart_has_every_edge_and_no_sign_that_means_something(diamond: Workflow) -> None:
    lines = as_mermaid([diamond]).splitlines()

    assert 'subgraph w0["A #quot;diamond#quot; #lt;of#gt; jobs"]' in lines[1]
    assert sorted(line.strip() for line in lines if "-->" in line) == [
        "w0j1 --> w0j0",
        "w0j2 --> w0j0",
        "w0j3 --> w0j1",
        "w0j3 --> w0j2",
    ]


def test_the_picture_is_xml_with_a_box_for_each_job_and_an_arrow_for_each_need(diamond: Workflow) -> None:
    picture = ET.fromstring(as_svg([diamond, diamond]))
    space = {"svg": "http://www.w3.org/2000/svg"}
    boxes = picture.findall(".//svg:rect", space)

    assert len(boxes) == 8
    assert len(picture.findall("svg:path", space)) == 8
    assert max(int(box.attrib["x"]) + int(box.attrib["width"]) for box in boxes) <= int(picture.attrib["width"])
    assert max(int(box.attrib["y"]) + int(box.attrib["height"]) for box in boxes) <= int(picture.attrib["height"])
    assert len({(box.attrib["x"], box.attrib["y"]) for box in boxes}) == 8


def test_a_circle_is_drawn_and_does_not_go_round() -> None:
    circle = read(parse("on: push\njobs: {a: {needs: b}, b: {needs: [a, nobody]}}", "x.yml"))

    assert ordered(circle) == ["a", "b"]
    assert needed(circle, "a") == {"a", "b"}
    for draw in (as_text, as_mermaid, as_svg):
        assert {"a", "b"} <= {letter for letter in draw([circle]) if letter in "ab"}


@pytest.mark.process
def test_the_task_draws_each_form_and_refuses_another(tmp_path: Path) -> None:
    stack = SmallStack.create(tmp_path / "checkout", port=1)
    stack.write(".gitea/workflows/x.yml", DIAMOND)

    assert stack.invoke("ci.graph").stdout.startswith('A "diamond"')
    assert stack.invoke("ci.graph", "--form", "svg").stdout.startswith("<svg")
    assert stack.json("ci.graph")["value"][".gitea/workflows/x.yml"]["left"]["needs"] == ["first"]
    assert stack.json("ci.graph", "--form", "mermiad")["error"]["code"] == "form-unknown"
