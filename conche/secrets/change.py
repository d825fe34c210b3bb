"""secrets.init, encrypt, set, unset, rotate, rotate-value: everything that writes the encrypted file."""

from __future__ import annotations

import getpass
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from conche.command import Invocation
from conche.errors import KeyUnusable, NotFound, Refused
from conche.files import write_atomic
from conche.outcome import Outcome, Plan, Step
from conche.output import at_terminal
from conche.secret import Secret
from conche.secrets import dotenv, keys, plaintext
from conche.secrets.document import declared_recipients
from conche.secrets.keys import DEFAULT_FILE, Key
from conche.secrets.store import Change, Store
from conche.secrets.values import called, demonstrates, how_to_declare, make, open_store, require_holdable
from conche.stack import Secrets

__all__ = ["asked", "encrypt", "init", "rotate", "rotate_value", "set_value", "unset", "write_recipients"]

PLAIN = r"\.sops/secrets\.yaml"
"""Where the plain secrets stand for whoever calls `sops --encrypt` by hand; git ignores the folder."""

IGNORED = (".sops/*", ".sops-tmp-*", ".secrets.enc.yaml.*", ".env*", "..env.*", "!.env.example", "docker/secrets/*")
"""Lines that .gitignore needs."""

PLACEHOLDER = Secret("your_key_here")


def init(call: Invocation, *, generate: bool) -> Outcome:
    """A key, recipients and values of one's own; takes the demonstration key's place, and nobody else's."""
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    section = call.stack.secrets
    if store.file.exists() and not demonstrates(store, section):
        key = keys.find(call.root)
        return Outcome(
            value={"recipients": list(store.document().recipients)},
            lines=[
                f"Nothing to do: {store.file.name} has recipients of its own" + ("." if key else "; you have no key.")
            ],
        )
    key_file = call.root / DEFAULT_FILE
    existing = _own(keys.find(call.root, {}) if key_file.exists() else None, section)
    plan = Plan(
        (
            *([] if existing else [Step("create", f"file {DEFAULT_FILE}", "no age key of your own")]),
            Step("create", "file .sops.yaml", "recipients of your own"),
            Step("create", f"file {store.file.name}", "encrypted to your key"),
        )
    )
    if call.dry_run:
        return Outcome(plan=plan)
    # Before there is a key that git could take.
    _ignore(call.root)
    key = existing or _new_key(key_file)
    values = {n: make(d.generate) if generate and d.generate else PLACEHOLDER for n, d in section.declared.items()}
    write_recipients(call.root, store.file, key.public)
    store.create(values, key.public, key, replace=True)
    todo = [name for name, value in values.items() if value == PLACEHOLDER and section.declared[name].required]
    return Outcome(
        value={"recipients": list(key.public), "key_file": str(key_file), "placeholders": todo},
        changed=True,
        plan=plan,
        lines=[
            f"Your public key: {', '.join(key.public)}",
            f"Back up {DEFAULT_FILE} outside this machine now: invoke secrets.backup-key PATH",
            "A second, offline recipient saves you when this one is lost: invoke secrets.recipients.add age1…",
            *(f"Next: invoke secrets.set {name}" for name in todo),
        ],
    )


def _own(found: Key | None, section: Secrets) -> Key | None:
    """The key in place, unless it is the demonstration key, which nobody loses."""
    everybodys = set(section.demonstration)
    if found is None or not everybodys & set(found.public):
        return found
    if everybodys >= set(found.public):
        return None
    raise Refused(
        "demonstration-key-in-place",
        f"{DEFAULT_FILE} has the demonstration key, which everybody has, beside others.",
        next_command=f"remove it from {DEFAULT_FILE}\ninvoke secrets.init",
    )


