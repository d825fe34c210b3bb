"""Judges whether a dump can be loaded over what is there, from the two command lines and from the dump itself.

By default, database dumps are meant for an empty database; loaded over a full one they fail or add to it, and psql ends
with 0 all the same. Only single calls of known programs are judged: a script may do anything.

Sources: pg_dump(1), pg_restore(1), psql(1) of PostgreSQL 17; mysqldump of MySQL 8.0 and mariadb-dump of MariaDB 11.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

__all__ = ["Call", "Examined", "call_of", "complaints"]

SHELLS = ("sh", "bash", "dash", "ash")
PREFIXES = {"exec": 0, "env": 0, "gosu": 1, "su-exec": 1, "timeout": 1}
"""Programs that start another one, and how many words of their own come before it."""

HEAD = TAIL = 4096
"""Bytes at the beginning and the end of a dump that say what it is, and that it is complete."""

VALUED = {
    "pg_dump": "deEfFhjnNpStTUZ",
    "pg_dumpall": "dEfhlpSU",
    "pg_restore": "dfFhIjLnNpPStTU",
    "psql": "cdfFhLopPRTUv",
}
"""The short options of each program that take a value."""

NAMED = ("--command", "--dbname", "--file", "--format", "--set", "--variable")
"""The long options whose value matters here; it may be a separate word."""

OTHERWISE = "or use `driver: postgres`, which needs neither"
MYSQL_OTHERWISE = "or use `driver: mariadb`"

MYSQL_DUMPS, MYSQL_CLIENTS = ("mysqldump", "mariadb-dump"), ("mysql", "mariadb")


@dataclass(frozen=True)
class Call:
    """A single call of a program.

    Attributes:
        options: (name, value) in order; other arguments are included with an empty value.
    """

    program: str
    options: tuple[tuple[str, str], ...] = ()

    def has(self, *names: str) -> bool:
        """Return whether one of these options is given."""
        return any(name in names for name, _ in self.options)

    def values(self, *names: str) -> list[str]:
        """Return the values given for these options."""
        return [value for name, value in self.options if name in names]


def call_of(argv: Sequence[str]) -> Call | None:
    """Return the one program that an argv calls; None if that is unclear, or there are several."""
    words = _alone(list(argv))
    if not words:
        return None
    program = PurePosixPath(words[0]).name
    return Call(program, tuple(_options(words[1:], VALUED.get(program))))


def complaints(dump: Sequence[str], restore: Sequence[str]) -> list[str]:
    """Return why `restore` cannot replace what is there with the output of `dump`, each with a remedy."""
    return list(_complaints(call_of(dump), call_of(restore)))


def _complaints(dump: Call | None, restore: Call | None) -> Iterator[str]:
    if restore is None:
        return
    if restore.program == "psql" and _reads_script(restore):
        yield from _by_psql(dump, restore)
    elif restore.program == "pg_restore":
        yield from _by_pg_restore(dump, restore)
    elif restore.program in MYSQL_CLIENTS:
        yield from _by_mysql(dump, restore)
    elif restore.program == "sqlite3" and dump is not None and dump.program == "sqlite3" and dump.has(".dump"):
        yield (
            "sqlite3 .dump needs an empty database: load it into a new file and rename that: "
            '[sh, -c, "rm -f DB.new && sqlite3 -bail DB.new && mv DB.new DB"]'
        )


def _by_psql(dump: Call | None, restore: Call) -> Iterator[str]:
    whole = dump is not None and (dump.program == "pg_dumpall" or dump.has("-C", "--create"))
    if dump is not None and dump.program == "pg_dump":
        if _format(dump) != "p":
            yield "psql reads only plain text: load it with pg_restore --clean --if-exists --single-transaction -d DB"
            return
        yield from _of_pg_dump(dump)
    if dump is not None and dump.program == "pg_dumpall":
        if not dump.has("-c", "--clean"):
            yield f"pg_dumpall without --clean --if-exists cannot replace existing data: add both; {OTHERWISE}"
        return
    stops = any(
        re.fullmatch(r"ON_ERROR_STOP=(1|on|true|yes)", one, re.I) for one in restore.values("-v", "--set", "--variable")
    )
    if not stops:
        yield "psql continues after an error and exits with 0: add -v ON_ERROR_STOP=1"
    if not (whole or restore.has("-1", "--single-transaction")):
        yield "psql leaves half of the data if it fails: add --single-transaction"


def _of_pg_dump(dump: Call) -> Iterator[str]:
    if dump.has("-a", "--data-only"):
        yield f"pg_dump --data-only adds to existing rows: drop it and add --clean --if-exists; {OTHERWISE}"
    elif missing := [one for one, short in (("--clean", "-c"), ("--if-exists", "")) if not dump.has(one, short)]:
        yield f"pg_dump without {' '.join(missing)} cannot replace existing data: add {' '.join(missing)}; {OTHERWISE}"


def _by_pg_restore(dump: Call | None, restore: Call) -> Iterator[str]:
    if dump is not None and dump.program == "pg_dump" and _format(dump) == "p":
        yield "pg_restore cannot read plain text: add -Fc to pg_dump"
    if restore.has("-l", "--list") or not restore.has("-d", "--dbname"):
        yield "pg_restore without -d DB loads nothing: add it"
    if missing := [one for one, short in (("--clean", "-c"), ("--if-exists", "")) if not restore.has(one, short)]:
        yield f"pg_restore without {' '.join(missing)} cannot replace existing data: add {' '.join(missing)}"
    if not restore.has("-1", "--single-transaction", "-e", "--exit-on-error"):
        yield "pg_restore continues after an error: add --single-transaction"


def _by_mysql(dump: Call | None, restore: Call) -> Iterator[str]:
    if restore.has("-f", "--force"):
        yield f"{restore.program} --force continues after an error: drop it"
    if dump is None or dump.program not in MYSQL_DUMPS or dump.has("--add-drop-table"):
        return
    for one in ("--skip-add-drop-table", "--skip-opt", "--compact"):
        if dump.has(one):
            yield f"{dump.program} {one} cannot replace existing data: add --add-drop-table; {MYSQL_OTHERWISE}"
    if dump.has("-t", "--no-create-info"):
        yield f"{dump.program} --no-create-info adds to existing rows: drop it; {MYSQL_OTHERWISE}"


@dataclass
class Examined:
    """What a dump says about itself, gathered while its blocks pass; only its beginning and end are kept."""

    size: int = 0
    head: bytes = b""
    tail: bytes = b""
    first: bytes = b""
    _rest: bytes = field(default=b"", repr=False)

    def feed(self, block: bytes) -> None:
        """Take the next block."""
        self.size += len(block)
        if len(self.head) < HEAD:
            self.head = (self.head + block)[:HEAD]
        self.tail = (self.tail + block)[-TAIL:]
        if not self.first and (statement := self._statement):
            # Keep the start of an unfinished line: the pattern matches only there, and it may go on in the next block.
            text = self._rest + block
            found = statement.search(text)
            self.first = found[1] if found else b""
            self._rest = text[text.rfind(b"\n") + 1 :][:200]

    def problem(self, restore: Sequence[str]) -> str:
        """Return why it cannot be loaded over what is there; empty if nothing speaks against it."""
        name, end = self._kind
        if end and end not in self.tail:
            return f"it is incomplete: a dump of {name} ends with `{end.decode()}`"
        call = call_of(restore)
        program = call.program if call else ""
        archive = self.head.startswith((b"PGDMP", b"toc.dat\0"))
        if program == "psql" and archive:
            return "it is a pg_dump archive, which psql cannot read; use pg_restore"
        if program == "pg_restore" and name:
            return "it is not a pg_dump -Fc archive, which pg_restore needs"
        loads = program in MYSQL_CLIENTS or (call is not None and program == "psql" and _reads_script(call))
        if loads and self.first and b"DROP" not in self.first:
            begins = self.first.decode(errors="replace")
            return f"it begins with {begins} and drops nothing: only an empty database can load it"
        return ""

    @property
    def _kind(self) -> tuple[str, bytes]:
        """The database system that it is from, and the line that ends such a dump; empty if unknown."""
        if re.search(rb"^-- PostgreSQL database dump\s*$", self.head, re.M):
            return "PostgreSQL", b"-- PostgreSQL database dump complete"
        if re.search(rb"^-- (MySQL|MariaDB) dump ", self.head, re.M):
            return "MySQL", b"-- Dump completed"
        return "", b""

    @property
    def _statement(self) -> re.Pattern[bytes] | None:
        name, _ = self._kind
        return {"PostgreSQL": _POSTGRES, "MySQL": _MYSQL}.get(name)


_POSTGRES = re.compile(rb"^(DROP|ALTER TABLE (?:IF EXISTS )?(?:ONLY )?\S+ DROP|CREATE TABLE|COPY|INSERT INTO)\b", re.M)
_MYSQL = re.compile(rb"^(DROP|/\*!\d+ DROP|CREATE TABLE|INSERT INTO)\b", re.M)


def _reads_script(psql: Call) -> bool:
    """Return whether psql reads its commands from stdin."""
    files = psql.values("-f", "--file")
    return not psql.has("-c", "--command") and all(one in ("-", "/dev/stdin") for one in files)


def _format(dump: Call) -> str:
    """Return the first letter of a dump's format: plain, custom, directory or tar."""
    return next(iter(reversed(dump.values("-F", "--format"))), "p")[:1] or "p"


