"""secrets.edit with editors that do what editors do, and secrets.merge through git itself."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conche import mountinfo
from conche.secret import Secret
from conche.secrets import edit
from conche.secrets.merge import three_way
from conche.vault.values import BACKUP_KEYS
from tests import warm
from tests.secrets.checkouts import Checkout

pytestmark = pytest.mark.process

MEMORY = Path("/dev/shm")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout.create(tmp_path / "checkout")
    made.put("alpha", "one")
    made.put("beta", "two")
    made.commit("values")
    return made


@pytest.fixture
def memory() -> Iterator[str]:
    """A runtime folder in memory; empty again afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="conche-test-", dir=MEMORY))
    yield str(folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()


def editor(folder: Path, script: str) -> str:
    path = folder / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return shlex.quote(str(path))


def test_only_what_was_edited_is_written(checkout: Checkout, memory: str, tmp_path: Path) -> None:
    change = editor(tmp_path, "sed -i 's/one/uno $HOME/' \"$1\"")

    done = checkout.invoke("secrets.edit", EDITOR=change, XDG_RUNTIME_DIR=memory)

    assert done.returncode == 0, done.stderr
    assert "changed: alpha\n" in done.stdout
    assert (checkout.value("alpha"), checkout.value("beta")) == ("uno $HOME", "two")
    assert "uno" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 3", "editor-failed"),
        (': > "$1"', "edit-empty"),
        ('echo "a: [" > "$1"', "edit-not-yaml"),
        ('echo "- a" > "$1"', "edit-empty"),
        ('echo "alpha: {b: c}" > "$1"', "edit-not-flat"),
        ('printf "alpha: a\\nalpha: b\\n" > "$1"', "edit-not-flat"),
        ('echo "sops: x" > "$1"', "edit-not-flat"),
        ('echo "new_one: x" >> "$1"', "confirmation-needed"),
        ("sed -i '/two/d;/gamma/d' \"$1\"", "confirmation-needed"),
    ],
)
def test_what_cannot_be_written_is_refused_and_the_file_stays(
    checkout: Checkout, memory: str, tmp_path: Path, script: str, code: str
) -> None:
    before = (checkout.folder / "secrets.enc.yaml").read_bytes()

    refused = checkout.invoke("secrets.edit", EDITOR=editor(tmp_path, script), XDG_RUNTIME_DIR=memory)

    assert refused.returncode == 2
    assert f"[{code}]" in refused.stderr
    assert (checkout.folder / "secrets.enc.yaml").read_bytes() == before


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.from_regex("[a-r][a-z0-9]{0,5}", fullmatch=True), st.text(), min_size=1, max_size=3))
@example({"a": "\x85", "b": "\u2028\u2029", "c": "\r\n", "d": "'\"$ # : - |", "e": "0x1f", "f": " x ", "g": "\ufeff"})
def test_a_value_that_nobody_touches_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "edited.yaml"
    secrets = {name: Secret(value) for name, value in values.items()}

    file.write_text(edit._written(secrets), encoding="utf-8")

    assert edit._read(file) == secrets


@pytest.mark.parametrize(
    ("kind", "folder", "held"),
    [
        ("tmpfs", "my memory/conche", True),
        ("tmpfs", "my", False),
        ("ext4", "my memory", False),
        ("ramfs", "linked", True),
    ],
)
def test_memory_is_known_by_the_mount_whatever_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, folder: str, held: bool
) -> None:
    place = tmp_path / "my memory"
    place.mkdir()
    (tmp_path / "linked").symlink_to(place)
    escaped = str(place).replace(" ", r"\040")
    table = tmp_path / "mountinfo"
    table.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / {escaped} rw - {kind} none rw\n")
    monkeypatch.setattr(mountinfo, "MOUNTINFO", table)

    assert edit._in_memory(tmp_path / folder) is held


def test_an_editor_that_changes_nothing_changes_nothing(checkout: Checkout, memory: str) -> None:
    done = checkout.invoke("secrets.edit", EDITOR="true", XDG_RUNTIME_DIR=memory)

    assert done.returncode == 0
    said, hint = done.stdout.splitlines()
    assert said == "Nothing was changed."
    assert 'EDITOR="code --wait"' in hint


def test_an_editor_that_does_not_wait_finds_no_file_and_changes_nothing(
    checkout: Checkout, memory: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    os.mkfifo(tmp_path / "result")
    later = f"read -r _ < '{tmp_path}/gate'; (echo 'alpha: late' > \"$1\") 2>/dev/null; echo $? > '{tmp_path}/result'"
    leaving = editor(tmp_path, f'sh -c {shlex.quote(later)} sh "$1" </dev/null >/dev/null 2>&1 &')

    done = checkout.invoke("secrets.edit", EDITOR=leaving, XDG_RUNTIME_DIR=memory)

    assert "code --wait" in done.stdout
    (tmp_path / "gate").write_text("go\n")
    assert (tmp_path / "result").read_text() != "0\n"
    assert checkout.value("alpha") == "one"


def test_without_a_runtime_folder_shared_memory_is_used(checkout: Checkout, tmp_path: Path) -> None:
    """As in a container, or after `su`."""
    seen = editor(tmp_path, f"stat -f -c %T \"$1\" > '{tmp_path}/type'; echo \"$1\" > '{tmp_path}/place'")

    done = checkout.invoke("secrets.edit", EDITOR=seen, XDG_RUNTIME_DIR="")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "type").read_text() == "tmpfs\n"
    place = Path((tmp_path / "place").read_text().strip())
    assert place.is_relative_to("/dev/shm")
    assert not place.parent.exists()


