"""The corpus has every key, and the page for people is kept from it."""

from __future__ import annotations

from tests.compose.corpus import CASES, KEYS, REFUSED, choice, table
from tests.compose.inspecting import allowed, unexplained
from tests.stacks import ROOT

PAGE = ROOT / "docs/reference/compose.md"


def test_every_key_of_the_specification_has_a_file() -> None:
    assert {case.name for case in CASES if case.name in KEYS} == KEYS


def test_the_choice_has_every_key_that_an_engine_takes() -> None:
    chosen = {key for body in choice()["services"].values() for key in body}

    assert KEYS - chosen == {case.name for case in CASES if case.group == REFUSED} & KEYS


def test_the_page_has_the_table_of_keys_as_it_is() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")


def test_a_difference_is_explained_by_the_pages_table_and_by_nothing_else() -> None:
    label = "image NAME-web: Config.Labels.org.opencontainers.image.revision"
    user = "container web-1: Config.User"

    assert allowed(PAGE)
    assert unexplained({label: (None, "1"), user: ("1", "2")}, allowed(PAGE)) == {user: ("1", "2")}
