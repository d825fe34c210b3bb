"""The type of a secret, and the redaction of text that might hold one."""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Iterable
from typing import NoReturn

__all__ = ["MASK", "SECRET_NAME", "Captured", "Redactor", "Secret", "forms"]

MASK = "***"

SECRET_NAME = re.compile(r"(token|key|password|passwd|passphrase|secret|credential)", re.IGNORECASE)
"""Names of variables whose values are not shown."""

SHORTEST_REDACTED = 6
"""Characters. A shorter value stands in too much innocent text to be searched for."""


class Secret:
    """A value that prints as `***` wherever it is printed; `reveal()` is the one way to it.

    Two secrets compare equal when their values do. Secrets are not hashable and not picklable: either would let the
    value out by a side door.
    """

    __slots__ = ("__value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """The value itself. Call it as late as possible, and never into argv or a log."""
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
    """Replaces known secret values, and the forms in which tools write them, by `***`.

    A value of six characters or more is found as it is, line by line, and as base64, URL-quoted, JSON-quoted and with
    each `$` doubled as Compose does.
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._forms: list[str] = []
        self._learning = threading.Lock()
        self.learn(secrets)

    def learn(self, secrets: Iterable[Secret]) -> None:
        """Redact these too, from now on."""
        self._add(form for secret in secrets for form in forms(secret.reveal()))

    def adopt(self, other: Redactor) -> None:
        """Redact what another one does, too."""
        self._add(other._forms)

    def _add(self, found: Iterable[str]) -> None:
        # Several environments are looked at in threads, and what one of them has learnt must not be lost.
        with self._learning:
            # The longest first, so that no part of a value stays behind a shorter one.
            self._forms = sorted({*self._forms, *found}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        return text


class Captured:
    """What a program wrote, in two forms: `raw` for whoever reads it, and redacted for whoever shows it.

    It is no `str`, so that neither is taken for the other: text that was redacted and is then read hands `***` on as if
    it were a value. All that is done to a text to show it (str, repr, format) gives the redacted form.
    """

    __slots__ = ("__raw", "__redact")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, raw: str, redact: Redactor | None = None) -> None:
        self.__raw = raw
        self.__redact = redact or Redactor()

    @property
    def raw(self) -> str:
        """As it was written: to be read, and never to be shown or to stand in an error."""
        return self.__raw

    def lines(self) -> list[str]:
        """The lines of the redacted form; redacted as a whole, because a secret may have several."""
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
        # What Compose renders is both: in JSON, and with each `$` doubled.
        *(json.dumps(one, ensure_ascii=ascii_)[1:-1] for one in (value, doubled) for ascii_ in (True, False)),
        *(line for line in value.splitlines() if len(line) >= SHORTEST_REDACTED),
    }
