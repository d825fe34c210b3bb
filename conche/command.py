"""`@command`, the only bridge between Invoke and the toolkit.

It turns a function over an `Invocation` into an Invoke task: options and their help come from the annotations, the
returned `Outcome` is printed, errors become exit codes, and signals become an exception that unwinds. Nothing heavier
than Invoke itself is imported here, so `invoke --list`, `--help` and completion stay as fast as bare Invoke.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Argument, Context, Exit, Task

from conche.errors import NotFound, Told, did_you_mean
from conche.options import EnvironmentName, convert, environments_filled, options_of, presented, refuse_eaten_options

if TYPE_CHECKING:
    from conche.outcome import Outcome
    from conche.output import Output
    from conche.stack import Environment, Stack
    from conche.vault.vault import Vault

__all__ = ["EnvironmentName", "Invocation", "command", "seldom_collecting", "typed"]

COLLECT_AFTER = 100_000
"""Net new objects before Python looks for reference cycles, instead of its general-purpose default of 700."""

_JSON = "one JSON document on stdout instead of tables"
_DRY_RUN = "show the plan and change nothing"
_YES = "do not ask before data is deleted"
_LOCK_WAIT = "seconds to wait for another command to release the lock"


@dataclass
class Invocation:
    """One call of a task: its root folder, its output and its switches.

    Attributes:
        root: the folder with `stack.yaml`, absolute.
        dry_run: compute the plan, show it, stop.
        yes: answer every question with yes.
        lock_wait: seconds to wait for another command to release the lock; None if not given.
        lenient: files that stack.yaml names may be missing.
        forgetful: profiles that a command has brought up do not belong to their environment.
        remainder: the words after `--` on the command line, as typed.
    """

    root: Path
    output: Output
    dry_run: bool = False
    yes: bool = False
    remainder: tuple[str, ...] = ()
    lock_wait: float | None = None
    lenient: bool = False
    forgetful: bool = False
    _stack: Stack | None = field(default=None, repr=False)

    @property
    def stack(self) -> Stack:
        """The stack file, read once."""
        if self._stack is None:
            from conche.stack import load

            self._stack = load(self.root, missing=self.output.say if self.lenient else None)
        return self._stack

    def with_stack(self, stack: Stack) -> Invocation:
        """Return a copy for another stack, or for a part of this one."""
        return replace(self, _stack=stack)

    @functools.cached_property
    def vault(self) -> Vault:
        """The secrets, for this command."""
        from conche.vault.vault import Vault

        return Vault(self.stack, self.root, self.output.redact, self.output.say)

    def patience(self, otherwise: float) -> float:
        """Return the seconds to wait for another command: `--lock-wait` if given, else this command's default."""
        return otherwise if self.lock_wait is None else self.lock_wait

    def environment_unless_said(self, default: str) -> str:
        """Return the environment to use when none was named: the only one there is, else the default."""
        environments = self.stack.environments
        return default if default in environments or len(environments) > 1 else next(iter(environments))

    def environment(self, name: str) -> Environment:
        """Return the environment with this name.

        Raises:
            NotFound: there is none; the error lists those there are.
        """
        environments = self.stack.environments
        if name not in environments:
            raise NotFound(
                "no-such-environment",
                f"stack.yaml has no environment {name!r}.{did_you_mean(name, environments)}",
                looked_at=[f"environments: {', '.join(environments)}"],
                next_command=f"invoke {self.output.command} --env {next(iter(environments))}",
            )
        return environments[name]


def command(
    *,
    changes: bool = False,
    destroys: bool = False,
    waits: bool = False,
    lenient: bool = False,
    name: str = "",
    aliases: Sequence[str] = (),
    bare: str = "",
) -> Callable[[Callable[..., Outcome]], Task[Any]]:
    """Turn a function `(invocation, options…) -> Outcome` into a task.

    Args:
        changes: the task mutates something, so it takes `--dry-run`.
        destroys: it can delete data, so it takes `--yes`.
        waits: it locks environments, so it takes `--lock-wait`.
        lenient: it works without the files that stack.yaml names.
        name: its name on the command line, if that is not a valid Python name.
        aliases: other names for it.
        bare: an option that may also stand without its `--name`, as `daily` in `invoke backup.create daily`.

    An option's annotation is `Annotated[type, "help text"]`; types are str, int, float, bool, list[str], or one of
    these or None. An option without a default is positional.
    """

    switches = {"json": _JSON, **({"dry_run": _DRY_RUN} if changes else {}), **({"yes": _YES} if destroys else {})}
    patience = {"lock_wait": _LOCK_WAIT} if waits else {}

    def decorate(body: Callable[..., Outcome]) -> Task[Any]:
        dotted = _dotted_name(body, name)

        @functools.wraps(body)
        def run(context: Context, **given: Any) -> Outcome:
            from conche.output import Output

            options = options_of(body)
            chosen = {switch: given.pop(switch, False) for switch in switches}
            output = Output(dotted, as_json=chosen.pop("json"))
            invocation = Invocation(
                Path(context.config["conche"]["root"]), output, remainder=_remainder(), lenient=lenient, **chosen
            )
            lock_wait = given.pop("lock_wait", None)

            def call() -> Outcome:
                refuse_eaten_options(body, given, dotted)
                invocation.lock_wait = convert("lock_wait", float | None, lock_wait, dotted)
                named = environments_filled(body, options, given, invocation.environment_unless_said)
                return body(invocation, **{one: convert(one, options[one][0], named[one], dotted) for one in named})

            return guarded(invocation, call, changes=changes)

        shared = {**patience, **switches}
        return _Task(run, body, shared, bare=bare, name=name or body.__name__.rstrip("_"), aliases=aliases)

    return decorate


