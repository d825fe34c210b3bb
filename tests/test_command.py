"""`@command` through a real `invoke`: options, exit codes, errors, signals, pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from invoke import Collection, Program

from conche.command import EnvironmentName, Invocation, command, typed
from conche.errors import NotFound
from conche.outcome import Outcome
from conche.output import Output

REPOSITORY = Path(__file__).parents[1]

TASKS = '''\
from __future__ import annotations

import os
import signal
from typing import Annotated

from invoke import Collection

from conche import errors
from conche.command import command
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.process import run


@command(aliases=["tell"])
def show(
    call,
    word: Annotated[str, "a word that is needed"],
    number: Annotated[int, "a number"] = 3,
    share: Annotated[float | None, "a share of the whole"] = None,
    each: Annotated[list[str], "one of several"] = (),
    loud: Annotated[bool, "say it loudly"] = False,
    dry_wit: Annotated[str | None, "say it wittily"] = None,
) -> Outcome:
    """Show what arrived."""
    return Outcome([word, number, share, list(each), loud, dry_wit, call.remainder, call.root])


@command(changes=True, destroys=True, name="clean-up")
def clean_up_(call) -> Outcome:
    """Remove everything."""
    if not call.dry_run and not call.yes:
        call.output.confirm("Remove everything?")
    step = Step(Action.REMOVE, Kind.VOLUME, "data", "asked for")
    return Outcome({"yes": call.yes}, changed=not call.dry_run, plan=Plan((step,)))


@command(changes=True)
def fail(call, kind: Annotated[str, "class of the error"]) -> Outcome:
    raise getattr(errors, kind)("it-failed", "It failed.", next_command="try again")


@command()
def bug(call) -> Outcome:
    return Outcome(1 / 0)


@command()
def check(call) -> Outcome:
    return Outcome("found", lines=["found something"], exit_code=1)


@command()
def much(call, how: Annotated[str, "table, raw or json"]) -> Outcome:
    rows = tuple((f"row {number}", "x" * 50) for number in range(5000))
    table = {"table": (Table(("name", "value"), rows),)}.get(how, ())
    return Outcome(rows, tables=table, raw="x\\n" * 200_000 if how == "raw" else None)


@command()
def wait(call) -> Outcome:
    """Wait for a signal; what stands in `finally` must be done, also when a second signal comes."""
    try:
        run(["sh", "-c", "echo waiting; exec sleep 600"], on_line=call.output.line)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        call.output.line("unwound")
    return Outcome()


@command()
def name_of(call, env: Annotated[str, "an environment"]) -> Outcome:
    return Outcome(call.stack.project(env) if call.environment(env) else None)


@command(changes=True)
def work(call) -> Outcome:
    """Do something, and say so in words that not every encoding has."""
    (call.root / "done").touch()
    return Outcome("20 °C — done …", changed=True, tables=[Table(("what",), (("20 °C — ok",),))], lines=["done …"])


@command()
def tell_lines(call) -> Outcome:
    for number in range(100_000):
        call.output.line(f"line {number}")
    raise AssertionError("nobody reads this far")


@command()
def broken(call) -> Outcome:
    """Lose a pipe that is not stdout."""
    raise BrokenPipeError("a pipe of the engine's")


ns = Collection(show, clean_up_, fail, bug, check, much, wait, name_of, work, tell_lines, broken)
ns.configure({"conche": {"root": os.path.dirname(os.path.abspath(__file__))}})
'''

STACK = "name: shop\nregistry: host\nenvironments:\n  dev: {compose: [a.yaml]}\n  prod: {compose: [a.yaml]}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("repository")
    (made / "tasks.py").write_text(TASKS)
    (made / "stack.yaml").write_text(STACK)
    (made / "a.yaml").touch()
    return made


@pytest.fixture
def start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start `invoke` in that folder; it is ended afterwards."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    monkeypatch.setenv("COLUMNS", "200")
    started: list[subprocess.Popen[str]] = []

    def starter(*argv: str) -> subprocess.Popen[str]:
        invoke = [sys.executable, "-m", "invoke", *argv]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(invoke, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield starter
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def invoke(start: Any) -> Any:
    """Run `invoke` to its end; return exit code, stdout and stderr."""

    def invoked(*argv: str) -> tuple[int, str, str]:
        process = start(*argv)
        stdout, stderr = process.communicate()
        return process.returncode, stdout, stderr

    return invoked


# Options


@pytest.mark.process
def test_options_arrive_with_their_types(invoke: Any, folder: Path) -> None:
    argv = ["show", "two words", "--number", "5", "--share", "0.5", "--each", "a b", "--each", "c", "--loud"]

    code, stdout, stderr = invoke(*argv, "--dry-wit", "$x", "--json")

    assert (code, stderr) == (0, "")
    assert json.loads(stdout) == {
        "schema": "conche/1",
        "command": "tasks.show",
        "changed": False,
        "value": ["two words", 5, 0.5, ["a b", "c"], True, "$x", [], str(folder)],
        "plan": [],
        "warnings": [],
    }


@pytest.mark.process
def test_what_is_not_given_has_its_default(invoke: Any) -> None:
    _, stdout, _ = invoke("tell", "--word", "x", "--json")

    assert json.loads(stdout)["value"][:6] == ["x", 3, None, [], False, None]


@pytest.mark.process
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--number", "abc"),
        ("--number", "1.5"),
        ("--number", ""),
        ("--number", "-1"),
        ("--share", "half"),
        ("--share", "nan"),
        ("--share", "inf"),
    ],
)
def test_a_word_where_a_number_belongs_is_refused(option: str, value: str, invoke: Any) -> None:
    assert invoke("show", "x", option, value) == (
        2,
        "",
        f"error [not-a-number]: {option} takes a number, 0 or more, not {value!r}.\nNext: invoke --help tasks.show\n",
    )


@pytest.mark.process
@pytest.mark.parametrize(
    "remainder", [["a  b", "'c'", "--json", "$HOME", ""], ["--", "x"], []], ids=["words", "dashes", "nothing"]
)
def test_what_follows_two_dashes_keeps_its_words(remainder: list[str], invoke: Any) -> None:
    _, stdout, _ = invoke("show", "x", "--json", "--", *remainder)

    assert json.loads(stdout)["value"][6] == remainder


@pytest.mark.process
@pytest.mark.parametrize(
    ("task", "switches"),
    [("show", ["--json"]), ("fail", ["--dry-run", "--json"]), ("clean-up", ["--dry-run", "--json", "--yes"])],
)
def test_a_task_takes_the_switches_of_what_it_does(task: str, switches: list[str], invoke: Any) -> None:
    code, stdout, _ = invoke("--help", task)

    assert [switch for switch in ("--dry-run", "--json", "--yes") if switch in stdout] == switches
    assert code == 0


@pytest.mark.process
def test_help_has_the_text_of_every_option(invoke: Any) -> None:
    _, stdout, _ = invoke("--help", "show")

    assert [
        text
        for text in ("Show what arrived.", "a word that is needed", "a number", "a share of the whole",
                     "one of several", "say it loudly", "say it wittily", "one JSON document on stdout")
        if text not in stdout
    ] == []  # fmt: skip


@pytest.mark.process
def test_an_unknown_option_is_refused_by_invoke(invoke: Any) -> None:
    code, stdout, stderr = invoke("show", "x", "--yes")

    assert (code != 0, stdout, "Traceback" in stderr) == (True, "", False)


@pytest.mark.process
@pytest.mark.parametrize("option", ["--help", "-h", "--no-such-option", "-1"])
def test_an_option_is_not_taken_for_a_missing_argument(option: str, invoke: Any) -> None:
    expected = f"error [argument-missing]: tasks.show needs word before {option!r}.\nNext: invoke --help tasks.show\n"

    assert invoke("show", option) == (2, "", expected)


def test_the_documentation_of_a_body_is_its_tasks() -> None:
    @command(name="a-b", aliases=["c"])
    def a_b_(call: Invocation, word: Annotated[str, "a word"]) -> Outcome:
        """Say a word."""
        return Outcome(word)

    helped = {option.name: option.help for option in a_b_.get_arguments()}
    assert (a_b_.name, a_b_.aliases, a_b_.__doc__, helped["word"]) == ("a-b", ["c"], "Say a word.", "a word")


@pytest.mark.parametrize(
    ("line", "read"),
    [(["--list"], []), (["--list", "say"], []), (["say", "--list"], ["word", "json"]), (["--echo", "--list"], [])],
)
def test_options_are_read_unless_tasks_are_only_listed(line: list[str], read: list[str]) -> None:
    @command()
    def say(call: Invocation, word: Annotated[str, "a word"]) -> Outcome:
        return Outcome(word)

    with typed(line):
        assert [option.name for option in say.get_arguments()] == read


# Plans and questions


@pytest.mark.process
def test_a_dry_run_shows_the_plan_and_changes_nothing(invoke: Any) -> None:
    code, stdout, stderr = invoke("clean-up", "--dry-run")

    assert (code, stdout.splitlines()[0].strip(), stderr) == (0, "Plan (nothing was changed)", "")
    assert json.loads(invoke("clean-up", "--dry-run", "--json")[1])["changed"] is False


@pytest.mark.process
def test_a_destructive_task_refuses_where_nobody_can_be_asked(invoke: Any) -> None:
    code, stdout, stderr = invoke("clean-up")

    assert (code, stdout, stderr.splitlines()) == (
        2,
        "",
        [
            "error [confirmation-needed]: Remove everything? There is no terminal to confirm it on.",
            "Next: invoke tasks.clean-up … --yes",
        ],
    )
    assert json.loads(invoke("clean-up", "--yes", "--json")[1])["value"] == {"yes": True}


# The stack


@pytest.mark.process
def test_a_task_reads_the_stack_beside_the_tasks(invoke: Any) -> None:
    code, stdout, _ = invoke("name-of", "prod", "--json")

    assert (code, json.loads(stdout)["value"]) == (0, "shop-prod")


@pytest.mark.process
def test_an_unknown_environment_is_told_with_those_there_are(invoke: Any) -> None:
    code, stdout, stderr = invoke("name-of", "prdo")

    assert (code, stdout, stderr.splitlines()) == (
        6,
        "",
        [
            "error [no-such-environment]: stack.yaml has no environment 'prdo'. Did you mean 'prod'?",
            "  looked at: environments: dev, prod",
            "Next: invoke tasks.name-of --env dev",
        ],
    )


@pytest.mark.parametrize(
    ("environments", "said", "asked"),
    [
        (["main"], [], "main"),
        (["main"], ["--env", "dev"], "dev"),
        (["main", "dev"], [], "dev"),
        (["main", "prod"], [], "dev"),
    ],
)
def test_the_only_environment_is_meant_where_none_is_named(
    environments: list[str], said: list[str], asked: str, tmp_path: Path
) -> None:
    body = "".join(f"  {name}: {{compose: [a.yaml]}}\n" for name in environments)
    (tmp_path / "stack.yaml").write_text(f"name: shop\nenvironments:\n{body}")
    (tmp_path / "a.yaml").touch()
    seen: list[str] = []

    @command()
    def look(call: Invocation, env: EnvironmentName = "dev") -> Outcome:
        seen.append(env)
        return Outcome()

    tasks = Collection(look)
    tasks.configure({"conche": {"root": str(tmp_path)}})
    Program(namespace=tasks).run(["invoke", "look", *said], exit=False)

    assert seen == [asked]


def test_the_stack_is_read_once_and_only_when_it_is_asked_for(tmp_path: Path) -> None:
    call = Invocation(tmp_path, Output("x"))
    (tmp_path / "stack.yaml").write_text(STACK)
    (tmp_path / "a.yaml").touch()
    first = call.stack
    (tmp_path / "stack.yaml").unlink()

    assert call.stack is first
    with pytest.raises(NotFound):
        call.environment("")
