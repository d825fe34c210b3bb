"""What entries of a component come back without, counted by what it is; a few of their names are said."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Losses", "shown"]

NAMED = 3
"""How many names are said of each loss."""


@dataclass
class Losses:
    """What entries come back without."""

    _names: dict[str, list[str]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, lost: str, name: str | bytes) -> None:
        """Count an entry that comes back without something, such as `the sticky bit`."""
        self._counts[lost] = self._counts.get(lost, 0) + 1
        if len(names := self._names.setdefault(lost, [])) < NAMED:
            names.append(shown(name))

    def update(self, other: Losses) -> None:
        """Count what others come back without, too."""
        for lost, count in other._counts.items():
            self._counts[lost] = self._counts.get(lost, 0) + count
            self._names[lost] = [*self._names.get(lost, ()), *other._names[lost]][:NAMED]

    def warnings(self, component: str) -> list[str]:
        """Return a warning for each kind of loss."""
        return [self._warning(component, lost, count) for lost, count in self._counts.items()]

    def _warning(self, component: str, lost: str, count: int) -> str:
        entries = "entry" if count == 1 else "entries"
        some = ", ".join(self._names[lost]) + (" and others" if count > NAMED else "")
        return f"{component}: {count} {entries} came back without {lost}: {some}; set it by hand where it is wanted"


def shown(name: str | bytes) -> str:
    """Return a name as it can be printed."""
    text = name if isinstance(name, str) else name.decode(errors="surrogateescape")
    return text.encode(errors="backslashreplace").decode()
