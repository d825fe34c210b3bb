"""The only module that prints: tables, JSON, progress, questions, errors.

stdout carries the answer and nothing else: tables, or with `--json` exactly one JSON document. Progress, warnings and
errors go to stderr. Everything passes through the redactor, and then loses what a terminal or a runner would obey.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from conche.errors import NotRestored, Partial, Refused, Told
from conche.inert import inert, inert_json
from conche.outcome import Outcome, Plan, Table
from conche.secret import MASK, Redactor, Secret
from conche.streams import AnswerLost, answer, remarks, typed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["SCHEMA", "Output", "Progress", "at_terminal"]

SCHEMA = "conche/1"
"""The version of the JSON document; it changes when a field is removed or changes its meaning."""

WIDTH_OFF_TERMINAL = 200
"""Width of a table that goes to a file or a pipe, where 80 columns would cut off what is looked for."""

MARGIN = "  | "
"""What stands in front of a line that others wrote."""

_OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

_GOOD = {"running", "healthy", "ok", "found", "done", "yes", "none"}
_BAD = {"unhealthy", "exited", "dead", "missing", "restarting", "failed", "oom-killed", "absent", "drift"}
_UNSURE = {"starting", "created", "paused", "optional", "changed", "unknown", "stopped"}


def at_terminal(*streams: TextIO) -> bool:
    """Return whether a person sits at all of these streams; CI runners provide terminals that nobody sits at."""
    return not os.environ.get("CI") and all(stream.isatty() for stream in streams)


class Progress:
    """Progress of a long step: a live line on a terminal, with a bar if the length is known; else plain lines.

    Args:
        shown: Rich's display on a terminal, with one task in it; None elsewhere.
    """

    def __init__(self, output: Output, shown: Any = None) -> None:
        self._output = output
        self._shown = shown

    def step(self, text: str) -> None:
        """Announce a new step."""
        if self._shown is None:
            self._output.say(text)
        else:
            self._update(text, None, None)

    def detail(self, text: object) -> None:
        """Show something fleeting, such as a program's output line, as its str(); only on a terminal."""
        if self._shown is not None:
            self._update(str(text), None, None)

    def amount(self, text: str, done: int, total: int) -> None:
        """Show how much is done, in any unit: a bar on a terminal, nothing elsewhere."""
        if self._shown is not None:
            self._update(text, done, total)

    def _update(self, text: str, done: int | None, total: int | None) -> None:
        [task] = self._shown.tasks
        # Rich's update() takes a total of None to mean "as before", and a task that was once finished stays so.
        task.total, task.finished_time = total, None
        self._shown.update(task.id, description=self._output.words(text, one_line=True), completed=done or 0)