class _Task(Task[Any]):
    """A cheaply copyable task with one optionally positional option.

    Invoke deep-copies every task and argument twice before it does anything, though none of them ever changes. With
    this many tasks that would take half the time of `invoke --list`.

    To Invoke an argument is either an option with a default, or positional and required; the command line decides
    which of the two `bare` is.
    """

    def __init__(
        self, run: Callable[..., Outcome], body: Callable[..., Outcome], shared: Mapping[str, str], *, bare: str,
        **options: Any,
    ) -> None:  # fmt: skip
        # To look for positional arguments here would read every task's signature at every start.
        super().__init__(run, positional=(), **options)
        self._body, self._shared, self._bare = body, shared, bare

    def __deepcopy__(self, memo: dict[int, Any]) -> _Task:
        return self

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Any]:
        """Return the arguments, safe to copy shallowly: their attributes are replaced, never mutated."""
        if _only_listed():
            return []
        options = options_of(self._body)
        vars(self.body)["__signature__"] = presented(inspect.signature(self._body), options, self._shared)
        self.positional = self.fill_implicit_positionals(None)
        self.iterable = [option for option, (kind, _) in options.items() if kind == list[str]]
        # Invoke pops the entries it has used.
        self.help = {**{option: text for option, (_, text) in options.items()}, **self._shared}
        arguments: list[Any] = super().get_arguments(ignore_unknown_help)
        for argument in arguments:
            argument.__class__ = _Argument
            if argument.name == self._bare and self._stands_bare(arguments):
                argument.positional, argument.default = True, None
        return arguments

    def _stands_bare(self, arguments: Sequence[Argument]) -> bool:
        """Return whether the task's name is followed by a word that is no option, option value or other task."""
        valued = {flag for argument in arguments if argument.takes_value for flag in _flags(argument)}
        words = iter(_command_line())
        if not any(word.rpartition(".")[2] in (self.name, *self.aliases) for word in words):
            return False
        for word in words:
            if not word.startswith("-"):
                return "." not in word
            if word == "--":
                return False
            if word in valued:
                next(words, None)
        return False


_typed: ContextVar[Sequence[str] | None] = ContextVar("_typed", default=None)


@contextlib.contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """Let tasks see these words as the command line within this block, instead of the process's own."""
    before = _typed.set(words)
    try:
        yield
    finally:
        _typed.reset(before)


def _command_line() -> Sequence[str]:
    line = _typed.get()
    return sys.argv[1:] if line is None else line


def _only_listed() -> bool:
    """Return whether tasks are only listed: no task stands before `--list`, so no option of one can be used."""
    return "--list" in itertools.takewhile(lambda word: word.startswith("-"), _command_line())


def _flags(argument: Argument) -> list[str]:
    return [("-" if len(name) == 1 else "--") + name.replace("_", "-") for name in argument.names]


class _Argument(Argument):
    def __deepcopy__(self, memo: dict[int, Any]) -> _Argument:
        return copy.copy(self)


@contextlib.contextmanager
def seldom_collecting() -> Iterator[None]:
    """Collect garbage rarely within this block: imported modules hold none, and looking takes a tenth of the time.

    The threshold is restored afterwards: the process may be somebody else's.
    """
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def guarded(invocation: Invocation, body: Callable[[], Outcome], *, changes: bool) -> Outcome:
    """Run a body, print its outcome or error, and end with the right exit code."""
    from conche.files import sweep
    from conche.process import signals_raise

    # Clean up after killed commands now, not when the next one writes there; this must never fail the command.
    with contextlib.suppress(OSError):
        sweep()
    # Covers the reporting too: a second Ctrl-C while the error of the first is shown would end in a traceback.
    with signals_raise(), seldom_collecting():
        return _told(invocation, body, changes=changes)


def _told(invocation: Invocation, body: Callable[[], Outcome], *, changes: bool) -> Outcome:
    output = invocation.output
    try:
        outcome = body()
        output.outcome(outcome, dry_run=invocation.dry_run)
        done = bool(outcome.exit_code) or (changes and not invocation.dry_run)
        _see_written(output, done=done)
    except Told as error:
        if error is not output.lost or not output.lost.reader_left:
            output.error(error)
        raise Exit(code=error.status) from error
    if outcome.exit_code:
        raise Exit(code=outcome.exit_code)
    return outcome


def _see_written(output: Output, *, done: bool) -> None:
    """Raise if the answer could not be written; after work that stays done only warn, so the exit code is right."""
    if output.lost is None:
        return
    if not done:
        raise output.lost
    if not output.lost.reader_left:
        output.say(f"warning: {output.lost.message}")


def _dotted_name(body: Callable[..., Outcome], name: str) -> str:
    namespace = body.__module__.removeprefix("conche.").removesuffix(".tasks")
    task = (name or body.__name__.rstrip("_")).replace("_", "-")
    return task if task == namespace else f"{namespace}.{task}"


def _remainder() -> tuple[str, ...]:
    """Return the words after `--` from argv itself: Invoke joins them with spaces, which loses where words end."""
    return tuple(sys.argv[sys.argv.index("--") + 1 :]) if "--" in sys.argv else ()
