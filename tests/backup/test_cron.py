"""backup.cron: the block, idempotence, and a real cron that fires."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from conche.backup.cron import block, without_block
from conche.backup.schedule import next_runs
from conche.backup.site import Site
from conche.backup.target import Target
from conche.backup.timers import units
from conche.stack import parse
from tests.backup.checkouts import Checkout
from tests.stacks import ROOT

SPACE = """\
set -eu
mount -t tmpfs none /run
mount -t tmpfs none /var/spool/cron
mkdir -m 1730 /var/spool/cron/crontabs
chgrp crontab /var/spool/cron/crontabs
exec "$@"
"""
"""A crontab and a /run/crond.pid of one's own: nobody else's is touched."""


def isolated(*argv: str) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", SPACE, "sh", *argv]


def has_cron() -> bool:
    able = os.geteuid() == 0 and all(shutil.which(name) for name in ("crontab", "cron", "unshare"))
    return able and subprocess.run(isolated("true"), check=False, capture_output=True).returncode == 0


needs_cron = pytest.mark.skipif(not has_cron(), reason="needs root, cron and unshare")

LINES = ["# mine", "MAILTO=me@example.org", "", "5 4 * * * /usr/local/bin/mine --with='50%'"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    stack = parse(
        "name: choc-factory\nregistry: localhost:5000\n"
        "backup: {components: {a: {driver: secrets}}, schedule: {daily: '15 1 * * 1,3'}}\n"
        "environments: {dev: {compose: [x.yaml]}}"
    )
    assert stack.backup is not None
    folder = tmp_path / "with space 50% $(touch x)"
    return Site(folder, stack, stack.backup, Target(tmp_path / "target", "choc-factory"), lambda _: None)


def test_the_block_stands_by_itself_and_can_be_found(site: Site) -> None:
    lines = block(site)

    assert all("CHOC_FACTORY" in line for line in lines)
    assert lines[1].startswith("15 1 * * 1,3 cd '")
    assert "50\\%" in lines[1]
    assert sys.executable in lines[1]
    assert [line.split(" cd ")[0] for line in lines[2:-1]] == [
        "0 3 * * 0", "0 4 1 * *", "30 5 * * 0", "7-59/15 * * * *", "@reboot",
    ]  # fmt: skip


def test_what_is_not_ours_stays(site: Site) -> None:
    there = [*LINES[:2], *block(site), *LINES[2:]]

    assert without_block(site, there) == LINES
    assert without_block(site, LINES) == LINES
    assert without_block(site, [*block(site)[:-1], *LINES]) == LINES
    assert without_block(site, without_block(site, there) + block(site)) == LINES


def test_the_next_runs_follow_the_schedule(site: Site) -> None:
    runs = dict(next_runs(site, datetime(2026, 3, 3, 12, tzinfo=UTC), UTC))

    assert runs["daily"] == datetime(2026, 3, 4, 1, 15, tzinfo=UTC)
    assert runs["weekly"] == datetime(2026, 3, 8, 3, 0, tzinfo=UTC)
    assert runs["monthly"] == datetime(2026, 4, 1, 4, 0, tzinfo=UTC)


def test_there_is_a_timer_and_a_service_for_each_entry(site: Site) -> None:
    made = units(site)

    assert {name.removeprefix("choc-factory-backup-") for name in made} == {
        f"{entry}.{kind}"
        for entry in ("daily", "weekly", "monthly", "drill", "catch-up", "reboot")
        for kind in ("timer", "service")
    }
    assert "OnCalendar=Mon,Wed *-*-* 1:15:00\nPersistent=true" in made["choc-factory-backup-daily.timer"]
    assert "50%%" in made["choc-factory-backup-daily.service"]


@pytest.mark.process
@needs_cron
def test_install_is_idempotent_and_uninstall_leaves_the_others(tmp_path: Path) -> None:
    checkout = Checkout.create(tmp_path)
    script = tmp_path / "script"
    script.write_text(
        "set -eu\nprintf '5 4 * * * mine\\n' | crontab -\n"
        'i() { PY -m invoke backup.cron "$@"; }\n'
        "i status && exit 9 || test $? = 1\n"
        "i install; crontab -l > OUT/one; i install; crontab -l > OUT/two; i status\n"
        "crontab -l | grep -c FACTORY > OUT/count\n"
        "crontab -l | sed '/ monthly/d' | crontab -; i status && exit 9 || test $? = 1\n"
        "i install; crontab -l > OUT/three; i uninstall; crontab -l > OUT/four; i uninstall\n".replace(
            "PY", shlex.quote(sys.executable)
        ).replace("OUT", shlex.quote(str(tmp_path)))
    )

    runtime = tmp_path / ("longer-than-crontab-reads-" * 4)
    runtime.mkdir(mode=0o700)

    done = subprocess.run(
        isolated("sh", str(script)), cwd=checkout.folder, capture_output=True, text=True, check=False,
        env={**checkout.environment(), "XDG_RUNTIME_DIR": str(runtime)},
    )  # fmt: skip

    one, two, three, four = ((tmp_path / name).read_text() for name in ("one", "two", "three", "four"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert one == two == three
    assert one.startswith("5 4 * * * mine\n")
    assert four == "5 4 * * * mine\n"
    assert int((tmp_path / "count").read_text()) == 8


@pytest.mark.process
@needs_cron
@pytest.mark.parametrize(
    "locale", [{}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}], ids=["UTF-8", "ASCII"]
)
def test_every_byte_of_the_other_lines_stays(tmp_path: Path, locale: dict[str, str]) -> None:
    checkout = Checkout.create(tmp_path / "Fabrik für Süßes")
    others = b"# J\xfcrgen's, a form\x0cfeed and a line\xe2\x80\xa8separator\n5 4 * * * echo 'f\xc3\xbcnf'\n"
    (tmp_path / "others").write_bytes(others)
    python = shlex.quote(sys.executable)
    script = (
        'crontab "$1/others"; "$2" -m invoke backup.cron install; crontab -l >"$1/with"; '
        '"$2" -m invoke backup.cron uninstall; crontab -l >"$1/without"'
    )

    done = subprocess.run(
        isolated("sh", "-euc", script, "sh", str(tmp_path), sys.executable),
        cwd=checkout.folder, env={**checkout.environment(), **locale}, capture_output=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    written = (tmp_path / "with").read_bytes()
    assert written.startswith(others)
    assert f"cd '{checkout.folder}' &&".encode() in written
    assert f"{python} -m invoke backup.create".encode() in written
    assert (tmp_path / "without").read_bytes() == others


@pytest.mark.process
@needs_cron
def test_a_real_cron_makes_the_backup(tmp_path: Path) -> None:
    checkout = Checkout.create(tmp_path)
    log = checkout.folder / "logs/backup-daily.log"
    told = Event()

    class Pinged(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if self.path == "/here":
                told.set()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Pinged) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/here"
        checkout.replace("stack.yaml", "backup:\n", "backup:\n  ping: ping_url\n  schedule: {daily: '* * * * *'}\n")
        assert checkout.invoke("secrets.set", "ping_url", stdin=url).returncode == 0
        # cron hands on no PYTHONPATH, as nobody's login does: a checkout finds the toolkit by an installed package.
        checkout.write(
            "tasks.py", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + (checkout.folder / "tasks.py").read_text()
        )
        argv = isolated("sh", "-c", f"{shlex.quote(sys.executable)} -m invoke backup.cron install && exec cron -f")
        with subprocess.Popen(argv, cwd=checkout.folder, env=checkout.environment(), stdout=subprocess.DEVNULL) as cron:
            came = told.wait(600)
            # Before the next minute begins; what it has started goes on.
            cron.terminate()
            # The ping is sent before the backup has said its last word.
            end = time.monotonic() + 300
            while came and "verified" not in log.read_text() and time.monotonic() < end:
                pass
        server.shutdown()

    assert came, log.read_text()
    assert checkout.backups()
    assert "verified" in log.read_text()
    assert checkout.invoke("backup.verify").returncode == 0
