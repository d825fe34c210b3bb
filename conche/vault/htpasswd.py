"""Makes a password file for a server such as the registry: one line, `user:bcrypt`.

A bcrypt hash has a random salt, so the same password never gives the same line twice: a line that still matches is
kept.
Source: https://httpd.apache.org/docs/2.4/misc/password_encryptions.html
"""

from __future__ import annotations

from pathlib import Path

from conche.errors import Refused
from conche.secret import Secret

__all__ = ["line"]

ROUNDS = 10
"""The cost, as a power of two. The registry checks the password at every request, which takes it about 50 ms."""

LONGEST = 72
"""Bytes of a password that bcrypt uses."""


def line(file: Path, user: Secret, password: Secret) -> bytes:
    """Return the content that `file` should have: its present one if that matches this user and password.

    Raises:
        Refused: the user or the password cannot be used in such a file.
    """
    import bcrypt

    name, secret = user.reveal().encode(), password.reveal().encode()
    if not name or set(name) & set(b":\r\n") or b"\0" in secret or not 0 < len(secret) <= LONGEST:
        raise Refused(
            "htpasswd-impossible",
            f"{file.name} cannot be made: a user has no colon or line break, and a password 1 to {LONGEST} bytes.",
            next_command="invoke secrets.set NAME    # the one that is wrong\ninvoke secrets.list",
        )
    kept = file.read_bytes() if file.is_file() else b""
    if _fits(kept, name, secret):
        return kept
    return name + b":" + bcrypt.hashpw(secret, bcrypt.gensalt(ROUNDS)) + b"\n"


def _fits(kept: bytes, name: bytes, secret: bytes) -> bool:
    import bcrypt

    user, _, hashed = kept.rstrip(b"\n").partition(b":")
    try:
        return user == name and bcrypt.checkpw(secret, hashed)
    except ValueError:
        return False
