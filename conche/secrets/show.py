"""secrets.list, get, diff: looks that change nothing. Values are shown only where somebody asks for one."""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Mapping

from conche.command import Invocation
from conche.errors import KeyUnusable, NotFound, Refused
from conche.outcome import Outcome, Table
from conche.output import at_terminal
from conche.process import run
from conche.secret import Secret
from conche.secrets import document, keys, sops
from conche.secrets.values import PLACEHOLDERS, called, opened

__all__ = ["diff", "get", "list_secrets"]


def list_secrets(call: Invocation) -> Outcome:
    """The declared and the stored secrets; names need no key, lengths do."""
    section, store = opened(call.stack, call.root)
    stored = store.document().names
    values = store.read() if keys.find(call.root) else None
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
                str(row["state"]) + ("" if row["declared"] else ", undeclared"),
                str(row["variable"]),
                *(", ".join(row[column]) for column in ("outputs", "environments", "services")),  # type: ignore[arg-type]
            )
            for row in rows
        ),
    )
    lines = [] if values is not None else ["Without a key only names are known."]
    return Outcome(value=rows, tables=[table], lines=lines)


def get(call: Invocation, name: str, *, show: bool, length: bool, fingerprint: bool) -> Outcome:
    """One value: into a pipe as it is, on a terminal only with `show`."""
    _, store = opened(call.stack, call.root)
    values = store.read()
    if name not in values:
        raise NotFound(
            "no-such-secret",
            f"{store.file.name} has no secret {called(name, values)}",
            next_command="invoke secrets.list",
        )
    value = values[name]
    if length:
        return Outcome(value={"name": name, "length": len(value)}, raw=f"{len(value)}\n")
    if fingerprint:
        digest = _fingerprint(keys.require(call.root).identities, value)
        return Outcome(value={"name": name, "fingerprint": digest}, raw=f"{digest}\n")
    if at_terminal(sys.stdout) and not show:
        raise Refused(
            "value-not-shown",
            f"{name} is not shown on a terminal.",
            next_command=f"invoke secrets.get {name} --show\ninvoke secrets.get {name} | wc -c",
        )
    if call.output.as_json:
        return Outcome(value={"name": name, "value": value.reveal()})
    return Outcome(raw=value.reveal())


def diff(call: Invocation, revision: str) -> Outcome:
    """The names that differ from a git revision: + new, - gone, ~ another value."""
    _, store = opened(call.stack, call.root)
    key = keys.require(call.root)
    name = store.file.name
    now = store.read()
    shown = run(["git", "-C", str(call.root), "show", "--end-of-options", f"{revision}:{name}"], timeout=60)
    if not shown.ok:
        raise NotFound("no-such-revision", f"git has no {name} at {revision!r}.", evidence=shown.last_lines(2))
    try:
        old = document.examine(shown.stdout.raw.encode(), name).recipients
        before = sops.decrypt(shown.stdout.raw.encode(), key, name)
    except KeyUnusable as error:
        raise KeyUnusable(
            "revision-unreadable",
            f"{name} of {revision} cannot be read with your key: it is older than your access, or damaged.",
            looked_at=[f"key {', '.join(key.public)}", f"{revision}:{name}"],
            next_command=f"git log --oneline -- {name}\ninvoke secrets.diff --revision ANOTHER",
            evidence=[error.message],
        ) from error
    marks = {n: _mark(before.get(n), now.get(n)) for n in dict.fromkeys((*before, *now))}
    changed = {name: mark for name, mark in marks.items() if mark}
    new = store.document().recipients
    recipients = {one: "+" if one in new else "-" for one in sorted({*old} ^ {*new})}
    rows = tuple((mark, one) for one, mark in (*changed.items(), *recipients.items()))
    return Outcome(
        value={"secrets": changed, "recipients": recipients},
        tables=[Table(("", "name"), rows)] if rows else [],
        lines=[] if rows else [f"No difference to {revision}."],
    )


def _state(name: str, stored: tuple[str, ...], values: Mapping[str, Secret] | None) -> str:
    if name not in stored:
        return "missing"
    if values is None:
        return "found"
    return "placeholder" if values[name].reveal() in PLACEHOLDERS else "found"


def _mark(before: Secret | None, now: Secret | None) -> str:
    if before is None or now is None:
        return "+" if before is None else "-"
    return "" if before == now else "~"


def _fingerprint(identity: Secret, value: Secret) -> str:
    """Keyed by the age key: a bare hash of a short value could be searched for."""
    return hmac.new(identity.reveal().encode(), value.reveal().encode(), hashlib.sha256).hexdigest()[:16]
