"""What a program in a container says of secrets reaches neither a manifest nor an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker.errors
import pytest

from conche.backup.drivers import Dumping, program
from conche.engine import programs
from conche.engine.connection import EngineRefused
from conche.engine.container_env import secrets_of
from conche.secret import Secret
from conche.stack import Component
from tests.engine.answering import answering

PATH = "PATH=/usr/local/bin:/usr/bin"
IMAGES = "IMAGE_KEY=of-image"


class Api:
    """An engine with one container, whose program warns of all that it knows."""

    def __init__(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code

    def inspect_container(self, _: str) -> dict[str, Any]:
        given = [PATH, IMAGES, "PGPASS=own-password", "AT=postgres://app:in-address@db/app", "EMPTY", "MODE=production"]
        return {"Image": "sha256:1", "Config": {"Env": given}}

    def inspect_image(self, _: str) -> dict[str, Any]:
        return {"Config": {"Env": [PATH, IMAGES]}}

    def exec_create(self, *_: object, **__: object) -> dict[str, str]:
        return {"Id": "1"}

    def frames(self, *_: object) -> Iterator[tuple[bytes | None, bytes | None]]:
        yield b"data", None
        yield None, b"in /usr/local/bin:/usr/bin: own-pass"
        yield None, b"word in production, in-address and of-stack are wrong"

    def exec_inspect(self, _: str) -> dict[str, int]:
        return {"ExitCode": self.exit_code}


def dumping(folder: Path, monkeypatch: pytest.MonkeyPatch, api: Api) -> Dumping:
    @contextmanager
    def opened(*_: object) -> Iterator[object]:
        yield SimpleNamespace(engine=answering(api), container="c", number="1", name="db")

    monkeypatch.setattr(program, "opened", opened)
    monkeypatch.setattr(programs, "frames", api.frames)
    component = Component.model_validate(
        {"driver": "command", "environment": "dev", "service": "db", "dump": ("d",), "restore": ("r",)}
    )
    site = SimpleNamespace(secrets=lambda: [Secret("of-stack")])
    return Dumping(cast(Any, site), "db", component, folder)


def test_what_a_program_warns_of_is_kept_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = program.dump(dumping(tmp_path, monkeypatch, Api()))

    assert record.facts[program.WARNINGS] == "in /usr/local/bin:/usr/bin: *** in production, *** and *** are wrong"


def test_what_a_program_fails_of_is_said_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineRefused) as failed:
        program.dump(dumping(tmp_path, monkeypatch, Api(exit_code=1)))

    assert list(failed.value.evidence) == ["in /usr/local/bin:/usr/bin: *** in production, *** and *** are wrong"]


def test_an_image_that_is_gone_has_no_variables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise docker.errors.ImageNotFound("gone")

    monkeypatch.setattr(Api, "inspect_image", gone)

    assert Secret("of-image") in secrets_of(answering(Api()), "c")
