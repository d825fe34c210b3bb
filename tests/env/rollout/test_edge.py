"""The edge's configuration, as a value; nginx itself judges it in the engine's tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.rollout.edge import FOLDER, Answer, configure, listening, read_template
from conche.env.rollout.look import Look, number
from conche.errors import Refused
from conche.stack import Deploy, Probe


def text(template: Path | None = None, *, release: str = "r7", maintenance: bool = False, drain: float = 30) -> str:
    read = read_template(Path("/"), Deploy(template=template, drain=drain))
    made = configure(read, release=release, upstream="web-r7:8000", listen=8000, maintenance=maintenance)
    return made.files[f"{made.name}/nginx.conf"].decode()


def test_nothing_is_left_to_fill_in() -> None:
    said = "".join(line for line in text().splitlines() if not line.startswith("#"))

    assert re.findall(r"@\w+@?", said) == ["@maintained", "@maintained"]
    assert 'default "web-r7:8000"' in text()
    assert "listen 8000 default_server;" in text()


def test_a_configuration_is_named_by_its_release_and_its_content() -> None:
    def name(**said: bool) -> str:
        read = read_template(Path("/"), Deploy())
        return configure(read, release="r7", upstream="web-r7:8000", listen=8000, **{"maintenance": False, **said}).name

    assert name() == name()
    assert name().startswith("r7-")
    assert name() != name(maintenance=True)
    assert f"root {FOLDER}/{name()};" in text()


def test_maintenance_is_said_with_503_and_a_page() -> None:
    assert 'map "" $maintenance { default "1"; }' in text(maintenance=True)
    assert 'map "" $maintenance { default ""; }' in text()


def test_a_drain_of_nothing_is_still_a_second() -> None:
    assert "worker_shutdown_timeout 1s;" in text(drain=0)


def test_only_proxies_that_are_named_are_believed() -> None:
    deploy = Deploy(edge="edge", serves="web", trust=("10.1.2.3/8", "::1"))

    said = read_template(Path("/"), deploy).text

    assert re.findall(r"set_real_ip_from (\S+);", said) == ["10.0.0.0/8", "::1/128"]
    assert re.search(r"default 0;\n    10\.0\.0\.0/8 1;\n    ::1/128 1;\n", said)
    assert "set_real_ip_from" not in text()
    with pytest.raises(ValidationError, match="an IP address, or a network such as"):
        Deploy(trust=("10.0.0.0/8; include /etc/passwd",))


def test_the_port_of_proxies_is_open_only_where_it_is_named() -> None:
    deploy = Deploy(edge="edge", serves="web", trusted_port=8080)

    said = read_template(Path("/"), deploy).text

    assert "listen 8080 default_server;" in said
    assert re.findall(r"listen (\S+);", said) == ["127.0.0.1:8081", "127.0.0.1:8082"]
    assert "map $server_port $by_port { default 0; 8080 1; }" in said
    assert "map $server_port $by_port { default 0;  }" in text()
    assert "8080" not in text()


@pytest.mark.parametrize("port", [8081, 8082])
def test_the_port_of_proxies_is_none_that_the_edge_has_for_itself(port: int) -> None:
    with pytest.raises(ValidationError, match="another port than 8081 and 8082"):
        Deploy(edge="edge", serves="web", trusted_port=port)


def test_a_template_of_ones_own_that_does_not_listen_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("listen @listen@;")

    with pytest.raises(Refused) as refused:
        read_template(tmp_path, Deploy(edge="edge", serves="web", template=Path("own.conf"), trusted_port=8080))

    assert refused.value.code == "template-incomplete"
    assert "@listen_trusted@" in refused.value.message


def test_the_checkouts_own_template_is_filled_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("upstream @upstream@ of @release@ in @folder@")

    said = text(tmp_path / "own.conf")

    assert said.startswith(f"upstream web-r7:8000 of r7 in {FOLDER}/r7-")


@pytest.mark.parametrize("ports", [[], [{"target": 80}, {"target": 443}]])
def test_an_edge_that_publishes_not_exactly_one_port_is_refused(ports: list[dict[str, object]]) -> None:
    with pytest.raises(Refused) as refused:
        listening(ports)

    assert refused.value.code == "edge-port-unclear"


@pytest.mark.parametrize(
    ("field", "answer", "right"),
    [
        ("", Answer(200, "anything"), True),
        ("", Answer(500, "anything"), False),
        ("", Answer(0, "connection refused"), False),
        ("release", Answer(204, '{"release": "r7"}'), True),
        ("release", Answer(500, '{"release": "r7"}'), False),
        ("release", Answer(200, '{"release": "r6"}'), False),
        ("release", Answer(200, "no JSON"), False),
        ("release", Answer(200, "[]"), False),
        ("build.release", Answer(200, '{"build": {"release": "r7"}}'), True),
        ("build.release", Answer(200, '{"build": null}'), False),
    ],
)
def test_an_answer_is_right_when_it_is_good_and_names_the_release(field: str, answer: Answer, right: bool) -> None:
    look = Look("prod", Compose(Engine(), "x", ()), Deploy(probe=Probe(field=field)), {})

    assert look.right(answer, "r7") is right


@pytest.mark.parametrize(("release", "expected"), [("r12", 12), ("nothing", 0), ("", 0), ("r", 0)])
def test_the_number_of_a_release(release: str, expected: int) -> None:
    assert number(release) == expected
