"""backup.restore of files, faulted at every durable operation: what was there or what was asked for."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.backup.checkouts import Checkout, tree
from tests.faults.faulted import COMPONENTS, ERROR, FULL, KILLS, OWN, Server, clean, copied, operations, whole

pytestmark = pytest.mark.process


def test_restore_killed_at_every_operation_is_whole_or_taken_back(
    server: Server, golden: Checkout, tmp_path: Path
) -> None:
    newest = max(golden.backups(), key=lambda path: path.name).name
    restored = tree(golden.folder, without=OWN)
    golden.write("src/app/main.py", "print('later')\n")
    golden.write("models/later.pkl", "later")
    golden.write("src/later/.env", "TOKEN=later\n")
    before = tree(golden.folder, without=OWN)
    words = ("backup.restore", newest, "--force", *COMPONENTS)
    total = operations(server, golden, tmp_path / "run", *words)
    carried = {"src/later": before["src/later"], "src/later/.env": before["src/later/.env"]}
    after = tree(tmp_path / "run/factory", without=OWN)
    assert len(total) > 30
    assert after == {**restored, **carried}
    seen = set()
    for at, fault in server.faults(total, KILLS):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, *words, at=at, fault=fault)
        assert code == -signal.SIGKILL, (at, fault, code, server.said)
        whole(checkout)
        assert server.run(checkout, "backup.verify") == 0, (at, fault, server.said)
        clean(checkout)
        found = tree(checkout.folder, without=OWN)
        assert found in (before, after), (at, fault, {n for n in found if found.get(n) != before.get(n)})
        seen.add("after" if found == after else "before")
        if at % 8 == 0:
            assert server.run(checkout, *words) == 0, (at, fault, server.said)
            assert tree(checkout.folder, without=OWN) == after
    assert seen == {"before", "after"}


@pytest.mark.parametrize(
    "faults",
    [FULL, *(pytest.param(faults, marks=pytest.mark.long) for faults in (ERROR, ("SIGTERM",)))],
    ids=["full", "error", "signal"],
)
def test_restore_with_an_error_at_every_operation_is_taken_back(
    server: Server, golden: Checkout, tmp_path: Path, faults: tuple[str, ...]
) -> None:
    newest = max(golden.backups(), key=lambda path: path.name).name
    golden.write("src/app/main.py", "print('later')\n")
    golden.write("models/later.pkl", "later")
    before = tree(golden.folder, without=OWN)
    words = ("backup.restore", newest, "--force", *COMPONENTS)
    total = operations(server, golden, tmp_path / "run", *words)
    after = tree(tmp_path / "run/factory", without=OWN)
    for at, fault in server.faults(total, faults):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, *words, at=at, fault=fault)
        assert "Traceback" not in server.said, (at, fault, server.said)
        assert code in (0, 2, 4, 5, 143), (at, fault, code, server.said)
        healed = server.run(checkout, "backup.verify")
        assert healed == 0, (at, fault, server.said)
        clean(checkout)
        found = tree(checkout.folder, without=OWN)
        assert found in (before, after), (at, fault, code, {n for n in found if found.get(n) != before.get(n)})
        assert code != 4 or found == before
