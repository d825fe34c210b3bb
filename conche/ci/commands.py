"""The commands in run steps: Nox sessions and Invoke tasks that must exist, deployments that must fit stack.yaml."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from conche.ci.document import Where
from conche.ci.findings import Finding
from conche.ci.surroundings import Surroundings
from conche.ci.workflow import Job, Step, Workflow
from conche.errors import did_you_mean

__all__ = ["Command", "commands", "examine"]

DEPLOYS = frozenset({"env.deploy", "env.rollback", "env.up", "env.update"})
"""Tasks that change what an environment serves."""

_REF = re.compile(r"github\.ref\s*==\s*'refs/heads/([^']+)'|github\.ref_name\s*==\s*'([^']+)'")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command line of a run step, as words; variables stand in it as they are written."""

    step: Step
    argv: tuple[str, ...]

    @property
    def where(self) -> Where:
        return (*self.step.where, "run")

    @property
    def program(self) -> str:
        return Path(self.argv[0]).name

    def after(self, program: str) -> tuple[str, ...] | None:
        """The arguments, where it runs this program: by name, by path, or as `python -m`."""
        if self.program == program:
            return self.argv[1:]
        module = len(self.argv) > 2 and self.program.startswith("python") and self.argv[1:3] == ("-m", program)
        return self.argv[3:] if module else None


def commands(job: Job) -> Iterator[Command]:
    """The command lines of a job that are plain words; what is no plain command is shellcheck's."""
    for step in job.steps:
        for line in step.run.replace("\\\n", " ").splitlines():
            for words in _split(line):
                argv = tuple(dropwhile(_ASSIGNMENT.fullmatch, words))
                if argv:
                    yield Command(step, argv)


def _split(line: str) -> Iterator[list[str]]:
    """The commands of one line, parted where the shell parts them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if word.strip(";&|"):
                words.append(word)
            else:
                yield words
                words = []
    except ValueError:  # a quotation that goes on in the next line
        return
    yield words


def examine(workflow: Workflow, around: Surroundings) -> Iterator[Finding]:
    """Everything that is wrong with the commands of one workflow."""

    def found(rule: str, where: Where, message: str) -> Finding:
        return Finding(workflow.file, workflow.document.line(where), rule, message)

    for job in workflow.jobs.values():
        for command in commands(job):
            nox, invoke = command.after("nox"), command.after("invoke")
            if nox is not None and around.sessions is not None:
                for session in sorted(set(_sessions(nox)) - around.sessions):
                    text = f"noxfile.py has no session {session!r}.{did_you_mean(session, around.sessions)}"
                    yield found("session-unknown", command.where, text)
            if invoke is not None:
                complaint = around.misread(invoke)
                if complaint:
                    yield found("task-unknown", command.where, f"invoke {' '.join(invoke)}: {complaint}")
                named = _option(invoke, "--env")
                if named and "$" not in named and named not in around.environments:
                    text = f"stack.yaml has no environment {named!r}.{did_you_mean(named, around.environments)}"
                    yield found("environment-unknown", command.where, text)
        yield from _deployments(workflow, job, around, found)


def _sessions(words: Sequence[str]) -> Iterator[str]:
    """What stands after -s, up to the next option."""
    taking = False
    for word in words:
        if word == "--":
            return
        if word in ("-s", "--session", "--sessions", "-e"):
            taking = True
        elif word.startswith(("--session=", "--sessions=")):
            yield word.partition("=")[2]
        elif word.startswith("-"):
            taking = False
        elif taking and "$" not in word:
            yield word


def _deployments(
    workflow: Workflow, job: Job, around: Surroundings, found: Callable[[str, Where, str], Finding]
) -> Iterator[Finding]:
    deploying = [command for command in commands(job) if _deploys(command)]
    if not deploying:
        return
    if not job.needs:
        yield found("deploy-without-needs", job.where, f"{job.name} deploys and needs no job that tests.")
    named = {one for match in _REF.finditer(job.condition) for one in match.groups() if one}
    pushed = workflow.triggers.get("push", {}).get("branches") or []
    literal = {str(branch) for branch in pushed if not re.search(r"[*?!+\[]", str(branch))} if not named else set()
    for branch in sorted(named | literal):
        place: Where = (*job.where, "if") if named else ("on", "push", "branches")
        if branch not in around.branches:
            known = ", ".join(sorted(around.branches)) or "none"
            hint = did_you_mean(branch, around.branches)
            text = f"{job.name} deploys from {branch!r}; stack.yaml knows the branches {known}.{hint}"
            yield found("branch-unknown", place, text)
        elif len(named) == 1:
            yield from _elsewhere(deploying, branch, around, found)


def _elsewhere(
    deploying: Sequence[Command], branch: str, around: Surroundings, found: Callable[[str, Where, str], Finding]
) -> Iterator[Finding]:
    """A deployment from one environment's branch into another environment."""
    for command in deploying:
        environment = _option(command.argv, "--env") or "dev"
        if "$" not in environment and environment != around.branches[branch]:
            text = f"{branch!r} belongs to {around.branches[branch]}, and this deploys to {environment}."
            yield found("branch-unknown", command.where, text)


def _deploys(command: Command) -> bool:
    invoke = command.after("invoke") or ()
    return bool(DEPLOYS & set(invoke)) and "--dry-run" not in invoke


def _option(words: Sequence[str], option: str) -> str:
    for number, word in enumerate(words):
        if word == option and number + 1 < len(words):
            return words[number + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""
