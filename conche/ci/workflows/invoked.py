"""Parse command lines with Invoke's own loader and parser, without running anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invoke import Collection, Task
    from invoke.parser import ParserContext

__all__ = ["CommandLine", "TaskCall", "reader"]


@dataclass(frozen=True)
class TaskCall:
    """One task on a command line.

    Attributes:
        values: option values by name, as given or by default.
        given: the options that are on the command line.
    """

    task: str
    values: Mapping[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()

    def is_one_of(self, tasks: frozenset[str]) -> bool:
        """Return whether it is one of these tasks of ours, even below a name of another tasks.py."""
        return ".".join(self.task.split(".")[-2:]) in tasks


@dataclass(frozen=True)
class CommandLine:
    """A command line as Invoke parses it: the calls, or its parser's complaint."""

    calls: tuple[TaskCall, ...] = ()
    complaint: str = ""


def reader(root: Path) -> Callable[[Sequence[str]], CommandLine]:
    """Return a function that parses the arguments of `invoke`."""
    from invoke import Collection, FilesystemLoader, Program
    from invoke.exceptions import CollectionNotFound, ParseError
    from invoke.parser import Parser, ParserContext

    from conche.command import typed

    try:
        module, _ = FilesystemLoader(start=str(root)).load()
    except CollectionNotFound:
        return lambda _: CommandLine(complaint="there is no tasks.py here.")
    collection = Collection.from_module(module)
    # Invoke removes each option's help from the task while reading it, and these tasks may be read again.
    helps = [(task, dict(task.help)) for task in _tasks(collection)]
    initial = Program().initial_context
    names = {name: frozenset((name, *aliases)) for name, aliases in collection.task_names.items()}

    def context(name: str) -> ParserContext:
        arguments = collection[name].get_arguments(ignore_unknown_help=True)
        return ParserContext(name, names[name] - {name}, arguments)

    def read(argv: Sequence[str]) -> CommandLine:
        # The parser copies all that it is given, so it is given only tasks that these words can mean.
        words = {word for written in argv for word in (written, written.partition("=")[2])}
        with typed(argv):
            contexts = [context(name) for name, said in names.items() if not words.isdisjoint(said)]
        for task, text in helps:
            task.help = dict(text)
        try:
            parsed = Parser(contexts=contexts, initial=initial).parse_argv(list(argv))
        except ParseError as error:
            return CommandLine(complaint=str(error))
        return CommandLine(tuple(_call(context) for context in parsed if context.name))

    return read


def _call(context: ParserContext) -> TaskCall:
    given = frozenset(argument.name for argument in context.args.values() if argument.raw_value is not None)
    return TaskCall(str(context.name), context.as_kwargs, given)


def _tasks(collection: Collection) -> Iterator[Task[Any]]:
    yield from collection.tasks.values()
    for below in collection.collections.values():
        yield from _tasks(below)
