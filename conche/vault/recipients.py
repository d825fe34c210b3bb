"""Creates key files, and writes the recipients of the encrypted file to .sops.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from conche import shallow_yaml
from conche.files import write_atomic
from conche.vault import keys
from conche.vault.keys import Key

__all__ = ["new_key", "write_key", "write_recipients"]

PLAIN = r"\.sops/secrets\.yaml"
"""The plain secrets of whoever runs `sops --encrypt` by hand; git ignores the folder."""

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
"""Characters with a meaning in a regular expression of sops, which is one of Go (`regexp.QuoteMeta`)."""


def write_recipients(root: Path, file: Path, recipients: tuple[str, ...]) -> None:
    """Write the encrypted file's rule to .sops.yaml, keeping rules for other files and all other content.

    The rule also covers the plain file that people encrypt by hand: sops looks for a rule for the file that it reads.
    """
    name = str(file.relative_to(root))
    both, alone = _patterns(_SPECIAL.sub(r"\\\g<0>", name))
    # Earlier versions escaped only dots.
    own = {both, alone, *_patterns(name.replace(".", r"\."))}
    before = _sops_configuration(root / ".sops.yaml")
    others = [one for one in before.get("creation_rules") or () if one.get("path_regex") not in own]
    # With several encrypted files, the first is the one that people encrypt by hand.
    taken = any(str(one.get("path_regex")).endswith(f"|{PLAIN})$") for one in others)
    rule = {"path_regex": alone if taken else both, "age": list(recipients)}
    # sops uses the first rule that matches, so ours goes first.
    content = {**before, "creation_rules": [rule, *others]}
    head = "# Who can read the encrypted file; secrets.recipients changes this and the file together.\n"
    write_atomic(root / ".sops.yaml", (head + yaml.safe_dump(content, sort_keys=False)).encode())


def _patterns(name: str) -> tuple[str, str]:
    """Return the regular expressions of a rule that covers the plain file too, and of one that does not."""
    return f"^({name}|{PLAIN})$", f"^{name}$"


def _sops_configuration(file: Path) -> dict[str, Any]:
    """Return the content of .sops.yaml; empty if sops would not understand it."""
    try:
        said = shallow_yaml.load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    rules = said.get("creation_rules") if isinstance(said, dict) else None
    return said if isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules) else {}


def new_key(file: Path) -> Key:
    """Generate a key and write it to a file that nobody else may read."""
    secret, public = keys.generate()
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_key(file, [secret.reveal()])
    return Key(str(file), secret, (public,))


def write_key(file: Path, identities: list[str]) -> None:
    """Write identities to a key file (0600)."""
    write_atomic(file, keys.as_file(identities).encode(), mode=0o600)