def encrypt(call: Invocation, file: str, *, merge: bool, replace: bool) -> Outcome:
    """Import a YAML, JSON or dotenv file; every value stays the text it is written as."""
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    values = _plaintext(file)
    if merge and store.file.exists():
        names = store.change("encrypt --merge", lambda _: Change(put=values))
    else:
        recipients = declared_recipients(call.root, store.file)
        store.create(values, recipients, keys.require(call.root), replace=replace)
        names = tuple(sorted(values))
    # The source is to be deleted: what counts is what the file in place gives back.
    _require_kept(store, values)
    undeclared = [name for name in values if name not in call.stack.secrets.declared]
    lines = [f"encrypted: {', '.join(names) or 'nothing new'}"]
    lines += [f"Next: {how_to_declare(undeclared)}"] if undeclared else []
    if file != "-":
        lines.append(f"All {len(values)} values were read back from {store.file.name}; comments are not kept.")
        lines.append(f"Next: delete the plaintext: shred -u {shlex.quote(file)}")
    return Outcome(value={"changed": list(names), "undeclared": undeclared}, changed=bool(names), lines=lines)


def _require_kept(store: Store, values: Mapping[str, Secret]) -> None:
    kept = store.read()
    if lost := [name for name, value in values.items() if kept.get(name) != value]:
        raise KeyUnusable(
            "plaintext-not-kept",
            f"{store.file.name} does not give back what was encrypted: {', '.join(lost)}. Keep the plaintext.",
            looked_at=[str(store.file)],
            next_command="invoke secrets.diff\ninvoke secrets.check",
        )


def set_value(
    call: Invocation, name: str, *, from_file: str | None, generate: bool, raw: bool, kind: str = "set"
) -> Outcome:
    """One value, from a prompt, a pipe, a file, or made here; never from the command line."""
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    declared = call.stack.secrets.declared.get(name)
    if declared is None:
        raise NotFound(
            "secret-not-declared",
            f"stack.yaml declares no secret {called(name, call.stack.secrets.declared)}",
            next_command="invoke secrets.list\ndeclare it under secrets.declared in stack.yaml",
        )
    # Nobody types a value twice to hear then that there is no key.
    store.require_writable()
    if call.dry_run:
        return Outcome(plan=Plan((Step(kind, f"secret {name}", "asked for"),)))
    value = make(declared.generate) if generate else _given(name, from_file, raw)
    if not value.reveal():
        raise Refused("value-empty", f"The value for {name} is empty; nothing was written.")
    require_holdable(name, declared, value)
    if "env" in declared.outputs and dotenv.quote(value.reveal()) is None:
        raise Refused(
            "value-not-representable",
            f"{name} cannot be written to .env so that python-dotenv and Compose read the same.",
            next_command=f"outputs: [file] for it in stack.yaml, or: invoke secrets.set {name} --generate",
        )
    changed = store.change(f"{kind} {name}", lambda _: Change(put={name: value}))
    lines = [f"{name}: {'changed' if changed else 'had this value already'}"]
    if changed and declared.services:
        lines.append(f"Next: invoke secrets.render    # then restart {', '.join(declared.services)}")
    return Outcome(value={"name": name, "changed": bool(changed)}, changed=bool(changed), lines=lines)


def unset(call: Invocation, name: str) -> Outcome:
    """Remove one secret."""
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    names = store.document().names
    if name not in names:
        raise NotFound(
            "no-such-secret",
            f"{store.file.name} has no secret {called(name, names)}",
            next_command="invoke secrets.list",
        )
    declared = call.stack.secrets.declared.get(name)
    store.require_writable()
    if call.dry_run:
        return Outcome(plan=Plan((Step("unset", f"secret {name}", "asked for", destroys=True),)))
    if declared is not None and not call.yes:
        users = ", ".join(declared.services) or "no service"
        call.output.confirm(f"{name} is declared in stack.yaml and used by {users}.")
    store.change(f"unset {name}", lambda _: Change(drop=(name,)))
    return Outcome(value={"name": name}, changed=True, lines=[f"{name}: removed"])


