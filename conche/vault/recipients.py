"""New identities, and recipients that the encrypted file and .sops.yaml name together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from conche.files import write_atomic
from conche.vault import keys
from conche.vault.keys import Key

__all__ = ["new_key", "write_key", "write_recipients"]

PLAIN = r"\.sops/secrets\.yaml"
"""Where the plain secrets stand for whoever calls `sops --encrypt` by hand; git ignores the folder."""


def write_recipients(root: Path, file: Path, recipients: tuple[str, ...]) -> None:
    """The rule for the encrypted file in .sops.yaml; rules for other files, and what else stands there, are kept.

    It is also that for the plain file which people encrypt by hand into it: sops asks for a rule of what it reads.
    """
    name = str(file.relative_to(root)).replace(".", r"\.")
    both, alone = f"^({name}|{PLAIN})$", f"^{name}$"
    before = _sops_configuration(root / ".sops.yaml")
    others = [one for one in before.get("creation_rules") or () if one.get("path_regex") not in (both, alone)]
    # Of several encrypted files, the first one is what people encrypt into by hand.
    taken = any(str(one.get("path_regex")).endswith(f"|{PLAIN})$") for one in others)
    rule = {"path_regex": alone if taken else both, "age": list(recipients)}
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


def new_key(file: Path) -> Key:
    """An identity of one's own in a file that nobody else may read."""
    secret, public = keys.generate()
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_key(file, [secret.reveal()])
    return Key(str(file), secret, (public,))


def write_key(file: Path, identities: list[str]) -> None:
    """Write identities to a key file (0600)."""
    write_atomic(file, keys.as_file(identities).encode(), mode=0o600)
