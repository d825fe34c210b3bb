"""backup.*: a fault at every durable operation. Every visible backup verifies, nothing half done stays, all goes on."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from conche.backup import manifest
from conche.backup.influx import BEGINNING
from conche.backup.verify import check
from conche.engine.connection import Engine
from tests import warm
from tests.backup.checkouts import Checkout, tree
from tests.backup.databases import Database
from tests.backup.test_cron import LINES, isolated, needs_cron
from tests.backup.test_prune import aged
from tests.stacks import ROOT, SmallStack

pytestmark = pytest.mark.process

OWN = (".backup", "logs")


@dataclass
class Server:
    """Runs tasks of a checkout, faulted."""

    scratch: Path
    warm: warm.Server

    def run(self, checkout: Checkout, *words: str, at: int = 0, fault: str = "none") -> int:
        """The exit code of a task; minus the signal that ended it."""
        told = {"at": at, "fault": fault, "count": str(self.scratch / "count")}
        with (self.scratch / "log").open("wb") as log:
            return warm.Popen[bytes](
                [sys.executable, "-m", "invoke", *words],
                cwd=checkout.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                before="tests.faults.counting:install", told=told, server=self.warm,
            ).wait()  # fmt: skip

    @property
    def said(self) -> str:
        return (self.scratch / "log").read_text()

    @property
    def count(self) -> int:
        return int((self.scratch / "count").read_text())


@pytest.fixture
def server(tmp_path: Path) -> Server:
    (tmp_path / "scratch").mkdir()
    return Server(tmp_path / "scratch", warm.shared)


@pytest.fixture(scope="module")
def cron_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that has its own mount of /var/spool/cron."""
    own = warm.Server(isolated())
    yield Server(tmp_path_factory.mktemp("scratch"), own)
    own.close()


@pytest.fixture
def golden(tmp_path: Path) -> Checkout:
    """A small checkout with two backups, the older one of which retention would not keep."""
    made = Checkout.create(tmp_path / "golden")
    made.write("src/big.bin", "x" * 5000)
    made.replace("stack.yaml", "backup:\n", "backup:\n  retention: {daily: {days: 7, least: 1}}\n")
    aged(made.create_backup(), 20)
    aged(made.create_backup(), 10)
    assert made.invoke("backup.verify").returncode == 0
    return made


def copied(golden: Checkout, folder: Path) -> Checkout:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(golden.folder.parent, folder, symlinks=True)
    return Checkout(folder / "factory", folder / "recovery.key")


def whole(checkout: Checkout) -> None:
    """Every backup that can be seen is what its manifest says."""
    for folder in checkout.backups():
        assert check(folder, manifest.read(folder)) == [], folder


def clean(checkout: Checkout) -> None:
    """Nothing half done is left after the next command."""
    left = [path.name for path in (checkout.target / ".store").iterdir()]
    assert sorted(left) == ["backup.lock", "records"], left
    kept = {path.name for path in (checkout.folder / ".backup").glob("pre-restore-*")}
    own = [path.name for path in (checkout.folder / ".backup").glob("*") if path.name not in kept]
    own = [name for name in own if not (kept and (name == "aside.json" or name.startswith("restored-")))]
    assert own in ([], [".gitignore"])


def operations(server: Server, golden: Checkout, folder: Path, *words: str) -> int:
    checkout = copied(golden, folder)
    assert server.run(checkout, *words) == 0, server.said
    return server.count