def _alone(argv: list[str]) -> list[str]:
    """Return the words of the one program that an argv runs, without its launchers; none if there are several."""
    while argv:
        name = PurePosixPath(argv[0]).name
        if name in SHELLS:
            place = next((n for n, word in enumerate(argv) if re.fullmatch(r"-[a-z]*c", word)), 0)
            if not place or len(argv) <= place + 1:
                return []
            argv = _split(argv[place + 1])
        elif name in PREFIXES:
            argv = argv[1 + PREFIXES[name] :]
        elif re.fullmatch(r"[A-Za-z_]\w*=.*", argv[0], re.S):
            argv = argv[1:]
        else:
            return argv
    return []


def _split(script: str) -> list[str]:
    """Return the words of a shell line if it is one simple command, else none."""
    lexer = shlex.shlex(script.strip(), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return []
    plain = "\n" not in script.strip() and "`" not in script and "$(" not in script
    return words if plain and not any(re.fullmatch(r"[();<>|&]+", word) for word in words) else []


def _options(words: Sequence[str], valued: str | None) -> Iterator[tuple[str, str]]:
    """Yield options as getopt_long(3) reads them, each with its value.

    Args:
        valued: the short options that take a value; None if unknown, then every such word is one option.
    """
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            yield name, value if equals or name not in NAMED or not left else left.pop(0)
        elif not word.startswith("-") or valued is None:
            yield word, ""
        else:
            yield from _cluster(word[1:], valued, left)


def _cluster(letters: str, valued: str, left: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the short options of one word; the last may have a value, in the same word or in the next."""
    for place, letter in enumerate(letters):
        if letter in valued:
            rest = letters[place + 1 :]
            yield f"-{letter}", rest or (left.pop(0) if left else "")
            return
        yield f"-{letter}", ""
