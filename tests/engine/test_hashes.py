"""The forms in which Compose hashes a definition, and what its dry runs say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conche.engine.hashes import (
    UP_WHOLE,
    asked_of,
    depend,
    leaves_others,
    resolved,
    shares,
    without_dependencies,
)
from conche.process import run

SAID = """\
time="2026-01-01T00:00:00Z" level=warning msg="Found orphan containers"
 DRY-RUN MODE -  Container p-db-1  Running
 DRY-RUN MODE -  Container p-web-1  Recreate
 DRY-RUN MODE -  Container p-web-1  Recreated
 DRY-RUN MODE -  Container 0123456789ab_p-web-1  Starting
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ()),
        ({"network_mode": "host", "ipc": "shareable", "pid": "container:abc"}, ()),
        ({"network_mode": "service:vpn", "pid": "service:vpn", "ipc": "service:x"}, ("vpn", "x")),
        ({"volumes_from": ["a", "b:ro", "container:c:ro"]}, ("a", "b")),
    ],
)
def test_what_a_service_shares(body: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert shares(body) == expected


def test_a_service_stands_as_the_container_it_is() -> None:
    rendered = {"name": "p", "services": {"web": {"network_mode": "service:vpn", "ipc": "service:gone", "pid": "host"}}}

    document = json.loads(resolved(rendered, {"vpn": "123", "web": "456"}))

    assert document == {
        "name": "p",
        "services": {"web": {"network_mode": "container:123", "ipc": "service:gone", "pid": "host"}},
    }


def test_what_a_service_may_depend_on_and_is_not_there_stands_as_one_that_is_not_wanted() -> None:
    needs = {"gone": {"condition": "service_started", "required": False}}
    rendered = {"services": {"web": {"depends_on": needs}}}

    assert json.loads(resolved(rendered, {}))["services"] == {
        "web": {"depends_on": needs},
        "gone": {"image": "none", "profiles": ["unwanted"]},
    }


def test_what_depends_on_others_has_a_form_without_them() -> None:
    rendered = {"services": {"a": {"image": "x", "depends_on": {"b": {}}}, "b": {"image": "y"}}}

    assert (depend(rendered), depend({"services": {"b": {}}})) == (True, False)
    assert json.loads(without_dependencies(json.dumps(rendered).encode())) == {
        "services": {"a": {"image": "x", "depends_on": {}}, "b": {"image": "y", "depends_on": {}}}
    }


def test_a_dry_run_is_read_by_container() -> None:
    assert asked_of(SAID) == {
        "p-db-1": {"Running"},
        "p-web-1": {"Recreate", "Recreated"},
        "0123456789ab_p-web-1": {"Starting"},
    }


@pytest.mark.parametrize(
    ("others", "service", "named", "leaves"),
    [
        ("", "web", None, True),
        (" Container p-once-1  Created\n", "web", None, True),
        (" Container p-once-1  Creating\n Container p-once-1  Created\n", "web", None, False),
        (" Container p-web-2-1  Recreate\n", "web", None, False),
        (" Container fixed  Recreate\n", "web", None, False),
        ("", "db", None, False),
    ],
)
def test_compose_leaves_others_where_it_says_so(others: str, service: str, named: str | None, leaves: bool) -> None:
    assert leaves_others(asked_of(SAID + others), "p", {service: named}) is leaves


def test_a_container_of_a_fixed_name_is_known_by_it() -> None:
    assert leaves_others({"my.web": {"Recreate"}, "p-db-1": {"Running"}}, "p", {"web": "my.web"})
    assert not leaves_others({"my-web": {"Recreate"}}, "p", {"web": "my.web"})
    assert not leaves_others({}, "p", {"web": None})


def test_several_services_are_left_out_of_the_others() -> None:
    would = {"p-web-1": {"Creating"}, "my.app": {"Creating"}, "p-db-1": {"Running"}}

    assert leaves_others(would, "p", {"web": None, "app": "my.app"})
    assert not leaves_others(would, "p", {"web": None, "app": None})


@pytest.mark.parametrize(
    ("program", "exit_code", "calls"),
    [
        ('echo "$@" >>"$0"', 0, ["up --no-start web db.1", "up --detach --no-deps --no-recreate web db.1"]),
        ('echo "$@" >>"$0"; echo why >&2; exit 3', 3, ["up --no-start web db.1"]),
    ],
    ids=["well", "refused"],
)
def test_what_is_made_is_started_by_the_same_child(
    program: str, exit_code: int, calls: list[str], tmp_path: Path
) -> None:
    done = run(["sh", "-c", UP_WHOLE, "sh", "web db.1", "sh", "-c", program, str(tmp_path / "calls"), "up"])

    assert (done.exit_code, (tmp_path / "calls").read_text().splitlines()) == (exit_code, calls)
    assert done.stderr.raw == ("why\n" if exit_code else "")
