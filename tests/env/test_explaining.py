"""A failure that is being explained stays the one that is told, whatever its explanation runs into."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pytest

from conche.engine import containers, logs
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.health import Waiting
from conche.env.evidence import evidence, explained, reasons, telling
from conche.errors import Unreachable
from tests.stacks import SmallStack

BAD = """\
services:
  bad:
    image: python:3.11-slim-bookworm
    command: ["python3", "-c", "print('no licence', flush=True); raise SystemExit(3)"]
    logging: {driver: none}
"""


@pytest.mark.engine
def test_a_log_that_cannot_be_read_does_not_hide_why_a_service_failed(small: SmallStack, engine: Engine) -> None:
    small.write("compose/dev.yaml", BAD)

    failed = small.invoke("env.up")

    assert failed.returncode == 4, failed.stderr
    assert "error [start-failed]: bad exited with 3; all changes were undone." in failed.stderr
    assert 'bad-1 exited with 3; its log goes to "none" and cannot be read' in failed.stderr
    assert small.containers(engine) == ()


def test_an_engine_that_is_lost_while_a_failure_is_explained_does_not_take_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compose = Compose(Engine(), "p", ())
    one = Container("1", "p-web-1", "p", "web", "exited", "none", "i", "i", "h", health_log=("refused",), error="oom")

    def lost(*_: object) -> NoReturn:
        raise Unreachable("engine-unreachable", "No Docker engine answers.")

    monkeypatch.setattr(logs, "last_entries", lost)
    waiting = Waiting((one,), {"p-web-1": "exited with 3", "db": "has no container"})

    assert evidence(compose, waiting) == [
        "p-web-1 exited with 3; its log cannot be read: No Docker engine answers.",
        "healthcheck: refused",
        "engine: oom",
    ]
    assert reasons(waiting) == "db has no container, web exited with 3"


NOISE = [f"2026/11/27 10:00:{number:02} wgengine: link change, no error" for number in range(59)]


UNKNOWN = (
    'Received error: fetch control key: Get "https://headscale.example.org/key?v=138": '
    "x509: certificate signed by unknown authority"
)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [*NOISE, "Received error: authkey expired", "backend error: authkey already used",
             "boot: failed to auth tailscale: tailscale up failed: exit status 1"],
            "backend error: authkey already used",
        ),
        (['File "x.py", line 1', "ValueError: LEVEL is none of DEBUG, INFO", "ERROR: startup failed"],
         "ValueError: LEVEL is none of DEBUG, INFO"),
        (['{"level":"info","msg":"hello"}', '{"level":"fatal","msg":"no licence"}', "bye"],
         '{"level":"fatal","msg":"no licence"}'),
        (["\x1b[31mcannot open /data\x1b[0m", "cleaning up"], "cannot open /data"),
        (
            [*NOISE, f"2026/11/28 09:53:35 {UNKNOWN}",
             '2026/11/28 09:53:35 [RATELIMIT] format("Received error: %v")',
             '2026/11/28 09:53:39 bootstrapDNS("derp12", "192.0.2.1") for "log.tailscale.com" error: timeout',
             '2026/11/28 09:53:39 logtail: upload: failed: Post "https://log.tailscale.com/c/x": error: no such host',
             "boot: 2026/11/28 09:53:39 failed to auth tailscale: tailscale up failed: signal: killed"],
            f"2026/11/28 09:53:35 {UNKNOWN}",
        ),
        (["server starts", "0 errors so far"], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_the_line_that_says_why_is_found_among_the_others(lines: list[str], said: str) -> None:
    assert telling(lines)[0] == said


BEGUN = datetime(2026, 11, 27, 10, tzinfo=UTC)
SIDECAR = Container("1", "p-side-1", "p", "side", "running", "starting", "i", "i", "h", restarts=1)
ENTRIES = (
    (BEGUN + timedelta(seconds=1), "backend error: authkey already used"),
    (BEGUN + timedelta(seconds=61), "starting again"),
    (BEGUN + timedelta(seconds=62), "error: something of the next start"),
)


@pytest.mark.parametrize(
    ("judged", "now"),
    [
        (replace(SIDECAR, started_at=BEGUN + timedelta(seconds=60)), None),
        (replace(SIDECAR, state="restarting", started_at=BEGUN),
         replace(SIDECAR, started_at=BEGUN + timedelta(seconds=60))),
    ],
    ids=["started again before it was judged", "started again afterwards"],
)  # fmt: skip
def test_a_start_that_failed_is_explained_by_its_own_log(
    monkeypatch: pytest.MonkeyPatch, judged: Container, now: Container | None
) -> None:
    monkeypatch.setattr(logs, "last_entries", lambda *_: ENTRIES)
    monkeypatch.setattr(containers, "read", lambda *_: now)
    waiting = Waiting((judged,), {"p-side-1": "keeps restarting"})

    reason = explained(Compose(Engine(), "p", ()), waiting)["side"]

    assert reason.says == "side keeps restarting: backend error: authkey already used"
    assert reason.lines == ["p-side-1 keeps restarting; its last lines:", "backend error: authkey already used"]


@pytest.mark.parametrize(
    ("changes", "reason", "why"),
    [
        ({"state": "exited"}, "exited with 3", "bye"),
        ({"state": "exited", "oom_killed": True}, "was killed for lack of memory (OOM)", ""),
        ({"health": "unhealthy", "health_log": ("HTTP Error 500",)}, "is unhealthy", "HTTP Error 500"),
        ({"health": "starting"}, "was not healthy within 9 s", ""),
        ({"state": "created", "error": "no such device"}, "was not healthy within 9 s", ""),
    ],
)
def test_each_failure_is_explained_by_what_speaks_of_it(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], reason: str, why: str
) -> None:
    monkeypatch.setattr(logs, "last_entries", lambda *_: ((BEGUN, "hello"), (BEGUN, "bye")))
    monkeypatch.setattr(containers, "read", lambda *_: None)
    one = replace(SIDECAR, restarts=0, **changes)  # type: ignore[arg-type]

    found = explained(Compose(Engine(), "p", ()), Waiting((one,), {"p-side-1": reason}))

    assert found["side"].says == f"side {reason}" + (f": {why}" if why else "")