def test_plaintext_is_not_put_on_a_disk(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir(mode=0o700)

    refused = checkout.invoke("secrets.edit", EDITOR="true", XDG_RUNTIME_DIR=str(tmp_path / "runtime"))

    assert refused.returncode == 2
    assert "[folder-on-disk]" in refused.stderr


@pytest.mark.parametrize("group", [False, True], ids=["command", "group"])
def test_a_kill_while_the_editor_is_open_leaves_no_plaintext(
    checkout: Checkout, memory: str, tmp_path: Path, group: bool
) -> None:
    os.mkfifo(tmp_path / "opened")
    waiting = editor(tmp_path, f'echo "$$ $1" > "{tmp_path}/opened"; exec tail -f /dev/null')
    with warm.Popen[bytes](
        [sys.executable, "-m", "invoke", "secrets.edit"],
        cwd=checkout.folder,
        env=checkout.environment(EDITOR=waiting, XDG_RUNTIME_DIR=memory),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as command:
        process, _, file = (tmp_path / "opened").read_text().strip().partition(" ")
        assert "one" in Path(file).read_text()
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        ending = [os.pidfd_open(int(child)) for child in children]
        assert process in children

        (os.killpg if group else os.kill)(command.pid, signal.SIGKILL)

    for child in ending:
        assert select.select([child], [], [], 300)[0], "the editor or the watcher goes on"
        os.close(child)
    assert not Path(file).parent.exists()


def test_what_even_the_watcher_could_not_remove_is_removed_by_any_next_command(checkout: Checkout, memory: str) -> None:
    left = Path(memory) / "conche/conche-private-left"
    left.mkdir(parents=True)
    (left / "secrets.yaml").write_text("plain")

    checkout.invoke("env.config", XDG_RUNTIME_DIR=memory)

    assert not left.exists()


def test_git_merges_two_branches_that_changed_different_secrets(checkout: Checkout) -> None:
    _switch_on(checkout)
    checkout.git("switch", "--create", "other")
    checkout.put("beta", "changed there")
    checkout.commit("there")
    checkout.git("switch", "main")
    checkout.put("alpha", "changed here")
    checkout.commit("here")

    merged = checkout.git("merge", "other", "--no-edit")

    assert merged.returncode == 0, merged.stdout + merged.stderr
    assert (checkout.value("alpha"), checkout.value("beta")) == ("changed here", "changed there")


def test_a_secret_that_both_changed_is_a_conflict_by_name(checkout: Checkout) -> None:
    _switch_on(checkout)
    checkout.git("switch", "--create", "other")
    checkout.put("beta", "changed there")
    checkout.commit("there")
    checkout.git("switch", "main")
    checkout.put("beta", "changed here")
    checkout.commit("here")

    merged = checkout.git("merge", "other", "--no-edit")

    assert merged.returncode != 0
    assert "Both sides changed beta" in merged.stdout + merged.stderr
    assert "changed there" not in merged.stdout + merged.stderr
    assert checkout.value("beta") == "changed here"


def _switch_on(checkout: Checkout) -> None:
    checkout.git("config", "merge.sops.driver", "invoke secrets.merge %O %A %B")
    (checkout.folder / ".gitattributes").write_text("secrets.enc.yaml merge=sops\n")
    checkout.commit("merge driver")


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged", "conflicts"),
    [
        ({"a": "1"}, {"a": "1"}, {"a": "2"}, {"a": "2"}, []),
        ({"a": "1"}, {"a": "2"}, {"a": "1"}, {"a": "2"}, []),
        ({"a": "1"}, {"a": "2"}, {"a": "2"}, {"a": "2"}, []),
        ({"a": "1"}, {"a": "2"}, {"a": "3"}, {"a": "2"}, ["a"]),
        ({"a": "1"}, {}, {"a": "1"}, {}, []),
        ({"a": "1"}, {"a": "1"}, {}, {}, []),
        ({"a": "1"}, {}, {"a": "2"}, {}, ["a"]),
        ({}, {"a": "1"}, {"b": "2"}, {"a": "1", "b": "2"}, []),
        ({}, {"a": "1"}, {"a": "2"}, {"a": "1"}, ["a"]),
        ({}, {BACKUP_KEYS: "1 2"}, {BACKUP_KEYS: "3 2"}, {BACKUP_KEYS: "1 2 3"}, []),
        ({BACKUP_KEYS: "1"}, {BACKUP_KEYS: "2 1"}, {BACKUP_KEYS: "1"}, {BACKUP_KEYS: "2 1"}, []),
        ({BACKUP_KEYS: "1"}, {}, {BACKUP_KEYS: "2 1"}, {}, [BACKUP_KEYS]),
    ],
)
def test_three_versions_merge_name_by_name(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str], merged: dict[str, str], conflicts: list[str]
) -> None:
    def secret(values: dict[str, str]) -> dict[str, Secret]:
        return {name: Secret(value) for name, value in values.items()}

    assert three_way(secret(base), secret(ours), secret(theirs)) == (secret(merged), conflicts)
