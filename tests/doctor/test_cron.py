"""A crontab that no daemon reads starts no backup."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import pytest

from conche.backup import cron
from conche.doctor import doctor


@pytest.mark.parametrize(
    ("processes", "state", "said", "following"),
    [
        (("systemd", "cron"), "ok", "/usr/bin/crontab", ""),
        (("systemd", "cronjob"), "optional", "/usr/bin/crontab, and no daemon is running", cron.START),
    ],
)
def test_cron_is_there_only_with_its_daemon(
    monkeypatch: pytest.MonkeyPatch, processes: Sequence[str], state: str, said: str, following: str
) -> None:
    unasked: Any = None
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/crontab")
    monkeypatch.setattr(cron, "_process_names", lambda: iter(processes))

    [found] = doctor._cron(unasked, unasked)

    assert (found.state, found.found, found.next_command) == (state, said, following)
