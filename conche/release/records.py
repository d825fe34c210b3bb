"""Release records: what was deployed, when, by whom, and how it ended; kept in the environment's engine.

A record is written before anything is changed, and never again; how the release ended is kept in a second file. Both
carry a digest of themselves, so that a damaged one is recognised, shown as such and never used.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from conche import formats
from conche.engine.state import State
from conche.errors import Refused
from conche.release.desired import DesiredState
from conche.release.placed import Placed
from conche.release.signing import newest, packed, read, signed, verified

__all__ = ["Ending", "PastRelease", "Placed", "Record", "Records", "Result", "who"]


def who() -> str:
    """Return who releases: in a pipeline whoever has started it, else the user."""
    try:
        return os.environ.get("GITHUB_ACTOR") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


class Result(Enum):
    """How a release ended."""

    SUCCEEDED = "succeeded"
    RESTORED = "restored"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    RUNNING = "running"
    DAMAGED = "damaged"
    NEWER = "newer"


@dataclass(frozen=True)
class Record:
    """A release, as it was planned.

    Attributes:
        number: counts up in each environment, so that the order does not depend on a clock.
        kind: deploy, rollback or scale.
        started: RFC 3339, UTC.
        asked: the image that was asked for, as it was given.
        revision: of the checkout it was deployed from; `dirty` tells whether that was no commit.
        files: service -> digest of what the checkout's files say, to see when they have changed.
        fingerprints: variable or secret -> fingerprint of its value.
        contents: config or secret, as `config rules` -> fingerprint of its content.
        of: the release that a rollback goes back to.
        edge: the name of the edge's configuration, derived from its content; empty if it is not known.
        keeps: the earlier release whose containers stay behind the edge, if only the edge's configuration changes.
        probe: how it is asked whether it answers, as stack.yaml said then; empty if it is not known.
    """

    number: int
    environment: str
    kind: str
    started: str
    who: str
    where: str
    asked: str
    revision: str
    dirty: bool
    services: Mapping[str, Placed]
    files: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    of: int | None = None
    edge: str = ""
    keeps: str = ""
    probe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name: r1, r2, …"""
        return f"r{self.number}"

    @property
    def label(self) -> str:
        """The release id on its containers behind the edge, to which the edge sends requests."""
        return self.keeps or self.id

    def again(
        self, number: int, hashes: Mapping[str, Collection[str]], kept: Mapping[str, Placed] | None = None
    ) -> Record:
        """Return a new release that goes back to this one.

        Args:
            hashes: service -> Compose's hashes of it in the new release.
            kept: services that stay as they are now.
        """
        services = {
            name: replace((kept or {}).get(name, placed), hashes=tuple(sorted(hashes[name])))
            for name, placed in self.services.items()
            if name in hashes
        }
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return replace(
            self, number=number, kind="rollback", of=self.number, started=now, asked=self.id, services=services,
            who=who(), where=socket.gethostname(), keeps="",
        )  # fmt: skip

    def changed_variables(self, before: Record | None) -> list[str]:
        """Return names of variables and secrets that are new, gone or have another value."""
        now, then = self._values(), before._values() if before else {}
        return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))

    def _values(self) -> dict[str, str]:
        """Return variable or secret -> fingerprint, whether a secret is handed over in a variable or in a file."""
        files = {key.removeprefix("secret "): had for key, had in self.contents.items() if key.startswith("secret ")}
        return {**files, **self.fingerprints}

    def carrying(self, made: Mapping[str, Collection[str]]) -> Record:
        """Return a copy in which containers of its services may also carry these hashes."""
        services = {
            name: replace(placed, hashes=tuple(sorted({*placed.hashes, *made.get(name, ())})))
            for name, placed in self.services.items()
        }
        return replace(self, services=services)

    def known_as(self, before: Record | None) -> Record:
        """Return a copy in which unchanged services also keep earlier hashes: Compose versions hash differently."""
        if before is None:
            return self
        old = {name: placed for name, placed in before.services.items() if placed.same_as(self.services.get(name))}
        merged = {
            name: replace(placed, hashes=tuple(sorted({*placed.hashes, *(old[name].hashes if name in old else ())})))
            for name, placed in self.services.items()
        }
        return replace(self, services=merged)


