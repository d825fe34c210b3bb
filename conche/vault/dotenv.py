r"""Writes values to a .env file so that python-dotenv and Compose read the same.

The two agree on less than it seems: Compose expands `$` in double quotes and python-dotenv does not; python-dotenv
turns `\\` into `\` in single quotes and Compose does not; an unquoted value ends where either sees a comment. `quote`
uses only what they have in common, and a value outside that is refused rather than delivered wrong. `docker run
--env-file` and a shell's `source` have other syntaxes: these files are not for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO

from dotenv.parser import parse_stream

from conche.errors import Refused
from conche.secret import Secret

__all__ = ["named", "parse", "quote", "render"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=~^-]*")
_NEVER = re.compile(r"[\0\ud800-\udfff]")
"""An environment cannot hold a NUL, nor UTF-8 a lone surrogate."""

_NOT_SINGLE = re.compile(r"\r|\\(?:[\\']|\Z)")
_NOT_DOUBLE = re.compile(r'\$|\\(?:"|\Z)')
_NOT_UNQUOTED = re.compile(r"""[$\r\n]|\s#|\A["'#\s]|\s\Z""")
_DOUBLE = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r"})


def render(values: Mapping[str, Secret], header: Sequence[str] = ()) -> bytes:
    """Return a .env file of these values, in their order, below `header` as comments.

    Raises:
        Refused: some values cannot be written so that both readers agree; names all of them.
    """
    plain = {name: value.reveal() for name, value in values.items()}
    quoted = {name: quote(value) for name, value in plain.items()}
    if wrong := [name for name in values if not _NAME.fullmatch(name)]:
        raise AssertionError(f"not the names of environment variables: {wrong}")
    if refused := [name for name, form in quoted.items() if form is None]:
        raise _not_representable(refused)
    lines = [*(f"# {line}".rstrip() for line in header), *(f"{name}={form}" for name, form in quoted.items())]
    text = "".join(f"{line}\n" for line in lines)
    _compare(plain, parse(text))
    return text.encode()


def quote(value: str) -> str | None:
    """Return how to write this value after the `=`; None if the two readers agree on no form of it."""
    if _BARE.fullmatch(value):
        return value
    if _NEVER.search(value):
        return None
    single = not _NOT_SINGLE.search(value)
    if single and "'" not in value:
        return f"'{value}'"
    if not _NOT_DOUBLE.search(value):
        return f'"{value.translate(_DOUBLE)}"'
    if single:
        return "'{}'".format(value.replace("'", r"\'"))
    return None if _NOT_UNQUOTED.search(value) else value


def parse(text: str) -> dict[str, str]:
    """Return what python-dotenv reads in a .env file, without expanding `$`; a name without `=` has no value.

    Lines that it cannot read, such as `name: value`, are left out.
    """
    # Its `dotenv_values` does the same and logs each such line.
    read = [(one.key, one.value) for one in parse_stream(StringIO(text))]
    return {name: value for name, value in read if name is not None and value is not None}


def named(text: str) -> frozenset[str]:
    """Return the names that have a value in a .env file, also in lines such as `name: value`, which Compose reads."""
    pairs = re.findall(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*[=:][ \t]*\S", text, re.MULTILINE)
    return frozenset(pairs)


def _not_representable(names: Sequence[str]) -> Refused:
    # A secret's name is its variable's in lower case, unless stack.yaml says otherwise.
    return Refused(
        "value-not-representable",
        f"{', '.join(names)} cannot be written to .env so that python-dotenv and Compose read the same value.",
        next_command="\n".join(
            f"invoke secrets.set {name.lower()} --generate    # or give it `outputs: [file]` in stack.yaml"
            for name in names
        ),
    )


def _compare(meant: Mapping[str, str], read: Mapping[str, str]) -> None:
    """Assert that a file is read back as meant; what was misread is not shown, since even names may hold values."""
    if read != meant:
        different = [name for name, value in meant.items() if read.get(name) != value]
        raise AssertionError(f"a .env file does not read back as written: {', '.join(different) or 'more names'}")
