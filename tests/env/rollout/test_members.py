"""A configuration of the edge that names containers, made from one that does not: as values."""

from __future__ import annotations

import pytest

from conche.env.rollout.edge import FOLDER, MARK, EdgeConfiguration
from conche.env.rollout.members import named

TEXT = """\
events {}
http {
  map "" $upstream { default "web-r3:8000"; }
  server { location @maintained { root %s; } }
}
"""
BASE = EdgeConfiguration(
    "r3-0123abcd",
    "r3",
    {"r3-0123abcd/nginx.conf": (TEXT % f"{FOLDER}/r3-0123abcd").encode(), "r3-0123abcd/maintenance.html": b"page"},
)
ONE, TWO, THREE = ("a" * 64, "b" * 64, "c" * 64)


def text(configuration: EdgeConfiguration) -> str:
    return configuration.files[f"{configuration.name}/nginx.conf"].decode()


def test_a_single_container_is_named_by_its_id_with_the_port_of_its_release() -> None:
    made = named(BASE, "web", [ONE])

    assert 'default "aaaaaaaaaaaa:8000";' in text(made)
    assert text(made).startswith(f"{MARK}r3-0123abcd\n")


def test_several_get_a_share_each_and_the_last_one_what_is_left() -> None:
    made = named(BASE, "web", [ONE, TWO, THREE])

    assert (
        'http {\n  split_clients "$request_id" $conche_members {\n    33.33% "aaaaaaaaaaaa:8000";\n'
        '    33.33% "bbbbbbbbbbbb:8000";\n    * "cccccccccccc:8000";\n  }\n'
    ) in text(made)
    assert 'default "$conche_members";' in text(made)


def test_it_is_another_configuration_of_the_same_release_with_all_files_in_its_own_folder() -> None:
    made = named(BASE, "web", [ONE, TWO])

    assert made.release == "r3"
    assert made.name not in (BASE.name, named(BASE, "web", [ONE]).name)
    assert set(made.files) == {f"{made.name}/nginx.conf", f"{made.name}/maintenance.html"}
    assert f"root {FOLDER}/{made.name};" in text(made)


def test_the_same_containers_make_the_same_configuration() -> None:
    assert named(BASE, "web", [ONE, TWO]) == named(BASE, "web", [ONE, TWO])


@pytest.mark.parametrize("entry", ["web-r30:8000", "other-web:8000", "10.0.0.1:8000"])
def test_a_template_that_looks_for_containers_in_its_own_way_is_left_as_it_is(entry: str) -> None:
    own = EdgeConfiguration(BASE.name, "r3", {f"{BASE.name}/nginx.conf": f"http {{ server {entry}; }}".encode()})

    assert named(own, "web", [ONE, TWO]) == own