@pytest.mark.parametrize("fault", ["before", "after"])
def test_create_and_prune_killed_at_every_operation(
    server: Server, golden: Checkout, tmp_path: Path, fault: str
) -> None:
    total = operations(server, golden, tmp_path / "run", "backup.create")
    assert total > 60
    old = {folder.name for folder in golden.backups()}
    for at in range(1, total + 1):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, "backup.create", at=at, fault=fault)
        assert code == -signal.SIGKILL, (at, code, server.said)
        whole(checkout)
        visible = {folder.name for folder in checkout.backups()}
        assert len(visible) >= 1
        assert server.run(checkout, "backup.verify") == 0, (at, server.said)
        clean(checkout)
        assert tree(checkout.folder, without=OWN) == tree(golden.folder, without=OWN), at
        if at % 8 == 0 or old - visible:
            assert server.run(checkout, "backup.create") == 0, (at, server.said)
            whole(checkout)


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "EROFS", "EDQUOT"])
def test_create_with_an_error_at_every_operation(server: Server, golden: Checkout, tmp_path: Path, fault: str) -> None:
    total = operations(server, golden, tmp_path / "run", "backup.create")
    for at in range(1, total + 1):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, "backup.create", at=at, fault=fault)
        assert "Traceback" not in server.said, (at, server.said)
        assert code in (0, 2, 3), (at, code, server.said)
        whole(checkout)
        assert server.run(checkout, "backup.verify") == 0, (at, server.said)
        clean(checkout)
        if at % 8 == 0:
            assert server.run(checkout, "backup.create") == 0, (at, server.said)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_create_ended_by_a_signal_leaves_nothing(server: Server, golden: Checkout, tmp_path: Path, number: str) -> None:
    total = operations(server, golden, tmp_path / "run", "backup.create")
    for at in range(1, total + 1):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, "backup.create", at=at, fault=number)
        assert code in (0, 128 + getattr(signal, number)), (at, code, server.said)
        assert "Traceback" not in server.said
        whole(checkout)
        assert not list((checkout.target / ".store").glob("building-*")), at


@pytest.mark.parametrize("fault", ["before", "after"])
def test_restore_killed_at_every_operation_is_whole_or_taken_back(
    server: Server, golden: Checkout, tmp_path: Path, fault: str
) -> None:
    newest = max(golden.backups(), key=lambda path: path.name).name
    restored = tree(golden.folder, without=OWN)
    golden.write("src/app/main.py", "print('later')\n")
    golden.write("models/later.pkl", "later")
    golden.write("src/later/.env", "TOKEN=later\n")
    before = tree(golden.folder, without=OWN)
    words = ("backup.restore", newest, "--force", *(f"--component={name}" for name in ("models", "code", "config")))
    total = operations(server, golden, tmp_path / "run", *words)
    carried = {"src/later": before["src/later"], "src/later/.env": before["src/later/.env"]}
    after = tree(tmp_path / "run/factory", without=OWN)
    assert total > 30
    assert after == {**restored, **carried}
    seen = set()
    for at in range(1, total + 1):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, *words, at=at, fault=fault)
        assert code == -signal.SIGKILL, (at, code, server.said)
        whole(checkout)
        assert server.run(checkout, "backup.verify") == 0, (at, server.said)
        clean(checkout)
        found = tree(checkout.folder, without=OWN)
        assert found in (before, after), (at, {n for n in found if found.get(n) != before.get(n)})
        seen.add("after" if found == after else "before")
        if at % 8 == 0:
            assert server.run(checkout, *words) == 0, (at, server.said)
            assert tree(checkout.folder, without=OWN) == after
    assert seen == {"before", "after"}


@pytest.mark.parametrize("fault", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "SIGTERM"])
def test_restore_with_an_error_at_every_operation_is_taken_back(
    server: Server, golden: Checkout, tmp_path: Path, fault: str
) -> None:
    newest = max(golden.backups(), key=lambda path: path.name).name
    golden.write("src/app/main.py", "print('later')\n")
    golden.write("models/later.pkl", "later")
    before = tree(golden.folder, without=OWN)
    words = ("backup.restore", newest, "--force", *(f"--component={name}" for name in ("models", "code", "config")))
    total = operations(server, golden, tmp_path / "run", *words)
    after = tree(tmp_path / "run/factory", without=OWN)
    for at in range(1, total + 1):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, *words, at=at, fault=fault)
        assert "Traceback" not in server.said, (at, server.said)
        assert code in (0, 2, 4, 5, 143), (at, code, server.said)
        healed = server.run(checkout, "backup.verify")
        assert healed == 0, (at, server.said)
        clean(checkout)
        found = tree(checkout.folder, without=OWN)
        assert found in (before, after), (at, code, {n for n in found if found.get(n) != before.get(n)})
        assert code != 4 or found == before


