"""The token that `ci.setup` keeps: a file of mode 600 beside the keys, outside the secret store and its backups.

Its first line is the address of its server, so that it is never sent to another one.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from conche.errors import KeyUnusable
from conche.files import write_atomic
from conche.secret import Secret

__all__ = ["FILE", "helper", "keep", "kept"]

FILE = Path(".sops/forge-token")
"""Relative to stack.yaml; git ignores everything in that folder."""


def kept(root: Path, address: str) -> Secret | None:
    """Return the token for this server, if one is kept.

    Raises:
        KeyUnusable: others may read the file.
    """
    file = root / FILE
    try:
        mode, (of, _, token) = file.stat().st_mode, file.read_text(encoding="utf-8").strip().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if mode & 0o077:
        raise KeyUnusable(
            "key-readable-by-others",
            f"{FILE} holds a token, and other users can read it.",
            next_command=f"chmod 600 {shlex.quote(str(file))}",
        )
    return Secret(token) if of == address and token else None


def keep(root: Path, address: str, token: Secret) -> bool:
    """Keep the token for this server, replacing any kept before; return whether the file changed."""
    file = root / FILE
    file.parent.mkdir(mode=0o700, exist_ok=True)
    return write_atomic(file, f"{address}\n{token.reveal()}\n".encode(), mode=0o600)


def helper(root: Path) -> str:
    """Return git's credential helper for this server (gitcredentials(7)), which keeps the token out of any argv."""
    file = shlex.quote(str(root / FILE))
    return (
        f'!f() {{ test "$1" != get || {{ echo username=token; printf "password=%s\\n" "$(sed -n 2p {file})"; }}; }}; f'
    )
