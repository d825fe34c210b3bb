"""The encrypted file, as far as it can be read without a key: names, recipients, damage.

The recipients in a SOPS file are not authenticated: whoever can write the file can add one, and the next rotation would
encrypt to it. So they are compared with .sops.yaml before every change.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from conche.errors import KeyUnusable, Refused

__all__ = ["NAME", "EncryptedFile", "declared_recipients", "examine", "read", "require_same_recipients"]

NAME = re.compile(r"(?!sops)[a-z][a-z0-9_]*(?<!_unencrypted)")
"""A secret's name: what a shell, dotenv and sops all take as it is. sops stores `*_unencrypted` in clear."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C, which is many times as fast, where PyYAML was built with it."""

_ENCRYPTED = re.compile(r"ENC\[AES256_GCM,data:[A-Za-z0-9+/=]*,iv:[A-Za-z0-9+/=]+,tag:[A-Za-z0-9+/=]+,type:str\]")


@dataclass(frozen=True)
class EncryptedFile:
    """An encrypted file that is whole.

    Attributes:
        content: its bytes.
        names: of its secrets, in the file's order.
        recipients: age1…, as the file has them.
        modified: when sops last wrote it, in UTC; the MAC covers it, so that it cannot be changed alone.
    """

    content: bytes
    names: tuple[str, ...]
    recipients: tuple[str, ...]
    modified: datetime


def read(file: Path) -> EncryptedFile:
    """The encrypted file.

    Raises:
        Refused: it is not there.
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
    return examine(content, file.name)


def examine(content: bytes, name: str) -> EncryptedFile:
    """The same from its bytes.

    Raises:
        KeyUnusable: empty, truncated, plaintext, several documents, not flat, or a value or name sops would mishandle.
    """
    if not content.strip():
        raise _damaged(name, "is empty")
    loader: Any = _Loader(content)
    try:
        content.decode()
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise _damaged(name, "is not one flat mapping")
        keys = [str(key.value) for key, _ in node.value]
        loaded: dict[str, Any] = loader.construct_document(node)
    except yaml.composer.ComposerError as error:
        raise _damaged(name, "is not one flat mapping") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise _damaged(name, "is not YAML: truncated, or edited by hand") from error
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise _damaged(name, f"has {', '.join(twice)} twice")
    metadata = loaded.pop("sops", None)
    if not isinstance(metadata, dict):
        raise _damaged(name, "is NOT ENCRYPTED, or truncated: do not commit it")
    if not _ENCRYPTED.fullmatch(str(metadata.get("mac"))) or not metadata.get("lastmodified"):
        raise _damaged(name, "is truncated: it has no whole MAC, or no time of its last change")
    try:
        modified = datetime.fromisoformat(str(metadata["lastmodified"]))
    except ValueError:
        raise _damaged(name, "has a time of its last change that is none") from None
    return EncryptedFile(content, _names(name, loaded), _recipients(name, metadata), modified.replace(tzinfo=UTC))


def _names(file: str, values: dict[str, Any]) -> tuple[str, ...]:
    for number, (name, value) in enumerate(values.items(), 1):
        if not NAME.fullmatch(str(name)):
            raise _damaged(file, f"has a name, number {number}, that sops or a shell would mishandle")
        if isinstance(value, (dict, list)):
            raise _damaged(file, f"is not flat: {name} is a {type(value).__name__}")
        # sops leaves an empty string empty.
        if value != "" and not _ENCRYPTED.fullmatch(str(value)):
            raise _damaged(file, f"has {name} in clear, or not as text")
    return tuple(values)


def _recipients(file: str, metadata: dict[str, Any]) -> tuple[str, ...]:
    entries = metadata.get("age") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "recipient" in entry for entry in entries):
        raise _damaged(file, "has recipients that cannot be read")
    foreign = [kind for kind in ("kms", "gcp_kms", "azure_kv", "hc_vault", "pgp", "hckms") if metadata.get(kind)]
    if foreign or metadata.get("key_groups") or metadata.get("shamir_threshold"):
        raise _damaged(file, f"is encrypted to more than age keys ({', '.join(foreign) or 'key groups'})")
    return tuple(str(entry["recipient"]) for entry in entries)


def declared_recipients(root: Path, file: Path) -> tuple[str, ...]:
    """The recipients that .sops.yaml names for the encrypted file.

    Raises:
        KeyUnusable: .sops.yaml is missing, broken, or has no rule for the file.
    """
    config = root / ".sops.yaml"
    try:
        rules = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("creation_rules") or []
        path = str(file.relative_to(root))
        rule = next(rule for rule in rules if re.search(rule.get("path_regex") or "", path))
        recipients = rule["age"]
    except FileNotFoundError:
        raise _config(config, "is missing") from None
    except (yaml.YAMLError, AttributeError, TypeError, re.error) as error:
        raise _config(config, "is broken") from error
    except (StopIteration, KeyError):
        raise _config(config, f"has no rule with age recipients for {file.name}") from None
    # sops takes a comma at the end too.
    listed = recipients.split(",") if isinstance(recipients, str) else recipients
    listed = listed if isinstance(listed, list) else []
    named = tuple(filter(None, (str(recipient or "").strip() for recipient in listed)))
    if not named:
        raise _config(config, f"names no age recipient for {file.name}")
    return named


def require_same_recipients(
    document: EncryptedFile, declared: Sequence[str], file: str, moving: Collection[str] = ()
) -> None:
    """Refuse a file that somebody else's key could read, or the next rotation would let read.

    Args:
        moving: recipients that are just coming or going, and may be in one of the two already.
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
        next_command=f"git diff {file}\ngit checkout -- {file}    # the last committed one",
    )


def _config(config: Path, how: str) -> KeyUnusable:
    return KeyUnusable(
        "sops-config-unusable",
        f".sops.yaml {how}.",
        looked_at=[str(config)],
        next_command="git checkout -- .sops.yaml, or in a new project: invoke secrets.init",
    )
