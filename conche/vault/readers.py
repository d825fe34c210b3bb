"""Who can read the secrets of a checkout, and what files that come from elsewhere would change in that.

An age key, the rules of .sops.yaml and the recipients of an encrypted file decide it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from conche import shallow_yaml
from conche.errors import KeyUnusable, Refused
from conche.vault import encrypted, forms, keys

__all__ = ["RULES", "Access", "Readers"]

RULES = Path(".sops.yaml")

_PUBLIC = re.compile(r"age1[0-9a-z]+|ssh-[0-9a-z-]+ [0-9A-Za-z+/=]+( [0-9A-Za-z@._+-]+)?", re.ASCII)
"""An age recipient, of a plugin too, or an SSH public key with its comment."""

MOST = 10_000
"""Maximum number of values in rules, with every alias resolved: YAML can say millions of them in a few lines."""


@dataclass(frozen=True)
class Access:
    """Something that decides who can read the secrets, as it is and as it would be.

    Attributes:
        what: what it is, for messages.
        present: the public keys that it has now.
        coming: the public keys that it would have.
        known: the public keys that need no acceptance there.
    """

    what: str
    present: tuple[str, ...]
    coming: tuple[str, ...]
    known: frozenset[str]

    @property
    def new(self) -> list[str]:
        """The coming public keys that need acceptance."""
        return [one for one in self.coming if one not in self.known]

    def __str__(self) -> str:
        return f"{self.what}: now {', '.join(self.present) or 'none'}; then {', '.join(self.coming) or 'none'}"


@dataclass(frozen=True)
class _Rule:
    path: str
    recipients: tuple[str, ...]


class Readers:
    """Who can read the secrets at present.

    Args:
        root: the folder with stack.yaml.
        files: the encrypted files, relative to it.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root = root
        self._files = files

    @property
    def places(self) -> tuple[Path, ...]:
        """The files that decide who can read the secrets, relative to stack.yaml."""
        return (keys.DEFAULT_FILE, RULES, *self._files)

    def changes(self, coming: Mapping[Path, bytes]) -> Iterator[Access]:
        """Yield what would become different if these files replaced those that are there.

        Raises:
            KeyUnusable: a file should name keys and does not.
            Refused: .sops.yaml would say more than who can read the secrets.
        """
        for place, content in coming.items():
            if self._read(place) != content:
                yield from (_checked(one) for one in self._of(place, content) if set(one.coming) != set(one.present))

    def _of(self, place: Path, content: bytes) -> list[Access]:
        if place == keys.DEFAULT_FILE:
            return [self._key_change(content)]
        return self._rule_changes(content) if place == RULES else [self._file_change(place, content)]

    def _key_change(self, content: bytes) -> Access:
        """Return what becomes of the age key; a machine without one may take that of any recipient."""
        try:
            # What is replaced is the file, whatever key a variable names for this one command.
            key = keys.find(self._root, {}) or keys.find(self._root)
        except KeyUnusable:
            return Access("the age key", ("one that cannot be used",), _public(content), frozenset())
        if key is not None:
            return Access("the age key", key.public, _public(content), frozenset(key.public))
        listed = [one.recipients for one in self._said[0]] + [self._recipients(place) for place in self._files]
        return Access("the age key", (), _public(content), frozenset().union(*listed))

    def _rule_changes(self, content: bytes) -> list[Access]:
        """Return what becomes of each rule of .sops.yaml.

        The first rule that matches a file counts. So a rule may keep its own recipients only among the same rules in
        the same order; otherwise it may have those who can read everything.
        """
        rules, settings = _parsed(content)
        if strange := sorted(settings - self._said[1]):
            raise Refused(
                "sops-config-foreign",
                f"The {RULES} to restore says more than who can read the secrets, and other things than the one here.",
                looked_at=strange,
                next_command="invoke backup.restore NAME --component secrets --target FOLDER    # compare them",
            )
        present = self._said[0]
        same = [one.path for one in rules] == [one.path for one in present]
        known = [one.recipients for one in present] if same else [self._everywhere] * len(rules)
        return [
            Access(f"{RULES} ({rule.path})", now, rule.recipients, frozenset(now))
            for rule, now in zip(rules, known, strict=True)
        ]

    def _file_change(self, place: Path, content: bytes) -> Access:
        """Return what becomes of the recipients of an encrypted file."""
        now = self._recipients(place) or self._everywhere
        return Access(str(place), now, _recipients(place, content), frozenset(now))

    @cached_property
    def _said(self) -> tuple[list[_Rule], set[str]]:
        """What .sops.yaml says; nothing if it is broken."""
        try:
            return _parsed(self._read(RULES) or b"")
        except KeyUnusable:
            return [], set()

    @cached_property
    def _everywhere(self) -> tuple[str, ...]:
        """The recipients of every rule; without rules, of every encrypted file."""
        listed = [one.recipients for one in self._said[0]]
        listed = listed or [found for place in self._files if (found := self._recipients(place))]
        return tuple(one for one in listed[0] if all(one in other for other in listed)) if listed else ()

    def _recipients(self, place: Path) -> tuple[str, ...]:
        content = self._read(place)
        return _recipients(place, content) if content is not None else ()

    def _read(self, place: Path) -> bytes | None:
        try:
            return (self._root / place).read_bytes()
        except OSError:
            return None


def _checked(change: Access) -> Access:
    """Refuse what is no public key: it is shown in a command that a user is to type."""
    for key in change.coming:
        if not _PUBLIC.fullmatch(key):
            raise KeyUnusable(
                "recipient-malformed",
                f"{change.what} to restore names as a public key what is none.",
                looked_at=[ascii(key[:80])],
                next_command="invoke backup.list    # restore another one",
            )
    return change


def _public(content: bytes) -> tuple[str, ...]:
    lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
    public = tuple(keys.public_or_none(line) for line in lines if line and not line.startswith("#"))
    if not public or not all(public):
        raise KeyUnusable(
            "key-malformed",
            "The age key to restore is none.",
            next_command="invoke backup.list    # restore another one",
        )
    return public


def _parsed(content: bytes) -> tuple[list[_Rule], set[str]]:
    """Return the rules of a .sops.yaml, and everything that it says beside paths and age recipients."""
    try:
        said = shallow_yaml.load(content) or {}
        _require_few(said)
        rules = said.get("creation_rules") or []
        recipients = [encrypted.listed(rule.get("age")) for rule in rules]
        beside = [("", said), *(("creation_rules: ", rule) for rule in rules)]
    except (ValueError, AttributeError, TypeError, RecursionError, yaml.YAMLError):
        raise KeyUnusable(
            "sops-config-unusable",
            f"The {RULES} to restore is broken.",
            next_command="invoke backup.list    # restore another one",
        ) from None
    settings = {
        f"{where}{name}: {json.dumps(value, default=str, sort_keys=True)}"
        for where, part in beside
        for name, value in part.items()
        if name not in ("creation_rules", "path_regex", "age")
    }
    paths = [str(rule.get("path_regex", "")) for rule in rules]
    return [_Rule(*one) for one in zip(paths, recipients, strict=True)], settings


def _require_few(said: Any) -> None:
    left, seen = [said], 0
    while left:
        one = left.pop()
        seen += 1
        if seen > MOST:
            raise ValueError("too many values")
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _recipients(place: Path, content: bytes) -> tuple[str, ...]:
    """Return the recipients of an encrypted file; none of one that Conche would not use, because it is damaged."""
    try:
        metadata = forms.tree_of(content, forms.form_of(place.name))["sops"]
        return tuple(str(one["recipient"]) for one in metadata.get("age") or ())
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return ()