class Output:
    """The streams of one command.

    Args:
        command: its dotted name, for the JSON document.
        as_json: one JSON document on stdout instead of tables.
    """

    def __init__(
        self,
        command: str,
        *,
        as_json: bool = False,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.command = command
        self.as_json = as_json
        self.redact = Redactor()
        self._stdin = typed(stdin)
        self._stdout = answer(stdout)
        self._stderr = remarks(stderr)
        self._shown: Any = None

    def say(self, text: str) -> None:
        """Print a line on stderr, above the live line if there is one."""
        if self._shown is None:
            print(self.words(text), file=self._stderr, flush=True)
        else:
            self._shown.console.print(self.text(text), soft_wrap=True)

    @property
    def lost(self) -> AnswerLost | None:
        """Why the answer could not be written in full; None if it could."""
        return self._stdout.lost

    def line(self, text: object) -> None:
        """Print a line of a stream that is itself the answer, such as a followed log, as its str() in its colours.

        Raises:
            AnswerLost: nobody reads any further, so no more needs to be fetched.
        """
        self._put(inert(self.redact(str(text)), colours=True) + "\n")
        if self.lost is not None:
            raise self.lost

    def _put(self, text: str) -> None:
        self._stdout.write(text)
        self._stdout.flush()

    def words(self, text: str, *, one_line: bool = False) -> str:
        """Return text as it may be shown: without secrets, and without anything that a terminal or a runner obeys."""
        return inert(self.redact(text), one_line=one_line)

    def text(self, words: str, *, one_line: bool = False) -> Text:
        """Return such text for Rich, in which nothing is markup."""
        from rich.text import Text

        return Text(self.words(words, one_line=one_line))

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[Progress]:
        """Show a long step: `text` at once, then the progress it reports."""
        if not at_terminal(self._stderr):
            progress = Progress(self)
            progress.step(text)
            yield progress
            return
        with _live(self._console(self._stderr)) as shown:
            shown.add_task(self.words(text, one_line=True), total=None)
            self._shown = shown
            try:
                yield Progress(self, shown)
            finally:
                self._shown = None

    def outcome(self, outcome: Outcome, *, dry_run: bool = False) -> None:
        """Print the answer of a command that has ended well, or the plan of a dry run."""
        for warning in outcome.warnings:
            self.say(f"warning: {warning}")
        if "GITHUB_OUTPUT" in os.environ and not dry_run:
            self._hand_on(outcome.value, Path(os.environ["GITHUB_OUTPUT"]))
        if self.as_json:
            self._document(
                changed=outcome.changed,
                value=outcome.value,
                plan=outcome.plan.as_json(),
                warnings=list(outcome.warnings),
            )
            return
        if dry_run:
            self._plan(outcome.plan)
        if outcome.raw is not None:
            raw = self.redact(outcome.raw)
            # A pipe or a file gets every byte.
            self._put(inert(raw, colours=True) if at_terminal(cast(TextIO, self._stdout)) else raw)
        for table in outcome.tables:
            self._table(table)
        for text in outcome.lines:
            self._put(self.words(text) + "\n")

    def error(self, error: Told) -> None:
        """Print what happened, what was looked at, the tool's own words and the next command."""
        rest: Outcome = (isinstance(error, Partial | NotRestored) and error.rest) or Outcome()
        for warning in rest.warnings:
            self.say(f"warning: {warning}")
        if self.as_json:
            self._document(
                changed=rest.changed,
                value=rest.value,
                plan=rest.plan.as_json(),
                warnings=list(rest.warnings),
                error=error.as_json(),
            )
        console = self._console(self._stderr)
        console.print(f"[bold red]error[/] \\[{error.code}]: ", end="")
        self._quoted(console, "", error.message)
        for place in error.looked_at:
            self._quoted(console, "  looked at: ", place)
        for words in error.evidence:
            self._quoted(console, MARGIN, words, style="dim")
        for number, command in enumerate(error.next_command.splitlines()):
            self._plain(console, ("Next: " if number == 0 else "      ") + command, style="bold")

    @property
    def asks(self) -> bool:
        """Whether somebody is there to answer a question."""
        return at_terminal(self._stdin, self._stderr)

    def confirm(self, question: str, *, expected: str = "yes", option: str = "--yes") -> None:
        """Go on only if the user types `expected`.

        Raises:
            Refused: they typed something else, or nobody is there to ask.
        """
        if not self.asks:
            raise Refused(
                "confirmation-needed",
                f"{question} There is no terminal to confirm it on.",
                next_command=f"invoke {self.command} … {option}",
            )
        self._stderr.write(f"{self.words(question)} Type {expected!r} to continue: ")
        self._stderr.flush()
        if self._stdin.readline().strip() != expected:
            raise Refused("not-confirmed", "Not confirmed; nothing was changed.")

    def _hand_on(self, value: object, file: Path) -> None:
        """Write the answer's named values as outputs of the workflow's step: text as it is, the rest as JSON.

        Source: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#multiline-strings
        """
        answer = self._masked(json.loads(json.dumps(value, default=_as_json)))
        if not isinstance(answer, dict):
            return
        # If the end marker were known beforehand, a line of the value itself could end it.
        end = f"end-{os.urandom(12).hex()}"
        said = {name: given if isinstance(given, str) else json.dumps(given) for name, given in answer.items()}
        lines = (f"{name}<<{end}\n{text}\n{end}\n" for name, text in said.items() if _OUTPUT_NAME.fullmatch(name))
        try:
            with file.open("a", encoding="utf-8") as stream:
                stream.writelines(lines)
        except OSError as error:
            self.say(f"warning: the step has no outputs: GITHUB_OUTPUT cannot be written: {error.strerror}")

    def _document(self, **fields: object) -> None:
        content = json.loads(json.dumps(fields, default=_as_json))
        masked = {name: self._masked(value) for name, value in content.items()}
        document = {"schema": SCHEMA, "command": self.command, **masked}
        # A replaced character would change the value; an escaped one is the same in any encoding.
        self._put(inert_json(json.dumps(document, indent=2, ensure_ascii=not self._stdout.is_unicode)) + "\n")

    def _masked(self, value: Any) -> Any:
        """Redact JSON value by value: redacted as one text it might no longer be JSON."""
        if isinstance(value, dict):
            return {self.redact(key): self._masked(below) for key, below in value.items()}
        if isinstance(value, list):
            return [self._masked(below) for below in value]
        redacted = self.redact(str(value))
        return value if redacted == str(value) else redacted

    def _plan(self, plan: Plan) -> None:
        if not len(plan):
            self._put("Nothing to do.\n")
            return
        rows = [(str(number), step.action, step.subject, step.cause) for number, step in enumerate(plan, 1)]
        self._table(Table(("#", "action", "subject", "because"), tuple(rows), title="Plan (nothing was changed)"))

    def _table(self, table: Table) -> None:
        if not at_terminal(cast(TextIO, self._stdout)):
            # In a file or pipe nothing is coloured or folded, and importing Rich would be most of the work.
            self._put(_aligned(self._shown_table(table)))
            return
        from rich import box
        from rich.table import Table as RichTable

        drawn = RichTable(
            title=self.text(table.title, one_line=True) if table.title else None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
        )
        for column in table.columns:
            drawn.add_column(self.text(column, one_line=True), overflow="fold")
        for row in table.rows:
            drawn.add_row(*(_coloured(self.words(cell, one_line=True)) for cell in row))
        console = self._console(cast(TextIO, self._stdout))
        with console.capture() as captured:
            console.print(drawn)
        # Written here and not by Rich, which exits with 1 when the reader of a pipe has left.
        self._put(captured.get())

    def _shown_table(self, table: Table) -> Table:
        """Return the table with every cell as it may be shown, on one line."""
        rows = tuple(tuple(self.words(cell, one_line=True) for cell in row) for row in (table.columns, *table.rows))
        return Table(rows[0], rows[1:], self.words(table.title, one_line=True))

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console

        terminal = at_terminal(stream)
        width = None if terminal or "COLUMNS" in os.environ else WIDTH_OFF_TERMINAL
        return Console(
            file=stream,
            force_terminal=None if terminal else False,
            width=width,
            highlight=False,
            emoji=False,
            soft_wrap=False,
        )

    def _plain(self, console: Console, text: str, style: str = "") -> None:
        console.print(self.words(text), style=style or None, markup=False, soft_wrap=True)

    def _quoted(self, console: Console, head: str, text: str, style: str = "") -> None:
        """Print text that may be a stranger's; its further lines get a margin, so that they are not taken for ours."""
        first, *others = self.words(text).split("\n")
        for line in (head + first, *(MARGIN + line for line in others)):
            self._plain(console, line, style)


def _live(console: Console) -> Any:
    """Build a line with a spinner, and a bar if the length is known; it disappears when it ends."""
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Words(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    class Bar(BarColumn):
        def render(self, task: Task) -> Any:
            return super().render(task) if task.total else Text("")

    class Share(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.percentage:>3.0f} %" if task.total else "")

    words = Words(Column(ratio=1))
    return Progress(SpinnerColumn(), words, Bar(bar_width=24), Share(), console=console, transient=True, expand=True)


def _aligned(table: Table) -> str:
    """Format a table as plain text: the title, a rule below the column names, columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    rule = tuple("─" * width for width in widths)
    lines = [
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (table.columns, rule, *table.rows)
    ]
    return "\n".join([*([table.title] if table.title else []), *lines]) + "\n"


def _coloured(cell: str) -> Text:
    from rich.text import Text

    first = cell.split(" ", 1)[0].rstrip(":,")
    for words, style in ((_GOOD, "green"), (_BAD, "red"), (_UNSURE, "yellow")):
        if first in words:
            return Text(cell, style=style)
    return Text(cell)


def _as_json(value: object) -> object:
    if isinstance(value, Secret):
        return MASK
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")
