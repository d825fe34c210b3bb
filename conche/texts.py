"""Reads text files that somebody else has written: up to a size, and only UTF-8."""

from __future__ import annotations

from pathlib import Path

from conche.errors import Refused

__all__ = ["read_text", "require_small"]


def require_small(path: Path, name: str, *, most: int = 1 << 20) -> None:
    """Check the size of a text file that somebody else has written.

    Args:
        name, most: as for `read_text`.

    Raises:
        Refused: it is larger, or cannot be looked at.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, name, error) from error
    if size > most:
        raise Refused(
            "text-too-large",
            f"{name} has {size} bytes; at most {most} can be read.",
            looked_at=[str(path)],
            next_command="split it: `include:` takes further Compose files"
            if path.suffix in (".yaml", ".yml")
            else "make it smaller",
        )


def _unreadable(path: Path, name: str, error: OSError) -> Refused:
    return Refused("file-unreadable", f"{name} cannot be read: {error.strerror}.", looked_at=[str(path)])


def read_text(path: Path, name: str, *, most: int = 1 << 20) -> str:
    """Read a text file that somebody else has written.

    Args:
        name: its name in error messages.
        most: its maximum size in bytes.

    Raises:
        Refused: it is larger, is not UTF-8, or cannot be read.
    """
    require_small(path, name, most=most)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, name, error) from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        line = content[: error.start].count(b"\n") + 1
        raise Refused(
            "text-not-utf8",
            f"{name}, line {line}, is not UTF-8; it looks like {encoding}.",
            looked_at=[f"{name}:{line}"],
            next_command=f"iconv -f {encoding} -t UTF-8 '{name}' > '{name}.utf8' && mv '{name}.utf8' '{name}'",
        ) from error
