"""What a backup has a remnant of, or nothing, while another backup may have it whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from conche.backup.history import History, history
from conche.backup.manifest import ComponentRecord
from conche.backup.site import Site
from conche.backup.target import StoredBackup, is_future
from conche.errors import Refused

__all__ = ["Remnants", "remnants"]


@dataclass(frozen=True)
class Remnants:
    """The components that are asked for and not sound in a backup.

    Attributes:
        backup: the backup's name.
        records: what is asked for.
        worse: why each is not sound.
        better: the newest other backup in which it is, if any.
    """

    backup: str
    records: Mapping[str, ComponentRecord]
    worse: Mapping[str, str]
    better: Mapping[str, str]

    @property
    def is_partial(self) -> bool:
        """Whether one of them is not there at all."""
        return any(self.records[name].absent for name in self.worse)

    def require_none_better(self, command: Callable[[str, Sequence[str]], str], as_they_are: str) -> None:
        """Refuse to restore what another backup has sound.

        Args:
            command: returns the command line that restores components of a backup.
            as_they_are: the one that restores them all the same.
        """
        if not self.better:
            return
        rest = [name for name, record in self.records.items() if name not in self.better and not record.absent]
        raise Refused(
            "component-degraded",
            f"{', '.join(self.better)}: degraded in {self.backup}, and sound in another backup. Nothing was touched.",
            evidence=[f"{name}: {self.worse[name]}" for name in self.better],
            next_command="\n".join(
                [
                    # First what this one has: the key that opens the others may be among it.
                    *([command(self.backup, rest)] if rest else []),
                    *(
                        command(backup, [name for name, other in self.better.items() if other == backup])
                        for backup in dict.fromkeys(self.better.values())
                    ),
                    f"{as_they_are}    # as it is there",
                ]
            ),
        )

    def warnings(self) -> Iterator[str]:
        """Yield what to say once the backup is restored."""
        for name, why in self.worse.items():
            how = "is not in" if self.records[name].absent else "is restored as it is in"
            yield f"{name} {how} {self.backup}: {why}"


def remnants(
    site: Site, found: StoredBackup, records: Mapping[str, ComponentRecord], wanted: Collection[str]
) -> Remnants:
    """Judge what a backup holds of the components that are asked for.

    Args:
        records: all components of the backup.
        wanted: the components that are asked for; all if empty.
    """
    asked = {name: record for name, record in records.items() if not wanted or name in wanted}
    now = datetime.now(UTC)
    past = [one for one in site.target.backups() if one.trusted and not is_future(one.created, now)]
    told = history((one.name, one.manifest) for one in past if one.manifest)
    worse = dict(_worse(told, found.name, asked))
    newest = {name: told.newest[name].backup for name in worse if name in told.newest}
    return Remnants(found.name, asked, worse, {name: other for name, other in newest.items() if other != found.name})


def _worse(told: History, backup: str, records: Mapping[str, ComponentRecord]) -> Iterator[tuple[str, str]]:
    """Yield the components that are not sound, each with the reason; one that may be absent, and is, is not missed."""
    sound = told.sound.get(backup)
    for name, record in records.items():
        if record.harm:
            yield name, "; ".join(record.harm)
        elif sound is not None and not record.absent and name not in sound:
            yield name, "holds a small part of what an earlier backup does"
