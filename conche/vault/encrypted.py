"""Examines the encrypted file as far as possible without a key: names, recipients, damage.

The recipients in a SOPS file are not authenticated: whoever can write the file can add one, and the next rotation would
encrypt to it. So they are compared with .sops.yaml before every change.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from conche import shallow_yaml
from conche.errors import ConcheError, KeyUnusable, Refused
from conche.process import run
from conche.vault import forms
from conche.vault.forms import NAME, Path_

__all__ = [
    "MOST",
    "NAME",
    "EncryptedFile",
    "declared_recipients",
    "examine",
    "is_declared",
    "last_committed",
    "listed",
    "read",
    "require_same_recipients",
]

_ENCRYPTED_ANYHOW = re.compile(
    r"ENC\[AES256_GCM,data:[A-Za-z0-9+/=]*,iv:[A-Za-z0-9+/=]+,tag:[A-Za-z0-9+/=]+,type:(str|int|float|bool|bytes|time)\]"
)
"""An encrypted value of any type; files that others wrote may hold values other than text."""

_ENCRYPTED = re.compile(r"ENC\[AES256_GCM,data:[A-Za-z0-9+/=]*,iv:[A-Za-z0-9+/=]+,tag:[A-Za-z0-9+/=]+,type:str\]")


MOST = 10_000
"""The most values of a file: with aliases, YAML can say millions in a few lines."""


@dataclass(frozen=True)
class EncryptedFile:
    """An encrypted file that is intact.

    Attributes:
        content: its bytes.
        names: the names of its secrets, in the file's order.
        recipients: age1…, in the file's order.
        paths: name -> the place of its value in the file.
        modified: when sops last wrote it, in UTC; the MAC covers it, so it cannot be changed alone.
        only_text: whether it has nothing but encrypted texts, so that it can be made anew of its values.
    """

    content: bytes
    names: tuple[str, ...]
    recipients: tuple[str, ...]
    modified: datetime
    paths: Mapping[str, Path_] = field(default_factory=dict, compare=False)
    only_text: bool = field(default=True, compare=False)


def read(file: Path, places: Mapping[Path_, str] | None = None) -> EncryptedFile:
    """Read the encrypted file.

    Args:
        places: path -> the name that stack.yaml gives the value there.

    Raises:
        Refused: it does not exist.
        KeyUnusable: it is damaged, or not encrypted.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise Refused(
            "secrets-file-missing",
            f"There is no {file.name}.",
            looked_at=[str(file)],
            next_command="invoke secrets.init",
        ) from None
    return examine(content, file.name, places)


def examine(content: bytes, name: str, places: Mapping[Path_, str] | None = None) -> EncryptedFile:
    """Examine an encrypted file's bytes.

    Args:
        name: the file's name, whose extension tells its form.
        places: path -> the name that stack.yaml gives the value there.

    Raises:
        KeyUnusable: empty, truncated, plaintext, several documents, not flat, or a value or name sops would mishandle.
    """
    if not content.strip():
        raise _damaged(name, "is empty")
    try:
        loaded = forms.tree_of(content, forms.form_of(name))
    except ValueError as error:
        raise _damaged(name, str(error)) from error
    if not isinstance(loaded, dict):
        raise _damaged(name, "is not one flat mapping")
    metadata = loaded.pop("sops", None)
    if not isinstance(metadata, dict):
        if any("ENC[" in str(value) for _, value in forms.flat(loaded)):
            raise _damaged(name, "is truncated: it has encrypted values, and nothing of how to decrypt them")
        raise _in_clear(name)
    if not _ENCRYPTED.fullmatch(str(metadata.get("mac"))) or not metadata.get("lastmodified"):
        raise _damaged(name, "is truncated: it has no complete MAC, or no time of last change")
    try:
        modified = datetime.fromisoformat(str(metadata["lastmodified"]))
    except ValueError:
        raise _damaged(name, "has an invalid time of last change") from None
    try:
        paths = _paths(name, loaded, metadata, places or {})
    except RecursionError:
        raise _damaged(name, "has an alias inside its own anchor") from None
    only_text = all(value == "" or _ENCRYPTED.fullmatch(str(value)) for _, value in forms.flat(loaded))
    recipients, at = _recipients(name, metadata), modified.replace(tzinfo=UTC)
    return EncryptedFile(content, tuple(paths), recipients, at, paths, only_text)


