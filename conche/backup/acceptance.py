"""Whose keys read the secrets after a restore: those that are new there are shown and accepted before it begins.

Whoever can write to the target can put an age key or recipients of their own into a backup. If a restore took them
without a word, that stranger could read every secret that is set afterwards.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conche.backup import sealing, within
from conche.backup.drivers.keyring import KEY
from conche.backup.exchange import Pair
from conche.backup.site import Site
from conche.backup.source import Source
from conche.backup.staging import opened_key, place_of
from conche.errors import KeyUnusable, Refused
from conche.outcome import Action, Kind, Outcome, Step
from conche.output import Output
from conche.vault import keys
from conche.vault.readers import Access, Readers

__all__ = ["Readership", "examined", "given", "require_staged"]

LARGEST = 16 << 20
"""Maximum bytes that are read of a key, of rules, or of an encrypted file."""


@dataclass(frozen=True)
class Readership:
    """What a restore would change in who can read the secrets.

    Attributes:
        plain: the backup holds an age key that is not encrypted.
        unread: why the age key in it could not be examined; empty if it could.
    """

    changes: tuple[Access, ...] = ()
    plain: bool = False
    unread: str = ""

    @property
    def new(self) -> list[str]:
        """All public keys that need acceptance, each once."""
        return list(dict.fromkeys(key for one in self.changes for key in one.new))

    def as_json(self) -> list[dict[str, object]]:
        """Return what the JSON document says of it."""
        return [
            {"what": one.what, "present": one.present, "coming": one.coming, "to_accept": one.new}
            for one in self.changes
        ]

    def steps(self) -> Iterator[Step]:
        """Yield what a dry run says of it."""
        if self.plain:
            yield Step(Action.REPLACE, Kind.KEY, str(keys.DEFAULT_FILE), "it is not encrypted: needs --plain-key")
        if self.unread:
            yield Step(Action.REPLACE, Kind.KEY, str(keys.DEFAULT_FILE), self.unread)
        for one in self.changes:
            needs = f"; needs{_options(one.new)}" if one.new else ""
            yield Step(Action.REPLACE, Kind.KEY, "", f"{one}{needs}", undo="exchange again")

    def told(self, outcome: Outcome) -> Outcome:
        """Return a restore's outcome with what it has changed in who can read the secrets."""
        assert isinstance(outcome.value, dict)
        lines = [*outcome.lines, *map(str, self.changes)]
        return replace(outcome, value={**outcome.value, "keys": self.as_json()}, lines=lines)

    def accepted(
        self, output: Output, backup: str, again: str, *, accept: Collection[str], plain_key: bool
    ) -> frozenset[str]:
        """Return the public keys that may read the secrets after the restore, and cannot now.

        Args:
            again: the command line that restores it, without the options that accept keys.

        Raises:
            Refused: a key is not accepted, or not encrypted; the error has the command that accepts it.
        """
        plain = " --plain-key" if self.plain else ""
        command = f"{again}{plain}{_options(self.new)}    # only if each of these keys is known to you"
        if self.plain and not plain_key:
            raise Refused(
                "key-is-plain",
                f"The age key in {backup} is not encrypted, so anybody who can write there can have put it there.",
                looked_at=map(str, self.changes),
                next_command=command,
            )
        if missing := [key for key in self.new if key not in accept]:
            if not output.asks:
                raise Refused(
                    "key-not-accepted",
                    f"{backup} would change whose keys read the secrets; {_counted(missing)} not accepted yet.",
                    looked_at=map(str, self.changes),
                    next_command=command,
                )
            for one in self.changes:
                output.say(str(one))
            output.confirm(f"{backup} changes whose keys read the secrets, as shown. Do you know each of these keys?")
        return frozenset(self.new)


def given(words: Sequence[str]) -> frozenset[str]:
    """Return the public keys that were given on the command line, separately or with commas between them.

    Raises:
        Refused: one is a private key.
    """
    public = frozenset(key.strip() for word in words for key in word.split(",") if key.strip())
    if any(key.upper().startswith(keys.PREFIX) for key in public):
        raise Refused(
            "recipient-malformed",
            "--accept-key got a private key, which nobody else may see; it takes the public one.",
            next_command="age-keygen -y .sops/age-key.txt    # shows it",
        )
    return public


