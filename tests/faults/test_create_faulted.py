"""backup.create and backup.prune, faulted at every durable operation: every backup that is seen verifies."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from conche.files import state_folder
from tests.backup.checkouts import Checkout, tree
from tests.faults.faulted import ERROR, FULL, KILLS, OWN, SIGNALS, Server, clean, copied, operations, whole

pytestmark = pytest.mark.process


@dataclass
class Remembered:
    """A checkout with a third backup, some of which is unchanged since, and what is remembered of that backup."""

    checkout: Checkout
    memory: Path
    content: bytes

    def copied(self, folder: Path) -> Checkout:
        self.memory.write_bytes(self.content)
        return copied(self.checkout, folder)


@pytest.fixture
def remembered(server: Server, golden: Checkout, tmp_path: Path) -> Remembered:
    server.copies = True
    operations(server, golden, tmp_path / "run", "backup.create")
    made = Checkout(Path(shutil.copytree(tmp_path / "run", tmp_path / "kept", symlinks=True)) / "factory", tmp_path)
    shutil.copy(tmp_path / "run/recovery.key", tmp_path)
    made.write("src/app/main.py", "print('later')\n")
    made.write("models/later.pkl", "later")
    memory = max(state_folder().glob("factory/unchanged-*.json"), key=lambda path: path.stat().st_mtime_ns)
    return Remembered(made, memory, memory.read_bytes())


def verified(folder: Path) -> str:
    """When the files of a backup were last found to be what they should."""
    said: str = json.loads((folder.parents[1] / f".store/records/{folder.name}.json").read_text())["verified"]
    return said


def test_create_and_prune_killed_at_every_operation(server: Server, remembered: Remembered, tmp_path: Path) -> None:
    """Some of the backup is taken over from the one before without being read, and some is read."""
    golden = remembered.checkout
    total = operations(server, golden, tmp_path / "run", "backup.create")
    assert len(total) > 60
    newest = max((tmp_path / "run/factory-backups/daily").iterdir(), key=lambda path: path.name)
    before = max(golden.backups(), key=lambda path: path.name)
    assert verified(newest) == verified(before)
    assert (newest / "models/later.pkl").read_text() == "later"
    assert not (before / "models/later.pkl").exists()
    old = {folder.name for folder in golden.backups()}
    for at, fault in server.faults(total, KILLS):
        checkout = remembered.copied(tmp_path / "run")
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
