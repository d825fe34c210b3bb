"""backup.cron, faulted at every durable operation: the crontab is the old one or the new one."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.backup.checkouts import Checkout
from tests.backup.test_cron import LINES, isolated, needs_cron
from tests.faults.faulted import ERROR, KILLS, Server

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def cron_server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    """One that has its own mount of /var/spool/cron."""
    own = warm.Server(isolated())
    yield Server(tmp_path_factory.mktemp("scratch"), own, every=request.config.getoption("--every-step"))
    own.close()


@needs_cron
@pytest.mark.parametrize(
    "faults",
    [KILLS, *(pytest.param(faults, marks=pytest.mark.long) for faults in (("ENOSPC",), ERROR, ("SIGTERM",)))],
    ids=["killed", "full", "error", "signal"],
)
@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_the_crontab_is_the_old_or_the_new_one_whatever_happens(
    cron_server: Server, golden: Checkout, action: str, faults: tuple[str, ...]
) -> None:
    server = cron_server
    assert server.run(golden, "backup.cron", "uninstall") == 0, server.said
    # As that mount is seen from here.
    table = Path(f"/proc/{server.warm.start()}/root/var/spool/cron/crontabs") / getpass.getuser()
    table.unlink(missing_ok=True)
    assert server.run(golden, "backup.cron", "install") == 0, server.said
    installed = _lines(table)
    other = "install" if action == "uninstall" else "uninstall"

    def prepare() -> None:
        assert server.run(golden, "backup.cron", other) == 0, server.said
        table.write_text("".join(f"{line}\n" for line in [*LINES, *_ours(installed, other)]))

    prepare()
    before = _lines(table)
    assert server.run(golden, "backup.cron", action) == 0, server.said
    after, total = _lines(table), server.operations
    assert before != after
    assert len(total) > 3
    for at, fault in server.faults(total, faults):
        prepare()
        code = server.run(golden, "backup.cron", action, at=at, fault=fault)
        assert code != 0 or _lines(table) == after, (at, server.said)
        assert "Traceback" not in server.said, (at, server.said)
        assert _lines(table) in (before, after), (at, fault, _lines(table))
        assert server.run(golden, "backup.cron", action) == 0, (at, server.said)
        assert _lines(table) == after, at


def _lines(table: Path) -> list[str]:
    return [line for line in table.read_text().splitlines() if not line.startswith(("# DO NOT", "# ("))]


def _ours(installed: list[str], action: str) -> list[str]:
    return installed if action == "install" else []
