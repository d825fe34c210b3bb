"""The schedule as systemd's timers: units that mean what they should in every path, and no half installation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conche.backup.site import Site
from conche.backup.target import Target
from conche.backup.timers import units
from conche.stack import parse
from tests.backup.checkouts import Checkout

PATHS = [
    "plain", "with space", "a%20b", "a%h b", "100%", "a$HOME", "a${HOME} b", "$(touch x)", "back\\slash", "a\\x20b",
    "end\\", "end ", "quo\"te", "quo'te", "semi;colon", "a#b", "ümläut", "~", "@x", "*",
]  # fmt: skip


def site_of(folder: Path) -> Site:
    stack = parse(
        "name: choc-factory\nregistry: localhost:5000\nbackup: {components: {a: {driver: secrets}}}\n"
        "environments: {dev: {compose: [x.yaml]}}"
    )
    assert stack.backup is not None
    return Site(folder, stack, stack.backup, Target(folder / "target", "choc-factory"), lambda _: None)


def setting(text: str, name: str) -> str:
    """A setting, as systemd.syntax(7) has it: a backslash at a line's end joins lines, white space around is cut."""
    [found] = [line for line in text.replace("\\\n", " ").split("\n") if line.startswith(f"{name}=")]
    return found.partition("=")[2].strip()


def expanded(text: str) -> str:
    """Specifiers, of which only `%%` may be there (systemd.unit(5))."""
    assert "%" not in text.replace("%%", ""), text
    return text.replace("%%", "%")


def words_of(line: str) -> list[str]:
    """A command line, as systemd.syntax(7) takes it apart: quotes, and C's escapes in and outside of them."""
    words, word, quote, signs = [], None, "", iter(line)
    for sign in signs:
        if sign == "\\":
            escaped = next(signs)
            assert escaped in "\\\"'", f"an escape of its own: {escaped}"
            word = (word or "") + escaped
        elif quote:
            word, quote = (word or "") + (sign if sign != quote else ""), "" if sign == quote else quote
        elif sign in "\"'":
            word, quote = word or "", sign
        elif sign == " ":
            words += [word] if word is not None else []
            word = None
        else:
            word = (word or "") + sign
    assert not quote
    return [*words, *([word] if word is not None else [])]


def run_by(line: str) -> list[str]:
    """What is started (systemd.service(5), command lines), by a shell or not."""
    words = [expanded(word) for word in words_of(line)]
    assert all("$" not in word.replace("$$", "") for word in words), words
    # Neither a variable nor a sign that systemd refuses in the path of a program.
    assert not set(words[0]) & set("$\\'\""), words
    words = [word.replace("$$", "$") for word in words]
    return words[4:] if words[:4] == ["/bin/sh", "-c", 'exec "$@"', "sh"] else words