@pytest.mark.parametrize("fault", ["before", "after", "EIO"])
def test_undo_faulted_at_every_operation_is_whole_or_taken_back(
    server: Server, golden: Checkout, tmp_path: Path, fault: str
) -> None:
    newest = max(golden.backups(), key=lambda path: path.name).name
    restored = copied(golden, tmp_path / "run")
    shutil.rmtree(restored.folder / "scripts")
    restored.write("src/app/main.py", "print('later')\n")
    restored.write("models/later.pkl", "later")
    after = tree(restored.folder, without=OWN)
    words = ("backup.restore", newest, "--force", *(f"--component={name}" for name in ("models", "code", "config")))
    assert server.run(restored, *words) == 0, server.said
    restored.write("src/app/.env", "TOKEN=later\n")
    before = tree(restored.folder, without=OWN)
    after["src/app/.env"] = before["src/app/.env"]
    # Its records name its place, so it is always looked at in the same one.
    golden = Checkout(Path(shutil.copytree(tmp_path / "run", tmp_path / "kept", symlinks=True)) / "factory", tmp_path)
    total = operations(server, golden, tmp_path / "run", "backup.undo", "--force")
    assert total > 25
    assert tree(tmp_path / "run/factory", without=OWN) == after
    seen = set()
    for at in range(1, total + 1):
        checkout = copied(golden, tmp_path / "run")
        code = server.run(checkout, "backup.undo", "--force", at=at, fault=fault)
        assert code in ((0, 2, 4, 5) if fault == "EIO" else (-signal.SIGKILL,)), (at, code, server.said)
        assert server.run(checkout, "backup.verify") == 0, (at, server.said)
        clean(checkout)
        found = tree(checkout.folder, without=OWN)
        assert found in (before, after), (at, {n for n in found if found.get(n) != before.get(n)})
        seen.add(found == after)
        if at % 5 == 0:  # whichever it is, the other one is put aside
            assert server.run(checkout, "backup.undo", "--force") == 0, (at, server.said)
            assert tree(checkout.folder, without=OWN) == (before if found == after else after), at
    assert True in seen
    assert False in seen


@pytest.mark.parametrize("fault", ["before", "after"])
def test_prune_killed_at_every_operation(server: Server, golden: Checkout, tmp_path: Path, fault: str) -> None:
    total = operations(server, golden, tmp_path / "run", "backup.prune")
    assert total > 5
    for at in range(1, total + 1):
        checkout = copied(golden, tmp_path / "run")
        assert server.run(checkout, "backup.prune", at=at, fault=fault) == -signal.SIGKILL, (at, server.said)
        whole(checkout)
        assert len(checkout.backups()) in (1, 2)
        assert server.run(checkout, "backup.prune") == 0, (at, server.said)
        assert len(checkout.backups()) == 1
        clean(checkout)


@pytest.mark.engine
@pytest.mark.parametrize("fault", ["before", "after"])
def test_an_online_restore_killed_at_every_operation_is_whole_or_taken_back(
    server: Server, small: SmallStack, engine: Engine, fault: str, request: pytest.FixtureRequest
) -> None:
    # Of some sixty operations, each with a restore that takes a dump twice, every seventh; `nox -s long` takes all.
    stride = 1 if request.config.getoption("--every-step") else 7
    database = Database.create(small, engine)
    checkout = Checkout(small.folder, small.folder / "recovery.key")
    database.write("prices eur=1 1700000000\n")
    words = ("backup.restore", database.backup().name, "--force")
    database.write("prices eur=2 1700000100\n")
    assert server.run(checkout, *words) == 0, server.said
    first = 1 if stride == 1 or fault == "before" else 4
    code, at, seen = -signal.SIGKILL, first - stride, set()
    while code == -signal.SIGKILL:
        at += stride
        if counted(database) == 1:
            database.write("prices eur=2 1700000100\n")
        code = server.run(checkout, *words, at=at, fault=fault)
        assert code in (-signal.SIGKILL, 0), (at, code, server.said)
        assert server.run(checkout, "backup.verify") == 0, (at, server.said)
        assert counted(database) in (1, 2), at
        assert not list((checkout.folder / ".backup").glob("restore-*"))
        seen.add(counted(database))
    assert at > 25
    assert seen == {1, 2}


def counted(database: Database) -> int:
    return database.influx.counts("energy", BEGINNING, datetime(2030, 1, 1, tzinfo=UTC))["prices"]


@needs_cron
@pytest.mark.parametrize("fault", ["before", "after", "ENOSPC", "EIO", "SIGTERM"])
@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_the_crontab_is_the_old_or_the_new_one_whatever_happens(
    cron_server: Server, golden: Checkout, action: str, fault: str
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
    after, total = _lines(table), server.count
    assert before != after
    assert total > 3
    for at in range(1, total + 1):
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
