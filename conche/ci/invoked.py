"""What Invoke itself says of a command line: its own loader and parser, nothing run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["reader"]


def reader(root: Path) -> Callable[[Sequence[str]], str]:
    """A function from the arguments of `invoke` to its complaint, empty where it understands them."""
    from invoke import Collection, FilesystemLoader, Program
    from invoke.exceptions import CollectionNotFound, ParseError
    from invoke.parser import Parser

    try:
        module, _ = FilesystemLoader(start=str(root)).load()
    except CollectionNotFound:
        return lambda _: "there is no tasks.py here."
    tasks = Collection.from_module(module).to_contexts(ignore_unknown_help=True)
    parser = Parser(contexts=tasks, initial=Program().initial_context)

    def complaint(argv: Sequence[str]) -> str:
        try:
            parser.parse_argv(list(argv))
        except ParseError as error:
            return str(error)
        return ""

    return complaint
