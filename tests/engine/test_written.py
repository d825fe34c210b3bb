"""What a Compose file says, as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.engine.written import named_in

VARIABLES = {"PORT": "1", "A": "2", "TOKEN": "3"}


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("ports: ['${CONCHE_PORT}:80']", []),
        ("ports: ['${PORT}:80']", ["PORT"]),
        ("ports: ['$PORT:80']", ["PORT"]),
        ("ports: ['${PORT:-${A}}:80']", ["A", "PORT"]),
        ("environment: [TOKEN, ABC]", ["TOKEN"]),
        ("environment: {TOKEN: , PORTS: A_B}", ["TOKEN"]),
        ("image: x:${TOKEN_OF_ALL}", []),
    ],
)
def test_a_variable_is_found_by_its_whole_name(tmp_path: Path, written: str, names: list[str]) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(f"services: {{web: {{{written}}}}}\n")

    assert sorted(named_in([file], VARIABLES)) == names