def _paths(
    file: str, values: dict[str, Any], metadata: Mapping[str, Any], places: Mapping[Path_, str]
) -> dict[str, Path_]:
    """Return name -> the place of its value."""
    # Our own flat files have only names that every program accepts unchanged.
    ours = forms.form_of(file) == "yaml" and not places
    found: dict[str, Path_] = {}
    for number, (path, value) in enumerate(forms.flat(values), 1):
        if number > MOST:
            raise _damaged(file, f"has more than {MOST} values")
        leaves = _leaves(value)
        left_open = not ours and _is_left_open(path, leaves, metadata)
        if ours:
            _require_plain(file, number, path, value)
        elif not left_open and not all(map(_ENCRYPTED_ANYHOW.fullmatch, leaves)):
            raise _damaged(file, f"has {'.'.join(path)} unencrypted, or not as text")
        if (left_open and path not in places) or (not leaves and value != ""):
            continue
        name = places.get(path) or forms.called(path)
        if name in found:
            raise _damaged(file, f"has {'.'.join(found[name])} and {'.'.join(path)}, which would both be {name}")
        found[name] = path
    return found


def _require_plain(file: str, number: int, path: Path_, value: object) -> None:
    """Refuse what only files of other people have."""
    if not NAME.fullmatch(path[0]):
        raise _damaged(file, f"has a name, number {number}, that sops or a shell would mishandle")
    if len(path) > 1 or isinstance(value, list):
        kind = "dict" if len(path) > 1 else "list"
        raise _damaged(file, f"is not flat: {path[0]} is a {kind}")
    # sops leaves an empty string empty.
    if value != "" and not _ENCRYPTED.fullmatch(str(value)):
        raise _damaged(file, f"has {path[0]} unencrypted, or not as text")


def _leaves(value: object) -> list[str]:
    """Return the scalars of a value that say anything; sops encrypts each by itself, also in a list."""
    left, found = [value], list[str]()
    for _ in range(MOST):
        if not left:
            return found
        one = left.pop()
        if isinstance(one, list | dict):
            left += one.values() if isinstance(one, dict) else one
        elif one is not None and one != "":
            found.append(str(one))
    return ["too many to look at"]


def _is_left_open(path: Path_, leaves: Collection[str], metadata: Mapping[str, Any]) -> bool:
    """Return whether sops has left a value unencrypted by the rules that the file itself carries.

    Regular expressions of strangers are not tried: sops refuses to decrypt a file that does not agree with them.
    """
    if any(map(_ENCRYPTED_ANYHOW.fullmatch, leaves)):
        return False
    suffix, only = (str(metadata.get(f"{kind}_suffix") or "") for kind in ("unencrypted", "encrypted"))
    if suffix or only:
        open_ = suffix and any(key.endswith(suffix) for key in path)
        return bool(open_ or (only and not any(key.endswith(only) for key in path)))
    return any(metadata.get(f"{kind}_regex") for kind in ("unencrypted", "encrypted"))


def _recipients(file: str, metadata: dict[str, Any]) -> tuple[str, ...]:
    entries = metadata.get("age") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "recipient" in entry for entry in entries):
        raise _damaged(file, "has recipients that cannot be read")
    foreign = [kind for kind in ("kms", "gcp_kms", "azure_kv", "hc_vault", "pgp", "hckms") if metadata.get(kind)]
    if foreign or metadata.get("key_groups") or metadata.get("shamir_threshold"):
        raise _damaged(file, f"is encrypted to more than age keys ({', '.join(foreign) or 'key groups'})")
    return tuple(str(entry["recipient"]) for entry in entries)


def declared_recipients(root: Path, file: Path) -> tuple[str, ...]:
    """Return the recipients that .sops.yaml names for the encrypted file.

    Raises:
        KeyUnusable: .sops.yaml is missing, broken, or has no rule for the file.
    """
    config = root / ".sops.yaml"
    rule = _rule(config, file)
    if rule is None or "age" not in rule:
        missing = "is missing" if not config.exists() else f"has no rule with age recipients for {file.name}"
        raise _config(config, missing, f"invoke secrets.init    # writes the recipients of {file.name} there")
    named = listed(rule["age"])
    if not named:
        raise _config(
            config, f"names no age recipient for {file.name}", "invoke secrets.init    # once that rule is removed"
        )
    return named


