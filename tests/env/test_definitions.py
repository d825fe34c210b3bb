"""Which keys of a definition have changed, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conche.engine.compose import Configuration
from conche.engine.containers import Container
from conche.engine.inspection import asked_for
from conche.engine.rendered import altered, flat
from conche.engine.service import Service
from conche.env.definitions import altered_services, remember

BODY: dict[str, Any] = {
    "image": "app:1",
    "environment": {"LEVEL": "1", "DB_PASSWORD": "hunter2hunter2"},
    "ports": [{"target": 80}],
    "command": None,
    "build": {"context": "."},
    "deploy": {"replicas": 2, "resources": {"limits": {"memory": "64m"}}},
}


def configured(hashed: str, body: dict[str, Any]) -> Configuration:
    services = {"web": Service("web", body["image"], frozenset({hashed}))}
    return Configuration("p", services, (), (), {"services": {"web": body}})


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ()),
        ({"build": {"context": "elsewhere"}, "scale": 3, "command": []}, ()),
        ({"deploy": {**BODY["deploy"], "replicas": 3}}, ()),
        ({"environment": {"LEVEL": "2", "N": "x"}}, ("environment.DB_PASSWORD", "environment.LEVEL", "environment.N")),
        ({"image": "app:2", "ports": []}, ("image", "ports")),
        ({"environment": {**BODY["environment"], **{f"V{n}": "" for n in range(10)}}},
         (*(f"environment.V{n}" for n in range(8)), "and 2 more")),
    ],
)  # fmt: skip
def test_what_has_changed_is_named(changes: dict[str, Any], names: tuple[str, ...]) -> None:
    assert altered(flat(BODY), flat({**BODY, **changes})) == names


def test_what_a_container_was_made_from_is_remembered_without_any_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    running = Container("i", "p-web-1", "p", "web", "running", "none", "app:1", "sha256:1", "hash-1")
    before = configured("hash-1", BODY)
    body = {**BODY, "environment": {"LEVEL": "2", "DB_PASSWORD": "another"}, "hostname": "h"}
    after = configured("hash-2", body)

    remember("stack", before, [running])

    # The engine is not asked where it is known.
    found = altered_services("stack", None, after, [running])  # type: ignore[arg-type]
    assert found == {"web": ("environment.DB_PASSWORD", "environment.LEVEL", "hostname")}
    assert altered_services("stack", None, before, [running]) == {}  # type: ignore[arg-type]
    [file] = (path for path in tmp_path.rglob("*") if path.is_file())
    assert (file.stat().st_mode & 0o777, "hunter2" in file.read_text()) == (0o600, False)

    remember("stack", after, [])
    assert json.loads(file.read_text())["definitions"] == {}
    file.write_text("no JSON")
    remember("stack", before, [running])
    assert "hash-1" in json.loads(file.read_text())["definitions"]


def test_a_rendered_service_is_compared_with_what_inspection_shows() -> None:
    body = {
        "image": "app:1",
        "command": ["echo", "$$HOME"],
        "environment": {"A": "x$$y", "UNSET": None},
        "labels": {"a": "b"},
        "ports": [{"target": 80, "published": "8080", "host_ip": "127.0.0.1", "protocol": "tcp"}],
    }

    asked = asked_for(body, {"environment": {}})

    assert asked["command"] == ["echo", "$HOME"]
    assert asked["environment"] == {"A": "x$y"}
    assert (asked["restart"], asked["ports"]) == ("no", ["127.0.0.1:8080:80/tcp"])
