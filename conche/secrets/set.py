"""invoke secrets.set"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.secret import Secret
from conche.stack import SecretDeclaration
from conche.vault import dotenv
from conche.vault.ask import as_text, ask, trimmed
from conche.vault.store import Edit
from conche.vault.values import called, make, open_store, require_holdable

__all__ = ["ValueSource", "kept_by_server", "set_"]


@dataclass(frozen=True)
class ValueSource:
    """Where a value comes from: a prompt or a pipe, unless one of these says otherwise.

    Attributes:
        file: a file's name.
        generate: make it as its declaration says.
        raw: keep the line end of what is read.
    """

    file: str | None = None
    generate: bool = False
    raw: bool = False


def set_(call: Invocation, name: str, source: ValueSource, kind: Action = Action.SET) -> Outcome:
    """Set one value from a prompt, a pipe or a file, or generate it; never take it from the command line."""
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    declared = call.stack.secrets.declared.get(name)
    if declared is None:
        raise NotFound(
            "secret-not-declared",
            f"stack.yaml declares no secret {called(name, call.stack.secrets.declared)}",
            next_command="invoke secrets.list\ndeclare it under secrets.declared in stack.yaml",
        )
    # Nobody should type a value twice only to learn that there is no key.
    store.require_writable()
    if source.generate and declared.renew and name in store.document().paths:
        raise kept_by_server(name, declared)
    if call.dry_run:
        return Outcome(plan=Plan((Step(kind, Kind.SECRET, name, "asked for"),)))
    value = make(declared.generate) if source.generate else _given(name, source)
    if not value.reveal():
        raise Refused("value-empty", f"The value for {name} is empty; nothing was written.")
    require_holdable(name, declared, value)
    if "env" in declared.outputs and dotenv.quote(value.reveal()) is None:
        raise Refused(
            "value-not-representable",
            f"{name} cannot be written to .env so that python-dotenv and Compose read the same value.",
            next_command=f"outputs: [file] for it in stack.yaml, or: invoke secrets.set {name} --generate",
        )
    changed = store.change(f"{kind} {name}", lambda _: Edit(put={name: value}))
    lines = [f"{name}: {'changed' if changed else 'already has this value'}"]
    if changed and declared.services:
        lines.append(f"Next: invoke secrets.render    # then restart {', '.join(declared.services)}")
    return Outcome(value={"name": name, "changed": bool(changed)}, changed=bool(changed), lines=lines)


def kept_by_server(name: str, declared: SecretDeclaration) -> Refused:
    """Return the error for generating a value again that a server learns of at its first start only."""
    return Refused(
        "value-kept-by-a-server",
        f"{name} was not changed: the server that keeps it learns of no new value from here, and would refuse"
        " whoever goes by one. It makes the new value itself.",
        next_command=declared.renew.strip(),
    )


def _given(name: str, source: ValueSource) -> Secret:
    if source.file is None:
        return ask(name, raw=source.raw)
    try:
        text = as_text(Path(source.file).expanduser().read_bytes(), "the file")
    except OSError as error:
        raise Refused(
            "file-unreadable",
            f"The file cannot be read: {error.strerror}.",
            looked_at=["--from-file takes a file name, not a value"],
            next_command=f"invoke secrets.set {name}    # reads standard input",
        ) from error
    return Secret(text if source.raw else trimmed(text))
