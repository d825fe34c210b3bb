"""invoke secrets.edit: opens the values in an editor, in memory only, and never leaves a damaged file."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from conche import mountinfo, shallow_yaml
from conche.command import Invocation
from conche.errors import Refused
from conche.files import memory_folder, private_folder
from conche.outcome import Outcome
from conche.output import at_terminal
from conche.process import interact, removed_at_death
from conche.secret import Secret
from conche.vault.encrypted import NAME
from conche.vault.store import Edit, Store
from conche.vault.values import called, open_store

__all__ = ["edit"]

AT_ONCE = 2.0
"""Seconds within which nobody can have edited anything."""

HINT = 'If the editor is still open, it did not wait, and cannot save: set, for example, EDITOR="code --wait".'

QUIET_VIM = ("-n", "-i", "NONE", "-c", "set noundofile")
"""No swap file, no viminfo, no undo file: each would hold the values."""


def edit(call: Invocation, name: str | None, *, allow_disk: bool) -> Outcome:
    """Edit all values, or one; check what is saved, and write only the difference."""
    store = open_store(call.stack, call.root)
    if not at_terminal(sys.stdin) and not os.environ.get("EDITOR"):
        raise Refused(
            "no-terminal",
            "An editor needs a terminal.",
            next_command="invoke secrets.set NAME    # reads standard input",
        )
    before = store.read()
    if name is not None and name not in before:
        raise Refused(
            "no-such-secret",
            f"{store.file.name} has no secret {called(name, before)}",
            next_command="invoke secrets.list",
        )
    shown = before if name is None else {name: before[name]}
    with private_folder(base=memory_folder()) as folder, removed_at_death(folder):
        if not allow_disk and not _in_memory(folder):
            raise Refused(
                "folder-on-disk",
                f"{folder.parent} is on a disk, where deleted plaintext can be recovered.",
                next_command="XDG_RUNTIME_DIR=/dev/shm invoke secrets.edit, or add --allow-disk",
            )
        file = folder / "secrets.yaml"
        file.touch(mode=0o600)
        file.write_text(_written(shown), encoding="utf-8")
        begun = time.monotonic()
        wanted = _edited(call, file)
        at_once = time.monotonic() - begun < AT_ONCE
    change = Edit(
        put={n: value for n, value in wanted.items() if shown.get(n) != value},
        drop=tuple(n for n in shown if n not in wanted),
    )
    outcome = _apply(call, store, change, len(shown))
    return replace(outcome, lines=[*outcome.lines, HINT]) if at_once and not outcome.changed else outcome


def _apply(call: Invocation, store: Store, change: Edit, count: int) -> Outcome:
    assert call.stack.secrets is not None
    undeclared = sorted(change.put.keys() - call.stack.secrets.declared.keys())
    if len(change.drop) * 2 > count or undeclared:
        said = f"{len(change.drop)} of {count} would be removed" if change.drop else ""
        added = f"{', '.join(undeclared)} is not declared in stack.yaml" if undeclared else ""
        call.output.confirm("; ".join(part for part in (said, added) if part) + ".")
    changed = store.change("edit", lambda _: change)
    return Outcome(
        value={"changed": list(changed)},
        changed=bool(changed),
        lines=[f"changed: {', '.join(changed)}" if changed else "Nothing was changed."],
    )


def _edited(call: Invocation, file: Path) -> dict[str, Secret]:
    """Return what the editor saved, once it is valid; on a terminal the user may correct it."""
    while True:
        code = interact([*_editor(), str(file)])
        if code:
            raise Refused("editor-failed", f"The editor exited with {code}; nothing was written.")
        try:
            return _read(file)
        except Refused as wrong:
            if not at_terminal(sys.stdin, sys.stderr):
                raise
            call.output.error(wrong)
            call.output.confirm("What you saved is kept until you answer. Edit it again?")


def _editor() -> list[str]:
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    quiet = QUIET_VIM if Path(words[0]).name in ("vi", "vim", "nvim") else ()
    return [*words, *quiet]


def _read(file: Path) -> dict[str, Secret]:
    try:
        text = file.read_text(encoding="utf-8")
        node = shallow_yaml.compose(text, yaml.BaseLoader)
        loaded = shallow_yaml.load(text, yaml.BaseLoader)
    except UnicodeDecodeError:
        raise Refused("edit-not-yaml", "What was saved is not UTF-8 text.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Refused("edit-not-yaml", f"Line {mark.line + 1 if mark else '?'} is not YAML.") from None
    if not isinstance(node, yaml.MappingNode) or not isinstance(loaded, dict) or not loaded:
        raise Refused("edit-empty", "What was saved has no values; to remove one: invoke secrets.unset NAME.")
    names = [str(key.value) for key, _ in node.value]
    # Errors name lines, not names: the user may have put a value where a name belongs.
    wrong = [
        str(key.start_mark.line + 1)
        for key, value in node.value
        if not isinstance(value, yaml.ScalarNode) or not NAME.fullmatch(str(key.value)) or names.count(key.value) > 1
    ]
    if wrong:
        raise Refused(
            "edit-not-flat", f"Line {', '.join(wrong)}: not a name with one text value, or a name used twice."
        )
    return {n: Secret(value) for n, value in loaded.items()}


def _written(values: Mapping[str, Secret]) -> str:
    lines = "".join(_line(name, value.reveal()) for name, value in values.items())
    return "# On saving, this is checked and encrypted; the file itself is only in memory.\n" + lines


def _line(name: str, value: str) -> str:
    """Format one value as YAML, unescaped if it is read back unchanged: YAML folds rare line breaks such as NEL."""
    text = str(yaml.safe_dump({name: value}, allow_unicode=True, width=4096))
    if shallow_yaml.load(text, yaml.BaseLoader) == {name: value}:
        return text
    return str(yaml.safe_dump({name: value}, default_style='"', width=4096))


def _in_memory(folder: Path) -> bool:
    """Return whether a folder is in memory, by the type of the closest mount at or above it."""
    mounts, place = mountinfo.mounted(), folder.resolve()
    closest = next((mounts[path] for path in (place, *place.parents) if path in mounts), "")
    return closest in ("tmpfs", "ramfs")
