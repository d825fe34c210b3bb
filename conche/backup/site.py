"""What every backup command needs: the section in stack.yaml, the target, and the checkout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from conche.backup.mac_keys import known_keys, readable_secrets
from conche.backup.target import Target
from conche.command import Invocation
from conche.errors import Refused
from conche.files import write_atomic
from conche.secret import Secret
from conche.stack import Backup, Component, Stack

if TYPE_CHECKING:
    from conche.engine.connection import Engine

__all__ = ["Site", "open_site"]

OWN = ".backup"
"""Folder of the checkout for restores: what is staged, and the old data that they have put aside."""


@dataclass(frozen=True)
class Site:
    """A checkout and where its backups go.

    Attributes:
        say: prints one line of progress.
        secrets: returns every value of the stack's encrypted files that can be read.
    """

    root: Path
    stack: Stack
    section: Backup
    target: Target
    say: Callable[[str], None]
    secrets: Callable[[], Sequence[Secret]] = tuple

    @property
    def own(self) -> Path:
        """The checkout's folder for restores."""
        return self.root / OWN

    def make_own(self) -> None:
        """Make that folder, private and ignored by git."""
        self.own.mkdir(mode=0o700, exist_ok=True)
        write_atomic(self.own / ".gitignore", b"*\n")

    def engine(self, component: Component) -> Engine:
        """Return the engine of a component's environment."""
        from conche.engine.connection import Engine

        assert component.environment is not None
        return Engine(self.stack.environments[component.environment].engine)

    def never(self) -> tuple[str, ...]:
        """Return names that no local component backs up, in addition to `reading.NEVER`: the rendered secrets."""
        folder = str(self.stack.secrets.folder) if self.stack.secrets else ""
        return (folder, f"{folder}/*") if folder else ()


def open_site(call: Invocation, use: Literal["known", "anew", "any"] = "known") -> Site:
    """Return the site of a call.

    Args:
        use: how to treat the target if it lacks the mark that it had (target.py).

    Raises:
        Refused: stack.yaml has no section `backup`.
    """
    section = call.stack.backup
    if section is None:
        raise Refused(
            "no-backup-declared",
            "stack.yaml has no section `backup`.",
            next_command="add it as in: conche docs stack",
        )
    folder = section.target or Path(f"../{call.stack.name}-backups")
    keys = cache(lambda: known_keys(call.vault))
    target = Target((call.root / folder.expanduser()).resolve(), call.stack.name, use, keys)
    return Site(call.root, call.stack, section, target, call.output.say, cache(lambda: readable_secrets(call.vault)))