def is_declared(root: Path, file: Path) -> bool:
    """Return whether .sops.yaml has a rule for a file; raises `KeyUnusable` if it is broken."""
    return _rule(root / ".sops.yaml", file) is not None


def _rule(config: Path, file: Path) -> Mapping[str, object] | None:
    """Return the rule that sops would use for a file, if there is one."""
    try:
        rules = (shallow_yaml.load(config.read_text(encoding="utf-8")) or {}).get("creation_rules") or []
        path = str(file.relative_to(config.parent))
        return next((dict(rule) for rule in rules if re.search(rule.get("path_regex") or "", path)), None)
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, re.error) as error:
        raise _config(config, "is broken", "invoke secrets.init    # once it is mended or removed") from error


def listed(recipients: object) -> tuple[str, ...]:
    """Return the recipients under `age` in a rule: a list, or text with commas, which sops lets end with one."""
    words = recipients.split(",") if isinstance(recipients, str) else recipients
    return tuple(filter(None, (str(one or "").strip() for one in (words if isinstance(words, list) else []))))


def require_same_recipients(
    document: EncryptedFile, declared: Sequence[str], file: str, moving: Collection[str] = ()
) -> None:
    """Refuse a file that somebody else's key can read, or could after the next rotation.

    Args:
        moving: recipients being added or removed, which may be in only one of the file and .sops.yaml.

    Raises:
        KeyUnusable: the file and .sops.yaml name different recipients.
    """
    found = sorted(one for one in document.recipients if one not in moving)
    wanted = sorted(one for one in declared if one not in moving)
    if found == wanted:
        return
    extra = sorted(set(found) - set(wanted)) or [one for one in set(found) if found.count(one) > 1]
    missing = sorted(set(wanted) - set(found))
    said = [f"{file} lists {', '.join(extra)}, which .sops.yaml does not" if extra else ""]
    said += [f".sops.yaml lists {', '.join(missing)}, which {file} does not" if missing else ""]
    raise KeyUnusable(
        "recipients-differ",
        "; ".join(part for part in said if part) + ". Nothing was written: the next rotation would obey the file.",
        looked_at=[file, ".sops.yaml"],
        next_command="invoke secrets.recipients.list\ngit log -p -- .sops.yaml " + file,
    )


def _damaged(file: str, how: str) -> KeyUnusable:
    return KeyUnusable(
        "secrets-damaged",
        f"{file} {how}. Nothing was written.",
        looked_at=[file],
        next_command=last_committed(file),
    )


def _in_clear(file: str) -> KeyUnusable:
    moved = f"{PurePosixPath(file).stem}.clear{PurePosixPath(file).suffix}"
    return KeyUnusable(
        "secrets-damaged",
        f"{file} is NOT ENCRYPTED: do not commit it. Nothing was written.",
        looked_at=[file],
        next_command=f"mv -n {file} /dev/shm/{moved} && chmod 600 /dev/shm/{moved}    # memory\n"
        f"git checkout -- {file}    # if git has it\ninvoke secrets.encrypt /dev/shm/{moved} --merge",
    )


def last_committed(file: str) -> str:
    """Return what to type for the last committed encrypted file; the present one may have values that git has not."""
    return f"git diff {file}\ncp -ip {file} ~/    # it may have values that git has not\ngit checkout -- {file}"


def _config(config: Path, how: str, otherwise: str = "") -> KeyUnusable:
    return KeyUnusable(
        "sops-config-unusable",
        f".sops.yaml {how}.",
        looked_at=[str(config)],
        next_command="\n".join(filter(None, ("git checkout -- .sops.yaml" if _is_tracked(config) else "", otherwise))),
    )


def _is_tracked(file: Path) -> bool:
    """Return whether git has a file, or cannot be asked; one that never was there cannot be brought back."""
    with contextlib.suppress(ConcheError):
        asked = ["git", "-C", str(file.parent), "ls-files", "--error-unmatch", "--", file.name]
        return run(asked, timeout=10).ok
    return True