@dataclass(frozen=True)
class Ending:
    """How a release ended.

    Attributes:
        seconds: how long it took.
        cause: the first error, in words; empty for success.
        evidence: last lines, health log, exit codes; redacted.
        made: service -> hashes of its containers that could not be known before, such as of one that shares another
            container's network.
    """

    result: str
    ended: str
    seconds: float
    cause: str = ""
    evidence: Sequence[str] = ()
    made: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class PastRelease:
    """A record and its ending, if it has one; a record that cannot be read is None.

    Attributes:
        damaged: its ending exists but cannot be read.
        newer: what of it a later version has written, in words.
    """

    number: int
    record: Record | None
    ending: Ending | None
    damaged: bool = False
    newer: str = ""

    @property
    def result(self) -> Result:
        if self.newer:
            return Result.NEWER
        if self.record is None or self.damaged:
            return Result.DAMAGED
        return Result(self.ending.result) if self.ending else Result.RUNNING


class Records:
    """The records of one environment, oldest first, read once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._files = state.read()
        self.newer = newest(self._files)
        self._desired = DesiredState.read(self._files)
        self.entries = tuple(self._entries())

    def require_known(self) -> None:
        """Check that all of this may be changed.

        Raises:
            WrittenByNewer: a later version has written some of it, which may be looked at only.
        """
        if self.newer is not None:
            raise self.newer

    @property
    def damaged(self) -> tuple[str, ...]:
        """The small files that are there and cannot be read: what they said is not known."""
        return self._desired.damaged

    def _write(self, files: Mapping[str, bytes]) -> None:
        self.require_known()
        self._state.write(files)

    @property
    def current(self) -> Record | None:
        """The release that serves, or should."""
        good = [e.record for e in self.entries if e.result is Result.SUCCEEDED]
        return good[-1] if good else None

    @property
    def unfinished(self) -> Record | None:
        """The release after the current one that has no readable ending: it is under way, or was killed."""
        after = self.current.number if self.current else 0
        begun = [e.record for e in self.entries if e.record and e.number > after and e.ending is None]
        return begun[-1] if begun else None

    @property
    def following(self) -> int:
        """The number of the next release."""
        return max(_numbers(self._files), default=0) + 1

    def sealed(self, record: Record, what: str = "document") -> bytes | None:
        """Return the encrypted document and environment of a release, or what was there before; None if it is gone."""
        return self._files.get(f"releases/{record.id}/{what}.age")

    @property
    def salt(self) -> bytes | None:
        """The sealed salt of the fingerprints; None before the first release."""
        return self._files.get("salt.age")

    def begin(self, record: Record, sealed: bytes, salt: bytes, standing: bytes = b"") -> None:
        """Keep a record, before anything is changed.

        Args:
            salt: of the fingerprints, sealed anew for everybody who may deploy by now.
            standing: the sealed stack that is there before, on a swarm.
        """
        folder = f"releases/{record.id}"
        # The record comes last: once it is there, so is the rest.
        files = {
            "salt.age": salt,
            f"{folder}/document.age": sealed,
            **({f"{folder}/standing.age": standing} if standing else {}),
            f"{folder}/record.json": signed(formats.RELEASE, asdict(record)),
        }
        self._write(files)

    def end(self, record: Record, ending: Ending) -> None:
        """Keep how a release ended."""
        self._write({f"releases/{record.id}/ending.json": signed(formats.ENDING, asdict(ending))})

    def remade(self, record: Record, made: Mapping[str, Sequence[str]]) -> None:
        """Keep hashes of containers that were made from a release later on."""
        ending = next((entry.ending for entry in self.entries if entry.number == record.number), None)
        if ending is not None and made:
            known = {name: [*ending.made.get(name, ()), *hashes] for name, hashes in made.items()}
            self.end(record, replace(ending, made={**ending.made, **known}))

    def frozen(self) -> Mapping[str, str] | None:
        """Return who has frozen the environment, since when and why; None if it is not frozen."""
        unreadable = {"who": "somebody", "since": "some time", "reason": "its record can no longer be read"}
        said = read(self._files.get("frozen.json"), unreadable)
        known = unreadable if formats.FREEZE.newer(said) else formats.FREEZE.opened(said)
        return {**unreadable, **known} if known else None

    def require_thawed(self, name: str) -> None:
        """Refuse to go on in an environment that is frozen.

        Raises:
            Refused: it is frozen: by whom, since when and why.
        """
        if frozen := self.frozen():
            raise Refused(
                "environment-frozen",
                f"{name} is frozen by {frozen['who']} since {frozen['since']}: {frozen['reason']}",
                next_command=f"invoke env.freeze --env {name} --off",
            )

    def freeze(self, said: Mapping[str, str]) -> None:
        """Freeze the environment; thaw it if nothing is given."""
        self._write({"frozen.json": packed(formats.FREEZE, said)})

    @property
    def maintained(self) -> bool:
        """Whether the edge is to show the maintenance page, whatever is released behind it."""
        return self._desired.maintained

    def maintain(self, *, on: bool) -> None:
        """Keep whether the maintenance page is wanted."""
        self._write({"maintenance.json": packed(formats.MAINTENANCE, {"on": on})})

    def replicas(self) -> Mapping[str, int]:
        """Return service -> how many containers env.scale wants of it."""
        return self._desired.replicas

    def scale(self, replicas: Mapping[str, int]) -> None:
        """Keep how many containers are wanted."""
        self._write({"scale.json": packed(formats.SCALE, {"replicas": dict(replicas)})})

    def handover(self, release: str) -> tuple[str, ...]:
        """Return the ids of the containers that a release stops to give their port to its edge, if any."""
        whose, ids = self._desired.handover
        return ids if whose == release else ()

    def note_handover(self, release: str, ids: Sequence[str]) -> None:
        """Keep which containers a release is about to stop; it counts while the release has no ending."""
        self._write({"handover.json": packed(formats.HANDOVER, {"release": release, "containers": list(ids)})})

    @property
    def scaling(self) -> tuple[str, int] | None:
        """The service that is being scaled, or was when the command was killed, and the number it settles at."""
        return self._desired.scaling

    def note_scaling(self, service: str = "", count: int = 0) -> None:
        """Note that a service is being scaled, and the number it settles at if interrupted; or clear that note."""
        said = {"service": service, "count": count} if service else {}
        self._write({"scaling.json": packed(formats.SCALING, said)})

    def forget(self, keep: int) -> None:
        """Forget all releases but the newest `keep` and the one that serves."""
        current = self.current
        old = [entry for entry in self.entries[:-keep] if current is None or entry.number != current.number]
        if old:
            self.require_known()
            self._state.remove(f"releases/r{entry.number}" for entry in old)

    def _entries(self) -> list[PastRelease]:
        written = [path for path in self._files if path.endswith(("/record.json", "/ending.json"))]
        return [self._entry(number) for number in sorted(_numbers(written))]

    def _entry(self, number: int) -> PastRelease:
        folder = f"releases/r{number}"
        said = verified(self._files.get(f"{folder}/record.json"))
        written = self._files.get(f"{folder}/ending.json")
        ended = verified(written)
        if newer := formats.RELEASE.newer(said) or formats.ENDING.newer(ended):
            return PastRelease(number, None, None, newer=newer.brief)
        try:
            record = _record(said) if said else None
            ending = _ending(ended) if ended else None
            record = record.carrying(ending.made) if record and ending else record
            return PastRelease(number, record, ending, damaged=written is not None and ended is None)
        except (TypeError, KeyError, AttributeError):
            return PastRelease(number, None, None)


def _numbers(paths: Iterable[str]) -> set[int]:
    """Return the numbers of the releases that these files belong to."""
    return {int(match[1]) for path in paths if (match := re.match(r"releases/r(\d+)/", path))}


def _record(said: Mapping[str, Any]) -> Record:
    """Build a record, without fields that a later version has added."""
    known = {key: value for key, value in said.items() if key in Record.__dataclass_fields__}
    return Record(**{**known, "services": {name: Placed.read(one) for name, one in said["services"].items()}})


def _ending(said: Mapping[str, Any]) -> Ending:
    known = {key: value for key, value in said.items() if key in Ending.__dataclass_fields__}
    return Ending(**{**known, "evidence": tuple(said["evidence"])})
