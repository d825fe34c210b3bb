"""`conche upgrade`: what is called otherwise now is written so, and every other character of stack.yaml stays."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from conche.__main__ import main
from conche.command import Invocation
from conche.errors import ConcheError
from conche.init.upgrade import upgrade, with_format, with_new_names
from conche.output import Output
from conche.stack import StackInvalid, parse
from conche.stack.replaced import ReplacedKey

STACK = """\
# ours
name: shop  # the one in town

environments:
  dev: {compose: [compose.yaml], url: "http://localhost:8000/"}  # here
  "prod":
    # kept
    compose: [compose.yaml]
    'url': http://localhost:8001/
"""

UPGRADED = """\
# ours
name: shop  # the one in town
format: 1

environments:
  dev: {compose: [compose.yaml], health: "http://localhost:8000/"}  # here
  "prod":
    # kept
    compose: [compose.yaml]
    health: http://localhost:8001/
"""


@pytest.fixture(autouse=True)
def _keys_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = (
        ReplacedKey(("environments", "*", "url"), "health", "it is called `health` now"),
        ReplacedKey(("hosts",), "", "give each environment its `engine` instead"),
    )
    monkeypatch.setattr("conche.stack.replaced.REPLACED", gone)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: a}}\n")
    (tmp_path / "stack.yaml").write_bytes(STACK.encode())
    return tmp_path / "stack.yaml"


def upgraded(file: Path, *, dry_run: bool = False) -> Any:
    return upgrade(Invocation(file.parent, Output("upgrade"), dry_run=dry_run))


def test_a_dry_run_shows_the_changed_lines_and_writes_nothing(file: Path) -> None:
    outcome = upgraded(file, dry_run=True)

    assert file.read_text() == STACK
    assert outcome.changed is False
    assert [(one["line"], one["now"], one["then"]) for one in outcome.value] == [
        (3, "", "format: 1"),
        (5, STACK.splitlines()[4], UPGRADED.splitlines()[5]),
        (9, "    'url': http://localhost:8001/", "    health: http://localhost:8001/"),
    ]


def test_the_file_is_replaced_by_one_that_differs_in_nothing_else(file: Path) -> None:
    file.chmod(0o640)

    outcome = upgraded(file)

    assert outcome.changed
    assert file.read_text() == UPGRADED
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(one.name for one in file.parent.iterdir()) == ["compose.yaml", "stack.yaml"]
    again = upgraded(file)
    assert (again.changed, "Nothing to do" in again.lines[0]) == (False, True)


def test_a_link_stays_a_link_and_the_ends_of_lines_what_they_are(file: Path) -> None:
    elsewhere = file.rename(file.with_name("real.yaml"))
    elsewhere.write_bytes(STACK.replace("\n", "\r\n").encode())
    file.symlink_to("real.yaml")

    upgraded(file)

    assert file.is_symlink()
    assert elsewhere.read_bytes() == UPGRADED.replace("\n", "\r\n").encode()


@pytest.mark.parametrize(
    ("stack", "said"),
    [
        (
            STACK.replace("compose: [", "compos: [", 1),
            "stack.yaml:5  environments.dev.compos: unknown key. Did you mean",
        ),
        (STACK + "hosts: [a]\n", "stack.yaml:10  hosts: unknown key; give each environment its `engine` instead"),
        (STACK.replace("# here", "").replace("url:", "health: http://a/, url:"), "is there too: keep one of the two"),
        (STACK + "  x: [\n", "not YAML"),
        (STACK.replace("name: shop", "format: 99\nname: shop"), "is of format 99"),
        ("- a\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: &a [*a]\nname: b\n", "inside its own anchor"),
    ],
    ids=["other-problem", "removed", "both", "no-yaml", "later", "list", "empty", "loop"],
)
def test_a_file_that_it_cannot_upgrade_is_refused_and_left_as_it_is(file: Path, stack: str, said: str) -> None:
    file.write_text(stack)

    with pytest.raises(ConcheError) as refused:
        upgraded(file)

    assert said in "\n".join([refused.value.message, *refused.value.evidence])
    assert file.read_text() == stack


def test_a_folder_without_a_stack_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConcheError) as refused:
        upgraded(tmp_path / "stack.yaml")

    assert refused.value.code == "stack-missing"


def test_a_file_that_changes_meanwhile_is_left_to_whoever_changes_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = iter([STACK, STACK + "# more\n"])
    monkeypatch.setattr("conche.init.upgrade.read_text", lambda *_: next(read))

    with pytest.raises(ConcheError) as refused:
        upgraded(file)

    assert refused.value.code == "changed-meanwhile"
    assert file.read_text() == STACK


def test_a_key_of_an_earlier_format_says_what_to_write_now() -> None:
    with pytest.raises(StackInvalid) as refused:
        parse(STACK)

    assert refused.value.evidence[0].endswith(
        "environments.dev.url: unknown key; it is called `health` now: `conche upgrade` writes it so"
    )


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("{name: a, environments: {}}", "{format: 1, name: a, environments: {}}"),
        ("environments: {}\nname: a", "environments: {}\nname: a\nformat: 1\n"),
        ("name: >-\n  a\nenvironments: {}\n", "name: >-\n  a\nformat: 1\nenvironments: {}\n"),
        ("name: a\nformat: 0   # old\n", "name: a\nformat: 1   # old\n"),
        ("name: a\nformat: 1\n", "name: a\nformat: 1\n"),
        ("---\n  name: a\n  environments: {}\n", "---\n  name: a\n  format: 1\n  environments: {}\n"),
    ],
)
def test_the_format_stands_where_it_belongs(text: str, after: str) -> None:
    assert with_format(text) == after
    assert yaml.safe_load(after)["format"] == 1


def test_what_aliases_repeat_is_renamed_once() -> None:
    text = "x: 1\nenvironments:\n  dev: &dev {url: a}\n  prod: *dev\n  test: {<<: *dev, url: b}\n"

    assert with_new_names(text) == text.replace("url", "health")


def test_the_command_line_knows_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(file.parent)

    assert main(["upgrade", "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["command"], said["changed"], said["value"][0]["then"]) == ("upgrade", False, "format: 1")
    assert main(["upgrade"]) == 0
    assert file.read_text() == UPGRADED
