"""The type of secrets, and the redaction of text that might contain them."""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Iterable
from typing import NoReturn

__all__ = ["MASK", "PASSWORD_IN_URL", "SECRET_NAME", "Captured", "Redactor", "Secret", "forms", "is_secret"]

MASK = "***"

SECRET_NAME = re.compile(
    r"(token|key|password|passwd|passphrase|secret|credential|(?<![a-z])(pg)?pass(?![a-z])"
    r"|_pwd(?![a-z])|_auth\Z)",
    re.IGNORECASE,
)
"""Matches names of variables whose values are not shown; PWD alone is the shell's present folder."""

_PIECE = re.compile(r"[\w+-]{8,}", re.ASCII)

PASSWORD_IN_URL = re.compile(r"://[^/@:\s]{0,256}:([^/@\s]{1,1024})@")
"""A program may print the password alone."""

LONG = 16
"""Characters of which a value with letters and digits is taken for a key, even if all letters are of one kind."""

SHORTEST_REDACTED = 6
"""Characters. A shorter value occurs in too much innocent text to be searched for."""


class Secret:
    """A value that always prints as `***`; only `reveal()` returns it.

    Two secrets are equal if their values are. Secrets are neither hashable nor picklable: either could leak the value.
    """

    __slots__ = ("__value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """Return the value itself; call this as late as possible, and never for argv or a log."""
        return self.__value

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __len__(self) -> int:
        return len(self.__value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self.__value

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied: hand on the object itself")


class Redactor:
    """Replaces known secret values, and the forms in which tools write them, with `***`.

    A value of six characters or more is found as it is, line by line, as base64, URL-quoted, JSON-quoted, and with each
    `$` doubled as Compose does.
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._forms: list[str] = []
        self._learning = threading.Lock()
        self.learn(secrets)

    def learn(self, secrets: Iterable[Secret]) -> None:
        """Redact these secrets too, from now on."""
        self._add(form for secret in secrets for form in forms(secret.reveal()))

    def adopt(self, other: Redactor) -> None:
        """Redact what another redactor redacts, too."""
        self._add(other._forms)

    def _add(self, found: Iterable[str]) -> None:
        # Threads inspect several environments at once, and what one of them has learnt must not be lost.
        with self._learning:
            # Longest first, so that replacing a shorter value leaves no part of a longer one.
            self._forms = sorted({*self._forms, *found}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        return text


def is_secret(name: str, value: str) -> bool:
    """Return whether the value of a variable is to be kept secret, by its name or by what it looks like.

    `production` and `/usr/local/bin` are not: where they are masked, nobody can read what a program says.
    """
    if SECRET_NAME.search(name) or PASSWORD_IN_URL.search(value):
        return True
    return any(map(_is_random, _PIECE.findall(value)))


def _is_random(piece: str) -> bool:
    """Return whether nobody chose this as a word: it has digits, and is long or has letters of both kinds."""
    kinds = [re.search(kind, piece) is not None for kind in ("[0-9]", "[a-z]", "[A-Z]")]
    return all(kinds) or (len(piece) >= LONG and kinds[0] and any(kinds[1:]))


_KNOWS_NOTHING = Redactor()


class Captured:
    """A program's output in two forms: `raw` for parsing, and redacted for showing.

    It is not a `str`, so that the forms are not confused: parsing redacted text would pass `***` on as if it were a
    value. Whatever is done to show it (str, repr, format) gives the redacted form.
    """

    __slots__ = ("__raw", "__redact")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, raw: str, redact: Redactor | None = None) -> None:
        self.__raw = raw
        self.__redact = redact or _KNOWS_NOTHING

    @property
    def raw(self) -> str:
        """The output as written: for parsing, never to be shown or put into an error."""
        return self.__raw

    def lines(self) -> list[str]:
        """Return the lines of the redacted form; redacted as a whole, because a secret may span several lines."""
        return str(self).splitlines()

    def __bool__(self) -> bool:
        return bool(self.__raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Captured) and other.raw == self.__raw

    def __str__(self) -> str:
        return self.__redact(self.__raw)

    def __repr__(self) -> str:
        return f"Captured({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("what a program wrote is not pickled or copied: that would part it from its redaction")


def forms(value: str) -> Iterable[str]:
    if len(value) < SHORTEST_REDACTED:
        return ()
    encoded = base64.b64encode(value.encode()).decode()
    doubled = value.replace("$", "$$")
    return {
        value,
        doubled,
        encoded,
        encoded.rstrip("="),
        urllib.parse.quote(value, safe=""),
        # Compose renders both at once: JSON-quoted, and with each `$` doubled.
        *(json.dumps(one, ensure_ascii=ascii_)[1:-1] for one in (value, doubled) for ascii_ in (True, False)),
        *(line for line in value.splitlines() if len(line) >= SHORTEST_REDACTED),
    }
