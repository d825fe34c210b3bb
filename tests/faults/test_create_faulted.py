"""backup.create and backup.prune, faulted at every durable operation: every backup that is seen verifies."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.backup.checkouts import Checkout, tree
from tests.faults.faulted import ERROR, FULL, KILLS, OWN, SIGNALS, Server, clean, copied, operations, whole

pytestmark = pytest.mark.process


def test_create_and_prune_killed_at_every_operation(server: Server, golden: Checkout, tmp_path: Path) -> None:
    total = operations(server, golden, tmp_path / "run", "backup.create")
    assert len(total) > 60
    old = {folder.name for folder in golden.backups()}
    for at, fault in server.faults(total, KILLS):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, "backup.create", at=at, fault=fault)
        assert code == -signal.SIGKILL, (at, fault, code, server.said)
        whole(checkout)
        visible = {folder.name for folder in checkout.backups()}
        assert len(visible) >= 1
        assert server.run(checkout, "backup.verify") == 0, (at, fault, server.said)
        clean(checkout)
        assert tree(checkout.folder, without=OWN) == tree(golden.folder, without=OWN), (at, fault)
        if at % 8 == 0 or old - visible:
            assert server.run(checkout, "backup.create") == 0, (at, fault, server.said)
            whole(checkout)


@pytest.mark.long
@pytest.mark.parametrize("faults", [FULL, ERROR], ids=["full", "error"])
def test_create_with_an_error_at_every_operation(
    server: Server, golden: Checkout, tmp_path: Path, faults: tuple[str, ...]
) -> None:
    total = operations(server, golden, tmp_path / "run", "backup.create")
    for at, fault in server.faults(total, faults):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, "backup.create", at=at, fault=fault)
        assert "Traceback" not in server.said, (at, fault, server.said)
        assert code in (0, 2, 3), (at, fault, code, server.said)
        whole(checkout)
        assert server.run(checkout, "backup.verify") == 0, (at, fault, server.said)
        clean(checkout)
        if at % 8 == 0:
            assert server.run(checkout, "backup.create") == 0, (at, fault, server.said)


@pytest.mark.long
def test_create_ended_by_a_signal_leaves_nothing(server: Server, golden: Checkout, tmp_path: Path) -> None:
    total = operations(server, golden, tmp_path / "run", "backup.create")
    for at, number in server.faults(total, SIGNALS):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, "backup.create", at=at, fault=number)
        assert code in (0, 128 + getattr(signal, number)), (at, number, code, server.said)
        assert "Traceback" not in server.said
        whole(checkout)
        assert not list((checkout.target / ".store").glob("building-*")), (at, number)


def test_prune_killed_at_every_operation(server: Server, golden: Checkout, tmp_path: Path) -> None:
    total = operations(server, golden, tmp_path / "run", "backup.prune")
    assert len(total) > 5
    for at, fault in server.faults(total, KILLS):
        checkout = copied(golden, tmp_path / "run")
        assert server.run(checkout, "backup.prune", at=at, fault=fault) == -signal.SIGKILL, (at, fault, server.said)
        whole(checkout)
        assert len(checkout.backups()) in (1, 2)
        assert server.run(checkout, "backup.prune") == 0, (at, fault, server.said)
        assert len(checkout.backups()) == 1
        clean(checkout)
