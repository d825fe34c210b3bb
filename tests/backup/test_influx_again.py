"""`influx backup` beside writers: what the server cannot read for a moment is read a moment later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from conche.backup import influx
from conche.backup.influx import Influx, InfluxFailed
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.process import Completed
from conche.secret import Captured

SHARD = "Error: failed to backup bucket data: failed to download snapshot of shard 53: 500 Internal Server Error"


class Program:
    """What runs in the container: `influx backup` ends with these messages, one after the other, and then well."""

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)
        self.asked: list[str] = []

    def run(self, engine: Engine, container: str, argv: Sequence[str], **options: Any) -> Completed:
        what = "backup" if "backup" in argv else argv[2].split()[0]
        self.asked.append(what)
        said = self.failures.pop(0) if what == "backup" and self.failures else ""
        return Completed(tuple(argv), int(bool(said)), Captured(""), Captured(said))


def backed_up(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    monkeypatch.setattr("conche.backup.influx.programs.run", program.run)
    monkeypatch.setattr(influx, "PAUSES", (0.0, 0.0))
    container = Container("c0ffee", "influxdb", "p", "influxdb", "running", "none", "i", "sha256:1", "h")
    Influx(cast(Engine, None), container, "/run/secrets/token").backup("/tmp/folder")


@pytest.mark.parametrize("failures", [1, 2])
def test_a_shard_that_is_being_written_is_read_again_into_an_empty_folder(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    program = Program(*[SHARD] * failures)

    backed_up(monkeypatch, program)

    assert program.asked == [*["backup", "rm"] * failures, "backup", "cd"]


@pytest.mark.parametrize("said", [[SHARD] * 3, ["Error: 401 Unauthorized"]], ids=["for ever", "another fault"])
def test_what_does_not_pass_is_a_failure_with_its_words(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    program = Program(*said)

    with pytest.raises(InfluxFailed) as raised:
        backed_up(monkeypatch, program)

    assert raised.value.evidence == (said[0],)
    assert program.asked.count("backup") == len(said)
