"""invoke secrets.check: compares the encrypted file with its declaration, the checkout and the key."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from conche.command import Invocation
from conche.errors import ConcheError, KeyUnusable, Refused
from conche.outcome import Outcome, Table
from conche.process import run
from conche.secret import Secret
from conche.stack import SecretDeclaration, Secrets
from conche.vault import dotenv, encrypted, keys, render
from conche.vault.encrypted import EncryptedFile
from conche.vault.store import Store
from conche.vault.values import BACKUP_KEYS, PLACEHOLDERS, demonstrates, how_to_declare, opened, require_holdable

__all__ = ["check"]


def check(call: Invocation) -> Outcome:
    """Check the file against its declaration and the checkout; without a key, only what needs none."""
    section, store = opened(call.stack, call.root)
    found = [*_without_key(call, section, store)]
    key = keys.find(call.root)
    if key is not None and not any(problem.fatal for problem in found):
        found += _with_key(call, section, store)
    rows = tuple((problem.kind, problem.what, problem.next_command) for problem in found)
    said = f"with {', '.join(key.public)} from {key.source}" if key else "without a key, so without its values"
    return Outcome(
        value=[asdict(problem) for problem in found],
        tables=[Table(("kind", "found", "next"), rows)] if rows else [],
        lines=[f"{store.file.name} checked {said}: {len(found) or 'nothing'} found."],
        exit_code=1 if found else 0,
    )


@dataclass(frozen=True)
class SecretProblem:
    """Something that `secrets.check` found; `fatal` when nothing can be decrypted."""

    kind: str
    what: str
    next_command: str
    fatal: bool = False


def _without_key(call: Invocation, section: Secrets, store: Store) -> Iterator[SecretProblem]:
    try:
        found = store.document()
        encrypted.require_same_recipients(found, encrypted.declared_recipients(call.root, store.file), store.file.name)
    except ConcheError as error:
        yield SecretProblem(error.code, error.message, error.next_command.split("\n")[0], fatal=True)
        return
    if demonstrates(store, section):
        yield SecretProblem("demonstration-key", "anyone can decrypt the file", "invoke secrets.init")
    for name in section.declared.keys() - set(found.names):
        if any(section.declared[name].is_required(one) for one in ((), *_profiles(call, section.declared[name]))):
            yield SecretProblem("missing", f"{name} is declared but has no value", f"invoke secrets.set {name}")
    if undeclared := sorted(set(found.names) - section.declared.keys() - {BACKUP_KEYS}):
        said = f"in the file but not in stack.yaml: {', '.join(undeclared)}"
        yield SecretProblem("undeclared", said, how_to_declare(undeclared))
    yield from _rolled_back(call, found, store)
    yield from _tracked(call, section)
    yield from _loose(call, section)


def _rolled_back(call: Invocation, found: EncryptedFile, store: Store) -> Iterator[SecretProblem]:
    """Detect an older file put in place: it is valid by itself, so only something outside it, here git, reveals it."""
    name = str(store.file.relative_to(call.root))
    shown = run(["git", "-C", str(call.root), "show", f"HEAD:./{name}"], timeout=60)
    try:
        committed = store.examined(shown.stdout.raw.encode()) if shown.ok else None
    except KeyUnusable:
        return
    if committed is not None and committed.content != found.content and found.modified < committed.modified:
        yield SecretProblem(
            "rolled-back",
            f"{name} was last changed at {found.modified:%Y-%m-%d %H:%M:%S}, before the committed one",
            f"invoke secrets.diff; git checkout HEAD -- {name}",
        )


def _tracked(call: Invocation, section: Secrets) -> Iterator[SecretProblem]:
    """Find plaintext that git tracks or does not ignore."""
    files = [render.RECORD, *(f"{name}.txt" for name in section.declared)]
    private = [".env", str(keys.DEFAULT_FILE), *(str(section.folder / name) for name in files)]
    listed = run(["git", "-C", str(call.root), "ls-files", "-z", "--", *private], timeout=60)
    for path in filter(None, listed.stdout.raw.split("\0")) if listed.ok else ():
        yield SecretProblem("tracked", f"git tracks {path}", f"git rm --cached '{path}'")
    there = [path for path in private if (call.root / path).exists()]
    if there and listed.ok:
        ignored = run(["git", "-C", str(call.root), "check-ignore", "--no-index", *there], timeout=60)
        for path in sorted(set(there) - set(ignored.stdout.raw.splitlines())):
            yield SecretProblem("not-ignored", f"git does not ignore {path}", f"echo '/{path}' >> .gitignore")


def _loose(call: Invocation, section: Secrets) -> Iterator[SecretProblem]:
    for path in (call.root / ".env", call.root / keys.DEFAULT_FILE):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield SecretProblem("mode", f"{path.name} is readable by other users", f"chmod 600 '{path}'")
    folder = call.root / section.folder
    if folder.exists() and stat.S_IMODE(folder.stat().st_mode) & 0o077 and any(folder.glob("*.txt")):
        yield SecretProblem("mode", f"{section.folder} is open to other users", f"chmod 700 '{folder}'")


def _profiles(call: Invocation, declared: SecretDeclaration) -> list[tuple[str, ...]]:
    """Return the Compose profiles of each environment that uses a secret."""
    environments = call.stack.environments
    return [environments[name].profiles for name in declared.environments or environments if name in environments]


def _with_key(call: Invocation, section: Secrets, store: Store) -> Iterator[SecretProblem]:
    try:
        values = store.read()
    except KeyUnusable as error:
        yield SecretProblem(error.code, error.message, error.next_command.split("\n")[0], fatal=True)
        return
    for name, declared in section.declared.items():
        value = values.get(name)
        if value is not None and value.reveal() in PLACEHOLDERS and declared.required:
            yield SecretProblem("placeholder", f"{name} still has a placeholder", f"invoke secrets.set {name}")
        if value is not None and not _deliverable(name, declared, value):
            yield SecretProblem(
                "not-representable", f"{name} cannot be written to .env", f"invoke secrets.set {name} --generate"
            )
    yield from _stale(call, section, values)


def _deliverable(name: str, declared: SecretDeclaration, value: Secret) -> bool:
    try:
        require_holdable(name, declared, value)
    except Refused:
        return False
    return "env" not in declared.outputs or dotenv.quote(value.reveal()) is not None


def _stale(call: Invocation, section: Secrets, values: Mapping[str, Secret]) -> Iterator[SecretProblem]:
    """Find existing rendered files that are not as they should be."""
    declared = section.declared
    writable = {n: v for n, v in values.items() if n not in declared or _deliverable(n, declared[n], v)}
    staged = render.stage(call.root, section, writable, env=True, files_=True)
    for one in staged:
        if one.state == "changed":
            name = one.path.relative_to(call.root)
            yield SecretProblem("stale", f"{name} does not match the secrets", "invoke secrets.render")
    ours = render.left_over(call.root, section, staged)
    for path in ours:
        yield SecretProblem("left-over", f"{path.name} belongs to no secret any more", "invoke secrets.render")
    known = {one.path for one in staged} | set(ours)
    for path in (call.root / section.folder / f"{name}.txt" for name in (*section.declared, *section.htpasswd)):
        if path not in known and path.exists() and path.stat().st_size:
            # The value may exist nowhere else, so suggest storing it rather than deleting the file.
            made_of = section.htpasswd.get(path.stem)
            wanted = f"{made_of.password}" if made_of else f"{path.stem} --from-file {shlex.quote(str(path))}"
            yield SecretProblem(
                "left-over", f"{path.name} has a value that the secrets lack", f"invoke secrets.set {wanted}"
            )
