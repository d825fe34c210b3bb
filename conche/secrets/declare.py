"""invoke secrets.declare: adds declarations to stack.yaml for what the encrypted file has, changing nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from conche import shallow_yaml
from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.files import write_atomic
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.stack import FILE, StackInvalid, parse
from conche.vault.encrypted import EncryptedFile
from conche.vault.forms import form_of, new_path
from conche.vault.store import Store
from conche.vault.values import BACKUP_KEYS, called, how_to_declare, open_store

__all__ = ["declare", "with_declarations"]


def declare(call: Invocation, name: str | None, *, all_: bool) -> Outcome:
    """Declare one secret of the encrypted file, or all that stack.yaml does not declare."""
    if (name is not None) == all_:
        raise Refused("which-secrets", "Name one secret, or say --all.", next_command="invoke secrets.declare --all")
    store = open_store(call.stack, call.root)
    document = store.document()
    names = document.names
    if name is not None and name not in names:
        raise NotFound(
            "no-such-secret",
            f"{store.file.name} has no secret {called(name, names)}",
            next_command="invoke secrets.list",
        )
    file = call.root / FILE
    before = file.read_text(encoding="utf-8")
    everywhere = parse(before).secrets  # includes what is declared for other environments only
    assert everywhere is not None
    wanted = [one for one in ([name] if name else names) if one not in everywhere.declared and one != BACKUP_KEYS]
    plan = Plan(tuple(Step(Action.DECLARE, Kind.SECRET, one, f"is in {store.file.name}") for one in wanted))
    if call.dry_run or not wanted:
        return Outcome(plan=plan, lines=() if wanted else ("Nothing to do: stack.yaml declares it.",))
    said = {one: {**_place(store, document, one), **body} for one, body in _said_in_compose(call, wanted).items()}
    text = with_declarations(before, said)
    _require_meant(text, wanted)
    write_atomic(file, text.encode())
    return Outcome(
        value={"declared": said},
        changed=True,
        plan=plan,
        lines=[f"{one}: declared" for one in wanted] + ["Next: git diff stack.yaml\n      invoke secrets.check"],
    )


def _place(store: Store, document: EncryptedFile, name: str) -> dict[str, str]:
    """Return the secret's `path` in the file, unless it is the default one."""
    path = document.paths[name]
    return {} if path == new_path(name, form_of(store.file.name)) else {"path": ".".join(path)}


def with_declarations(text: str, declared: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a stack file's text with declarations added after the existing ones.

    Raises:
        Refused: the section is written in a form that cannot be added to.
    """
    root = shallow_yaml.compose(text)
    secrets = _below(root, "secrets")
    there = _below(secrets, "declared")
    lines = text.splitlines(keepends=True)
    if isinstance(there, yaml.MappingNode) and there.flow_style:
        added = ", ".join(f"{name}: {_flow(body)}" for name, body in declared.items())
        end = there.end_mark.index - 1
        return text[:end].rstrip() + (", " if there.value else "") + added + text[end:]
    if isinstance(there, yaml.MappingNode) and there.value:
        column = there.value[0][0].start_mark.column
        return _inserted(lines, _end(there), [f"{' ' * column}{n}: {_flow(b)}\n" for n, b in declared.items()])
    if isinstance(secrets, yaml.MappingNode) and secrets.value and not secrets.flow_style and there is None:
        column = secrets.value[0][0].start_mark.column
        new = [f"{' ' * column}declared:\n", *(f"{' ' * (column + 2)}{n}: {_flow(b)}\n" for n, b in declared.items())]
        return _inserted(lines, _end(secrets), new)
    raise Refused(
        "declarations-by-hand",
        "The section `secrets` of stack.yaml has a form that cannot be added to; it was left as it is.",
        next_command=how_to_declare(declared),
    )


def _below(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _end(node: yaml.MappingNode) -> int:
    """Return the number of the line after a block's last value, before any blank lines and comments that follow."""
    last = node.value[-1][1]
    while isinstance(last, yaml.MappingNode) and last.value and not last.flow_style:
        last = last.value[-1][1]
    return int(last.end_mark.line + (last.end_mark.column > 0))


def _inserted(lines: Sequence[str], number: int, new: Sequence[str]) -> str:
    before = [*lines[:number]]
    if before and not before[-1].endswith("\n"):
        before[-1] += "\n"
    return "".join([*before, *new, *lines[number:]])


def _flow(body: Mapping[str, Any]) -> str:
    """Format a declaration on one line."""
    return yaml.safe_dump(dict(body), default_flow_style=True, sort_keys=False, width=1000).strip()


def _said_in_compose(call: Invocation, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Derive declarations from how the Compose files use each secret: by which variable, and whether as a file."""
    files = {call.root / file for one in call.stack.environments.values() for file in one.compose}
    text = "\n".join(_text(file) for file in sorted(files))
    said: dict[str, dict[str, Any]] = {}
    for name in names:
        upper, lower = (re.search(rf"\$\{{?{one}\b", text) for one in (name.upper(), name))
        as_file = re.search(rf"\bfile:[ \t]*[\"']?\S*/{name}\.txt\b", text)
        outputs = [*(["env"] if upper or lower or not as_file else []), *(["file"] if as_file else [])]
        said[name] = {
            **({"env": name} if lower and not upper else {}),
            **({"outputs": outputs} if as_file else {}),
        }
    return said


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _require_meant(text: str, wanted: Sequence[str]) -> None:
    """Ensure that the new text is a valid stack file that declares them, before it replaces the old one."""
    try:
        section = parse(text).secrets
    except StackInvalid as invalid:
        raise Refused(
            "declarations-by-hand",
            "With these declarations stack.yaml would not be valid; it was left as it is.",
            evidence=[str(problem) for problem in invalid.problems],
            next_command=how_to_declare(wanted),
        ) from invalid
    assert section is not None
    assert section.declared.keys() >= set(wanted)