@pytest.mark.parametrize("name", PATHS)
def test_a_unit_means_its_paths_whatever_is_in_them(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    program = folder / "python"
    monkeypatch.setattr(sys, "executable", str(program))

    text = units(site_of(folder))["choc-factory-backup-daily.service"]

    log = str(folder / "logs/backup-daily.log")
    words = [str(program), "-m", "invoke", "backup.create", "daily", "--wait", "7200", "--log", log]
    assert run_by(setting(text, "ExecStart")) == words
    assert expanded(setting(text, "WorkingDirectory")).removesuffix("/.") == str(folder)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units_of_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for number, name in enumerate(PATHS):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "python").symlink_to(shutil.which("true") or "/bin/true")
        monkeypatch.setattr(sys, "executable", str(folder / "python"))
        for unit, text in units(site_of(folder)).items():
            if "daily" in unit:
                file = tmp_path / f"n{number}-{unit}"
                file.write_text(text)
                files.append(str(file))

    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)

    complaints = [line for line in done.stderr.splitlines() if "choc-factory" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


@pytest.mark.process
class TestWithoutCron:
    """A machine with a systemctl and no crontab."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Checkout:
        return Checkout.create(tmp_path)

    def call(
        self, checkout: Checkout, tmp_path: Path, *words: str, bus: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """backup.cron with a systemctl that notes what it is asked, and enables as the real one does."""
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        for name in ("git", "sh", "docker"):
            if (there := shutil.which(name)) and not (programs / name).exists():
                (programs / name).symlink_to(there)
        systemctl = programs / "systemctl"
        systemctl.write_text(
            f"#!{sys.executable}\nimport os, pathlib, sys\n"
            f"sys.exit('Failed to connect to bus') if not {bus} else None\n"
            f"open({str(tmp_path / 'asked')!r}, 'a').write(' '.join(sys.argv[2:]) + chr(10))\n"
            f"place = pathlib.Path({str(self.units(tmp_path))!r}) / 'timers.target.wants'\n"
            "place.mkdir(exist_ok=True, parents=True)\n"
            "if sys.argv[2] == 'enable': [(place / n).symlink_to(place.parent / n) for n in sys.argv[4:]]\n"
            "if sys.argv[2] == 'disable': [(place / n).unlink(missing_ok=True) for n in sys.argv[4:]]\n"
        )
        systemctl.chmod(0o755)
        environment = {**checkout.environment(), "PATH": str(programs), "XDG_CONFIG_HOME": str(tmp_path / "config")}
        argv = [sys.executable, "-m", "invoke", "backup.cron", *words]
        return subprocess.run(
            argv, cwd=checkout.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    def units(self, tmp_path: Path) -> Path:
        return tmp_path / "config/systemd/user"

    def left(self, tmp_path: Path) -> list[str]:
        place = self.units(tmp_path)
        return sorted(path.name for path in place.rglob("*-backup-*")) if place.exists() else []

    def test_without_a_session_nothing_is_written_and_cron_is_named(self, checkout: Checkout, tmp_path: Path) -> None:
        done = self.call(checkout, tmp_path, "install", bus=False)

        assert done.returncode == 9
        assert "[no-user-systemd]" in done.stderr
        assert "sudo apt-get install cron" in done.stderr
        assert self.left(tmp_path) == []
        assert self.call(checkout, tmp_path, "status", bus=False).returncode == 1
        gone = self.call(checkout, tmp_path, "uninstall", bus=False)
        assert (gone.returncode, gone.stdout) == (0, "Nothing to do.\n")

    def test_timers_are_installed_only_once_they_are_enabled(self, checkout: Checkout, tmp_path: Path) -> None:
        assert self.call(checkout, tmp_path, "install").returncode == 0
        assert self.call(checkout, tmp_path, "status").returncode == 0

        for link in (self.units(tmp_path) / "timers.target.wants").iterdir():
            link.unlink()

        assert self.call(checkout, tmp_path, "status").returncode == 1

    @pytest.mark.parametrize("bus", [True, False])
    def test_uninstall_leaves_nothing_with_a_session_and_without(
        self, checkout: Checkout, tmp_path: Path, bus: bool
    ) -> None:
        assert self.call(checkout, tmp_path, "install").returncode == 0
        assert len(self.left(tmp_path)) == 18

        assert self.call(checkout, tmp_path, "uninstall", bus=bus).returncode == 0

        assert self.left(tmp_path) == []

    @pytest.mark.parametrize("action", ["install", "uninstall"])
    def test_with_cron_the_timers_of_before_go(self, checkout: Checkout, tmp_path: Path, action: str) -> None:
        assert self.call(checkout, tmp_path, "install").returncode == 0
        crontab = tmp_path / "programs/crontab"
        crontab.write_text(
            f"#!{sys.executable}\nimport pathlib, sys\nkept = pathlib.Path({str(tmp_path / 'crontab')!r})\n"
            "if sys.argv[1] == '-l': sys.stdout.write(kept.read_text() if kept.exists() else '')\n"
            "else: kept.write_text(pathlib.Path(sys.argv[1]).read_text())\n"
        )
        crontab.chmod(0o755)

        done = self.call(checkout, tmp_path, action)

        assert done.returncode == 0, done.stderr
        assert self.left(tmp_path) == []
        assert ((tmp_path / "crontab").exists() and "backup.create" in (tmp_path / "crontab").read_text()) == (
            action == "install"
        )


@pytest.mark.process
def test_a_path_that_no_schedule_can_hold_is_refused(tmp_path: Path) -> None:
    checkout = Checkout.create(tmp_path / "a\nb")

    done = checkout.invoke("backup.cron", "install", "--json")

    assert json.loads(done.stdout)["error"]["code"] == "path-not-schedulable", done.stderr
    assert os.fspath(checkout.folder).count("\n") == 1
