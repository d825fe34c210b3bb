"""secrets.list, get, check, diff: looks that change nothing. Values are shown only where somebody asks for one."""

from __future__ import annotations

import hashlib
import hmac
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from conche.command import Invocation
from conche.errors import ConcheError, KeyUnusable, NotFound, Refused, did_you_mean
from conche.outcome import Outcome, Table
from conche.process import run
from conche.secret import Secret
from conche.secrets import document, dotenv, keys, render, sops
from conche.secrets.store import Store
from conche.secrets.values import PLACEHOLDERS, demonstrates, open_store
from conche.stack import Secrets

__all__ = ["check", "diff", "get", "list_secrets"]


def list_secrets(call: Invocation) -> Outcome:
    """The declared and the stored secrets; names need no key, lengths do."""
    section, store = _opened(call)
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
    _, store = _opened(call)
    values = store.read()
    if name not in values:
        raise NotFound(
            "no-such-secret",
            f"{store.file.name} has no {name!r}.{did_you_mean(name, values)}",
            next_command=f"invoke secrets.list\ninvoke secrets.set {name}",
        )
    value = values[name]
    if length:
        return Outcome(value={"name": name, "length": len(value)}, raw=f"{len(value)}\n")
    if fingerprint:
        digest = _fingerprint(keys.require(call.root).identities, value)
        return Outcome(value={"name": name, "fingerprint": digest}, raw=f"{digest}\n")
    if sys.stdout.isatty() and not show:
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
    _, store = _opened(call)
    key = keys.require(call.root)
    name = store.file.name
    shown = run(["git", "-C", str(call.root), "show", f"{revision}:{name}"], timeout=60)
    if not shown.ok:
        raise NotFound("no-such-revision", f"git has no {name} at {revision!r}.", evidence=shown.last_lines(2))
    before, now = sops.decrypt(shown.stdout.encode(), key, name), store.read()
    marks = {n: _mark(before.get(n), now.get(n)) for n in dict.fromkeys((*before, *now))}
    changed = {name: mark for name, mark in marks.items() if mark}
    old = document.examine(shown.stdout.encode(), name).recipients
    new = store.document().recipients
    recipients = {one: "+" if one in new else "-" for one in sorted({*old} ^ {*new})}
    rows = tuple((mark, one) for one, mark in (*changed.items(), *recipients.items()))
    return Outcome(
        value={"secrets": changed, "recipients": recipients},
        tables=[Table(("", "name"), rows)] if rows else [],
        lines=[] if rows else [f"No difference to {revision}."],
    )


def check(call: Invocation) -> Outcome:
    """The file against its declaration and the checkout; without a key what can be seen without one."""
    section, store = _opened(call)
    found = [*_without_key(call, section, store)]
    key = keys.find(call.root)
    if key is not None and not any(problem.fatal for problem in found):
        found += _with_key(call, section, store)
    rows = tuple((problem.kind, problem.what, problem.next_command) for problem in found)
    said = "with" if key else "without a key, so not what is in it"
    return Outcome(
        value=[asdict(problem) for problem in found],
        tables=[Table(("kind", "found", "next"), rows)] if rows else [],
        lines=[f"{store.file.name} looked at {said}: {len(found)} found."],
        exit_code=1 if found else 0,
    )


@dataclass(frozen=True)
class Problem:
    """Something that `secrets.check` found; `fatal` when nothing can be decrypted."""

    kind: str
    what: str
    next_command: str
    fatal: bool = False


def _without_key(call: Invocation, section: Secrets, store: Store) -> Iterator[Problem]:
    try:
        found = store.document()
        document.require_same_recipients(found, document.declared_recipients(call.root, store.file), store.file.name)
    except ConcheError as error:
        yield Problem(error.code, error.message, error.next_command.split("\n")[0], fatal=True)
        return
    if demonstrates(store, section):
        yield Problem("demonstration-key", "everybody can decrypt the file", "invoke secrets.init")
    for name in section.declared.keys() - set(found.names):
        if section.declared[name].required:
            yield Problem("missing", f"{name} is declared and not there", f"invoke secrets.set {name}")
    for name in sorted(set(found.names) - section.declared.keys()):
        yield Problem("undeclared", f"{name} is in the file and not in stack.yaml", f"invoke secrets.unset {name}")
    yield from _tracked(call, section)
    yield from _loose(call, section)


def _tracked(call: Invocation, section: Secrets) -> Iterator[Problem]:
    """Plaintext that git tracks, or would."""
    private = [".env", str(keys.DEFAULT_FILE), *(str(section.folder / f"{name}.txt") for name in section.declared)]
    listed = run(["git", "-C", str(call.root), "ls-files", "-z", "--", *private], timeout=60)
    for path in filter(None, listed.stdout.split("\0")) if listed.ok else ():
        yield Problem("tracked", f"git tracks {path}", f"git rm --cached '{path}'")
    there = [path for path in private if (call.root / path).exists()]
    if there and listed.ok:
        ignored = run(["git", "-C", str(call.root), "check-ignore", "--no-index", *there], timeout=60)
        for path in sorted(set(there) - set(ignored.stdout.splitlines())):
            yield Problem("not-ignored", f"git does not ignore {path}", f"echo '/{path}' >> .gitignore")


def _loose(call: Invocation, section: Secrets) -> Iterator[Problem]:
    for path in (call.root / ".env", call.root / keys.DEFAULT_FILE):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Problem("mode", f"{path.name} can be read by others", f"chmod 600 '{path}'")
    folder = call.root / section.folder
    if folder.exists() and stat.S_IMODE(folder.stat().st_mode) & 0o077 and any(folder.glob("*.txt")):
        yield Problem("mode", f"{section.folder} can be entered by others", f"chmod 700 '{folder}'")


def _with_key(call: Invocation, section: Secrets, store: Store) -> Iterator[Problem]:
    try:
        values = store.read()
    except KeyUnusable as error:
        yield Problem(error.code, error.message, error.next_command.split("\n")[0], fatal=True)
        return
    for name, declared in section.declared.items():
        value = values.get(name)
        if value is not None and value.reveal() in PLACEHOLDERS and declared.required:
            yield Problem("placeholder", f"{name} still has a placeholder", f"invoke secrets.set {name}")
        if value is not None and "env" in declared.outputs and dotenv.quote(value.reveal()) is None:
            yield Problem("not-representable", f"{name} cannot stand in .env", f"invoke secrets.set {name} --generate")
    yield from _stale(call, section, values)


def _stale(call: Invocation, section: Secrets, values: Mapping[str, Secret]) -> Iterator[Problem]:
    """Rendered files that are there and not what they should be."""
    writable = {n: v for n, v in values.items() if dotenv.quote(v.reveal()) is not None or n not in section.declared}
    for staged in render.stage(call.root, section, writable, env=True, files_=True):
        if staged.state == "changed":
            name = staged.path.relative_to(call.root)
            yield Problem("stale", f"{name} is not what the secrets say", "invoke secrets.render")


def _opened(call: Invocation) -> tuple[Secrets, Store]:
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    return call.stack.secrets, store


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
