"""Check the commands in run steps: Nox sessions and Invoke tasks must exist, deployments must fit stack.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from conche.ci.checks.findings import Complaint
from conche.ci.workflows.document import Where
from conche.ci.workflows.invoked import TaskCall
from conche.ci.workflows.shell import simple_commands
from conche.ci.workflows.surroundings import Surroundings
from conche.ci.workflows.workflow import SHELLS, Job, Workflow, WorkflowStep
from conche.errors import did_you_mean

__all__ = ["Command", "commands", "deploys", "examine"]

DEPLOYS = frozenset({"env.deploy", "env.rollback", "env.up", "env.update"})
"""Tasks that change what an environment serves."""

TAKES_BACK = frozenset({"env.rollback"})

INVOKE = ("invoke", "inv")

Found = Callable[[str, Where, str], Complaint]

_REF = re.compile(r"github\.ref\s*==\s*'refs/heads/([^']+)'|github\.ref_name\s*==\s*'([^']+)'")
_SESSION_OPTION = re.compile(r"-[rRxvNl]*[se]=?(?P<short>.*)|--sessions?(?:=(?P<long>.*))?")


@dataclass(frozen=True)
class Command:
    """One command line of a run step, as words; variables are not expanded."""

    step: WorkflowStep
    argv: tuple[str, ...]

    @property
    def where(self) -> Where:
        return (*self.step.where, "run")

    @property
    def program(self) -> str:
        return Path(self.argv[0]).name

    def after(self, *programs: str) -> tuple[str, ...] | None:
        """Return the arguments if it runs one of these programs: by name, by path, or as `python -m`."""
        if self.program in programs:
            return self.argv[1:]
        module = self.program.startswith("python") and self.argv[1:2] == ("-m",) and self.argv[2:3]
        return self.argv[3:] if module and module[0] in programs else None


def commands(job: Job) -> Iterator[Command]:
    """Yield the command lines of a job that are plain words; the rest is left to shellcheck."""
    for step in job.steps:
        if step.interpreter in SHELLS:
            for argv in simple_commands(step.run):
                yield Command(step, argv)


def deploys(workflow: Workflow) -> bool:
    """Return whether a step of a workflow calls a task that changes what an environment serves."""
    words = (word for job in workflow.jobs.values() for one in commands(job) for word in one.after(*INVOKE) or ())
    return any(".".join(word.split(".")[-2:]) in DEPLOYS for word in words)


def examine(workflow: Workflow, around: Surroundings) -> Iterator[Complaint]:
    """Yield everything that is wrong with the commands of one workflow."""

    def found(rule: str, where: Where, message: str) -> Complaint:
        return Complaint(workflow.file, workflow.document.line(where), rule, message)

    for job in workflow.jobs.values():
        for command in commands(job):
            yield from _nox(command, around, found)
            yield from _invoke(command, around, found)
        yield from _deployments(workflow, job, around, found)


def _nox(command: Command, around: Surroundings, found: Found) -> Iterator[Complaint]:
    known = around.sessions
    if known is None:
        return
    for session in sorted(set(_sessions(command.after("nox") or ()))):
        if not any(fnmatchcase(session, one) for one in known):
            text = f"noxfile.py has no session {session!r}.{did_you_mean(session, known)}"
            yield found("session-unknown", command.where, text)


def _invoke(command: Command, around: Surroundings, found: Found) -> Iterator[Complaint]:
    words = command.after(*INVOKE)
    if words is None:
        return
    reading = around.read(words)
    if reading.complaint:
        yield found("task-unknown", command.where, f"invoke {' '.join(words)}: {reading.complaint}")
    for call in reading.calls:
        named = call.values.get("env") if "env" in call.given else None
        if isinstance(named, str) and "$" not in named and named not in around.environments:
            text = f"stack.yaml has no environment {named!r}.{did_you_mean(named, around.environments)}"
            yield found("environment-unknown", command.where, text)


def _sessions(words: Sequence[str]) -> Iterator[str]:
    """Yield the words after -s, up to the next option."""
    taking = False
    for word in words:
        if word == "--":
            return
        option = _SESSION_OPTION.fullmatch(word)
        taking = option is not None or (taking and not word.startswith("-"))
        session = (option["short"] or option["long"]) if option else word
        if taking and session and "$" not in session:
            yield session


def _deployments(workflow: Workflow, job: Job, around: Surroundings, found: Found) -> Iterator[Complaint]:
    deploying = list(_deploying(job, around))
    if not deploying:
        return
    # A rollback must not have to wait for tests, and what it puts in service has served before.
    if not job.needs and any(not call.is_one_of(TAKES_BACK) for _, call in deploying):
        yield found("deploy-without-needs", job.where, f"{job.name} deploys without waiting for a job that tests.")
    named = {one for match in _REF.finditer(job.condition) for one in match.groups() if one}
    pushed = workflow.triggers.get("push", {}).get("branches") or []
    literal = {str(branch) for branch in pushed if not re.search(r"[*?!+\[]", str(branch))} if not named else set()
    for branch in sorted(named | literal):
        place: Where = (*job.where, "if") if named else ("on", "push", "branches")
        if branch not in around.branches:
            known = ", ".join(sorted(around.branches)) or "none"
            hint = did_you_mean(branch, around.branches)
            text = f"{job.name} deploys from {branch!r}; the branches in stack.yaml are {known}.{hint}"
            yield found("branch-unknown", place, text)
        elif len(named) == 1:
            yield from _elsewhere(deploying, branch, around, found)


def _deploying(job: Job, around: Surroundings) -> Iterator[tuple[Command, TaskCall]]:
    for command in commands(job):
        for call in around.read(command.after(*INVOKE) or ()).calls:
            if call.is_one_of(DEPLOYS) and not call.values.get("dry_run"):
                yield command, call


def _elsewhere(
    deploying: Sequence[tuple[Command, TaskCall]], branch: str, around: Surroundings, found: Found
) -> Iterator[Complaint]:
    """Find deployments from one environment's branch into another environment."""
    for command, call in deploying:
        # Without --env the tasks take the only environment, or else dev.
        unsaid = next(iter(around.environments)) if len(around.environments) == 1 else "dev"
        environment = str(call.values.get("env") or unsaid)
        if "$" not in environment and environment != around.branches[branch]:
            text = f"{branch!r} belongs to {around.branches[branch]}, but this deploys to {environment}."
            yield found("branch-unknown", command.where, text)