def examined(sources: Sequence[Source], *, leniently: bool = False) -> Readership:
    """Examine what a restore would change in who can read the secrets.

    Args:
        leniently: an age key that cannot be opened is no error, but said.

    Raises:
        KeyUnusable: the age key is needed and cannot be opened, or something that should name keys does not.
        Refused: it says more than who can read the secrets.
    """
    coming: dict[Path, bytes] = {}
    plain, unread = False, ""
    for source in sources:
        guarded = _readers(source.site).places
        for link in source.record.links:
            if (place := place_of(source, link.path)) in guarded:
                _require_same_link(source.site.root / place, link.target)
        for artifact in [one for one in source.record.artifacts if not (one.members or one.pieces)]:
            if source.record.driver == "secrets" and artifact.path.endswith(f"/{KEY}"):
                plain = not sealing.is_sealed(_content(source.folder, artifact.path))
                try:
                    if (key := opened_key(source, artifact)) is not None:
                        coming[keys.DEFAULT_FILE] = key
                except KeyUnusable as error:
                    if not leniently:
                        raise
                    unread = error.message
            elif (place := place_of(source, artifact.path)) in guarded:
                coming[place] = _content(source.folder, artifact.path)
    changes = tuple(_readers(sources[0].site).changes(coming)) if sources else ()
    return Readership(changes, plain, unread)


def require_staged(site: Site, pairs: Sequence[Pair], accepted: Collection[str]) -> None:
    """Check that what has been staged is what was accepted: the target may have been written in between.

    Raises:
        Refused: there is a key in it that was not accepted.
    """
    coming: dict[Path, bytes] = {}
    readers = _readers(site)
    for place in readers.places:
        live = site.root / place
        for pair in [one for one in pairs if not one.base and Path(one.live) in (live, *live.parents)]:
            found = Path(pair.staged)
            for part in ("", *live.relative_to(pair.live).parts):
                found = found / part
                if found.is_symlink():
                    _require_same_link(Path(pair.live) / found.relative_to(pair.staged), str(found.readlink()))
                    break
            else:
                if found.exists():
                    coming[place] = _content(found.parent, found.name)
    now = Readership(tuple(readers.changes(coming)))
    if strange := [key for key in now.new if key not in accepted]:
        raise Refused(
            "key-not-accepted",
            f"The backup has changed while it was restored, or an archive in it holds keys: {_counted(strange)} not"
            " accepted.",
            looked_at=map(str, now.changes),
            next_command=f"invoke backup.restore NAME{_options(strange)}    # only if each is known to you",
        )


def _readers(site: Site) -> Readers:
    section = site.stack.secrets
    return Readers(site.root, section.all_files if section else ())


def _content(folder: Path, name: str) -> bytes:
    try:
        return within.content(folder, name, LARGEST)
    except OSError as error:
        raise Refused(
            "file-unreadable",
            f"{name} cannot be read: {error.strerror}.",
            looked_at=[str(folder / name)],
            next_command=f"ls -l {shlex.quote(str(folder / name))}",
        ) from error


def _require_same_link(live: Path, target: str) -> None:
    """Refuse a link in place of what decides who can read the secrets, unless it is there already."""
    if not live.is_symlink() or str(live.readlink()) != target:
        raise Refused(
            "sops-config-foreign",
            f"{live.name} is a link in the backup, and here it is none, or leads elsewhere.",
            looked_at=[f"{live.name} -> {target}"],
            next_command="invoke backup.restore NAME --component secrets --target FOLDER    # compare them",
        )


def _options(public: Sequence[str]) -> str:
    return "".join(f" --accept-key {shlex.quote(key)}" for key in public)


def _counted(public: Sequence[str]) -> str:
    return "1 key is" if len(public) == 1 else f"{len(public)} keys are"
