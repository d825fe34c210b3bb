"""Formats durations and sizes for people."""

from __future__ import annotations

__all__ = ["size", "span"]

_SPANS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def span(seconds: float) -> str:
    """Format a duration in its two largest units, such as `3 d 4 h`; less than a minute in whole seconds."""
    whole = max(int(seconds), 0)
    for large, unit, small, lower in _SPANS:
        if whole >= large:
            return f"{whole // large} {unit} {whole % large // small} {lower}"
    return f"{whole} s"


def size(count: float) -> str:
    """Format a number of bytes in decimal units, such as `225 MB`, as Docker does."""
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.0f} {name}" if count >= 10 * unit else f"{count / unit:.1f} {name}"
    return f"{int(count)} B"
