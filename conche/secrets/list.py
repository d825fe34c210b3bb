"""invoke secrets.list"""

from __future__ import annotations

from collections.abc import Mapping

from conche.command import Invocation
from conche.outcome import Outcome, Table
from conche.secret import Secret
from conche.vault.values import BACKUP_KEYS, PLACEHOLDERS, opened

__all__ = ["list_"]


def list_(call: Invocation) -> Outcome:
    """List the declared and the stored secrets; names need no key, lengths do."""
    section, store = opened(call.stack, call.root)
    stored = store.document().names
    values = call.vault.everything() if call.vault.key else None
    rows = []
    for name in dict.fromkeys((*section.declared, *stored)):
        declared = section.declared.get(name)
        rows.append(
            {
                "name": name,
                "variable": declared.variable(name) if declared else name.upper(),
                "outputs": list(declared.outputs) if declared else [],
                "state": _state(name, stored, values),
                "length": len(values[name]) if values and name in values else None,
                "environments": list(declared.environments) if declared else [],
                "services": list(declared.services) if declared else [],
                "declared": declared is not None,
            }
        )
    table = Table(
        ("name", "state", "variable", "outputs", "environments", "services"),
        tuple(
            (
                str(row["name"]),
                str(row["state"]) + ("" if row["declared"] else _undeclared(str(row["name"]))),
                str(row["variable"]),
                *(", ".join(row[column]) for column in ("outputs", "environments", "services")),  # type: ignore[arg-type]
            )
            for row in rows
        ),
    )
    lines = [] if values is not None else ["Without a key, only the names are known."]
    return Outcome(value=rows, tables=[table], lines=lines)


def _undeclared(name: str) -> str:
    return ", Conche's own" if name == BACKUP_KEYS else ", undeclared"


def _state(name: str, stored: tuple[str, ...], values: Mapping[str, Secret] | None) -> str:
    if name not in stored:
        return "missing"
    if values is None:
        return "found"
    return "placeholder" if values[name].reveal() in PLACEHOLDERS else "found"
