"""The corpus has every key, and the page for people is kept from it."""

from __future__ import annotations

import re

from tests.compose.corpus import CASES, KEYS, REFUSED, choice, table
from tests.compose.inspecting import allowed, unexplained
from tests.stacks import ROOT

PAGE = ROOT / "docs/reference/compose.md"

DONE_OTHERWISE = {
    "ends when": "env/test_up.py::test_a_fresh_checkout_comes_up_healthy_and_answers",
    "leaves a failing": "env/test_failing.py::test_what_is_replaced_and_fails_is_what_it_was_and_the_others_are_new",
    "recreates": "env/test_plan.py::test_what_follows_a_service_is_restarted_once_that_starts_anew",
    "leaves a container": "env/test_contents.py::test_another_content_is_another_container",
    "pulls": "env/test_plan.py::test_an_update_fetches_the_image_of_one_service_and_leaves_the_others",
    "ends with": "env/test_tasks.py::test_networks_tell_what_is_missing_and_make_it",
    "says": "env/test_preflight.py::test_of_owner_and_mode_only_those_that_compose_ignores_are_told",
    "builds": "env/test_plan.py::test_build_rebuilds_own_images_only_and_replaces_what_runs_from_them",
    "creates": "env/test_plan.py::test_where_no_service_is_to_have_a_container_nothing_is_made",
    "takes": "test_session.py::test_profiles_in_dotenv_count_and_what_sets_compose_up_is_left_out_and_named",
}
"""What the page says that is done otherwise, by how it begins -> the test that shows it, from tests/."""


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


def test_each_thing_that_the_page_says_is_done_otherwise_is_shown_by_a_test() -> None:
    _, _, said = PAGE.read_text(encoding="utf-8").partition("| `docker compose up --detach` | `env.up` |\n|---|---|\n")
    rows = re.findall(r"^\| (.+?) \| .+ \|$", said.partition("\n\n")[0], re.MULTILINE)

    assert len(rows) == len(DONE_OTHERWISE)
    for row, (begins, test) in zip(rows, DONE_OTHERWISE.items(), strict=True):
        file, _, name = test.partition("::")
        assert row.startswith(begins)
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
