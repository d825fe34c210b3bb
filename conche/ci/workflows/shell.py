"""Split shell text into commands and words: enough of the shell's grammar to know what a line calls, with what."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["simple_commands"]

_PIECE = "|".join(
    (
        r"\$\{\{.*?\}\}",
        r"\$\{[^}]*\}",
        r"[$<>]\((?:[^()]|\([^()]*\))*\)",
        r"`[^`]*`",
        r"'[^']*'",
        r'"(?:[^"\\]|\\.)*"',
        r"\\.",
        r"""[^\s;&|<>()'"`\\]""",
    )
)
_TOKEN = re.compile(
    rf"""
    (?P<nothing>[^\S\n]+|\#[^\n]*)
    |(?P<redirection>(?:\d+|\{{\w+\}})?(?:<<<|<<-?|<>|>>|>\||[<>]&|[<>](?!\()|&>>?))
    |(?P<end>[\n;&|()])
    |(?P<word>(?:{_PIECE})+)
    """,
    re.DOTALL | re.VERBOSE,
)
_PART = re.compile(_PIECE, re.DOTALL)
_HERE_DOCUMENT = re.compile(
    r"(?<!<)<<(?!<)-?[ \t]*(['\"]?)(?P<until>\w+)\1(?P<rest>[^\n]*\n).*?^\t*(?P=until)$", re.DOTALL | re.MULTILINE
)

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=.*", re.DOTALL)
_RESERVED = frozenset({"!", "{", "do", "elif", "else", "if", "then", "until", "while"})
_CALLERS = frozenset({"env", "exec", "nohup", "time"})


def simple_commands(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, up to a quotation that never ends; variables are not expanded.

    Redirections are left out, and so is what precedes the program: assignments, `if`, `!`, `exec`, `env` and the like.
    """
    for words in _parted(_HERE_DOCUMENT.sub(r"\g<rest>", text.replace("\\\n", " "))):
        called = tuple(_called(words))
        if called:
            yield called


def _parted(text: str) -> Iterator[list[str]]:
    words: list[str] = []
    place, target = 0, False
    while token := _TOKEN.match(text, place):
        place = token.end()
        if token["end"]:
            yield words
            words, target = [], False
        elif token["redirection"]:
            target = True
        elif token["word"]:
            if not target:
                words.append(_PART.sub(_unquoted, token["word"]))
            target = False
    if place == len(text):
        yield words


def _unquoted(part: re.Match[str]) -> str:
    text = part[0]
    if text.startswith("'"):
        return text[1:-1]
    if text.startswith('"'):
        return re.sub(r'\\([$`"\\])', r"\1", text[1:-1])
    return text.removeprefix("\\")


def _called(words: list[str]) -> list[str]:
    """Return the program that really runs, and its arguments."""
    caller = False
    for number, word in enumerate(words):
        if word in _CALLERS:
            caller = True
        elif not (_ASSIGNMENT.fullmatch(word) or word in _RESERVED or (caller and word.startswith("-"))):
            return words[number:]
    return []
