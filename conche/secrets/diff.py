"""invoke secrets.diff"""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import KeyUnusable, NotFound
from conche.outcome import Outcome, Table
from conche.process import run
from conche.secret import Secret
from conche.vault import keys
from conche.vault.values import opened

__all__ = ["diff"]


def diff(call: Invocation, revision: str) -> Outcome:
    """List the names that differ from a git revision: + new, - gone, ~ another value."""
    _, store = opened(call.stack, call.root)
    key = keys.require(call.root)
    name = str(store.file.relative_to(call.root))
    now = store.read()
    shown = run(["git", "-C", str(call.root), "show", "--end-of-options", f"{revision}:./{name}"], timeout=60)
    if not shown.ok:
        raise NotFound("no-such-revision", f"git has no {name} at {revision!r}.", evidence=shown.last_lines(2))
    try:
        found = store.examined(shown.stdout.raw.encode())
        old, before = found.recipients, store.decrypted(found.content, found)
    except KeyUnusable as error:
        raise KeyUnusable(
            "revision-unreadable",
            f"{name} of {revision} cannot be decrypted with your key: it is older than your access, or damaged.",
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
        lines=[] if rows else [f"No difference from {revision}."],
    )


def _mark(before: Secret | None, now: Secret | None) -> str:
    if before is None or now is None:
        return "+" if before is None else "-"
    return "" if before == now else "~"
