"""Age keys: chooses the one to use, and checks that it is usable.

sops itself uses every key it finds anywhere, so a broken CI key looks fine on a laptop. Here exactly one source is
used, the first of: SOPS_AGE_KEY, SOPS_AGE_KEY_FILE, .sops/age-key.txt, ~/.config/sops/age/keys.txt.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conche.errors import KeyUnusable
from conche.secret import Secret

__all__ = ["PREFIX", "Key", "as_file", "find", "generate", "looked_at", "public_of", "public_or_none", "require"]

DEFAULT_FILE = Path(".sops/age-key.txt")
"""Where a checkout keeps its key, relative to stack.yaml."""

PREFIX = "AGE-SECRET-KEY-1"
"""How every private age key begins."""

_ENCRYPTED = ("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE-----")
"""How files encrypted by age begin, in binary and in armoured form (C2SP, age)."""


@dataclass(frozen=True)
class Key:
    """The identities that will be used.

    Attributes:
        source: where they were found.
        identities: age secret keys, one per line.
        public: their recipients, age1….
    """

    source: str
    identities: Secret = field(repr=False)
    public: tuple[str, ...]


def find(root: Path, environment: Mapping[str, str] | None = None) -> Key | None:
    """Return the key to use, or None if there is none at all.

    Raises:
        KeyUnusable: the first source that is set has a key that is malformed, unreadable, or readable by others.
    """
    given = os.environ if environment is None else environment
    text = given.get("SOPS_AGE_KEY", "")
    if text.strip():
        return _key("SOPS_AGE_KEY", text)
    named = given.get("SOPS_AGE_KEY_FILE", "")
    if named:
        return _from_file(Path(named).expanduser(), "SOPS_AGE_KEY_FILE")
    for place in _default_places(root):
        if place.exists():
            return _from_file(place, str(place))
    return None


def require(root: Path, environment: Mapping[str, str] | None = None) -> Key:
    """Return the key to use.

    Raises:
        KeyUnusable: there is none, with the places searched; or the key found cannot be used.
    """
    key = find(root, environment)
    if key is None:
        raise KeyUnusable(
            "key-missing",
            "There is no age key.",
            looked_at=looked_at(root, environment),
            next_command=f"copy the key from your backup to {DEFAULT_FILE}, then: chmod 600 {DEFAULT_FILE}\n"
            "invoke secrets.init    # in a new project",
        )
    return key


def looked_at(root: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    """Describe the four places where a key is looked for, and whether each is set or present."""
    given = os.environ if environment is None else environment
    variables = [f"{name} ({'set' if given.get(name) else 'unset'})" for name in ("SOPS_AGE_KEY", "SOPS_AGE_KEY_FILE")]
    return variables + [f"{place} ({'there' if place.exists() else 'absent'})" for place in _default_places(root)]


def generate() -> tuple[Secret, str]:
    """Generate an identity and its recipient."""
    from pyrage import x25519

    identity = x25519.Identity.generate()
    return Secret(str(identity)), str(identity.to_public())


def public_of(identity: str) -> str:
    """Return the recipient of an identity; raises pyrage's IdentityError if it is not one."""
    from pyrage import x25519

    return str(x25519.Identity.from_str(identity).to_public())


def as_file(identities: Iterable[str]) -> str:
    """Return a key file's text as age-keygen writes it: each identity below a comment with its recipient."""
    return "".join(f"# public key: {public_of(one)}\n{one}\n" for one in identities)


def public_or_none(identity: str) -> str:
    """Return the recipient of an identity, or an empty string for text that only looks like one."""
    try:
        return public_of(identity)
    except Exception:  # noqa: BLE001 - whatever pyrage raises, the text is nobody's identity
        return ""


def _default_places(root: Path) -> tuple[Path, Path]:
    return root / DEFAULT_FILE, Path.home() / ".config/sops/age/keys.txt"


def _from_file(file: Path, source: str) -> Key:
    try:
        seen = file.stat()
        if not stat.S_ISREG(seen.st_mode):
            raise KeyUnusable("key-not-a-file", f"{file}, from {source}, is not a regular file.", looked_at=[str(file)])
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise KeyUnusable(
            "key-unreadable",
            f"The age key {file}, from {source}, cannot be read: {error.strerror}.",
            looked_at=[str(file)],
            next_command=f"ls -l '{file}'",
        ) from error
    if seen.st_mode & 0o077:
        raise KeyUnusable(
            "key-readable-by-others",
            f"The age key {file} is readable by other users of this machine.",
            looked_at=[f"{file}, mode {stat.S_IMODE(seen.st_mode):04o}"],
            next_command=f"chmod 600 '{file}'",
        )
    return _key(str(file), text)


def _key(source: str, text: str) -> Key:
    """Parse a key from a variable's or file's text, ignoring quotes, CR, blank lines and comments around it."""
    if text.lstrip().startswith(_ENCRYPTED):
        raise KeyUnusable(
            "key-encrypted",
            f"The age key in {source} is itself encrypted, so it cannot be used.",
            looked_at=[source],
            next_command=f"age --decrypt --output {DEFAULT_FILE} FILE    # asks for its passphrase\n"
            f"chmod 600 {DEFAULT_FILE}",
        )
    stripped = (line.strip().strip("\"'").strip() for line in text.strip().strip("\"'").splitlines())
    identities = [line for line in stripped if line and not line.startswith("#")]
    public = []
    for identity in identities:
        try:
            public.append(public_of(identity))
        except Exception:  # noqa: BLE001 - pyrage's error is never shown: it might repeat its input
            raise KeyUnusable(
                "key-malformed",
                f"{source} is not an age key.",
                looked_at=[source],
                next_command=f"a key is one line that begins with {PREFIX}; copy it again from your backup",
            ) from None
    if not identities:
        raise KeyUnusable(
            "key-malformed",
            f"{source} has no age key.",
            looked_at=[source],
            next_command=f"a key is one line that begins with {PREFIX}; copy it again from your backup",
        )
    return Key(source, Secret("\n".join(identities)), tuple(public))
