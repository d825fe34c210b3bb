"""backup.undo, faulted at every durable operation: what was there or what had been put aside, and nothing between."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.backup.checkouts import Checkout, tree
from tests.faults.faulted import COMPONENTS, ERROR, KILLS, OWN, Server, clean, copied, operations

pytestmark = pytest.mark.process


@pytest.mark.parametrize("faults", [KILLS, pytest.param(ERROR, marks=pytest.mark.long)], ids=["killed", "error"])
def test_undo_faulted_at_every_operation_is_whole_or_taken_back(
    server: Server, golden: Checkout, tmp_path: Path, faults: tuple[str, ...]
) -> None:
    newest = max(golden.backups(), key=lambda path: path.name).name
    restored = copied(golden, tmp_path / "run")
    shutil.rmtree(restored.folder / "scripts")
    restored.write("src/app/main.py", "print('later')\n")
    restored.write("models/later.pkl", "later")
    after = tree(restored.folder, without=OWN)
    assert server.run(restored, "backup.restore", newest, "--force", *COMPONENTS) == 0, server.said
    restored.write("src/app/.env", "TOKEN=later\n")
    before = tree(restored.folder, without=OWN)
    after["src/app/.env"] = before["src/app/.env"]
    # Its records name its place, so it is always looked at in the same one.
    golden = Checkout(Path(shutil.copytree(tmp_path / "run", tmp_path / "kept", symlinks=True)) / "factory", tmp_path)
    total = operations(server, golden, tmp_path / "run", "backup.undo", "--force")
    assert len(total) > 25
    assert tree(tmp_path / "run/factory", without=OWN) == after
    codes = (0, 2, 4, 5) if faults == ERROR else (-signal.SIGKILL,)
    seen = set()
    for at, fault in server.faults(total, faults):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, "backup.undo", "--force", at=at, fault=fault)
        assert code in codes, (at, fault, code, server.said)
        assert server.run(checkout, "backup.verify") == 0, (at, fault, server.said)
        clean(checkout)
        found = tree(checkout.folder, without=OWN)
        assert found in (before, after), (at, fault, {n for n in found if found.get(n) != before.get(n)})
        seen.add(found == after)
        if at % 5 == 0:  # whichever it is, the other one is put aside
            assert server.run(checkout, "backup.undo", "--force") == 0, (at, fault, server.said)
            assert tree(checkout.folder, without=OWN) == (before if found == after else after), (at, fault)
    assert True in seen
    assert False in seen