def rotate(call: Invocation, *, identity: bool, finish: bool) -> Outcome:
    """A new data key; with `identity` a new age key beside the old one, with `finish` the old one goes."""
    store = open_store(call.stack, call.root)
    # What an identity of ours is in one of the two lists only was left so by a kill, and is put right now.
    store.require_writable(moving=store.key().public if identity else ())
    if call.dry_run:
        return Outcome(plan=Plan((Step("rotate", f"file {store.file.name}", "asked for"),)))
    if identity:
        return _new_identity(call, store, finish=finish)
    store.rotate("rotate")
    return Outcome(
        value={"recipients": list(store.document().recipients)},
        changed=True,
        lines=["The data key is new. The values are not: change those at their providers with secrets.rotate-value."],
    )


def rotate_value(call: Invocation, name: str, *, from_file: str | None) -> Outcome:
    """A new value for one secret: made here where it can be, else asked for."""
    assert call.stack.secrets is not None
    declared = call.stack.secrets.declared.get(name)
    made = declared is not None and declared.generate is not None and from_file is None
    if declared is not None and declared.source and not made:
        call.output.say(f"{name} comes from: {declared.source}")
    return set_value(call, name, from_file=from_file, generate=made, raw=False, kind="rotate-value")


def write_recipients(root: Path, file: Path, recipients: tuple[str, ...]) -> None:
    """The rule for the encrypted file in .sops.yaml; rules for other files, and what else stands there, are kept.

    It is also that for the plain file which people encrypt by hand into it: sops asks for a rule of what it reads.
    """
    name = str(file.relative_to(root)).replace(".", r"\.")
    pattern = f"^({name}|{PLAIN})$"
    rule = {"path_regex": pattern, "age": list(recipients)}
    before = _sops_configuration(root / ".sops.yaml")
    ours = (pattern, f"^{name}$")
    others = [one for one in before.get("creation_rules") or () if one.get("path_regex") not in ours]
    # sops takes the first rule that fits, so ours is the first.
    content = {**before, "creation_rules": [rule, *others]}
    head = "# Who can read the encrypted file; secrets.recipients changes this and the file together.\n"
    write_atomic(root / ".sops.yaml", (head + yaml.safe_dump(content, sort_keys=False)).encode())


def _sops_configuration(file: Path) -> dict[str, Any]:
    """What .sops.yaml says; nothing where it says nothing that sops would understand."""
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    rules = said.get("creation_rules") if isinstance(said, dict) else None
    return said if isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules) else {}


def _new_identity(call: Invocation, store: Store, *, finish: bool) -> Outcome:
    """Add, prove, and only then remove: at no moment is there a file that no kept key can read."""
    key_file = call.root / DEFAULT_FILE
    held = store.key()
    if held.source != str(key_file):
        raise Refused(
            "key-elsewhere",
            f"The key in use is from {held.source}; --identity changes {DEFAULT_FILE} only.",
            next_command=f"put the key into {DEFAULT_FILE} first",
        )
    if not (finish and len(held.public) > 1 and held.public[-1] in _everywhere(call, store)):
        held = _with_another(call, store, key_file, held)
    *old, public = held.public
    lines = [f"The new public key: {public}", "Next: SOPS_AGE_KEY in CI, and invoke secrets.backup-key PATH"]
    if not finish:
        lines.append(
            "The old key still works. When the new one is everywhere: invoke secrets.rotate --identity --finish"
        )
        return Outcome(value={"added": public, "removed": []}, changed=True, lines=lines)
    secret = held.identities.reveal().splitlines()[-1]
    new = Key(held.source, Secret(secret), (public,))
    somewhere = {*store.document().recipients, *declared_recipients(call.root, store.file)}
    for gone in [one for one in old if one in somewhere]:
        store.rotate("rotate --identity: remove", remove=gone, prove=new)
        write_recipients(call.root, store.file, store.document().recipients)
    _write_key(key_file, [secret])
    return Outcome(value={"added": public, "removed": old}, changed=True, lines=lines)


