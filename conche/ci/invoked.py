"""What Invoke itself says of a command line: its own loader and parser, nothing run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invoke import Collection, Task

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
    collection = Collection.from_module(module)
    # Invoke takes each option's help away from the task as it reads it, and these tasks may be asked again.
    helps = [(task, dict(task.help)) for task in _tasks(collection)]
    tasks = collection.to_contexts(ignore_unknown_help=True)
    for task, text in helps:
        task.help = text
    parser = Parser(contexts=tasks, initial=Program().initial_context)

    def complaint(argv: Sequence[str]) -> str:
        try:
            parser.parse_argv(list(argv))
        except ParseError as error:
            return str(error)
        return ""

    return complaint


def _tasks(collection: Collection) -> Iterator[Task[Any]]:
    yield from collection.tasks.values()
    for below in collection.collections.values():
        yield from _tasks(below)