def _everywhere(call: Invocation, store: Store) -> set[str]:
    """The recipients that the file and .sops.yaml agree on."""
    return {*store.document().recipients} & {*declared_recipients(call.root, store.file)}


def _with_another(call: Invocation, store: Store, key_file: Path, old: Key) -> Key:
    """The key file with a new identity at its end, which is a recipient and has been seen to decrypt.

    An identity that a killed command has put there, and made a recipient in the file only, is that new one.
    """
    *_, last = old.identities.reveal().splitlines()
    found = store.document().recipients
    begun = len(old.public) > 1 and old.public[-1] in found and old.public[-1] not in _everywhere(call, store)
    secret, public = (Secret(last), old.public[-1]) if begun else keys.generate()
    both = [*old.identities.reveal().splitlines(), *([] if begun else [secret.reveal()])]
    # Both keys are on the disk before the first recipient changes, so a kill at any step leaves a usable one.
    _write_key(key_file, both)
    store.rotate("rotate --identity: add", add=public, prove=Key(old.source, secret, (public,)))
    write_recipients(call.root, store.file, store.document().recipients)
    return Key(old.source, Secret("\n".join(both)), tuple(dict.fromkeys((*old.public, public))))


def _new_key(file: Path) -> Key:
    secret, public = keys.generate()
    file.parent.mkdir(mode=0o700, exist_ok=True)
    _write_key(file, [secret.reveal()])
    return Key(str(file), secret, (public,))


def _write_key(file: Path, identities: list[str]) -> None:
    write_atomic(file, keys.as_file(identities).encode(), mode=0o600)


def _ignore(root: Path) -> None:
    file = root / ".gitignore"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    missing = [line for line in IGNORED if line not in text.splitlines()]
    if missing:
        write_atomic(file, (text.rstrip("\n") + "\n" * bool(text) + "\n".join(missing) + "\n").encode())


def asked(what: str, *, raw: bool = False) -> Secret:
    """What a person types twice, or what comes by a pipe, without the newline that `echo` adds unless `raw`."""
    if at_terminal(sys.stdin):
        text = _typed(f"{what}: ")
        if text != _typed(f"{what} again: "):
            raise Refused("values-differ", "The two values differ; nothing was written.")
        return Secret(text)
    text = _as_text(sys.stdin.buffer.read(), "standard input")
    return Secret(text if raw else _trimmed(text))


def _typed(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:
        # Ctrl-D leaves the cursor behind the prompt.
        sys.stderr.write("\n")
        raise Refused("input-ended", "The input ended before there was an answer; nothing was written.") from None


def _trimmed(text: str) -> str:
    """Without the newline at the end of a single line; that of several lines is a part of them: a key ends with one."""
    line = text.removesuffix("\n")
    return text if "\n" in line else line


def _as_text(content: bytes, source: str) -> str:
    """A secret is text, whatever the locale says of the stream it comes from."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Refused(
            "value-not-text",
            f"What {source} holds is no UTF-8 text; nothing was written.",
            next_command="base64 it, and let its reader decode it",
        ) from None


def _given(name: str, from_file: str | None, raw: bool) -> Secret:
    if from_file is None:
        return asked(name, raw=raw)
    try:
        text = _as_text(Path(from_file).expanduser().read_bytes(), "the file")
    except OSError as error:
        raise Refused(
            "file-unreadable",
            f"The file cannot be read: {error.strerror}.",
            looked_at=["--from-file takes the name of a file, not a value"],
            next_command=f"invoke secrets.set {name}    # reads standard input",
        ) from error
    return Secret(text if raw else _trimmed(text))


def _plaintext(file: str) -> dict[str, Secret]:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Refused("file-unreadable", f"{file} cannot be read: {error.strerror}.", looked_at=[file]) from error
    return plaintext.read(content, file)
